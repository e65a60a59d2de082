//! Which layers may use a cached session, an in-flight validation, or a user in a request's
//! extensions. `sharing.rs` tests the same as one property over random pairs of layers.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use serde_json::json;
use tower::{Layer, ServiceExt, service_fn, timeout::TimeoutLayer};
use tower_session_cache::{
    AppwriteValidator, Authority, ErasedValidator, ForbiddenReason, IntrospectionAuth,
    IntrospectionValidator, IntrospectionValidatorBuilder, Lookup, Namespace, Origin, RedisConfig,
    Rejection, SecretKey, SessionCache, SessionCacheBuilder, SessionCacheLayer, SessionInfo,
    SessionToken, SessionValidator, UserData, ValidatedSession, ValidationError,
    testing::ManualClock, testing::TestValidator, validator_fn,
};

use crate::support::{
    appwrite::Appwrite,
    client::{ask, ask_for_all, token},
    peer::{Peer, session_key},
    probe::{self, Probe, session},
    redis::Redis,
    soon,
    tenants::{GUEST, Tenants},
    until,
};

fn cache() -> SessionCache {
    SessionCache::builder().build().unwrap()
}

fn with_redis(redis: &Redis) -> SessionCacheBuilder {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    SessionCache::builder().redis(redis).unwrap()
}

/// Creates a separate node: a layer with its own cache on this Redis.
fn node<V: SessionValidator>(redis: &Redis, validator: V) -> SessionCacheLayer<V> {
    SessionCacheLayer::new(with_redis(redis).build().unwrap(), validator)
}

fn client(tenants: &Tenants, id: &str) -> IntrospectionValidatorBuilder {
    let auth = IntrospectionAuth::basic(id, "secret");
    IntrospectionValidator::builder(tenants.introspection(1), auth)
}

fn project(tenants: &Tenants, id: &str) -> AppwriteValidator {
    AppwriteValidator::new(tenants.appwrite(1), id).unwrap()
}

async fn status<V: SessionValidator>(layer: &SessionCacheLayer<V>, text: &str) -> u16 {
    match ask(layer, text).await {
        Ok(_) => 200,
        Err(status) => status.as_u16(),
    }
}

async fn origin<V: SessionValidator>(layer: &SessionCacheLayer<V>, text: &str) -> Origin {
    ask(layer, text).await.unwrap().1
}

#[tokio::test]
async fn record_of_another_client_is_a_miss() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let for_a = "o1~ada~A~read";
    for sealing in [None, Some(SecretKey::from_bytes([7; 32]).unwrap())] {
        let node = |id: &str| {
            let mut builder = with_redis(&redis);
            if let Some(key) = &sealing {
                builder = builder.sealing_key(key.clone());
            }
            let validator = client(&tenants, id).build().unwrap();
            SessionCacheLayer::new(builder.build().unwrap(), validator)
        };
        let (a, b) = (node("A"), node("B"));
        assert_eq!(status(&b, for_a).await, 401, "nothing is cached");
        assert_eq!(status(&a, for_a).await, 200);
        for _ in 0..10 {
            assert_eq!(status(&b, for_a).await, 401);
        }
        assert_eq!(origin(&a, for_a).await, Origin::Redis);
        assert_eq!(origin(&node("A"), for_a).await, Origin::Redis, "own record");
    }
}

#[tokio::test]
async fn clients_sharing_a_token_keep_separate_records() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let [a, b] = ["A", "B"].map(|id| node(&redis, client(&tenants, id).build().unwrap()));
    let for_both = "o1~ada~AB~read";
    for layer in [&a, &b] {
        assert_eq!(origin(layer, for_both).await, Origin::Validator);
    }
    for _ in 0..5 {
        for layer in [&a, &b] {
            assert_eq!(origin(layer, for_both).await, Origin::Redis);
        }
    }
    assert_eq!(redis.keys().len(), 2);
    // A revocation applies to both clients, whichever handle made it.
    let handle = with_redis(&redis).build().unwrap();
    let _ = handle.revoke_token(&token(for_both)).await.unwrap();
    for layer in [&a, &b] {
        assert_eq!(status(layer, for_both).await, 401);
    }
}

#[tokio::test]
async fn record_of_another_appwrite_project_is_a_miss() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let [p, q] = ["p", "q"].map(|id| node(&redis, project(&tenants, id)));
    let of_p = "w1~ada~p";
    assert_eq!(status(&q, of_p).await, 401, "nothing is cached");
    assert_eq!(status(&p, of_p).await, 200);
    for _ in 0..10 {
        assert_eq!(status(&q, of_p).await, 401);
    }
    assert_eq!(origin(&p, of_p).await, Origin::Redis);
}

#[tokio::test]
async fn appwrite_at_two_addresses_shares_records_by_authority() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let here = project(&tenants, "p");
    let address = tenants.appwrite(1).replace("127.0.0.1", "localhost");
    let there = AppwriteValidator::builder(address, "p");
    let apart = there.build().unwrap();
    let there = AppwriteValidator::builder(tenants.appwrite(1), "p").authority(here.authority());
    let there = there.build().unwrap();
    assert_ne!(apart.namespace(), here.namespace());
    assert_eq!(there.namespace(), here.namespace());
    assert_eq!(status(&node(&redis, here), "w1~ada~p").await, 200);
    assert_eq!(
        origin(&node(&redis, there), "w1~ada~p").await,
        Origin::Redis
    );
}

