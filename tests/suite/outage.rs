//! Redis stops, hangs, comes back, or was never there. Every request gets a response, and no
//! revocation is lost on this node.

use std::time::{Duration, Instant};

use bb8_redis::redis::cmd;
use tower_session_cache::{
    Fill, Lookup, Origin, RedisConfig, RedisHealth, RevokeErrorKind, SessionCache,
    SessionCacheBuilder, SessionCacheLayer, UserData, ValidatedSession,
};

use crate::support::{
    client::{ask, tier, token},
    hostile::Hostile,
    log::record,
    peer::{mark_key, tomb_key},
    probe::Probe,
    proxy::Proxy,
    redis::{Redis, free_port, is_before_7},
    soon, until,
};

fn of_tier(
    tier: &'static str,
) -> impl Fn(&str) -> Result<ValidatedSession, tower_session_cache::ValidationError> {
    move |_| {
        Ok(ValidatedSession::new(
            UserData::builder("ada").tier(tier).build(),
        ))
    }
}

/// Creates a node with the default timeout of 250 ms, which only a dead server should exceed.
fn node(url: &str) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    node_of(SessionCache::builder().redis(url).unwrap())
}

/// Creates a node with a timeout of 20 s, for lookups that must succeed even on a slow machine.
fn patient_node(url: &str) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let redis = RedisConfig::single(url).timeout(Duration::from_secs(20));
    node_of(SessionCache::builder().redis(redis).unwrap())
}

fn node_of(builder: SessionCacheBuilder) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let cache = builder.build().unwrap();
    let probe = Probe::answering(of_tier("old"));
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

