//! The user as a handler and the `/me` endpoint of the existing service see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, SecretKey, SessionCache, SessionCacheBuilder,
    SessionCacheLayer, SessionToken, SessionValidator, UserData, ValidationError,
    testing::ManualClock, validator_fn,
};

use crate::support::{
    client::{ask, ask_for_all},
    pass,
    probe::{Probe, session},
    redis::Redis,
    soon,
};

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn user_serializes_to_the_seven_shared_members() {
    let user = UserData::builder("u1")
        .email("ada@example.com")
        .name("Ada Ł.")
        .email_verified(true)
        .tier("pro")
        .created_at(time("2025-05-03T16:52:48.766+00:00"))
        .updated_at(time("2025-05-03T18:52:48+02:00"))
        .attribute("team", "engines")
        .build();
    let expected = r#"{"id":"u1","email":"ada@example.com","name":"Ada Ł.","email_verified":true,"tier":"pro","created_at":"2025-05-03T16:52:48.766000+00:00","updated_at":"2025-05-03T16:52:48+00:00"}"#;
    assert_eq!(serde_json::to_string(&user).unwrap(), expected);
    let bare = r#"{"id":"u2","email":"","name":"","email_verified":false,"tier":"free","created_at":null,"updated_at":null}"#;
    assert_eq!(serde_json::to_string(&UserData::new("u2")).unwrap(), bare);
    assert_eq!(user.attributes()["team"], "engines");
    assert_eq!(user.to_builder().build(), user);
    assert_ne!(user.to_builder().name("Bob").build(), user);
}

