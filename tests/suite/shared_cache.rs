//! The cache in Redis: what it stores, what it costs, and how it works with the Python service.

use std::{future::Future, process::Command, time::Duration};

use bb8_redis::redis::cmd;
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use tower_session_cache::{
    Lookup, Origin, RedisConfig, RedisHealth, RevokeErrorKind, SessionCache, SessionCacheBuilder,
    SessionCacheConfig, SessionCacheLayer, UserData, ValidatedSession,
};

use crate::support::{
    client::{ask, tier, token},
    log::record as record_log,
    peer::{self, Peer, mark_key, session_key, tomb_key},
    probe::{Probe, session},
    process,
    proxy::Proxy,
    redis::{Redis, free_port, is_before_7},
    soon, until,
};

fn builder(redis: &Redis) -> SessionCacheBuilder {
    // Far longer than any reply takes, because these tests are not about timeouts.
    let patient = Duration::from_secs(20);
    SessionCache::builder()
        .redis(RedisConfig::single(redis.url()).timeout(patient))
        .unwrap()
        // These tests count validations, and must not depend on the time that they take.
        .provider_lag(Duration::ZERO)
}

fn node(redis: &Redis) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let cache = builder(redis).build().unwrap();
    let probe = Probe::new();
    (
        cache.clone(),
        probe.clone(),
        SessionCacheLayer::new(cache, probe),
    )
}

async fn origin(layer: &SessionCacheLayer<Probe>, token: &str) -> Option<Origin> {
    ask(layer, token).await.ok().map(|(_, origin)| origin)
}

#[tokio::test]
async fn session_validated_by_one_node_is_served_by_all() {
    let redis = Redis::start();
    let (_, one, first) = node(&redis);
    let (cache, two, second) = node(&redis);
    assert_eq!(origin(&first, "t").await, Some(Origin::Validator));
    for layer in [&second, &first, &second] {
        assert_eq!(origin(layer, "t").await, Some(Origin::Redis));
    }
    assert_eq!((one.calls(), two.calls()), (1, 0));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (2, 0));
    assert_eq!(cache.health_check().await.redis, RedisHealth::Up);
}

#[tokio::test]
async fn redis_holds_only_expected_keys_with_expected_lifetimes() {
    let redis = Redis::start();
    let (cache, probe, layer) = node(&redis);
    let time = |text: &str| text.parse::<chrono::DateTime<Utc>>().unwrap();
    let user = UserData::builder("u-1")
        .email("ada@example.com")
        .name("Ad\u{e1}")
        .email_verified(true)
        .tier("pro")
        .created_at(time("2025-04-28T09:31:48.342Z"))
        .attribute("team", json!(["a"]));
    let ends = Utc::now() + TimeDelta::seconds(1000);
    let validated = ValidatedSession::new(user.build()).with_expires_at(ends);
    probe.answer(move |_| Ok(validated.clone()));
    ask(&layer, "secret-token").await.unwrap();

    assert_eq!(redis.keys(), [session_key("secret-token")]);
    let ttl = redis.ttl(&session_key("secret-token"));
    assert!((269..=300).contains(&ttl), "{ttl}");
    let record: Value = serde_json::from_str(&redis.get(&redis.keys()[0]).unwrap()).unwrap();
    let native = &record["session_cache"];
    let fence: f64 = native["fence"].as_str().unwrap().parse().unwrap();
    assert!((redis.time() - fence).abs() < 60.0);
    assert!((fence - 5.0 - record["cached_at"].as_f64().unwrap()).abs() < 1e-5);
    let expected = json!({
        "user_id": "u-1",
        "email": "ada@example.com",
        "name": "Ad\u{e1}",
        "email_verified": true,
        "tier": "pro",
        "created_at": "2025-04-28T09:31:48.342000+00:00",
        "updated_at": null,
        "session_expire": record["session_expire"],
        "cached_at": record["cached_at"],
        "session_cache": {
            "version": 3,
            "namespace": "appwrite https://appwrite.example.com/v1#demo",
            "authority": "https://appwrite.example.com/v1#demo",
            "session_id": null,
            "fence": native["fence"],
            "seen_tomb": null,
            "attributes": { "team": ["a"] },
            "seen_mark": null,
            "run": native["run"],
        },
    });
    assert_eq!(record, expected);

    let _ = cache
        .invalidate_token(&token("secret-token"))
        .await
        .unwrap();
    let _ = cache.revoke_token(&token("another")).await.unwrap();
    let _ = cache.invalidate_user("u-1").await.unwrap();
    let (forgotten, refused) = (tomb_key("secret-token"), tomb_key("another"));
    let mut expected = [forgotten.clone(), refused.clone(), mark_key("u-1")];
    expected.sort();
    assert_eq!(
        redis.keys(),
        expected,
        "the record is deleted, and no token is in a key"
    );
    assert!((3_599..=3_600).contains(&redis.ttl(&forgotten)));
    for key in [&refused, &mark_key("u-1")] {
        assert!((2_591_999..=2_592_000).contains(&redis.ttl(key)), "{key}");
    }
    let mark: f64 = redis.get(&mark_key("u-1")).unwrap().parse().unwrap();
    assert!((redis.time() - mark).abs() < 60.0);
    assert!(redis.get(&refused).unwrap().contains(":refuse:"));

    // A later `invalidate_token` keeps the kind `refuse` and the longer TTL.
    let _ = cache.invalidate_token(&token("another")).await.unwrap();
    assert!(redis.get(&refused).unwrap().contains(":refuse:"));
    assert!(redis.ttl(&refused) > 3_600);
}

