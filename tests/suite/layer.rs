//! The layer around plain tower services: which requests pass, how others are rejected, and what a
//! dropped request leaves behind.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_session_cache::{
    Authority, ErasedValidator, ForbiddenReason, Namespace, Origin, Rejection, RejectionKind,
    ResponseBody, ResponseFuture, SessionCache, SessionCacheLayer, SessionCacheService,
    SessionInfo, SessionToken, SessionValidator, TokenError, TokenSource, UserData,
    ValidatedSession, ValidationError, testing::ManualClock, validator_fn,
};

use crate::support::{
    probe::{Probe, session},
    soon, until,
};

type Answer = Response<ResponseBody<Full<Bytes>>>;

fn cache() -> SessionCache {
    SessionCache::builder().build().unwrap()
}

fn with_token(token: &str) -> Request<()> {
    Request::builder()
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(())
        .unwrap()
}

/// Responds with the user's ID, `-` without a user, and counts its calls.
#[derive(Clone, Default)]
struct Inner {
    calls: Arc<AtomicUsize>,
    ready: bool,
}

impl Service<Request<()>> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(self.ready, "called without having been polled ready");
        self.ready = false;
        self.calls.fetch_add(1, SeqCst);
        let user = request.extensions().get::<UserData>();
        let body = user.map_or("-", UserData::id).to_owned();
        let mut response = Response::new(Full::from(body));
        *response.headers_mut() = request.headers().clone();
        if let Some(user) = request.extensions().get::<UserData>() {
            response.extensions_mut().insert(user.clone());
        }
        std::future::ready(Ok(response))
    }
}

async fn ask<V: SessionValidator>(layer: &SessionCacheLayer<V>, request: Request<()>) -> Answer {
    let answer = layer.layer(Inner::default()).oneshot(request);
    soon("a response", answer).await.unwrap()
}

async fn text(answer: Answer) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn challenge(answer: &Answer) -> Option<&str> {
    let value = answer.headers().get(header::WWW_AUTHENTICATE)?;
    Some(value.to_str().unwrap())
}

fn rejected(answer: &Answer) -> RejectionKind {
    answer
        .extensions()
        .get::<Rejection>()
        .expect("a rejection")
        .kind()
}

