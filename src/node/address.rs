//! Where a node is: a parsed URL, and a name for it that holds no credentials.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, parse_redis_url};

#[cfg(feature = "tls")]
use super::tls::{self, Tls};
use crate::error::BuildError;

/// The address of one server and how to log in there.
#[derive(Clone)]
pub(crate) struct Address {
    info: ConnectionInfo,
    name: String,
    server: String,
    #[cfg(feature = "tls")]
    encrypted: bool,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Address {
    /// Reads the URL of the node `index`.
    pub(crate) fn parse(index: usize, url: &str) -> Result<Self, BuildError> {
        let refuse = |reason| BuildError::InvalidUrl {
            node: index,
            reason,
        };
        let mut url = parse_redis_url(url).ok_or_else(|| {
            let scheme = url.split_once("://").map(|(scheme, _)| scheme);
            let known =
                scheme.is_some_and(|scheme| parse_redis_url(&format!("{scheme}://a")).is_some());
            refuse(if known {
                "its host or port could not be read; each node has a URL of its own"
            } else {
                "it does not start with redis://, rediss://, valkey:// or unix://"
            })
        })?;
        let encrypted = matches!(url.scheme(), "rediss" | "valkeys");
        if encrypted {
            // The driver reads such a URL only with a TLS of its own, which is not used.
            url.set_scheme("redis")
                .map_err(|()| refuse("its scheme could not be read"))?;
            match url.fragment() {
                None => {}
                Some("insecure") => {
                    return Err(refuse(
                        "#insecure is not supported: without verification anyone could pose as \
                         the server; trust its certificate authority by tls_ca_pem instead",
                    ));
                }
                Some(_) => return Err(refuse("it has a fragment")),
            }
            if !cfg!(feature = "tls") {
                return Err(refuse(
                    "TLS needs the feature `tls` of the crate redlock-fifo",
                ));
            }
        }
        if !url.scheme().contains("unix") && url.host_str().is_none_or(str::is_empty) {
            return Err(refuse("it names no host"));
        }
        let chosen = url.query_pairs().any(|(key, _)| key == "protocol");
        // The driver's own message may quote the URL, so it is not passed on.
        let info = url
            .into_connection_info()
            .map_err(|_| refuse("its host, database, protocol or credentials could not be read; each node has a URL of its own"))?;
        let settings = info.redis_settings().clone();
        let settings = if chosen {
            settings
        } else {
            settings.set_protocol(ProtocolVersion::RESP3)
        };
        let server = match info.addr() {
            ConnectionAddr::Unix(path) => format!("unix:{}", path.display()),
            addr => authority(addr),
        };
        let name = match info.addr() {
            ConnectionAddr::Unix(_) => server.clone(),
            _ if encrypted => format!("rediss://{server}/{}", settings.db()),
            _ => format!("redis://{server}/{}", settings.db()),
        };
        #[cfg(feature = "tls")]
        if let (true, ConnectionAddr::Tcp(host, _)) = (encrypted, info.addr())
            && tls::server_name(host).is_none()
        {
            return Err(refuse("its host is no name that a certificate could have"));
        }
        Ok(Self {
            info: info.set_redis_settings(settings),
            name,
            server,
            #[cfg(feature = "tls")]
            encrypted,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }

    /// Whether it is to be reached by TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The same address, with the TLS configuration if it is reached by TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(mut self, tls: Option<&Tls>) -> Self {
        self.tls = tls.filter(|_| self.encrypted).cloned();
        self
    }

    /// How to make a TLS connection.
    #[cfg(feature = "tls")]
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The address for people: scheme, host, port and database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What two addresses of one server have in common. The databases of a server fail together, so they make no
    /// difference.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Whether the server can push over such a connection.
    pub(crate) fn pushes(&self) -> bool {
        self.info.redis_settings().protocol() != ProtocolVersion::RESP2
    }

    /// How to connect.
    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.name).finish()
    }
}

