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

use std::{error::Error as StdError, fmt, marker::PhantomData, ops::Deref, sync::Arc};

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{Extensions, StatusCode, header, request::Parts};
use serde::de::DeserializeOwned;

use crate::{
    cache::{RevokeError, RevokeErrorKind},
    middleware::{Guard, Rejection, RejectionKind, respond},
    model::{DecodeUserError, SessionInfo, UserData},
    telemetry::LAYER,
    token::{RequestHead, Schemes},
};

/// `Retry-After`, in seconds, of a revocation that found the queue full.
const REVOKE_RETRY_AFTER: &str = "1";

/// The user of a request as a type of the application ([`UserData::decode`]), as an argument of a
/// handler. Behind a layer in `optional` mode, use `Option<Session<T>>`.
///
/// ```
/// use axum::{Router, routing::get};
/// use serde::{Deserialize, Serialize};
/// use tower_session_cache::{
///     Session, SessionCache, SessionCacheLayer, SessionValidator, UserData, ValidationError,
///     validator_fn,
/// };
///
/// #[derive(Deserialize, Serialize)]
/// struct Profile {
///     tenant: String,
///     roles: Vec<String>,
/// }
///
/// async fn tenant(profile: Session<Profile>) -> String {
///     format!("{} of {}", profile.user().id(), profile.tenant)
/// }
///
/// # fn app() -> Result<Router, Box<dyn std::error::Error>> {
/// let validator = validator_fn("people", |_token| async {
///     let profile = Profile { tenant: "acme".into(), roles: vec!["admin".into()] };
///     let user = UserData::builder("ada").attributes_of(&profile);
///     Ok(user.map_err(ValidationError::unavailable)?.build())
/// });
/// let layer = SessionCacheLayer::new(SessionCache::default(), validator.decodes::<Profile>());
/// # Ok(
/// Router::new().route("/tenant", get(tenant)).layer(layer)
/// # ) }
/// # app().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Session<T> {
    user: UserData,
    decoded: Arc<T>,
}

impl<T> Session<T> {
    /// Returns the user as the layer has inserted it.
    #[must_use]
    pub fn user(&self) -> &UserData {
        &self.user
    }

    /// Returns the session of the request, which a logout handler needs. Returns `None` if another
    /// layer has authenticated the user.
    #[must_use]
    pub fn info(&self) -> Option<&SessionInfo> {
        self.user.session()
    }

    /// Returns the decoded user, which all requests of the session share.
    #[must_use]
    pub fn into_inner(self) -> Arc<T> {
        self.decoded
    }
}

impl<T> Deref for Session<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.decoded
    }
}

/// Why [`UserData`], [`SessionInfo`], [`Session`] or [`Permitted`] could not be extracted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ExtractError {
    /// The request was passed on without a user, as in `optional` mode, or with a user whom another
    /// layer authenticated and who has no session here, or the user is not permitted. This is the
    /// response, in the form that the layer
    /// [sets](crate::SessionCacheLayer::with_rejection_response), with the [`Rejection`] in its
    /// extensions.
    Rejected(Box<http::Response<Bytes>>),
    /// The request did not pass a `SessionCacheLayer`, or is
    /// [exempt](crate::SessionCacheLayer::exempt). The response is 500 without a body. `Display` and
    /// the log say how to fix it.
    MissingLayer,
    /// The user cannot be decoded as the type of the application. The response is 500 without a
    /// body. [`SessionValidator::decodes`](crate::SessionValidator::decodes) rules this out.
    Undecodable(DecodeUserError),
}

impl ExtractError {
    /// Returns the reason for which the request is rejected.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(response) => response.extensions().get(),
            Self::MissingLayer | Self::Undecodable(_) => None,
        }
    }
}

impl fmt::Display for ExtractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected(_) => "the request has no session, or its user is not permitted",
            Self::MissingLayer => {
                "`SessionCacheLayer` is missing on a route whose handler extracts the user; add \
                 `.layer(SessionCacheLayer::new(cache, validator))` after the route, or remove the \
                 route from `exempt`"
            }
            Self::Undecodable(error) => return error.fmt(f),
        })
    }
}

impl StdError for ExtractError {}