#[tokio::test]
async fn record_never_outlives_its_session() {
    let redis = Redis::start();
    let (_, probe, layer) = node(&redis);
    for (left, ttl) in [(100, 98..=100), (0, 1..=1)] {
        let ends = Utc::now() + TimeDelta::seconds(left) + TimeDelta::milliseconds(900);
        probe.answer(move |_| Ok(session("ada").with_expires_at(ends)));
        let text = format!("t-{left}");
        ask(&layer, &text).await.unwrap();
        let found = redis.ttl(&session_key(&text));
        // The last second may have passed already.
        assert!(ttl.contains(&found) || (left == 0 && found < 1), "{found}");
    }
}

#[tokio::test]
async fn record_of_an_expired_session_is_deleted_and_not_served() {
    let redis = Redis::start();
    let (_, probe, layer) = node(&redis);
    let mut record = peer::record("ada", redis.time());
    record["session_expire"] = "2020-01-01T00:00:00".into();
    redis.set(&session_key("t"), record.to_string());
    probe.answer(|_| Err(tower_session_cache::ValidationError::invalid()));
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    assert_eq!(redis.get(&session_key("t")), None);
}

#[tokio::test]
async fn cached_request_is_one_command_without_ping() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let cache = SessionCache::builder()
        .redis(RedisConfig::single(proxy.url()).timeout(Duration::from_secs(20)))
        .unwrap()
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache, Probe::new());
    ask(&layer, "t").await.unwrap();
    let first = proxy.commands();
    assert!(
        first.iter().filter(|name| *name == "EVALSHA").count() == 2,
        "{first:?}"
    );
    for _ in 0..400 {
        assert_eq!(origin(&layer, "t").await, Some(Origin::Redis));
    }
    // The second connection may still be set up during this.
    let set_up = ["CLIENT", "SELECT", "SCRIPT", "INFO", "TIME", "HELLO"];
    let mut commands = proxy.commands();
    commands.retain(|name| !set_up.contains(&name.as_str()));
    assert_eq!(commands.len(), 400, "{commands:?}");
    assert!(commands.iter().all(|name| name == "MGET"));

    Peer(&redis).store("peers", "bob");
    for _ in 0..3 {
        assert_eq!(origin(&layer, "peers").await, Some(Origin::Redis));
    }
    let commands = proxy.commands();
    assert_eq!(commands, ["EVALSHA"; 3], "a foreign record runs the script");
}

