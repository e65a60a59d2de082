//! Guards: requirements on the user of a request, as a layer inside of the session layer and as a
//! check in handlers.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use pin_project_lite::pin_project;
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::ResponseBody,
    challenge::quoted,
    form::respond,
    rejection::{Rejection, RejectionKind},
};
use crate::{
    model::UserData,
    telemetry::LAYER,
    token::{Predicate, RequestHead, Schemes, both},
    validator::ForbiddenReason,
};

/// A requirement on the user of a request. Apply it as a layer inside of a
/// [`SessionCacheLayer`](crate::SessionCacheLayer), or [check](Self::authorize) it in a handler.
/// With the feature `axum`, `Permitted` is the same as an argument of a handler.
///
/// A request without a user is rejected with the reason that the session layer has found: 401, or
/// 403 for a user who is forbidden. A user who does not meet the requirement gets 403, and a gRPC
/// call `PERMISSION_DENIED`. The response has the form that the session layer sets, with
/// [`with_rejection_response`](crate::SessionCacheLayer::with_rejection_response) for example.
///
/// The requirement is checked for each request, with the user as it is cached: a role that the
/// provider withdraws ends with the TTL, or with
/// [`invalidate_user`](crate::SessionCache::invalidate_user).
///
/// ```
/// use tower_session_cache::{ForbiddenReason, Guard, UserData};
///
/// let guard = Guard::scope("orders:write").or(Guard::role("admin"));
///
/// let clerk = UserData::builder("u1").attribute("scope", "orders:read orders:write").build();
/// assert_eq!(guard.check(&clerk), Ok(()));
/// assert_eq!(guard.check(&UserData::new("u2")), Err(ForbiddenReason::InsufficientScope));
/// ```
///
/// On a route of axum, and for one service of tonic:
///
/// ```
/// # use axum::{Router, routing::get};
/// # use tower_session_cache::{Guard, SessionCacheLayer, SessionValidator};
/// # fn routes<V: SessionValidator>(sessions: SessionCacheLayer<V>) -> Router {
/// Router::new()
///     .route("/admin", get(async || "secret"))
///     .route_layer(Guard::role("admin"))
///     .route("/me", get(async || "public"))
///     .layer(sessions)
/// # }
/// ```
#[derive(Clone)]
#[must_use = "it does nothing until it is applied as a layer or a user is checked with it"]
pub struct Guard {
    rule: Arc<Rule>,
    reason: Option<ForbiddenReason>,
    condition: Option<Arc<Predicate>>,
}

#[derive(Debug)]
enum Rule {
    Single(Requirement),
    Both(Guard, Guard),
    Either(Guard, Guard),
}

enum Requirement {
    SignedIn,
    Role(String),
    Scope(String),
    Attribute(String, Value),
    Custom(Box<dyn Fn(&UserData) -> bool + Send + Sync>),
}

/// Why a requirement is not met.
enum Denial {
    NoUser,
    Forbidden {
        reason: ForbiddenReason,
        /// Parameters of the challenge.
        details: Option<Arc<str>>,
    },
}

impl Guard {
    /// Requires a user, of any kind. Use it inside of layers in `optional` mode.
    pub fn signed_in() -> Self {
        Self::single(Requirement::SignedIn)
    }

    /// Requires a role: the user's [tier](UserData::tier), or an element of the attribute `roles`.
    /// The attribute is a list of strings or one string.
    ///
    /// Providers that put roles elsewhere need [`attribute`](Self::attribute): with Keycloak it is
    /// `Guard::attribute("realm_access.roles", "admin")`.
    pub fn role(name: impl Into<String>) -> Self {
        Self::single(Requirement::Role(name.into()))
    }

    /// Requires scopes, separated by spaces, in the attribute `scope`: a string with spaces or a
    /// list of strings, as `IntrospectionValidator` stores it. A user without them is rejected with
    /// [`ForbiddenReason::InsufficientScope`] and a challenge that names the scopes.
    pub fn scope(scopes: impl Into<String>) -> Self {
        Self::single(Requirement::Scope(scopes.into()))
    }

    /// Requires an [attribute](UserData::attributes) with this value, or a list that contains it. A
    /// name with dots is a path if no attribute has the whole name.
    ///
    /// # Security
    ///
    /// Some providers let users edit a part of their attributes.
    pub fn attribute(name: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::single(Requirement::Attribute(name.into(), value.into()))
    }

