//! Requests to a layer around a service that only says whom it was called for.

use std::convert::Infallible;

use http::{Request, Response, StatusCode, header};
use tower::{Layer, ServiceExt, service_fn};
use tower_session_cache::{
    Origin, Rejection, SessionCacheLayer, SessionInfo, SessionToken, SessionValidator, UserData,
};

use super::soon;

/// A client over real HTTP. Ours speaks no TLS, but wants to know how it would.
pub fn http() -> reqwest::Client {
    // Whoever came first has installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

pub fn token(text: &str) -> SessionToken {
    SessionToken::parse(text.to_owned()).unwrap()
}

/// Who a request was served as, and who answered for it; or the status of its refusal.
pub async fn ask<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    token: &str,
) -> Result<(UserData, Origin), StatusCode> {
    let (user, session) = ask_for_all(layer, token).await?;
    Ok((user, session.origin()))
}

/// With all that the request learned about its session.
pub async fn ask_for_all<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    token: &str,
) -> Result<(UserData, SessionInfo), StatusCode> {
    let inner = service_fn(async |request: Request<()>| {
        let mut response = Response::new(http_body_util::Empty::<bytes::Bytes>::new());
        *response.extensions_mut() = request.extensions().clone();
        Ok::<_, Infallible>(response)
    });
    let request = Request::builder()
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(())
        .unwrap();
    let answer = layer.layer(inner).oneshot(request);
    let answer = soon("a response", answer).await.unwrap();
    let extensions = answer.extensions();
    if let Some(rejection) = extensions.get::<Rejection>() {
        return Err(rejection.status());
    }
    let user = extensions.get::<UserData>().unwrap().clone();
    Ok((user, extensions.get::<SessionInfo>().unwrap().clone()))
}

/// The tier of the user that a request is served as.
pub async fn tier<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    token: &str,
) -> Result<String, StatusCode> {
    Ok(ask(layer, token).await?.0.tier().to_owned())
}
