//! Races with a real Redis and local caches: a revoked session is served from memory for less than a
//! lease, and from anywhere else not at all.

use std::time::{Duration, Instant};

use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheLayer, UserData,
    ValidatedSession,
};

use crate::support::{
    client::{ask, token},
    probe::Probe,
    redis::Redis,
    soon,
    world::{Settings, requests, run},
};

const NODES: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn revoked_session_is_not_served_locally_beyond_a_lease() {
    let steady = Settings {
        name: "local, steady",
        nodes: NODES,
        with_chaos: false,
        is_cluster: false,
        lease: Some(Duration::from_millis(250)),
    };
    run(steady, requests()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lease_bounds_revoked_local_hits_across_redis_failures() {
    let chaos = Settings {
        name: "local, chaos",
        nodes: NODES,
        with_chaos: true,
        is_cluster: false,
        lease: Some(Duration::from_millis(250)),
    };
    run(chaos, requests()).await;
}

/// Measures the time from the return of a revocation on one node until another node stops serving
/// the old session. It prints the figures and asserts only the lease, which holds on a slow machine
/// too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_reaches_another_node_within_a_lease() {
    const LEASE: Duration = Duration::from_secs(1);
    let redis = Redis::start();
    let cache = |local: bool| {
        let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
        let builder = SessionCache::builder().redis(redis).unwrap();
        match local {
            true => builder.local_cache(LocalCacheConfig::new(100).lease(LEASE)),
            false => builder,
        }
        .build()
        .unwrap()
    };
    let revoker = cache(false);
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache(true), probe.clone());
    let mut lags = Vec::new();
    for round in 0..requests() / 50 {
        let answer = move |_: &str| {
            let user = UserData::builder("ada").tier(round.to_string());
            Ok(ValidatedSession::new(user.build()))
        };
        soon("a local hit", async {
            while ask(&layer, "t").await.unwrap().1 != Origin::Local {}
        })
        .await;
        probe.answer(answer);
        let _ = match round % 2 {
            0 => revoker.invalidate_user("ada").await.unwrap(),
            _ => revoker.invalidate_token(&token("t")).await.unwrap(),
        };
        let returned = Instant::now();
        let mut began = returned;
        while ask(&layer, "t").await.unwrap().0.tier() != round.to_string() {
            assert!(
                began - returned < LEASE,
                "served after {:?}",
                began - returned
            );
            began = Instant::now();
        }
        lags.push(began - returned);
    }
    lags.sort();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
    let at_once = lags.iter().filter(|lag| lag.is_zero()).count();
    println!(
        "from a revocation to its effect on another node, {} times: {at_once} at the first request, \
         median {:?}, 99 % {:?}, 99.9 % {:?}, longest {:?}",
        lags.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
