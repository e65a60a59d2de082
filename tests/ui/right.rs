//! Correct uses, which must compile.

use std::sync::Arc;

use axum::{Router, extract::Request, routing::get};
use tower::{Layer, ServiceBuilder};
use tower_session_cache::*;

async fn me(user: UserData, session: Option<SessionInfo>) -> String {
    format!("{} {}", user.id(), session.is_some())
}

pub fn app(cache: SessionCache) -> Router {
    let validator = validator_fn("people", |_| async { Ok(ValidatedSession::new(UserData::new("ada"))) });
    let layer = SessionCacheLayer::new(cache, Arc::new(validator));
    Router::new().route("/me", get(me)).layer(layer)
}

pub fn stack<S>(cache: SessionCache, inner: S) -> impl tower::Service<Request>
where
    S: tower::Service<Request, Response = http::Response<String>> + Clone,
{
    let validator = validator_fn("people", |_| async { Err::<UserData, _>(ValidationError::invalid()) });
    let layer = SessionCacheLayer::new(cache, ErasedValidator::new(validator));
    ServiceBuilder::new().service(layer.layer(inner))
}
