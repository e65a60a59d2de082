//! Refresh-ahead: an active user never waits for the identity provider, and a validation in the
//! background cannot bypass a logout.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bb8_redis::redis::cmd;
use serde_json::Value;
use tower_session_cache::{
    Origin, RedisConfig, SessionCache, SessionCacheBuilder, SessionCacheLayer, UserData,
    ValidatedSession, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{ask, tier, token},
    peer::{self, Peer, session_key},
    probe::Probe,
    redis::Redis,
    soon, until,
};

fn of_tier(tier: &str) -> ValidatedSession {
    ValidatedSession::new(UserData::builder("ada").tier(tier).build())
}

type Node = (SessionCache, Probe, SessionCacheLayer<Probe>);

fn node(builder: SessionCacheBuilder) -> Node {
    let cache = builder.build().unwrap();
    let probe = Probe::answering(|_| Ok(of_tier("old")));
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

fn in_process() -> (ManualClock, Node) {
    let clock = ManualClock::new();
    let node = node(SessionCache::builder().clock(clock.clone()));
    (clock, node)
}

fn with_redis(redis: &Redis) -> Node {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(5));
    node(SessionCache::builder().redis(redis).unwrap())
}

const MOST_OF_THE_TTL: Duration = Duration::from_secs(245);

/// Rewrites the record as if it had been stored `MOST_OF_THE_TTL` ago.
fn age(redis: &Redis, text: &str) {
    let key = session_key(text);
    let mut record: Value = serde_json::from_str(&redis.get(&key).unwrap()).unwrap();
    if let Some(fence) = record["session_cache"]["fence"].as_str() {
        let fence: f64 = fence.parse().unwrap();
        record["session_cache"]["fence"] =
            format!("{:.6}", fence - MOST_OF_THE_TTL.as_secs_f64()).into();
    }
    let cached_at = record["cached_at"].as_f64().unwrap() - MOST_OF_THE_TTL.as_secs_f64();
    record["cached_at"] = cached_at.into();
    let mut set = cmd("SET");
    redis.run::<()>(set.arg(key).arg(record.to_string()).arg("EX").arg(55));
}

