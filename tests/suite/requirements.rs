//! Routes that require more than a valid session: a validation of their own, or a recent
//! authentication.

use std::{convert::Infallible, time::Duration};

use chrono::{TimeDelta, Utc};
use http::{Request, StatusCode, header};
use tower::{Layer, ServiceExt, service_fn};
use tower_session_cache::{
    Challenge, LocalCacheConfig, Origin, RedisConfig, Rejection, SessionCache, SessionCacheBuilder,
    SessionCacheLayer, TokenSource, UserData, ValidatedSession, ValidationError,
    testing::ManualClock,
};

use crate::support::{
    client::{ask, ask_for_all, rejection},
    pass,
    probe::{Probe, session},
    redis::Redis,
    soon, until,
};

fn node(builder: SessionCacheBuilder) -> (Probe, SessionCacheLayer<Probe>) {
    let probe = Probe::new();
    let cache = builder.build().unwrap();
    (probe.clone(), SessionCacheLayer::new(cache, probe))
}

#[tokio::test]
async fn requirement_applies_to_tokens_in_the_query_and_adds_to_the_layers_challenge() {
    let (probe, layer) = node(SessionCache::builder());
    let old = Utc::now() - TimeDelta::hours(1);
    probe.answer(move |_| Ok(session("ada").with_authenticated_at(old)));
    let challenge = Challenge::new().realm("shop").scope("orders:read");
    let layer = layer
        .with_token_source(TokenSource::query("access_token"))
        .with_challenge(challenge)
        .exempt(|head| head.uri().path() == "/livez");
    let answer = async |layer: &SessionCacheLayer<Probe>, uri: &str| {
        let inner = service_fn(async |request: Request<()>| {
            assert_eq!(request.uri().query(), None);
            Ok::<_, Infallible>(http::Response::new(()))
        });
        let request = Request::get(uri).header(header::AUTHORIZATION, "Bearer other");
        let request = request.body(()).unwrap();
        layer.layer(inner).oneshot(request).await.unwrap()
    };
    let fresh = layer.clone().fresh();
    for calls in 1..3 {
        let served = answer(&fresh, "/?access_token=t").await;
        assert_eq!((served.status(), probe.calls()), (StatusCode::OK, calls));
    }
    // An outer layer removes the token from the query.
    let both = tower::ServiceBuilder::new().layer(layer.clone());
    let both = both
        .layer(fresh)
        .service(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(http::Response::new(()))
        }));
    let request = Request::get("/?access_token=t").body(()).unwrap();
    let served = both.oneshot(request).await.unwrap();
    assert_eq!((served.status(), probe.calls()), (StatusCode::OK, 3));
    let strict = layer.max_authentication_age(Duration::from_secs(300));
    assert_eq!(answer(&strict, "/livez").await.status(), StatusCode::OK);
    // A token in the query is a bearer token.
    let rejected = answer(&strict, "/?access_token=t").await;
    let challenge = concat!(
        r#"Bearer realm="shop", error="insufficient_user_authentication", "#,
        r#"max_age="300", scope="orders:read""#
    );
    assert_eq!(rejected.headers()[header::WWW_AUTHENTICATE], challenge);
    assert_eq!(probe.calls(), 3, "the last validation was moments ago");
}

fn on(redis: &Redis) -> SessionCacheBuilder {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    SessionCache::builder().redis(redis).unwrap()
}

#[tokio::test]
async fn fresh_route_validates_every_request_and_joins_no_earlier_validation() {
    let redis = Redis::start();
    for builder in [SessionCache::builder(), on(&redis)] {
        let (probe, layer) = node(builder);
        let fresh = layer.clone().fresh();
        probe.hold();
        let earlier = tokio::spawn({
            let layer = layer.clone();
            async move { ask(&layer, "t").await }
        });
        probe.wait_for_calls(1).await;
        let later = tokio::spawn({
            let fresh = fresh.clone();
            async move { ask(&fresh, "t").await }
        });
        probe.wait_for_calls(2).await;
        probe.let_go();
        assert!(soon("the first", earlier).await.unwrap().is_ok());
        assert!(soon("the second", later).await.unwrap().is_ok());
        for calls in 3..6 {
            assert_eq!(ask(&fresh, "t").await.unwrap().1, Origin::Validator);
            assert_eq!(probe.calls(), calls);
            assert_ne!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
        }
        assert_eq!(probe.calls(), 5, "other routes are served from the cache");
    }
}

