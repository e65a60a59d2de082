//! The layer combined with services that are not always ready: it reserves no more capacity than it
//! uses, and releases what a request did not use.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::Semaphore;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer,
    limit::GlobalConcurrencyLimitLayer as Limit, service_fn,
};
use tower_session_cache::{SessionCache, SessionCacheLayer, UserData};
use tower_test::mock;

use crate::support::{probe::Probe, soon, until};

type Answer = Response<Empty<Bytes>>;

fn layer(probe: &Probe) -> SessionCacheLayer<Probe> {
    SessionCacheLayer::new(SessionCache::builder().build().unwrap(), probe.clone())
}

fn with_token(token: &str) -> Request<()> {
    Request::builder()
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(())
        .unwrap()
}

async fn inner(_: Request<()>) -> Result<Answer, Infallible> {
    Ok(Response::new(Empty::new()))
}

#[tokio::test]
async fn layer_is_woken_when_the_inner_service_becomes_ready() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<()>, Answer, _>(layer(&Probe::new()));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    assert!(!service.is_woken());
    handle.allow(1);
    assert!(service.is_woken());
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));

    let answer = tokio::spawn(service.call(with_token("t")));
    let (request, respond) = soon("the request", handle.next_request()).await.unwrap();
    assert_eq!(request.extensions().get::<UserData>().unwrap().id(), "ada");
    assert!(service.poll_ready().is_pending());
    respond.send_response(Response::new(Empty::new()));
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn waiting_caller_receives_the_error_of_the_inner_service() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<()>, Answer, _>(layer(&Probe::new()));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.send_error("broken");
    assert!(service.is_woken());
    let Poll::Ready(Err(error)) = service.poll_ready() else {
        panic!("no error was returned")
    };
    assert!(error.to_string().contains("broken"), "{error}");
}

#[tokio::test]
async fn dropped_request_releases_its_concurrency_permit() {
    for limit_is_inside in [false, true] {
        let places = Arc::new(Semaphore::new(1));
        let limit = Limit::with_semaphore(Arc::clone(&places));
        let probe = Probe::new();
        probe.hold();
        let service = service_fn(inner);
        let (abandoned, next) = if limit_is_inside {
            let service = layer(&probe).layer(limit.layer(service));
            (
                tokio::spawn(service.clone().oneshot(with_token("a"))),
                tokio::spawn(service.oneshot(with_token("b"))),
            )
        } else {
            let service = limit.layer(layer(&probe).layer(service));
            (
                tokio::spawn(service.clone().oneshot(with_token("a"))),
                tokio::spawn(service.oneshot(with_token("b"))),
            )
        };
        probe.wait_for_calls(1).await;
        assert_eq!(places.available_permits(), 0, "held while it waits");
        abandoned.abort();
        assert!(abandoned.await.unwrap_err().is_cancelled());
        probe.let_go();
        let answer = soon("the next request", next).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(places.available_permits(), 1);
    }
}

#[tokio::test]
async fn rejected_request_releases_its_concurrency_permit() {
    let places = Arc::new(Semaphore::new(1));
    let service = ServiceBuilder::new()
        .layer(layer(&Probe::new()))
        .layer(Limit::with_semaphore(Arc::clone(&places)))
        .service_fn(inner);
    // Two handles, as for two connections, and both are kept.
    let (mut first, mut second) = (service.clone(), service);
    let refused = first.ready().await.unwrap().call(Request::new(()));
    assert_eq!(refused.await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let answer = async { second.ready().await.unwrap().call(with_token("t")).await };
    let answer = soon("a place", answer).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = async { first.ready().await.unwrap().call(with_token("t")).await };
    let answer = soon("a place", answer).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(places.available_permits(), 1);
}

/// Callers start and give up at random, through every kind of bottleneck at the same time. No
/// caller that stays waits forever, the handler is called only for authenticated requests, and all
/// permits are released afterwards.
#[tokio::test]
async fn buffers_and_limits_around_and_inside_do_not_deadlock() {
    let seed = std::env::var("SESSION_CACHE_SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("SESSION_CACHE_SEED is a number"),
    );
    println!("SESSION_CACHE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let probe = Probe::new();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let handler = service_fn(move |request: Request<()>| {
        let count = Arc::clone(&count);
        async move {
            assert!(request.extensions().get::<UserData>().is_some());
            tokio::task::yield_now().await;
            count.fetch_add(1, SeqCst);
            inner(request).await
        }
    });
    let (outside, inside) = (Arc::new(Semaphore::new(3)), Arc::new(Semaphore::new(2)));
    let service = ServiceBuilder::new()
        .layer(Limit::with_semaphore(Arc::clone(&outside)))
        .layer(layer(&probe))
        .layer(Limit::with_semaphore(Arc::clone(&inside)))
        .service(Buffer::new(handler, 1));
    let service = Buffer::new(service, 1);

    let mut staying = Vec::new();
    for n in 0..600 {
        let token = format!("t-{}", random.random_range(0..40));
        let request = match random.random_range(0..10) {
            0 => Request::new(()),
            1 => with_token("a,b"),
            _ => with_token(&token),
        };
        match random.random_range(0..8) {
            0 => probe.hold(),
            1 => probe.let_go(),
            _ => {}
        }
        let status = match request.headers().get(header::AUTHORIZATION) {
            None => StatusCode::UNAUTHORIZED,
            Some(value) if value == "Bearer a,b" => StatusCode::BAD_REQUEST,
            Some(_) => StatusCode::OK,
        };
        let call = tokio::spawn(service.clone().oneshot(request));
        for _ in 0..random.random_range(0..6) {
            tokio::task::yield_now().await;
        }
        if random.random_bool(0.4) {
            call.abort();
        } else {
            staying.push((n, status, call));
        }
    }
    probe.let_go();
    let mut let_in = 0;
    for (n, status, call) in staying {
        let answer = soon("a caller that stayed", call).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "request {n}");
        let_in += usize::from(status == StatusCode::OK);
    }
    assert!(served.load(SeqCst) >= let_in && let_in > 0);
    until("all permits", || {
        (outside.available_permits(), inside.available_permits()) == (3, 2)
    })
    .await;
    let last = service.oneshot(with_token("last"));
    let answer = soon("one more request", last).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}
