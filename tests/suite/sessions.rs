//! What a revocation reaches beyond its token: every token of the session, and every session of a
//! banned user, on every node and in every namespace.

use std::time::Duration;

use bb8_redis::redis::cmd;
use chrono::Utc;
use http::StatusCode;
use tower_session_cache::{
    Authority, Fill, ForbiddenReason, LocalCacheConfig, Lookup, Origin, RedisConfig, RedisHealth,
    RevokeErrorKind, SecretKey, SessionCache, SessionCacheBuilder, SessionCacheLayer, SessionInfo,
    UserData, ValidatedSession, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{ask, ask_for_all, rejection, token},
    cluster::Cluster,
    log::record,
    peer::{self, tomb_key},
    probe::{Probe, authority, session},
    proxy::{Fault, Proxy},
    redis::Redis,
    soon, until,
};

const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;

/// A provider that accepts every token. `ada-1-x` is a token of Ada's session 1, and `ada--x` one of
/// a session without an ID.
fn provider() -> Probe {
    Probe::answering(|token| {
        let mut parts = token.split('-');
        let user = parts.next().unwrap_or_default();
        let session_id = parts.next().unwrap_or_default();
        let mut session = session(user);
        if !session_id.is_empty() {
            session = session.with_session_id(format!("{user}-{session_id}"));
        }
        Ok(session)
    })
}

type Layer = SessionCacheLayer<Probe>;

struct Node {
    cache: SessionCache,
    probe: Probe,
    layer: Layer,
    machines: Layer,
}

impl Node {
    fn new(builder: SessionCacheBuilder) -> Self {
        let cache = builder.build().unwrap();
        let probe = provider();
        let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
        let machines = layer.clone().with_namespace("machines");
        Self {
            cache,
            probe,
            layer,
            machines,
        }
    }

    async fn status(&self, text: &str) -> Option<StatusCode> {
        ask(&self.layer, text).await.err()
    }

    async fn session(&self, text: &str) -> SessionInfo {
        ask_for_all(&self.layer, text).await.unwrap().1
    }
}

/// Longer than Redis takes on a busy machine.
fn patient(redis: RedisConfig) -> SessionCacheBuilder {
    let minute = Duration::from_secs(60);
    let redis = redis.timeout(minute).connect_timeout(minute);
    SessionCache::builder().redis(redis).unwrap()
}

fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32]).unwrap()
}

/// Checks a logout on two nodes, which may be the same.
async fn check_logout(one: &Node, other: &Node) {
    let all = ["ada-1-a", "ada-1-b", "ada-2-a", "ada--a", "bob-1-a"];
    for _ in 0..2 {
        for node in [one, other] {
            for layer in [&node.layer, &node.machines] {
                for text in all {
                    ask(layer, text).await.unwrap();
                }
            }
        }
    }
    let logged_out = one.session("ada-1-a").await;
    let revocation = one.cache.log_out(&logged_out).await.unwrap();
    soon("the revocation to settle", revocation.settled()).await;
    for node in [one, other] {
        for layer in [&node.layer, &node.machines] {
            // The second time no validation is needed, and a token that is issued later is rejected
            // as well.
            for text in ["ada-1-a", "ada-1-b", "ada-1-b", "ada-1-late"] {
                let rejection = rejection(layer, text).await;
                assert_eq!(rejection.status(), UNAUTHORIZED, "{text}");
            }
            for text in ["ada-2-a", "ada--a", "bob-1-a"] {
                assert!(ask(layer, text).await.is_ok(), "{text}");
            }
        }
    }
    let calls = other.probe.calls();
    for text in ["ada-1-a", "ada-1-b", "ada-1-late"] {
        assert_eq!(other.status(text).await, Some(UNAUTHORIZED));
    }
    assert_eq!(other.probe.calls(), calls, "no token is validated again");
}

