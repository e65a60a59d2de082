//! What Redis, or an attacker who reads or writes it, can learn or forge.

use std::time::Duration;

use bb8_redis::redis::cmd;
use serde_json::Value;
use tower_session_cache::{
    Origin, RedisConfig, SecretKey, SessionCache, SessionCacheBuilder, SessionCacheLayer, UserData,
    ValidatedSession, ValidationError,
};

use crate::support::{
    client::{ask, token},
    hostile::Hostile,
    log::record as record_log,
    peer::{self, Peer, mark_key, session_key, tomb_key},
    probe::Probe,
    redis::Redis,
    until,
};

fn secret(letter: char) -> SecretKey {
    SecretKey::from_bytes(letter.to_string().repeat(32)).unwrap()
}

fn config(redis: &Redis) -> RedisConfig {
    RedisConfig::single(redis.url()).timeout(Duration::from_secs(20))
}

fn builder(redis: &Redis) -> SessionCacheBuilder {
    // These tests count validations, and must not depend on the time that they take.
    let builder = SessionCache::builder().provider_lag(Duration::ZERO);
    builder.redis(config(redis)).unwrap()
}

/// Creates a node whose user has private data.
fn node(builder: SessionCacheBuilder) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let cache = builder.build().unwrap();
    let user = UserData::builder("user-ada")
        .email("ada@example.com")
        .name("Ada L");
    let session = ValidatedSession::new(user.build());
    let probe = Probe::answering(move |_| Ok(session.clone()));
    (
        cache.clone(),
        probe.clone(),
        SessionCacheLayer::new(cache, probe),
    )
}

async fn origin(layer: &SessionCacheLayer<Probe>, token: &str) -> Option<Origin> {
    let (user, origin) = ask(layer, token).await.ok()?;
    assert_eq!(user.id(), "user-ada", "an identity that no validator named");
    Some(origin)
}

const VALIDATED: Option<Origin> = Some(Origin::Validator);
const CACHED: Option<Origin> = Some(Origin::Redis);

#[tokio::test]
async fn peppered_key_names_depend_on_the_secret() {
    let redis = Redis::start();
    let (cache, _, layer) = node(builder(&redis).pepper(secret('a')));
    assert_eq!(origin(&layer, "t").await, VALIDATED);
    let (_, _, same) = node(builder(&redis).pepper(secret('a')));
    assert_eq!(origin(&same, "t").await, CACHED);
    let keys = redis.keys();
    assert!(
        keys.len() == 1 && keys[0].len() == "session_cache:".len() + 64,
        "{keys:?}"
    );
    assert!(!keys[0].starts_with(&session_key("t")));
    for other in [builder(&redis), builder(&redis).pepper(secret('b'))] {
        assert_eq!(origin(&node(other).2, "t").await, VALIDATED);
    }
    let _ = cache.revoke_token(&token("t")).await.unwrap();
    assert_eq!(ask(&same, "t").await.unwrap_err(), 401);
    assert!(redis.get(&tomb_key("t")).is_none());
}

#[tokio::test]
async fn pepper_rotation_keeps_sessions_and_revocations() {
    let redis = Redis::start();
    let (old, _, before) = node(builder(&redis).pepper(secret('a')));
    assert_eq!(origin(&before, "kept").await, VALIDATED);
    assert_eq!(origin(&before, "left").await, VALIDATED);
    let _ = old.revoke_token(&token("left")).await.unwrap();

    // First every node gets the new pepper as the previous one, then each in turn uses it.
    let (first, _, old_first) = node(
        builder(&redis)
            .pepper(secret('a'))
            .previous_pepper(secret('b')),
    );
    let (second, _, new_first) = node(
        builder(&redis)
            .pepper(secret('b'))
            .previous_pepper(secret('a')),
    );
    for layer in [&old_first, &new_first] {
        assert_eq!(origin(layer, "kept").await, CACHED);
        assert_eq!(ask(layer, "left").await.unwrap_err(), 401);
    }
    for (revoker, other) in [(&first, &new_first), (&second, &old_first)] {
        let _ = revoker.invalidate_token(&token("kept")).await.unwrap();
        assert_eq!(origin(other, "kept").await, VALIDATED);
        assert_eq!(origin(other, "kept").await, CACHED);
        let _ = revoker.invalidate_user("user-ada").await.unwrap();
        assert_eq!(origin(other, "kept").await, VALIDATED);
    }
    let _ = second.revoke_token(&token("kept")).await.unwrap();
    for layer in [&before, &old_first, &new_first] {
        assert_eq!(ask(layer, "kept").await.unwrap_err(), 401);
    }
}

