//! What is served if the identity provider is unavailable and the cache entry has expired.

use std::time::Duration;

use http::StatusCode;
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheBuilder, SessionCacheLayer,
    SessionInfo, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{ask, ask_for_all, token},
    peer::session_key,
    probe::{Probe, session},
    proxy::{Fault, Proxy},
    redis::Redis,
    soon, until,
};

const STALE: Duration = Duration::from_secs(60);

fn layer_of(builder: SessionCacheBuilder) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let cache = builder.build().unwrap();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

fn fails(_: &str) -> Result<tower_session_cache::ValidatedSession, ValidationError> {
    Err(ValidationError::unavailable("out of order"))
}

async fn info(layer: &SessionCacheLayer<Probe>, text: &str) -> Result<SessionInfo, StatusCode> {
    Ok(ask_for_all(layer, text).await?.1)
}

async fn is_stale(layer: &SessionCacheLayer<Probe>, text: &str) -> bool {
    info(layer, text)
        .await
        .is_ok_and(|info| info.is_stale() && info.origin() == Origin::Local)
}

#[tokio::test]
async fn stale_session_is_served_during_an_outage_without_redis() {
    let clock = ManualClock::new();
    let builder = SessionCache::builder().ttl(Duration::from_secs(30));
    let (cache, probe, layer) = layer_of(builder.stale_if_error(STALE).clock(clock.clone()));
    for text in ["t", "out", "reset"] {
        let user = if text == "reset" { "bob" } else { "ada" };
        probe.answer(move |_| Ok(session(user)));
        assert!(!info(&layer, text).await.unwrap().is_stale());
    }
    assert!(!info(&layer, "t").await.unwrap().is_stale(), "a hit");
    probe.answer(fails);
    clock.advance(Duration::from_secs(30));
    for _ in 0..3 {
        assert!(is_stale(&layer, "t").await);
    }
    assert_eq!(cache.stats().stale_hits, 3);
    // Stale sessions are served only if there is no better result.
    assert_eq!(ask(&layer, "unknown").await.unwrap_err(), 503);
    let _ = cache.revoke_token(&token("out")).await.unwrap();
    assert_eq!(ask(&layer, "out").await.unwrap_err(), 401);
    let _ = cache.invalidate_user("bob").await.unwrap();
    assert_eq!(ask(&layer, "reset").await.unwrap_err(), 503);
    probe.answer(|_| Err(ValidationError::misconfigured("no key")));
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    probe.answer(fails);
    clock.advance(STALE);
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
}

#[tokio::test]
async fn stale_session_needs_the_setting_and_an_unexpired_session() {
    let clock = ManualClock::new();
    for (stale, ends_after) in [(Duration::ZERO, 1_000), (STALE, 30)] {
        let builder = SessionCache::builder().ttl(Duration::from_secs(30));
        let (_, probe, layer) = layer_of(builder.stale_if_error(stale).clock(clock.clone()));
        let ends = clock.now() + chrono::TimeDelta::seconds(ends_after);
        probe.answer(move |_| Ok(session("ada").with_expires_at(ends)));
        ask(&layer, "t").await.unwrap();
        probe.answer(fails);
        clock.advance(Duration::from_secs(30));
        assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
    }
}

/// Creates a cache with an entry in memory whose record in Redis has expired.
async fn aged(redis: &Redis) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    aged_within(redis, Duration::from_secs(20)).await
}

/// Like `aged`, with a timeout for Redis. A request waits for all of it if the server is dead.
async fn aged_within(
    redis: &Redis,
    timeout: Duration,
) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let builder = SessionCache::builder()
        .redis(RedisConfig::single(redis.url()).timeout(timeout))
        .unwrap()
        .ttl(Duration::from_secs(1))
        .negative_ttl(Duration::ZERO)
        // A session that was just invalidated is stale as any other.
        .provider_lag(Duration::ZERO)
        .local_cache(LocalCacheConfig::new(10).lease(Duration::from_secs(60)))
        .stale_if_error(STALE);
    let (cache, probe, layer) = layer_of(builder);
    soon("a local hit", async {
        while info(&layer, "t").await.unwrap().origin() != Origin::Local {
            crate::support::pass().await;
        }
    })
    .await;
    probe.answer(fails);
    until("the record's end", || {
        redis.get(&session_key("t")).is_none()
    })
    .await;
    soon("the entry's end", async {
        while !is_stale(&layer, "t").await {
            crate::support::pass().await;
        }
    })
    .await;
    (cache, probe, layer)
}