/// One command may contain at most 64 lookups.
#[tokio::test]
async fn concurrent_lookups_share_one_command() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let redis = RedisConfig::single(proxy.url()).timeout(Duration::from_secs(20));
    let patient = SessionCache::builder().redis(redis).unwrap();
    let cache = patient.build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    for (callers, together) in [(1, 1), (64, 1), (70, 2)] {
        for n in 0..callers {
            ask(&layer, &format!("t{n}")).await.unwrap();
        }
        until("both connections", || cache.stats().redis_connections == 2).await;
        proxy.commands();
        let mut asked = tokio::task::JoinSet::new();
        for n in 0..callers {
            let layer = layer.clone();
            asked.spawn(async move { origin(&layer, &format!("t{n}")).await });
        }
        let origins = asked.join_all().await;
        assert_eq!(origins, vec![Some(Origin::Redis); callers]);
        assert_eq!(proxy.commands(), vec!["MGET"; together], "{callers}");
    }
}

#[tokio::test]
async fn lookup_succeeds_after_an_earlier_caller_was_dropped() {
    let redis = Redis::start();
    let (cache, probe, layer) = node(&redis);
    let cache = cache.for_validator(&probe);
    for text in ["first", "second"] {
        ask(&layer, text).await.unwrap();
    }
    let (first, second) = (token("first"), token("second"));
    tokio::select! {
        biased;
        _ = cache.get(&first) => panic!("it has nothing to wait for"),
        () = std::future::ready(()) => {}
    }
    assert!(matches!(cache.get(&second).await, Lookup::Hit(_)));

    // The same applies if the runtime of the first caller ends.
    let asks = cache.clone();
    let gone = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = asks.get(&first) => panic!("it has nothing to wait for"),
                () = std::future::ready(()) => {}
            }
        });
    });
    gone.join().unwrap();
    assert!(matches!(cache.get(&second).await, Lookup::Hit(_)));
}

#[tokio::test]
async fn python_service_and_this_crate_read_each_others_records() {
    let redis = Redis::start();
    let peer = Peer(&redis);
    let (cache, probe, layer) = node(&redis);

    peer.store("theirs", "bob");
    let (user, origin) = ask(&layer, "theirs").await.unwrap();
    assert_eq!(
        (user.id(), user.tier(), origin),
        ("bob", "peer", Origin::Redis)
    );
    assert_eq!(probe.calls(), 0);

    let now = Utc::now();
    let user = UserData::builder("ada")
        .created_at(now)
        .updated_at(now)
        .build();
    let validated = ValidatedSession::new(user).with_expires_at(now + TimeDelta::days(1));
    probe.answer(move |_| Ok(validated.clone()));
    ask(&layer, "ours").await.unwrap();
    assert_eq!(peer.lookup("ours").as_deref(), Some("ada"));

    // Each service sees the revocations of the other immediately.
    let _ = cache.invalidate_user("bob").await.unwrap();
    assert_eq!(peer.lookup("theirs"), None);
    assert_eq!(
        tier(&layer, "theirs").await.as_deref(),
        Ok("free"),
        "validated"
    );
    peer.invalidate_user("ada");
    assert_eq!(peer.lookup("ours"), None);
    let calls = probe.calls();
    ask(&layer, "ours").await.unwrap();
    assert_eq!(probe.calls(), calls + 1);
    peer.logout("ours");
    ask(&layer, "ours").await.unwrap();
    // Two validations: the user of the token was not known, and the mark is too recent to be
    // distinguished from a new one.
    assert_eq!(probe.calls(), calls + 3);
    let _ = cache.invalidate_token(&token("ours")).await.unwrap();
    assert_eq!(peer.lookup("ours"), None);

    // The Python service writes without a check, even after a logout through this crate.
    let _ = cache.revoke_token(&token("theirs")).await.unwrap();
    peer.store("theirs", "bob");
    assert_eq!(ask(&layer, "theirs").await.unwrap_err(), 401);
}

