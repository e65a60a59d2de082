//! Revocations that wait for replicas and return how many have them.

use std::time::Duration;

use bb8_redis::redis::cmd;
use tower_session_cache::{Origin, RedisConfig, Revocation, SessionCache, SessionCacheLayer};

use crate::support::{
    client::{ask, token},
    log::record,
    pass_time,
    probe::Probe,
    proxy::Proxy,
    redis::Redis,
    until,
};

const LONG: Duration = Duration::from_secs(50);

fn pair() -> (Redis, Redis) {
    let primary = Redis::start();
    let port = primary.port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
    let online = || {
        let info: String = primary.run(cmd("INFO").arg("replication"));
        info.contains("state=online")
    };
    while !online() {
        std::thread::sleep(Duration::from_millis(1));
    }
    (primary, replica)
}

fn node(redis: &Redis, wanted: u32, at_most: Duration) -> SessionCache {
    node_at(redis.url(), wanted, at_most)
}

fn node_at(url: String, wanted: u32, at_most: Duration) -> SessionCache {
    SessionCache::builder()
        .redis(
            RedisConfig::single(url)
                .timeout(Duration::from_secs(20))
                .wait_for_replicas(wanted, at_most),
        )
        .unwrap()
        .build()
        .unwrap()
}

fn waiting(redis: &Redis) -> usize {
    let clients: String = redis.run(cmd("CLIENT").arg("LIST"));
    clients.lines().filter(|it| it.contains("cmd=wait")).count()
}

#[tokio::test]
async fn revocation_returns_the_number_of_replicas_that_have_it() {
    let (primary, replica) = pair();
    let cache = node(&primary, 1, LONG);
    let replicas = |revocation: Revocation| revocation.replicas();
    let outcomes = [
        replicas(cache.invalidate_token(&token("t")).await.unwrap()),
        replicas(cache.revoke_token(&token("t")).await.unwrap()),
        replicas(cache.invalidate_user("ada").await.unwrap()),
    ];
    assert_eq!(outcomes, [Some(1); 3]);
    assert_eq!(replica.keys().len(), 3, "tombstone, mark and probe");

    // Concurrent revocations share their `WAIT` commands.
    let many = (0..200).map(|n| {
        let cache = cache.clone();
        tokio::spawn(async move { cache.revoke_token(&token(&format!("t-{n}"))).await })
    });
    for revocation in many.collect::<Vec<_>>() {
        assert_eq!(revocation.await.unwrap().unwrap().replicas(), Some(1));
    }
    let stats: String = primary.run(cmd("INFO").arg("commandstats"));
    let calls = |name: &str| -> u64 {
        let line = stats.lines().find(|line| line.starts_with(name)).unwrap();
        let calls = line.split(['=', ',']).nth(1).unwrap();
        calls.parse().unwrap()
    };
    assert!(calls("cmdstat_wait:") < 200, "{}", calls("cmdstat_wait:"));
}

#[tokio::test]
async fn replicas_are_counted_after_idle_connections_were_lost() {
    let (primary, _replica) = pair();
    let proxy = Proxy::start(primary.port()).await;
    let cache = node_at(proxy.url(), 1, LONG);
    for _ in 0..2 {
        let revocation = cache.invalidate_user("ada").await.unwrap();
        assert_eq!(revocation.replicas(), Some(1));
        proxy.forget_connections();
        pass_time(Duration::from_secs(3600)).await;
    }
    assert!(proxy.lost() > 0);
}

#[tokio::test]
async fn waiting_revocation_is_in_effect_and_delays_no_request() {
    let (primary, replica) = pair();
    let cache = node(&primary, 1, LONG);
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    ask(&layer, "other").await.unwrap();
    replica.pause();
    let revoking = tokio::spawn({
        let cache = cache.clone();
        async move { cache.revoke_token(&token("t")).await }
    });
    until("a wait for the replica", || waiting(&primary) > 0).await;
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    for _ in 0..100 {
        assert_eq!(ask(&layer, "other").await.unwrap().1, Origin::Redis);
    }
    assert!(!revoking.is_finished() && waiting(&primary) == 1);
    replica.resume();
    assert_eq!(revoking.await.unwrap().unwrap().replicas(), Some(1));
}

#[tokio::test]
async fn too_few_replicas_cause_a_warning_and_no_error() {
    let (primary, replica) = pair();
    let log = record();
    let cache = node(&primary, 2, Duration::from_millis(50));
    // There is only one replica. Whether it had the revocation in time depends on the machine.
    for n in 0..3 {
        let revocation = cache.revoke_token(&token(&format!("t-{n}"))).await.unwrap();
        assert!(revocation.replicas() <= Some(1));
    }
    let warnings = |text: &str| text.matches("fewer replicas than required").count();
    assert_eq!(warnings(&log.text()), 1);
    drop(replica);

    let alone = SessionCache::default();
    let revocation = alone.revoke_token(&token("t")).await.unwrap();
    assert_eq!(revocation.replicas(), None);
    for (replicas, at_most) in [(0, LONG), (1, Duration::ZERO), (1, Duration::from_secs(61))] {
        let redis = RedisConfig::single(primary.url()).wait_for_replicas(replicas, at_most);
        let error = SessionCache::builder().redis(redis).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("wait_for_replicas"), "{error}");
    }
}
