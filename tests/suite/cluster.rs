//! The cache with a real Redis Cluster: round trips and settings, the guarantees while slots move,
//! and the behavior when a primary freezes or is killed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bb8_redis::redis::{Value, cmd};
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, RedisHealth, RedisTls, RevokeErrorKind, SecretKey,
    SessionCache, SessionCacheBuilder, SessionCacheConfig, SessionCacheLayer,
};

use crate::support::{
    client::{ask, token},
    cluster::{Cluster, Plan},
    log,
    peer::{mark_key, record, session_key, tomb_key},
    probe::{Probe, session},
    proxy::Proxy,
    redis::{Redis, free_port},
    rules::{rules, rules_of_a_cluster},
    soon,
    tls::{Authority, is_spoken, options},
    until,
    world::{Settings, requests, run},
};

type Node = (SessionCache, Probe, SessionCacheLayer<Probe>);

/// Number of sessions, enough to be on all primaries.
const TOKENS: usize = 24;

/// Longer than any test takes, so a change that is noticed within it was pushed.
const LONG: Duration = Duration::from_secs(60);

/// Short, so that a failed node is replaced soon, but long enough for a slow machine.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);

fn builder(urls: Vec<String>) -> SessionCacheBuilder {
    builder_of(config(urls))
}

/// Timeouts that only a dead server exceeds.
fn config(urls: Vec<String>) -> RedisConfig {
    RedisConfig::cluster(urls)
        .timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(20))
}

fn builder_of(redis: RedisConfig) -> SessionCacheBuilder {
    SessionCache::builder()
        .redis(redis)
        .unwrap()
        .validation_timeout(LONG)
        .refresh_ahead(100)
        // These tests count validations, and must not depend on the time that they take.
        .provider_lag(Duration::ZERO)
}

fn node_of(builder: SessionCacheBuilder) -> Node {
    let cache = builder.build().unwrap();
    let probe = Probe::answering(|token| Ok(session(user_of(token))));
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    (cache, probe, layer)
}

fn node(cluster: &Cluster) -> Node {
    node_of(builder(cluster.urls()))
}

/// The part before the first hyphen: the user of `ada-1` is `ada`.
fn user_of(token: &str) -> &str {
    token.split('-').next().unwrap()
}

fn tokens() -> Vec<String> {
    (0..TOKENS).map(|n| format!("user{n}-token")).collect()
}

async fn origin(layer: &SessionCacheLayer<Probe>, text: &str) -> Origin {
    let (user, origin) = ask(layer, text).await.unwrap();
    assert_eq!(user.id(), user_of(text));
    origin
}

/// Sends requests until the session is served from Redis.
async fn until_cached(layer: &SessionCacheLayer<Probe>, text: &str) {
    soon("a hit", async {
        while origin(layer, text).await != Origin::Redis {
            crate::support::pass().await;
        }
    })
    .await;
}

async fn all_cached(layer: &SessionCacheLayer<Probe>) {
    for text in tokens() {
        until_cached(layer, &text).await;
    }
}

/// A token whose keys are on node `keys`, and its user's mark on node `mark`.
fn token_on(cluster: &Cluster, keys: usize, mark: usize) -> String {
    let texts = (0..10_000).map(|n| format!("guest{n}-token"));
    let owner_of = |key: &str| cluster.owner_of(key);
    let mut owned = texts.filter(|text| {
        owner_of(&mark_key(user_of(text))) == mark && owner_of(&session_key(text)) == keys
    });
    owned.next().unwrap()
}

#[tokio::test]
async fn stored_session_is_served_by_all_nodes() {
    let cluster = Cluster::start();
    let ((_, _, here), (_, probe, there)) = (node(&cluster), node(&cluster));
    for text in tokens() {
        assert_eq!(origin(&here, &text).await, Origin::Validator);
        for _ in 0..2 {
            assert_eq!(origin(&there, &text).await, Origin::Redis);
            assert_eq!(origin(&here, &text).await, Origin::Redis);
        }
    }
    assert_eq!(probe.calls(), 0);
    let held: Vec<_> = cluster.nodes[..3]
        .iter()
        .map(|node| node.keys().len())
        .collect();
    assert!(held.iter().all(|keys| *keys > 0), "{held:?}");
}

#[tokio::test]
async fn session_revoked_on_one_node_is_not_served_by_another() {
    let cluster = Cluster::start();
    let ((here, _, layer), (_, probe, there)) = (node(&cluster), node(&cluster));
    let mut validated = 0;
    for (n, text) in tokens().iter().enumerate() {
        assert_eq!(origin(&layer, text).await, Origin::Validator);
        assert_eq!(origin(&there, text).await, Origin::Redis);
        assert_eq!(
            origin(&there, text).await,
            Origin::Redis,
            "by the `MGET` shortcut"
        );
        let _ = match n % 3 {
            0 => here.invalidate_token(&token(text)).await,
            1 => here.invalidate_user(user_of(text)).await,
            _ => here.revoke_token(&token(text)).await,
        }
        .unwrap();
        if n % 3 == 2 {
            assert_eq!(ask(&there, text).await.unwrap_err(), 401);
        } else {
            validated += 1;
            assert_eq!(origin(&there, text).await, Origin::Validator);
            assert_eq!(origin(&layer, text).await, Origin::Redis);
        }
        assert_eq!(probe.calls(), validated);
    }
}