#[tokio::test]
async fn unreadable_record_is_a_miss_and_is_replaced() {
    let redis = Redis::start();
    let log = record_log();
    let now = redis.time();
    let record = || peer::record("ada", now);
    let with = |member: &str, value: Value| {
        let mut record = record();
        record[member] = value;
        record.to_string().into_bytes()
    };
    let whole = record().to_string().into_bytes();
    let nested = |open: &str| open.repeat(30_000).into_bytes();
    let garbage: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"null".to_vec(),
        b"true".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        b"\"text\"".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        whole[..whole.len() - 1].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        [&whole[..], b"}"].concat(),
        [&whole[..], b"\0"].concat(),
        nested("["),
        nested("{\"a\":"),
        vec![b'x'; 1 << 20],
        with("name", "x".repeat(1 << 20).into()),
        with("user_id", "".into()),
        with("user_id", 7.into()),
        with("email", Value::Null),
        with("email_verified", "yes".into()),
        with("session_expire", "soon".into()),
        with("session_expire", 1_746_291_168.into()),
        with("created_at", "yesterday".into()),
        with("cached_at", "now".into()),
        with("cached_at", Value::Null),
        String::from_utf8(with("cached_at", 1.into()))
            .unwrap()
            .replace(":1,", ":NaN,")
            .into_bytes(),
        String::from_utf8(with("cached_at", 1.into()))
            .unwrap()
            .replace(":1,", ":Infinity,")
            .into_bytes(),
        String::from_utf8(with("cached_at", 1.into()))
            .unwrap()
            .replace(":1,", ":1e999,")
            .into_bytes(),
        with("session_cache", "1.000000".into()),
        with("name", "\u{0}".into())
            .iter()
            .map(|b| if *b == b'u' { b'q' } else { *b })
            .collect(),
    ];
    for (n, bytes) in garbage.iter().enumerate() {
        let (_, probe, layer) = node(&redis);
        let text = format!("record-{n}");
        redis.set(&session_key(&text), bytes);
        let (user, origin) = ask(&layer, &text).await.unwrap();
        assert_eq!(
            (user.id(), origin, probe.calls()),
            ("ada", Origin::Validator, 1),
            "{n}"
        );
        assert_eq!(
            ask(&layer, &text).await.unwrap().1,
            Origin::Redis,
            "{n} is replaced"
        );
    }
    for kind in ["LPUSH", "SADD"] {
        let (_, probe, layer) = node(&redis);
        redis.run::<()>(cmd(kind).arg(session_key(kind)).arg("x"));
        assert_eq!(origin(&layer, kind).await, Some(Origin::Validator));
        assert_eq!(
            (origin(&layer, kind).await, probe.calls()),
            (Some(Origin::Redis), 1)
        );
    }
    let warnings = log.text().matches("WARN").count();
    assert_eq!(warnings, garbage.len() + 2, "one warning each");
}

#[tokio::test]
async fn unreadable_mark_or_tombstone_forces_a_validation() {
    let redis = Redis::start();
    let marks = [
        "",
        "nan",
        "inf",
        "-inf",
        "-1",
        "1e999",
        "1e3",
        "0x10",
        "soon",
        "1.2.3",
        " 1",
        "\u{0}",
        "{}",
        "[1]",
        "null",
        "9999999999999999999999999999999999999",
        "\u{2603}",
        "1732444800.1f",
        "+1",
        ".5",
    ];
    for (n, mark) in marks.iter().enumerate() {
        for of_tombstone in [false, true] {
            let (_, probe, layer) = node(&redis);
            let user = format!("user-{n}-{of_tombstone}");
            let text = format!("token-{n}-{of_tombstone}");
            let name = user.clone();
            probe.answer(move |_| Ok(session(&name)));
            Peer(&redis).store(&text, &user);
            let key = if of_tombstone {
                tomb_key(&text)
            } else {
                mark_key(&user)
            };
            redis.set(&key, mark);
            for calls in 1..=2 {
                let (served, origin) = ask(&layer, &text).await.unwrap();
                assert_eq!(
                    (served.id(), origin),
                    (user.as_str(), Origin::Validator),
                    "{mark:?}"
                );
                assert_eq!(probe.calls(), calls);
            }
        }
    }
    // The next revocation repairs the key.
    let (cache, _, layer) = node(&redis);
    redis.set(&mark_key("ada"), "nan");
    redis.run::<()>(cmd("LPUSH").arg(tomb_key("t")).arg("x"));
    assert_eq!(origin(&layer, "t").await, Some(Origin::Validator));
    assert_eq!(origin(&layer, "t").await, Some(Origin::Validator));
    let _ = cache.invalidate_user("ada").await.unwrap();
    let _ = cache.invalidate_token(&token("t")).await.unwrap();
    assert_eq!(origin(&layer, "t").await, Some(Origin::Validator));
    assert_eq!(origin(&layer, "t").await, Some(Origin::Redis));
}

