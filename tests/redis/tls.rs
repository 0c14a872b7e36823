//! Servers that are reached by TLS, and who is not let in.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use redlock_fifo::{BuildError, FifoRedlock, FifoRedlockBuilder, WrongServer};
use tokio::time::timeout;

use crate::{
    process::{PATIENCE, now, patient, servers},
    server::Server,
};

const TTL: Duration = Duration::from_secs(30);

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both in PEM form.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// An identity with the names or addresses `names`.
    fn sign(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A server with TLS, and its files.
struct Encrypted {
    _server: Server,
    port: u16,
    files: PathBuf,
}

impl Encrypted {
    /// One that shows `identity`, and asks for a certificate of `authority` if `asks` says so.
    fn start(identity: &Identity, authority: &Authority, asks: bool) -> Self {
        let files = std::env::temp_dir().join(format!("redlock-fifo-tls-{}", fresh_name()));
        fs::create_dir_all(&files).expect("a directory");
        let file = |name: &str, text: &str| {
            let path = files.join(name);
            fs::write(&path, text).expect("written");
            path.to_str().expect("a path").to_owned()
        };
        let (server, port) = Server::start_at(
            "--tls-port",
            &[
                "--tls-cert-file",
                &file("certificate", &identity.certificate),
                "--tls-key-file",
                &file("key", &identity.key),
                "--tls-ca-cert-file",
                &file("authority", &authority.pem),
                "--tls-auth-clients",
                if asks { "yes" } else { "no" },
            ],
        );
        Self {
            _server: server,
            port,
            files,
        }
    }

    fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port)
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.files);
    }
}

/// A name that no other test has.
fn fresh_name() -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let place = NAMES.fetch_add(1, Ordering::Relaxed);
    format!("{}-{place}", std::process::id())
}

/// What is wrong with the TLS of the one node of `builder`.
async fn problem(builder: FifoRedlockBuilder) -> String {
    match builder.connect().await {
        Err(BuildError::WrongServer {
            problem: WrongServer::Tls { reason },
            node,
        }) => {
            assert!(node.starts_with("rediss://"), "{node}");
            reason
        }
        other => panic!("{other:?}"),
    }
}