#[tokio::test]
async fn sealed_records_reveal_no_user_data() {
    let redis = Redis::start();
    let (cache, _, layer) = node(builder(&redis).sealing_key(secret('a')));
    assert_eq!(origin(&layer, "t").await, VALIDATED);
    for _ in 0..3 {
        assert_eq!(origin(&layer, "t").await, CACHED);
    }
    let (_, probe, same) = node(builder(&redis).sealing_key(secret('a')));
    assert_eq!((origin(&same, "t").await, probe.calls()), (CACHED, 0));
    let _ = cache.invalidate_user("user-ada").await.unwrap();
    assert_eq!(origin(&same, "t").await, VALIDATED);
    assert_eq!(origin(&same, "t").await, CACHED);
    let _ = cache.invalidate_token(&token("t")).await.unwrap();
    assert_eq!(origin(&same, "t").await, VALIDATED);
    assert_eq!(origin(&layer, "t").await, CACHED);

    for key in redis.keys() {
        let value: Vec<u8> = redis.run(cmd("GET").arg(&key));
        let text = format!("{key} {}", String::from_utf8_lossy(&value));
        for private in ["user-ada", "ada@", "example", "Ada L", "free"] {
            assert!(!text.contains(private), "{text}");
        }
    }
    assert!(!redis.keys().contains(&mark_key("user-ada")));
}

#[tokio::test]
async fn sealing_key_rotation_keeps_revocations() {
    let redis = Redis::start();
    let (_, _, before) = node(builder(&redis).sealing_key(secret('a')));
    assert_eq!(origin(&before, "t").await, VALIDATED);
    let turned = |current, previous| {
        node(
            builder(&redis)
                .sealing_key(secret(current))
                .previous_sealing_key(secret(previous)),
        )
    };
    let (first, _, old_first) = turned('a', 'b');
    let (second, _, new_first) = turned('b', 'a');
    for layer in [&old_first, &new_first] {
        assert_eq!(origin(layer, "t").await, CACHED);
    }
    for (revoker, layer) in [
        (&first, &new_first),
        (&second, &old_first),
        (&second, &new_first),
    ] {
        let _ = revoker.invalidate_user("user-ada").await.unwrap();
        assert_eq!(origin(layer, "t").await, VALIDATED);
        assert_eq!(origin(layer, "t").await, CACHED);
    }
    let _ = second.invalidate_user("user-ada").await.unwrap();
    assert_eq!(
        origin(&before, "t").await,
        VALIDATED,
        "a node that knows only the old key"
    );
}

#[tokio::test]
async fn plain_and_sealed_nodes_reject_each_others_records() {
    let redis = Redis::start();
    let log = record_log();
    let (_, _, sealed) = node(builder(&redis).sealing_key(secret('a')));
    let (_, _, other) = node(builder(&redis).sealing_key(secret('b')));
    let (_, _, plain) = node(builder(&redis));
    assert_eq!(origin(&sealed, "one").await, VALIDATED);
    assert_eq!(origin(&plain, "one").await, VALIDATED);
    assert_eq!(origin(&sealed, "one").await, VALIDATED);
    assert_eq!(origin(&other, "one").await, VALIDATED);
    Peer(&redis).store("two", "mallory");
    assert_eq!(origin(&sealed, "two").await, VALIDATED);
    let text = log.text();
    for advice in [
        "record sealed with an unknown key",
        "unsealed record ignored",
    ] {
        assert!(text.contains(advice), "{advice} is not in {text}");
    }
}

