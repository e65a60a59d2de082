//! The layer: configured once, cheap to clone, wraps any service.

use std::{fmt, sync::Arc};

use http::HeaderMap;
use tower_layer::Layer;

use super::{
    policy::Policy,
    rejection::{Rejection, RejectionBody},
    service::{SessionCacheService, Shared},
};
use crate::{
    cache::SessionCache, model::Namespace, resolver::Resolver, token::TokenSource,
    validator::SessionValidator,
};

/// Authenticates requests by their session token.
///
/// A request that is let in carries [`UserData`](crate::UserData) and
/// [`SessionInfo`](crate::SessionInfo) in its extensions. One that is not is answered here
/// ([`Rejection`]) and never reaches the inner service.
///
/// A request that already carries `UserData` passes untouched if this layer would have let that
/// user in itself: an outer `SessionCacheLayer` of the same namespace put it there, and the
/// validator [accepts](SessionValidator::accepts) it. Any other `UserData` is ignored and replaced,
/// unless [`trust_outer_user`](Self::trust_outer_user) is called.
///
/// Cloning the layer is cheap, whatever the validator is. Layers that are clones of one another
/// share their validations in flight, so make further ones by `layer.clone().optional()`.
///
/// # Cancel safety
///
/// Dropping a response future is safe at any time. A validation that it began goes on in a task
/// of its own, for others that wait for it and for the cache.
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
    /// A layer that requires a session, takes the token from `Authorization: Bearer`, and refuses
    /// with empty bodies.
    ///
    /// Layers may share a cache. Each reads and writes the records of its validator's
    /// [namespace](SessionValidator::namespace), or that of the handle if
    /// [one was chosen](SessionCache::with_namespace) for it.
    pub fn new(cache: SessionCache, validator: V) -> Self {
        Self {
            shared: Arc::new(Shared {
                policy: Arc::new(Policy::required()),
                resolver: Resolver::new(cache, validator),
            }),
        }
    }

    /// Lets nobody in without a valid session. The default.
    #[must_use]
    pub fn required(self) -> Self {
        self.with_policy(|policy| policy.optional = false)
    }

    /// Lets requests without a session in, too: an absent or refused token passes on without
    /// `UserData` and `SessionInfo`, and the inner service decides. Why there is none is told by
    /// the [`Rejection`] in the request's extensions.
    ///
    /// A malformed token is still answered with 400, and 503 when nobody could decide: a user
    /// must not become anonymous because the identity provider is down.
    #[must_use]
    pub fn optional(self) -> Self {
        self.with_policy(|policy| policy.optional = true)
    }

    /// Passes a request that already carries [`UserData`](crate::UserData) untouched, whatever has
    /// put it there and whatever token it brings. Defaults to a lookup of this layer's own for
    /// users that it would not have let in itself.
    ///
    /// This is for a layer inside of another authentication that is as good as this one, such as
    /// client certificates, or one of two layers for two kinds of callers.
    ///
    /// # Security
    ///
    /// Neither the validator's rules nor its provider have a say about such a user.
    #[must_use]
    pub fn trust_outer_user(self) -> Self {
        self.with_policy(|policy| policy.trusts_outer_user = true)
    }

    /// Answers every refusal as HTTP, also those of requests that look like gRPC. Defaults to the
    /// form of gRPC for what can be a gRPC call, which has the status 200.
    ///
    /// Use it for routes that decide for a proxy (`auth_request` of nginx, `forwardAuth` of
    /// Traefik), which takes any 2xx for a yes and may hand on what the client says of itself.
    #[must_use]
    pub fn http_only(self) -> Self {
        self.with_policy(|policy| policy.http_only = true)
    }

    /// Sets where the token is looked for. Defaults to [`TokenSource::bearer`].
    #[must_use]
    pub fn with_token_source(self, source: TokenSource) -> Self {
        self.with_policy(|policy| policy.source = source)
    }

    /// Sets what the body of a refusal is, for example [`RejectionBody::problem_json`]; status
    /// and challenge stay. The hook sees the request's headers, tokens included, so that it can
    /// choose by `Accept`. Defaults to [`RejectionBody::empty`].
    ///
    /// A refusal with a body is answered as HTTP. For a service of HTTP and gRPC the hook returns
    /// [`RejectionBody::empty`] for what it wants answered as gRPC.
    #[must_use]
    pub fn with_rejection_body<F>(self, make: F) -> Self
    where
        F: Fn(&Rejection, &HeaderMap) -> RejectionBody + Send + Sync + 'static,
    {
        self.with_policy(|policy| policy.make_body = Some(Arc::new(make)))
    }

    /// Sets the namespace whose records this layer reads and writes, as
    /// [`SessionCache::with_namespace`] does. Defaults to the one chosen for the cache's handle, or
    /// else the [validator's](SessionValidator::namespace).
    ///
    /// # Security
    ///
    /// A name widens or narrows who shares records: all layers with this name on this Redis do,
    /// whatever their validators are. See [`Namespace`].
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        Arc::make_mut(&mut self.shared)
            .resolver
            .set_namespace(namespace.into());
        self
    }

    fn with_policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(Arc::make_mut(&mut Arc::make_mut(&mut self.shared).policy));
        self
    }
}

/// The inner service must be `Clone`, which is asked for here so that the compiler says so where
/// the layer is applied: a request that waits takes the service that was polled ready with it.
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
