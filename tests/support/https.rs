//! Introspection endpoint over HTTPS that speaks HTTP/2 and HTTP/1.1, and accepts every token.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::{
    CipherSuite, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::tls::Pair;

pub struct Https {
    port: u16,
    seen: Arc<Seen>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Seen {
    versions: Mutex<Vec<Version>>,
    suites: Mutex<Vec<CipherSuite>>,
}

/// Returns the TLS settings of a server with this certificate.
pub fn acceptor(pair: &Pair, protocols: &[&str]) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

impl Https {
    pub async fn start(pair: &Pair) -> Self {
        let acceptor = acceptor(pair, &["h2", "http/1.1"]);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap();
                    seen.suites.lock().unwrap().push(suite.suite());
                    let respond = service_fn(|request: Request<Incoming>| {
                        seen.versions.lock().unwrap().push(request.version());
                        let body = json!({ "active": true, "sub": "ada" }).to_string();
                        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) }
                    });
                    let connection = Builder::new(TokioExecutor::new());
                    let io = TokioIo::new(stream);
                    let _ = connection.serve_connection(io, respond).await;
                });
            }
        });
        Self {
            port,
            seen,
            serving: serving.abort_handle(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}/introspect", self.port)
    }

    /// Returns the HTTP version of each request.
    pub fn versions(&self) -> Vec<Version> {
        self.seen.versions.lock().unwrap().clone()
    }

    /// Returns the cipher suite of each connection.
    pub fn suites(&self) -> Vec<CipherSuite> {
        self.seen.suites.lock().unwrap().clone()
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