#[tokio::test]
async fn refusal_on_a_fresh_route_ends_what_is_cached_on_every_node() {
    let redis = Redis::start();
    for local in [
        None,
        Some(LocalCacheConfig::new(10)),
        Some(LocalCacheConfig::new(10).revocations_only()),
    ] {
        let node = || {
            let builder = on(&redis).provider_lag(Duration::ZERO);
            node(match local {
                Some(local) => builder.local_cache(local),
                None => builder,
            })
        };
        let (one, other) = (node(), node());
        ask(&one.1, "t").await.unwrap();
        let origin = if local.is_some() {
            Origin::Local
        } else {
            Origin::Redis
        };
        soon("a hit", async {
            while ask(&other.1, "t").await.unwrap().1 != origin {
                pass().await;
            }
        })
        .await;
        // A validation on another node began before the refusal, and ends after it.
        other.0.hold();
        let calls = other.0.calls();
        let earlier = tokio::spawn({
            let fresh = other.1.clone().fresh();
            async move { ask(&fresh, "t").await }
        });
        other.0.wait_for_calls(calls + 1).await;
        one.0.answer(|_| Err(ValidationError::invalid()));
        assert_eq!(ask(&one.1.clone().fresh(), "t").await.unwrap_err(), 401);
        assert_eq!(ask(&one.1, "t").await.unwrap_err(), 401);
        other.0.answer(|_| Err(ValidationError::invalid()));
        other.0.let_go();
        assert_eq!(soon("an answer", earlier).await.unwrap().unwrap_err(), 401);
        soon("the other node to refuse", async {
            while ask(&other.1, "t").await.is_ok() {
                pass().await;
            }
        })
        .await;
        assert_eq!(ask(&other.1, "t").await.unwrap_err(), 401);
        redis.run::<()>(&bb8_redis::redis::cmd("FLUSHALL"));
    }
}

#[tokio::test]
async fn fresh_route_serves_no_stale_session_and_ends_none_while_the_provider_is_down() {
    let clock = ManualClock::new();
    let builder = SessionCache::builder().stale_if_error(Duration::from_secs(600));
    let (probe, layer) = node(builder.clock(clock.clone()));
    ask(&layer, "t").await.unwrap();
    probe.answer(|_| Err(ValidationError::unavailable("down")));
    let fresh = layer.clone().fresh();
    assert_eq!(ask(&fresh, "t").await.unwrap_err(), 503);
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    clock.advance(Duration::from_secs(301));
    assert_eq!(ask(&fresh, "t").await.unwrap_err(), 503);
    assert!(ask_for_all(&layer, "t").await.unwrap().1.is_stale());
    let recent = layer.clone().max_age(Duration::from_secs(60));
    assert_eq!(ask(&recent, "t").await.unwrap_err(), 503);
}

#[tokio::test]
async fn dropped_request_to_a_fresh_route_does_not_undo_the_refusal() {
    let (probe, layer) = node(SessionCache::builder());
    ask(&layer, "t").await.unwrap();
    probe.answer(|_| Err(ValidationError::invalid()));
    probe.hold();
    let fresh = layer.clone().fresh();
    let dropped = tokio::spawn(async move { ask(&fresh, "t").await });
    probe.wait_for_calls(2).await;
    dropped.abort();
    probe.let_go();
    soon("the refusal", async {
        while ask(&layer, "t").await.is_ok() {
            pass().await;
        }
    })
    .await;
}

#[tokio::test]
async fn max_age_validates_a_session_again_that_is_older() {
    let clock = ManualClock::new();
    let (probe, layer) = node(SessionCache::builder().clock(clock.clone()));
    let recent = layer.clone().max_age(Duration::from_secs(30));
    ask(&layer, "t").await.unwrap();
    clock.advance(Duration::from_secs(20));
    assert_eq!(ask(&recent, "t").await.unwrap().1, Origin::Local);
    clock.advance(Duration::from_secs(20));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    assert_eq!(probe.calls(), 1);
    assert_eq!(ask(&recent, "t").await.unwrap().1, Origin::Validator);
    assert_eq!(probe.calls(), 2);
    assert_eq!(ask(&recent, "t").await.unwrap().1, Origin::Local);
}

#[tokio::test]
async fn age_of_a_session_in_redis_is_that_of_its_validation() {
    let redis = Redis::start();
    let (_, layer) = node(on(&redis));
    let before = Utc::now();
    ask(&layer, "t").await.unwrap();
    let (_, session) = ask_for_all(&layer, "t").await.unwrap();
    assert_eq!(session.origin(), Origin::Redis);
    let second = TimeDelta::seconds(1);
    assert!((before - second..=Utc::now() + second).contains(&session.validated_at()));
    let (probe, other) = node(on(&redis));
    let hour = Duration::from_secs(3_600);
    assert_eq!(
        ask(&other.clone().max_age(hour), "t").await.unwrap().1,
        Origin::Redis
    );
    assert_eq!(probe.calls(), 0);
    let now = other.max_age(Duration::ZERO);
    assert_eq!(ask(&now, "t").await.unwrap().1, Origin::Validator);
}

