//! A tower middleware that authenticates opaque session tokens at cache speed, and forgets a
//! revoked session at once.
//!
//! # The path of a request
//!
//! | step | file | what happens |
//! | --- | --- | --- |
//! | layer | `layer.rs`, `policy.rs` | [`SessionCacheLayer`]: built once, cheap to clone, wraps any service |
//! | call | `service.rs` | [`SessionCacheService`] takes the request and the inner service that was polled ready |
//! | token | `token.rs` | a [`TokenSource`] reads the headers: found, absent or malformed |
//! | key | `cache/key.rs` | the token's digest; past this file only the validator sees the token |
//! | near | `cache/local.rs` | a usable session in memory: no await, no box, straight to the inner service |
//! | far | `cache/redis.rs`, `cache/accept.rs` | with Redis: record, tombstone, mark and time in one round trip, and the rules about them |
//! | ask | `resolver.rs`, `cache/flights.rs`, `validator.rs` | on a miss one call of the [`SessionValidator`] per token, joined by all who wait |
//! | fill | `resolver.rs`, `cache/redis/fill.lua` | re-check, store, answer; ask once more if a revocation came between |
//! | pass | `future.rs` | [`UserData`] and [`SessionInfo`] into the request's extensions, then the inner service |
//! | refuse | `rejection.rs`, `grpc.rs` | a response, never an error; the [`Rejection`] goes into its extensions |
//!
//! Two validators come along: `appwrite.rs` and `introspection.rs`. What their calls have in common
//! is in `provider.rs`, the only file that knows reqwest.
//!
//! # A service
//!
//! ```
//! use axum::{Extension, Json, Router, routing::get};
//! use tower_session_cache::{
//!     SessionCache, SessionCacheLayer, UserData, ValidatedSession, validator_fn,
//! };
//!
//! async fn me(Extension(user): Extension<UserData>) -> Json<UserData> {
//!     Json(user)
//! }
//!
//! # fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! let cache = SessionCache::builder().build()?;
//! // A closure for tests; in production `AppwriteValidator` (feature `appwrite`),
//! // `IntrospectionValidator` (feature `introspection`) or your own.
//! let validator = validator_fn(|_token| async { Ok(ValidatedSession::new(UserData::new("ada"))) });
//! let app = Router::new()
//!     .route("/api/v1/auth/me", get(me))
//!     .layer(SessionCacheLayer::new(cache.clone(), validator));
//! # Ok(app) }
//! # app().unwrap();
//! ```
//!
//! Keep a handle of the cache for logout ([`SessionCache::revoke_token`]) and for changes of a
//! password or a role ([`SessionCache::invalidate_user`]). Tell the identity provider *first*,
//! then the cache: what is validated after the revocation counts again.
//!
//! # Connections that stay open
//!
//! A WebSocket or a stream outlives the check that let it in. Look the session up again from time
//! to time, and close the connection when it is gone:
//!
//! ```
//! # use tower_session_cache::{Fill, Lookup, SessionCache, SessionInfo, SessionValidator};
//! /// Whether the connection may stay open.
//! async fn may_stay(
//!     cache: &SessionCache,
//!     validator: &impl SessionValidator,
//!     session: &SessionInfo,
//! ) -> bool {
//!     match cache.get(session.token()).await {
//!         Lookup::Hit(_) => true,
//!         Lookup::Revoked => false,
//!         // The TTL has passed, or something was revoked: what the provider says now counts.
//!         // One that cannot be asked closes nothing.
//!         Lookup::Miss(ticket) => match validator.validate(session.token().clone()).await {
//!             Ok(session) => {
//!                 !matches!(cache.set(ticket, &session).await, Fill::Revoked | Fill::Ended)
//!             }
//!             Err(error) => !error.is_refused(),
//!         },
//!         _ => false,
//!     }
//! }
//! ```
//!
//! # Features
//!
//! - `appwrite`: `AppwriteValidator`, which asks Appwrite's HTTP API.
//! - `introspection`: `IntrospectionValidator`, which asks an OAuth 2.0 server (Keycloak, Ory
//!   Hydra, Zitadel and others) by token introspection, RFC 7662.
//! - `axum`: [`UserData`] and [`SessionInfo`] as arguments of axum's handlers, errors as responses.
//! - `testing`: a validator from a table, a one-line layer, and a clock that tests move by hand.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "appwrite")]
mod appwrite;
#[cfg(feature = "axum")]
mod axum;
mod body;
mod cache;
mod clock;
mod future;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
#[cfg(feature = "introspection")]
mod introspection;
mod layer;
mod outcome;
mod policy;
#[cfg(any(feature = "appwrite", feature = "introspection"))]
mod provider;
mod rejection;
mod resolver;
mod secret;
mod service;
mod session;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod time;
mod token;
mod user;
mod validator;

#[cfg(feature = "appwrite")]
#[cfg_attr(docsrs, doc(cfg(feature = "appwrite")))]
pub use appwrite::{
    AppwriteConfigError, AppwriteError, AppwriteErrorKind, AppwriteLogin, AppwriteUser,
    AppwriteValidator, AppwriteValidatorBuilder,
};
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use axum::ExtractError;
pub use body::ResponseBody;
pub use cache::{
    CachedSession, ConfigError, Fill, Health, LocalCache, Lookup, RedisHealth, Revocation,
    RevokeError, RevokeErrorKind, SessionCache, SessionCacheBuilder, SessionCacheConfig, Stats,
    Ticket,
};
pub use future::ResponseFuture;
#[cfg(feature = "introspection")]
#[cfg_attr(docsrs, doc(cfg(feature = "introspection")))]
pub use introspection::{
    Introspection, IntrospectionAuth, IntrospectionConfigError, IntrospectionValidator,
    IntrospectionValidatorBuilder,
};
pub use layer::SessionCacheLayer;
pub use rejection::{Rejection, RejectionBody, RejectionKind};
pub use secret::{SecretKey, SecretKeyError};
pub use service::SessionCacheService;
pub use session::{Origin, SessionInfo};
pub use token::{SessionToken, TokenError, TokenSource};
pub use user::{UserData, UserDataBuilder};
pub use validator::{
    ErasedValidator, ForbiddenReason, Or, SessionValidator, ValidatedSession, ValidationError,
    ValidationErrorKind, ValidatorFn, ValidatorService, validator_fn, validator_service,
};

/// Compiles what the README shows.
#[cfg(all(doctest, feature = "appwrite"))]
#[doc = include_str!("../README.md")]
struct Readme;
