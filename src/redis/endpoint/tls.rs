//! TLS connections: trusted CAs, the client certificate and the cryptography provider.

use std::{fmt, io, sync::Arc};

use bb8_redis::redis::{
    ConnectionAddr, ConnectionInfo, RedisError,
    io::tcp::{TcpSettings, socket2::SockRef},
};
use futures_util::future::select_ok;
use rustls::{ClientConfig, crypto::CryptoProvider, pki_types::ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use crate::crypto::{Roots, TlsFault, client_config};

/// Settings of TLS connections to Redis, its sentinels and the nodes of a cluster. Certificates are
/// PEM.
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
#[must_use = "it does nothing until it is passed to `RedisConfig::tls`"]
pub struct RedisTls {
    roots: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    provider: Option<Arc<CryptoProvider>>,
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

    /// Sets the cryptography provider of the connections. Defaults to the provider that the
    /// application has installed for the process when the configuration is passed to
    /// [`SessionCacheBuilder::redis`](crate::SessionCacheBuilder::redis), or else to *ring*.
    ///
    /// This crate never installs a provider for the process.
    pub fn crypto_provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// Loads the certificates, which fails if they are invalid.
    pub(crate) fn config(&self) -> Result<TlsConfig, TlsFault> {
        let roots = self.roots.as_deref().map_or(Roots::System, Roots::Pem);
        let client = self.client.as_ref();
        let client = client.map(|(certificate, key)| (&**certificate, &***key));
        let config = client_config(self.provider.as_ref(), roots, client)?;
        Ok(TlsConfig(Arc::new(config)))
    }
}

/// TLS configuration of all connections to one deployment.
#[derive(Clone)]
pub(crate) struct TlsConfig(Arc<ClientConfig>);

impl TlsConfig {
    /// Opens an encrypted connection. The first address of the host that accepts it is used.
    pub(super) async fn connect(
        &self,
        server: &ConnectionInfo,
    ) -> Result<TlsStream<TcpStream>, RedisError> {
        let (ConnectionAddr::TcpTls { host, port, .. } | ConnectionAddr::Tcp(host, port)) =
            server.addr()
        else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        let attempts: Vec<_> = lookup_host((host.as_str(), *port))
            .await?
            .map(|address| {
                let (connector, name) = (connector.clone(), name.clone());
                Box::pin(async move {
                    let stream = TcpStream::connect(address).await?;
                    apply(server.tcp_settings(), &stream)?;
                    connector.connect(name, stream).await
                })
            })
            .collect();
        if attempts.is_empty() {
            let error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
            return Err(error.into());
        }
        Ok(select_ok(attempts).await?.0)
    }
}

/// Sets the options of a socket, which redis-rs does only for the sockets that it opens.
fn apply(settings: &TcpSettings, stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(settings.nodelay())?;
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(())
}

/// Returns whether connections to this server are encrypted.
pub(crate) fn has_tls(server: &ConnectionInfo) -> bool {
    matches!(server.addr(), ConnectionAddr::TcpTls { .. })
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("root_certificates", &self.roots.is_some())
            .field("client_certificate", &self.client.is_some())
            .finish()
    }
}