/// Returns the user of a request that passes both layers.
async fn through(
    outer: &SessionCacheLayer<Probe>,
    inner: &SessionCacheLayer<Probe>,
) -> Result<UserData, StatusCode> {
    let service = service_fn(async |request: Request<()>| {
        let mut response = http::Response::new(http_body_util::Empty::<bytes::Bytes>::new());
        *response.extensions_mut() = request.extensions().clone();
        Ok::<_, Infallible>(response)
    });
    let request = Request::builder().header(header::AUTHORIZATION, "Bearer t");
    let service = outer.layer(inner.layer(service));
    let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
    let user = response.extensions().get::<UserData>();
    user.cloned().ok_or(response.status())
}

#[tokio::test]
async fn requirement_applies_inside_of_another_layer() {
    let (probe, layer) = node(SessionCache::builder());
    for calls in [2, 3, 4] {
        assert!(through(&layer, &layer.clone().fresh()).await.is_ok());
        assert_eq!(probe.calls(), calls);
    }
    let recent = layer.clone().max_age(Duration::from_secs(60));
    assert!(
        through(&layer, &recent.clone().trust_outer_user())
            .await
            .is_ok()
    );
    assert_eq!(probe.calls(), 4, "the outer layer's user is recent enough");
    let acr = layer.clone().require_acr(["phr"]).trust_outer_user();
    assert_eq!(through(&layer, &acr).await.unwrap_err(), 401);
}

/// A session of a user who authenticated at this age, by this method.
fn authenticated(age: i64, acr: Option<&str>) -> ValidatedSession {
    let at = Utc::now() - TimeDelta::seconds(age);
    let session = session("ada").with_authenticated_at(at);
    match acr {
        Some(acr) => session.with_acr(acr),
        None => session,
    }
}

#[tokio::test]
async fn old_or_weak_authentication_is_challenged() {
    let redis = Redis::start();
    for (builder, cached) in [
        (SessionCache::builder(), Origin::Local),
        (on(&redis), Origin::Redis),
    ] {
        let clock = ManualClock::new();
        let (probe, layer) = node(builder.clock(clock.clone()));
        let strict = layer
            .clone()
            .max_authentication_age(Duration::from_secs(300))
            .require_acr(["phr", "phrh"]);
        let challenge = concat!(
            r#"Bearer error="insufficient_user_authentication", "#,
            r#"max_age="300", acr_values="phr phrh""#
        );
        for (n, (age, acr)) in [
            (600, Some("phr")),
            (10, Some("0")),
            (10, None),
            (-3_600, Some("phr")),
        ]
        .into_iter()
        .enumerate()
        {
            probe.answer(move |_| Ok(authenticated(age, acr)));
            let token = format!("t{n}");
            // The second time from the cache, and then no validation follows within five seconds.
            for _ in 0..2 {
                let service = service_fn(async |_: Request<()>| {
                    Ok::<_, Infallible>(http::Response::new(
                        http_body_util::Empty::<bytes::Bytes>::new(),
                    ))
                });
                let request =
                    Request::builder().header(header::AUTHORIZATION, format!("Bearer {token}"));
                let answer = strict.layer(service).oneshot(request.body(()).unwrap());
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], challenge);
                let rejection = answer.extensions().get::<Rejection>().unwrap();
                assert_eq!(rejection.reason(), "insufficient_authentication");
                assert_eq!(probe.calls(), n + 1);
            }
            assert!(ask(&layer, &token).await.is_ok(), "other routes accept it");
        }
        // The user authenticates again, which the next validation shows.
        probe.answer(|_| Ok(authenticated(10, Some("phr"))));
        assert_eq!(rejection(&strict, "t0").await.status(), 401);
        clock.advance(Duration::from_secs(6));
        assert_eq!(ask(&strict, "t0").await.unwrap().1, Origin::Validator);
        let (_, session) = ask_for_all(&strict, "t0").await.unwrap();
        assert_eq!((session.origin(), session.acr()), (cached, Some("phr")));
        assert!(session.authenticated_at().unwrap() <= Utc::now());
        let optional = layer.clone().optional().require_acr(["other"]);
        let rejection = rejection(&optional, "t0").await;
        assert_eq!(rejection.reason(), "insufficient_authentication");
    }
}

#[tokio::test]
async fn several_requests_share_the_validation_of_a_session_that_is_too_old() {
    let clock = ManualClock::new();
    let (probe, layer) = node(SessionCache::builder().clock(clock.clone()));
    ask(&layer, "t").await.unwrap();
    clock.advance(Duration::from_secs(60));
    let recent = layer.clone().max_age(Duration::from_secs(30));
    probe.hold();
    let all: Vec<_> = (0..8)
        .map(|_| {
            let recent = recent.clone();
            tokio::spawn(async move { ask(&recent, "t").await })
        })
        .collect();
    probe.wait_for_calls(2).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    probe.let_go();
    for one in all {
        assert!(soon("an answer", one).await.unwrap().is_ok());
    }
    until("the validations", || probe.calls() >= 2).await;
    assert_eq!(probe.calls(), 2);
}