#[tokio::test]
async fn sealed_cache_rejects_forged_and_moved_records() {
    let redis = Redis::start();
    let sealing = || builder(&redis).sealing_key(secret('a'));
    let (cache, probe, layer) = node(sealing());
    let (_, _, machines) = node(sealing());
    let machines = machines.with_namespace("machines");
    for text in ["victim", "writer"] {
        assert_eq!(origin(&layer, text).await, VALIDATED);
    }
    assert_eq!(origin(&machines, "writer").await, VALIDATED);
    let value = |key: &str| -> Vec<u8> { redis.run(cmd("GET").arg(key)) };
    let key = session_key("writer");
    let genuine = value(&key);
    let victims = value(&session_key("victim"));
    let run = {
        let plain = SessionCache::builder().redis(config(&redis).key_prefix("plain:"));
        let (_, _, plain) = node(plain.unwrap());
        ask(&plain, "x").await.unwrap();
        let record = redis.get(&format!("plain:{}", session_key("x"))).unwrap();
        serde_json::from_str::<Value>(&record).unwrap()
    };
    let mut ours = run.clone();
    ours["user_id"] = "mallory".into();
    let mut forged: Vec<Vec<u8>> = vec![
        peer::record("mallory", redis.time()).to_string().into(),
        ours.to_string().into(),
        victims.clone(),
        value(&format!("session_space:{{{key}}}:machines")),
        [&genuine[..genuine.len() / 2], &victims[victims.len() / 2..]].concat(),
        [&genuine[..], b"x"].concat(),
        b"sealed1:".to_vec(),
        b"sealed1:::::".to_vec(),
        b"sealed1:00000000:00:1.000000:".to_vec(),
    ];
    for at in (0..genuine.len()).step_by(7) {
        forged.push(genuine[..at].to_vec());
        let mut flipped = genuine.clone();
        flipped[at] ^= 0x20;
        forged.push(flipped);
    }
    for (n, value) in forged.iter().enumerate() {
        let (_, _, fresh) = node(sealing());
        redis.set(&key, value);
        assert_eq!(origin(&fresh, "writer").await, VALIDATED, "forgery {n}");
    }

    // An old record that is written back after its revocation, while the tombstone or mark exists.
    for by_user in [false, true] {
        assert!(origin(&layer, "writer").await.is_some());
        assert_eq!(origin(&layer, "writer").await, CACHED);
        let old = value(&key);
        let _ = if by_user {
            cache.invalidate_user("user-ada").await.unwrap()
        } else {
            cache.invalidate_token(&token("writer")).await.unwrap()
        };
        redis.set(&key, &old);
        for layer in [&layer, &node(sealing()).2] {
            let calls = probe.calls();
            redis.set(&key, &old);
            assert_eq!(origin(layer, "writer").await, VALIDATED);
            assert!(probe.calls() >= calls);
        }
    }

    // Forged marks and tombstones cost validations, and a forged `refuse` ends the session.
    for (at, forged) in [
        (tomb_key("writer"), "1.000000:forget:x"),
        (tomb_key("writer"), "9999999999.000000:forget:x"),
        (tomb_key("writer"), "x"),
    ] {
        redis.set(&at, forged);
        assert_eq!(origin(&layer, "writer").await, VALIDATED, "{forged}");
    }
    redis.set(&tomb_key("writer"), "1.000000:refuse:x");
    assert_eq!(ask(&layer, "writer").await.unwrap_err(), 401);
}

#[tokio::test]
async fn request_is_validated_whatever_redis_replies() {
    let hostile = Hostile::start().await;
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let record = peer::record("mallory", 1_732_444_800.0).to_string();
    let array = |items: &[String]| format!("*{}\r\n{}", items.len(), items.concat());
    let null = || "$-1\r\n".to_owned();
    let replies: Vec<String> = vec![
        "+OK\r\n".into(),
        ":1\r\n".into(),
        ":-9223372036854775808\r\n".into(),
        "$-1\r\n".into(),
        "*-1\r\n".into(),
        "*0\r\n".into(),
        bulk(&record),
        "-ERR no\r\n".into(),
        "-LOADING Redis is loading the dataset in memory\r\n".into(),
        "-NOSCRIPT No matching script\r\n".into(),
        "-READONLY You can't write against a read only replica.\r\n".into(),
        "-MOVED 1 127.0.0.1:1\r\n".into(),
        "-OOM command not allowed\r\n".into(),
        array(&[null(), null(), null()]),
        array(&[bulk(&record), null(), null()]),
        array(&[
            bulk(&record),
            null(),
            bulk("mallory"),
            null(),
            bulk("1732444800.000000"),
        ]),
        array(&[bulk(&record), null(), bulk("mallory"), null(), bulk("nan")]),
        array(&[
            bulk(&record),
            null(),
            bulk("mallory"),
            null(),
            ":1\r\n".into(),
        ]),
        array(&[
            null(),
            null(),
            null(),
            null(),
            bulk("99999999999999999999.0"),
        ]),
        array(&[
            array(&[bulk("stored")]),
            null(),
            null(),
            null(),
            bulk("1.000000"),
        ]),
        array(&[bulk("stored")]),
        array(&[bulk("moved"), null(), null(), bulk("soon")]),
        array(&[bulk("moved"), null(), null(), bulk("1732444800.000000")]),
        array(&vec![null(); 10_000]),
        "*1\r\n".repeat(50),
        "$9999999999999\r\nx\r\n".into(),
        "*2147483647\r\n".into(),
        "garbage\r\n".into(),
        "\r\n".into(),
        "\u{0}\u{1}\u{2}".into(),
    ];
    for sealed in [true, false] {
        for (n, reply) in replies.iter().enumerate() {
            // Replies that never end cost the timeout, twice a request.
            let redis = RedisConfig::single(hostile.url()).timeout(Duration::from_millis(100));
            let mut builder = SessionCache::builder().redis(redis).unwrap();
            if sealed {
                builder = builder.sealing_key(secret('a'));
            }
            let (cache, _, layer) = node(builder);
            hostile.says(reply.as_bytes());
            for _ in 0..2 {
                let (user, origin) = ask(&layer, "t").await.unwrap();
                // Without sealing, a record that an attacker writes to Redis is accepted.
                let is_plain_forgery = !sealed && origin == Origin::Redis;
                assert!(user.id() == "user-ada" || is_plain_forgery, "{n}: {reply}");
            }
            let _ = cache.invalidate_user("user-ada").await;
        }
    }
}

