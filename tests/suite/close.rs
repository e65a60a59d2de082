//! Graceful shutdown of a cache, and a cache that is used by one runtime after the other.

use std::time::Duration;

use tokio::runtime::Builder;
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, RevokeErrorKind, SessionCache, SessionCacheLayer,
};

use crate::support::{
    client::{ask, token},
    peer::tomb_key,
    probe::Probe,
    redis::Redis,
    soon, until,
};

fn cache(redis: &Redis) -> SessionCache {
    let config = RedisConfig::single(redis.url());
    SessionCache::builder()
        .redis(config)
        .unwrap()
        .build()
        .unwrap()
}

async fn queue_revocation(cache: &SessionCache, text: &str) {
    let error = cache.revoke_token(&token(text)).await.unwrap_err();
    assert_eq!(error.kind(), RevokeErrorKind::Queued);
}

#[tokio::test]
async fn close_delivers_what_is_queued() {
    let redis = Redis::start();
    let cache = cache(&redis);
    ask(&SessionCacheLayer::new(cache.clone(), Probe::new()), "t")
        .await
        .unwrap();
    redis.pause();
    for text in ["t", "u"] {
        queue_revocation(&cache, text).await;
    }
    let error = cache.close(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(error.undelivered(), 2);
    assert!(
        error
            .to_string()
            .starts_with("revocations that Redis does not have: 2;")
    );
    let closing = tokio::spawn({
        let cache = cache.clone();
        async move { cache.close(Duration::from_secs(60)).await }
    });
    redis.resume();
    soon("the delivery", closing).await.unwrap().unwrap();
    for text in ["t", "u"] {
        assert!(redis.get(&tomb_key(text)).is_some());
    }
    assert_eq!(cache.stats().queued_revocations, 0);
}

#[tokio::test]
async fn close_waits_for_revocations_that_were_dropped_by_their_callers() {
    let redis = Redis::start();
    let config = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    let cache = SessionCache::builder().redis(config).unwrap();
    let cache = cache.build().unwrap();
    redis.pause();
    let token = token("t");
    let mut revocation = Box::pin(cache.revoke_token(&token));
    let dropped = tokio::time::timeout(Duration::from_millis(1), &mut revocation).await;
    assert!(dropped.is_err());
    drop(revocation);
    redis.resume();
    let closed = cache.close(Duration::from_secs(60));
    soon("the delivery", closed).await.unwrap();
    assert!(redis.get(&tomb_key("t")).is_some());
}

#[tokio::test]
async fn closed_cache_starts_no_validation_and_no_listener() {
    let redis = Redis::start();
    let local = LocalCacheConfig::new(100).lease(Duration::from_secs(20));
    let builder = SessionCache::builder().redis(redis.url()).unwrap();
    let cache = builder.local_cache(local).build().unwrap();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    ask(&layer, "t").await.unwrap();
    until("a lease", || cache.stats().lease_age.is_some()).await;
    cache.close(Duration::ZERO).await.unwrap();
    until("the end of the listener", || {
        !cache.stats().listener_connected
    })
    .await;
    assert_eq!(ask(&layer, "unknown").await.unwrap_err(), 503);
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Redis);
    assert!(!cache.stats().listener_connected);
    assert_eq!(probe.calls(), 1);
    // What is revoked from now on is not lost either.
    let _ = cache.revoke_token(&token("t")).await.unwrap();
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
}

#[tokio::test]
async fn close_without_redis_returns_immediately() {
    let cache = SessionCache::default();
    let _ = cache.invalidate_user("ada").await.unwrap();
    cache.close(Duration::ZERO).await.unwrap();
}

/// A static cache outlives the runtime that first used it, as in tests and in some servers.
#[test]
fn queue_and_breaker_survive_their_first_runtime() {
    let redis = Redis::start();
    let cache = cache(&redis);
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    first.block_on(async {
        ask(&layer, "t").await.unwrap();
        redis.pause();
        queue_revocation(&cache, "u").await;
        until("the breaker to open", || cache.stats().redis_circuit_open).await;
    });
    drop(first);
    redis.resume();
    runtime().block_on(async {
        soon("the cache to be used again", async {
            while ask(&layer, "t").await.unwrap().1 != Origin::Redis {
                crate::support::pass().await;
            }
        })
        .await;
        until("the delivery", || redis.get(&tomb_key("u")).is_some()).await;
    });
    assert!(!cache.stats().redis_circuit_open);
}