#[tokio::test]
async fn validation_overtaken_by_another_node_is_repeated() {
    let cluster = Cluster::start();
    let ((_, probe, layer), (other, ..)) = (node(&cluster), node(&cluster));
    for (n, text) in tokens().into_iter().enumerate() {
        // First with a token that this node does not know, then with a known one.
        for _ in 0..2 {
            let calls = probe.calls();
            probe.hold();
            let (at, asked) = (layer.clone(), text.clone());
            let request = tokio::spawn(async move { origin(&at, &asked).await });
            probe.wait_for_calls(calls + 1).await;
            let _ = match n % 2 {
                0 => other.invalidate_token(&token(&text)).await,
                _ => other.invalidate_user(user_of(&text)).await,
            }
            .unwrap();
            probe.let_go();
            assert_eq!(request.await.unwrap(), Origin::Validator);
            assert_eq!(probe.calls(), calls + 2, "{text}");
            assert_eq!(origin(&layer, &text).await, Origin::Redis);
            let _ = other.invalidate_token(&token(&text)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn validation_overtaken_by_a_logout_is_rejected() {
    let cluster = Cluster::start();
    let ((_, probe, layer), (other, ..)) = (node(&cluster), node(&cluster));
    for text in tokens().into_iter().take(6) {
        let calls = probe.calls();
        probe.hold();
        let (at, asked) = (layer.clone(), text.clone());
        let request = tokio::spawn(async move { ask(&at, &asked).await });
        probe.wait_for_calls(calls + 1).await;
        let _ = other.revoke_token(&token(&text)).await.unwrap();
        probe.let_go();
        assert_eq!(request.await.unwrap().unwrap_err(), 401);
        assert_eq!(ask(&layer, &text).await.unwrap_err(), 401);
    }
}

/// Records have a key prefix and a namespace, and pepper and sealing key are being rotated.
#[tokio::test]
async fn records_are_found_with_prefix_pepper_and_sealing() {
    let cluster = Cluster::start();
    let secret = |letter: char| SecretKey::from_bytes(letter.to_string().repeat(32)).unwrap();
    let named = |builder: SessionCacheBuilder| {
        let (cache, probe, _) = node_of(builder);
        let cache = cache.with_namespace("machines");
        (
            cache.clone(),
            SessionCacheLayer::new(cache, probe.clone()),
            probe,
        )
    };
    let before = || {
        let builder = builder_of(config(cluster.urls()).key_prefix("shop:"));
        builder.pepper(secret('a')).sealing_key(secret('b'))
    };
    let after = || {
        let builder = builder_of(config(cluster.urls()).key_prefix("shop:"))
            .pepper(secret('c'))
            .sealing_key(secret('d'));
        builder
            .previous_pepper(secret('a'))
            .previous_sealing_key(secret('b'))
    };
    let ((old, layer, _), (new, there, probe)) = (named(before()), named(after()));
    for (n, text) in tokens().iter().enumerate() {
        assert_eq!(origin(&layer, text).await, Origin::Validator);
        for _ in 0..2 {
            assert_eq!(origin(&layer, text).await, Origin::Redis);
            assert_eq!(
                origin(&there, text).await,
                Origin::Redis,
                "under its previous key"
            );
        }
        let calls = probe.calls();
        let _ = match n % 2 {
            0 => old.invalidate_token(&token(text)).await,
            _ => old.invalidate_user(user_of(text)).await,
        }
        .unwrap();
        assert_eq!(origin(&there, text).await, Origin::Validator);
        assert_eq!(probe.calls(), calls + 1);
        let _ = new.revoke_token(&token(text)).await.unwrap();
        assert_eq!(
            ask(&layer, text).await.unwrap_err(),
            401,
            "revoked under both keys"
        );
    }
    let all = cluster.nodes.iter().flat_map(Redis::keys);
    assert!(all.into_iter().all(|key| key.starts_with("shop:")));
}

#[tokio::test]
async fn python_service_and_crate_read_each_others_records() {
    let cluster = Cluster::start();
    let (cache, probe, layer) = node(&cluster);
    for text in tokens() {
        let (key, mark) = (session_key(&text), mark_key(user_of(&text)));
        let node = &cluster.nodes[cluster.owner_of(&key)];
        let stored = record(user_of(&text), node.time()).to_string();
        node.run::<()>(cmd("SETEX").arg(&key).arg(300).arg(stored));
        for _ in 0..2 {
            assert_eq!(origin(&layer, &text).await, Origin::Redis);
        }
        let now = node.time().to_string();
        cluster.run::<()>(&mark, cmd("SET").arg(&mark).arg(now).arg("EX").arg(1_000));
        let calls = probe.calls();
        assert_eq!(origin(&layer, &text).await, Origin::Validator);
        assert_eq!(probe.calls(), calls + 1);
        // The native record has the members and the key that the Python service reads.
        let ours: serde_json::Value = serde_json::from_str(&cluster.get(&key).unwrap()).unwrap();
        assert_eq!(ours["user_id"], user_of(&text));
        let _ = cache.invalidate_token(&token(&text)).await.unwrap();
        assert_eq!(cluster.get(&key), None);
    }
}

/// Checks the commands that a lookup sends, wave by wave: a wave is sent only after the replies to
/// the previous one.
async fn waves(
    proxies: &[Proxy],
    waves: &[&[&str]],
    lookup: impl Future<Output = Origin> + Send + 'static,
) {
    let clear = || {
        for proxy in proxies {
            proxy.commands();
        }
    };
    for proxy in proxies {
        proxy.hold_commands(true);
    }
    clear();
    let lookup = tokio::spawn(lookup);
    let mut seen = Vec::new();
    let mut more = || {
        let commands = proxies.iter().flat_map(Proxy::commands);
        // The others are sent by the task that watches the cluster.
        seen.extend(commands.filter(|name| !["CLUSTER", "INFO"].contains(&name.as_str())));
        seen.clone()
    };
    let mut expected = Vec::new();
    for wave in waves {
        expected.extend(wave.iter().map(|name| (*name).to_owned()));
        until("the commands of a wave", || more().len() >= expected.len()).await;
        let mut sent = more();
        sent.sort();
        let mut wanted = expected.clone();
        wanted.sort();
        assert_eq!(sent, wanted);
        for proxy in proxies {
            proxy.let_commands_go();
        }
        // Commands about the cluster are held as well, and no lookup waits for them.
    }
    let found = soon("the result of the lookup", async {
        while !lookup.is_finished() {
            for proxy in proxies {
                proxy.let_commands_go();
            }
            crate::support::pass().await;
        }
        lookup.await.unwrap()
    })
    .await;
    assert_eq!(found, Origin::Redis);
    assert_eq!(more().len(), expected.len(), "{:?}", more());
    for proxy in proxies {
        proxy.hold_commands(false);
    }
}

#[tokio::test]
async fn hit_takes_one_round_trip_if_user_is_known_and_two_otherwise() {
    let mut proxies = Vec::new();
    for _ in 0..3 {
        proxies.push(Proxy::start(0).await);
    }
    let ports: Vec<_> = proxies.iter().map(Proxy::port).collect();
    let cluster = tokio::task::spawn_blocking(move || {
        Cluster::planned(Plan {
            has_replicas: false,
            announced: Some(&ports),
            ..Plan::default()
        })
    })
    .await
    .unwrap();
    for (proxy, node) in proxies.iter().zip(&cluster.nodes) {
        proxy.lead_to(node.port());
    }
    let urls = proxies
        .iter()
        .map(|proxy| format!("redis://127.0.0.1:{}", proxy.port()));
    let urls: Vec<_> = urls.collect();
    let patient = || builder_of(config(urls.clone()).timeout(LONG));
    let ((_, _, layer), (_, probe, there)) = (node_of(patient()), node_of(patient()));
    all_cached(&layer).await;
    // Now the second node is connected and has loaded its scripts.
    origin(&there, "other-token").await;
    let calls = probe.calls();
    for text in tokens().into_iter().take(8) {
        let lookup = |layer: &SessionCacheLayer<Probe>| {
            let (layer, text) = (layer.clone(), text.clone());
            async move { origin(&layer, &text).await }
        };
        let unknown: [&[&str]; 2] = [&["MGET", "MGET", "TIME"], &["MGET", "MGET", "MGET", "TIME"]];
        waves(&proxies, &unknown, lookup(&there)).await;
        for _ in 0..2 {
            waves(&proxies, &[&["MGET", "MGET", "MGET"]], lookup(&there)).await;
        }
    }
    assert_eq!(probe.calls(), calls);
}

#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let cluster = Cluster::start();
    let (cache, _, layer) = node(&cluster);
    for text in tokens().into_iter().take(6) {
        for node in &cluster.nodes[..3] {
            node.run::<()>(cmd("SCRIPT").arg("FLUSH"));
        }
        assert_eq!(origin(&layer, &text).await, Origin::Validator);
        assert_eq!(origin(&layer, &text).await, Origin::Redis);
        let _ = cache.invalidate_token(&token(&text)).await.unwrap();
    }
    assert_eq!(cache.stats().redis_errors, 0);
}

fn errors(cluster: &Cluster, name: &str) -> u64 {
    let count = |node: &Redis| -> u64 {
        let info: String = node.run(cmd("INFO").arg("errorstats"));
        let line = info.lines().find_map(|line| {
            let counted = line.strip_prefix("errorstat_")?.strip_prefix(name)?;
            counted.strip_prefix(":count=")
        });
        line.map_or(0, |count| count.parse().unwrap())
    };
    cluster.nodes.iter().map(count).sum()
}

/// The slot of the token's keys is being moved: the record is still on the old node, and new keys
/// are written to the new one.
#[tokio::test]
async fn token_is_revoked_while_its_slot_moves() {
    let cluster = Cluster::start();
    let ((here, _, layer), (_, probe, there)) = (node(&cluster), node(&cluster));
    for (n, text) in tokens().into_iter().take(6).enumerate() {
        until_cached(&layer, &text).await;
        until_cached(&there, &text).await;
        let slot = cluster.slot(&session_key(&text));
        let moved = cluster.begin_move(slot, (cluster.owner(slot) + 1) % 3);
        let refused = errors(&cluster, "TRYAGAIN");
        let calls = probe.calls();
        if n % 2 == 0 {
            let _ = here.revoke_token(&token(&text)).await.unwrap();
            assert_eq!(ask(&there, &text).await.unwrap_err(), 401);
        } else {
            let _ = here.invalidate_token(&token(&text)).await.unwrap();
            assert_eq!(origin(&there, &text).await, Origin::Validator);
            assert_eq!(probe.calls(), calls + 1);
        }
        assert!(
            errors(&cluster, "TRYAGAIN") > refused,
            "both keys in one command"
        );
        assert_eq!(
            cluster.keys_in(moved.from, slot),
            0,
            "the record is deleted"
        );
        assert_eq!(
            cluster.keys_in(moved.to, slot),
            1,
            "the tombstone is written"
        );
        cluster.end_move(moved);
        cluster.until_whole();
        if n % 2 == 0 {
            assert_eq!(ask(&there, &text).await.unwrap_err(), 401);
        } else {
            until_cached(&there, &text).await;
        }
    }
    assert_eq!(here.stats().redis_errors, 0);
}

/// Covers each stage of a move of the slot of the token's keys, and of that of its user's mark.
#[tokio::test]
async fn slot_move_fails_no_request_and_serves_nothing_revoked() {
    let cluster = Cluster::start();
    let ((here, _, layer), (_, probe, there)) = (node(&cluster), node(&cluster));
    let text = token_on(&cluster, 0, 1);
    let (record, mark) = (session_key(&text), mark_key(user_of(&text)));
    for key in [&record, &mark, &record, &mark] {
        until_cached(&layer, &text).await;
        until_cached(&there, &text).await;
        let slot = cluster.slot(key);
        let moved = cluster.begin_move(slot, (cluster.owner(slot) + 1) % 3);
        for stage in 0..4 {
            match stage {
                1 => cluster.move_keys(moved, 1),
                2 => cluster.move_keys(moved, 100),
                3 => {
                    cluster.end_move(moved);
                    cluster.until_whole();
                }
                _ => {}
            }
            origin(&layer, &text).await;
            let calls = probe.calls();
            let _ = match stage % 2 {
                0 => here.invalidate_user(user_of(&text)).await,
                _ => here.invalidate_token(&token(&text)).await,
            }
            .unwrap();
            assert_eq!(
                origin(&there, &text).await,
                Origin::Validator,
                "{key} {stage}"
            );
            assert!(probe.calls() > calls);
        }
    }
    until_cached(&there, &text).await;
    assert_eq!(here.stats().redis_errors, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_primary_does_not_affect_the_other_primaries() {
    let cluster = Cluster::start();
    let (cache, _, layer) = node_of(builder_of(config(cluster.urls()).timeout(LONG)));
    let quick = builder_of(config(cluster.urls()).timeout(Duration::from_millis(250)));
    let (node, _, impatient) = node_of(quick);
    let (frozen, fine) = (token_on(&cluster, 0, 0), token_on(&cluster, 1, 2));
    for text in [&frozen, &fine] {
        until_cached(&layer, text).await;
        until_cached(&impatient, text).await;
    }
    assert_eq!(cache.health_check().await.redis, RedisHealth::Up);
    cluster.nodes[0].pause();
    for _ in 0..5 {
        assert_eq!(origin(&impatient, &frozen).await, Origin::Validator);
    }
    // The node with the long timeout does not wait for keys on another primary.
    assert_eq!(origin(&layer, &fine).await, Origin::Redis);
    until_cached(&impatient, &fine).await;
    assert!(!node.stats().redis_circuit_open);
    assert_eq!(node.health_check().await.redis, RedisHealth::Down);
    let queued = node.invalidate_user(user_of(&frozen)).await.unwrap_err();
    assert_eq!(queued.kind(), RevokeErrorKind::Queued);
    cluster.nodes[0].resume();
    until_cached(&impatient, &frozen).await;
    until("the delivery", || node.stats().queued_revocations == 0).await;
    soon("all primaries to reply", async {
        while node.health_check().await.redis != RedisHealth::Up {}
    })
    .await;
}

/// Measures the longest time by which the machine delayed a task that only sleeps.
struct Stalls {
    longest: Arc<Mutex<Duration>>,
    ends: Arc<AtomicBool>,
}

impl Stalls {
    fn watch() -> Self {
        let (longest, ends) = (Arc::<Mutex<_>>::default(), Arc::<AtomicBool>::default());
        let (kept, end) = (Arc::clone(&longest), Arc::clone(&ends));
        tokio::spawn(async move {
            while !end.load(SeqCst) {
                let (start, pause) = (Instant::now(), Duration::from_millis(5));
                tokio::time::sleep(pause).await;
                let mut longest = kept.lock().unwrap();
                *longest = start.elapsed().saturating_sub(pause).max(*longest);
            }
        });
        Self { longest, ends }
    }

    fn longest(&self) -> Duration {
        self.ends.store(true, SeqCst);
        *self.longest.lock().unwrap()
    }
}

/// Uses the default timeouts. Delays caused by the machine itself are not counted as the crate's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_finish_within_two_seconds_during_a_failover() {
    let mut cluster = Cluster::planned(Plan {
        node_timeout: NODE_TIMEOUT,
        ..Plan::default()
    });
    let default = SessionCache::builder()
        .redis(RedisConfig::cluster(cluster.urls()))
        .unwrap();
    let (cache, _, layer) = node_of(default.refresh_ahead(100));
    all_cached(&layer).await;
    let stalls = Stalls::watch();
    let ends = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (layer, ends) = (layer.clone(), Arc::clone(&ends));
            tokio::spawn(async move {
                let (mut longest, mut origins) = (Duration::ZERO, HashMap::new());
                let tokens = tokens();
                let mut n = client;
                while !ends.load(SeqCst) {
                    let start = Instant::now();
                    let origin = origin(&layer, &tokens[n % TOKENS]).await;
                    longest = longest.max(start.elapsed());
                    *origins.entry(origin).or_insert(0_usize) += 1;
                    n += 7;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                (longest, origins)
            })
        })
        .collect();
    let killed = cluster.owner_of(&session_key(&tokens()[0]));
    let start = Instant::now();
    cluster.nodes[killed].kill();
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.until_whole();
        cluster
    })
    .await
    .unwrap();
    let whole = start.elapsed();
    all_cached(&layer).await;
    let recovered = start.elapsed();
    ends.store(true, SeqCst);
    let (mut longest, mut sum) = (Duration::ZERO, HashMap::new());
    for client in clients {
        let (took, origins) = soon("a client", client).await.unwrap();
        longest = longest.max(took);
        for (origin, count) in origins {
            *sum.entry(format!("{origin:?}")).or_insert(0) += count;
        }
    }
    let stalled = stalls.longest();
    println!(
        "a killed primary: whole after {whole:?}, all cached after {recovered:?}; requests {sum:?}, \
         the longest {longest:?}, the machine's longest stall {stalled:?}"
    );
    assert!(
        longest < Duration::from_secs(2) + 4 * stalled,
        "{longest:?}"
    );
    assert_eq!(cluster.primaries().len(), 3);
    assert!(!cache.stats().redis_circuit_open);
}

/// Redis acknowledges writes that it may lose: the promoted replica has the record, but not the
/// tombstone or mark that revoked it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_lost_in_a_failover_does_not_revive_the_session() {
    for lost in [
        "the mark",
        "the tombstone",
        "the mark, met for the first time",
    ] {
        let mut cluster = Cluster::planned(Plan {
            node_timeout: NODE_TIMEOUT,
            ..Plan::default()
        });
        let (cache, probe, layer) = node(&cluster);
        // Another node revokes, so this one learns of it from Redis alone. That node is connected
        // before the failover.
        let (revoker, _, connected) = node(&cluster);
        all_cached(&connected).await;
        let text = match lost {
            "the tombstone" => token_on(&cluster, 0, 1),
            _ => token_on(&cluster, 1, 0),
        };
        let mut request = None;
        let is_new = lost.ends_with("first time");
        if is_new {
            // Now this node is connected to all primaries.
            all_cached(&layer).await;
            probe.hold();
            let (at, asked) = (layer.clone(), text.clone());
            let calls = probe.calls();
            request = Some(tokio::spawn(async move { origin(&at, &asked).await }));
            probe.wait_for_calls(calls + 1).await;
        } else {
            until_cached(&layer, &text).await;
        }
        cluster.until_replicated(0, 3);
        cluster.cut_off(0, 3);
        let _ = match lost {
            "the tombstone" => revoker.invalidate_token(&token(&text)).await,
            _ => revoker.invalidate_user(user_of(&text)).await,
        }
        .unwrap();
        cluster.nodes[0].kill();
        cluster.until("the replica to take over", |cluster| {
            cluster.find_owner(0) == Some(3)
        });
        cluster.until_whole();
        if let Some(request) = request {
            // The node is now connected to the promoted replica, and would store what it validated.
            soon("all primaries to reply", async {
                while cache.health_check().await.redis != RedisHealth::Up {}
            })
            .await;
            probe.let_go();
            assert_eq!(request.await.unwrap(), Origin::Validator);
        } else if lost == "the tombstone" {
            let lost: Option<String> = cluster.get(&tomb_key(&text));
            assert_eq!(lost, None);
            assert!(
                cluster.get(&session_key(&text)).is_some(),
                "the record has come back"
            );
        }
        let mark = mark_key(user_of(&text));
        assert_eq!(cluster.get(&mark), None, "the mark is lost");
        let (_, probe, other) = node(&cluster);
        assert_eq!(origin(&other, &text).await, Origin::Validator, "{lost}");
        assert_eq!(probe.calls(), 1);
        until_cached(&layer, &text).await;
    }
}

