//! The local cache with a real Redis: the commands that it saves, the invalidations that it
//! receives, and its behavior when it receives none.

use std::time::{Duration, Instant};

use bb8_redis::redis::cmd;
use chrono::{TimeDelta, Utc};
use tower_session_cache::{
    Authority, LocalCacheConfig, Namespace, Origin, RedisConfig, SessionCache, SessionCacheBuilder,
    SessionCacheLayer, SessionToken, SessionValidator, UserData, ValidatedSession, ValidationError,
    testing::ManualClock,
};

use crate::support::{
    client::{ask, tier, token},
    log::record as record_log,
    peer::{Peer, mark_key, session_key},
    probe::{Probe, session},
    proxy::{Fault, Proxy},
    redis::Redis,
    soon, until,
};

type Node = (SessionCache, Probe, SessionCacheLayer<Probe>);

/// Longer than any test takes, so a change that is noticed within it was pushed.
const LONG: Duration = Duration::from_secs(60);

fn local() -> LocalCacheConfig {
    LocalCacheConfig::new(1_000).lease(LONG)
}

/// For tests in which a connection ends. The listener notices it at its next heartbeat, after an
/// eighth of the lease.
fn local_with_frequent_heartbeats() -> LocalCacheConfig {
    LocalCacheConfig::new(1_000).lease(Duration::from_secs(16))
}

/// A timeout that only a dead server exceeds.
fn builder(url: &str) -> SessionCacheBuilder {
    builder_with(url, Duration::from_secs(20))
}

fn builder_with(url: &str, timeout: Duration) -> SessionCacheBuilder {
    SessionCache::builder()
        .redis(RedisConfig::single(url).timeout(timeout))
        .unwrap()
}

fn node_of(builder: SessionCacheBuilder) -> Node {
    let cache = builder.build().unwrap();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

fn node(url: &str, local: LocalCacheConfig) -> Node {
    node_of(builder(url).local_cache(local))
}

async fn origin(layer: &SessionCacheLayer<Probe>, text: &str) -> Origin {
    ask(layer, text).await.unwrap().1
}

async fn until_local(layer: &SessionCacheLayer<Probe>, text: &str) {
    until_served_by(layer, text, Origin::Local).await;
}

async fn until_served_by(layer: &SessionCacheLayer<Probe>, text: &str, wanted: Origin) {
    soon("another origin", async {
        while origin(layer, text).await != wanted {
            crate::support::pass().await;
        }
    })
    .await;
}

fn of_tier(tier: &'static str) -> impl Fn(&str) -> Result<ValidatedSession, ValidationError> {
    move |_| {
        Ok(ValidatedSession::new(
            UserData::builder("ada").tier(tier).build(),
        ))
    }
}

#[tokio::test]
async fn local_hit_sends_no_redis_command() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let (cache, probe, layer) = node(&proxy.url(), local());
    until_local(&layer, "t").await;
    // The second PING has been answered, and the third is seven seconds away.
    let (before, _) = (cache.stats(), proxy.commands());
    for _ in 0..300 {
        assert_eq!(origin(&layer, "t").await, Origin::Local);
    }
    assert_eq!(proxy.commands(), Vec::<String>::new());
    let stats = cache.stats();
    assert_eq!(stats.local_hits, before.local_hits + 300);
    assert_eq!((stats.hits, stats.misses), (before.hits + 300, 1));
    assert_eq!(probe.calls(), 1);
    assert!(stats.listener_connected && stats.lease_age.is_some_and(|age| age < LONG));
}

#[tokio::test]
async fn no_listener_runs_without_a_local_cache() {
    let redis = Redis::start();
    let (cache, _, layer) = node_of(builder(&redis.url()));
    until_served_by(&layer, "t", Origin::Redis).await;
    for _ in 0..10 {
        assert_eq!(origin(&layer, "t").await, Origin::Redis);
    }
    assert!(redis.listeners().is_empty());
    let stats = cache.stats();
    assert_eq!(
        (stats.local_entries, stats.local_hits, stats.local_resets),
        (0, 0, 0)
    );
}

