//! Low-level HTTP client based on hyper, which shows responses as received, and the cases in which
//! every stack must return the same response.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower_session_cache::{ForbiddenReason, SessionCache, SessionCacheLayer, ValidationError};

use super::{
    probe::{Probe, session},
    soon,
};

#[derive(Clone, Copy, Debug)]
pub enum Version {
    Http1,
    /// HTTP/2 with prior knowledge, without TLS.
    Http2,
}

/// Accepts Ada, rejects `invalid`, forbids `blocked`, and is unavailable for any other token.
pub fn layer() -> SessionCacheLayer<Probe> {
    let probe = Probe::answering(|token| match token {
        "good" => Ok(session("ada")),
        "invalid" => Err(ValidationError::invalid()),
        "blocked" => Err(ValidationError::forbidden(ForbiddenReason::Blocked)),
        _ => Err(ValidationError::unavailable("down")),
    });
    SessionCacheLayer::new(SessionCache::builder().build().unwrap(), probe)
}

/// Sends a request on a new connection.
pub async fn send(
    address: SocketAddr,
    version: Version,
    request: Request<Full<Bytes>>,
) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let answer = async {
        match version {
            Version::Http1 => {
                let (mut sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await
            }
            Version::Http2 => {
                let (mut sender, connection) =
                    http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await
            }
        }
    };
    soon("a response", answer).await.unwrap()
}

pub async fn text(body: Incoming) -> String {
    let body = soon("the body", body.collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Sends requests to two servers that respond with the user's ID, or `-` without a user: one that
/// requires a session and one that does not.
pub async fn the_cases(required: SocketAddr, optional: SocketAddr, version: Version) {
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let invalid = Some(r#"Bearer error="invalid_token""#);
    let malformed = Some(r#"Bearer error="invalid_request""#);
    let table = [
        (required, bearer("good"), 200, "ada", None),
        (required, bearer("good"), 200, "ada", None),
        (required, None, 401, "", Some("Bearer")),
        (required, bearer("invalid"), 401, "", invalid),
        (required, bearer("blocked"), 403, "", None),
        (required, bearer("a,b"), 400, "", malformed),
        (required, bearer("down"), 503, "", None),
        (optional, bearer("good"), 200, "ada", None),
        (optional, None, 200, "-", None),
        (optional, bearer("invalid"), 200, "-", None),
        (optional, bearer("blocked"), 200, "-", None),
        (optional, bearer("a,b"), 400, "", malformed),
        (optional, bearer("down"), 503, "", None),
    ];
    for (address, credential, status, body, challenge) in table {
        let which = format!("{version:?} {credential:?} {}", address == optional);
        let mut request = Request::get(format!("http://{address}/"));
        if let Some(credential) = credential {
            request = request.header(header::AUTHORIZATION, credential);
        }
        let answer = send(address, version, request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status(), status, "{which}");
        let found = answer.headers().get(header::WWW_AUTHENTICATE);
        assert_eq!(
            found.map(|value| value.to_str().unwrap()),
            challenge,
            "{which}"
        );
        let retry = answer.headers().contains_key(header::RETRY_AFTER);
        assert_eq!(retry, status == 503, "{which}");
        assert_eq!(text(answer.into_body()).await, body, "{which}");
    }
}