async fn connect(builder: FifoRedlockBuilder) -> FifoRedlock {
    builder.connect().await.expect("connected")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_handed_on_by_push_over_tls() {
    let authority = Authority::new("ours");
    let identity = authority.sign(&["localhost", "127.0.0.1"]);
    let nodes = [0; 3].map(|_| Encrypted::start(&identity, &authority, false));
    // By name and by address.
    for host in ["localhost", "127.0.0.1"] {
        let client = || {
            let urls = nodes.iter().map(|node| node.url(host));
            urls.fold(patient(), FifoRedlockBuilder::node)
                .tls_ca_pem(authority.pem.clone())
                .fifo_retry_delay(Duration::from_secs(10))
        };
        let (holding, waiting) = (connect(client()).await, connect(client()).await);
        let guard = holding.lock("r", TTL).await.expect("free");
        let mut ticket = waiting.enqueue("r", TTL).await.expect("enqueued");
        let waiter = tokio::spawn(async move { (ticket.acquire().await, now()) });
        let released = now();
        guard.release().await.expect("held");
        let (next, at) = timeout(PATIENCE, waiter)
            .await
            .expect("served")
            .expect("no panic");
        let handoff = at - released;
        println!("{host}: {handoff:?}");
        assert!(handoff < Duration::from_secs(5), "{host}: {handoff:?}");
        next.expect("served").release().await.expect("held");
        holding.shutdown().await;
        waiting.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_authority_is_refused() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let node = Encrypted::start(&other.sign(&["localhost"]), &other, false);
    let client = || patient().node(node.url("localhost"));
    let reason = problem(client().tls_ca_pem(ours.pem.clone())).await;
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    // Nor does the platform know it, if it knows any.
    let refused = client().connect().await.expect_err("refused");
    assert!(
        matches!(
            refused,
            BuildError::WrongServer { .. } | BuildError::InvalidSetting { .. }
        ),
        "{refused:?}"
    );
    let both = [ours.pem, other.pem].concat();
    connect(client().tls_ca_pem(both)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new("ours");
    let node = Encrypted::start(&authority.sign(&["localhost"]), &authority, false);
    let client = |host| {
        let builder = patient().node(node.url(host));
        builder.tls_ca_pem(authority.pem.clone())
    };
    let reason = problem(client("127.0.0.1")).await;
    assert!(reason.contains("not valid for name"), "{reason}");
    connect(client("localhost")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_shows_its_certificate_where_it_is_asked_for() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let node = Encrypted::start(&ours.sign(&["localhost"]), &ours, true);
    let client = || {
        let builder = patient().node(node.url("localhost"));
        builder.tls_ca_pem(ours.pem.clone())
    };
    let (mine, foreign) = (ours.sign(&["client"]), other.sign(&["client"]));
    let redlock = connect(client().tls_client_pem(mine.certificate, mine.key)).await;
    drop(redlock.lock("r", TTL).await.expect("free"));
    redlock.shutdown().await;

    let none = client().connect().await.expect_err("refused");
    assert!(none.to_string().contains("CertificateRequired"), "{none}");
    let foreign = client().tls_client_pem(foreign.certificate, foreign.key);
    let foreign = foreign.connect().await.expect_err("refused");
    assert!(foreign.to_string().contains("UnknownCA"), "{foreign}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_tls_is_refused() {
    let authority = Authority::new("ours");
    let plain = Server::start_tcp(&[]);
    let url = plain.url().replace("redis://", "rediss://");
    let plain = patient().node(url).tls_ca_pem(authority.pem.clone());
    // It waits for the end of a line that never comes.
    let refused = plain.connect().await.expect_err("no node");
    assert!(matches!(refused, BuildError::NoQuorum(_)), "{refused:?}");

    let node = Encrypted::start(&authority.sign(&["localhost"]), &authority, false);
    let url = node.url("localhost").replace("rediss://", "redis://");
    assert!(patient().node(url).connect().await.is_err());
}

#[tokio::test]
async fn what_is_no_certificate_or_key_is_refused_without_showing_it() {
    let authority = Authority::new("ours");
    let (mine, yours) = (authority.sign(&["a"]), authority.sign(&["b"]));
    let secrets = [&mine.key, &yours.key].map(|key| key.lines().nth(1).expect("its text"));
    let broken = format!("{}{}", "-----BEGIN PRIVATE KEY-----\n", secrets[0]);
    let client = || patient().node("rediss://localhost");
    let cases = [
        (client().tls_ca_pem("no"), "tls_ca_pem"),
        (client().tls_ca_pem(mine.key.clone()), "tls_ca_pem"),
        (
            client().tls_client_pem("no", mine.key.clone()),
            "tls_client_pem",
        ),
        (
            client().tls_client_pem(mine.certificate.clone(), broken),
            "tls_client_pem",
        ),
        (
            client().tls_client_pem(mine.certificate.clone(), yours.key.clone()),
            "tls_client_pem",
        ),
        // Whoever sets them believes that the connections are encrypted.
        (
            patient()
                .node("redis://a")
                .tls_ca_pem(authority.pem.clone()),
            "tls_ca_pem",
        ),
    ];
    for (place, (builder, expected)) in cases.into_iter().enumerate() {
        let builder = match expected {
            "tls_client_pem" => builder.tls_ca_pem(authority.pem.clone()),
            _ => builder,
        };
        let shown = format!("{builder:?}");
        let refused = builder.connect().await.expect_err("refused");
        let shown = format!("{shown} {refused} {refused:?}");
        let BuildError::InvalidSetting { setting, .. } = refused else {
            panic!("{place}: {refused:?}");
        };
        assert_eq!(setting, expected, "{place}: {shown}");
        for secret in secrets {
            assert!(!shown.contains(secret), "{place}: {shown}");
        }
    }
    // A socket needs no TLS, and is none.
    let socket = servers(1);
    connect(patient().node(socket[0].url())).await;
}