fn local_node(cluster: &Cluster, lease: Duration) -> Node {
    node_of(builder(cluster.urls()).local_cache(LocalCacheConfig::new(1_000).lease(lease)))
}

async fn until_local(layer: &SessionCacheLayer<Probe>, text: &str) {
    soon("a local hit", async {
        while origin(layer, text).await != Origin::Local {
            crate::support::pass().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_cache_tracks_every_primary_even_without_slots() {
    let cluster = Cluster::planned(Plan {
        has_spare: true,
        ..Plan::default()
    });
    let (revoker, ..) = node(&cluster);
    // The move of a slot is noticed at a heartbeat, and heartbeats are an eighth of this lease apart.
    let (cache, probe, layer) = local_node(&cluster, Duration::from_secs(20));
    for text in tokens() {
        until_local(&layer, &text).await;
    }
    for (n, node) in cluster.nodes.iter().enumerate() {
        let is_primary = !(3..6).contains(&n);
        assert_eq!(node.listeners().len(), usize::from(is_primary), "node {n}");
    }
    let epochs = cache.stats().local_resets;
    for (n, text) in tokens().iter().enumerate() {
        let calls = probe.calls();
        let _ = match n % 2 {
            0 => revoker.invalidate_token(&token(text)).await,
            _ => revoker.invalidate_user(user_of(text)).await,
        }
        .unwrap();
        soon("the push", async {
            while probe.calls() == calls {
                origin(&layer, text).await;
            }
        })
        .await;
        until_local(&layer, text).await;
    }
    assert_eq!(
        cache.stats().local_resets,
        epochs,
        "the pushes arrived, and no connection was lost"
    );
    // A move to the primary that had no slots begins a new epoch. Revocations of the moved slot are
    // received as well.
    let text = &tokens()[0];
    let slot = cluster.slot(&session_key(text));
    let moved = cluster.begin_move(slot, 6);
    cluster.end_move(moved);
    until("a new epoch", || cache.stats().local_resets > epochs).await;
    until_local(&layer, text).await;
    let calls = probe.calls();
    let _ = revoker.invalidate_token(&token(text)).await.unwrap();
    soon("the push", async {
        while probe.calls() == calls {
            origin(&layer, text).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_cache_tracks_the_promoted_primary_after_failover() {
    let mut cluster = Cluster::planned(Plan {
        node_timeout: NODE_TIMEOUT,
        ..Plan::default()
    });
    let (revoker, ..) = node(&cluster);
    let (cache, probe, layer) = local_node(&cluster, Duration::from_secs(20));
    let text = token_on(&cluster, 0, 1);
    until_local(&layer, &text).await;
    cluster.nodes[0].kill();
    until("the lease to end", || cache.stats().lease_age.is_none()).await;
    cluster.until_whole();
    until_local(&layer, &text).await;
    assert_eq!(cluster.nodes[3].listeners().len(), 1);
    let calls = probe.calls();
    soon("the revocation", async {
        while revoker.invalidate_token(&token(&text)).await.is_err() {}
    })
    .await;
    soon("the push", async {
        while probe.calls() == calls {
            origin(&layer, &text).await;
        }
    })
    .await;
}

#[tokio::test]
async fn unusable_seed_nodes_do_not_fail_requests() {
    let nowhere = "redis://127.0.0.1:1".to_owned();
    let (cache, _, layer) = node_of(builder(vec![nowhere.clone()]));
    for _ in 0..3 {
        assert_eq!(origin(&layer, "ada-1").await, Origin::Validator);
    }
    assert!(cache.stats().redis_circuit_open);
    assert_eq!(cache.health_check().await.redis, RedisHealth::Down);
    let queued = cache.invalidate_user("ada").await.unwrap_err();
    assert_eq!(queued.kind(), RevokeErrorKind::Queued);

    // A server without cluster mode does not describe a cluster.
    let server = Redis::start();
    let url = format!("redis://127.0.0.1:{}", server.port());
    let (cache, _, layer) = node_of(builder(vec![url]));
    assert_eq!(origin(&layer, "ada-1").await, Origin::Validator);
    assert!(cache.stats().redis_circuit_open);

    // Any node that replies describes the whole cluster, even a replica.
    let cluster = Cluster::start();
    let (_, _, layer) = node_of(builder(vec![nowhere, cluster.nodes[4].url()]));
    for text in tokens() {
        assert_eq!(origin(&layer, &text).await, Origin::Validator);
        assert_eq!(origin(&layer, &text).await, Origin::Redis);
    }
}

#[test]
fn invalid_cluster_urls_are_rejected_with_a_hint() {
    let refused = |urls: &[&str]| {
        let error = SessionCache::builder().redis(RedisConfig::cluster(urls));
        error.unwrap_err().to_string()
    };
    assert!(refused(&[]).contains("at least one node"));
    for url in ["", "10.0.0.1", "http://10.0.0.1", "unix:///run/redis.sock"] {
        assert!(
            refused(&["redis://10.0.0.1:6379", url]).contains("redis://host:6379"),
            "{url}"
        );
    }
    assert!(refused(&["redis://10.0.0.1:6379/2"]).contains("only database 0"));
    let users = ["redis://10.0.0.1:6379", "redis://ada:s3cr3t@10.0.0.2:6379"];
    let text = refused(&users);
    assert!(
        text.contains("user, password or TLS") && !text.contains("s3cr3t"),
        "{text}"
    );
    // Otherwise the second node would be discovered through the first and used without TLS.
    assert!(refused(&["redis://10.0.0.1:6379", "rediss://10.0.0.2:6379"]).contains("TLS"));
    let urls = [
        "redis://:s3cr3t@10.0.0.1:6379",
        "redis://:s3cr3t@10.0.0.2:6379/0",
    ];
    let builder = SessionCache::builder().redis(RedisConfig::cluster(urls));
    let builder = builder.unwrap();
    assert!(!format!("{builder:?}").contains("s3cr3t"));
    let mut file = SessionCacheConfig::default();
    file.redis_db = 7;
    assert!(
        builder.config(&file).build().is_ok(),
        "`redis_db` is ignored for a cluster"
    );
}

#[test]
fn settings_incompatible_with_a_cluster_are_rejected() {
    let config = || RedisConfig::cluster(["redis://10.0.0.1:6379"]);
    let refused = |redis: RedisConfig| {
        let error = SessionCache::builder().redis(redis).unwrap_err();
        error.to_string()
    };
    let waiting = config().wait_for_replicas(1, Duration::from_millis(100));
    assert!(refused(waiting).contains("`wait_for_replicas`"));
    assert!(refused(config().tls(RedisTls::new())).contains("rediss://"));
    let named = config().credentials_from("redis://:s3cr3t@_");
    assert!(refused(named).contains("`credentials_from`"));
    assert!(refused(config().database(7)).contains("only database 0"));
}

#[tokio::test]
async fn password_of_the_urls_applies_to_all_nodes() {
    let cluster = Cluster::planned(Plan {
        has_replicas: false,
        ..Plan::default()
    });
    for node in &cluster.nodes {
        let mut config = cmd("CONFIG");
        node.run::<()>(config.arg("SET").arg("requirepass").arg("s3cr3t-pass"));
    }
    let port = cluster.nodes[0].port();
    let first = format!("redis://:s3cr3t-pass@127.0.0.1:{port}");
    let (_, _, layer) = node_of(builder(vec![first]));
    all_cached(&layer).await;
    let without = cluster.nodes[0].url();
    let (cache, _, layer) = node_of(builder(vec![without]));
    assert_eq!(origin(&layer, "ada-1").await, Origin::Validator);
    assert!(cache.stats().redis_circuit_open);
}

/// Replaces the ACL rules of the Redis user that the nodes under test log in as.
fn allow(cluster: &Cluster, rules: &[String]) {
    for node in &cluster.nodes {
        let mut set = cmd("ACL");
        set.arg("SETUSER").arg("sessions").arg("reset").arg(rules);
        node.run::<()>(&set);
        node.run::<()>(cmd("ACL").arg("LOG").arg("RESET"));
    }
}

/// What the nodes of the cluster have denied since then.
fn denied(cluster: &Cluster) -> Vec<Value> {
    let logs = cluster.nodes.iter();
    logs.flat_map(|node| node.run::<Vec<Value>>(cmd("ACL").arg("LOG")))
        .collect()
}

#[tokio::test]
async fn tls_cluster_works_with_documented_acl_rules_each_required() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let own = authority.issue("127.0.0.1");
    let options = options(folder.path(), &authority, &own, false);
    let cluster = Cluster::planned(Plan {
        has_replicas: false,
        tls: Some(&options),
        ..Plan::default()
    });
    let tls_ports: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| {
            let get = node.run::<Vec<String>>(cmd("CONFIG").arg("GET").arg("tls-port"));
            get[1].clone()
        })
        .collect();
    let url = format!("rediss://sessions:PASSWORD@127.0.0.1:{}", tls_ports[0]);
    let encrypted = || {
        let tls = RedisTls::new().root_certificates(authority.pem());
        builder_of(config(vec![url.clone()]).tls(tls))
    };
    let own = rules_of_a_cluster();
    let rules = [rules(), own.clone()].concat();
    allow(&cluster, &rules);

    let (cache, _, layer) = node_of(encrypted());
    all_cached(&layer).await;
    assert_eq!(cache.health_check().await.redis, RedisHealth::Up);
    let (local, _, in_memory) =
        node_of(encrypted().local_cache(LocalCacheConfig::new(100).lease(LONG)));
    assert_eq!(origin(&in_memory, "ada-1").await, Origin::Validator);
    until("a lease", || local.stats().lease_age.is_some()).await;
    until_local(&in_memory, "ada-1").await;
    for (node, port) in cluster.nodes.iter().zip(&tls_ports) {
        let clients: String = node.run(cmd("CLIENT").arg("LIST"));
        let over_tls = format!("laddr=127.0.0.1:{port} ");
        let count = clients.lines().filter(|it| it.contains(&over_tls)).count();
        // All clients except the one that sends `CLIENT LIST`.
        assert_eq!(count, clients.lines().count() - 1, "{clients}");
        // Two connections of each node under test, and the listener.
        assert!(count >= 5, "{clients}");
    }

    // A primary that rejects writes is probed with a key in its own slots.
    let (keys, text) = (1, token_on(&cluster, 1, 2));
    let replicas = |wanted: u8| {
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("min-replicas-to-write").arg(wanted);
        cluster.nodes[keys].run::<()>(&set);
    };
    until_cached(&layer, &text).await;
    replicas(1);
    for _ in 0..3 {
        let revoked = cache.invalidate_token(&token(&text)).await;
        assert_eq!(revoked.unwrap_err().kind(), RevokeErrorKind::Queued);
    }
    replicas(0);
    until_cached(&layer, &text).await;

    // A slot that is being moved requires `ASKING`.
    let text = token_on(&cluster, 2, 1);
    let moved = cluster.begin_move(cluster.slot(&session_key(&text)), 0);
    assert_eq!(origin(&layer, &text).await, Origin::Validator);
    let stats: String = cluster.nodes[0].run(cmd("INFO").arg("commandstats"));
    assert!(stats.contains("cmdstat_asking:"), "{stats}");
    assert_eq!(denied(&cluster), []);

    for rule in own.iter().filter(|rule| rule.starts_with('+')) {
        let less = rules.iter().filter(|other| *other != rule).cloned();
        allow(&cluster, &less.collect::<Vec<_>>());
        let (_, _, layer) = node_of(encrypted());
        assert_eq!(origin(&layer, &text).await, Origin::Validator);
        assert!(!denied(&cluster).is_empty(), "{rule} is not needed");
    }
    cluster.end_move(moved);
}

fn race(name: &'static str, lease: Option<Duration>) -> Settings {
    Settings {
        name,
        nodes: 3,
        with_chaos: true,
        is_cluster: true,
        lease,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_revoked_session_is_served_across_failover_and_slot_moves() {
    run(race("cluster", None), requests()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_hits_of_revoked_sessions_end_within_a_lease() {
    let lease = Duration::from_millis(500);
    run(race("cluster, local", Some(lease)), requests()).await;
}

/// The nodes announce addresses that no client can reach, as those of containers.
#[tokio::test]
async fn unreachable_announced_addresses_are_logged_and_can_be_mapped() {
    let announced: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let cluster = Cluster::planned(Plan {
        has_replicas: false,
        announced: Some(&announced),
        ..Plan::default()
    });
    let urls: Vec<_> = cluster.nodes.iter().map(Redis::url).collect();

    let log = log::record();
    let cache = builder(urls.clone()).build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
    let warnings = || {
        let text = log.text();
        let line = "unreachable at its announced address";
        let lines = text.lines().filter(|it| it.contains(line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    until("a warning for each node", || warnings().len() >= 3).await;
    // The slot map is read every 500 ms; a second warning would have come with the next reading.
    let before = cluster.nodes[0].run::<String>(cmd("INFO").arg("commandstats"));
    until("another reading of the slot map", || {
        cluster.nodes[0].run::<String>(cmd("INFO").arg("commandstats")) != before
    })
    .await;
    let warnings = warnings();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    for port in &announced {
        let address = format!("127.0.0.1:{port}");
        let named = warnings.iter().any(|line| line.contains(&address));
        assert!(named, "{address}: {warnings:#?}");
    }

    let real = cluster.nodes.iter().map(Redis::port);
    let map: HashMap<u16, u16> = announced.iter().copied().zip(real).collect();
    let config = config(urls).address_map(move |host, port| {
        assert_eq!(host, "127.0.0.1");
        Some((host.to_owned(), *map.get(&port)?))
    });
    let local = LocalCacheConfig::new(TOKENS).lease(LONG);
    let cache = builder_of(config).local_cache(local).build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    for n in 0..TOKENS {
        let text = format!("mapped-{n}");
        assert_eq!(ask(&layer, &text).await.unwrap().1, Origin::Validator);
        assert_ne!(ask(&layer, &text).await.unwrap().1, Origin::Validator);
        let _ = cache.revoke_token(&token(&text)).await.unwrap();
    }
    until("a lease", || cache.stats().lease_age.is_some()).await;
    assert_eq!(cache.health_check().await.redis, RedisHealth::Up);
}