    /// Requires what the closure decides. It must not block.
    pub fn new<F>(is_permitted: F) -> Self
    where
        F: Fn(&UserData) -> bool + Send + Sync + 'static,
    {
        Self::single(Requirement::Custom(Box::new(is_permitted)))
    }

    /// Requires `other` as well. The reason is that of the first one that is not met.
    pub fn and(self, other: Self) -> Self {
        Self::of(Rule::Both(self, other))
    }

    /// Requires this guard or `other`. If neither is met, the reason is that of this guard.
    pub fn or(self, other: Self) -> Self {
        Self::of(Rule::Either(self, other))
    }

    /// Requires this guard only of requests for which the predicate returns `true`, for routes that
    /// share one layer, such as the methods of a gRPC service. Other requests meet it, also without
    /// a user. [`check`](Self::check) and [`authorize`](Self::authorize) do not see the request and
    /// always require the guard.
    pub fn only_if<F>(mut self, predicate: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.condition = Some(both(self.condition, predicate));
        self
    }

    /// Sets the reason for a user who does not meet the requirement, such as
    /// [`ForbiddenReason::Custom`]. Defaults to [`ForbiddenReason::Other`], and for
    /// [`scope`](Self::scope) to [`ForbiddenReason::InsufficientScope`].
    pub fn with_reason(mut self, reason: ForbiddenReason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Checks a user.
    ///
    /// # Errors
    ///
    /// Returns the reason if the user does not meet the requirement.
    pub fn check(&self, user: &UserData) -> Result<(), ForbiddenReason> {
        match self.decide(Some(user), None) {
            Err(Denial::Forbidden { reason, .. }) => Err(reason),
            Ok(()) | Err(Denial::NoUser) => Ok(()),
        }
    }

    /// Returns the user of a request if the user meets the requirement. Call it in a gRPC method,
    /// with `request.extensions()` of tonic:
    ///
    /// ```
    /// use tonic::{Request, Response, Status};
    /// use tower_session_cache::{Guard, Rejection};
    ///
    /// fn status(rejection: Rejection) -> Status {
    ///     Status::new(rejection.grpc_code().into(), rejection.to_string())
    /// }
    ///
    /// async fn hello(request: Request<String>) -> Result<Response<String>, Status> {
    ///     let user = Guard::signed_in().authorize(request.extensions()).map_err(status)?;
    ///     Ok(Response::new(format!("Hello, {}!", user.name())))
    /// }
    /// # let _ = hello;
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the rejection of a request without a user or with a user who does not meet the
    /// requirement.
    pub fn authorize<'a>(&self, extensions: &'a Extensions) -> Result<&'a UserData, Rejection> {
        let user = extensions.get::<UserData>();
        let decision = self.decide(user, None);
        match user {
            Some(user) if decision.is_ok() => Ok(user),
            _ => Err(rejection(decision, extensions, Schemes::NONE)),
        }
    }

    /// Returns the rejection of a request that does not meet the requirement.
    pub(crate) fn admit(&self, head: &RequestHead<'_>) -> Result<(), Rejection> {
        let extensions = head.extensions();
        match self.decide(extensions.get(), Some(head)) {
            Ok(()) => Ok(()),
            denied => {
                let schemes = Schemes::sent_in(head.headers());
                Err(rejection(denied, extensions, schemes))
            }
        }
    }

    fn decide(
        &self,
        user: Option<&UserData>,
        head: Option<&RequestHead<'_>>,
    ) -> Result<(), Denial> {
        if let (Some(condition), Some(head)) = (&self.condition, head)
            && !condition(head)
        {
            return Ok(());
        }
        let denial = match &*self.rule {
            Rule::Both(first, second) => match first.decide(user, head) {
                Ok(()) => second.decide(user, head).err(),
                Err(denial) => Some(denial),
            },
            Rule::Either(first, second) => match first.decide(user, head) {
                Err(denial) if second.decide(user, head).is_err() => Some(denial),
                _ => None,
            },
            Rule::Single(requirement) => requirement.denial(user),
        };
        match denial {
            None => Ok(()),
            Some(Denial::Forbidden { reason, details }) => Err(Denial::Forbidden {
                reason: self.reason.unwrap_or(reason),
                details,
            }),
            Some(Denial::NoUser) => Err(Denial::NoUser),
        }
    }

    fn single(requirement: Requirement) -> Self {
        Self::of(Rule::Single(requirement))
    }

    fn of(rule: Rule) -> Self {
        Self {
            rule: Arc::new(rule),
            reason: None,
            condition: None,
        }
    }
}