impl IntoResponse for ExtractError {
    fn into_response(self) -> Response {
        match self {
            Self::Rejected(response) => response.map(Body::from),
            Self::MissingLayer | Self::Undecodable(_) => {
                tracing::error!(target: LAYER, error = %self, "session extraction failed");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// Why a request has not what a handler asks for.
enum Absence {
    Rejected(Rejection),
    NoLayer,
    Undecodable(DecodeUserError),
}

impl Absence {
    fn into_error(self, parts: &Parts) -> ExtractError {
        match self {
            Self::Rejected(rejection) => rejected(rejection, parts),
            Self::NoLayer => ExtractError::MissingLayer,
            Self::Undecodable(error) => ExtractError::Undecodable(error),
        }
    }
}

/// Returns the user that the layer has inserted into a request.
fn user(extensions: &Extensions) -> Result<&UserData, Absence> {
    extensions.get::<UserData>().ok_or_else(|| {
        let rejection = extensions.get::<Rejection>().cloned();
        rejection.map_or(Absence::NoLayer, Absence::Rejected)
    })
}

fn session(extensions: &Extensions) -> Result<SessionInfo, Absence> {
    let session = user(extensions)?.session().cloned();
    session.ok_or_else(|| {
        let rejection = extensions.get::<Rejection>().cloned();
        let missing = || Rejection::new(RejectionKind::Missing, Schemes::BEARER);
        Absence::Rejected(rejection.unwrap_or_else(missing))
    })
}

fn decoded<T>(extensions: &Extensions) -> Result<Session<T>, Absence>
where
    T: DeserializeOwned + Send + Sync + 'static,
{
    let user = user(extensions)?.clone();
    let decoded = user.decode().map_err(Absence::Undecodable)?;
    Ok(Session { user, decoded })
}

fn rejected(rejection: Rejection, parts: &Parts) -> ExtractError {
    ExtractError::Rejected(Box::new(respond(rejection, &RequestHead::from(parts))))
}

macro_rules! extractor {
    ($find:expr, $type:ty $(, $generic:ident)?) => {
        impl<S: Sync $(, $generic)?> FromRequestParts<S> for $type
        $(where $generic: DeserializeOwned + Send + Sync + 'static)?
        {
            type Rejection = ExtractError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ExtractError> {
                $find(&parts.extensions).map_err(|absence| absence.into_error(parts))
            }
        }

        impl<S: Sync $(, $generic)?> OptionalFromRequestParts<S> for $type
        $(where $generic: DeserializeOwned + Send + Sync + 'static)?
        {
            type Rejection = ExtractError;

            async fn from_request_parts(
                parts: &mut Parts,
                _: &S,
            ) -> Result<Option<Self>, ExtractError> {
                match $find(&parts.extensions) {
                    Ok(found) => Ok(Some(found)),
                    Err(Absence::Rejected(_)) => Ok(None),
                    Err(absence) => Err(absence.into_error(parts)),
                }
            }
        }
    };
}

extractor!(|extensions| user(extensions).cloned(), UserData);
extractor!(session, SessionInfo);
extractor!(decoded, Session<T>, T);

/// A requirement as a type, for [`Permitted`].
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_session_cache::{Guard, Permission, Permitted};
///
/// struct WriteOrders;
///
/// impl Permission for WriteOrders {
///     fn guard() -> Guard {
///         Guard::scope("orders:write")
///     }
/// }
///
/// async fn cancel(user: Permitted<WriteOrders>) -> String {
///     format!("cancelled by {}", user.id())
/// }
///
/// let app: Router = Router::new().route("/cancel", get(cancel));
/// ```
pub trait Permission {
    /// Returns the requirement. Called for each request.
    fn guard() -> Guard;
}

/// The user of a request, who meets a requirement. An argument of axum handlers.
///
/// It rejects as the [guard](Permission::guard) does as a layer.
pub struct Permitted<P> {
    user: UserData,
    permission: PhantomData<fn() -> P>,
}

impl<P> Permitted<P> {
    /// Returns the user.
    #[must_use]
    pub fn into_user(self) -> UserData {
        self.user
    }
}

impl<P> Deref for Permitted<P> {
    type Target = UserData;

    fn deref(&self) -> &UserData {
        &self.user
    }
}

impl<P> Clone for Permitted<P> {
    fn clone(&self) -> Self {
        Self {
            user: self.user.clone(),
            permission: PhantomData,
        }
    }
}

impl<P> fmt::Debug for Permitted<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permitted").field(&self.user).finish()
    }
}

impl<S: Sync, P: Permission> FromRequestParts<S> for Permitted<P> {
    type Rejection = ExtractError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ExtractError> {
        let user = <UserData as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        match P::guard().admit(&RequestHead::from(&*parts)) {
            Ok(()) => Ok(Self {
                user,
                permission: PhantomData,
            }),
            Err(rejection) => Err(rejected(rejection, parts)),
        }
    }
}

/// The response of a logout or another revocation:
///
/// - 202 if it is [queued](RevokeErrorKind::Queued). It applies on this node, and is delivered to the
///   others without another request.
/// - 503 with `Retry-After` if the [queue is full](RevokeErrorKind::QueueFull). It is not delivered, so
///   it must be repeated.
/// - 403 if the token is [not a session](RevokeErrorKind::NotASession).
impl IntoResponse for RevokeError {
    fn into_response(self) -> Response {
        let no_store = [(header::CACHE_CONTROL, "no-store")];
        match self.kind() {
            RevokeErrorKind::Queued => (StatusCode::ACCEPTED, no_store).into_response(),
            RevokeErrorKind::QueueFull => {
                let after = [(header::RETRY_AFTER, REVOKE_RETRY_AFTER)];
                (StatusCode::SERVICE_UNAVAILABLE, no_store, after).into_response()
            }
            RevokeErrorKind::NotASession => (StatusCode::FORBIDDEN, no_store).into_response(),
        }
    }
}
