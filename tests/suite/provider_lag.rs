//! An identity provider that lags behind: for some time after it has accepted a change, it still
//! replies as before.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_session_cache::{
    HeaderSecret, LocalCacheConfig, Origin, RedisConfig, RevocationReceiver, Revoked, SessionCache,
    SessionCacheBuilder, SessionCacheLayer, UserData, ValidatedSession, ValidationError,
    testing::ManualClock,
};

use crate::support::{
    client::{ask, ask_for_all, tier, token},
    pass,
    peer::{self, Peer, mark_key, session_key},
    probe::{Probe, session},
    redis::Redis,
    soon, until,
};

const REQUESTS: u32 = 10_000;
/// Largest number of validations of a session after a revocation, on all nodes that share a Redis.
const MAX_VALIDATIONS: usize = 14;
const TTL: Duration = Duration::from_secs(300);

const LAGS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

fn of_tier(user_id: &str, tier: &str) -> ValidatedSession {
    ValidatedSession::new(UserData::builder(user_id).tier(tier).build())
}

fn node(builder: SessionCacheBuilder) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let cache = builder.build().unwrap();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

fn with_redis(redis: &Redis) -> SessionCacheBuilder {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    SessionCache::builder().redis(redis).unwrap()
}

async fn until_landed(cache: &SessionCache) {
    until("the validation to end", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
}

/// What makes the nodes validate a session of the user `ada` again.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// The application calls `invalidate_user`.
    User,
    /// The application calls `invalidate_token` for the token `t`.
    Token,
    /// The provider pushes an event that names only the user.
    Event,
}

impl Cause {
    async fn apply(self, cache: &SessionCache, user: &str) {
        match self {
            Self::User => {
                let _ = cache.invalidate_user(user).await.unwrap();
            }
            Self::Token => {
                let _ = cache.invalidate_token(&token("t")).await.unwrap();
            }
            Self::Event => {
                let (name, secret) = ("x-webhook-secret", "x5Wd3kFq8Zr1Tt0v");
                let source = HeaderSecret::new(name, secret, |event| Revoked::user(event.as_str()));
                let receiver = RevocationReceiver::new(cache.clone(), source.unwrap());
                let event = Request::post("/hooks/header").header(name, secret);
                let event = event.body(json!(user).to_string()).unwrap();
                let answer = receiver.oneshot(event).await.unwrap();
                assert_eq!(answer.status(), StatusCode::NO_CONTENT);
            }
        }
    }
}

/// The whole TTL after the revocation, by a clock that the test moves.
#[tokio::test]
async fn session_is_validated_at_growing_intervals_after_a_revocation() {
    let causes = [Cause::User, Cause::Token, Cause::Event];
    let cases = LAGS
        .into_iter()
        .flat_map(|lag| causes.map(|cause| (lag, cause)));
    for (lag, cause) in cases {
        let clock = ManualClock::new();
        let (cache, probe, layer) = node(SessionCache::builder().ttl(TTL).clock(clock.clone()));
        tier(&layer, "t").await.unwrap();
        let changed = clock.now();
        let time = clock.clone();
        probe.answer(move |_| {
            let is_late = (time.now() - changed).to_std().unwrap() < lag;
            Ok(of_tier("ada", if is_late { "old" } else { "new" }))
        });
        cause.apply(&cache, "ada").await;
        let (before, step) = (probe.calls(), TTL * 11 / 10 / REQUESTS);
        for _ in 0..REQUESTS {
            let since = (clock.now() - changed).to_std().unwrap();
            if tier(&layer, "t").await.unwrap() != "new" {
                let bound = 2 * lag + Duration::from_secs(1);
                assert!(since <= bound, "late by {lag:?}, served after {since:?}");
            }
            until_landed(&cache).await;
            clock.advance(step);
        }
        let validations = probe.calls() - before;
        println!("{cause:?}, late by {lag:?}: {validations} validations within {TTL:?}");
        assert!(validations <= MAX_VALIDATIONS, "{validations}");
    }
}