/// Returns the rejection of a request that a guard has denied, or which has no user.
fn rejection(denied: Result<(), Denial>, extensions: &Extensions, schemes: Schemes) -> Rejection {
    match denied {
        Err(Denial::Forbidden { reason, details }) => {
            Rejection::new(RejectionKind::Forbidden(reason), schemes).with_details(details)
        }
        Err(Denial::NoUser) | Ok(()) => {
            let found = extensions.get::<Rejection>().cloned();
            found.unwrap_or_else(without_layer)
        }
    }
}

/// Returns the rejection of a request that no session layer has seen.
#[cold]
fn without_layer() -> Rejection {
    tracing::error!(
        target: LAYER,
        hint = "put the guard inside of `SessionCacheLayer`, and on no route that is exempt",
        "guard found no session layer"
    );
    Rejection::new(RejectionKind::Missing, Schemes::BEARER)
}

impl Requirement {
    fn denial(&self, user: Option<&UserData>) -> Option<Denial> {
        let Some(user) = user else {
            return Some(Denial::NoUser);
        };
        let is_met = match self {
            Self::SignedIn => true,
            Self::Role(name) => {
                user.tier() == name || has_attribute(user, "roles", &name.as_str().into())
            }
            Self::Scope(scopes) => {
                let granted = user.attributes().get("scope");
                scopes
                    .split_ascii_whitespace()
                    .all(|scope| granted.is_some_and(|granted| contains_scope(granted, scope)))
            }
            Self::Attribute(name, value) => has_attribute(user, name, value),
            Self::Custom(is_permitted) => is_permitted(user),
        };
        (!is_met).then(|| match self {
            Self::Scope(scopes) => Denial::Forbidden {
                reason: ForbiddenReason::InsufficientScope,
                details: Some(quoted("scope", scopes).into()),
            },
            _ => Denial::Forbidden {
                reason: ForbiddenReason::Other,
                details: None,
            },
        })
    }
}

fn contains_scope(granted: &Value, scope: &str) -> bool {
    match granted {
        Value::String(text) => text.split_ascii_whitespace().any(|found| found == scope),
        Value::Array(scopes) => scopes.iter().any(|found| found == scope),
        _ => false,
    }
}

fn has_attribute(user: &UserData, name: &str, value: &Value) -> bool {
    let attributes = user.attributes();
    let found = attributes.get(name).or_else(|| {
        let mut names = name.split('.');
        let first = attributes.get(names.next()?)?;
        names.try_fold(first, |found, name| found.get(name))
    });
    match found {
        Some(Value::Array(values)) if !value.is_array() => values.contains(value),
        found => found == Some(value),
    }
}

impl fmt::Debug for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignedIn => f.write_str("SignedIn"),
            Self::Role(name) => f.debug_tuple("Role").field(name).finish(),
            Self::Scope(scopes) => f.debug_tuple("Scope").field(scopes).finish(),
            Self::Attribute(name, _) => f.debug_tuple("Attribute").field(name).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_condition = self.condition.is_some();
        f.debug_struct("Guard")
            .field("rule", &self.rule)
            .field("reason", &self.reason)
            .field("has_condition", &has_condition)
            .finish()
    }
}

impl<S> Layer<S> for Guard {
    type Service = GuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService {
            inner,
            guard: self.clone(),
        }
    }
}

/// Service created by [`Guard`].
#[derive(Clone, Debug)]
pub struct GuardService<S> {
    inner: S,
    guard: Guard,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for GuardService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = GuardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let head = RequestHead::from(&request);
        let state = match self.guard.admit(&head) {
            Ok(()) => State::Passed {
                inner: self.inner.call(request),
            },
            Err(rejection) => State::Refused {
                response: Some(Box::new(respond(rejection, &head))),
            },
        };
        GuardFuture { state }
    }
}

pin_project! {
    /// The response future of [`GuardService`].
    pub struct GuardFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Passed { #[pin] inner: F },
        Refused { response: Option<Box<Response<Bytes>>> },
    }
}

impl<F, ResBody, E> Future for GuardFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Passed { inner } => Poll::Ready(
                ready!(inner.poll(cx)).map(|response| response.map(ResponseBody::inner)),
            ),
            StateProj::Refused { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(ResponseBody::rejection))),
                // Polling after completion is a bug of the caller, but no reason to panic.
                None => Poll::Pending,
            },
        }
    }
}

impl<F> fmt::Debug for GuardFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Passed { .. } => "passed",
            State::Refused { .. } => "refused",
        };
        f.debug_tuple("GuardFuture").field(&state).finish()
    }
}
