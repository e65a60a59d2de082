//! Servers that lack something that Redis has. One log line names what is missing, and the cache does
//! without it where it can.

use std::time::Duration;

use tower_session_cache::{Origin, RedisConfig, SessionCache, SessionCacheLayer};

use crate::support::{
    client::{ask, token},
    log::{Recording, record},
    probe::Probe,
    proxy::Proxy,
    redis::Redis,
    soon, until,
};

fn node(url: &str) -> (SessionCache, SessionCacheLayer<Probe>) {
    let config = RedisConfig::single(url).timeout(Duration::from_secs(20));
    // These tests count validations, and must not depend on the time that they take.
    let builder = SessionCache::builder().provider_lag(Duration::ZERO);
    let cache = builder.redis(config).unwrap().build().unwrap();
    (cache.clone(), SessionCacheLayer::new(cache, Probe::new()))
}

fn warnings(log: &Recording) -> Vec<String> {
    let text = log.text();
    let lines = text.lines().filter(|line| line.contains("WARN"));
    lines.map(str::to_owned).collect()
}

/// Stores, serves and revokes.
async fn works(cache: &SessionCache, layer: &SessionCacheLayer<Probe>) {
    for _ in 0..3 {
        assert_eq!(ask(layer, "t").await.unwrap().1, Origin::Validator);
        for _ in 0..3 {
            assert_eq!(ask(layer, "t").await.unwrap().1, Origin::Redis);
        }
        let _ = cache.invalidate_user("ada").await.unwrap();
        assert_eq!(ask(layer, "t").await.unwrap().1, Origin::Validator);
        let _ = cache.invalidate_token(&token("t")).await.unwrap();
    }
    assert_eq!(cache.stats().redis_errors, 0);
}

#[tokio::test]
async fn database_that_the_server_lacks_is_named_in_one_line() {
    let redis = Redis::start_with(&["--databases", "1"]);
    let url = redis.url();
    let (cache, layer) = node(&url);
    let log = record();
    soon("the circuit breaker to open", async {
        while !cache.stats().redis_circuit_open {
            ask(&layer, "t").await.unwrap();
        }
    })
    .await;
    let warnings = warnings(&log);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(
        warnings[0].contains("`database` of `RedisConfig`"),
        "{warnings:?}"
    );
    // The same server with the database that it has.
    let url = url.trim_end_matches("/2");
    let config = RedisConfig::single(url);
    let builder = SessionCache::builder().provider_lag(Duration::ZERO);
    let cache = builder.redis(config.timeout(Duration::from_secs(20)));
    let cache = cache.unwrap().build().unwrap();
    works(&cache, &SessionCacheLayer::new(cache.clone(), Probe::new())).await;
}

#[tokio::test]
async fn server_without_script_load_is_sent_the_scripts() {
    let redis = Redis::start_with(&["--rename-command", "SCRIPT", ""]);
    let (cache, layer) = node(&redis.url());
    let log = record();
    works(&cache, &layer).await;
    until("two connections", || cache.stats().redis_connections == 2).await;
    let warnings = warnings(&log);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("SCRIPT LOAD"), "{warnings:?}");
}

/// Dragonfly, and kvrocks if it is configured so, reject scripts that access other keys. The name of
/// the user's mark follows from the record, so the first lookup in a process takes two round trips.
#[tokio::test]
async fn scripts_access_only_the_keys_that_they_declare() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    proxy.require_declared_keys();
    let (cache, layer) = node(&proxy.url());
    works(&cache, &layer).await;
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);

    let (other_cache, other_layer) = node(&proxy.url());
    assert_eq!(ask(&other_layer, "t").await.unwrap().1, Origin::Redis);
    let _ = cache.invalidate_user("ada").await.unwrap();
    assert_eq!(ask(&other_layer, "t").await.unwrap().1, Origin::Validator);
    assert_eq!(other_cache.stats().redis_errors, 0);
}
