//! Tower middleware that authenticates requests by opaque session token.
//!
//! The layer validates a token with the identity provider once and caches the session in memory and
//! in Redis. A revocation takes effect for the next request on every node (with the local cache, on
//! other nodes after at most one lease). [Revocation](docs::revocation) describes the guarantee.
//!
//! # How a request is processed
//!
//! The layer reads the token from the request's head and looks for its session in memory, then in
//! Redis. If neither has a usable session, the layer calls the [`SessionValidator`] once for all
//! requests that wait for the token. It stores the session unless something was revoked in the
//! meantime. The inner service finds [`UserData`] in the request's extensions, which leads to the
//! session of the request ([`UserData::session`]).
//! A rejected request gets a response with a [`Rejection`] in its extensions. `ARCHITECTURE.md`,
//! next to `README.md` in the repository and in the published package, describes the files and the
//! revocation protocol.
//!
//! # Example
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
//! let validator = validator_fn("anyone", |_token| async {
//!     Ok(ValidatedSession::new(UserData::new("ada")))
//! });
//! let app = Router::new()
//!     .route("/api/v1/auth/me", get(me))
//!     .layer(SessionCacheLayer::new(cache.clone(), validator));
//! # Ok(app) }
//! # app().unwrap();
//! ```
//!
//! Keep a handle of the cache for logout ([`SessionCache::log_out`]) and for changes of a
//! password or a role ([`SessionCache::invalidate_user`]). Revoke at the identity provider *first*,
//! then in the cache: a validation that begins after [`SessionCache::invalidate_user`] is cached
//! again, and it must see the change. Revoke in the cache even if the provider's call failed, and
//! report the failure afterwards.
//!
//! # tonic
//!
//! The same layer wraps a gRPC server. A rejected call gets a status that the client understands
//! (`UNAUTHENTICATED`, `PERMISSION_DENIED`, `INVALID_ARGUMENT` or `UNAVAILABLE`). A method finds
//! the user in its request's extensions. A request counts as a gRPC call if it is a `POST` with the
//! content type `application/grpc` over HTTP/2, or a `POST` with the content type of gRPC-Web.
//! [`http_only`](SessionCacheLayer::http_only) turns this off. The layer covers all services of the
//! server, so [`exempt`](SessionCacheLayer::exempt) health checks and reflection:
//!
//! ```
//! # use std::net::SocketAddr;
//! # use tonic::service::Routes;
//! use tonic::{Request, Response, Status, transport::Server};
//! use tower_session_cache::{Guard, Rejection, SessionCacheLayer, SessionValidator};
//!
//! fn status(rejection: Rejection) -> Status {
//!     Status::new(rejection.grpc_code().into(), rejection.to_string())
//! }
//!
//! async fn hello(request: Request<String>) -> Result<Response<String>, Status> {
//!     let user = Guard::signed_in().authorize(request.extensions()).map_err(status)?;
//!     Ok(Response::new(format!("Hello, {}!", user.name())))
//! }
//!
//! # async fn serve<V: SessionValidator>(
//! #     sessions: SessionCacheLayer<V>, services: Routes, address: SocketAddr,
//! # ) -> Result<(), tonic::transport::Error> {
//! let sessions = sessions.exempt(|head| {
//!     let path = head.uri().path();
//!     path.starts_with("/grpc.health.v1.Health/") || path.starts_with("/grpc.reflection.")
//! });
//! Server::builder().layer(sessions).add_routes(services).serve(address).await
//! # }
//! ```
//!
//! # hyper
//!
//! hyper-util's adapter turns a service with the layer into a service for hyper:
//!
//! ```
//! # use std::convert::Infallible;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use hyper::body::{Bytes, Incoming};
//! use hyper_util::{rt::{TokioExecutor, TokioIo}, server::conn::auto, service::TowerToHyperService};
//! # use tokio::net::TcpStream;
//! use tower::{ServiceBuilder, service_fn};
//! # use tower_session_cache::{SessionCacheLayer, SessionValidator};
//! # async fn handle(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
//! #     Ok(Response::default())
//! # }
//! # async fn serve<V: SessionValidator>(sessions: SessionCacheLayer<V>, stream: TcpStream) {
//!
//! let service = ServiceBuilder::new().layer(sessions).service(service_fn(handle));
//! let service = TowerToHyperService::new(service);
//! let server = auto::Builder::new(TokioExecutor::new());
//! let ended = server.serve_connection(TokioIo::new(stream), service).await;
//! # drop(ended);
//! # }
//! ```
//!
//! # Order of layers
//!
//! | other layer | position | reason |
//! | --- | --- | --- |
//! | CORS | outside | a preflight request has no session, and a page can read why its request was rejected |
//! | CSRF (tower-http 0.7 or later) | outside, if tokens come in cookies | a browser also sends cookies with requests that other sites cause |
//! | trace | outside | it also records rejected requests; the [`Rejection`] is in the response's extensions |
//! | trace that prints headers or names the user | inside | tokens are marked sensitive, and the user is known; outside it would print the token |
//! | [`Guard`] | inside | it reads the user |
//! | timeout | outside | it also bounds the wait for the identity provider; a validation that it cuts off continues for later requests |
//! | compression | either | only outside does it compress the bodies of rejections |
//! | a layer that sets [`UserData`] itself | outside, and this layer with [`trust_outer_user`](SessionCacheLayer::trust_outer_user) | otherwise its users are ignored, and the token is looked up |
//! | a layer that reads [`UserData`] | inside | |
//!
//! Two kinds of callers, such as machines with signed tokens and people with sessions, need two
//! layers in `optional` mode and [`Guard::signed_in`] inside both. The inner layer needs
//! [`trust_outer_user`](SessionCacheLayer::trust_outer_user). Put the logout route under the people's
//! layer only, which a machine's request does not pass, and declare the machines' tokens as
//! [keys](SessionValidator::keys), which [`SessionCache::log_out`] refuses to revoke. Without
//! `trust_outer_user`, the inner layer ignores a
//! user that it would not have accepted itself, looks for a token of its own, and passes the
//! machine's request on without a user. Both layers may share a cache: each reads and writes the
//! records of its own validator's [`Namespace`]. If one provider is unavailable, its layer responds
//! with 503 and does not pass the request on. If neither layer finds a user, the guard rejects with
//! the more telling of the two reasons.
//!
//! If both layers read the same header, the outer provider receives every token, and the inner one
//! receives those that the outer one rejected. If the shape of a token shows its kind, use one layer
//! and [`SessionValidator::or_if`], which sends each token to one provider only.
//!
//! User IDs are unique per [`Authority`] only. A service with two providers must compare
//! [`UserData::authority`] as well.
//!
//! # Guides
//!
//! - [Recipes](docs::recipes): public paths, a login redirect, tokens of WebSockets, guards, gRPC.
//! - [Revocation](docs::revocation): the guarantee and its bounds.
//! - [Events](docs::events): what identity providers push, so that what ends there ends here.
//! - [Failures](docs::failures): what a request gets when a component is down.
//! - [Deployment](docs::deployment): TLS, permissions, Sentinel, what a failover can lose, and
//!   which guarantees hold in which setup. [Redis Cluster](docs::cluster): the differences there.
//! - [Configuration](docs::configuration): every setting, its default, and when to change it.
//! - [Observability](docs::observability): metrics, spans and log lines, and what they mean.
//! - [Validators](docs::validators): writing and combining them, and the namespaces of their
//!   records.
//! - [Forward auth](docs::forward_auth): a route that authenticates requests for nginx, Traefik or
//!   Caddy.
//! - [Connections](docs::connections): WebSockets and streams that outlive the check of their
//!   session.
//! - [Testing](docs::testing): testing a service with sessions, without an identity provider.
//! - [Migration](docs::migration): migrating from the Python service on the same Redis.
//!
//! # Feature flags
//!
//! No feature is enabled by default. Features are additive.
//!
//! | feature | adds | cost |
//! | --- | --- | --- |
//! | `appwrite` | `AppwriteValidator`, which validates sessions with Appwrite's HTTP API | reqwest, rustls with *ring* (none is installed for the process) |
//! | `introspection` | `IntrospectionValidator`, which validates tokens with an OAuth 2.0 server (Keycloak, Ory Hydra, Zitadel and others) by token introspection (RFC 7662) | the same |
//! | `events` | [`RevocationReceiver`], which takes the events that identity providers push, such as Appwrite's webhooks | *ring* |
//! | `oidc-events` | `BackChannelLogout` and `SharedSignals`, which read the events that OpenID providers sign | `events`, reqwest, rustls with *ring* |
//! | `axum` | [`UserData`], [`SessionInfo`], `Session<T>`, a user type of your own, and `Permitted` as arguments of axum handlers, errors as responses | axum-core |
//! | `metrics` | counters, gauges and histograms for the `metrics` facade | metrics; one addition per local hit |
//! | `tls` | Redis over TLS: `rediss://` URLs, `RedisTls` for a private CA and client certificates | rustls with *ring* |
//! | `testing` | a validator that uses a table, a one-line layer, and a clock that tests move by hand | nothing |
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "axum")]
mod axum;
mod cache;
mod coherence;
mod config_error;
mod crypto;
pub mod docs;
#[cfg(feature = "events")]
mod events;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod memory;
mod middleware;
mod model;
mod protocol;
mod redis;
mod resolver;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod time;
mod token;
mod validator;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use axum::{ExtractError, Permission, Permitted, Session};
pub use cache::{
    CloseError, Fill, Health, Lookup, ProviderHealth, RedisHealth, Revocation, RevokeError,
    RevokeErrorKind, SessionCache, SessionCacheBuilder, SessionCacheConfig, Ticket,
};
/// The times that this crate returns and takes are those of [chrono](https://docs.rs/chrono).
#[doc(no_inline)]
pub use chrono::{DateTime, Utc};
pub use config_error::ConfigError;
#[cfg(feature = "oidc-events")]
#[cfg_attr(docsrs, doc(cfg(feature = "oidc-events")))]
pub use crypto::JwsAlgorithm;
pub use crypto::{SecretKey, SecretKeyError};
#[cfg(feature = "events")]
#[cfg_attr(docsrs, doc(cfg(feature = "events")))]
pub use events::{
    AppwriteWebhook, EventOutcome, EventResponseBody, HeaderSecret, Refusal, RefusalKind,
    RevocationReceiver, RevocationSource, Revoked, StandardWebhook,
};
#[cfg(feature = "oidc-events")]
#[cfg_attr(docsrs, doc(cfg(feature = "oidc-events")))]
pub use events::{
    BackChannelLogout, EventIssuer, EventIssuerBuilder, SharedSignals, SharedSignalsPoll,
};
pub use memory::LocalCacheConfig;
pub use middleware::{
    Challenge, Guard, GuardFuture, GuardService, Rejection, RejectionKind, ResponseBody,
    ResponseFuture, SessionCacheLayer, SessionCacheService,
};
pub use model::{
    Authority, CachedSession, DecodeUserError, Namespace, Origin, SessionInfo, UserData,
    UserDataBuilder,
};
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use redis::RedisTls;
pub use redis::{RedisConfig, RedisCredentials};
pub use resolver::SessionEnd;
#[cfg(feature = "events")]
#[cfg_attr(docsrs, doc(cfg(feature = "events")))]
pub use telemetry::EventStats;
pub use telemetry::{CanaryStats, RevocationCounts, Stats};
pub use token::{CookieRemoval, RequestHead, SessionToken, TokenError, TokenSource};
#[cfg(feature = "appwrite")]
#[cfg_attr(docsrs, doc(cfg(feature = "appwrite")))]
pub use validator::appwrite::{
    AppwriteConfigError, AppwriteError, AppwriteErrorKind, AppwriteLogin, AppwriteUser,
    AppwriteValidator, AppwriteValidatorBuilder,
};
#[cfg(feature = "introspection")]
#[cfg_attr(docsrs, doc(cfg(feature = "introspection")))]
pub use validator::introspection::{
    IntrospectionAuth, IntrospectionConfigError, IntrospectionResponse, IntrospectionValidator,
    IntrospectionValidatorBuilder,
};
pub use validator::{
    AndThen, Decodes, ErasedValidator, Filter, ForbiddenReason, Keys, LayeredValidator, Map, Or,
    SessionValidator, ValidatedSession, ValidationError, ValidationErrorKind, ValidatorCall,
    ValidatorFn, validator_fn,
};

/// Compiles what the README shows.
#[cfg(all(doctest, feature = "appwrite", feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
