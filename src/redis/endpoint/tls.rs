//! Certificates of TLS connections: trusted CAs and the client certificate.

use std::fmt;

use bb8_redis::redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use zeroize::Zeroizing;

/// Certificates for TLS connections to Redis, its sentinels and the nodes of a cluster, as PEM.
///
/// A server whose CA the system trusts does not need it: a `rediss://` URL is enough. The
/// certificate must be for the host in the URL, or with sentinels or a cluster, for the address
/// that they report. Neither check can be turned off.
///
/// ```no_run
/// use tower_session_cache::{RedisConfig, RedisTls, SessionCache};
///
/// # fn cache() -> Result<SessionCache, Box<dyn std::error::Error>> {
/// let tls = RedisTls::new()
///     .root_certificates(std::fs::read("/etc/redis/ca.pem")?)
///     .client_certificate(std::fs::read("/etc/redis/me.pem")?, std::fs::read("/etc/redis/me.key")?);
/// let redis = RedisConfig::single("rediss://redis:6380/2").tls(tls);
/// let cache = SessionCache::builder().redis(redis)?.build()?;
/// # Ok(cache) }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct RedisTls {
    roots: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// Why certificates are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsFault {
    Roots,
    Client,
}

impl RedisTls {
    /// Creates a value that trusts the system's CAs and presents no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the CAs to trust, as PEM: one certificate, or several after each other. They replace
    /// the CAs of the system. Defaults to the CAs of the system.
    ///
    /// The PEM is read once; if a CA changes, create a new cache.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// Sets the client certificate, for a server that requests one (`tls-auth-clients`): the
    /// certificate, then those between it and its CA, and its key. Defaults to none. `Debug` does
    /// not print the key.
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.client = Some((certificate.into(), Zeroizing::new(key.into())));
        self
    }

    /// Returns the server with these certificates. A server that is reached without TLS is returned
    /// unchanged.
    pub(crate) fn around(&self, server: &ConnectionInfo) -> Result<ConnectionInfo, TlsFault> {
        self.check()?;
        if !has_tls(server) {
            return Ok(server.clone());
        }
        let certificates = TlsCertificates {
            client_tls: self
                .client
                .as_ref()
                .map(|(certificate, key)| ClientTlsConfig {
                    client_cert: certificate.clone(),
                    client_key: key.to_vec(),
                }),
            root_cert: self.roots.clone(),
        };
        let client =
            Client::build_with_tls(server.clone(), certificates).map_err(|_| TlsFault::Client)?;
        Ok(client.get_connection_info().clone())
    }

    /// Checks what redis-rs would detect only on connecting, or never: a PEM without a certificate,
    /// and a key that does not belong to the certificate.
    fn check(&self) -> Result<(), TlsFault> {
        let mut roots = RootCertStore::empty();
        if let Some(pem) = &self.roots {
            for root in certificates(pem).ok_or(TlsFault::Roots)? {
                roots.add(root).map_err(|_| TlsFault::Roots)?;
            }
        }
        if let Some((certificate, key)) = &self.client {
            let chain = certificates(certificate).ok_or(TlsFault::Client)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsFault::Client)?;
            ClientConfig::builder()
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .map_err(|_| TlsFault::Client)?;
        }
        Ok(())
    }
}

/// Returns whether connections to this server are encrypted.
pub(crate) fn has_tls(server: &ConnectionInfo) -> bool {
    matches!(server.addr(), ConnectionAddr::TcpTls { .. })
}

/// Parses all certificates. Returns `None` if there is none, or if anything else is in between.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()?;
    (!found.is_empty()).then_some(found)
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("root_certificates", &self.roots.is_some())
            .field("client_certificate", &self.client.is_some())
            .finish()
    }
}