/// Covers each setting that changes the keys of tokens and users.
#[tokio::test]
async fn revocation_by_another_node_ends_local_hits() {
    use tower_session_cache::SecretKey;

    let secret = || SecretKey::from_bytes("s".repeat(32)).unwrap();
    let redis = Redis::start();
    let plain = || builder(&redis.url());
    let prefixed = || {
        let redis = RedisConfig::single(redis.url()).key_prefix("shop:");
        let redis = redis.timeout(Duration::from_secs(20));
        SessionCache::builder().redis(redis).unwrap()
    };
    let settings: [&dyn Fn() -> SessionCacheBuilder; 4] =
        [&plain, &prefixed, &|| plain().pepper(secret()), &|| {
            plain().sealing_key(secret())
        }];
    for (n, setting) in settings.iter().enumerate() {
        for local in [local(), local().revocations_only()] {
            let (_, probe, layer) = node_of(setting().local_cache(local));
            let layer = layer.with_namespace("machines");
            let other = setting().build().unwrap();
            for by_user in [false, true] {
                probe.answer(of_tier("old"));
                until_local(&layer, "t").await;
                probe.answer(of_tier("new"));
                let _ = if by_user {
                    other.invalidate_user("ada").await.unwrap()
                } else {
                    other.invalidate_token(&token("t")).await.unwrap()
                };
                soon("the push", async {
                    while tier(&layer, "t").await.unwrap() != "new" {
                        crate::support::pass().await;
                    }
                })
                .await;
                let _ = other.invalidate_token(&token("t")).await.unwrap();
            }
            until_local(&layer, "t").await;
            let _ = other.revoke_token(&token("t")).await.unwrap();
            soon(&format!("the push of a logout, setting {n}"), async {
                while ask(&layer, "t").await != Err(http::StatusCode::UNAUTHORIZED) {
                    crate::support::pass().await;
                }
            })
            .await;
            redis.run::<()>(&cmd("FLUSHALL"));
        }
    }
}

#[tokio::test]
async fn own_revocation_ends_local_hits_immediately() {
    let redis = Redis::start();
    let (cache, probe, layer) = node(&redis.url(), local());
    for round in 0..20 {
        until_local(&layer, "t").await;
        let calls = probe.calls();
        let _ = if round % 2 == 0 {
            cache.invalidate_token(&token("t")).await.unwrap()
        } else {
            cache.invalidate_user("ada").await.unwrap()
        };
        assert_eq!(origin(&layer, "t").await, Origin::Validator);
        assert!(probe.calls() > calls);
    }
    until_local(&layer, "t").await;
    let _ = cache.revoke_token(&token("t")).await.unwrap();
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
}