#[tokio::test]
async fn validators_with_one_named_namespace_share_records() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let [a, b] = ["A", "B"].map(|id| {
        let builder = client(&tenants, id).namespace("either-may-speak");
        node(&redis, builder.build().unwrap())
    });
    assert_eq!(status(&a, "o1~ada~A~read").await, 200);
    assert_eq!(origin(&b, "o1~ada~A~read").await, Origin::Redis);
}

#[tokio::test]
async fn branch_alone_does_not_read_records_of_an_or() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let either = project(&tenants, "p").or("oauth", client(&tenants, "A").build().unwrap());
    let either = node(&redis, either);
    for text in ["w1~ada~p", "o1~bob~A~read"] {
        assert_eq!(origin(&either, text).await, Origin::Validator);
        assert_eq!(origin(&either, text).await, Origin::Redis);
    }
    let appwrite = node(&redis, project(&tenants, "p"));
    assert_eq!(status(&appwrite, "o1~bob~A~read").await, 401);
    assert_eq!(origin(&appwrite, "w1~ada~p").await, Origin::Validator);
}

#[tokio::test]
async fn python_record_is_used_only_by_appwrite_namespace() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    Peer(&redis).store("w1~ada~p", "ada");
    let appwrite = project(&tenants, "p");
    let (user, info) = ask_for_all(&node(&redis, appwrite.clone()), "w1~ada~p")
        .await
        .unwrap();
    assert_eq!((user.tier(), info.origin()), ("peer", Origin::Redis));
    assert_eq!(info.authority(), Some(&appwrite.authority()));
    let named = AppwriteValidator::builder(tenants.appwrite(1), "p").namespace("mine");
    let named = node(&redis, named.build().unwrap());
    assert_eq!(origin(&named, "w1~ada~p").await, Origin::Validator);
    let unknown = node(&redis, TestValidator::new());
    assert_eq!(status(&unknown, "w1~ada~p").await, 401);
    // The Python service reads what this crate stores for Appwrite.
    assert_eq!(
        Peer(&redis).lookup("w1~ada~p").as_deref(),
        Some("ada"),
        "still there"
    );
    ask(&node(&redis, appwrite), "w1~bob~p").await.unwrap();
    assert_eq!(Peer(&redis).lookup("w1~bob~p").as_deref(), Some("bob"));
    // A logout in any namespace is also a logout for the Python service.
    for (text, handle) in [
        ("w1~ada~p", with_redis(&redis).build().unwrap()),
        (
            "w1~bob~p",
            with_redis(&redis).build().unwrap().with_namespace("other"),
        ),
    ] {
        let _ = handle.revoke_token(&token(text)).await.unwrap();
        assert_eq!(Peer(&redis).lookup(text), None, "{text}");
    }
}

#[tokio::test]
async fn handle_without_namespace_has_separate_records() {
    let cache = cache();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    ask(&layer, "t").await.unwrap();
    let token = token("t");
    let Lookup::Miss(ticket) = cache.get(&token).await else {
        panic!("the handle must not see what a layer has stored");
    };
    let mine = cache.clone().for_validator(&probe);
    assert!(matches!(mine.get(&token).await, Lookup::Hit(hit) if hit.user.id() == "ada"));
    let named = cache.clone().with_namespace(probe.namespace());
    assert!(matches!(named.get(&token).await, Lookup::Hit(_)));
    let _ = cache.set(ticket, &session("bob")).await;
    assert!(matches!(cache.get(&token).await, Lookup::Hit(hit) if hit.user.id() == "bob"));
    assert_eq!(ask(&layer, "t").await.unwrap().0.id(), "ada");
    // A ticket is valid only in its own namespace.
    let Lookup::Miss(ticket) = cache.get(&self::token("u")).await else {
        panic!("nothing is stored");
    };
    let fill = mine.set(ticket, &session("mallory")).await;
    assert!(matches!(fill, tower_session_cache::Fill::Skipped));
    assert!(matches!(mine.get(&self::token("u")).await, Lookup::Miss(_)));
}

/// Requires a tier of the sessions that the probe accepts. The probe counts the calls.
#[derive(Clone)]
struct Strict(Probe);

impl SessionValidator for Strict {
    fn namespace(&self) -> Namespace {
        self.0.namespace()
    }

    fn authority(&self) -> Authority {
        self.0.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let session = self.0.validate(token).await?;
        if self.accepts(&session.user) {
            return Ok(session);
        }
        Err(ValidationError::invalid().by_own_rule())
    }

    fn accepts(&self, user: &UserData) -> bool {
        user.tier() == "admin"
    }
}

