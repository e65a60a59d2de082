//! Service that reads the token, consults the cache, and then calls the inner service, waits or
//! rejects.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    body::ResponseBody,
    future::{Pending, ResponseFuture, insert_extensions},
    policy::Policy,
    rejection::Rejection,
};
use crate::{
    cache::{Accepted, Denied},
    model::UserData,
    resolver::{LocalResult, Resolver},
    validator::SessionValidator,
};

/// State that all services of one layer share.
pub(crate) struct Shared<V> {
    pub(crate) policy: Arc<Policy>,
    pub(crate) resolver: Resolver<V>,
}

impl<V> Clone for Shared<V> {
    fn clone(&self) -> Self {
        Self {
            policy: Arc::clone(&self.policy),
            resolver: self.resolver.clone(),
        }
    }
}

/// Service created by [`SessionCacheLayer`](crate::SessionCacheLayer).
///
/// It is ready when the inner service is ready, and it passes a request to the same instance that
/// was polled ready. Its errors are the inner service's errors, because a rejection is a response.
pub struct SessionCacheService<S, V> {
    inner: S,
    shared: Arc<Shared<V>>,
}

impl<S, V> SessionCacheService<S, V> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<V>>) -> Self {
        Self { inner, shared }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Consumes this service and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, V> SessionCacheService<S, V> {
    /// Takes the instance that was polled ready, to call it when the result is known.
    fn wait<ReqBody>(
        &mut self,
        request: Request<ReqBody>,
        place: usize,
        result: impl Future<Output = Result<Accepted, Denied>> + Send + 'static,
    ) -> ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        let spare = self.inner.clone();
        ResponseFuture::waiting(Pending {
            result: Box::pin(result),
            policy: Arc::clone(&self.shared.policy),
            place,
            service: std::mem::replace(&mut self.inner, spare),
            request,
        })
    }
}

impl<S, V, ReqBody, ResBody> Service<Request<ReqBody>> for SessionCacheService<S, V>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    V: SessionValidator,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Shared { policy, resolver } = &*self.shared;
        if policy.is_exempt(&request) {
            return ResponseFuture::passed(self.inner.call(request));
        }
        if let Some(form) = &policy.form {
            // Guards and extractors further inside reject in the same form.
            request.extensions_mut().insert(Arc::clone(form));
        }
        if let Some(user) = request.extensions().get::<UserData>()
            && (policy.trusts_outer_user || resolver.accepts_from_outside(user))
            && policy
                .requirement
                .as_ref()
                .is_none_or(|requirement| resolver.meets(requirement, user))
        {
            return ResponseFuture::passed(self.inner.call(request));
        }
        let token = policy.token(&mut request, |outer| resolver.token_from_outside(outer));
        let rejection = match token {
            Err(rejection) => rejection,
            Ok((token, place)) => {
                let token = resolver.canonical(token);
                if let Some(requirement) = &policy.requirement {
                    let others = policy.source.further_candidates(place, &request);
                    let (resolver, requirement) = (resolver.clone(), Arc::clone(requirement));
                    let result = resolver.resolve_recent(token, others, requirement);
                    return self.wait(request, place, result);
                }
                match resolver.try_local(&token) {
                    LocalResult::Ready(Ok(resolved)) => {
                        insert_extensions(&mut request, Accepted::first(token, resolved));
                        return ResponseFuture::passed(self.inner.call(request));
                    }
                    local => {
                        let others = policy.source.further_candidates(place, &request);
                        let resolver = resolver.clone();
                        match (local, others.is_empty()) {
                            (LocalResult::Ready(Err(denied)), true) => {
                                Rejection::denied(denied, policy.source.schemes(place))
                            }
                            (LocalResult::Pending(key), true) => {
                                return self.wait(request, place, resolver.resolve(token, key));
                            }
                            (local, _) => {
                                let result = resolver.resolve_candidates(token, local, others);
                                return self.wait(request, place, result);
                            }
                        }
                    }
                }
            }
        };
        match policy.refusal(rejection, &mut request) {
            Some(refusal) => {
                // The instance that was polled ready may have reserved capacity that other calls
                // wait for, and this request will not use it. Replacing the instance releases it.
                self.inner = self.inner.clone();
                ResponseFuture::refused(refusal)
            }
            None => ResponseFuture::passed(self.inner.call(request)),
        }
    }
}

impl<S: Clone, V> Clone for SessionCacheService<S, V> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: fmt::Debug, V> fmt::Debug for SessionCacheService<S, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCacheService")
            .field("inner", &self.inner)
            .field("policy", &self.shared.policy)
            .field("cache", self.shared.resolver.cache())
            .finish()
    }
}
