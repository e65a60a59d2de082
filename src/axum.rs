//! Integration with axum: extractors for the user and the session, and errors as responses.
//!
//! It depends on `axum-core` only, so that the feature does not add a server. The extractors
//! distinguish a request without a user from a route without the layer. The first is the client's
//! problem (401). The second is a bug in the service (500), and the log line says what to add.
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

/// Upper bound, in seconds, of the time until a queued revocation is sent to Redis again.
const REVOKE_RETRY_AFTER: &str = "1";

/// Why [`UserData`] or [`SessionInfo`] could not be extracted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtractError {
    /// The request was passed on without a user, as in `optional` mode, or with a user whom another
    /// layer authenticated and who has no session here. The response is 401 with the challenge of
    /// the [`Rejection`].
    Unauthenticated(Rejection),
    /// The request did not pass a `SessionCacheLayer`. The response is 500 without a body.
    /// `Display` and the log say how to fix it.
    MissingLayer,
}

impl fmt::Display for ExtractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthenticated(_) => "the request has no session",
            Self::MissingLayer => {
                "`SessionCacheLayer` is missing on a route whose handler extracts the user; add \
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
                tracing::error!(target: LAYER, error = %self, "session extraction failed");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// Returns what the layer has inserted into a request, or the reason why it has not.
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

/// 503 with `Retry-After`, because the revocation is not effective on all nodes yet.
impl IntoResponse for RevokeError {
    fn into_response(self) -> Response {
        let headers = [
            (header::RETRY_AFTER, REVOKE_RETRY_AFTER),
            (header::CACHE_CONTROL, "no-store"),
        ];
        (StatusCode::SERVICE_UNAVAILABLE, headers).into_response()
    }
}