#[tokio::test]
async fn queued_revocation_ends_local_hits_immediately() {
    for by_user in [true, false] {
        let redis = Redis::start();
        let short = Duration::from_millis(100);
        let builder = builder_with(&redis.url(), short);
        let (cache, probe, layer) = node_of(builder.local_cache(local()));
        until_local(&layer, "t").await;
        redis.pause();
        probe.answer(of_tier("new"));
        let outcome = match by_user {
            true => cache.invalidate_user("ada").await,
            false => cache.invalidate_token(&token("t")).await,
        };
        assert!(outcome.is_err());
        for _ in 0..5 {
            assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
        }
        redis.resume();
        soon("the delivery of the revocation", async {
            while cache.stats().queued_revocations > 0 || origin(&layer, "t").await != Origin::Local
            {
                assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
                crate::support::pass().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn changes_by_the_python_service_reach_the_local_cache() {
    let redis = Redis::start();
    let peer = Peer(&redis);
    let (_, probe, layer) = node(&redis.url(), local());
    // The logout of the Python service.
    until_local(&layer, "t").await;
    let calls = probe.calls();
    peer.logout("t");
    until_served_by(&layer, "t", Origin::Validator).await;
    assert_eq!(probe.calls(), calls + 1);
    // Its password reset.
    until_local(&layer, "t").await;
    probe.answer(of_tier("new"));
    peer.invalidate_user("ada");
    soon("the push of a mark", async {
        while tier(&layer, "t").await.unwrap() != "new" {
            crate::support::pass().await;
        }
    })
    .await;
    // A record that it stores, with a different tier.
    redis.run::<()>(cmd("DEL").arg(mark_key("ada")).arg(session_key("t")));
    until_local(&layer, "t").await;
    peer.store("t", "ada");
    soon("the push of a record", async {
        while ask(&layer, "t").await.unwrap() != (peers_ada(), Origin::Local) {
            crate::support::pass().await;
        }
    })
    .await;
}

fn peers_ada() -> UserData {
    let time = |text: &str| text.parse::<chrono::DateTime<Utc>>().unwrap();
    UserData::builder("ada")
        .email("ada@example.com")
        .name("Ada")
        .email_verified(true)
        .tier("peer")
        .created_at(time("2025-04-28T09:31:48.342Z"))
        .updated_at(time("2025-05-03T16:44:35Z"))
        .build()
}

#[tokio::test]
async fn revocations_only_keeps_no_foreign_records() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let (cache, _, layer) = node(&proxy.url(), local().revocations_only());
    until_local(&layer, "ours").await;
    let pushes = cache.stats().invalidations;
    Peer(&redis).store("theirs", "ada");
    for _ in 0..20 {
        assert_eq!(origin(&layer, "theirs").await, Origin::Redis);
    }
    assert_eq!(origin(&layer, "ours").await, Origin::Local);
    assert_eq!(cache.stats().invalidations, pushes, "no push for a record");
}

#[tokio::test]
async fn lease_ends_by_the_clock_while_redis_is_frozen() {
    let redis = Redis::start();
    let clock = ManualClock::new();
    let short = Duration::from_millis(100);
    let builder = builder_with(&redis.url(), short);
    let (cache, _, layer) = node_of(builder.local_cache(local()).clock(clock.clone()));
    until_local(&layer, "t").await;
    redis.pause();
    clock.advance(LONG - Duration::from_micros(1));
    assert_eq!(origin(&layer, "t").await, Origin::Local);
    clock.advance(Duration::from_micros(1));
    for _ in 0..5 {
        assert_eq!(origin(&layer, "t").await, Origin::Validator);
    }
    assert_eq!(cache.stats().lease_age, None);
}

#[tokio::test]
async fn frozen_redis_suspends_local_hits_until_it_resumes() {
    let redis = Redis::start();
    let short = Duration::from_millis(100);
    let builder = builder_with(&redis.url(), short);
    let local = LocalCacheConfig::new(10).lease(Duration::from_millis(200));
    let (cache, _, layer) = node_of(builder.local_cache(local));
    for _ in 0..2 {
        until_local(&layer, "t").await;
        redis.pause();
        until("the lease to end", || cache.stats().lease_age.is_none()).await;
        for _ in 0..5 {
            assert_eq!(origin(&layer, "t").await, Origin::Validator);
        }
        redis.resume();
    }
    until_local(&layer, "t").await;
}

#[tokio::test]
async fn entry_revoked_between_two_connections_is_not_served() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let (cache, probe, layer) = node(&proxy.url(), local_with_frequent_heartbeats());
    for round in 0..3 {
        probe.answer(of_tier("old"));
        until_local(&layer, "t").await;
        let epochs = cache.stats().local_resets;
        proxy.refuse(true);
        for listener in redis.listeners() {
            redis.end_client(listener);
        }
        until("the end of the connection", || {
            !cache.stats().listener_connected
        })
        .await;
        assert_eq!(origin(&layer, "t").await, Origin::Redis);
        probe.answer(of_tier("new"));
        Peer(&redis).invalidate_user("ada");
        proxy.refuse(false);
        until("a lease", || cache.stats().lease_age.is_some()).await;
        assert_eq!(
            tier(&layer, "t").await.as_deref(),
            Ok("new"),
            "round {round}"
        );
        assert!(cache.stats().local_resets >= epochs + 2);
        redis.run::<()>(&cmd("FLUSHALL"));
        until_served_by(&layer, "t", Origin::Validator).await;
    }
}

/// Starts a lookup and holds its reply; the caller then deletes the record that it found.
async fn in_flight(
    redis: &Redis,
    proxy: &Proxy,
    layer: &SessionCacheLayer<Probe>,
) -> tokio::task::JoinHandle<Origin> {
    until_local(layer, "t").await;
    // This does not change the session, but its push ends the local entry.
    let ttl = redis.ttl(&session_key("t"));
    redis.run::<()>(cmd("EXPIRE").arg(session_key("t")).arg(ttl));
    until_served_by(layer, "t", Origin::Redis).await;
    redis.run::<()>(cmd("EXPIRE").arg(session_key("t")).arg(ttl));
    proxy.hold_lookups(true);
    let lookup = {
        let layer = layer.clone();
        tokio::spawn(async move { until_held(&layer).await })
    };
    until("a reply to be held", || proxy.held() > 0).await;
    lookup
}

/// Sends requests until one needs a lookup, whose reply the caller holds.
async fn until_held(layer: &SessionCacheLayer<Probe>) -> Origin {
    loop {
        match origin(layer, "t").await {
            Origin::Local => crate::support::pass().await,
            other => return other,
        }
    }
}

#[tokio::test]
async fn read_overtaken_by_a_push_is_not_cached() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let (cache, _, layer) = node(&proxy.url(), local());
    let lookup = in_flight(&redis, &proxy, &layer).await;
    let pushes = cache.stats().invalidations;
    Peer(&redis).logout("t");
    until("the push", || cache.stats().invalidations > pushes).await;
    proxy.hold_lookups(false);
    assert_eq!(
        lookup.await.unwrap(),
        Origin::Redis,
        "the lookup began before the logout"
    );
    assert_eq!(origin(&layer, "t").await, Origin::Validator);
}

#[tokio::test]
async fn read_overlapping_a_listener_reconnect_is_not_cached() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let (cache, _, layer) = node(&proxy.url(), local_with_frequent_heartbeats());
    let lookup = in_flight(&redis, &proxy, &layer).await;
    proxy.refuse(true);
    for listener in redis.listeners() {
        redis.end_client(listener);
    }
    until("the end of the connection", || {
        !cache.stats().listener_connected
    })
    .await;
    Peer(&redis).logout("t");
    proxy.refuse(false);
    until("a lease", || cache.stats().lease_age.is_some()).await;
    proxy.hold_lookups(false);
    assert_eq!(
        lookup.await.unwrap(),
        Origin::Redis,
        "the lookup began before the logout"
    );
    assert_eq!(origin(&layer, "t").await, Origin::Validator);
}

/// Either of two rules is sufficient: a read without a lease is not cached, and the epoch begins when
/// Redis has enabled tracking.
#[tokio::test]
async fn read_before_tracking_started_is_not_cached() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    proxy.hold_tracking(true);
    let (cache, _, layer) = node(&proxy.url(), local());
    until_served_by(&layer, "t", Origin::Redis).await;
    until("the listener to request tracking", || proxy.held() > 0).await;
    for _ in 0..3 {
        assert_eq!(origin(&layer, "t").await, Origin::Redis);
    }
    Peer(&redis).logout("t");
    proxy.hold_tracking(false);
    until("a lease", || cache.stats().lease_age.is_some()).await;
    assert_eq!(origin(&layer, "t").await, Origin::Validator);
}