/// Returns the results of two layers. The second one is called while the validation of the first
/// is held.
async fn race<A: SessionValidator, B: SessionValidator>(
    probe: &Probe,
    first: SessionCacheLayer<A>,
    second: SessionCacheLayer<B>,
) -> [Result<(UserData, Origin), StatusCode>; 2] {
    probe.hold();
    let calls = probe.calls();
    let one = tokio::spawn(async move { ask(&first, "t").await });
    probe.wait_for_calls(calls + 1).await;
    let other = tokio::spawn(async move { ask(&second, "t").await });
    // The second layer starts its own validation, so there is a call to wait for.
    probe.wait_for_calls(calls + 2).await;
    probe.let_go();
    [one.await.unwrap(), other.await.unwrap()]
}

#[tokio::test]
async fn layer_with_other_rules_does_not_join_a_validation() {
    for is_strict_first in [false, true] {
        let (cache, probe) = (cache(), Probe::new());
        let weak = SessionCacheLayer::new(cache.clone(), probe.clone());
        let strict = SessionCacheLayer::new(cache.clone(), Strict(probe.clone()));
        let (weak_answer, strict_answer) = if is_strict_first {
            let [strict_answer, weak_answer] = race(&probe, strict.clone(), weak.clone()).await;
            (weak_answer, strict_answer)
        } else {
            race(&probe, weak.clone(), strict.clone()).await.into()
        };
        assert_eq!(weak_answer.unwrap().0.id(), "ada");
        assert_eq!(strict_answer.unwrap_err(), 401);
        // The strict layer's rejection neither removes the cached session nor is cached for others.
        assert_eq!(origin(&weak, "t").await, Origin::Local);
        // It is cached for the strict layer itself.
        let calls = probe.calls();
        assert_eq!(status(&strict, "t").await, 401);
        assert_eq!(probe.calls(), calls);
    }
}

#[tokio::test]
async fn cloned_layers_share_a_validation() {
    let (cache, probe) = (cache(), Probe::new());
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let required = layer.clone();
    let one = tokio::spawn(async move { ask(&required, "t").await });
    probe.wait_for_calls(1).await;
    let optional = layer.optional();
    let other = tokio::spawn(async move { ask(&optional, "t").await });
    until("the other request to join", || cache.stats().coalesced == 1).await;
    probe.let_go();
    assert!(one.await.unwrap().is_ok() && other.await.unwrap().is_ok());
    assert_eq!(probe.calls(), 1);
}

#[tokio::test]
async fn provider_rejection_applies_to_all_layers_of_a_namespace() {
    let (cache, probe) = (
        cache(),
        Probe::answering(|_| Err(ValidationError::invalid())),
    );
    let one = SessionCacheLayer::new(cache.clone(), probe.clone());
    let other = SessionCacheLayer::new(cache.clone(), probe.clone());
    let elsewhere = SessionCacheLayer::new(cache, probe.clone()).with_namespace("elsewhere");
    assert_eq!(status(&one, "t").await, 401);
    assert_eq!(status(&other, "t").await, 401);
    assert_eq!(probe.calls(), 1);
    assert_eq!(status(&elsewhere, "t").await, 401);
    assert_eq!(probe.calls(), 2);
}

/// Sends a request through one layer around another. Returns the user and the session that the
/// handler sees, or the status and the reason of the rejection.
async fn ask_nested<A: SessionValidator, B: SessionValidator>(
    outer: &SessionCacheLayer<A>,
    inner: &SessionCacheLayer<B>,
    text: Option<&str>,
    user: Option<UserData>,
) -> (Option<UserData>, Option<SessionInfo>, Option<Rejection>) {
    let service = service_fn(async |request: Request<()>| {
        let mut response = Response::new(Empty::<bytes::Bytes>::new());
        *response.extensions_mut() = request.extensions().clone();
        Ok::<_, Infallible>(response)
    });
    let mut request = Request::builder();
    if let Some(text) = text {
        request = request.header(header::AUTHORIZATION, format!("Bearer {text}"));
    }
    let mut request = request.body(()).unwrap();
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    let answer = outer.layer(inner.layer(service)).oneshot(request);
    let answer = soon("a response", answer).await.unwrap();
    let user: Option<UserData> = answer.extensions().get().cloned();
    let session = user.as_ref().and_then(UserData::session).cloned();
    (user, session, answer.extensions().get().cloned())
}

#[tokio::test]
async fn strict_layer_inside_a_weak_one_applies_its_own_rules() {
    let tenants = Tenants::start().await;
    let cache = cache();
    let people = client(&tenants, "A").build().unwrap();
    let admins = client(&tenants, "A")
        .require_scope("admin")
        .build()
        .unwrap();
    let outer = SessionCacheLayer::new(cache.clone(), people).optional();
    let inner = SessionCacheLayer::new(cache.clone(), admins);
    for _ in 0..2 {
        let (user, session, rejection) =
            ask_nested(&outer, &inner, Some("o1~ada~A~read"), None).await;
        assert!(user.is_none() && session.is_none());
        assert_eq!(rejection.unwrap().status(), 403);
        let (user, session, _) = ask_nested(&outer, &inner, Some("o1~ada~A~admin"), None).await;
        assert_eq!(user.unwrap().id(), "ada");
        assert!(session.is_some());
    }
    // A session that both layers accept is looked up once.
    let hits = cache.stats().hits;
    ask_nested(&outer, &inner, Some("o1~ada~A~admin"), None).await;
    assert_eq!(cache.stats().hits, hits + 1);
    let trusting = inner.trust_outer_user();
    let (user, ..) = ask_nested(&outer, &trusting, Some("o1~ada~A~read"), None).await;
    assert_eq!(user.unwrap().id(), "ada", "as configured");
}

