//! A request that begins after a revocation has returned is never served a revoked session.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use http::StatusCode;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tower_session_cache::{
    Authority, Fill, Lookup, Namespace, SessionCache, SessionCacheLayer, SessionToken,
    SessionValidator, UserData, ValidatedSession, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{tier, token},
    probe::{Probe, session},
    soon, until,
};

fn of_tier(tier: &str) -> ValidatedSession {
    ValidatedSession::new(UserData::builder("ada").tier(tier).build())
}

/// Its clock stands still, so that no session is validated again only because time passes.
fn timeless_cache() -> SessionCache {
    let builder = SessionCache::builder().clock(ManualClock::new());
    builder.build().unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Revoke {
    Forget,
    Refuse,
    User,
}

async fn revoke(cache: &SessionCache, how: Revoke, text: &str, user: &str) {
    let done = match how {
        Revoke::Forget => cache.invalidate_token(&token(text)).await,
        Revoke::Refuse => cache.revoke_token(&token(text)).await,
        Revoke::User => cache.invalidate_user(user).await,
    };
    let _ = done.unwrap();
}

#[tokio::test]
async fn revoked_session_is_revalidated_or_rejected() {
    let cache = timeless_cache();
    let probe = Probe::answering(|_| Ok(of_tier("old")));
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    for how in [Revoke::Forget, Revoke::User] {
        probe.answer(|_| Ok(of_tier("old")));
        revoke(&cache, Revoke::Forget, "t", "ada").await;
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("old"));
        probe.answer(|_| Ok(of_tier("new")));
        assert_eq!(
            tier(&layer, "t").await.as_deref(),
            Ok("old"),
            "still cached"
        );
        revoke(&cache, how, "t", "ada").await;
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"), "{how:?}");
    }
    let calls = probe.calls();
    revoke(&cache, Revoke::Refuse, "t", "ada").await;
    assert_eq!(tier(&layer, "t").await, Err(StatusCode::UNAUTHORIZED));
    assert_eq!(probe.calls(), calls, "the validator is not called");
    assert_eq!(
        tier(&layer, "other").await.as_deref(),
        Ok("new"),
        "another session is not affected"
    );
}

#[tokio::test]
async fn validation_overtaken_by_an_invalidation_is_repeated() {
    for how in [Revoke::Forget, Revoke::User] {
        let cache = timeless_cache();
        let probe = Probe::answering(|_| Ok(of_tier("old")));
        let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
        probe.hold();
        let early = tokio::spawn({
            let layer = layer.clone();
            async move { tier(&layer, "t").await }
        });
        probe.wait_for_calls(1).await;
        // The change is made at the provider first, then in the cache.
        probe.answer(|_| Ok(of_tier("new")));
        revoke(&cache, how, "t", "ada").await;
        let late = tokio::spawn({
            let layer = layer.clone();
            async move { tier(&layer, "t").await }
        });
        until("the late request to join", || cache.stats().coalesced == 1).await;
        probe.let_go();
        assert_eq!(late.await.unwrap().as_deref(), Ok("new"), "{how:?}");
        assert_eq!(early.await.unwrap().as_deref(), Ok("new"));
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
        let stats = cache.stats();
        assert_eq!(
            (probe.calls(), stats.fill_conflicts, stats.fills),
            (2, 1, 1)
        );
    }
}

#[tokio::test]
async fn validation_overtaken_by_a_logout_is_rejected() {
    let cache = timeless_cache();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let early = tokio::spawn({
        let layer = layer.clone();
        async move { tier(&layer, "t").await }
    });
    probe.wait_for_calls(1).await;
    revoke(&cache, Revoke::Refuse, "t", "ada").await;
    assert_eq!(
        tier(&layer, "t").await,
        Err(StatusCode::UNAUTHORIZED),
        "immediately"
    );
    probe.let_go();
    assert_eq!(early.await.unwrap(), Err(StatusCode::UNAUTHORIZED));
    assert_eq!(cache.stats().fills, 0);
}

#[tokio::test]
async fn request_after_recheck_waits_for_next_validation() {
    let cache = timeless_cache();
    let probe = Probe::answering(|_| Ok(of_tier("one")));
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let first = tokio::spawn({
        let layer = layer.clone();
        async move { tier(&layer, "t").await }
    });
    probe.wait_for_calls(1).await;
    revoke(&cache, Revoke::User, "t", "ada").await;
    probe.answer(|_| Ok(of_tier("two")));
    probe.let_one_go();
    probe.wait_for_calls(2).await;
    // The call is closed now: its second validation must not be used for this request.
    probe.answer(|_| Ok(of_tier("three")));
    revoke(&cache, Revoke::User, "t", "ada").await;
    let late = tokio::spawn({
        let layer = layer.clone();
        async move { tier(&layer, "t").await }
    });
    until("the late request to wait", || cache.stats().misses == 2).await;
    probe.let_go();
    assert_eq!(
        first.await.unwrap().as_deref(),
        Ok("two"),
        "this request began before the revocation"
    );
    assert_eq!(late.await.unwrap().as_deref(), Ok("three"));
    assert_eq!(tier(&layer, "t").await.as_deref(), Ok("three"));
    assert_eq!(probe.calls(), 3);
}

