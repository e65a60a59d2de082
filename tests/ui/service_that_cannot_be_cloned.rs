//~ the trait bound `Once: Clone` is not satisfied
//~ to implement `Layer<Once>`

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::{Layer, Service, ServiceExt};
use tower_session_cache::*;

pub struct Once;

impl Service<Request<()>> for Once {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::new(String::new())))
    }
}

pub async fn call<V: SessionValidator>(layer: SessionCacheLayer<V>) {
    let _ = layer.layer(Once).oneshot(Request::new(())).await;
}