#[tokio::test]
async fn user_set_by_another_namespace_or_other_code_is_ignored() {
    let cache = cache();
    let first = TestValidator::new().with_session("t", UserData::new("first"));
    let second = Probe::answering(|text| match text {
        "t" => Ok(session("second")),
        _ => Err(ValidationError::invalid()),
    });
    let outer = SessionCacheLayer::new(cache.clone(), first).optional();
    let inner = SessionCacheLayer::new(cache.clone(), second.clone());
    let (user, ..) = ask_nested(&outer, &inner, Some("t"), None).await;
    assert_eq!(user.unwrap().id(), "second");
    // Neither layer has authenticated this user.
    let forged = || Some(UserData::new("forged"));
    let (user, _, rejection) = ask_nested(&outer, &inner, None, forged()).await;
    assert!(user.is_none());
    assert_eq!(rejection.unwrap().status(), 401);
    let optional = inner.clone().optional();
    for text in [None, Some("u")] {
        let (user, session, rejection) = ask_nested(&outer, &optional, text, forged()).await;
        assert!(user.is_none() && session.is_none(), "{text:?}");
        assert_eq!(rejection.unwrap().status(), 401);
    }
    let trusting = optional.trust_outer_user();
    let (user, ..) = ask_nested(&outer.trust_outer_user(), &trusting, None, forged()).await;
    assert_eq!(user.unwrap().id(), "forged");
}

#[tokio::test]
async fn layered_validator_keeps_its_rules() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let weak = || client(&tenants, "A").build().unwrap();
    let strict = || {
        client(&tenants, "A")
            .require_scope("admin")
            .build()
            .unwrap()
    };
    assert_eq!(status(&node(&redis, weak()), "o1~ada~A~read").await, 200);
    let timeout = || TimeoutLayer::new(Duration::from_secs(20));
    let wrapped: [ErasedValidator; 5] = [
        ErasedValidator::new(strict()),
        ErasedValidator::new(strict().layer(timeout())),
        ErasedValidator::new(Arc::new(strict())),
        ErasedValidator::new(strict().filter(|_| true)),
        ErasedValidator::new(weak().filter(|user| user.attributes()["scope"] == "admin")),
    ];
    for (n, validator) in wrapped.into_iter().enumerate() {
        assert_eq!(validator.namespace(), weak().namespace(), "{n}");
        assert_eq!(validator.authority(), weak().authority(), "{n}");
        let layer = node(&redis, validator);
        assert_eq!(status(&layer, "o1~ada~A~read").await, 403, "{n}");
        assert_eq!(status(&layer, "o1~ada~A~admin").await, 200, "{n}");
    }
    let changed: [ErasedValidator; 2] = [
        ErasedValidator::new(strict().map("same", |session| session)),
        ErasedValidator::new(strict().and_then("same", async |session| Ok(session))),
    ];
    for (n, validator) in changed.into_iter().enumerate() {
        assert_ne!(validator.namespace(), weak().namespace(), "{n}");
        assert_eq!(validator.authority(), weak().authority(), "{n}");
        let layer = node(&redis, validator);
        assert_eq!(status(&layer, "o1~ada~A~read").await, 403, "{n}");
        assert_eq!(status(&layer, "o1~ada~A~admin").await, 200, "{n}");
    }
    // A weak layer still uses the cached session.
    assert_eq!(
        origin(&node(&redis, weak()), "o1~ada~A~read").await,
        Origin::Redis
    );
}

#[tokio::test]
async fn combinators_change_and_reject_sessions() {
    let people = || TestValidator::new().with_session("t", UserData::new("ada"));
    let pro = people().map("pro", |mut session| {
        session.user = session.user.to_builder().tier("pro").build();
        session
    });
    let layer = SessionCacheLayer::new(cache(), pro);
    for _ in 0..2 {
        assert_eq!(ask(&layer, "t").await.unwrap().0.tier(), "pro");
    }
    let banned = people().and_then("bans", async |_| {
        Err(ValidationError::forbidden(ForbiddenReason::Blocked))
    });
    assert_eq!(
        status(&SessionCacheLayer::new(cache(), banned), "t").await,
        403
    );
    let none = people().filter(|_| false);
    assert_eq!(
        status(&SessionCacheLayer::new(cache(), none), "t").await,
        403
    );
}

/// Creates a validator for one token, whose user has this tier. It accepts only users of this tier,
/// and records the tier in `accepted` whenever `accepts` is called.
fn branch(
    tier: &'static str,
    text: &'static str,
    accepted: Arc<std::sync::Mutex<Vec<&'static str>>>,
) -> impl SessionValidator {
    let user = UserData::builder("ada")
        .tier(tier)
        .attribute("validator", "x");
    let user = user.build();
    validator_fn(tier, move |token: SessionToken| {
        let known = token.expose_secret() == text;
        let user = user.clone();
        async move {
            if known {
                Ok(user)
            } else {
                Err(ValidationError::invalid())
            }
        }
    })
    .filter(move |user| {
        accepted.lock().unwrap().push(tier);
        user.tier() == tier
    })
}