/// A Redis with I/O threads was observed to send a `PONG` ahead of a push. The clock moves only when
/// the test advances it, so the duration of the steps does not matter.
#[tokio::test]
async fn pong_ahead_of_a_push_does_not_extend_the_lease_beyond_it() {
    // One heartbeat every two seconds.
    const LEASE: Duration = Duration::from_secs(16);
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let clock = ManualClock::new();
    let local = LocalCacheConfig::new(10).lease(LEASE);
    let builder = builder(&proxy.url()).local_cache(local);
    let (_, _, layer) = node_of(builder.clock(clock.clone()));
    until_local(&layer, "t").await;
    let pongs = proxy.pongs();
    until("a heartbeat, so that none is in flight", || {
        proxy.pongs() > pongs
    })
    .await;
    proxy.withhold_pushes(true);
    // Redis has acknowledged the write when this returns.
    Peer(&redis).logout("t");
    proxy.swallow_after_a_pong();
    let (pongs, half) = (proxy.pongs(), LEASE / 2);
    clock.advance(half);
    until("the one PONG", || proxy.pongs() > pongs).await;
    // Gives the listener time to extend the lease, if it would.
    for _ in 0..200 {
        let _ = origin(&layer, "t").await;
        tokio::task::yield_now().await;
    }
    clock.advance(LEASE - half);
    proxy.fault(Fault::None);
    assert_eq!(origin(&layer, "t").await, Origin::Validator);
}