#[tokio::test]
async fn secret_keys_never_appear_in_debug_logs_or_errors() {
    let redis = Redis::start();
    let log = record_log();
    let text = "pepper-and-salt-pepper-and-salt-pepper";
    let secret = SecretKey::from_bytes(text).unwrap();
    let builder = builder(&redis)
        .pepper(secret.clone())
        .sealing_key(secret.clone());
    let printed = format!("{builder:?} {secret:?}");
    let (cache, _, layer) = node(builder);
    for _ in 0..2 {
        ask(&layer, "t").await.unwrap();
    }
    let printed = format!("{printed} {cache:?} {layer:?} {}", log.text());
    assert!(!printed.contains("salt"), "{printed}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, format!("{text}\n")).unwrap();
    assert!(SecretKey::from_file(&file).is_ok());
    std::fs::write(&file, "short-salt").unwrap();
    for error in [
        SecretKey::from_file(&file).unwrap_err(),
        SecretKey::from_file(folder.path()).unwrap_err(),
        SecretKey::from_env("NO_SUCH_VARIABLE").unwrap_err(),
    ] {
        assert!(!error.to_string().contains("salt"));
    }
    let lonely = SessionCache::builder().previous_pepper(secret.clone());
    assert!(
        lonely
            .build()
            .unwrap_err()
            .to_string()
            .contains("set `pepper`")
    );
    let lonely = SessionCache::builder().previous_sealing_key(secret);
    assert!(lonely.build().is_err());
}

#[tokio::test]
async fn no_secret_is_logged_under_traffic_with_redis() {
    const PASSWORD: &str = "redis-pass-of-ours";
    let log = record_log();
    let mut redis = Redis::start_with(&["--requirepass", PASSWORD]);
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}/2", redis.port());
    let key = "pepper-and-salt-pepper-and-salt-pepper";
    let secret = SecretKey::from_bytes(key).unwrap();
    let text = "the-token-itself-of-the-session";
    for is_sealed in [false, true] {
        let mut builder = SessionCache::builder().redis(url.as_str()).unwrap();
        if is_sealed {
            builder = builder.pepper(secret.clone()).sealing_key(secret.clone());
        }
        let (cache, probe, layer) = node(builder);
        for _ in 0..3 {
            ask(&layer, text).await.unwrap();
        }
        let _ = cache.invalidate_user("user-ada").await;
        ask(&layer, text).await.unwrap();
        let _ = cache.invalidate_token(&token(text)).await;
        ask(&layer, text).await.unwrap();
        redis.kill();
        for _ in 0..4 {
            ask(&layer, text).await.unwrap();
        }
        let _ = cache.revoke_token(&token("another-token-itself")).await;
        redis.restart();
        until("Redis to be back", || !cache.stats().redis_circuit_open).await;
        probe.answer(|_| Err(ValidationError::unavailable("the provider is down")));
        assert_eq!(ask(&layer, "one-more-token-itself").await.unwrap_err(), 503);
        let _ = cache.revoke_token(&token(text)).await;
        assert_eq!(ask(&layer, text).await.unwrap_err(), 401);
    }
    let log = log.text();
    assert!(log.contains("Redis unavailable") && log.contains("Redis available again"));
    for kept in [PASSWORD, "salt", "token-itself", "ada@example.com", "Ada L"] {
        assert!(!log.contains(kept), "{kept} is in {log}");
    }
    let names = [session_key(text), tomb_key(text)].map(|key| key.trim_end_matches('}').to_owned());
    for name in names {
        assert!(
            !log.contains(&name[name.len() - 32..]),
            "the name of a token is in {log}"
        );
    }
}

/// A ticket holds the record that its lookup found and could not use.
#[tokio::test]
async fn ticket_does_not_print_the_record() {
    let redis = crate::support::redis::Redis::start();
    let builder = tower_session_cache::SessionCache::builder().redis(redis.url());
    let cache = builder.unwrap().build().unwrap();
    let probe = crate::support::probe::Probe::new();
    let layer = tower_session_cache::SessionCacheLayer::new(cache.clone(), probe);
    crate::support::client::ask(&layer, "t").await.unwrap();
    let _ = cache.invalidate_user("ada").await.unwrap();
    let cache = cache.with_namespace(crate::support::probe::namespace());
    let lookup = cache.get(&crate::support::client::token("t")).await;
    let text = format!("{lookup:?}");
    assert!(text.starts_with("Miss(Ticket"), "{text}");
    let bytes = format!("{:?}", b"\"ada\"");
    assert!(!text.contains(bytes.trim_matches(['[', ']'])), "{text}");
}