#[tokio::test]
async fn logout_ends_every_token_of_the_session() {
    let redis = Redis::start();
    let config = || RedisConfig::single(redis.url());
    type Set = fn(SessionCacheBuilder) -> SessionCacheBuilder;
    let local: Set =
        |builder| builder.local_cache(LocalCacheConfig::new(100).lease(Duration::from_millis(200)));
    let sealed: Set = |builder| builder.sealing_key(secret(1)).pepper(secret(2));
    let forms: [(&str, Set); 4] = [
        ("plain:", |builder| builder),
        ("local:", local),
        ("sealed:", sealed),
        ("peppered:", |builder| builder.pepper(secret(2))),
    ];
    for (prefix, set) in forms {
        let node = || Node::new(set(patient(config().key_prefix(prefix))));
        check_logout(&node(), &node()).await;
    }
    let node = Node::new(SessionCache::builder());
    check_logout(&node, &node).await;
}

#[tokio::test]
async fn logout_ends_every_token_of_the_session_on_a_cluster() {
    let cluster = Cluster::start();
    for set in [
        (|builder| builder) as fn(SessionCacheBuilder) -> SessionCacheBuilder,
        |builder| builder.sealing_key(secret(1)),
    ] {
        let node = || Node::new(set(patient(RedisConfig::cluster(cluster.urls()))));
        check_logout(&node(), &node()).await;
        cluster.nodes.iter().for_each(|node| {
            let _ = node.try_run::<()>(&cmd("FLUSHALL"));
        });
    }
}

/// The ID alone ends all tokens, also for a user whom this node has never seen.
#[tokio::test]
async fn session_is_ended_by_its_id() {
    let redis = Redis::start();
    let node = || Node::new(patient(RedisConfig::single(redis.url())));
    let (one, other) = (node(), node());
    for text in ["ada-1-a", "ada-1-b", "ada-2-a"] {
        assert_eq!(one.status(text).await, None);
        assert_eq!(one.status(text).await, None);
    }
    let elsewhere = Authority::new("https://elsewhere.example.com");
    let _ = other.cache.end_session(&elsewhere, "ada-1").await.unwrap();
    assert_eq!(ask(&one.layer, "ada-1-a").await.unwrap().1, Origin::Redis);
    let _ = other
        .cache
        .end_session(&authority(), "ada-1")
        .await
        .unwrap();
    for text in ["ada-1-a", "ada-1-b", "ada-1-c"] {
        assert_eq!(one.status(text).await, Some(UNAUTHORIZED), "{text}");
    }
    assert_eq!(one.status("ada-2-a").await, None);
}

/// A validation that was running when its session was ended stores nothing and serves no request
/// that began later.
#[tokio::test]
async fn session_that_ends_during_a_validation_is_rejected() {
    let redis = Redis::start();
    let node = || Node::new(patient(RedisConfig::single(redis.url())));
    let (one, other) = (node(), node());
    one.probe.hold();
    let layer = one.layer.clone();
    let request = tokio::spawn(async move { ask(&layer, "ada-1-a").await.err() });
    one.probe.wait_for_calls(1).await;
    let _ = other
        .cache
        .end_session(&authority(), "ada-1")
        .await
        .unwrap();
    one.probe.let_go();
    assert_eq!(
        soon("a response", request).await.unwrap(),
        Some(UNAUTHORIZED)
    );
    assert_eq!(other.status("ada-1-a").await, Some(UNAUTHORIZED));
}