#[tokio::test]
async fn user_claim_cannot_choose_the_branch() {
    let redis = Redis::start();
    let asked = Arc::<std::sync::Mutex<Vec<_>>>::default();
    let of = |tier, text| branch(tier, text, Arc::clone(&asked));
    let shapes: [(ErasedValidator, [&[&str]; 3]); 2] = [
        (
            ErasedValidator::new(of("a", "ta").or("x", of("b", "tb").or("x", of("c", "tc")))),
            [&[""], &["x", ""], &["x", "x"]],
        ),
        (
            ErasedValidator::new(of("a", "ta").or("x", of("b", "tb")).or("x", of("c", "tc"))),
            [&["", ""], &["", "x"], &["x"]],
        ),
    ];
    for (validator, paths) in shapes {
        // A tower layer around the whole validator, which does not know branches, changes nothing.
        let validator = validator.layer(TimeoutLayer::new(Duration::from_secs(20)));
        let layer = node(&redis, validator);
        for ((text, tier), path) in [("ta", "a"), ("tb", "b"), ("tc", "c")]
            .into_iter()
            .zip(paths)
        {
            for expected in [Origin::Validator, Origin::Redis, Origin::Redis] {
                asked.lock().unwrap().clear();
                let (user, info) = ask_for_all(&layer, text).await.unwrap();
                assert_eq!((user.tier(), info.origin()), (tier, expected));
                assert_eq!(info.authority(), Some(&Authority::new(tier)));
                assert!(info.branches().eq(path.iter().copied()), "{text}");
                let asked = asked.lock().unwrap();
                assert!(
                    asked.iter().all(|asked| *asked == tier),
                    "{text}: {asked:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn equal_user_ids_of_two_providers_differ_by_authority() {
    let tenants = Tenants::start().await;
    let oauth = client(&tenants, "A").authority("https://sso.example.com");
    let either = project(&tenants, "p").or("oauth", oauth.build().unwrap());
    let layer = SessionCacheLayer::new(cache(), either);
    for _ in 0..2 {
        let appwrite = ask(&layer, "w1~ada~p").await.unwrap().0;
        let oauth = ask(&layer, "o1~ada~A~read").await.unwrap().0;
        assert_eq!(appwrite.id(), oauth.id());
        let expected = Authority::appwrite(tenants.appwrite(1), "p");
        assert_eq!(appwrite.authority(), Some(&expected));
        assert_eq!(
            oauth.authority().unwrap().as_str(),
            "https://sso.example.com"
        );
    }
}

#[tokio::test]
async fn or_if_sends_a_token_to_one_provider_only() {
    let people = TestValidator::new().with_session("person", UserData::new("ada"));
    let machines = TestValidator::new().with_session("key_1", UserData::new("robot"));
    let both = people.clone().or_if("machines", machines.clone(), |token| {
        token.expose_secret().starts_with("key_")
    });
    let layer = SessionCacheLayer::new(cache(), both);
    for (text, id) in [("person", "ada"), ("key_1", "robot")] {
        for _ in 0..2 {
            assert_eq!(ask(&layer, text).await.unwrap().0.id(), id);
        }
    }
    assert_eq!(status(&layer, "key_2").await, 401);
    assert_eq!(status(&layer, "unknown").await, 401);
    assert_eq!((people.calls(), machines.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn rate_limit_of_one_branch_does_not_slow_down_the_other() {
    let people = Probe::answering(|text| match text {
        text if text.starts_with("person") => Ok(session("ada")),
        _ => Err(ValidationError::invalid()),
    });
    let limited = ValidationError::unavailable("429").with_retry_after(Duration::from_secs(60));
    let machines = TestValidator::new();
    machines.fail(limited);
    let layer = SessionCacheLayer::new(cache(), people.clone().or("machines", machines.clone()));
    for n in 0..3 {
        assert_eq!(status(&layer, &format!("junk-{n}")).await, 503);
    }
    assert_eq!(machines.calls(), 3);
    // The second branch now gets one call at a time.
    machines.hang();
    let junk = layer.clone();
    let junk = tokio::spawn(async move { status(&junk, "junk-3").await });
    while machines.calls() < 4 {
        tokio::task::yield_now().await;
    }
    let waiting = layer.clone();
    let waiting = tokio::spawn(async move { status(&waiting, "junk-4").await });
    people.wait_for_calls(5).await;
    for n in 0..3 {
        let healthy = status(&layer, &format!("person-{n}")).await;
        assert_eq!(healthy, 200, "the first branch has no limit");
    }
    assert_eq!(machines.calls(), 4, "the second branch has a limit");
    assert_eq!(junk.await.unwrap(), 503);
    assert_eq!(waiting.await.unwrap(), 503);
}

/// Validations of other tokens keep the provider from being called for a user who was blocked in the
/// meantime. That is not an outage, so no stale session may be served.
#[tokio::test(start_paused = true)]
async fn rate_limit_does_not_serve_stale_sessions() {
    for with_branches in [false, true] {
        let clock = ManualClock::new();
        let builder = SessionCache::builder().ttl(Duration::from_secs(30));
        let builder = builder
            .stale_if_error(Duration::from_secs(60))
            .clock(clock.clone());
        let provider = TestValidator::new().with_session("blocked-since", UserData::new("ada"));
        let validator = if with_branches {
            ErasedValidator::new(provider.clone().or("none", TestValidator::new()))
        } else {
            ErasedValidator::new(provider.clone())
        };
        let layer = SessionCacheLayer::new(builder.build().unwrap(), validator);
        ask(&layer, "blocked-since").await.unwrap();
        clock.advance(Duration::from_secs(30));
        let limited = ValidationError::unavailable("429");
        provider.fail(limited.with_retry_after(Duration::from_secs(10)));
        for n in 0..3 {
            assert_eq!(status(&layer, &format!("junk-{n}")).await, 503);
        }
        provider.hang();
        let junk = layer.clone();
        let junk = tokio::spawn(async move { status(&junk, "junk-3").await });
        while provider.calls() < 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(status(&layer, "blocked-since").await, 503);
        assert_eq!(junk.await.unwrap(), 503);
        // If the provider was called for this token and failed, it is an outage.
        provider.fail(ValidationError::unavailable("out of order"));
        let (_, info) = ask_for_all(&layer, "blocked-since").await.unwrap();
        assert!(info.is_stale());
    }
}

#[tokio::test]
async fn disabled_cache_rejects_token_revoked_on_another_node() {
    let redis = Redis::start();
    let probe = Probe::new();
    let off = with_redis(&redis).enabled(false).build().unwrap();
    let layer = SessionCacheLayer::new(off.clone(), probe.clone());
    for calls in 1..=2 {
        assert_eq!(origin(&layer, "t").await, Origin::Validator);
        assert_eq!(probe.calls(), calls);
    }
    let other = with_redis(&redis).build().unwrap();
    let _ = other.revoke_token(&token("t")).await.unwrap();
    assert_eq!(status(&layer, "t").await, 401);
    assert!(matches!(off.get(&token("t")).await, Lookup::Revoked));
    assert_eq!(probe.calls(), 2);
    // A disabled cache stores nothing, and does not serve what other nodes have stored.
    let on = node(&redis, probe.clone());
    assert_eq!(origin(&on, "u").await, Origin::Validator);
    assert_eq!(origin(&layer, "u").await, Origin::Validator);
    assert_eq!(origin(&on, "u").await, Origin::Redis);
    // With a dead server a request waits for the whole timeout, so the timeout is short here.
    let config = RedisConfig::single(redis.url()).timeout(Duration::from_millis(500));
    let impatient = SessionCache::builder().redis(config).unwrap();
    let impatient = impatient.enabled(false).build().unwrap();
    let layer = SessionCacheLayer::new(impatient, probe.clone());
    assert_eq!(origin(&layer, "u").await, Origin::Validator);
    let mut redis = redis;
    redis.kill();
    assert_eq!(origin(&layer, "u").await, Origin::Validator, "fails soft");
}

#[tokio::test]
async fn email_as_user_id_must_be_verified() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let by_email = || {
        client(&tenants, "A")
            .user_id_claim("email")
            .build()
            .unwrap()
    };
    let layer = node(&redis, by_email());
    let (user, origin) = ask(&layer, "o1~ada~A~read").await.unwrap();
    assert_eq!((user.id(), origin), ("ada@o1", Origin::Validator));
    for _ in 0..2 {
        assert_eq!(status(&layer, "o1~ada~A~unverified").await, 403);
    }
    // A cached session with an unverified address is not accepted either.
    assert!(by_email().accepts(&user));
    let unverified = user.to_builder().email_verified(false).build();
    assert!(!by_email().accepts(&unverified));
    let by_sub = node(&redis, client(&tenants, "A").build().unwrap());
    assert_eq!(status(&by_sub, "o1~ada~A~unverified").await, 200);
}

#[tokio::test]
async fn anonymous_appwrite_session_is_rejected_if_forbidden() {
    let (redis, tenants) = (Redis::start(), Tenants::start().await);
    let guest = format!("w1~{GUEST}~p");
    let any = node(&redis, project(&tenants, "p"));
    let forbids = AppwriteValidator::builder(tenants.appwrite(1), "p").forbid_anonymous();
    let people = node(&redis, forbids.build().unwrap());
    assert_eq!(status(&people, &guest).await, 403, "validated here");
    let user = ask(&any, &guest).await.unwrap().0;
    assert_eq!(user.attributes()["anonymous"], true);
    assert_eq!(
        status(&people, &guest).await,
        403,
        "cached by the other layer"
    );
    assert_eq!(origin(&any, &guest).await, Origin::Redis);
    assert_eq!(status(&people, "w1~ada~p").await, 200);
    // Records of the Python service do not say whether a session is anonymous.
    Peer(&redis).store("w1~bob~p", "bob");
    assert_eq!(origin(&any, "w1~bob~p").await, Origin::Redis);
    assert_eq!(origin(&people, "w1~bob~p").await, Origin::Validator);
    assert_eq!(origin(&people, "w1~bob~p").await, Origin::Redis);
}

#[tokio::test]
async fn session_read_from_redis_equals_the_stored_one() {
    let redis = Redis::start();
    let names = [
        "name",
        "email",
        "fence",
        "run",
        "session_cache",
        "version",
        "user_id",
    ];
    let user = names
        .into_iter()
        .fold(UserData::builder("ada"), |user, name| {
            user.attribute(name, json!({ "claimed": name }))
        });
    let validated = ValidatedSession::new(user.build())
        .with_session_id("session-1")
        .with_authority("https://sso.example.com");
    let validator = TestValidator::new().with_session("t", validated);
    for expected in [Origin::Validator, Origin::Redis, Origin::Redis] {
        let (user, info) = ask_for_all(&node(&redis, validator.clone()), "t")
            .await
            .unwrap();
        assert_eq!(info.origin(), expected);
        for name in names {
            assert_eq!(
                user.attributes()[name],
                json!({ "claimed": name }),
                "{expected:?}"
            );
        }
        assert_eq!(info.session_id(), Some("session-1"));
        assert_eq!(
            info.authority().unwrap().as_str(),
            "https://sso.example.com"
        );
        assert_eq!(info.namespace(), Some(&validator.namespace()));
    }
}

#[tokio::test]
async fn session_id_is_that_of_the_provider() {
    let tenants = Tenants::start().await;
    let layer = SessionCacheLayer::new(cache(), project(&tenants, "p"));
    for _ in 0..2 {
        let info = ask_for_all(&layer, "w1~ada~p").await.unwrap().1;
        assert_eq!(info.session_id(), Some("session-of-ada"));
    }
}

#[tokio::test]
async fn session_rejected_only_by_accepts_is_forbidden() {
    let accepting = Arc::new(AtomicUsize::new(1));
    let probe = Probe::new();
    let accepts = Arc::clone(&accepting);
    let validator = Inconsistent(probe.clone(), accepts);
    let layer = SessionCacheLayer::new(cache(), validator);
    assert_eq!(status(&layer, "t").await, 200);
    accepting.store(0, SeqCst);
    assert_eq!(status(&layer, "t").await, 403, "validated again");
    assert_eq!(status(&layer, "u").await, 403, "validated here");
    probe.hold();
    let calls = probe.calls();
    let joined: Vec<_> = (0..3)
        .map(|_| {
            let layer = layer.clone();
            tokio::spawn(async move { status(&layer, "v").await })
        })
        .collect();
    probe.wait_for_calls(calls + 1).await;
    probe.let_go();
    for joined in joined {
        assert_eq!(joined.await.unwrap(), 403);
    }
}

/// Validates sessions that its own `accepts` rejects.
struct Inconsistent(Probe, Arc<AtomicUsize>);

impl SessionValidator for Inconsistent {
    fn namespace(&self) -> Namespace {
        probe::namespace()
    }

    fn authority(&self) -> Authority {
        probe::authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        self.0.validate(token).await
    }

    fn accepts(&self, _: &UserData) -> bool {
        self.1.load(SeqCst) > 0
    }
}

#[tokio::test]
async fn provider_rejection_removes_record_the_layer_rejects() {
    let redis = Redis::start();
    let probe = Probe::new();
    let weak = node(&redis, probe.clone());
    let strict = node(&redis, Strict(probe.clone()));
    ask(&weak, "t").await.unwrap();
    assert_eq!(origin(&weak, "t").await, Origin::Redis);
    assert_eq!(status(&strict, "t").await, 401, "by its own rule");
    assert_eq!(
        origin(&weak, "t").await,
        Origin::Redis,
        "a rejection by an own rule removes nothing"
    );
    probe.answer(|_| Err(ValidationError::forbidden(ForbiddenReason::Blocked)));
    let strict = node(&redis, Strict(probe.clone()));
    assert_eq!(status(&strict, "t").await, 403, "by the provider");
    assert_eq!(status(&weak, "t").await, 403);
}

#[tokio::test]
async fn user_from_a_layer_on_another_cache_is_looked_up() {
    let probe = Probe::new();
    let (one, other) = (cache(), cache());
    let outer = SessionCacheLayer::new(one, probe.clone());
    let inner = SessionCacheLayer::new(other.clone(), probe.clone());
    let (user, ..) = ask_nested(&outer, &inner, Some("t"), None).await;
    assert_eq!(user.unwrap().id(), "ada");
    let _ = other.revoke_token(&token("t")).await.unwrap();
    let (user, _, rejection) = ask_nested(&outer, &inner, Some("t"), None).await;
    assert!(user.is_none());
    assert_eq!(rejection.unwrap().status(), 401);
}

#[tokio::test]
async fn filter_sees_the_authority_and_closures_keep_it() {
    let people = TestValidator::new().with_session("person", UserData::new("ada"));
    let robot = ValidatedSession::new(UserData::new("ada")).with_authority("robots");
    let machines = TestValidator::new().with_session("machine", robot);
    let both = people
        .or("machines", machines)
        .map("rebuilt", |session| ValidatedSession::new(session.user))
        .and_then("rebuilt", async |session| {
            Ok(ValidatedSession::new(session.user))
        })
        .filter(|user| user.authority().is_some_and(|by| by.as_str() == "robots"));
    let layer = SessionCacheLayer::new(cache(), both);
    for expected in [Origin::Validator, Origin::Local] {
        let (_, info) = ask_for_all(&layer, "machine").await.unwrap();
        assert_eq!(info.origin(), expected);
        assert!(info.branches().eq(["machines"]));
        assert_eq!(status(&layer, "person").await, 403);
    }
}

#[tokio::test]
async fn rejection_with_retry_after_does_not_limit_others() {
    let locked = ValidationError::forbidden(ForbiddenReason::Blocked);
    let locked = locked.with_retry_after(Duration::from_secs(60));
    let people = TestValidator::new()
        .with_error("locked", locked)
        .with_session("person", UserData::new("ada"));
    let layer = SessionCacheLayer::new(cache(), people.or("none", TestValidator::new()));
    assert_eq!(status(&layer, "locked").await, 403);
    assert_eq!(status(&layer, "person").await, 200);
}

/// Invalid tokens hold all permits for validations until `validation_timeout`.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_permit_does_not_serve_stale_sessions() {
    let clock = ManualClock::new();
    let builder = SessionCache::builder().ttl(Duration::from_secs(30));
    let builder = builder
        .stale_if_error(Duration::from_secs(60))
        .clock(clock.clone());
    let builder = builder.max_concurrent_validations(1);
    let provider = TestValidator::new().with_session("blocked-since", UserData::new("ada"));
    let layer = SessionCacheLayer::new(builder.build().unwrap(), provider.clone());
    ask(&layer, "blocked-since").await.unwrap();
    clock.advance(Duration::from_secs(30));
    provider.hang();
    let junk = layer.clone();
    let junk = tokio::spawn(async move { status(&junk, "junk").await });
    while provider.calls() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&layer, "blocked-since").await, 503);
    assert_eq!(junk.await.unwrap(), 503);
    // If the provider is called in time and does not respond, it is an outage.
    let (_, info) = ask_for_all(&layer, "blocked-since").await.unwrap();
    assert!(info.is_stale());
}

#[tokio::test]
async fn settings_that_affect_the_session_change_the_namespace() {
    let tenants = Tenants::start().await;
    let plain = client(&tenants, "A").build().unwrap();
    for other in [
        client(&tenants, "A").issuer("https://sso.example.com"),
        client(&tenants, "A").authority("sso"),
        client(&tenants, "A").session_id_claim("ext.sid"),
        client(&tenants, "A").tier(|_| "pro".to_owned()),
    ] {
        assert_ne!(other.build().unwrap().namespace(), plain.namespace());
    }
    let same = client(&tenants, "A").audience("A").require_scope("read");
    assert_eq!(same.build().unwrap().namespace(), plain.namespace());
}

#[tokio::test]
async fn all_spellings_of_an_appwrite_token_share_one_session() {
    let records = |redis: &Redis| {
        let mut keys = redis.keys();
        keys.retain(|key| !key.starts_with("session_users:"));
        keys
    };
    let (redis, appwrite) = (Redis::start(), Appwrite::start().await);
    appwrite.add_user("ada", "ada@example.com", "correct horse");
    let issued = appwrite.issue("ada");
    let bare = issued.trim_end_matches('=');
    let spelled = [
        format!("{bare}!"),
        format!("!{issued}"),
        format!("{bare}===="),
    ];
    let validator = || AppwriteValidator::new(appwrite.endpoint(), appwrite.project_id()).unwrap();
    // The same applies if combinators and layers are around the validator.
    let around = validator()
        .filter(|_| true)
        .layer(TimeoutLayer::new(Duration::from_secs(20)));
    let none = TestValidator::new();
    let around = ErasedValidator::new(Arc::new(around).or_if("none", none, |_| false));
    for validator in [ErasedValidator::new(validator()), around] {
        let layer = node(&redis, validator);
        assert_eq!(origin(&layer, &issued).await, Origin::Validator);
        for text in &spelled {
            let (_, info) = ask_for_all(&layer, text).await.unwrap();
            assert_eq!(info.origin(), Origin::Redis, "{text}");
            assert_eq!(info.token().expose_secret(), issued);
        }
        assert_eq!(records(&redis).len(), 1);
        redis.run::<()>(&bb8_redis::redis::cmd("FLUSHALL"));
    }
    let layer = node(&redis, validator());
    let (_, info) = ask_for_all(&layer, &spelled[0]).await.unwrap();
    assert_eq!(
        records(&redis),
        [session_key(&issued)],
        "the key that the Python service reads"
    );
    let _ = with_redis(&redis)
        .build()
        .unwrap()
        .revoke_token(info.token())
        .await
        .unwrap();
    for text in spelled.iter().chain([&issued]) {
        assert_eq!(status(&layer, text).await, 401, "{text}");
    }
}