#[tokio::test]
async fn revocation_mark_works_for_any_user_id() {
    let redis = Redis::start();
    for id in [
        "with \"quotes\"",
        "back\\slash",
        "\u{1f680} \u{e9}",
        "\"user_id\":\"bob\"",
        "a:b*?[c]",
        "\n",
    ] {
        let (cache, probe, layer) = node(&redis);
        probe.answer(move |_| Ok(session(id)));
        let text = format!("token-{}", id.len());
        assert_eq!(origin(&layer, &text).await, Some(Origin::Validator), "{id}");
        assert_eq!(ask(&layer, &text).await.unwrap().0.id(), id);
        // This node does not have the hint of the node that stored the record.
        let (_, _, other) = node(&redis);
        assert_eq!(origin(&other, &text).await, Some(Origin::Redis), "{id}");
        let _ = cache.invalidate_user("bob").await.unwrap();
        assert_eq!(origin(&other, &text).await, Some(Origin::Redis), "{id}");
        let _ = cache.invalidate_user(id).await.unwrap();
        assert_eq!(origin(&layer, &text).await, Some(Origin::Validator), "{id}");
        redis.run::<()>(&cmd("FLUSHALL"));
    }
}

#[tokio::test]
async fn revocation_applies_on_all_nodes_when_it_returns() {
    let redis = Redis::start();
    let (one, _, first) = node(&redis);
    let (_, probe, second) = node(&redis);
    for round in 0..3 {
        for layer in [&first, &second] {
            ask(layer, "t").await.unwrap();
        }
        let calls = probe.calls();
        if round == 0 {
            let _ = one.invalidate_token(&token("t")).await.unwrap();
        } else {
            let _ = one.invalidate_user("ada").await.unwrap();
        }
        assert_eq!(origin(&second, "t").await, Some(Origin::Validator));
        assert_eq!(probe.calls(), calls + 1);
        assert_eq!(
            origin(&second, "t").await,
            Some(Origin::Redis),
            "and new validations are still cached"
        );
    }
    let _ = one.revoke_token(&token("t")).await.unwrap();
    assert_eq!(ask(&second, "t").await.unwrap_err(), 401);
}

#[tokio::test]
async fn validation_overtaken_by_another_node_is_repeated() {
    let redis = Redis::start();
    let (one, _, _) = node(&redis);
    for by_user in [false, true] {
        let (cache, probe, layer) = node(&redis);
        let of_tier = |tier: &'static str| {
            move |_: &str| {
                Ok(ValidatedSession::new(
                    UserData::builder("ada").tier(tier).build(),
                ))
            }
        };
        let text = format!("t-{by_user}");
        probe.answer(of_tier("old"));
        probe.hold();
        let early = tokio::spawn({
            let (layer, text) = (layer.clone(), text.clone());
            async move { tier(&layer, &text).await }
        });
        probe.wait_for_calls(1).await;
        probe.answer(of_tier("new"));
        let _ = if by_user {
            one.invalidate_user("ada").await.unwrap()
        } else {
            one.invalidate_token(&token(&text)).await.unwrap()
        };
        let late = tokio::spawn({
            let (layer, text) = (layer.clone(), text.clone());
            async move { tier(&layer, &text).await }
        });
        until_joined(&cache).await;
        probe.let_go();
        for answer in [early, late] {
            assert_eq!(
                soon("an answer", answer).await.unwrap().as_deref(),
                Ok("new")
            );
        }
        assert_eq!((probe.calls(), cache.stats().fill_conflicts), (2, 1));
        assert_eq!(
            ask(&layer, &text).await.unwrap().1,
            Origin::Redis,
            "the result was stored"
        );
    }
}

#[tokio::test]
async fn validation_overtaken_by_a_remote_logout_is_rejected() {
    let redis = Redis::start();
    let (one, _, _) = node(&redis);
    let (cache, probe, layer) = node(&redis);
    probe.hold();
    let early = tokio::spawn({
        let layer = layer.clone();
        async move { ask(&layer, "t").await }
    });
    probe.wait_for_calls(1).await;
    let _ = one.revoke_token(&token("t")).await.unwrap();
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401, "immediately");
    probe.let_go();
    assert_eq!(soon("an answer", early).await.unwrap().unwrap_err(), 401);
    assert_eq!((probe.calls(), cache.stats().fills), (1, 0));
}

