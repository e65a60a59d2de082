use axum::{
    Extension, Router,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tower_session_cache::{SessionCacheLayer, SessionValidator, UserData};

const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// Headers from which the layer takes a token.
const VARY: HeaderValue = HeaderValue::from_static("authorization, cookie, x-appwrite-session");

/// Returns the user ID to the proxy. The layer calls it for valid sessions only.
async fn allow(Extension(user): Extension<UserData>) -> Result<impl IntoResponse, StatusCode> {
    // An ID that no header can carry must not become a 2xx without an ID.
    let id = HeaderValue::try_from(user.id()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let headers = [
        (USER_ID, id),
        (header::VARY, VARY),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((StatusCode::NO_CONTENT, headers))
}

/// Returns the service that the proxy calls to authenticate a request.
pub fn forward_auth<V: SessionValidator>(sessions: SessionCacheLayer<V>) -> Router {
    Router::new()
        .route("/auth", get(allow))
        .layer(sessions.http_only())
}