/// Three nodes with a real Redis, and requests to all of them until the bound has passed. A full run
/// adds long lags, and goes on until the TTL is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_node_serves_a_late_reply_beyond_the_bound() {
    let (lags, least) = match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => (&LAGS[..], TTL * 11 / 10),
        None => (&LAGS[..2], Duration::ZERO),
    };
    let redis = Redis::start();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let local = LocalCacheConfig::new(1_000).lease(Duration::from_millis(500));
        nodes.push(with_redis(&redis).ttl(TTL).local_cache(local));
    }
    let mut runs = JoinSet::new();
    for lag in lags {
        for cause in [Cause::User, Cause::Event] {
            // Each run has separate caches, so that it counts only its own validations.
            let nodes: Vec<_> = nodes.iter().cloned().map(node).collect();
            runs.spawn(late_by(*lag, cause, least, nodes));
        }
    }
    while let Some(run) = runs.join_next().await {
        run.unwrap();
    }
}

async fn late_by(
    lag: Duration,
    cause: Cause,
    least: Duration,
    nodes: Vec<(SessionCache, Probe, SessionCacheLayer<Probe>)>,
) {
    let user: Arc<str> = format!("{cause:?}, late by {} ms", lag.as_millis()).into();
    let text: Arc<str> = format!("token-{cause:?}-{}", lag.as_millis()).into();
    for (_, probe, layer) in &nodes {
        let id = Arc::clone(&user);
        probe.answer(move |_| Ok(session(&id)));
        soon("a local hit", async {
            while ask(layer, &text).await.unwrap().1 != Origin::Local {
                pass().await;
            }
        })
        .await;
    }
    let changed = Instant::now();
    for (_, probe, _) in &nodes {
        let id = Arc::clone(&user);
        probe.answer(move |_| {
            let is_late = changed.elapsed() < lag;
            Ok(of_tier(&id, if is_late { "old" } else { "new" }))
        });
    }
    let before: Vec<_> = nodes.iter().map(|(_, probe, _)| probe.calls()).collect();
    cause.apply(&nodes[0].0, &user).await;
    let bound = lag + 2 * lag + Duration::from_secs(1);
    let end = (bound + Duration::from_millis(500)).max(least);
    let mut tasks = JoinSet::new();
    for (_, _, layer) in &nodes {
        let (layer, text) = (layer.clone(), Arc::clone(&text));
        tasks.spawn(async move {
            let (mut requests, mut last_old) = (0, Duration::ZERO);
            while requests < REQUESTS || changed.elapsed() < end {
                let since = changed.elapsed();
                if tier(&layer, &text).await.unwrap() != "new" {
                    assert!(
                        since <= bound,
                        "{cause:?}, late by {lag:?}, served after {since:?}"
                    );
                    last_old = since;
                }
                requests += 1;
                // Spread the requests over the time until the end.
                if requests % 10 == 0 {
                    tokio::time::sleep(end * 10 / REQUESTS).await;
                }
            }
            last_old
        });
    }
    let mut last_old = Duration::ZERO;
    while let Some(last) = tasks.join_next().await {
        last_old = last_old.max(last.unwrap());
    }
    let calls = nodes.iter().map(|(_, probe, _)| probe.calls());
    let validations: Vec<_> = calls.zip(before).map(|(now, then)| now - then).collect();
    println!(
        "{cause:?}, late by {lag:?}: last served {last_old:?} after the revocation, \
         {validations:?} validations"
    );
    // The nodes share them.
    assert!(validations.iter().sum::<usize>() <= MAX_VALIDATIONS);
}

/// Served from Redis only, so that each request shows what Redis holds.
#[tokio::test]
async fn young_record_in_redis_is_validated_again_after_a_second() {
    // `None` is an invalidation by the Python service.
    for cause in [
        Some(Cause::User),
        Some(Cause::Token),
        Some(Cause::Event),
        None,
    ] {
        let redis = Redis::start();
        // Without refresh-ahead, so that the record's end shows.
        let (cache, probe, layer) = node(with_redis(&redis).refresh_ahead(100));
        tier(&layer, "t").await.unwrap();
        match cause {
            Some(cause) => cause.apply(&cache, "ada").await,
            None => Peer(&redis).invalidate_user("ada"),
        }
        let before = probe.calls();
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
        let (validated, ttl) = (redis.time(), redis.ttl(&session_key("t")));
        assert!((0..=5).contains(&ttl), "{ttl}");
        until("the end of the trust in the record", || {
            redis.time() > validated + 1.5
        })
        .await;
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
        // The record is kept until its mark is older than the slack, so the user of the token was
        // known. Otherwise the mark would count as unseen, and the fill would conflict with it.
        assert_eq!(probe.calls(), before + 2, "one validation, not two");
    }
}

