//! TLS to servers, for `rediss://`: which authorities to trust, and which certificate to show.
//!
//! All nodes of a client share one configuration, by rustls with ring. Keys and certificates appear in no output.

use std::{io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use super::fault;
use crate::{
    config::TlsSettings,
    error::{BuildError, NodeError, WrongServer},
};

const CA: &str = "tls_ca_pem";
const CLIENT: &str = "tls_client_pem";

/// How to make a TLS connection.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl Tls {
    /// What `settings` say, for the `encrypted` nodes that have TLS URLs; `None` if there are none.
    pub(crate) fn prepare(
        settings: &TlsSettings,
        encrypted: usize,
    ) -> Result<Option<Self>, BuildError> {
        if encrypted > 0 {
            return Self::new(settings).map(Some);
        }
        // A user who sets these believes that the connections are encrypted.
        let unused = "is of no use, as no node has a rediss:// url";
        match settings {
            TlsSettings { ca: Some(_), .. } => Err(refuse(CA, unused)),
            TlsSettings {
                client: Some(_), ..
            } => Err(refuse(CLIENT, unused)),
            _ => Ok(None),
        }
    }

    fn new(settings: &TlsSettings) -> Result<Self, BuildError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| refuse(CA, "cannot be used: no version of TLS is available"))?
            .with_root_certificates(roots(settings.ca.as_deref())?);
        let config = match &settings.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(CLIENT, chain)?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| refuse(CLIENT, "holds no private key in PEM form"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|_| refuse(CLIENT, "holds a key that does not fit the certificate"))?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Shakes hands with `host`, which must prove its name.
    pub(super) async fn over(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, NodeError> {
        let name = server_name(host).ok_or_else(|| failed("the host is no name of a server"))?;
        let connected = self.0.connect(name, stream).await;
        connected.map_err(|error| why(&error))
    }
}

/// The authorities to trust: those in `pem`, or those of the platform.
fn roots(pem: Option<&[u8]>) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in certificates(CA, pem)? {
                roots
                    .add(certificate)
                    .map_err(|_| refuse(CA, "holds a certificate that cannot be read"))?;
            }
        }
        None => {
            // A certificate that cannot be read is no reason to do without the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let none = "is needed, as the platform has no certificate authorities";
                return Err(refuse(CA, none));
            }
        }
    }
    Ok(roots)
}

/// The name that the certificate of `host` must have.
pub(super) fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

/// A failure of TLS itself is a mistake in the setup; any other may pass.
fn why(error: &io::Error) -> NodeError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some::<&rustls::Error>(cause) => failed(&cause.to_string()),
        None => fault::no_socket(error),
    }
}

fn failed(reason: &str) -> NodeError {
    let reason = reason.to_owned();
    WrongServer::Tls { reason }.into()
}

fn certificates(
    setting: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(refuse(setting, "holds no certificate in PEM form")),
    }
}

fn refuse(setting: &'static str, reason: &'static str) -> BuildError {
    BuildError::InvalidSetting { setting, reason }
}