/// Host and port, in the one spelling that all spellings share.
fn authority(addr: &ConnectionAddr) -> String {
    let (host, port) = match addr {
        ConnectionAddr::Tcp(host, port) => (host, *port),
        other => return other.to_string(),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        Address::parse(0, url).expect("valid")
    }

    #[test]
    fn a_name_says_where_and_never_the_password() {
        let cases = [
            ("redis://localhost", "redis://localhost:6379/0"),
            (
                "redis://:hunter2@db.example:7000/3",
                "redis://db.example:7000/3",
            ),
            (
                "valkey://ann:hunter2@DB.example",
                "redis://db.example:6379/0",
            ),
            ("redis://[::1]:7000", "redis://[::1]:7000/0"),
            (
                "unix:///run/redis.sock?pass=hunter2&user=ann",
                "unix:/run/redis.sock",
            ),
            ("redis+unix:///run/redis.sock?db=2", "unix:/run/redis.sock"),
        ];
        for (url, name) in cases {
            let address = address(url);
            assert_eq!(address.name(), name);
            assert!(!format!("{address:?}").contains("hunter2"));
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn an_encrypted_address_shows_that_it_is() {
        let address = address("rediss://:hunter2@DB.example:7000/3");
        assert_eq!(address.name(), "rediss://db.example:7000/3");
        assert!(address.is_encrypted());
        assert!(!super::tests::address("redis://a").is_encrypted());
    }

    #[test]
    fn what_tls_cannot_do_is_explained() {
        let reason = |url| match Address::parse(0, url) {
            Err(BuildError::InvalidUrl { reason, .. }) => reason,
            other => panic!("{url}: {other:?}"),
        };
        assert!(reason("rediss://a#insecure").contains("tls_ca_pem"));
        assert!(reason("valkeys://a#x").contains("fragment"));
        if cfg!(not(feature = "tls")) {
            assert!(reason("rediss://a").contains("the feature `tls`"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let reason = |url| match Address::parse(0, url) {
            Err(BuildError::InvalidUrl { reason, .. }) => reason,
            other => panic!("{url}: {other:?}"),
        };
        for url in [
            "redis://a:99999",
            "redis://a:port",
            "redis://a:1,redis://b:1",
        ] {
            assert!(reason(url).contains("host or port"), "{url}");
        }
        for url in ["a:6379", "http://a"] {
            assert!(reason(url).contains("does not start"), "{url}");
        }
    }

    #[test]
    fn one_server_has_one_address_however_it_is_spelt() {
        let same = |a, b| address(a).server() == address(b).server();
        assert!(same("redis://Localhost", "redis://:pw@localhost.:6379/5"));
        assert!(same("unix:///a.sock", "redis+unix:///a.sock?db=1"));
        assert!(!same("redis://a", "redis://a:6380"));
        assert!(!same("redis://a", "redis://b"));
    }

    #[test]
    fn resp3_is_spoken_unless_the_url_says_otherwise() {
        let protocol = |url| address(url).info().redis_settings().protocol();
        assert_eq!(protocol("redis://a"), ProtocolVersion::RESP3);
        assert_eq!(protocol("redis://a?protocol=resp3"), ProtocolVersion::RESP3);
        assert_eq!(protocol("redis://a?protocol=2"), ProtocolVersion::RESP2);
        assert_eq!(protocol("unix:///a?protocol=resp2"), ProtocolVersion::RESP2);
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        let urls = [
            "",
            "hunter2",
            "http://:hunter2@a",
            "redis://:hunter2@",
            "redis://:hunter2@a/notanumber",
            "redis://:hunter2@a?protocol=hunter2",
            "redis://:hunter2@0.0.0.0",
            "redis://:hunter2@a:hunter2",
            "redis://:hunter2@a,redis://:hunter2@b",
        ];
        for url in urls {
            let error = Address::parse(4, url).expect_err(url);
            assert!(
                matches!(error, BuildError::InvalidUrl { node: 4, .. }),
                "{url}"
            );
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{url}");
        }
    }
}
