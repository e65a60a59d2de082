//! Redis behind a Unix socket.

use std::time::Duration;

use bb8_redis::redis::cmd;
use tower_session_cache::{LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheLayer};

use crate::support::{client::ask, peer::session_key, probe::Probe, redis::Redis, soon, until};

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