#[tokio::test]
async fn without_a_lag_one_validation_follows_a_revocation() {
    let redis = Redis::start();
    let clock = ManualClock::new();
    let in_process = SessionCache::builder().clock(clock.clone());
    for builder in [with_redis(&redis), in_process] {
        let (cache, probe, layer) = node(builder.provider_lag(Duration::ZERO));
        tier(&layer, "t").await.unwrap();
        Cause::User.apply(&cache, "ada").await;
        tier(&layer, "t").await.unwrap();
        clock.advance(Duration::from_secs(200));
        for _ in 0..10 {
            let origin = ask(&layer, "t").await.unwrap().1;
            assert_ne!(origin, Origin::Validator);
        }
        assert_eq!(probe.calls(), 2);
    }
    assert!(redis.ttl(&session_key("t")) >= 269);
}

/// The setting limits the rule to what is validated within that time after the revocation.
#[tokio::test]
async fn session_validated_after_the_lag_is_trusted_for_its_ttl() {
    let clock = ManualClock::new();
    let lag = Duration::from_secs(10);
    let builder = SessionCache::builder().clock(clock.clone());
    let (cache, probe, layer) = node(builder.provider_lag(lag).refresh_ahead(100));
    tier(&layer, "t").await.unwrap();
    Cause::User.apply(&cache, "ada").await;
    clock.advance(lag - Duration::from_millis(1));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
    clock.advance(lag);
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
    clock.advance(Duration::from_secs(269));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    assert_eq!(probe.calls(), 3);
}

/// A validation takes time, and the provider may have replied at its very beginning.
#[tokio::test]
async fn trust_is_counted_from_before_the_validation() {
    let clock = ManualClock::new();
    let (cache, probe, layer) = node(SessionCache::builder().clock(clock.clone()));
    tier(&layer, "t").await.unwrap();
    Cause::User.apply(&cache, "ada").await;
    probe.hold();
    let waiting = tokio::spawn({
        let layer = layer.clone();
        async move { tier(&layer, "t").await }
    });
    probe.wait_for_calls(2).await;
    clock.advance(Duration::from_secs(4));
    probe.let_go();
    waiting.await.unwrap().unwrap();
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
}

#[tokio::test]
async fn young_session_is_not_served_stale() {
    let redis = Redis::start();
    let clock = ManualClock::new();
    let stale = Duration::from_secs(60);
    let in_process = SessionCache::builder().clock(clock.clone());
    let local = LocalCacheConfig::new(1_000).lease(Duration::from_secs(60));
    for builder in [with_redis(&redis).local_cache(local), in_process] {
        let (cache, probe, layer) = node(builder.stale_if_error(stale));
        tier(&layer, "t").await.unwrap();
        Cause::User.apply(&cache, "ada").await;
        soon("a local hit", async {
            while ask(&layer, "t").await.unwrap().1 != Origin::Local {
                pass().await;
            }
        })
        .await;
        probe.answer(|_| Err(ValidationError::unavailable("down")));
        clock.advance(Duration::from_secs(2));
        soon("the end of the trust in the session", async {
            while let Ok((_, info)) = ask_for_all(&layer, "t").await {
                assert!(!info.is_stale());
                pass().await;
            }
        })
        .await;
    }
}

/// A record of the Python service says when it was stored. The validation before may have begun up to
/// 5 seconds earlier.
#[tokio::test]
async fn record_of_the_python_service_is_trusted_by_its_distance_from_the_mark() {
    let redis = Redis::start();
    let now = redis.time();
    // The age of the mark, the age of the record, and whether it is served.
    for (mark, stored, is_served) in [
        (8.0, 0.0, false),
        (60.0, 0.0, true),
        (200.0, 100.0, false),
        (200.0, 60.0, true),
    ] {
        redis.set(&mark_key("ada"), format!("{:.6}", now - mark));
        let record = peer::record("ada", now - stored).to_string();
        redis.set(&session_key("t"), &record);
        for (lag, is_served) in [(TTL, is_served), (Duration::ZERO, true)] {
            let (_, probe, layer) = node(with_redis(&redis).provider_lag(lag).refresh_ahead(100));
            probe.answer(|_| Err(ValidationError::unavailable("down")));
            let served = ask(&layer, "t").await.is_ok();
            assert_eq!(served, is_served, "{mark} {stored} {lag:?}");
        }
    }
}
