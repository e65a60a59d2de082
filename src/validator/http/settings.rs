//! Settings of the connections to a provider, with the same defaults for all validators.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use reqwest::{Client, ClientBuilder, Url, redirect::Policy, retry};
use rustls::{ClientConfig, crypto::CryptoProvider};

use super::endpoint::is_loopback;
use crate::{
    crypto::{Roots, TlsFault, client_config},
    validator::error::BoxError,
};

const USER_AGENT: &str = concat!("tower-session-cache/", env!("CARGO_PKG_VERSION"));

/// The settings that a validator's builder takes.
#[derive(Clone)]
pub(crate) struct HttpSettings {
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) pool_idle_timeout: Duration,
    pub(crate) root_certificates: Option<Vec<u8>>,
    pub(crate) crypto_provider: Option<Arc<CryptoProvider>>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(4),
            // Node.js closes an idle connection after 5 seconds.
            pool_idle_timeout: Duration::from_secs(4),
            root_certificates: None,
            crypto_provider: None,
        }
    }
}

impl HttpSettings {
    pub(crate) fn has_zero_timeout(&self) -> bool {
        let timeouts = [self.connect_timeout, self.timeout, self.pool_idle_timeout];
        timeouts.iter().any(Duration::is_zero)
    }

    pub(super) fn factory(
        &self,
        endpoint: &Url,
        mut headers: HeaderMap,
    ) -> Result<ClientFactory, ClientFault> {
        let config = |roots| client_config(self.crypto_provider.as_ref(), roots, None);
        let roots = self.root_certificates.as_deref();
        let mut tls = match config(roots.map_or(Roots::Platform, Roots::Pem)) {
            // A container without CA certificates may still call a neighboring container over plain
            // HTTP.
            Err(TlsFault::SystemRoots(_)) if endpoint.scheme() == "http" => config(Roots::None),
            built => built,
        }?;
        // Without this header a server may compress the response (RFC 9110, section 12.5.3).
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ClientFactory {
            headers,
            tls,
            is_loopback: is_loopback(endpoint),
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            pool_idle_timeout: self.pool_idle_timeout,
        })
    }
}

/// Why there is no client.
#[derive(Debug)]
pub(crate) enum ClientFault {
    /// The PEM of the CAs is invalid.
    Roots,
    Other(BoxError),
}

impl From<TlsFault> for ClientFault {
    fn from(fault: TlsFault) -> Self {
        match fault {
            TlsFault::Roots => Self::Roots,
            fault => Self::Other(fault.into()),
        }
    }
}

impl From<reqwest::Error> for ClientFault {
    fn from(error: reqwest::Error) -> Self {
        Self::Other(error.into())
    }
}

/// Creates HTTP clients that differ only in their pools.
pub(super) struct ClientFactory {
    headers: HeaderMap,
    tls: ClientConfig,
    is_loopback: bool,
    connect_timeout: Duration,
    timeout: Duration,
    pool_idle_timeout: Duration,
}

impl ClientFactory {
    /// Returns the timeout of a call.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Creates a client with an empty pool.
    pub(super) fn pooled(&self) -> reqwest::Result<Client> {
        self.builder()
            .pool_idle_timeout(self.pool_idle_timeout)
            // A server that does not answer the PING within the timeout of a call would not have
            // answered the call either.
            .http2_keep_alive_interval(self.timeout / 2)
            .http2_keep_alive_timeout(self.timeout)
            .http2_keep_alive_while_idle(true)
            .build()
    }

    /// Creates a client that opens a connection for each call.
    pub(super) fn unpooled(&self) -> reqwest::Result<Client> {
        self.builder().pool_max_idle_per_host(0).build()
    }

    fn builder(&self) -> ClientBuilder {
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(self.headers.clone())
            .redirect(Policy::none())
            .referer(false)
            // The caller decides what is sent twice.
            .retry(retry::never())
            .tcp_nodelay(true)
            .connect_timeout(self.connect_timeout)
            .timeout(self.timeout)
            .tls_backend_preconfigured(self.tls.clone());
        // A proxy would look for a loopback host on itself.
        if self.is_loopback {
            builder.no_proxy()
        } else {
            builder
        }
    }
}
