//! Sockets to Redis: behind a Unix socket, and the options of TCP.

use std::time::Duration;

use bb8_redis::redis::cmd;
#[cfg(target_os = "linux")]
use tower_session_cache::RedisTls;
use tower_session_cache::{LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheLayer};

use crate::support::{client::ask, peer::session_key, probe::Probe, redis::Redis, soon, until};
#[cfg(target_os = "linux")]
use crate::support::{
    sentinel::{Fake, NAME, Says},
    tls::{Authority, TlsRedis, is_spoken},
};

#[tokio::test]
async fn unix_socket_serves_lookups_and_the_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock");
    let path = path.to_str().unwrap();
    let redis = Redis::start_with(&["--unixsocket", path]);
    let rules = ["on", ">p@ss/", "~*", "+@all"];
    redis.run::<()>(cmd("ACL").arg("SETUSER").arg("ada").arg(&rules));
    for (n, scheme) in ["unix", "redis+unix", "valkey+unix"].iter().enumerate() {
        let url = format!("{scheme}://{path}?user=ada&pass=p%40ss%2F");
        let url = if n == 0 { url } else { format!("{url}&db=2") };
        let cache = SessionCache::builder()
            .redis(
                RedisConfig::single(url)
                    .database(2)
                    .timeout(Duration::from_secs(20))
                    .connect_timeout(Duration::from_secs(20)),
            )
            .unwrap()
            .local_cache(LocalCacheConfig::new(100).lease(Duration::from_secs(20)))
            .build()
            .unwrap();
        let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
        let token = format!("t-{n}");
        ask(&layer, &token).await.unwrap();
        // If the URL names no database, the one of the settings is used.
        assert!(redis.get(&session_key(&token)).is_some());
        until("a lease", || cache.stats().lease_age.is_some()).await;
        soon("a hit in memory", async {
            while ask(&layer, &token).await.unwrap().1 != Origin::Local {}
        })
        .await;
        let clients: String = redis.run(cmd("CLIENT").arg("LIST").arg("TYPE").arg("NORMAL"));
        let ours = clients.lines().filter(|it| it.contains("user=ada"));
        assert!(ours.clone().count() >= 2, "{clients}");
        assert!(ours.clone().all(|it| it.contains(path)), "{clients}");
    }
}

/// The kernel probes idle connections: those of lookups, of `WAIT`, of the listener and to the
/// sentinels. So a load balancer does not drop them, and a peer that is gone is noticed.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn every_tcp_connection_has_keep_alive_probes() {
    let redis = Redis::start();
    let sentinel = Fake::start(Says::Primary(1, redis.port())).await;
    let patient = Duration::from_secs(20);
    let config = RedisConfig::sentinel([sentinel.url()], NAME)
        .timeout(patient)
        .wait_for_replicas(1, Duration::from_millis(1));
    let local = LocalCacheConfig::new(100).lease(patient);
    let builder = SessionCache::builder().redis(config).unwrap();
    let cache = builder.local_cache(local).build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    ask(&layer, "t").await.unwrap();
    let _ = cache.invalidate_user("ada").await.unwrap();
    until("a lease", || cache.stats().lease_age.is_some()).await;
    let sentinel = sentinel.url().rsplit_once(':').unwrap().1.parse().unwrap();
    for (port, at_least) in [(redis.port(), 3), (sentinel, 1)] {
        until("the timers of all connections", || {
            let timers = timers(port);
            // A timer of another kind runs until data is acknowledged.
            timers.len() >= at_least && timers.iter().all(|timer| timer == "02")
        })
        .await;
    }
}

/// The same for connections with TLS, whose sockets this crate opens itself.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn tls_connections_have_keep_alive_probes() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, &authority.issue("127.0.0.1"), false, &[]);
    let tls = RedisTls::new().root_certificates(authority.pem());
    let config = RedisConfig::single(redis.url())
        .tls(tls)
        .timeout(Duration::from_secs(20));
    let cache = SessionCache::builder().redis(config).unwrap().build();
    let layer = SessionCacheLayer::new(cache.unwrap(), Probe::new());
    ask(&layer, "t").await.unwrap();
    until("the timers of all connections", || {
        let timers = timers(redis.port);
        !timers.is_empty() && timers.iter().all(|timer| timer == "02")
    })
    .await;
}

/// The kind of the running timer, for each established connection to this port: `02` is the one of
/// keep-alive probes.
#[cfg(target_os = "linux")]
fn timers(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let peer = format!(":{port:04X}");
    let rows = table.lines().map(|row| row.split_whitespace().collect());
    rows.filter(|row: &Vec<_>| row[2].ends_with(&peer) && row[3] == "01")
        .map(|row| row[5].split(':').next().unwrap().to_owned())
        .collect()
}