#[tokio::test]
async fn ticket_from_before_a_revocation_is_not_stored() {
    let cache = timeless_cache();
    let t = token("t");
    let Lookup::Miss(ticket) = cache.get(&t).await else {
        panic!("empty")
    };
    revoke(&cache, Revoke::User, "t", "another-user").await;
    assert!(matches!(
        cache.set(ticket.clone(), &session("ada")).await,
        Fill::Stored
    ));
    revoke(&cache, Revoke::User, "t", "ada").await;
    assert!(matches!(cache.get(&t).await, Lookup::Miss(_)));
    let Fill::Conflict(ticket) = cache.set(ticket, &session("ada")).await else {
        panic!("a revoked session was stored")
    };
    assert!(matches!(
        cache.set(ticket.clone(), &session("ada")).await,
        Fill::Stored
    ));
    revoke(&cache, Revoke::Refuse, "t", "ada").await;
    assert!(matches!(
        cache.set(ticket, &session("ada")).await,
        Fill::Revoked
    ));
    assert!(matches!(cache.get(&t).await, Lookup::Revoked));
}

/// An identity provider whose result for a token contains the number of its last change.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<HashMap<String, u64>>>);

impl Provider {
    fn change(&self, token: &str) -> u64 {
        let mut versions = self.0.lock().unwrap();
        let version = versions.entry(token.to_owned()).or_default();
        *version += 1;
        *version
    }
}

impl SessionValidator for Provider {
    fn namespace(&self) -> Namespace {
        crate::support::probe::namespace()
    }

    fn authority(&self) -> Authority {
        crate::support::probe::authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let yields = |most| rand::rng().random_range(0..most);
        for _ in 0..yields(4) {
            tokio::task::yield_now().await;
        }
        let text = token.expose_secret().to_owned();
        let version = self
            .0
            .lock()
            .unwrap()
            .get(&text)
            .copied()
            .unwrap_or_default();
        for _ in 0..yields(30) {
            tokio::task::yield_now().await;
        }
        let user = UserData::builder(format!("user-of-{text}"));
        Ok(ValidatedSession::new(
            user.tier(version.to_string()).build(),
        ))
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

/// Sends many requests and revocations at random. The oracle: a request is served a version at
/// least as new as the last one whose revocation had returned when the request began.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn revoked_session_is_not_served_in_any_race() {
    let full = std::env::var_os("SESSION_CACHE_FULL").is_some();
    let (rounds, steps) = if full { (200, 2_000) } else { (10, 400) };
    for round in 0..rounds {
        let seed: u64 = rand::rng().random();
        let cache = SessionCache::builder().build().unwrap();
        let provider = Provider::default();
        let layer = SessionCacheLayer::new(cache.clone(), provider.clone());
        let floors: Arc<HashMap<&str, AtomicU64>> = Arc::new(
            ["a", "b", "c"]
                .map(|token| (token, AtomicU64::new(0)))
                .into(),
        );
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(task));
                let (cache, provider, layer) = (cache.clone(), provider.clone(), layer.clone());
                let floors = Arc::clone(&floors);
                tokio::spawn(async move {
                    for _ in 0..steps {
                        let text = ["a", "b", "c"][random.random_range(0..3)];
                        if random.random_range(0..8) == 0 {
                            let how = [Revoke::Forget, Revoke::User][random.random_range(0..2)];
                            let version = provider.change(text);
                            revoke(&cache, how, text, &format!("user-of-{text}")).await;
                            floors[text].fetch_max(version, SeqCst);
                        } else {
                            let floor = floors[text].load(SeqCst);
                            match tier(&layer, text).await {
                                Ok(served) => {
                                    let served: u64 = served.parse().unwrap();
                                    assert!(
                                        served >= floor,
                                        "served {served} after {floor} was revoked, seed {seed}"
                                    );
                                }
                                Err(status) => assert_eq!(status, 503, "seed {seed}"),
                            }
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            soon("the end of a task", task).await.unwrap();
        }
        let stats = cache.stats();
        assert!(
            stats.hits > 0 && stats.coalesced > 0,
            "round {round} raced nothing: {stats:?}"
        );
    }
}
