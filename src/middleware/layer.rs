//! The layer, which is configured once, cheap to clone, and wraps any service.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use tower_layer::Layer;

use super::{
    challenge::Challenge,
    policy::Policy,
    rejection::Rejection,
    service::{SessionCacheService, Shared},
};
use crate::{
    cache::SessionCache,
    model::{Namespace, SessionInfo},
    resolver::{Requirement, Resolver, SessionEnd},
    token::{RequestHead, TokenSource, either},
    validator::SessionValidator,
};

/// Layer that authenticates requests by their session token.
///
/// An accepted request carries [`UserData`](crate::UserData) in its extensions, which leads to the
/// [session](crate::UserData::session). For any other request, the layer returns a response
/// ([`Rejection`]) and does not call the inner service.
///
/// A request that already carries `UserData` is passed on unchanged if this layer would have
/// accepted that user itself. That is the case if an outer `SessionCacheLayer` of the same
/// namespace and cache inserted it and the validator [accepts](SessionValidator::accepts) it. Any
/// other `UserData` is ignored and replaced, unless [`trust_outer_user`](Self::trust_outer_user) is
/// called.
///
/// Cloning the layer is cheap, whatever the validator is. Clones of a layer share their in-flight
/// validations, so create further layers with `layer.clone().optional()`.
///
/// # Cancel safety
///
/// Dropping a response future is safe at any time. A validation that it started continues in its
/// own task, for the cache and for other requests that wait for it.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_session_cache::{SessionCache, SessionCacheLayer, UserData, ValidatedSession, validator_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = SessionCacheLayer::new(
///     SessionCache::builder().build()?,
///     validator_fn("anyone", |_token| async { Ok(ValidatedSession::new(UserData::new("ada"))) }),
/// );
/// let mut service = layer.layer(service_fn(async |request: Request<String>| {
///     let user = request.extensions().get::<UserData>().expect("behind the layer");
///     Ok::<_, std::convert::Infallible>(Response::new(user.id().to_owned()))
/// }));
///
/// let request = Request::builder().header("authorization", "Bearer s3cr3t").body(String::new())?;
/// assert_eq!(service.ready().await?.call(request).await?.status(), StatusCode::OK);
///
/// let stranger = Request::new(String::new());
/// let refused = service.ready().await?.call(stranger).await?;
/// assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
/// # Ok(()) }
/// ```
pub struct SessionCacheLayer<V> {
    shared: Arc<Shared<V>>,
}

impl<V: SessionValidator> SessionCacheLayer<V> {
    /// Creates a layer that requires a session, takes the token from `Authorization: Bearer`, and
    /// rejects with empty bodies.
    ///
    /// Layers may share a cache. Each layer reads and writes the records of its validator's
    /// [namespace](SessionValidator::namespace), or of the handle's namespace if one was set with
    /// [`SessionCache::with_namespace`].
    pub fn new(cache: SessionCache, validator: V) -> Self {
        Self {
            shared: Arc::new(Shared {
                policy: Arc::new(Policy::required()),
                resolver: Resolver::new(cache, validator),
            }),
        }
    }

    /// Rejects requests without a valid session. This is the default.
    #[must_use]
    pub fn required(self) -> Self {
        self.with_policy(|policy| policy.optional = false)
    }

    /// Also passes on requests without a session. If the token is absent, rejected or forbidden,
    /// or has an authorization scheme that the layer does not read, the request reaches the inner
    /// service without `UserData`, and the inner service decides. The
    /// [`Rejection`] in the request's extensions gives the reason.
    ///
    /// A malformed token is still rejected with 400. If the token could not be validated, the
    /// response is still 503: a user must not become anonymous because the identity provider is
    /// down.
    #[must_use]
    pub fn optional(self) -> Self {
        self.with_policy(|policy| policy.optional = true)
    }

    /// Passes on unchanged any request that already carries [`UserData`](crate::UserData), whatever
    /// inserted it and whatever token the request carries. By default, this layer looks up the
    /// token itself for users that it would not have accepted.
    ///
    /// Use it inside another authentication layer that is as strong as this one, such as client
    /// certificates or the outer of two layers for two kinds of callers.
    ///
    /// # Security
    ///
    /// Neither the validator's rules nor its provider are consulted for such a user.
    #[must_use]
    pub fn trust_outer_user(self) -> Self {
        self.with_policy(|policy| policy.trusts_outer_user = true)
    }