#[tokio::test]
async fn header_values_with_tokens_are_marked_sensitive() {
    let closure = TokenSource::from_fn(|head| TokenSource::cookie("s").extract(head));
    for source in [TokenSource::cookie("s"), closure] {
        let layer = SessionCacheLayer::new(cache(), Probe::new()).with_token_source(source);
        let request = Request::builder()
            .header(header::COOKIE, "s=t-1")
            .header(header::COOKIE, "s=t-1; theme=dark")
            .header(header::ACCEPT, "text/html");
        let answer = ask(&layer, request.body(()).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let cookies = answer.headers().get_all(header::COOKIE).iter();
        assert_eq!(cookies.filter(|value| value.is_sensitive()).count(), 2);
        assert!(!answer.headers()[header::ACCEPT].is_sensitive());
    }
}

#[tokio::test]
async fn valid_session_passes_and_is_in_the_extensions() {
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache(), probe.clone());

    for origin in [Origin::Validator, Origin::Local, Origin::Local] {
        let answer = ask(&layer, with_token("t-1")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let info = answer
            .extensions()
            .get::<UserData>()
            .and_then(UserData::session)
            .unwrap();
        assert_eq!(info.token().expose_secret(), "t-1");
        assert_eq!(info.origin(), origin);
        assert_eq!(info.expires_at(), None);
        assert!(!info.is_stale());
        assert!(answer.headers()[header::AUTHORIZATION].is_sensitive());
        assert_eq!(text(answer).await, "ada");
    }
    assert_eq!(probe.calls(), 1);
}

#[tokio::test]
async fn rejections_have_the_status_and_challenge_of_rfc_6750() {
    let retry = Duration::from_millis(1_500);
    let probe = Probe::answering(move |token| {
        Err(match token {
            "invalid" => ValidationError::invalid(),
            "blocked" => ValidationError::forbidden(ForbiddenReason::Blocked),
            "down" => ValidationError::unavailable("connection refused"),
            "later" => ValidationError::unavailable("throttled").with_retry_after(retry),
            _ => ValidationError::misconfigured("no such project"),
        })
    });
    let layer = SessionCacheLayer::new(cache(), probe);
    let invalid = Some(r#"Bearer error="invalid_token""#);
    let blocked = RejectionKind::Forbidden(ForbiddenReason::Blocked);
    let table = [
        ("invalid", 401, RejectionKind::Invalid, invalid, None),
        ("blocked", 403, blocked, None, None),
        ("down", 503, RejectionKind::Unavailable, None, Some("2")),
        ("later", 503, RejectionKind::Unavailable, None, Some("2")),
        ("wrong", 503, RejectionKind::Unavailable, None, Some("2")),
    ];
    for (token, status, kind, expected, retry_after) in table {
        let answer = ask(&layer, with_token(token)).await;
        assert_eq!(answer.status(), status, "{token}");
        assert_eq!(rejected(&answer), kind, "{token}");
        assert_eq!(challenge(&answer), expected, "{token}");
        let after = answer.headers().get(header::RETRY_AFTER);
        assert_eq!(
            after.map(|value| value.to_str().unwrap()),
            retry_after,
            "{token}"
        );
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(text(answer).await, "");
    }

    let answer = ask(&layer, Request::new(())).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(rejected(&answer), RejectionKind::Missing);
    assert_eq!(
        challenge(&answer),
        Some("Bearer"),
        "no error code without a token"
    );
}

#[tokio::test]
async fn retry_after_is_rounded_up_to_whole_seconds() {
    for (hint, seconds) in [
        (0, "1"),
        (1, "1"),
        (1_000, "1"),
        (1_001, "2"),
        (3_600_000, "3600"),
    ] {
        let hint = Duration::from_millis(hint);
        let probe = Probe::answering(move |_| {
            Err(ValidationError::unavailable("throttled").with_retry_after(hint))
        });
        let layer = SessionCacheLayer::new(cache(), probe);
        let answer = ask(&layer, with_token("t")).await;
        assert_eq!(answer.headers()[header::RETRY_AFTER], seconds);
    }
}

#[tokio::test]
async fn malformed_credentials_get_400_and_are_not_validated() {
    let long = format!("Bearer {}", "x".repeat(16_385));
    let authorization: [(&[&[u8]], TokenError); 5] = [
        (&[b"Bearer a", b"Bearer a"], TokenError::Repeated),
        (&[b"", b"Bearer a"], TokenError::Repeated),
        (&[b"Bearer a, Bearer b"], TokenError::List),
        (&[b"Bearer \xff"], TokenError::InvalidByte),
        (&[long.as_bytes()], TokenError::TooLong),
    ];
    for (values, error) in authorization {
        let probe = Probe::new();
        let required = SessionCacheLayer::new(cache(), probe.clone());
        for layer in [required.clone(), required.optional()] {
            let mut request = Request::new(());
            for value in values {
                let value = HeaderValue::from_bytes(value).unwrap();
                request.headers_mut().append(header::AUTHORIZATION, value);
            }
            let answer = ask(&layer, request).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{error}");
            assert_eq!(rejected(&answer), RejectionKind::Malformed(error));
            assert_eq!(
                challenge(&answer),
                Some(r#"Bearer error="invalid_request""#)
            );
        }
        assert_eq!(probe.calls(), 0, "{error}");
    }
}

#[tokio::test]
async fn optional_layer_passes_missing_and_rejected_tokens_only() {
    let probe = Probe::answering(|token| match token {
        "good" => Ok(session("ada")),
        "invalid" => Err(ValidationError::invalid()),
        "blocked" => Err(ValidationError::forbidden(ForbiddenReason::Blocked)),
        _ => Err(ValidationError::unavailable("down")),
    });
    let cache = cache();
    let layer = SessionCacheLayer::new(cache.clone(), probe).optional();
    let revoked = SessionToken::parse("revoked").unwrap();
    let _ = cache.revoke_token(&revoked).await.unwrap();

    assert_eq!(text(ask(&layer, Request::new(())).await).await, "-");
    for token in ["invalid", "blocked", "revoked"] {
        let answer = ask(&layer, with_token(token)).await;
        assert!(
            answer
                .extensions()
                .get::<UserData>()
                .and_then(UserData::session)
                .is_none()
        );
        assert_eq!(text(answer).await, "-", "{token}");
    }
    assert_eq!(text(ask(&layer, with_token("good")).await).await, "ada");
    assert_eq!(ask(&layer, with_token("down")).await.status(), 503);
    assert_eq!(ask(&layer.required(), Request::new(())).await.status(), 401);
}

#[tokio::test]
async fn request_with_a_trusted_outer_user_passes_unchanged() {
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache(), probe.clone()).trust_outer_user();
    let mut request = with_token("t");
    request.extensions_mut().insert(UserData::new("machine"));
    let answer = ask(&layer, request).await;
    assert!(!answer.headers()[header::AUTHORIZATION].is_sensitive());
    assert!(
        answer
            .extensions()
            .get::<UserData>()
            .and_then(UserData::session)
            .is_none()
    );
    assert_eq!(text(answer).await, "machine");
    assert_eq!(probe.calls(), 0);
}

#[tokio::test]
async fn rejection_hook_determines_the_response() {
    let layer = SessionCacheLayer::new(cache(), Probe::new());
    let problems = layer
        .clone()
        .with_rejection_response(Rejection::problem_json);
    let answer = ask(&problems, Request::new(())).await;
    assert_eq!(
        answer.headers()[header::CONTENT_TYPE],
        "application/problem+json"
    );
    let problem: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
    let expected = serde_json::json!({
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "a session token is required",
        "reason": "missing_token",
    });
    assert_eq!(problem, expected);

    let custom = layer.with_rejection_response(|rejection, head| {
        let language = head.headers()[header::ACCEPT_LANGUAGE].to_str().unwrap();
        let body = format!("{language} {}", rejection.reason());
        Response::builder().status(418).body(body.into()).unwrap()
    });
    let mut request = Request::new(());
    let german = HeaderValue::from_static("de");
    request
        .headers_mut()
        .insert(header::ACCEPT_LANGUAGE, german);
    let answer = ask(&custom, request).await;
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(rejected(&answer), RejectionKind::Missing);
    assert_eq!(text(answer).await, "de missing_token");
}

#[tokio::test]
async fn service_that_was_polled_ready_is_the_one_called() {
    // `Inner` panics if an instance is called that was not itself polled ready.
    let probe = Probe::new();
    let mut service = SessionCacheLayer::new(cache(), probe).layer(Inner::default());
    for _ in 0..3 {
        let waits = service.ready().await.unwrap().call(with_token("t"));
        waits.await.unwrap();
    }
    let first = service.ready().await.unwrap().call(with_token("u"));
    let second = service.ready().await.unwrap().call(with_token("u"));
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(service.get_ref().calls.load(SeqCst), 5);
}

#[tokio::test]
async fn readiness_and_errors_come_from_the_inner_service() {
    let layer = SessionCacheLayer::new(cache(), Probe::new());
    let (mock, mut handle) = tower_test::mock::pair::<Request<()>, Response<Empty<Bytes>>>();
    let mut service = layer.layer(mock);
    handle.allow(0);
    assert!(poll_once(service.ready()).is_pending());
    handle.allow(1);
    service.ready().await.unwrap();
    let answer = tokio::spawn(service.call(with_token("t")));
    let (request, respond) = soon("the request", handle.next_request()).await.unwrap();
    assert_eq!(request.extensions().get::<UserData>().unwrap().id(), "ada");
    respond.send_error("the handler's own");
    let error: BoxError = answer.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the handler's own");

    handle.send_error("broken");
    let Err(error) = service.ready().await else {
        panic!("ready, though the inner service is broken")
    };
    assert!(error.to_string().contains("broken"), "{error}");
}

#[tokio::test]
async fn rejected_request_never_reaches_the_inner_service() {
    let inner = Inner::default();
    let layer = SessionCacheLayer::new(
        cache(),
        Probe::answering(|_| Err(ValidationError::invalid())),
    );
    let refused = layer.layer(inner.clone()).oneshot(with_token("t")).await;
    assert_eq!(refused.unwrap().status(), 401);
    assert_eq!(inner.calls.load(SeqCst), 0);
}

#[tokio::test]
async fn concurrent_requests_for_one_token_share_one_validation() {
    let probe = Probe::new();
    let cache = cache();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let answers: Vec<_> = (0..300)
        .map(|_| {
            let layer = layer.clone();
            tokio::spawn(async move { ask(&layer, with_token("t")).await.status() })
        })
        .collect();
    until("all requests to wait", || cache.stats().misses == 300).await;
    assert_eq!(cache.stats().validations_in_flight, 1);
    probe.let_go();
    for answer in answers {
        assert_eq!(soon("a response", answer).await.unwrap(), 200);
    }
    assert_eq!(probe.calls(), 1);
    let stats = cache.stats();
    assert_eq!((stats.coalesced, stats.validations_in_flight), (299, 0));
}

#[tokio::test]
async fn dropped_request_does_not_cancel_its_validation() {
    let probe = Probe::new();
    let cache = cache();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let first = tokio::spawn({
        let layer = layer.clone();
        async move { ask(&layer, with_token("t")).await.status() }
    });
    probe.wait_for_calls(1).await;
    let second = tokio::spawn({
        let layer = layer.clone();
        async move { ask(&layer, with_token("t")).await.status() }
    });
    until("the second to join", || cache.stats().coalesced == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    probe.let_go();
    assert_eq!(soon("the second response", second).await.unwrap(), 200);

    // Even if no request is left, the result is stored.
    probe.hold();
    let only = tokio::spawn(async move { ask(&layer, with_token("u")).await.status() });
    probe.wait_for_calls(2).await;
    only.abort();
    assert!(only.await.unwrap_err().is_cancelled());
    probe.let_go();
    until("the second fill", || cache.stats().fills == 2).await;
    assert_eq!(probe.calls(), 2);
}

#[tokio::test]
async fn outage_is_shared_with_waiters_but_not_cached() {
    let down = || ValidationError::unavailable("down").for_all_tokens();
    let probe = Probe::answering(move |_| Err(down()));
    let cache = cache();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let answers: Vec<_> = (0..10)
        .map(|_| {
            let layer = layer.clone();
            tokio::spawn(async move { ask(&layer, with_token("t")).await.status() })
        })
        .collect();
    until("all requests to wait", || cache.stats().misses == 10).await;
    probe.let_go();
    for answer in answers {
        assert_eq!(answer.await.unwrap(), 503);
    }
    assert_eq!(probe.calls(), 1);
    probe.answer(|_| Ok(session("ada")));
    assert_eq!(ask(&layer, with_token("t")).await.status(), 200);
    assert_eq!(probe.calls(), 2);
}

#[tokio::test]
async fn rejected_token_is_negatively_cached() {
    let clock = ManualClock::new();
    let probe = Probe::answering(|token| match token {
        "blocked" => Err(ValidationError::forbidden(ForbiddenReason::Blocked)),
        "down" => Err(ValidationError::unavailable("down").for_all_tokens()),
        _ => Err(ValidationError::invalid()),
    });
    let cache = SessionCache::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    for n in 0..300 {
        let answer = ask(&layer, with_token(&format!("bad-{}", n % 5))).await;
        assert_eq!(rejected(&answer), RejectionKind::Invalid);
    }
    assert_eq!((probe.calls(), cache.stats().negative_entries), (5, 5));
    clock.advance(Duration::from_secs(5));
    assert_eq!(ask(&layer, with_token("bad-0")).await.status(), 401);
    assert_eq!(probe.calls(), 6);
    for calls in [7, 8] {
        assert_eq!(ask(&layer, with_token("blocked")).await.status(), 403);
        assert_eq!(
            probe.calls(),
            calls,
            "a block may end at any time, so it is not cached"
        );
    }
    for calls in [9, 10] {
        assert_eq!(ask(&layer, with_token("down")).await.status(), 503);
        assert_eq!(probe.calls(), calls);
    }

    // A revocation and a stored session end the negative cache entry.
    let token = SessionToken::parse("bad-0").unwrap();
    probe.answer(|_| Ok(session("ada")));
    let _ = cache.invalidate_token(&token).await.unwrap();
    assert_eq!(ask(&layer, with_token("bad-0")).await.status(), 200);
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&layer, with_token("bad-9")).await.status(), 401);
    probe.answer(|_| Ok(session("ada")));
    assert_eq!(ask(&layer, with_token("bad-9")).await.status(), 401);
    let _ = cache.invalidate_user("anybody").await.unwrap();
    assert_eq!(ask(&layer, with_token("bad-9")).await.status(), 200);
}

#[tokio::test]
async fn flood_of_invalid_tokens_evicts_no_session_and_is_bounded() {
    let probe = Probe::answering(|token| match token {
        "good" => Ok(session("ada")),
        _ => Err(ValidationError::invalid()),
    });
    let cache = SessionCache::builder().capacity(100).build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    assert_eq!(ask(&layer, with_token("good")).await.status(), 200);
    for n in 0..12_000 {
        ask(&layer, with_token(&format!("bad-{n}"))).await;
    }
    let calls = probe.calls();
    assert_eq!(ask(&layer, with_token("good")).await.status(), 200);
    assert_eq!(probe.calls(), calls);
    assert!(cache.stats().negative_entries <= 10_000);

    let off = SessionCache::builder()
        .negative_ttl(Duration::ZERO)
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(off.clone(), probe.clone());
    for more in 1..=3 {
        ask(&layer, with_token("bad")).await;
        assert_eq!(
            (probe.calls(), off.stats().negative_entries),
            (calls + more, 0)
        );
    }
}

#[tokio::test]
async fn panicking_validator_gives_503_instead_of_a_hang() {
    let probe = Probe::answering(|_| panic!("a bug in the validator"));
    let cache = cache();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    assert_eq!(ask(&layer, with_token("t")).await.status(), 503);
    assert_eq!(cache.stats().validations_in_flight, 0);
    probe.answer(|_| Ok(session("ada")));
    assert_eq!(ask(&layer, with_token("t")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn hanging_validator_gives_503_at_the_validation_timeout() {
    let hangs = validator_fn("hangs", |_| std::future::pending::<Result<UserData, _>>());
    let cache = SessionCache::builder()
        .validation_timeout(Duration::from_millis(700))
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache, hangs);
    let start = tokio::time::Instant::now();
    assert_eq!(ask(&layer, with_token("t")).await.status(), 503);
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(700) && waited < Duration::from_millis(710));
}

#[tokio::test]
async fn concurrent_validations_are_limited() {
    let probe = Probe::new();
    let cache = SessionCache::builder()
        .max_concurrent_validations(2)
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let answers: Vec<_> = (0..10)
        .map(|n| {
            let layer = layer.clone();
            tokio::spawn(async move { ask(&layer, with_token(&format!("t-{n}"))).await.status() })
        })
        .collect();
    until("all validations to be in flight", || {
        cache.stats().validations_in_flight == 10
    })
    .await;
    probe.wait_for_calls(2).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(probe.calls(), 2);
    probe.let_go();
    for answer in answers {
        assert_eq!(answer.await.unwrap(), 200);
    }
    assert_eq!(probe.calls(), 10);
}

#[tokio::test]
async fn number_of_in_flight_validations_is_bounded() {
    let probe = Probe::new();
    let cache = cache();
    let mut service = SessionCacheLayer::new(cache.clone(), probe.clone()).layer(Inner::default());
    probe.hold();
    let mut waiting = Vec::new();
    for n in 0..16_384 {
        let mut answer = Box::pin(
            service
                .ready()
                .await
                .unwrap()
                .call(with_token(&n.to_string())),
        );
        assert!(poll_once(&mut answer).is_pending());
        waiting.push(answer);
    }
    assert_eq!(cache.stats().validations_in_flight, 16_384);
    let answer = service
        .ready()
        .await
        .unwrap()
        .call(with_token("one-too-many"));
    assert_eq!(answer.await.unwrap().status(), 503);
    drop(waiting);
    probe.let_go();
    until("all validations to finish", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
    let answer = service
        .ready()
        .await
        .unwrap()
        .call(with_token("one-too-many"));
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[test]
fn request_outside_a_runtime_gets_503_instead_of_a_panic() {
    let with_redis = SessionCache::builder()
        .redis("redis://127.0.0.1:1")
        .unwrap();
    for cache in [cache(), with_redis.build().unwrap()] {
        let service = SessionCacheLayer::new(cache.clone(), Probe::new()).layer(Inner::default());
        match poll_once(service.oneshot(with_token("t"))) {
            Poll::Ready(answer) => assert_eq!(answer.unwrap().status(), 503),
            Poll::Pending => panic!("without a runtime the future would never be woken"),
        }
        let token = SessionToken::parse("t").unwrap();
        assert!(poll_once(cache.get(&token)).is_ready());
        assert!(poll_once(cache.revoke_token(&token)).is_ready());
        assert!(poll_once(cache.health_check()).is_ready());
    }
}

#[tokio::test]
async fn session_is_served_until_its_ttl_or_its_expiry() {
    let clock = ManualClock::new();
    let ends = clock.now() + TimeDelta::seconds(400);
    let probe = Probe::answering(move |_| Ok(session("ada").with_expires_at(ends)));
    let cache = SessionCache::builder()
        .clock(clock.clone())
        .refresh_ahead(100)
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache, probe.clone());
    // The jitter shortens the TTL by up to a tenth.
    let steps = [(0, 1), (269_999, 1), (30_001, 2), (99_999, 2)];
    for (forward, calls) in steps {
        clock.advance(Duration::from_millis(forward));
        let answer = ask(&layer, with_token("t")).await;
        let info = answer
            .extensions()
            .get::<UserData>()
            .and_then(UserData::session)
            .unwrap();
        assert_eq!(info.expires_at(), Some(ends));
        assert_eq!(probe.calls(), calls, "{forward}");
    }
    clock.advance(Duration::from_millis(1));
    let answer = ask(&layer, with_token("t")).await;
    assert_eq!(
        answer.status(),
        401,
        "the provider returned an expiry that has passed"
    );
    assert_eq!(probe.calls(), 3, "the hit was not served");
}

#[tokio::test]
async fn user_without_id_or_expired_session_is_not_accepted() {
    let layer = SessionCacheLayer::new(cache(), Probe::answering(|_| Ok(session(""))));
    assert_eq!(ask(&layer, with_token("t")).await.status(), 503);
    let ended = Utc::now() - TimeDelta::seconds(1);
    let layer = SessionCacheLayer::new(
        cache(),
        Probe::answering(move |_| Ok(session("ada").with_expires_at(ended))),
    );
    assert_eq!(ask(&layer, with_token("t")).await.status(), 401);
}

#[tokio::test]
async fn unaccepted_session_is_revalidated_and_then_forbidden() {
    struct Picky(Probe, AtomicUsize);
    impl SessionValidator for Picky {
        fn namespace(&self) -> Namespace {
            self.0.namespace()
        }

        fn authority(&self) -> Authority {
            self.0.authority()
        }

        async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
            self.0.validate(token).await
        }
        fn accepts(&self, user: &UserData) -> bool {
            assert_eq!(user.id(), "ada");
            self.1.load(SeqCst) == 0
        }
    }
    let probe = Probe::new();
    let validator = Arc::new(Picky(probe.clone(), AtomicUsize::new(0)));
    let layer = SessionCacheLayer::new(cache(), Arc::clone(&validator));
    for _ in 0..3 {
        ask(&layer, with_token("t")).await;
    }
    assert_eq!(probe.calls(), 1);
    validator.1.store(1, SeqCst);
    for calls in [2, 3] {
        assert_eq!(ask(&layer, with_token("t")).await.status(), 403);
        assert_eq!(probe.calls(), calls);
    }
    validator.1.store(0, SeqCst);
    assert_eq!(ask(&layer, with_token("t")).await.status(), 200);
    assert_eq!(probe.calls(), 3, "the validated session is cached");
}

#[tokio::test]
async fn namespaces_share_no_sessions_but_share_revocations() {
    let cache = cache();
    let people = Probe::answering(|_| Ok(session("person")));
    let machines = Probe::answering(|_| Ok(session("machine")));
    let one = SessionCacheLayer::new(cache.clone(), people.clone());
    let two = SessionCacheLayer::new(cache.clone(), machines.clone()).with_namespace("machines");
    for _ in 0..2 {
        assert_eq!(text(ask(&one, with_token("t")).await).await, "person");
        assert_eq!(text(ask(&two, with_token("t")).await).await, "machine");
    }
    assert_eq!((people.calls(), machines.calls()), (1, 1));

    let token = SessionToken::parse("t").unwrap();
    let _ = cache.revoke_token(&token).await.unwrap();
    assert_eq!(ask(&one, with_token("t")).await.status(), 401);
    assert_eq!(
        ask(&two, with_token("t")).await.status(),
        401,
        "a revocation applies in all namespaces"
    );
}

#[tokio::test]
async fn disabled_cache_validates_every_request_and_still_revokes() {
    let probe = Probe::new();
    let cache = SessionCache::builder().enabled(false).build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    for calls in 1..=3 {
        assert_eq!(ask(&layer, with_token("t")).await.status(), 200);
        assert_eq!(probe.calls(), calls);
    }
    let _ = cache
        .revoke_token(&SessionToken::parse("t").unwrap())
        .await
        .unwrap();
    let answer = ask(&layer, with_token("t")).await;
    assert_eq!(rejected(&answer), RejectionKind::Revoked);
    assert_eq!((probe.calls(), cache.stats().local_entries), (3, 0));
}

#[tokio::test]
async fn token_is_read_from_the_configured_source() {
    let name = HeaderName::from_static("x-session");
    let layer = SessionCacheLayer::new(cache(), Probe::new())
        .with_token_source(TokenSource::header(name.clone()));
    let request = Request::builder().header(name, "t").body(()).unwrap();
    assert_eq!(ask(&layer, request).await.status(), 200);
    assert_eq!(ask(&layer, with_token("t")).await.status(), 401);
}

#[tokio::test]
async fn inner_body_frames_errors_and_trailers_pass_through() {
    use http_body::Frame;
    use http_body_util::{StreamBody, combinators::BoxBody};

    let inner = service_fn(async |_: Request<()>| {
        let trailers = [(
            HeaderName::from_static("x-sum"),
            HeaderValue::from_static("7"),
        )];
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"one"))),
            Err("cut"),
            Ok(Frame::trailers(trailers.into_iter().collect())),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Ok::<_, Infallible>(Response::new(BoxBody::new(body)))
    });
    let layer = SessionCacheLayer::new(cache(), Probe::new());
    let answer = layer.layer(inner).oneshot(with_token("t")).await.unwrap();
    let mut body = answer.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "one");
    assert_eq!(body.frame().await.unwrap().unwrap_err(), "cut");
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap()["x-sum"], "7");
    assert!(body.frame().await.is_none());
}

