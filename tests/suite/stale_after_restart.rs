//! Sessions that are served after a restart of Redis, while they are validated again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tower_session_cache::{
    ForbiddenReason, LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheBuilder,
    SessionCacheLayer, SessionValidator, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{ask, ask_for_all, token},
    pass,
    probe::{Probe, session},
    redis::Redis,
    soon, until,
};

const BRIDGE: Duration = Duration::from_secs(30);
/// Long, so that a busy machine loses no lease.
const LEASE: Duration = Duration::from_secs(20);

fn builder(redis: &Redis) -> SessionCacheBuilder {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    SessionCache::builder()
        .redis(redis)
        .unwrap()
        .request_timeout(Duration::from_secs(120))
        .local_cache(LocalCacheConfig::new(1_000).lease(LEASE))
}

type Node = (SessionCache, Probe, SessionCacheLayer<Probe>);

/// Creates a node. The user of each session has the name of the token.
fn node(builder: SessionCacheBuilder) -> Node {
    let cache = builder.build().unwrap();
    let probe = Probe::answering(|text| Ok(session(text)));
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

/// Fills the local cache.
async fn warm<V: SessionValidator>(layer: &SessionCacheLayer<V>, texts: &[&str]) {
    for text in texts {
        soon("a local hit", async {
            while ask(layer, text).await.unwrap().1 != Origin::Local {
                pass().await;
            }
        })
        .await;
    }
}

/// Restarts the server without its data, and waits until the node has lost the connection.
async fn restart(redis: &mut Redis, cache: &SessionCache) {
    let resets = cache.stats().local_resets;
    redis.kill();
    redis.restart();
    until("the end of the lease", || {
        cache.stats().local_resets > resets
    })
    .await;
}

/// Returns whether the session is served from memory as stale.
async fn is_bridged<V: SessionValidator>(layer: &SessionCacheLayer<V>, text: &str) -> bool {
    ask_for_all(layer, text)
        .await
        .is_ok_and(|(_, info)| info.is_stale() && info.origin() == Origin::Local)
}

/// Returns whether the request waits for a validation. The validator must hold its calls.
async fn waits(node: &Node, text: &str) -> bool {
    let (_, probe, layer) = node;
    let calls = probe.calls();
    let (layer, text) = (layer.clone(), text.to_owned());
    let request = tokio::spawn(async move { ask_for_all(&layer, &text).await });
    probe.wait_for_calls(calls + 1).await;
    let waits = !request.is_finished();
    probe.let_go();
    let (_, info) = soon("the response", request).await.unwrap().unwrap();
    probe.hold();
    waits && info.origin() == Origin::Validator && !info.is_stale()
}

#[tokio::test]
async fn sessions_are_served_while_they_are_validated_again() {
    const TEXTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut redis = Redis::start();
    let (cache, probe, layer) = node(builder(&redis).stale_after_restart(BRIDGE));
    warm(&layer, &TEXTS).await;
    let calls = probe.calls();
    probe.hold();
    restart(&mut redis, &cache).await;
    for _ in 0..3 {
        for text in TEXTS {
            assert!(is_bridged(&layer, text).await, "{text}");
        }
    }
    // One for each session, and none of them has returned.
    probe.wait_for_calls(calls + TEXTS.len()).await;
    assert_eq!(cache.stats().stale_hits, 3 * TEXTS.len() as u64);
    assert_eq!(cache.stats().validations_in_flight, TEXTS.len() as u64);
    probe.let_go();
    until("the validations", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
    for text in TEXTS {
        let (_, info) = ask_for_all(&layer, text).await.unwrap();
        assert!(!info.is_stale() && info.origin() == Origin::Redis, "{text}");
    }
    assert_eq!(probe.calls(), calls + TEXTS.len());
}

#[tokio::test]
async fn every_request_waits_without_the_setting() {
    let mut redis = Redis::start();
    let node = node(builder(&redis));
    warm(&node.2, &["a", "b"]).await;
    node.1.hold();
    restart(&mut redis, &node.0).await;
    assert!(waits(&node, "a").await && waits(&node, "b").await);
    assert_eq!(node.0.stats().stale_hits, 0);
}

#[tokio::test]
async fn revoked_session_is_not_served_after_a_restart() {
    const REVOKED: [&str; 9] = [
        "own token",
        "own logout",
        "own user",
        "pushed token",
        "pushed user",
        "later own user",
        "later token",
        "later user",
        "later logout",
    ];
    let tokens = REVOKED.map(|text| text.replace(' ', "-"));
    let texts: Vec<_> = tokens.iter().map(String::as_str).collect();
    let mut redis = Redis::start();
    let other = builder(&redis).build().unwrap();
    let (cache, probe, layer) = node(builder(&redis).stale_after_restart(BRIDGE));
    warm(&layer, &[&texts[..], &["kept"]].concat()).await;
    probe.answer(|_| Err(ValidationError::invalid()));
    let _ = cache.invalidate_token(&token(texts[0])).await.unwrap();
    let _ = cache.revoke_token(&token(texts[1])).await.unwrap();
    let _ = cache.invalidate_user(texts[2]).await.unwrap();
    let pushes = cache.stats().invalidations;
    let _ = other.invalidate_token(&token(texts[3])).await.unwrap();
    let _ = other.invalidate_user(texts[4]).await.unwrap();
    // The tombstone, the record that was deleted with it, and the mark.
    until("the pushes", || cache.stats().invalidations >= pushes + 3).await;
    restart(&mut redis, &cache).await;
    assert!(is_bridged(&layer, "kept").await);
    let _ = cache.invalidate_user(texts[5]).await.unwrap();
    let _ = other.invalidate_token(&token(texts[6])).await.unwrap();
    let _ = other.invalidate_user(texts[7]).await.unwrap();
    let _ = other.revoke_token(&token(texts[8])).await.unwrap();
    for text in texts {
        assert_eq!(ask(&layer, text).await.unwrap_err(), 401, "{text}");
    }
    // It was rejected when it was validated again.
    until("the validation", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
    assert_eq!(ask(&layer, "kept").await.unwrap_err(), 401);
}

#[tokio::test]
async fn bridge_ends_after_its_duration_and_with_the_ttl() {
    let hour = Duration::from_secs(3_600);
    for (bridge, ends) in [(BRIDGE, BRIDGE), (hour, Duration::from_secs(300))] {
        let mut redis = Redis::start();
        let clock = ManualClock::new();
        let builder = builder(&redis).clock(clock.clone());
        let node = node(builder.stale_after_restart(bridge));
        let (_, probe, layer) = &node;
        warm(layer, &["a", "b"]).await;
        probe.hold();
        restart(&mut redis, &node.0).await;
        assert!(is_bridged(layer, "a").await);
        clock.advance(ends);
        assert!(waits(&node, "b").await, "{bridge:?}");
    }
}

#[tokio::test]
async fn rejection_by_a_rule_of_the_layer_ends_the_bridge() {
    let mut redis = Redis::start();
    let cache = builder(&redis).stale_after_restart(BRIDGE).build().unwrap();
    let is_allowed = Arc::new(AtomicBool::new(true));
    let rule = Arc::clone(&is_allowed);
    let validator = Probe::new().and_then("rule", move |_| {
        let is_allowed = rule.load(SeqCst);
        async move {
            match is_allowed {
                true => Ok(session("ada")),
                false => Err(ValidationError::forbidden(ForbiddenReason::Other)),
            }
        }
    });
    let layer = SessionCacheLayer::new(cache.clone(), validator);
    warm(&layer, &["a"]).await;
    is_allowed.store(false, SeqCst);
    restart(&mut redis, &cache).await;
    assert!(is_bridged(&layer, "a").await);
    until("the validation", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
    assert_eq!(ask(&layer, "a").await.unwrap_err(), 403);
}

#[test]
fn stale_after_restart_needs_a_local_cache_and_has_a_limit() {
    let builder = |seconds| {
        let redis = SessionCache::builder()
            .redis("redis://127.0.0.1:1")
            .unwrap();
        redis.stale_after_restart(Duration::from_secs(seconds))
    };
    let local = LocalCacheConfig::new(1);
    assert!(builder(3_600).local_cache(local).build().is_ok());
    for (error, name) in [
        (builder(1).build().unwrap_err(), "local_cache"),
        (
            builder(3_601).local_cache(local).build().unwrap_err(),
            "1 hour",
        ),
    ] {
        let error = error.to_string();
        assert!(error.contains("stale_after_restart") && error.contains(name));
    }
}
