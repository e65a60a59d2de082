//! Requests to a layer around a service that only returns the user of the request.

use std::convert::Infallible;

use http::{Extensions, Request, Response, StatusCode, header};
use tower::{Layer, ServiceExt, service_fn};
use tower_session_cache::{
    Origin, Rejection, SessionCacheLayer, SessionInfo, SessionToken, SessionValidator, UserData,
};

use super::soon;

/// Client over real HTTP. It uses no TLS, but requires a TLS provider.
pub fn http() -> reqwest::Client {
    // An error means that another test has installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub fn token(text: &str) -> SessionToken {
    SessionToken::parse(text.to_owned()).unwrap()
}

/// Returns the user of a request and the source of the session, or the status of its rejection.
pub async fn ask<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    token: &str,
) -> Result<(UserData, Origin), StatusCode> {
    let (user, session) = ask_for_all(layer, token).await?;
    Ok((user, session.origin()))
}

/// Like [`ask`], with the whole `SessionInfo`.
pub async fn ask_for_all<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    token: &str,
) -> Result<(UserData, SessionInfo), StatusCode> {
    let extensions = respond(layer, token).await;
    if let Some(rejection) = extensions.get::<Rejection>() {
        return Err(rejection.status());
    }
    let user = extensions.get::<UserData>().unwrap().clone();
    let session = user.session().unwrap().clone();
    Ok((user, session))
}

/// Returns the rejection of a request.
pub async fn rejection<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    token: &str,
) -> Rejection {
    let extensions = respond(layer, token).await;
    extensions.get::<Rejection>().unwrap().clone()
}

/// Returns the extensions of the request if it passed, or else those of the response.
async fn respond<V: SessionValidator>(layer: &SessionCacheLayer<V>, token: &str) -> Extensions {
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
    answer.into_parts().0.extensions
}

/// Returns the tier of the user that a request is served as.
pub async fn tier<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    token: &str,
) -> Result<String, StatusCode> {
    Ok(ask(layer, token).await?.0.tier().to_owned())
}