async fn until_joined(cache: &SessionCache) {
    until("a second request to join", || cache.stats().coalesced == 1).await;
}

#[tokio::test]
async fn namespaces_share_revocations_and_nothing_else() {
    let redis = Redis::start();
    let cache = builder(&redis).build().unwrap();
    let people = SessionCacheLayer::new(cache.clone(), Probe::answering(|_| Ok(session("person"))));
    let machines =
        SessionCacheLayer::new(cache.clone(), Probe::answering(|_| Ok(session("machine"))))
            .with_namespace("machines");
    for wanted in [Origin::Validator, Origin::Redis] {
        let (user, origin) = ask(&people, "t").await.unwrap();
        assert_eq!((user.id(), origin), ("person", wanted));
        let (user, origin) = ask(&machines, "t").await.unwrap();
        assert_eq!((user.id(), origin), ("machine", wanted));
    }
    // The handle has no namespace, and does not know the key of the other record.
    let _ = cache.invalidate_token(&token("t")).await.unwrap();
    assert_eq!(ask(&machines, "t").await.unwrap().1, Origin::Validator);
    let _ = cache.revoke_token(&token("t")).await.unwrap();
    assert_eq!(ask(&machines, "t").await.unwrap_err(), 401);
}

#[tokio::test]
async fn session_too_large_for_a_record_is_served_and_not_stored() {
    let redis = Redis::start();
    let (cache, probe, layer) = node(&redis);
    probe.answer(|_| {
        let user = UserData::builder("ada").attribute("notes", "x".repeat(64 * 1024));
        Ok(ValidatedSession::new(user.build()))
    });
    for calls in 1..=2 {
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
        assert_eq!(probe.calls(), calls);
    }
    assert_eq!(cache.stats().fills, 0);
    assert_eq!(redis.run::<usize>(&cmd("DBSIZE")), 0);
}

#[tokio::test]
async fn database_and_key_prefix_follow_the_settings() {
    let redis = Redis::start();
    let server = format!("redis://127.0.0.1:{}", redis.port());
    for (url, db, file, expected) in [
        (format!("{server}/5"), Some(3), Some(4), 5),
        (server.clone(), Some(3), Some(4), 3),
        (server.clone(), None, Some(4), 4),
        (format!("{server}/"), None, Some(2), 2),
        (format!("{server}/"), None, None, 0),
    ] {
        let mut config = RedisConfig::single(url)
            .timeout(Duration::from_secs(20))
            .key_prefix("shop:");
        if let Some(db) = db {
            config = config.database(db);
        }
        let mut builder = SessionCache::builder();
        if let Some(db) = file {
            let mut file = SessionCacheConfig::default();
            file.redis_db = db;
            builder = builder.config(&file);
        }
        let cache = builder.redis(config).unwrap().build().unwrap();
        let layer = SessionCacheLayer::new(cache, Probe::new());
        ask(&layer, "t").await.unwrap();
        let keyspace: String = redis.run(cmd("INFO").arg("keyspace"));
        assert!(
            keyspace.contains(&format!("db{expected}:keys=1")),
            "{keyspace}"
        );
        redis.run::<()>(&cmd("FLUSHALL"));
    }
    let config = RedisConfig::single(redis.url())
        .timeout(Duration::from_secs(20))
        .key_prefix("shop:");
    let cache = SessionCache::builder().redis(config);
    let cache = cache.unwrap().build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    ask(&layer, "t").await.unwrap();
    let _ = cache.invalidate_user("ada").await.unwrap();
    assert!(
        redis.keys().iter().all(|key| key.starts_with("shop:")),
        "{:?}",
        redis.keys()
    );
    assert_eq!(redis.keys().len(), 2);
}

#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let redis = Redis::start();
    let (cache, _, layer) = node(&redis);
    ask(&layer, "t").await.unwrap();
    for _ in 0..3 {
        redis.run::<()>(cmd("SCRIPT").arg("FLUSH"));
        let _ = cache.invalidate_token(&token("t")).await.unwrap();
        assert_eq!(origin(&layer, "t").await, Some(Origin::Validator));
        assert_eq!(origin(&layer, "t").await, Some(Origin::Redis));
    }
}