#[tokio::test]
async fn listener_on_a_different_server_gives_no_lease() {
    let (one, other) = (Redis::start(), Redis::start());
    let proxy = Proxy::start(one.port()).await;
    let (cache, probe, layer) = node(&proxy.url(), local_with_frequent_heartbeats());
    until_local(&layer, "t").await;
    proxy.lead_to(other.port());
    for client in one.other_clients() {
        one.end_client(client);
    }
    // A lookup discovers that another server replies.
    let calls = probe.calls();
    ask(&layer, "u").await.unwrap();
    assert_eq!(probe.calls(), calls + 1);
    assert_ne!(origin(&layer, "t").await, Origin::Local);
    // The listener then connects to that server.
    until_local(&layer, "t").await;
    assert_eq!(other.listeners().len(), 1);
    assert!(cache.stats().lease_age.is_some());
}

#[tokio::test]
async fn flush_empties_the_local_cache() {
    let redis = Redis::start();
    let (cache, probe, layer) = node(&redis.url(), local());
    for command in ["FLUSHALL", "FLUSHDB"] {
        until_local(&layer, "t").await;
        let (epochs, calls) = (cache.stats().local_resets, probe.calls());
        let mut flush = cmd("SELECT");
        flush.arg(2);
        redis.run::<()>(&flush);
        redis.run::<()>(&cmd(command));
        until_served_by(&layer, "t", Origin::Validator).await;
        assert_eq!(probe.calls(), calls + 1);
        assert_eq!(cache.stats().local_resets, epochs + 1);
        assert!(
            cache.stats().listener_connected,
            "a flush does not end the connection"
        );
    }
}

/// `SWAPDB` is documented as a loss of revocations. If this test fails, Redis has changed, and the
/// documentation may guarantee more.
#[tokio::test]
async fn swapdb_is_not_pushed_and_restores_revoked_sessions() {
    let redis = Redis::start();
    let (cache, probe, layer) = node(&redis.url(), local());
    let swap = || redis.run::<()>(cmd("SWAPDB").arg(2).arg(3));
    probe.answer(of_tier("old"));
    until_local(&layer, "t").await;
    let before = cache.stats();
    swap();
    assert_eq!(redis.get(&session_key("t")), None);
    // Any push for the swap would arrive before this one.
    Peer(&redis).store("u", "bob");
    until("the push", || {
        cache.stats().invalidations > before.invalidations
    })
    .await;
    let after = cache.stats();
    assert_eq!(
        (after.invalidations, after.local_resets),
        (before.invalidations + 1, before.local_resets)
    );
    assert_eq!(tier(&layer, "t").await.as_deref(), Ok("old"));

    // A revocation is still pushed.
    let new_node = || {
        let (_, probe, layer) = node_of(builder(&redis.url()));
        probe.answer(of_tier("new"));
        layer
    };
    probe.answer(of_tier("new"));
    let other = builder(&redis.url()).build().unwrap();
    let _ = other.invalidate_token(&token("t")).await.unwrap();
    soon("the push of a revocation", async {
        while tier(&layer, "t").await.unwrap() != "new" {
            crate::support::pass().await;
        }
    })
    .await;
    assert_eq!(tier(&new_node(), "t").await.as_deref(), Ok("new"));
    // The next swap takes the tombstone away as well.
    swap();
    assert_eq!(tier(&new_node(), "t").await.as_deref(), Ok("old"));
    assert!(
        (1..=300).contains(&redis.ttl(&session_key("t"))),
        "the record still expires"
    );
    redis.run::<()>(&cmd("FLUSHDB"));
    assert_eq!(tier(&new_node(), "t").await.as_deref(), Ok("new"));
    until("the push of the flush", || {
        cache.stats().local_resets > before.local_resets
    })
    .await;
}

#[tokio::test]
async fn redis_restart_begins_a_new_epoch() {
    let mut redis = Redis::start();
    let builder = builder_with(&redis.url(), Duration::from_millis(500));
    let (cache, probe, layer) = node_of(builder.local_cache(local()));
    for _ in 0..2 {
        probe.answer(of_tier("old"));
        until_local(&layer, "t").await;
        redis.kill();
        until("the end of the connection", || {
            !cache.stats().listener_connected
        })
        .await;
        probe.answer(of_tier("new"));
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
        redis.restart();
        until_local(&layer, "t").await;
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
        assert!(cache.stats().lease_age.is_some());
        redis.run::<()>(&cmd("FLUSHALL"));
        until_served_by(&layer, "t", Origin::Validator).await;
    }
}