#[test]
fn public_types_are_send_sync_and_clone() {
    fn is_send_and_sync<T: Send + Sync + Unpin + 'static>() {}
    fn is_clone<T: Clone + Send + Sync + 'static>() {}
    fn is_send<T: Send>() {}
    struct NotClone;
    impl SessionValidator for NotClone {
        fn namespace(&self) -> Namespace {
            Namespace::named("none")
        }

        fn authority(&self) -> Authority {
            "none".into()
        }

        async fn validate(&self, _: SessionToken) -> Result<ValidatedSession, ValidationError> {
            Err(ValidationError::invalid())
        }

        fn accepts(&self, _: &UserData) -> bool {
            true
        }
    }
    is_clone::<SessionCacheLayer<NotClone>>();
    is_clone::<SessionCacheService<Inner, NotClone>>();
    is_clone::<SessionCacheService<Inner, ErasedValidator>>();
    is_clone::<SessionCache>();
    is_clone::<TokenSource>();
    is_clone::<UserData>();
    is_clone::<SessionInfo>();
    is_clone::<Rejection>();
    is_send_and_sync::<ResponseBody<Empty<Bytes>>>();
    is_send::<ResponseFuture<Inner, ()>>();
    fn debug<T: std::fmt::Debug>(value: T) -> String {
        format!("{value:?}")
    }
    let layer = SessionCacheLayer::new(cache(), NotClone);
    assert!(debug(layer.layer(())).contains("Bearer"));
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}