#[tokio::test]
async fn error_reply_counts_as_unavailable() {
    let redis = Redis::start();
    let (cache, _, layer) = node(&redis);
    ask(&layer, "t").await.unwrap();
    // A full server rejects writes, and so does one with too few replicas.
    for (on, off) in [
        (["maxmemory", "1"], ["maxmemory", "0"]),
        (
            ["min-replicas-to-write", "1"],
            ["min-replicas-to-write", "0"],
        ),
    ] {
        // Before Redis 7 this setting does not apply to scripts.
        if on[0] == "min-replicas-to-write" && is_before_7() {
            continue;
        }
        let config = |[name, value]: [&str; 2]| {
            redis.run::<()>(cmd("CONFIG").arg("SET").arg(name).arg(value));
        };
        config(on);
        let error = cache.invalidate_token(&token("t")).await.unwrap_err();
        assert_eq!(error.kind(), RevokeErrorKind::Queued);
        assert_eq!(
            origin(&layer, "t").await,
            Some(Origin::Validator),
            "denied on this node immediately"
        );
        config(off);
        until("the delivery of the revocation", || {
            cache.stats().queued_revocations == 0
        })
        .await;
        assert!(redis.get(&tomb_key("t")).is_some());
        assert_eq!(origin(&layer, "t").await, Some(Origin::Validator));
        assert_eq!(origin(&layer, "t").await, Some(Origin::Redis));
        redis.run::<()>(&cmd("FLUSHALL"));
        ask(&layer, "t").await.unwrap();
    }
}

#[tokio::test]
async fn server_that_may_evict_revocations_causes_one_warning() {
    for (policy, memory, warnings) in [
        ("allkeys-lru", "100mb", 1),
        ("volatile-ttl", "100mb", 1),
        ("noeviction", "100mb", 0),
        ("allkeys-lru", "0", 0),
    ] {
        let redis = Redis::start_with(&["--maxmemory-policy", policy, "--maxmemory", memory]);
        let log = record_log();
        let (_, _, layer) = node(&redis);
        for _ in 0..3 {
            ask(&layer, "t").await.unwrap();
        }
        assert_eq!(
            log.text().matches("maxmemory-policy").count(),
            warnings,
            "{policy} {memory}"
        );
    }
}

#[tokio::test]
async fn revocation_completes_when_its_caller_is_dropped() {
    let redis = Redis::start();
    let (cache, _, _) = node(&redis);
    // The first poll hands the revocation over. Then the caller drops the future.
    let mut revocation = Box::pin(async {
        let _ = cache.revoke_token(&token("t")).await;
    });
    let waker = std::task::Waker::noop();
    assert!(
        revocation
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
            .is_pending()
    );
    drop(revocation);
    until("the tombstone", || redis.get(&tomb_key("t")).is_some()).await;
    until("this node to reject the token", || {
        cache.stats().revoked_token_entries == 1
    })
    .await;
}

#[tokio::test]
async fn unusable_redis_causes_one_warning_without_secrets() {
    let locked = Redis::start_with(&["--requirepass", "the-right-password"]);
    let port = locked.port();
    for url in [
        format!("redis://:the-wrong-password@127.0.0.1:{port}/2"),
        format!("redis://app-user:the-wrong-password@127.0.0.1:{port}/2"),
        "redis://:the-wrong-password@no-such-host.invalid:6379/2".to_owned(),
        format!("redis://:the-wrong-password@127.0.0.1:{}/2", free_port()),
    ] {
        let log = record_log();
        let builder = SessionCache::builder().redis(url.clone()).unwrap();
        assert!(!format!("{builder:?}").contains("password"));
        let cache = builder.build().unwrap();
        let probe = Probe::new();
        let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
        for calls in 1..=3 {
            assert_eq!(origin(&layer, "t").await, Some(Origin::Validator));
            assert_eq!(probe.calls(), calls);
        }
        assert_eq!(cache.health_check().await.redis, RedisHealth::Down);
        let text = log.text();
        let warnings: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{text}");
        assert!(warnings[0].contains("REDIS_URL"), "{text}");
        assert!(!text.contains("the-wrong-password"), "{text}");
    }
    for url in [
        "",
        "localhost",
        "http://localhost",
        "redis://",
        "redis://user:s3cr3t@host:port/2",
        "redis://h/s3cr3t",
    ] {
        let error = SessionCache::builder().redis(url).unwrap_err().to_string();
        assert!(
            error.contains("redis://host:6379/2") && !error.contains("s3cr3t"),
            "{url}"
        );
    }
}