/// While Redis is away, a logout applies on its node, to all tokens of the session.
#[tokio::test]
async fn queued_logout_ends_the_session_on_its_node_and_then_on_all() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let config = RedisConfig::single(proxy.url())
        .timeout(Duration::from_millis(500))
        .connect_timeout(Duration::from_secs(60));
    let one = Node::new(SessionCache::builder().redis(config).unwrap());
    let other = Node::new(patient(RedisConfig::single(redis.url())));
    for node in [&one, &other] {
        for text in ["ada-1-a", "ada-1-b", "ada-2-a"] {
            assert_eq!(node.status(text).await, None);
        }
    }
    let session = one.session("ada-1-a").await;
    proxy.fault(Fault::Swallow);
    let queued = one.cache.log_out(&session).await.unwrap_err();
    assert_eq!(queued.kind(), RevokeErrorKind::Queued);
    for text in ["ada-1-a", "ada-1-b", "ada-1-c"] {
        assert_eq!(one.status(text).await, Some(UNAUTHORIZED), "{text}");
    }
    assert_eq!(one.status("ada-2-a").await, None);
    proxy.fault(Fault::None);
    until("the delivery", || one.cache.stats().queued_revocations == 0).await;
    for text in ["ada-1-a", "ada-1-b", "ada-1-c"] {
        assert_eq!(other.status(text).await, Some(UNAUTHORIZED), "{text}");
    }
    assert_eq!(other.status("ada-2-a").await, None);
}

/// Without a session ID, every other token of the user is validated again.
#[tokio::test]
async fn logout_without_a_session_id_validates_the_user_again() {
    let redis = Redis::start();
    let node = Node::new(patient(RedisConfig::single(redis.url())));
    for text in ["ada--a", "ada--b", "bob--a"] {
        assert_eq!(node.status(text).await, None);
    }
    let calls = node.probe.calls();
    let session = node.session("ada--a").await;
    let _ = node.cache.log_out(&session).await.unwrap();
    assert_eq!(node.status("ada--a").await, Some(UNAUTHORIZED));
    assert_eq!(
        ask(&node.layer, "ada--b").await.unwrap().1,
        Origin::Validator
    );
    assert_eq!(ask(&node.layer, "bob--a").await.unwrap().1, Origin::Redis);
    assert_eq!(node.probe.calls(), calls + 1);
}

/// `log_out_everywhere` and `log_out_elsewhere` validate all other sessions again.
#[tokio::test]
async fn logout_everywhere_or_elsewhere_validates_all_sessions_again() {
    let redis = Redis::start();
    let node = Node::new(patient(RedisConfig::single(redis.url())));
    for everywhere in [false, true] {
        for text in ["ada-1-a", "ada-2-a"] {
            assert_eq!(node.status(text).await, None);
        }
        let session = node.session("ada-1-a").await;
        let revocation = match everywhere {
            true => node.cache.log_out_everywhere(&session).await,
            false => node.cache.log_out_elsewhere(&session).await,
        };
        let _ = revocation.unwrap();
        let stays = ask(&node.layer, "ada-1-a").await.map(|(_, origin)| origin);
        assert_eq!(
            stays,
            if everywhere {
                Err(UNAUTHORIZED)
            } else {
                Ok(Origin::Validator)
            }
        );
        let (_, origin) = ask(&node.layer, "ada-2-a").await.unwrap();
        assert_eq!(origin, Origin::Validator);
    }
}

