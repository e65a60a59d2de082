//! What axum's handlers need: the user and the session as arguments, and errors as responses.
//!
//! Through `axum-core` alone, so that the feature brings no server. An extractor can tell a
//! request without a user from a route without the layer: the first is a client's matter (401),
//! the second a mistake in the service (500), and the log says what to add.
//!
//! ```
//! use axum::{Json, Router, routing::get};
//! use tower_session_cache::{SessionCache, SessionCacheLayer, UserData, ValidatedSession, validator_fn};
//!
//! async fn me(user: UserData) -> Json<UserData> {
//!     Json(user)
//! }
//!
//! // Behind a layer in `optional` mode.
//! async fn greeting(user: Option<UserData>) -> String {
//!     user.map_or("Hello!".to_owned(), |user| format!("Hello, {}!", user.name()))
//! }
//!
//! # fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! let sessions = SessionCacheLayer::new(
//!     SessionCache::builder().build()?,
//!     validator_fn("anyone", |_token| async { Ok(ValidatedSession::new(UserData::new("ada"))) }),
//! );
//! let app = Router::new()
//!     .route("/me", get(me))
//!     .route("/", get(greeting))
//!     .layer(sessions.optional());
//! # Ok(app) }
//! # app().unwrap();
//! ```

use std::{error::Error as StdError, fmt};

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{Extensions, StatusCode, header, request::Parts};

use crate::{
    cache::RevokeError,
    middleware::{Rejection, RejectionBody, RejectionKind, RejectionResponse},
    model::{SessionInfo, UserData},
    telemetry::LAYER,
};

/// When Redis is asked again after a revocation that was queued, at the latest.
const REVOKE_RETRY_AFTER: &str = "1";

/// Why [`UserData`] or [`SessionInfo`] could not be extracted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtractError {
    /// The request passed without a user, as in `optional` mode, or with one whom another layer
    /// authenticated and who has no session here. As a response: 401 with the challenge of the
    /// [`Rejection`].
    Unauthenticated(Rejection),
    /// No layer has looked at the request. As a response: 500 without a body. What a developer
    /// has to do about it is logged, and told by `Display`.
    MissingLayer,
}

impl fmt::Display for ExtractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthenticated(_) => "the request has no session",
            Self::MissingLayer => {
                "no SessionCacheLayer is around the route of a handler that wants the user; add \
                 `.layer(SessionCacheLayer::new(cache, validator))` after the route"
            }
        })
    }
}

impl StdError for ExtractError {}

impl IntoResponse for ExtractError {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthenticated(rejection) => {
                let refusal = RejectionResponse {
                    rejection,
                    body: RejectionBody::empty(),
                    grpc: None,
                };
                refusal.into_response::<Body>().map(Body::new)
            }
            Self::MissingLayer => {
                tracing::error!(target: LAYER, "{self}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// What the layer has put into a request, or why it has not.
fn find<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Result<T, ExtractError> {
    if let Some(found) = extensions.get::<T>() {
        return Ok(found.clone());
    }
    let rejection = match extensions.get::<Rejection>() {
        Some(rejection) if rejection.status() == StatusCode::UNAUTHORIZED => rejection.clone(),
        Some(_) => Rejection::new(RejectionKind::Invalid),
        None if extensions.get::<UserData>().is_some() => Rejection::new(RejectionKind::Missing),
        None => return Err(ExtractError::MissingLayer),
    };
    Err(ExtractError::Unauthenticated(rejection))
}

fn find_optional<T>(extensions: &Extensions) -> Result<Option<T>, ExtractError>
where
    T: Clone + Send + Sync + 'static,
{
    match find(extensions) {
        Ok(found) => Ok(Some(found)),
        Err(ExtractError::Unauthenticated(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

macro_rules! extractor {
    ($type:ty) => {
        impl<S: Sync> FromRequestParts<S> for $type {
            type Rejection = ExtractError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ExtractError> {
                find(&parts.extensions)
            }
        }

        impl<S: Sync> OptionalFromRequestParts<S> for $type {
            type Rejection = ExtractError;

            async fn from_request_parts(
                parts: &mut Parts,
                _: &S,
            ) -> Result<Option<Self>, ExtractError> {
                find_optional(&parts.extensions)
            }
        }
    };
}

extractor!(UserData);
extractor!(SessionInfo);

/// 503 with `Retry-StaleWindow`: the revocation does not hold everywhere yet.
impl IntoResponse for RevokeError {
    fn into_response(self) -> Response {
        let headers = [
            (header::RETRY_AFTER, REVOKE_RETRY_AFTER),
            (header::CACHE_CONTROL, "no-store"),
        ];
        (StatusCode::SERVICE_UNAVAILABLE, headers).into_response()
    }
}