    /// Waits until a session has ended, so that a WebSocket or a stream can be closed. The page on
    /// [connections](crate::docs::connections) shows a handler.
    ///
    /// A revocation by this process completes the future immediately. So does one by another node
    /// with a [local cache](crate::SessionCacheBuilder::local_cache) when Redis has pushed it, which
    /// takes milliseconds. What this process does not notice is found by a check after
    /// `check_every`, at least 1 second: revocations by other nodes without a local cache or while
    /// the connection to Redis is lost, and what ends at the provider without an event. A check is a
    /// lookup as that of a request, and validates the session when its TTL has passed. An unavailable
    /// provider does not end the session, unless its own expiry has passed.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time. It takes no memory beyond its own, and costs other
    /// requests nothing.
    pub fn session_ended(
        &self,
        session: &SessionInfo,
        check_every: Duration,
    ) -> impl Future<Output = SessionEnd> + Send + use<V> {
        let resolver = self.shared.resolver.clone();
        resolver.ended(session.clone(), check_every)
    }

    /// Validates the token of every request with the identity provider, whatever is cached. Use it for
    /// routes that must not act on a session of the last minutes, such as a change of the password:
    ///
    /// ```
    /// # use axum::{Router, routing::{get, post}};
    /// # use tower_session_cache::{SessionCacheLayer, SessionValidator};
    /// # fn app<V: SessionValidator>(sessions: SessionCacheLayer<V>) -> Router {
    /// # let (profile, change_password) = (|| async {}, || async {});
    /// Router::new()
    ///     .route("/password", post(change_password))
    ///     .route_layer(sessions.clone().fresh())
    ///     .merge(Router::new().route("/profile", get(profile)).route_layer(sessions))
    /// # }
    /// ```
    ///
    /// No request joins a validation that began before it, and no stale session is served. If the
    /// provider rejects the token, all that is cached for it ends on every node before the response:
    /// as after [`invalidate_token`](SessionCache::invalidate_token). If the provider is unavailable,
    /// the response is 503.
    ///
    /// The layer may also be inside another `SessionCacheLayer`. A user that an outer layer has
    /// inserted is then validated again.
    ///
    /// # Cost
    ///
    /// One call of the provider per request.
    #[must_use]
    pub fn fresh(self) -> Self {
        self.with_requirement(|requirement| requirement.is_fresh = true)
    }

    /// Accepts only sessions that were validated within this time, and validates others again.
    /// Several requests that wait share a validation. Defaults to no limit beyond the
    /// [`ttl`](crate::SessionCacheBuilder::ttl).
    ///
    /// # Limitations
    ///
    /// A session in Redis was validated by the clock of Redis, so the difference between the clocks
    /// of Redis and of this node adds to the time.
    #[must_use]
    pub fn max_age(self, age: Duration) -> Self {
        self.with_requirement(|requirement| requirement.max_age = Some(age))
    }

    /// Accepts only sessions whose user authenticated within this time
    /// ([`SessionInfo::authenticated_at`](crate::SessionInfo::authenticated_at)). Others get 401 with
    /// `error="insufficient_user_authentication"` and `max_age` ([RFC 9470]). A session whose
    /// provider does not report the time is rejected as well. Defaults to no limit. The precision is
    /// one second.
    ///
    /// A session that would be rejected is validated again before, unless it was validated within the
    /// last 5 seconds.
    ///
    /// [RFC 9470]: https://www.rfc-editor.org/rfc/rfc9470
    #[must_use]
    pub fn max_authentication_age(self, age: Duration) -> Self {
        self.with_requirement(|requirement| requirement.max_authentication_age = Some(age))
    }

