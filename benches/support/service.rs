//! Service that costs nothing, and requests for it, so that only the layer around it is measured.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll, Waker},
};

use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use tower::Service;
use tower_session_cache::{Fill, Lookup, SessionCache, SessionToken, UserData, ValidatedSession};

#[derive(Clone)]
pub struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        black_box(&request);
        ready(Ok(Response::new(())))
    }
}

/// Returns the output of a future that has nothing to wait for.
pub fn now<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits for something"),
    }
}

/// Returns a token of 64 bytes.
pub fn token(n: usize) -> String {
    format!("token-{n:058}")
}

pub fn bearer(n: usize) -> HeaderValue {
    HeaderValue::try_from(format!("Bearer {}", token(n))).unwrap()
}

pub fn request(bearer: &HeaderValue) -> Request<()> {
    let mut request = Request::new(());
    request.headers_mut().insert(AUTHORIZATION, bearer.clone());
    request
}

pub fn user(n: usize) -> UserData {
    UserData::builder(format!("user-{n}"))
        .email("ada@example.com")
        .name("Ada")
        .build()
}

/// Stores sessions for the first `sessions` tokens.
pub async fn fill(cache: &SessionCache, sessions: usize) {
    for n in 0..sessions {
        let token = SessionToken::parse(token(n)).unwrap();
        let Lookup::Miss(ticket) = cache.get(&token).await else {
            panic!("stored already")
        };
        let stored = cache.set(ticket, &ValidatedSession::new(user(n))).await;
        assert!(matches!(stored, Fill::Stored));
    }
}
