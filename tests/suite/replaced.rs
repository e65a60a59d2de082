//! Another server takes over the name that a node connects to, or the connections to it end without
//! notice. Revocations reach the server behind the name.

use std::time::Duration;

use bb8_redis::redis::cmd;
use tower_session_cache::{
    Origin, RedisConfig, SessionCache, SessionCacheLayer, UserData, ValidatedSession,
};

use crate::support::{
    client::{ask, token},
    pass,
    peer::{mark_key, tomb_key},
    probe::Probe,
    proxy::Proxy,
    redis::Redis,
    soon, until,
};

/// Timeout of these nodes. No step waits for it, except that a revocation without a reply waits for
/// a third of it.
const TIMEOUT: Duration = Duration::from_secs(10);

fn node(url: &str, tier: &'static str) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let redis = RedisConfig::single(url).timeout(TIMEOUT);
    let cache = SessionCache::builder()
        .redis(redis)
        .unwrap()
        .build()
        .unwrap();
    let probe = Probe::new();
    answer(&probe, tier);
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

fn answer(probe: &Probe, tier: &'static str) {
    probe.answer(move |_| {
        let user = UserData::builder("ada").tier(tier).build();
        Ok(ValidatedSession::new(user))
    });
}

/// Requests until both connections of the node are in use.
async fn until_connected(cache: &SessionCache, layer: &SessionCacheLayer<Probe>) {
    soon("two connections and a cached session", async {
        while ask(layer, "t").await.unwrap().1 != Origin::Redis
            || cache.stats().redis_connections < 2
        {
            pass().await;
        }
    })
    .await;
    for _ in 0..2 {
        assert_eq!(ask(layer, "t").await.unwrap().1, Origin::Redis);
    }
}

fn demote(server: &Redis) {
    server.run::<()>(cmd("REPLICAOF").arg("127.0.0.1").arg(1));
}

#[tokio::test]
async fn revocation_reaches_the_new_server_after_a_demotion() {
    let (old, new) = (Redis::start(), Redis::start());
    let proxy = Proxy::start(old.port()).await;
    let (cache, _, layer) = node(&proxy.url(), "old");
    until_connected(&cache, &layer).await;
    demote(&old);
    proxy.lead_to(new.port());
    assert!(cache.invalidate_user("ada").await.is_ok());
    assert!(new.get(&mark_key("ada")).is_some());
}

/// Returns the ID of a connection that has sent a lookup.
fn client_in_use(server: &Redis) -> String {
    let clients: String = server.run(cmd("CLIENT").arg("LIST"));
    let client = clients
        .lines()
        .find(|client| client.contains("cmd=evalsha") || client.contains("cmd=mget"))
        .unwrap();
    let id = client
        .split(' ')
        .find_map(|field| field.strip_prefix("id="));
    id.unwrap().to_owned()
}

/// The node connects to the new server only because one of its connections has ended. Another one
/// still leads to the old server, which replies to reads.
#[tokio::test]
async fn old_server_is_not_read_after_a_connection_to_the_new_one() {
    let (old, new) = (Redis::start(), Redis::start());
    let proxy = Proxy::start(old.port()).await;
    let (cache, probe, layer) = node(&proxy.url(), "old");
    until_connected(&cache, &layer).await;
    answer(&probe, "new");
    proxy.lead_to(new.port());
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("ID").arg(client_in_use(&old));
    old.run::<()>(&kill);
    let is_new = async || {
        let (user, origin) = ask(&layer, "t").await.unwrap();
        user.tier() == "new" && origin == Origin::Redis
    };
    soon("a read from the new server", async {
        while !is_new().await {
            pass().await;
        }
    })
    .await;
    for _ in 0..8 {
        assert!(is_new().await);
    }
}

#[tokio::test]
async fn revocation_reaches_the_server_after_its_connections_were_dropped() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let (cache, _, layer) = node(&proxy.url(), "old");
    until_connected(&cache, &layer).await;
    proxy.forget_connections();
    assert!(cache.revoke_token(&token("t")).await.is_ok());
    assert!(redis.get(&tomb_key("t")).is_some());
    assert!(
        cache.invalidate_user("ada").await.is_ok(),
        "on a connection that was replaced"
    );
    assert_eq!(
        proxy.lost(),
        1,
        "the second one is not sent on a dead connection"
    );
}

#[tokio::test]
async fn revocation_is_sent_while_the_circuit_breaker_is_open() {
    let mut redis = Redis::start();
    let (cache, _, layer) = node(&redis.url(), "old");
    until_connected(&cache, &layer).await;
    redis.kill();
    soon("an open circuit breaker", async {
        while !cache.stats().redis_circuit_open {
            let _ = ask(&layer, "t").await;
        }
    })
    .await;
    redis.restart();
    assert!(cache.invalidate_user("ada").await.is_ok());
    until("a closed circuit breaker", || {
        !cache.stats().redis_circuit_open
    })
    .await;
}