    /// Accepts only sessions whose user authenticated in one of these ways
    /// ([`SessionInfo::acr`](crate::SessionInfo::acr), compared as text). Others get 401 with
    /// `error="insufficient_user_authentication"` and `acr_values`, after they were validated again
    /// as by [`max_authentication_age`](Self::max_authentication_age). Defaults to any way.
    #[must_use]
    pub fn require_acr<T: Into<String>>(self, values: impl IntoIterator<Item = T>) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        self.with_requirement(|requirement| requirement.acr = values)
    }

    /// Passes on untouched each request for which the predicate returns `true`, whatever token it
    /// carries: health checks, metrics, a login page, or a method of gRPC. Such a request gets no
    /// `UserData` and no [`Rejection`], and a user that an outer layer inserted stays. If called
    /// several times, a request is exempt if any predicate returns `true`. Defaults to no request.
    ///
    /// With axum, add the layer with `route_layer` or to a nested router instead, where that is
    /// possible. tonic's `Server::builder().layer` covers all services.
    ///
    /// # Security
    ///
    /// Compare whole paths, or prefixes that end in `/` below which every route is public. The
    /// [path](RequestHead::uri) is not normalized.
    ///
    /// ```
    /// # use tower_session_cache::{SessionCacheLayer, SessionValidator};
    /// # fn exempt<V: SessionValidator>(sessions: SessionCacheLayer<V>) -> SessionCacheLayer<V> {
    /// sessions.exempt(|head| {
    ///     let path = head.uri().path();
    ///     path == "/metrics" || path.starts_with("/grpc.health.v1.Health/")
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn exempt<F>(self, predicate: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.with_policy(|policy| policy.exempt = Some(either(policy.exempt.take(), predicate)))
    }

    /// Sends every rejection as a plain HTTP response, even if the request looks like gRPC.
    /// Defaults to a gRPC response, which has the status 200, for any request that can be a gRPC
    /// call.
    ///
    /// Use it for routes that authenticate requests for a proxy (`auth_request` of nginx,
    /// `forwardAuth` of Traefik). Such a proxy takes any 2xx for permission and may pass on what
    /// the client claims about itself.
    #[must_use]
    pub fn http_only(self) -> Self {
        self.with_policy(|policy| policy.form_mut().http_only = true)
    }

    /// Sets where the layer looks for the token. Defaults to [`TokenSource::bearer`].
    #[must_use]
    pub fn with_token_source(self, source: TokenSource) -> Self {
        self.with_policy(|policy| policy.source = source)
    }

    /// Sets the parameters of the challenge in `WWW-Authenticate`: `realm`, `scope` and
    /// `resource_metadata`. Defaults to none.
    ///
    /// A response names the schemes that the token source reads. It has no challenge if the
    /// credential came in a cookie or in another header, or if the source reads only these.
    #[must_use]
    pub fn with_challenge(self, challenge: Challenge) -> Self {
        self.with_policy(|policy| policy.form_mut().challenge = Some(Arc::new(challenge)))
    }

    /// Sets the function that creates the response to a rejected request, for example a redirect to
    /// a login page. It also applies to [guards](crate::Guard) and extractors inside of the layer.
    /// Inside of several layers with such a function, the innermost counts. Defaults to
    /// [`Rejection::response`].
    ///
    /// The layer adds `Cache-Control: no-store` unless the response has the header, and inserts the
    /// [`Rejection`] into the extensions of the response.
    ///
    /// # Security
    ///
    /// The headers of the request contain tokens. A response to a rejected request must not be 2xx
    /// if a proxy decides by it ([forward auth](crate::docs::forward_auth)). A redirect must not
    /// lead to a host that the request names.
    ///
    /// ```
    /// use http::{Response, StatusCode, header};
    /// # use tower_session_cache::{SessionCacheLayer, SessionValidator};
    /// # fn hook<V: SessionValidator>(sessions: SessionCacheLayer<V>) -> SessionCacheLayer<V> {
    ///
    /// sessions.with_rejection_response(|rejection, head| {
    ///     let accept = head.headers().get(header::ACCEPT);
    ///     let is_browser = accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
    ///     let mut response = rejection.response(head);
    ///     if is_browser && rejection.status() == StatusCode::UNAUTHORIZED {
    ///         *response.status_mut() = StatusCode::SEE_OTHER;
    ///         let login = header::HeaderValue::from_static("/login");
    ///         response.headers_mut().insert(header::LOCATION, login);
    ///     }
    ///     response
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn with_rejection_response<F>(self, make: F) -> Self
    where
        F: Fn(&Rejection, &RequestHead<'_>) -> Response<Bytes> + Send + Sync + 'static,
    {
        self.with_policy(|policy| policy.form_mut().make_response = Some(Arc::new(make)))
    }

    /// Sets the namespace whose records this layer reads and writes, as
    /// [`SessionCache::with_namespace`] does. Defaults to the one chosen for the cache's handle, or
    /// else the [validator's](SessionValidator::namespace).
    ///
    /// # Security
    ///
    /// A name widens or narrows which layers share records: all layers with this name on this Redis
    /// do, whatever their validators are. See [`Namespace`].
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        Arc::make_mut(&mut self.shared)
            .resolver
            .set_namespace(namespace.into());
        self
    }

    fn with_requirement(self, change: impl FnOnce(&mut Requirement)) -> Self {
        self.with_policy(|policy| change(Arc::make_mut(policy.requirement.get_or_insert_default())))
    }

    fn with_policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(Arc::make_mut(&mut Arc::make_mut(&mut self.shared).policy));
        self
    }
}

/// The inner service must be `Clone`, because a waiting request takes the service that was polled
/// ready with it. The bound is stated here so that the compiler reports a violation where the layer
/// is applied.
impl<S: Clone, V> Layer<S> for SessionCacheLayer<V> {
    type Service = SessionCacheService<S, V>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionCacheService::new(inner, Arc::clone(&self.shared))
    }
}

impl<V> Clone for SessionCacheLayer<V> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<V> fmt::Debug for SessionCacheLayer<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCacheLayer")
            .field("policy", &self.shared.policy)
            .field("cache", self.shared.resolver.cache())
            .finish()
    }
}