/// Covers each way in which a server cannot send pushes, and the recovery where there is one.
#[tokio::test]
async fn without_pushes_the_local_cache_is_off_and_logged_once() {
    let redis = Redis::start_with(&["--rename-command", "HELLO", ""]);
    let (log, layer) = (record_log(), node(&redis.url(), short()).2);
    until_warned(&layer, &log).await;

    let keys = "resetkeys ~session_cache:* ~session_tomb:* ~user_invalidated:* ~session_probe ~session_ended:* ~session_users:* ~session_ban:*";
    for (forbid, allow) in [("-client", "+client"), (keys, "allkeys")] {
        let redis = Redis::start();
        let acl = |rules: &str| {
            let rules: Vec<_> = rules.split(' ').collect();
            redis.run::<()>(cmd("ACL").arg("SETUSER").arg("default").arg(rules));
        };
        let (log, layer) = (record_log(), node(&redis.url(), short()).2);
        acl(forbid);
        until_warned(&layer, &log).await;
        acl(allow);
        until_local(&layer, "t").await;
    }

    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    proxy.withhold_pushes(true);
    let (log, layer) = (record_log(), node(&proxy.url(), short()).2);
    until_warned(&layer, &log).await;
    proxy.withhold_pushes(false);
    until_local(&layer, "t").await;
    assert_eq!(log.text().matches("local cache enabled again").count(), 1);
}

#[tokio::test]
async fn listener_backs_off_while_the_server_rejects_it() {
    let redis = Redis::start_with(&["--rename-command", "HELLO", ""]);
    let proxy = Proxy::start(redis.port()).await;
    let began = Instant::now();
    let (_, _, layer) = node(&proxy.url(), short());
    ask(&layer, "t").await.unwrap();
    let mut attempts = 0;
    until("six attempts", || {
        let commands = proxy.commands();
        attempts += commands.iter().filter(|name| *name == "HELLO").count();
        attempts >= 6
    })
    .await;
    // Jitter leaves at least half of each of the five pauses.
    let least = Duration::from_millis((50 + 100 + 200 + 400 + 800) / 2);
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
}

/// Accepts only users of the tier `new`.
struct OnlyNew(Probe);

impl SessionValidator for OnlyNew {
    fn namespace(&self) -> Namespace {
        self.0.namespace()
    }

    fn authority(&self) -> Authority {
        self.0.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        self.0.validate(token).await
    }

    fn accepts(&self, user: &UserData) -> bool {
        user.tier() == "new"
    }
}

/// With `revocations_only`, no push of a record replaces the entry.
#[tokio::test]
async fn revalidated_session_replaces_the_local_entry() {
    let redis = Redis::start();
    let cache = builder(&redis.url())
        .local_cache(local().revocations_only())
        .build()
        .unwrap();
    let tiers = Probe::answering(of_tier("old"));
    let layer = SessionCacheLayer::new(cache.clone(), OnlyNew(tiers.clone()));
    let open = SessionCacheLayer::new(cache, tiers.clone());
    until_local(&open, "t").await;
    tiers.answer(of_tier("new"));
    assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
    let calls = tiers.calls();
    until_local(&open, "t").await;
    for _ in 0..5 {
        assert_eq!(tier(&layer, "t").await.as_deref(), Ok("new"));
    }
    assert_eq!(tiers.calls(), calls, "the session is not validated again");
}

fn short() -> LocalCacheConfig {
    LocalCacheConfig::new(10).lease(Duration::from_millis(300))
}