async fn until_landed(cache: &SessionCache) {
    until("the validation to end", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
}

#[tokio::test]
async fn active_session_is_refreshed_without_delaying_requests() {
    let (clock, (cache, probe, layer)) = in_process();
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
    clock.advance(Duration::from_secs(200));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    assert_eq!(cache.stats().refreshes, 0, "not yet");

    probe.hold();
    probe.answer(|_| Ok(of_tier("new")));
    clock.advance(Duration::from_secs(45));
    for _ in 0..50 {
        let (user, origin) = ask(&layer, "t").await.unwrap();
        assert_eq!((user.tier(), origin), ("old", Origin::Local));
    }
    probe.wait_for_calls(2).await;
    probe.let_go();
    until_landed(&cache).await;
    assert_eq!(cache.stats().refreshes, 1);
    // Later than the end of the first record.
    clock.advance(Duration::from_secs(100));
    let (user, origin) = ask(&layer, "t").await.unwrap();
    assert_eq!((user.tier(), origin), ("new", Origin::Local));
    assert_eq!(probe.calls(), 2);
}

#[tokio::test]
async fn failed_refresh_keeps_the_session_and_is_not_retried() {
    let (clock, (cache, probe, layer)) = in_process();
    tier(&layer, "t").await.unwrap();
    probe.answer(|_| Err(ValidationError::unavailable("down")));
    clock.advance(MOST_OF_THE_TTL);
    for _ in 0..50 {
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
        until_landed(&cache).await;
    }
    assert_eq!(probe.calls(), 2);
    clock.advance(Duration::from_secs(60));
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
}

#[tokio::test]
async fn rejection_on_refresh_ends_the_session_immediately() {
    let (clock, (cache, probe, layer)) = in_process();
    tier(&layer, "t").await.unwrap();
    probe.answer(|_| Err(ValidationError::invalid()));
    clock.advance(MOST_OF_THE_TTL);
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    until_landed(&cache).await;
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    assert_eq!(cache.stats().local_entries, 0);
    assert_eq!(probe.calls(), 2, "the rejection is cached");
}

#[tokio::test]
async fn refresh_can_be_disabled_and_yields_to_waiting_requests() {
    let clock = ManualClock::new();
    let builder = || SessionCache::builder().clock(clock.clone());
    let (off, probe, layer) = node(builder().refresh_ahead(100));
    tier(&layer, "t").await.unwrap();
    let (busy, busy_probe, busy_layer) = node(builder().max_concurrent_validations(1));
    tier(&busy_layer, "t").await.unwrap();
    busy_probe.hold();
    let waiting = tokio::spawn({
        let layer = busy_layer.clone();
        async move { tier(&layer, "another").await }
    });
    busy_probe.wait_for_calls(2).await;

    clock.advance(Duration::from_secs(269));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    assert_eq!((off.stats().refreshes, probe.calls()), (0, 1));
    assert_eq!(ask(&busy_layer, "t").await.unwrap().1, Origin::Local);
    assert_eq!(busy.stats().refreshes, 0);
    busy_probe.let_go();
    waiting.await.unwrap().unwrap();
    // A skipped refresh is made up for by the next request.
    assert_eq!(ask(&busy_layer, "t").await.unwrap().1, Origin::Local);
    until("the refresh", || busy.stats().refreshes == 1).await;
}

/// Creates a node with as many permits whose sessions `a` and `b` are due. The validator holds its
/// calls and records their tokens.
async fn two_due(permits: usize) -> (Node, Arc<Mutex<Vec<String>>>) {
    let clock = ManualClock::new();
    let builder = SessionCache::builder().max_concurrent_validations(permits);
    let (cache, probe, layer) = node(builder.clock(clock.clone()));
    for text in ["a", "b"] {
        tier(&layer, text).await.unwrap();
    }
    clock.advance(MOST_OF_THE_TTL);
    probe.hold();
    let called = Arc::<Mutex<Vec<String>>>::default();
    let calls = Arc::clone(&called);
    probe.answer(move |text| {
        calls.lock().unwrap().push(text.to_owned());
        Ok(of_tier("new"))
    });
    ((cache, probe, layer), called)
}

/// Both refreshes start while a permit is free. Tasks run one at a time here, so the second refresh
/// finds none left when it runs.
#[tokio::test]
async fn refresh_never_waits_for_a_permit() {
    let ((cache, probe, layer), called) = two_due(1).await;
    for text in ["a", "b"] {
        assert_eq!(ask(&layer, text).await.unwrap().1, Origin::Local);
    }
    let waiting = tokio::spawn({
        let layer = layer.clone();
        async move { tier(&layer, "new").await }
    });
    probe.wait_for_calls(3).await;
    until("the request to wait", || {
        cache.stats().validations_in_flight == 2
    })
    .await;
    probe.let_go();
    waiting.await.unwrap().unwrap();
    until_landed(&cache).await;
    assert_eq!(*called.lock().unwrap(), ["a", "new"]);
    // The next request makes up for the refresh.
    assert_eq!(ask(&layer, "b").await.unwrap().1, Origin::Local);
    until_landed(&cache).await;
    assert_eq!(*called.lock().unwrap(), ["a", "new", "b"]);
}

#[tokio::test]
async fn request_that_joins_a_refresh_waits_for_a_permit() {
    let ((cache, probe, layer), called) = two_due(1).await;
    for text in ["a", "b"] {
        assert_eq!(ask(&layer, text).await.unwrap().1, Origin::Local);
    }
    let _ = cache.invalidate_token(&token("b")).await.unwrap();
    let joined = ask(&layer, "b");
    let release = async {
        probe.wait_for_calls(3).await;
        probe.let_go();
    };
    let (joined, ()) = tokio::join!(joined, release);
    assert_eq!(joined.unwrap().1, Origin::Validator);
    assert_eq!(cache.stats().coalesced, 1);
    assert_eq!(*called.lock().unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn refreshes_leave_half_of_the_permits_to_requests() {
    let ((cache, probe, layer), called) = two_due(2).await;
    for text in ["a", "b"] {
        assert_eq!(ask(&layer, text).await.unwrap().1, Origin::Local);
    }
    let waiting = tokio::spawn({
        let layer = layer.clone();
        async move { tier(&layer, "new").await }
    });
    probe.wait_for_calls(4).await;
    assert_eq!(*called.lock().unwrap(), ["a", "new"]);
    probe.let_go();
    waiting.await.unwrap().unwrap();
    until_landed(&cache).await;
}

#[tokio::test]
async fn refresh_waits_for_the_end_of_a_rate_limit() {
    let (clock, ttl) = (ManualClock::new(), Duration::from_secs(1_200));
    let (cache, probe, layer) = node(SessionCache::builder().ttl(ttl).clock(clock.clone()));
    tier(&layer, "t").await.unwrap();
    clock.advance(ttl * 5 / 6);
    let wait = Duration::from_secs(10);
    probe.answer(move |_| Err(ValidationError::unavailable("429").with_retry_after(wait)));
    for n in 0..3 {
        assert_eq!(ask(&layer, &format!("another-{n}")).await.unwrap_err(), 503);
    }
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    assert_eq!(cache.stats().refreshes, 0);
    clock.advance(Duration::from_secs(60));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    until("the refresh", || cache.stats().refreshes == 1).await;
}

#[tokio::test]
async fn refresh_replaces_native_and_foreign_records() {
    let redis = Redis::start();
    for by_peer in [false, true] {
        let text = if by_peer { "theirs" } else { "ours" };
        if by_peer {
            Peer(&redis).store(text, "ada");
        } else {
            tier(&with_redis(&redis).2, text).await.unwrap();
        }
        age(&redis, text);
        let (cache, probe, layer) = with_redis(&redis);
        probe.answer(|_| Ok(of_tier("new")));
        assert_eq!(ask(&layer, text).await.unwrap().1, Origin::Redis);
        soon("the new record", async {
            while tier(&layer, text).await.unwrap() != "new" {
                crate::support::pass().await;
            }
        })
        .await;
        assert_eq!((probe.calls(), cache.stats().refreshes), (1, 1));
        let (_, origin) = ask(&layer, text).await.unwrap();
        assert_eq!(origin, Origin::Redis);
        assert!(redis.ttl(&session_key(text)) >= 269);
    }
}

#[tokio::test]
async fn rejection_on_refresh_deletes_the_redis_record() {
    let redis = Redis::start();
    let (cache, probe, layer) = with_redis(&redis);
    tier(&layer, "t").await.unwrap();
    age(&redis, "t");
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Redis);
    until_landed(&cache).await;
    assert_eq!(redis.get(&session_key("t")), None);
    assert_eq!(
        ask(&with_redis(&redis).2, "t").await.unwrap().1,
        Origin::Validator
    );
}

#[tokio::test]
async fn refresh_does_not_restore_a_session_logged_out_by_python() {
    let redis = Redis::start();
    for written_anew in [false, true] {
        let (cache, probe, layer) = with_redis(&redis);
        tier(&layer, "t").await.unwrap();
        age(&redis, "t");
        probe.hold();
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Redis);
        probe.wait_for_calls(2).await;
        Peer(&redis).logout("t");
        let later = written_anew.then(|| peer::record("ada", redis.time() - 100.0).to_string());
        if let Some(record) = &later {
            redis.set(&session_key("t"), record);
        }
        probe.let_go();
        until_landed(&cache).await;
        assert_eq!(redis.get(&session_key("t")), later);
        redis.run::<()>(cmd("DEL").arg(session_key("t")));
    }
}

#[tokio::test]
async fn revocation_during_a_refresh_triggers_another_validation() {
    let redis = Redis::start();
    for by_user in [false, true] {
        let (cache, probe, layer) = with_redis(&redis);
        let (other, ..) = with_redis(&redis);
        tier(&layer, "t").await.unwrap();
        age(&redis, "t");
        probe.hold();
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Redis);
        probe.wait_for_calls(2).await;
        probe.answer(|_| Ok(of_tier("new")));
        let _ = if by_user {
            other.invalidate_user("ada").await.unwrap()
        } else {
            other.invalidate_token(&token("t")).await.unwrap()
        };
        // A request that begins now joins the in-flight validation, and gets the new result.
        let late = tokio::spawn({
            let layer = layer.clone();
            async move { tier(&layer, "t").await }
        });
        until("the late request to join", || cache.stats().coalesced == 1).await;
        probe.let_go();
        assert_eq!(late.await.unwrap().as_deref(), Ok("new"));
        until_landed(&cache).await;
        assert_eq!(probe.calls(), 3);
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
        redis.run::<()>(&cmd("FLUSHALL"));
    }
}

#[tokio::test]
async fn sessions_cached_together_expire_at_different_times() {
    let redis = Redis::start();
    let (_, _, layer) = with_redis(&redis);
    let mut lives = Vec::new();
    for n in 0..200 {
        let text = format!("token-{n}");
        tier(&layer, &text).await.unwrap();
        let ttl: u64 = redis.run(cmd("PTTL").arg(session_key(&text)));
        lives.push(ttl / 1_000);
    }
    // One minute of tolerance for a slow machine.
    assert!(
        lives.iter().all(|ttl| (210..=300).contains(ttl)),
        "{lives:?}"
    );
    lives.sort_unstable();
    lives.dedup();
    assert!(lives.len() > 15, "{lives:?}");
}