async fn until_served_from_redis(layer: &SessionCacheLayer<Probe>) {
    soon("the cache to be used again", async {
        while ask(layer, "t").await.unwrap().1 != Origin::Redis {
            crate::support::pass().await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_succeed_while_redis_stops_and_restarts() {
    let mut redis = Redis::start();
    let (cache, probe, layer) = node(&redis.url());
    until_served_from_redis(&layer).await;
    for _ in 0..2 {
        redis.kill();
        for _ in 0..3 {
            let calls = probe.calls();
            assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
            assert_eq!(probe.calls(), calls + 1);
        }
        assert_eq!(cache.health_check().await.redis, RedisHealth::Down);
        redis.restart();
        until_served_from_redis(&layer).await;
        assert_eq!(cache.health_check().await.redis, RedisHealth::Up);
    }
}

#[tokio::test]
async fn redis_missing_at_startup_is_used_once_available() {
    let port = free_port();
    let (cache, _, layer) = node(&format!("redis://127.0.0.1:{port}/2"));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
    assert_eq!(cache.health_check().await.redis, RedisHealth::Down);
    let _redis = Redis::start_on(port);
    until_served_from_redis(&layer).await;
}

/// A refused connection is an answer: neither requests nor revocations wait for the timeout.
#[tokio::test]
async fn refused_connection_is_not_waited_out() {
    let mut redis = Redis::start();
    let timeout = Duration::from_secs(20);
    let config = RedisConfig::single(redis.url()).timeout(timeout);
    let (cache, _, layer) = node_of(SessionCache::builder().redis(config).unwrap());
    until_served_from_redis(&layer).await;
    redis.kill();
    let start = Instant::now();
    for _ in 0..2 {
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
    }
    let error = cache.invalidate_user("ada").await.unwrap_err();
    assert_eq!(error.kind(), RevokeErrorKind::Queued);
    let waited = start.elapsed();
    assert!(waited < timeout, "{waited:?}");
    redis.restart();
    until_served_from_redis(&layer).await;
}

#[tokio::test]
async fn logout_while_redis_hangs_is_local_first_then_on_all_nodes() {
    let redis = Redis::start();
    let (cache, probe, layer) = node(&redis.url());
    let (_, _, other) = patient_node(&redis.url());
    until_served_from_redis(&layer).await;

    redis.pause();
    let error = cache.revoke_token(&token("t")).await.unwrap_err();
    assert_eq!(error.kind(), RevokeErrorKind::Queued);
    assert_eq!(cache.stats().queued_revocations, 1);
    let calls = probe.calls();
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    redis.resume();
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    assert_eq!(probe.calls(), calls, "rejected without a validation");

    soon("the delivery of the logout", async {
        while cache.stats().queued_revocations > 0 {
            assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
            crate::support::pass().await;
        }
    })
    .await;
    assert!(redis.get(&tomb_key("t")).unwrap().contains(":refuse:"));
    assert_eq!(ask(&other, "t").await.unwrap_err(), 401);
}

#[tokio::test]
async fn record_invalidated_while_redis_hangs_is_not_served_later() {
    for by_user in [false, true] {
        let redis = Redis::start();
        let (cache, probe, layer) = node(&redis.url());
        until_served_from_redis(&layer).await;
        redis.pause();
        probe.answer(of_tier("new"));
        let outcome = if by_user {
            cache.invalidate_user("ada").await
        } else {
            cache.invalidate_token(&token("t")).await
        };
        assert_eq!(outcome.unwrap_err().kind(), RevokeErrorKind::Queued);
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
        redis.resume();
        soon("the cache to be used again", async {
            loop {
                let (user, origin) = ask(&layer, "t").await.unwrap();
                assert_eq!(user.tier(), "new", "by user: {by_user}");
                if origin == Origin::Redis && cache.stats().queued_revocations == 0 {
                    break;
                }
                crate::support::pass().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn records_restored_from_an_old_snapshot_are_ignored() {
    let mut redis = Redis::start();
    let (cache, probe, layer) = patient_node(&redis.url());
    until_served_from_redis(&layer).await;
    redis.run::<()>(
        bb8_redis::redis::cmd("CONFIG")
            .arg("SET")
            .arg("save")
            .arg("3600 1"),
    );
    redis.run::<()>(&bb8_redis::redis::cmd("SAVE"));
    redis.run::<()>(
        bb8_redis::redis::cmd("CONFIG")
            .arg("SET")
            .arg("save")
            .arg(""),
    );
    // Written after the snapshot, so the restart loses it.
    let _ = cache.invalidate_user("ada").await.unwrap();
    probe.answer(of_tier("new"));
    redis.kill();
    redis.restart();
    assert!(
        redis
            .keys()
            .iter()
            .any(|key| key.starts_with("session_cache:"))
    );
    assert!(
        !redis
            .keys()
            .iter()
            .any(|key| key.starts_with("user_invalidated:"))
    );
    for _ in 0..10 {
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
    }
}

#[tokio::test]
async fn circuit_breaker_is_open_while_redis_is_unavailable() {
    for freezes in [false, true] {
        let mut redis = Redis::start();
        let proxy = Proxy::start(redis.port()).await;
        let (cache, probe, layer) = node(&proxy.url());
        until_served_from_redis(&layer).await;
        let log = record();
        if freezes {
            redis.pause();
        } else {
            redis.kill();
        }
        let mut asked = 0;
        while !cache.stats().redis_circuit_open {
            assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
            asked += 1;
        }
        assert!(asked <= 3, "{asked}");
        let (calls, _) = (probe.calls(), proxy.commands());
        for _ in 0..200 {
            assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
        }
        assert_eq!(probe.calls(), calls + 200);
        // Only the probe that tests whether Redis is back still sends commands.
        let mut commands = proxy.commands();
        commands.retain(|name| name == "EVALSHA" || name == "MGET");
        assert!(commands.is_empty(), "{commands:?}");
        let error = cache.revoke_token(&token("u")).await.unwrap_err();
        assert_eq!(error.kind(), RevokeErrorKind::Queued);
        assert_eq!(cache.health_check().await.redis, RedisHealth::Down);
        if freezes {
            redis.resume();
        } else {
            redis.restart();
        }
        until_served_from_redis(&layer).await;
        soon("the logout's delivery", async {
            while cache.stats().queued_revocations > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let text = log.text();
        let changes = |line: &str| text.matches(line).count();
        assert_eq!(
            changes("Redis unavailable, circuit breaker opened"),
            1,
            "{text}"
        );
        assert_eq!(changes("Redis available again"), 1, "{text}");
    }
}

#[tokio::test]
async fn validation_across_a_restart_that_lost_data_is_not_stored() {
    let mut redis = Redis::start();
    let (cache, probe, layer) = node(&redis.url());
    let (other, _, warm) = patient_node(&redis.url());
    until_served_from_redis(&warm).await;
    probe.hold();
    let early = tokio::spawn({
        let layer = layer.clone();
        async move { tier(&layer, "in-flight").await }
    });
    probe.wait_for_calls(1).await;
    probe.answer(of_tier("new"));
    let _ = other.invalidate_user("ada").await.unwrap();
    redis.kill();
    redis.restart();
    probe.let_go();
    early.await.unwrap().unwrap();
    assert_eq!(cache.stats().fills, 0);
    assert_eq!(tier(&layer, "in-flight").await.as_deref(), Ok("new"));
}

#[tokio::test]
async fn late_fill_is_reported_as_unavailable() {
    // A tombstone may have been written and have expired since the lookup.
    let hostile = Hostile::start().await;
    let (cache, _, _) = patient_node(&hostile.url());
    hostile.says(
        "*8\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n$17\r\n1732444800.000000\r\n$-1\r\n$-1\r\n$-1\r\n",
    );
    let Lookup::Miss(ticket) = cache.get(&token("t")).await else {
        panic!("nothing is stored")
    };
    hostile.says("*1\r\n$4\r\nlate\r\n");
    let session = ValidatedSession::new(UserData::new("ada"));
    let fill = cache.set(ticket, &session).await;
    assert!(matches!(fill, Fill::Unavailable), "{fill:?}");
}

/// The name of the server leads to another one, but the connections to the old one stay. As soon as
/// the old one says that it takes no writes, in whatever words, they are given up.
#[tokio::test]
async fn connections_to_a_server_that_takes_no_writes_are_given_up() {
    let replicate: &[&str] = &["REPLICAOF", "127.0.0.1", "1"];
    let stale: &[&str] = &["CONFIG", "SET", "replica-serve-stale-data", "no"];
    let lonely: &[&str] = &["CONFIG", "SET", "min-replicas-to-write", "1"];
    let full: &[&str] = &["CONFIG", "SET", "maxmemory", "1"];
    for (error, commands) in [
        ("READONLY", vec![replicate]),
        ("MASTERDOWN", vec![stale, replicate]),
        ("NOREPLICAS", vec![lonely]),
        ("OOM", vec![full]),
    ] {
        // Before Redis 7 this setting does not apply to scripts.
        if error == "NOREPLICAS" && is_before_7() {
            continue;
        }
        for is_old in [false, true] {
            let (old, new) = (Redis::start(), Redis::start());
            let proxy = Proxy::start(old.port()).await;
            if is_old {
                proxy.use_words_of_redis_6();
            }
            let (cache, _, layer) = node(&proxy.url());
            until_served_from_redis(&layer).await;
            for command in &commands {
                old.run::<()>(cmd(command[0]).arg(&command[1..]));
            }
            proxy.lead_to(new.port());
            soon(error, async {
                while cache.invalidate_user("ada").await.is_err() {
                    crate::support::pass().await;
                }
            })
            .await;
            assert!(new.get(&mark_key("ada")).is_some(), "{error}");
            until_served_from_redis(&layer).await;
            soon("the earlier revocations", async {
                while cache.stats().queued_revocations > 0 {
                    crate::support::pass().await;
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn redis_that_is_too_old_is_used_and_logged_once() {
    let info = |version| format!("redis_version:{version}\r\nrun_id:r\r\nmaster_replid:\r\n");
    for (version, is_too_old) in [
        ("5.0.14", true),
        ("6.0.16", true),
        ("6.2.5", false),
        ("7.0.15", false),
        ("255.255.255", false),
        ("unstable", false),
    ] {
        let hostile = Hostile::start_with_info(info(version).leak()).await;
        let (cache, _, _) = patient_node(&hostile.url());
        let log = record();
        hostile.says("*6\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n$17\r\n1732444800.000000\r\n$-1\r\n");
        for _ in 0..5 {
            let found = cache.get(&token("t")).await;
            assert!(matches!(found, Lookup::Miss(_)), "{version}");
        }
        until("two connections", || cache.stats().redis_connections == 2).await;
        let text = log.text();
        let lines = text.lines().filter(|line| line.contains("older than"));
        assert_eq!(lines.clone().count(), usize::from(is_too_old), "{text}");
        assert!(
            lines
                .clone()
                .all(|line| line.contains(version) && line.contains("6.2"))
        );
    }
}