async fn until_warned(layer: &SessionCacheLayer<Probe>, log: &crate::support::log::Recording) {
    let warnings = || {
        let text = log.text();
        let lines = text.lines();
        lines
            .filter(|line| line.contains("local cache disabled"))
            .count()
    };
    soon("the warning", async {
        while warnings() == 0 {
            let _ = ask(layer, "t").await.unwrap();
            crate::support::pass().await;
        }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(origin(layer, "t").await, Origin::Redis);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(warnings(), 1);
}

#[tokio::test]
async fn replica_gives_no_lease() {
    let redis = Redis::start();
    let primary = Redis::start();
    let local = LocalCacheConfig::new(10).lease(Duration::from_millis(300));
    let (cache, _, layer) = node(&redis.url(), local);
    until_local(&layer, "t").await;
    let mut replicate = cmd("REPLICAOF");
    redis.run::<()>(replicate.arg("127.0.0.1").arg(primary.port()));
    // The end of the lease alone proves nothing, because it may also expire on a slow machine.
    until("the listener to notice", || {
        !cache.stats().listener_connected
    })
    .await;
    for _ in 0..20 {
        assert_ne!(ask(&layer, "t").await.unwrap().1, Origin::Local);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn entry_lifetime_is_bounded_by_session_record_and_max_age() {
    let redis = Redis::start();
    let seconds = Duration::from_secs;
    for (max_age, session_ends, served_at, not_at) in [
        (seconds(10), None, 9, 10),
        (seconds(60), Some(20), 19, 20),
        // Jitter shortens the lifetime of a record by up to a tenth, and real time passes as well.
        (seconds(60), None, 20, 30),
    ] {
        let clock = ManualClock::new();
        let builder = builder(&redis.url()).local_cache(local().max_age(max_age));
        let (_, probe, layer) = node_of(builder.ttl(seconds(30)).clock(clock.clone()));
        let ends = session_ends.map(|after| clock.now() + TimeDelta::seconds(after));
        probe.answer(move |_| {
            let mut session = session("ada");
            session.expires_at = ends;
            Ok(session)
        });
        until_local(&layer, "t").await;
        clock.advance(seconds(served_at));
        assert_eq!(origin(&layer, "t").await, Origin::Local, "{max_age:?}");
        clock.advance(seconds(not_at - served_at));
        let after = ask(&layer, "t").await;
        assert!(
            after.is_err() || after.unwrap().1 != Origin::Local,
            "{max_age:?}"
        );
        redis.run::<()>(&cmd("FLUSHALL"));
    }
}

#[tokio::test]
async fn number_of_local_entries_is_bounded() {
    let redis = Redis::start();
    let local = LocalCacheConfig::new(100).lease(LONG);
    let (cache, _, layer) = node(&redis.url(), local);
    until_local(&layer, "t").await;
    let mut most = 0;
    for n in 0..600 {
        let text = format!("flood-{n}");
        for _ in 0..3 {
            ask(&layer, &text).await.unwrap();
        }
        most = most.max(cache.stats().local_entries);
    }
    assert!((50..=100).contains(&most), "{most}");
}

#[tokio::test]
async fn listener_ends_with_the_last_cache_handle() {
    let redis = Redis::start();
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let (cache, _, layer) = node(&redis.url(), local());
    until_local(&layer, "t").await;
    assert_eq!(redis.listeners().len(), 1);
    assert!(tasks() > before);
    drop(cache);
    assert_eq!(
        origin(&layer, "t").await,
        Origin::Local,
        "another handle is alive"
    );
    drop(layer);
    until("the end of the connection", || redis.listeners().is_empty()).await;
    until("the end of all tasks", || tasks() == before).await;
}

#[test]
fn listener_restarts_on_a_new_runtime() {
    let redis = Redis::start();
    let (_, _, layer) = node(
        &redis.url(),
        LocalCacheConfig::new(10).lease(Duration::from_millis(200)),
    );
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(until_local(&layer, "t"));
    }
}

#[test]
fn invalid_local_cache_settings_are_rejected() {
    let build = |local: LocalCacheConfig| {
        let builder = builder("redis://127.0.0.1:1").local_cache(local);
        builder.build().unwrap_err().to_string()
    };
    assert!(build(LocalCacheConfig::new(0)).contains("leave out `local_cache`"));
    for lease in [
        Duration::ZERO,
        Duration::from_millis(99),
        Duration::from_secs(61),
    ] {
        assert!(build(LocalCacheConfig::new(1).lease(lease)).contains("lease"));
    }
    let no_age = LocalCacheConfig::new(1).max_age(Duration::ZERO);
    assert!(build(no_age).contains("age"));
    // Without Redis this setting has no effect.
    let _ = SessionCache::builder()
        .local_cache(LocalCacheConfig::new(0))
        .build()
        .unwrap();
}