#[test]
fn debug_output_contains_no_private_data() {
    let user = UserData::builder("u1")
        .email("ada@example.com")
        .name("Ada")
        .attribute("phone", "+15555550100");
    let printed = format!(
        "{user:?} {:?} {:?}",
        user.clone().build(),
        SessionToken::parse("s3cr3t").unwrap()
    );
    for secret in ["example.com", "Ada", "555", "s3cr3t"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

/// A name, most often one that a record or a user has as well.
fn name() -> impl Strategy<Value = String> {
    const TAKEN: &[&str] = &[
        "id",
        "user_id",
        "email",
        "name",
        "email_verified",
        "tier",
        "created_at",
        "updated_at",
        "session_expire",
        "cached_at",
        "session_cache",
        "version",
        "fence",
        "run",
        "seen_mark",
        "seen_tomb",
        "attributes",
        "session_id",
        "",
    ];
    prop_oneof![4 => proptest::sample::select(TAKEN).prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(name(), inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn attributes() -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::btree_map(name(), value(), 0..6)
        .prop_map(|members| members.into_iter().collect())
}

/// Asks for every token until it is served from `origin`, and compares the users.
async fn assert_that_users_return_unchanged(
    store: &str,
    layer: &SessionCacheLayer<Probe>,
    users: &[UserData],
    origin: Origin,
    is_stale: bool,
) {
    for (n, user) in users.iter().enumerate() {
        let served = soon(store, async {
            loop {
                let (served, session) = ask_for_all(layer, &n.to_string()).await.unwrap();
                if session.origin() == origin && session.is_stale() == is_stale {
                    return served;
                }
                pass().await;
            }
        });
        let served = served.await;
        assert_eq!(served.attributes(), user.attributes(), "{store}");
        assert_eq!(&served, user, "{store}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn what_comes_back_from_any_store_is_what_the_validator_returned(
        all in proptest::collection::vec(attributes(), 24),
    ) {
        let users: Arc<[_]> = all.into_iter().map(|attributes| {
            let user = UserData::builder("ada").name("Ada").email("ada@example.com");
            let add = |user: tower_session_cache::UserDataBuilder, (name, value)| user.attribute(name, value);
            attributes.into_iter().fold(user, add).build()
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let redis = Redis::start();
            let clock = ManualClock::new();
            let layer = |builder: SessionCacheBuilder| {
                let users = Arc::clone(&users);
                let probe = Probe::answering(move |token| Ok(users[token.parse::<usize>().unwrap()].clone().into()));
                (SessionCacheLayer::new(builder.build().unwrap(), probe.clone()), probe)
            };
            let redis = |prefix: &str| {
                let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
                SessionCache::builder().redis(redis.key_prefix(prefix)).unwrap()
            };
            let local = || LocalCacheConfig::new(100).lease(Duration::from_secs(60));
            let stale = Duration::from_secs(3_000);
            let down = |_: &str| Err(ValidationError::unavailable("down"));

            let builder = SessionCache::builder().stale_if_error(stale).clock(clock.clone());
            let (memory, probe) = layer(builder);
            assert_that_users_return_unchanged("memory", &memory, &users, Origin::Local, false).await;
            probe.answer(down);
            clock.advance(Duration::from_secs(300));
            assert_that_users_return_unchanged("stale", &memory, &users, Origin::Local, true).await;

            let (plain, _) = layer(redis("plain:"));
            assert_that_users_return_unchanged("Redis", &plain, &users, Origin::Redis, false).await;
            let (parsed_again, _) = layer(redis("plain:"));
            assert_that_users_return_unchanged("Redis", &parsed_again, &users, Origin::Redis, false).await;

            let sealing = || SecretKey::from_bytes([7; 32]).unwrap();
            let (sealed, _) = layer(redis("sealed:").sealing_key(sealing()));
            assert_that_users_return_unchanged("sealed", &sealed, &users, Origin::Redis, false).await;

            let builder = redis("local:").ttl(Duration::from_secs(2)).stale_if_error(stale);
            let (before_redis, probe) = layer(builder.local_cache(local()));
            assert_that_users_return_unchanged("local", &before_redis, &users, Origin::Local, false).await;
            probe.answer(down);
            assert_that_users_return_unchanged("stale", &before_redis, &users, Origin::Local, true).await;
        });
    }
}

#[derive(Debug, Deserialize, Serialize, PartialEq)]
struct Profile {
    tenant: String,
    roles: Vec<String>,
}

fn profile() -> Profile {
    Profile {
        tenant: "acme".to_owned(),
        roles: vec!["admin".to_owned()],
    }
}

#[test]
fn user_is_decoded_from_its_attributes_and_its_own_members() {
    #[derive(Deserialize)]
    struct Everything {
        id: String,
        email_verified: bool,
        created_at: Option<String>,
        updated_at: Option<String>,
        tenant: String,
    }
    let user = UserData::builder("u1")
        .email_verified(true)
        .created_at(time("2025-05-03T16:52:48.766+00:00"))
        // Chosen by a provider, it must not name another user.
        .attribute("id", "root")
        .attributes_of(&profile())
        .unwrap()
        .build();
    let all = user.decode::<Everything>().unwrap();
    assert_eq!((&*all.id, &*all.tenant), ("u1", "acme"));
    assert!(all.email_verified && all.updated_at.is_none());
    let created_at = all.created_at.as_deref();
    assert_eq!(created_at, Some("2025-05-03T16:52:48.766000+00:00"));
    assert_eq!(*user.decode::<Profile>().unwrap(), profile());
    assert!(Arc::ptr_eq(
        &user.decode::<Profile>().unwrap(),
        &user.clone().decode::<Profile>().unwrap()
    ));
    assert_eq!(user.attributes()["id"], "root");
    assert!(UserData::builder("u1").attributes_of(&"text").is_err());
}

#[test]
fn undecodable_user_is_reported_without_its_data() {
    let none = UserData::builder("u1").email("ada@example.com").build();
    let error = none.decode::<Profile>().unwrap_err();
    assert!(error.to_string().contains("`tenant` is missing"), "{error}");
    assert!(error.to_string().contains("Profile"), "{error}");
    assert_eq!(
        none.decode::<Profile>(),
        Err(error),
        "the second time as well"
    );
    let other = none.to_builder().attribute("tenant", "acme");
    let other = other.attribute("roles", "ada@example.com").build();
    let error = other.decode::<Profile>().unwrap_err().to_string();
    assert!(error.contains("another type"), "{error}");
    assert!(!error.contains("example.com"), "{error}");
}

/// A type that counts how often it is decoded.
struct Counted;

static DECODED: AtomicUsize = AtomicUsize::new(0);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DECODED.fetch_add(1, Relaxed);
        Profile::deserialize(deserializer).map(|_| Self)
    }
}

#[tokio::test]
async fn user_is_decoded_once_for_each_entry_and_not_for_each_request() {
    let redis = Redis::start();
    let config = || RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    let user = UserData::builder("ada").attributes_of(&profile()).unwrap();
    let user = user.build();
    // A node of two that share a Redis validates the user, reads the record that it has stored, and
    // then once more by the command of a known user.
    for (builder, at_most) in [
        (SessionCache::builder(), 1),
        (SessionCache::builder().redis(config()).unwrap(), 3),
        (SessionCache::builder().redis(config()).unwrap(), 2),
    ] {
        let user = user.clone();
        let probe = Probe::answering(move |_| Ok(user.clone().into()));
        let layer = SessionCacheLayer::new(builder.build().unwrap(), probe.decodes::<Counted>());
        DECODED.store(0, Relaxed);
        for _ in 0..10 {
            let (served, _) = ask(&layer, "t").await.unwrap();
            assert!(served.decode::<Counted>().is_ok());
        }
        let decoded = DECODED.load(Relaxed);
        assert!((1..=at_most).contains(&decoded), "{decoded}");
    }
}

/// As after a deployment in which the type has got a field.
#[tokio::test]
async fn cached_user_that_cannot_be_decoded_is_validated_again() {
    let cache = SessionCache::builder().build().unwrap();
    let probe = Probe::new();
    let before = SessionCacheLayer::new(cache.clone(), probe.clone());
    let after = SessionCacheLayer::new(cache, probe.clone().decodes::<Profile>());
    assert!(ask(&before, "t").await.is_ok());
    probe.answer(|_| {
        let user = session("ada").user.to_builder().attributes_of(&profile());
        Ok(user.unwrap().build().into())
    });
    let (user, origin) = ask(&after, "t").await.unwrap();
    assert_eq!(*user.decode::<Profile>().unwrap(), profile());
    assert_eq!((origin, probe.calls()), (Origin::Validator, 2));
    assert_eq!(ask(&after, "t").await.unwrap().1, Origin::Local);
    // The validator and the type do not fit: no request is served, and no session is lost.
    probe.answer(|_| Ok(session("ada")));
    assert_eq!(ask(&after, "other").await.unwrap_err(), 503);
}

#[tokio::test]
async fn user_of_a_request_leads_to_its_session_and_back() {
    let cache = SessionCache::default();
    let validator = validator_fn("people", |_| async {
        Ok(session("ada").with_session_id("s1"))
    });
    let layer = SessionCacheLayer::new(cache, validator);
    let (user, session) = ask_for_all(&layer, "t").await.unwrap();
    assert_eq!(session.session_id(), Some("s1"));
    assert_eq!(session.token().expose_secret(), "t");
    assert_eq!(session.user(), user);
    assert_eq!(session.user().session().unwrap().session_id(), Some("s1"));
    assert!(user.to_builder().build().session().is_none());
    assert!(UserData::new("ada").session().is_none());
    let printed = format!("{user:?} {session:?}");
    assert!(
        printed.contains("ada") && !printed.contains("\"t\""),
        "{printed}"
    );
}