/// Uses real Python to write the records that this crate reads and to read those that it writes, so
/// that the test does not depend on assumptions about Python.
#[tokio::test]
async fn real_python_reads_and_writes_the_same_format() {
    const PROGRAM: &str = r#"
import datetime as d, json, sys, time
record = json.loads(sys.stdin.read())
created = d.datetime.fromisoformat(record["created_at"])
expire = d.datetime.fromisoformat(record["session_expire"])
assert created.tzinfo is not None and expire > d.datetime.now(d.timezone.utc)
assert isinstance(record["cached_at"], float) and abs(time.time() - record["cached_at"]) < 3600
assert record["name"] == "Ad\u00e1 \U0001f680", record["name"]
zones = [None, d.timezone.utc, d.timezone(d.timedelta(hours=5, minutes=30)), d.timezone(-d.timedelta(hours=3, seconds=7, microseconds=5))]
base = d.datetime(2999, 2, 28, 23, 59, 58, 123456)
out = []
for zone in zones:
    for micros in (0, 1, 120000, 123456):
        for sep in "T ", "_":
            for spec in ("auto", "seconds", "milliseconds", "microseconds", "minutes", "hours"):
                at = base.replace(microsecond=micros, tzinfo=zone)
                text = at.isoformat(sep=sep[0], timespec=spec)
                back = d.datetime.fromisoformat(text)
                utc = (back if zone else back.replace(tzinfo=d.timezone.utc)).astimezone(d.timezone.utc)
                for ascii in (True, False):
                    out.append([json.dumps({"user_id": "u", "email": "e@example.com", "name": "Ad\u00e1 \U0001f680", "email_verified": False, "tier": "pro", "created_at": text, "updated_at": text, "session_expire": text, "cached_at": time.time()}, ensure_ascii=ascii), utc.isoformat()])
json.dump(out, sys.stdout)
"#;
    let mut version = Command::new("python3");
    version.args(["-c", "import sys; assert sys.version_info >= (3, 11)"]);
    if !version.output().is_ok_and(|output| output.status.success()) {
        // Other tests check the format without Python.
        eprintln!("SKIPPED: there is no Python 3.11");
        return;
    }
    let redis = Redis::start();
    let (_, probe, layer) = node(&redis);
    let now = Utc::now();
    let user = UserData::builder("ada")
        .name("Ad\u{e1} \u{1f680}")
        .created_at(now)
        .updated_at(now);
    let validated = ValidatedSession::new(user.build()).with_expires_at(now + TimeDelta::days(1));
    probe.answer(move |_| Ok(validated.clone()));
    ask(&layer, "ours").await.unwrap();

    let mut python = process::command("python3");
    python
        .args(["-c", PROGRAM])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut child = process::Running(python.spawn().unwrap());
    let input = redis.get(&session_key("ours")).unwrap();
    std::io::Write::write_all(&mut child.0.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let mut output = String::new();
    std::io::Read::read_to_string(&mut child.0.stdout.take().unwrap(), &mut output).unwrap();
    assert!(child.0.wait().unwrap().success());
    let records: Vec<(String, String)> = serde_json::from_str(&output).unwrap();
    assert_eq!(records.len(), 4 * 4 * 2 * 6 * 2);
    for (record, expected) in records {
        redis.set(&session_key("theirs"), &record);
        let (user, origin) = ask(&layer, "theirs").await.unwrap();
        assert_eq!(origin, Origin::Redis, "{record}");
        assert_eq!(user.name(), "Ad\u{e1} \u{1f680}");
        let written = user.created_at().unwrap();
        let expected: chrono::DateTime<Utc> = expected.parse().unwrap();
        assert_eq!(written, expected, "{record}");
    }
}