#[tokio::test]
async fn stale_session_is_checked_for_revocation_in_redis() {
    let redis = Redis::start();
    let other = SessionCache::builder()
        .redis(RedisConfig::single(redis.url()).timeout(Duration::from_secs(20)))
        .unwrap()
        .build()
        .unwrap();
    for (n, expected) in [503, 503, 401].into_iter().enumerate() {
        let (_, probe, layer) = aged(&redis).await;
        let _ = match n {
            0 => other.invalidate_token(&token("t")).await.unwrap(),
            1 => other.invalidate_user("ada").await.unwrap(),
            _ => other.revoke_token(&token("t")).await.unwrap(),
        };
        // Decided by the tombstone or mark in Redis, and therefore immediately.
        assert_eq!(ask(&layer, "t").await.unwrap_err(), expected, "{n}");
        probe.answer(|_| Ok(session("ada")));
        assert_eq!(ask(&layer, "t").await.is_ok(), expected == 503);
    }
}

#[tokio::test]
async fn no_stale_session_is_served_while_redis_is_unavailable() {
    let mut redis = Redis::start();
    let (_, _, layer) = aged_within(&redis, Duration::from_secs(2)).await;
    redis.kill();
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
    // The same after a restart, in which Redis lost the revocations.
    redis.restart();
    for _ in 0..5 {
        assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
    }
}

#[tokio::test]
async fn no_stale_session_is_served_after_a_flush() {
    let redis = Redis::start();
    let (cache, _, layer) = aged(&redis).await;
    let epochs = cache.stats().local_resets;
    redis.run::<()>(&bb8_redis::redis::cmd("FLUSHALL"));
    until("the push", || cache.stats().local_resets > epochs).await;
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
}

/// After the end of a lease a flush could go unnoticed. The cache has a manual clock, so that the
/// lease ends and the connection of the listener does not.
#[tokio::test]
async fn no_stale_session_is_served_after_an_unnoticed_flush() {
    const LEASE: Duration = Duration::from_secs(20);
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let clock = ManualClock::new();
    let patient = |url| {
        let redis = RedisConfig::single(url).timeout(Duration::from_secs(20));
        SessionCache::builder().redis(redis).unwrap()
    };
    let builder = patient(proxy.url())
        .ttl(Duration::from_secs(1))
        .negative_ttl(Duration::ZERO)
        .local_cache(LocalCacheConfig::new(10).lease(LEASE))
        .stale_if_error(STALE)
        .clock(clock.clone());
    let (_, probe, layer) = layer_of(builder);
    soon("a local hit", async {
        while info(&layer, "t").await.unwrap().origin() != Origin::Local {
            crate::support::pass().await;
        }
    })
    .await;
    probe.answer(fails);
    until("the record's end", || {
        redis.get(&session_key("t")).is_none()
    })
    .await;
    clock.advance(Duration::from_secs(1));
    soon("the entry's end", async {
        while !is_stale(&layer, "t").await {
            crate::support::pass().await;
        }
    })
    .await;
    // From now on the listener waits for a PONG, and receives no push.
    let _ = proxy.commands();
    proxy.fault(Fault::Swallow);
    until("a heartbeat", || {
        proxy.commands().iter().any(|name| name == "PING")
    })
    .await;
    until("its reply to be lost", || proxy.swallowing() > 0).await;
    proxy.fault(Fault::None);
    assert!(is_stale(&layer, "t").await, "under the lease");
    let other = patient(redis.url()).build().unwrap();
    let _ = other.invalidate_token(&token("t")).await.unwrap();
    redis.run::<()>(&bb8_redis::redis::cmd("FLUSHALL"));
    clock.advance(LEASE);
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 503);
}

#[test]
fn stale_limit_must_not_exceed_the_lifetime_of_a_tombstone() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let stale = |stale| SessionCache::builder().stale_if_error(stale);
    // The default of `ttl` is reduced, an explicit setting is not.
    assert!(stale(minutes(59)).build().is_ok());
    let five = minutes(5);
    assert!(stale(minutes(54)).ttl(five).build().is_ok());
    let error = stale(minutes(55))
        .ttl(five)
        .build()
        .unwrap_err()
        .to_string();
    assert!(error.contains("stale_if_error"), "{error}");
    let short = stale(minutes(10))
        .ttl(five)
        .max_session_lifetime(minutes(15));
    assert!(
        short
            .build()
            .unwrap_err()
            .to_string()
            .contains("duration_remember_me")
    );
    let beside_redis = stale(minutes(1)).redis("redis://127.0.0.1:1").unwrap();
    let error = beside_redis.build().unwrap_err().to_string();
    assert!(error.contains("local_cache"), "{error}");
}
