//! Future of a request, which is passed on immediately, rejected immediately, or waits for a result
//! first.
//!
//! Only a request that must wait is boxed. Dropping the future at any point is safe: the validation
//! that it waits for continues for other requests, and the inner service was either called or not.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{body::ResponseBody, policy::Policy, rejection::Rejection};
use crate::{
    cache::{Accepted, Denied},
    model::{SessionInfo, UserData},
};

pin_project! {
    /// The response future of [`SessionCacheService`](crate::SessionCacheService).
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqBody, F> {
        Passed { #[pin] inner: F },
        Pending { waiting: Option<Box<Pending<S, ReqBody>>> },
        Refused { refusal: Option<Box<Response<Bytes>>> },
    }
}

/// A waiting request with everything that is needed to continue it.
pub(crate) struct Pending<S, ReqBody> {
    pub(crate) result: Pin<Box<dyn Future<Output = Result<Accepted, Denied>> + Send>>,
    pub(crate) policy: Arc<Policy>,
    /// Where the token was found.
    pub(crate) place: usize,
    /// The service that was polled ready, kept for this request.
    pub(crate) service: S,
    pub(crate) request: Request<ReqBody>,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(crate) fn passed(inner: S::Future) -> Self {
        Self {
            state: State::Passed { inner },
        }
    }

    pub(crate) fn waiting(waiting: Pending<S, ReqBody>) -> Self {
        Self {
            state: State::Pending {
                waiting: Some(Box::new(waiting)),
            },
        }
    }

    pub(crate) fn refused(refusal: Box<Response<Bytes>>) -> Self {
        Self {
            state: State::Refused {
                refusal: Some(refusal),
            },
        }
    }
}

/// Inserts the user of an accepted request, who leads to its session, into its extensions. One
/// value is cheaper than two.
#[inline]
pub(crate) fn insert_extensions<ReqBody>(request: &mut Request<ReqBody>, accepted: Accepted) {
    let Accepted {
        token,
        resolved,
        rejected_tokens,
    } = accepted;
    request.extensions_mut().insert(UserData::from(SessionInfo {
        token,
        origin: resolved.origin,
        expires_at: resolved.expires_at,
        stale: resolved.is_stale,
        rejected_tokens,
        user: resolved.user,
    }));
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Passed { inner } => {
                    return Poll::Ready(
                        ready!(inner.poll(cx)).map(|response| response.map(ResponseBody::inner)),
                    );
                }
                StateProj::Refused { refusal } => match refusal.take() {
                    Some(refusal) => return Poll::Ready(Ok(refusal.map(ResponseBody::rejection))),
                    // Polling after completion is a bug of the caller, but no reason to panic.
                    None => return Poll::Pending,
                },
                StateProj::Pending { waiting } => {
                    let Some(now) = waiting else {
                        return Poll::Pending;
                    };
                    let result = ready!(now.result.as_mut().poll(cx));
                    match waiting.take() {
                        Some(waiting) => waiting.finish(result),
                        None => return Poll::Pending,
                    }
                }
            };
            state.set(next);
        }
    }
}

impl<S, ReqBody> Pending<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn finish(mut self, result: Result<Accepted, Denied>) -> State<S, ReqBody, S::Future> {
        match result {
            Ok(accepted) => insert_extensions(&mut self.request, accepted),
            Err(denied) => {
                let schemes = self.policy.source.schemes(self.place);
                let rejection = Rejection::denied(denied, schemes);
                if let Some(refusal) = self.policy.refusal(rejection, &mut self.request) {
                    return State::Refused {
                        refusal: Some(refusal),
                    };
                }
            }
        }
        State::Passed {
            inner: self.service.call(self.request),
        }
    }
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Passed { .. } => "passed",
            State::Pending { .. } => "waiting",
            State::Refused { .. } => "refused",
        };
        f.debug_tuple("ResponseFuture").field(&state).finish()
    }
}