async fn check_ban(one: &Node, other: &Node) {
    let hour = Duration::from_secs(3600);
    for text in ["ada-1-a", "ada--a", "bob-1-a"] {
        assert_eq!(one.status(text).await, None);
        assert_eq!(other.status(text).await, None);
    }
    let elsewhere = Authority::new("https://elsewhere.example.com");
    let _ = one.cache.ban_user(&elsewhere, "ada", hour).await.unwrap();
    assert_eq!(
        other.status("ada-1-a").await,
        None,
        "another authority's user"
    );
    let revocation = one.cache.ban_user(&authority(), "ada", hour).await.unwrap();
    soon("the ban to settle", revocation.settled()).await;
    for node in [one, other] {
        for layer in [&node.layer, &node.machines] {
            for text in ["ada-1-a", "ada--a", "ada-3-new"] {
                let rejection = rejection(layer, text).await;
                assert_eq!(rejection.status(), FORBIDDEN, "{text}");
                assert_eq!(rejection.reason(), ForbiddenReason::Blocked.as_str());
            }
            assert!(ask(layer, "bob-1-a").await.is_ok());
        }
    }
    let _ = one.cache.revoke_token(&token("ada-1-a")).await.unwrap();
    let _ = one.cache.lift_ban(&authority(), "ada").await.unwrap();
    for node in [one, other] {
        assert_eq!(node.status("ada-1-a").await, Some(UNAUTHORIZED), "revoked");
        soon("the end of the ban", async {
            while node.status("ada--a").await.is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn banned_user_is_rejected_until_the_ban_is_lifted() {
    let redis = Redis::start();
    let config = || RedisConfig::single(redis.url());
    let quick = Duration::from_millis(100);
    let local = LocalCacheConfig::new(100).lease(Duration::from_millis(200));
    let node = || Node::new(patient(config().key_prefix("a:")).negative_ttl(quick));
    check_ban(&node(), &node()).await;
    let node = || {
        let builder = patient(config().key_prefix("b:")).negative_ttl(quick);
        Node::new(builder.local_cache(local).sealing_key(secret(1)))
    };
    check_ban(&node(), &node()).await;
    let node = Node::new(SessionCache::builder());
    check_ban(&node, &node).await;
}

#[tokio::test]
async fn banned_user_is_rejected_on_a_cluster() {
    let cluster = Cluster::start();
    let quick = Duration::from_millis(100);
    let node = || Node::new(patient(RedisConfig::cluster(cluster.urls())).negative_ttl(quick));
    check_ban(&node(), &node()).await;
}

/// The Python service knows no bans, so a record that it stores later must not be served.
#[tokio::test]
async fn banned_user_is_not_served_from_a_record_of_the_python_service() {
    let redis = Redis::start();
    let clock = ManualClock::new();
    let node = Node::new(patient(RedisConfig::single(redis.url())).clock(clock.clone()));
    let hour = Duration::from_secs(3600);
    let _ = node
        .cache
        .ban_user(&authority(), "ada", hour)
        .await
        .unwrap();
    let record = peer::record("ada", redis.time() + 5.0);
    // A mark from long ago, as after the slack between the clocks has passed.
    redis.set("user_invalidated:ada", "1.000000");
    redis.set(&peer::session_key("ada--a"), record.to_string());
    assert_eq!(node.status("ada--a").await, Some(FORBIDDEN));
}

/// A ban applies on its node while Redis does not have it, and if Redis is away later.
#[tokio::test]
async fn ban_applies_on_its_node_without_redis() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let config = RedisConfig::single(proxy.url())
        .timeout(Duration::from_millis(500))
        .connect_timeout(Duration::from_secs(60));
    let node = Node::new(SessionCache::builder().redis(config).unwrap());
    let hour = Duration::from_secs(3600);
    assert_eq!(node.status("ada--a").await, None);
    proxy.fault(Fault::Swallow);
    let queued = node.cache.ban_user(&authority(), "ada", hour).await;
    assert_eq!(queued.unwrap_err().kind(), RevokeErrorKind::Queued);
    assert_eq!(node.status("ada--a").await, Some(FORBIDDEN));
    proxy.fault(Fault::None);
    until("the delivery", || {
        node.cache.stats().queued_revocations == 0
    })
    .await;
    assert_eq!(node.status("ada--b").await, Some(FORBIDDEN));
    proxy.fault(Fault::Swallow);
    assert_eq!(node.status("ada--c").await, Some(FORBIDDEN));
}

/// `lift_token` reaches the node that revoked the token and remembers it.
#[tokio::test]
async fn lifted_token_is_validated_again_on_every_node() {
    let redis = Redis::start();
    let node = || Node::new(patient(RedisConfig::single(redis.url())));
    let (one, other) = (node(), node());
    let key = token("ada--a");
    let _ = one.cache.revoke_token(&key).await.unwrap();
    for node in [&one, &other] {
        assert_eq!(node.status("ada--a").await, Some(UNAUTHORIZED));
    }
    assert!(redis.ttl(&tomb_key("ada--a")) > 24 * 3600);
    let _ = other.cache.lift_token(&key).await.unwrap();
    assert!(redis.ttl(&tomb_key("ada--a")) <= 3600);
    assert_eq!(other.status("ada--a").await, None);
    soon("the lift on the node that revoked", async {
        while one.status("ada--a").await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // What is revoked again is rejected again.
    let _ = other.cache.revoke_token(&key).await.unwrap();
    for node in [&one, &other] {
        assert_eq!(node.status("ada--a").await, Some(UNAUTHORIZED));
    }
    let node = Node::new(SessionCache::builder());
    let _ = node.cache.revoke_token(&key).await.unwrap();
    let _ = node.cache.lift_token(&key).await.unwrap();
    assert_eq!(node.status("ada--a").await, None);
}

/// After an outage a token that the provider rejected meanwhile is not served from its old record.
#[tokio::test]
async fn rejection_during_an_outage_outlasts_it() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let config = RedisConfig::single(proxy.url())
        .timeout(Duration::from_millis(500))
        .connect_timeout(Duration::from_secs(60));
    let builder = SessionCache::builder().redis(config).unwrap();
    let node = Node::new(builder.negative_ttl(Duration::from_millis(1)));
    assert_eq!(node.status("ada-1-a").await, None);
    assert_eq!(ask(&node.layer, "ada-1-a").await.unwrap().1, Origin::Redis);
    node.probe.answer(|_| Err(ValidationError::invalid()));
    proxy.fault(Fault::Swallow);
    assert_eq!(node.status("ada-1-a").await, Some(UNAUTHORIZED));
    proxy.fault(Fault::None);
    soon("Redis to reply", async {
        while node.cache.stats().redis_circuit_open
            || node.cache.health_check().await.redis != RedisHealth::Up
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..160 {
        assert_eq!(node.status("ada-1-a").await, Some(UNAUTHORIZED));
    }
    // A later success counts.
    node.probe.answer(|_| Ok(session("ada")));
    soon("the end of the negative entry", async {
        while node.status("ada-1-a").await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(ask(&node.layer, "ada-1-a").await.unwrap().1, Origin::Redis);
}

/// A revocation is remembered as long as the token or session could be accepted, and no longer.
#[tokio::test]
async fn revocations_last_as_long_as_what_they_revoke() {
    let redis = Redis::start();
    let node = Node::new(patient(RedisConfig::single(redis.url())));
    let in_two_hours = || Utc::now() + Duration::from_secs(7200);
    let of_token = move || session("ada").with_token_expires_at(in_two_hours());
    let of_session = move || session("ada").with_expires_at(in_two_hours());
    let unknown = || session("ada");
    let month = 30 * 24 * 3600;
    type Make = Box<dyn Fn() -> ValidatedSession + Send + Sync>;
    let cases: [(Make, bool, i64, i64); 6] = [
        (Box::new(of_token), false, 7260, month),
        (Box::new(of_token), true, 7260, month),
        (Box::new(of_session), false, month, month),
        (Box::new(of_session), true, 7260, 7260),
        (Box::new(unknown), false, month, month),
        (Box::new(unknown), true, month, month),
    ];
    for (n, (make, is_confirmed, of_tombstone, of_session)) in cases.into_iter().enumerate() {
        redis.run::<()>(&cmd("FLUSHALL"));
        let text = format!("token-{n}");
        node.probe
            .answer(move |token| Ok(make().with_session_id(token)));
        // From the validator, and from Redis, where the kind of expiry must be known as well.
        node.session(&text).await;
        let _ = node.cache.invalidate_user("nobody").await.unwrap();
        let info = node.session(&text).await;
        let revocation = match is_confirmed {
            true => node.cache.log_out_confirmed(&info).await,
            false => node.cache.log_out(&info).await,
        };
        let _ = revocation.unwrap();
        let near = |left: i64, expected: i64| (expected - 120..=expected).contains(&left);
        let left = redis.ttl(&tomb_key(&text));
        assert!(near(left, of_tombstone), "{n}: tombstone for {left} s");
        let keys = redis.keys();
        let ended = keys.iter().find(|key| key.starts_with("session_ended:"));
        let left = redis.ttl(ended.unwrap());
        assert!(near(left, of_session), "{n}: session for {left} s");
    }
}

/// A validator that gives all users one session ID does not fill Redis.
#[tokio::test]
async fn session_with_too_many_users_is_served_and_not_stored() {
    let redis = Redis::start();
    let node = Node::new(patient(RedisConfig::single(redis.url())));
    node.probe
        .answer(|token| Ok(session(token).with_session_id("same")));
    let log = record();
    for n in 0..20 {
        let text = format!("user-{n}");
        assert_eq!(node.status(&text).await, None);
        let expected = if n < 16 {
            Origin::Redis
        } else {
            Origin::Validator
        };
        assert_eq!(ask(&node.layer, &text).await.unwrap().1, expected, "{n}");
    }
    assert!(
        log.text().contains("shared by too many users"),
        "{}",
        log.text()
    );
}

/// A disabled cache rejects what was ended or banned, as it rejects revoked tokens.
#[tokio::test]
async fn disabled_cache_rejects_ended_sessions_and_banned_users() {
    let redis = Redis::start();
    let config = || RedisConfig::single(redis.url());
    let one = Node::new(patient(config()));
    let disabled = Node::new(patient(config()).enabled(false));
    assert_eq!(disabled.status("ada-1-a").await, None);
    let _ = one.cache.end_session(&authority(), "ada-1").await.unwrap();
    let hour = Duration::from_secs(3600);
    let _ = one.cache.ban_user(&authority(), "bob", hour).await.unwrap();
    assert_eq!(disabled.status("ada-1-a").await, Some(UNAUTHORIZED));
    assert_eq!(disabled.status("bob-1-a").await, Some(FORBIDDEN));
    assert_eq!(disabled.status("ada-2-a").await, None);
}

/// `SessionCache::set` follows the same rules as a layer.
#[tokio::test]
async fn handle_stores_no_ended_session_and_no_banned_user() {
    let redis = Redis::start();
    let cache = patient(RedisConfig::single(redis.url())).build().unwrap();
    let issuer = Authority::new("issuer");
    let stored = async |text: &str, id: &str| {
        let Lookup::Miss(ticket) = cache.get(&token(text)).await else {
            panic!("{text} is cached")
        };
        let user = ValidatedSession::new(UserData::new(id));
        let session = user.with_session_id("s").with_authority("issuer");
        cache.set(ticket, &session).await
    };
    assert!(matches!(stored("a", "ada").await, Fill::Stored));
    let hour = Duration::from_secs(3600);
    let _ = cache.ban_user(&issuer, "bob", hour).await.unwrap();
    assert!(matches!(stored("b", "bob").await, Fill::Banned));
    let _ = cache.end_session(&issuer, "s").await.unwrap();
    assert!(matches!(stored("c", "ada").await, Fill::Revoked));
    assert!(matches!(cache.get(&token("c")).await, Lookup::Revoked));
}

/// The age of the oldest queued revocation is reported, and logged three times.
#[tokio::test]
async fn queued_revocation_is_reported_at_15_45_and_60_seconds() {
    let clock = ManualClock::new();
    let log = record();
    let node = Node::new(
        SessionCache::builder()
            .redis(RedisConfig::single("redis://127.0.0.1:1"))
            .unwrap()
            .clock(clock.clone()),
    );
    let _ = node.cache.invalidate_user("ada").await.unwrap_err();
    let warnings = || log.text().matches("revocations still queued").count();
    for (n, age) in [15, 30, 15].into_iter().enumerate() {
        assert_eq!(warnings(), n);
        clock.advance(Duration::from_secs(age));
        until("a warning", || warnings() > n).await;
    }
    assert_eq!(
        node.status("bob-1-a").await,
        None,
        "others are not affected"
    );
}
