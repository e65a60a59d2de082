//! Nodes that share a Redis validate a session once for all of them. A reservation is only a reason
//! to wait: one that is lost, stolen or left behind costs a bounded wait, and nothing else.

use std::time::{Duration, Instant};

use bb8_redis::redis::cmd;
use futures_util::future::join_all;
use serde_json::Value;
use tower_session_cache::{
    Authority, LocalCacheConfig, Namespace, Origin, RedisConfig, SecretKey, SessionCache,
    SessionCacheBuilder, SessionCacheLayer, SessionToken, SessionValidator, Stats, UserData,
    ValidatedSession, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{ask, token},
    cluster::Cluster,
    peer::session_key,
    probe::{Probe, session},
    redis::Redis,
    soon, until,
};

type Node = (SessionCache, SessionCacheLayer<Probe>);

const NODES: usize = 8;

fn patient(url: String) -> SessionCacheBuilder {
    let redis = RedisConfig::single(url).timeout(Duration::from_secs(20));
    SessionCache::builder()
        .redis(redis)
        .unwrap()
        // A node waits for half of it at most.
        .validation_timeout(Duration::from_secs(120))
}

fn node(builder: SessionCacheBuilder, probe: &Probe) -> Node {
    let cache = builder.build().unwrap();
    (cache.clone(), SessionCacheLayer::new(cache, probe.clone()))
}

fn fleet(redis: &Redis, probe: &Probe) -> Vec<Node> {
    let nodes = (0..NODES).map(|_| node(patient(redis.url()), probe));
    nodes.collect()
}

/// Returns the only key of this kind.
fn key(redis: &Redis, kind: &str) -> Option<String> {
    let mut keys = redis.keys();
    keys.retain(|key| key.starts_with(kind));
    assert!(keys.len() < 2, "{keys:?}");
    keys.pop()
}

fn reservation(redis: &Redis) -> Option<String> {
    key(redis, "session_reservation:")
}

fn rejection(redis: &Redis) -> Option<String> {
    key(redis, "session_rejection:")
}

/// Returns for how many milliseconds the rejection is used, as its text says.
fn wait(redis: &Redis) -> u64 {
    let text = redis.get(&rejection(redis).unwrap()).unwrap();
    let micros: u64 = text.split(':').nth(3).unwrap().parse().unwrap();
    micros / 1_000
}

/// Makes a node hold the reservation of a token, and lets it validate until the probe is released.
async fn hold(redis: &Redis, probe: &Probe, text: &'static str) -> tokio::task::JoinHandle<()> {
    probe.hold();
    let (_, layer) = node(patient(redis.url()), probe);
    let before = probe.calls();
    let task = tokio::spawn(async move {
        let _ = ask(&layer, text).await;
    });
    probe.wait_for_calls(before + 1).await;
    task
}

/// The eight nodes ask at the same time for a session that none of them knows.
#[tokio::test]
async fn cold_session_is_validated_once_by_all_nodes() {
    let local = || LocalCacheConfig::new(10);
    for tier in [None, Some(local()), Some(local().revocations_only())] {
        let (redis, probe) = (Redis::start(), Probe::new());
        let nodes = (0..NODES).map(|_| {
            let builder = patient(redis.url());
            match tier {
                Some(local) => builder.local_cache(local).build().unwrap(),
                None => builder.build().unwrap(),
            }
        });
        let caches: Vec<_> = nodes.collect();
        // Every node is connected, and the local cache has a lease.
        for (n, cache) in caches.iter().enumerate() {
            let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
            ask(&layer, &format!("warm-{n}")).await.unwrap();
            let has_lease = || tier.is_none() || cache.stats().lease_age.is_some();
            until("the lease", has_lease).await;
        }
        let sum =
            |of: fn(&Stats) -> u64| caches.iter().map(|cache| of(&cache.stats())).sum::<u64>();
        // A machine that stops for a second ends a reservation.
        for round in 0.. {
            let (before, misses) = (probe.calls(), sum(|stats| stats.misses));
            let [shared, lapsed] = [
                sum(|it| it.shared_validations),
                sum(|it| it.lapsed_reservations),
            ];
            // A layer that has validated nothing reserves for one second.
            let layers = caches.iter();
            let layers = layers.map(|cache| SessionCacheLayer::new(cache.clone(), probe.clone()));
            let layers: Vec<_> = layers.collect();
            let cold = format!("cold-{round}");
            probe.hold();
            let asks = join_all(layers.iter().map(|layer| ask(layer, &cold)));
            let release = async {
                probe.wait_for_calls(before + 1).await;
                until("the other nodes to wait", || {
                    sum(|stats| stats.misses) == misses + NODES as u64
                })
                .await;
                probe.let_go();
            };
            let (answers, ()) = tokio::join!(asks, release);
            assert!(answers.iter().all(Result::is_ok));
            if sum(|it| it.lapsed_reservations) == lapsed {
                let waited = sum(|it| it.shared_validations) - shared;
                assert_eq!((probe.calls() - before, waited), (1, 7), "{tier:?}");
                break;
            }
        }
        assert_eq!(reservation(&redis), None, "the fill ends it");
    }
}

#[tokio::test]
async fn cold_session_is_validated_once_on_a_cluster() {
    let (cluster, probe) = (Cluster::start(), Probe::new());
    let caches = [(); 3].map(|()| {
        let redis = RedisConfig::cluster(cluster.urls()).timeout(Duration::from_secs(20));
        let builder = SessionCache::builder().redis(redis).unwrap();
        let builder = builder.validation_timeout(Duration::from_secs(120));
        builder.build().unwrap()
    });
    for (n, cache) in caches.iter().enumerate() {
        let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
        ask(&layer, &format!("warm-{n}")).await.unwrap();
    }
    for n in 0..10 {
        let before = probe.calls();
        let cold = format!("cold-{n}");
        let layers = caches.iter();
        let layers = layers.map(|cache| SessionCacheLayer::new(cache.clone(), probe.clone()));
        let layers: Vec<_> = layers.collect();
        let answers = join_all(layers.iter().map(|layer| ask(layer, &cold))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(probe.calls() - before, 1, "{cold}");
    }
}

#[tokio::test]
async fn cold_session_on_one_node_is_two_commands_as_without_reservations() {
    for share in [true, false] {
        let (redis, probe) = (Redis::start(), Probe::new());
        let (_, layer) = node(patient(redis.url()).share_validations(share), &probe);
        ask(&layer, "warm").await.unwrap();
        let before = commands(&redis, "evalsha");
        ask(&layer, "cold").await.unwrap();
        assert_eq!(commands(&redis, "evalsha") - before, 2);
        assert_eq!(reservation(&redis), None);
    }
}

/// The node that has reserved the validation does not finish it. The next one waits until the
/// reservation ends, and all others for that one.
#[tokio::test]
async fn reservation_of_a_stuck_node_costs_a_bounded_wait() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let nodes = fleet(&redis, &probe);
    let stuck = hold(&redis, &probe, "t").await;
    let left: u64 = redis.run(cmd("PTTL").arg(reservation(&redis).unwrap()));
    assert!(left <= 1_000, "{left}");
    let asks = join_all(nodes.iter().map(|(_, layer)| ask(layer, "t")));
    let release = async {
        probe.wait_for_calls(2).await;
        assert!(!stuck.is_finished());
        probe.let_go();
    };
    let (answers, ()) = tokio::join!(asks, release);
    assert!(answers.iter().all(Result::is_ok));
    // The second call is released at once. On a machine that stops for a second, another node follows.
    assert!(probe.calls() <= 4, "{}", probe.calls());
}

/// A value that no node has written, or one that never ends, is no reservation.
#[tokio::test]
async fn reservation_that_lasts_too_long_is_taken() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let (cache, layer) = node(patient(redis.url()), &probe);
    let holder = hold(&redis, &probe, "t").await;
    let key = reservation(&redis).unwrap();
    probe.let_go();
    holder.await.unwrap();
    let _ = cache.invalidate_token(&token("t")).await.unwrap();
    for expiry in [None, Some(60_000)] {
        redis.set(&key, "another node");
        if let Some(millis) = expiry {
            redis.run::<()>(cmd("PEXPIRE").arg(&key).arg(millis));
        }
        let calls = probe.calls();
        ask(&layer, "t").await.unwrap();
        assert_eq!(
            (probe.calls() - calls, cache.stats().lapsed_reservations),
            (1, 0)
        );
        let _ = cache.invalidate_token(&token("t")).await.unwrap();
    }
    // A value of another type is no reservation, and is not replaced.
    redis.run::<()>(cmd("DEL").arg(&key));
    redis.run::<()>(cmd("LPUSH").arg(&key).arg("x"));
    ask(&layer, "t").await.unwrap();
    assert_eq!(cache.stats().lapsed_reservations, 0);
}

/// A failed validation gives its reservation back, so no other node waits for it.
#[tokio::test]
async fn failed_validation_ends_its_reservation() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let nodes = fleet(&redis, &probe);
    probe.answer(|_| Err(ValidationError::unavailable("down")));
    for (n, (cache, layer)) in nodes.iter().enumerate() {
        assert_eq!(ask(layer, "t").await.unwrap_err(), 503);
        assert_eq!(probe.calls(), n + 1);
        assert_eq!(cache.stats().lapsed_reservations, 0);
        assert_eq!(reservation(&redis), None);
    }
}

/// A session is revoked while another node validates it. The nodes that wait decide by the rules of
/// every lookup, so the record of that validation is not served.
#[tokio::test]
async fn waiting_node_serves_nothing_that_was_revoked() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let (cache, layer) = node(patient(redis.url()), &probe);
    let holder = hold(&redis, &probe, "t").await;
    let waiting = tokio::spawn(async move { ask(&layer, "t").await });
    until("the other node to wait", || cache.stats().misses == 1).await;
    let (other, _) = node(patient(redis.url()), &probe);
    let _ = other.revoke_token(&token("t")).await.unwrap();
    probe.let_go();
    assert_eq!(waiting.await.unwrap().unwrap_err(), 401);
    holder.await.unwrap();
}

/// Rewrites the record as if its validation had begun earlier.
fn age(redis: &Redis, text: &str, by: Duration) {
    let key = session_key(text);
    let mut record: Value = serde_json::from_str(&redis.get(&key).unwrap()).unwrap();
    let fence = record["session_cache"]["fence"].as_str().unwrap();
    let fence = fence.parse::<f64>().unwrap() - by.as_secs_f64();
    record["session_cache"]["fence"] = format!("{fence:.6}").into();
    redis.set(&key, record.to_string());
}

/// A node whose entry is due takes over the record that another node has stored since, with the times
/// of its own validation: it is due again when that record is, and not later.
#[tokio::test]
async fn refresh_takes_over_a_newer_record() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let clock = ManualClock::new();
    let local = LocalCacheConfig::new(10).lease(Duration::from_secs(20));
    let builder = patient(redis.url()).local_cache(local.revocations_only());
    let (cache, layer) = node(builder.clock(clock.clone()), &probe);
    let (_, other) = node(patient(redis.url()), &probe);
    let until_local = async || {
        soon("a local hit", async {
            while ask(&layer, "t").await.unwrap().1 != Origin::Local {
                crate::support::pass().await;
            }
        })
        .await;
    };
    ask(&other, "t").await.unwrap();
    // With a TTL of 300 seconds, an entry is due after 216 to 240 seconds.
    age(&redis, "t", Duration::from_secs(200));
    until_local().await;
    redis.run::<()>(cmd("DEL").arg(session_key("t")));
    ask(&other, "t").await.unwrap();
    age(&redis, "t", Duration::from_secs(100));
    let calls = probe.calls();
    assert_eq!(calls, 2);

    let until_lease = async || {
        // The node must not read Redis for want of a lease.
        until("the lease", || cache.stats().lease_age.is_some()).await;
    };
    clock.advance(Duration::from_secs(41));
    until_lease().await;
    let lookups = commands(&redis, "evalsha");
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    until("the lookup of the refresh", || {
        commands(&redis, "evalsha") > lookups
    })
    .await;
    until("its end", || cache.stats().validations_in_flight == 0).await;
    assert_eq!((probe.calls(), cache.stats().refreshes), (calls, 0));

    // The record's validation began 100 seconds before it was taken over.
    clock.advance(Duration::from_secs(150));
    until_lease().await;
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Local);
    probe.wait_for_calls(calls + 1).await;
}

/// Returns how many commands of this name Redis has received.
fn commands(redis: &Redis, name: &str) -> u64 {
    let stats: String = redis.run(cmd("INFO").arg("commandstats"));
    let start = format!("cmdstat_{name}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&*start));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// A refresh that finds a reservation does nothing, and its session is served meanwhile.
#[tokio::test]
async fn refresh_leaves_a_session_to_the_node_that_reserved_it() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let clock = ManualClock::new();
    let builder = patient(redis.url()).clock(clock.clone());
    let (cache, layer) = node(builder, &probe);
    ask(&layer, "t").await.unwrap();
    let record = redis.get(&session_key("t")).unwrap();
    redis.run::<()>(cmd("DEL").arg(session_key("t")));
    let holder = hold(&redis, &probe, "t").await;
    redis.set(&session_key("t"), record);
    let calls = probe.calls();
    clock.advance(Duration::from_secs(245));
    assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Redis);
    until("the refresh to end", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
    assert_eq!((probe.calls(), cache.stats().refreshes), (calls, 0));
    probe.let_go();
    holder.await.unwrap();
}

/// One bad token that is sent to every node costs one call. The first rejection lives one second, and
/// each further one twice as long.
#[tokio::test]
async fn rejection_is_shared_and_lives_longer_each_time() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let nodes = fleet(&redis, &probe);
    probe.answer(|_| Err(ValidationError::invalid()));
    for (_, layer) in &nodes {
        assert_eq!(ask(layer, "bad").await.unwrap_err(), 401);
    }
    assert_eq!(probe.calls(), 1);
    assert_eq!(wait(&redis), 1_000);
    assert_eq!(reservation(&redis), None);
    for (calls, expected) in [(2, 2_000), (3, 4_000), (4, 5_000), (5, 5_000)] {
        end_rejection(&redis);
        let node = &nodes[calls % NODES].1;
        assert_eq!(ask(node, "bad").await.unwrap_err(), 401);
        assert_eq!((probe.calls(), wait(&redis)), (calls, expected));
    }
}

/// Rewrites the rejection as if it were no longer used.
fn end_rejection(redis: &Redis) {
    let key = rejection(redis).unwrap();
    let text = redis.get(&key).unwrap();
    let mut parts: Vec<_> = text.split(':').map(str::to_owned).collect();
    let now = redis.time();
    parts[1] = format!("{:.6}", now - 1.0);
    parts[2] = format!("{:.6}", now - 0.1);
    redis.set(&key, parts.join(":"));
}

/// A provider's worker has not seen a login yet. Its rejection ends after a second, and does not hide
/// the session once any node has seen it.
#[tokio::test]
async fn success_ends_a_rejection_on_all_nodes() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let nodes = fleet(&redis, &probe);
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&nodes[0].1, "t").await.unwrap_err(), 401);
    assert_eq!(ask(&nodes[1].1, "t").await.unwrap_err(), 401);
    probe.answer(|_| Ok(session("ada")));
    let first_yes = Instant::now();
    soon("the rejection to end", async {
        while ask(&nodes[1].1, "t").await.is_err() {
            crate::support::pass().await;
        }
    })
    .await;
    // Redis is asked for as long as it says, so this depends on its clock and not on the machine.
    assert!(first_yes.elapsed() > Duration::from_millis(100));
    assert_eq!(rejection(&redis), None);
    // Also the node that was refused itself, and whose rejection may be longer.
    for (_, layer) in &nodes {
        ask(layer, "t").await.unwrap();
    }
}

/// A rejection by another node evicts what this node could still serve while the provider is down.
#[tokio::test]
async fn shared_rejection_ends_what_a_node_could_serve_stale() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let clock = ManualClock::new();
    let local = LocalCacheConfig::new(10).lease(Duration::from_secs(20));
    let builder = patient(redis.url())
        .ttl(Duration::from_secs(60))
        .local_cache(local)
        .stale_if_error(Duration::from_secs(600))
        .clock(clock.clone());
    let (cache, layer) = node(builder, &probe);
    soon("a local hit", async {
        while ask(&layer, "t").await.unwrap().1 != Origin::Local {
            crate::support::pass().await;
        }
    })
    .await;
    redis.run::<()>(cmd("DEL").arg(session_key("t")));
    until("the push", || cache.stats().invalidations > 0).await;
    clock.advance(Duration::from_secs(61));
    let (_, other) = node(patient(redis.url()), &probe);
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&other, "t").await.unwrap_err(), 401);
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    assert_eq!(probe.calls(), 2);
    probe.answer(|_| Err(ValidationError::unavailable("down").for_all_tokens()));
    end_rejection(&redis);
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 503, "nothing stale");
}

#[tokio::test]
async fn rejection_is_not_used_after_a_revocation() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let [(_, a), (b_cache, b)] = [(); 2].map(|()| node(patient(redis.url()), &probe));
    let refuse = || probe.answer(|_| Err(ValidationError::invalid()));
    let accept = || probe.answer(|_| Ok(session("ada")));
    refuse();
    assert_eq!(ask(&a, "t").await.unwrap_err(), 401);
    accept();
    assert_eq!(ask(&b, "t").await.unwrap_err(), 401);
    let _ = b_cache.invalidate_user("ada").await.unwrap();
    ask(&b, "t").await.unwrap();

    refuse();
    assert_eq!(ask(&a, "u").await.unwrap_err(), 401);
    accept();
    // The handle of an application has no validator, and so another namespace than the layer.
    let (other, _) = node(patient(redis.url()), &probe);
    let _ = other.invalidate_token(&token("u")).await.unwrap();
    ask(&b, "u").await.unwrap();
}

/// A token that a node has a record of is in use. If its provider rejects it, the record is deleted,
/// and other nodes ask for themselves.
#[tokio::test]
async fn rejection_of_a_session_in_use_is_not_shared() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let [(cache, a), (_, b)] = [(); 2].map(|()| node(patient(redis.url()), &probe));
    ask(&a, "t").await.unwrap();
    let (other, _) = node(patient(redis.url()), &probe);
    let _ = other.invalidate_user("ada").await.unwrap();
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&a, "t").await.unwrap_err(), 401);
    assert_eq!((rejection(&redis), reservation(&redis)), (None, None));
    probe.answer(|_| Ok(session("ada")));
    ask(&b, "t").await.unwrap();
    drop(cache);
}

#[tokio::test]
async fn rejection_by_an_own_rule_is_not_shared() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let [(_, a), (_, b)] = [(); 2].map(|()| node(patient(redis.url()), &probe));
    probe.answer(|_| Err(ValidationError::invalid().by_own_rule()));
    assert_eq!(ask(&a, "t").await.unwrap_err(), 401);
    assert_eq!((rejection(&redis), reservation(&redis)), (None, None));
    // It is remembered by its node, which reserves nothing for a token that it does not validate.
    assert_eq!(ask(&a, "t").await.unwrap_err(), 401);
    assert_eq!(reservation(&redis), None);
    probe.answer(|_| Ok(session("ada")));
    ask(&b, "t").await.unwrap();
}

#[tokio::test]
async fn namespaces_share_neither_reservations_nor_rejections() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let (cache, layer) = node(patient(redis.url()), &probe);
    let other = SessionCacheLayer::new(cache.clone(), Elsewhere(probe.clone()));
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
    probe.answer(|_| Ok(session("ada")));
    ask(&other, "t").await.unwrap();
    assert_eq!(ask(&layer, "t").await.unwrap_err(), 401);
}

/// A validator of another project, whose records have the same key.
#[derive(Clone)]
struct Elsewhere(Probe);

impl SessionValidator for Elsewhere {
    fn namespace(&self) -> Namespace {
        Namespace::appwrite(self.authority())
    }

    fn authority(&self) -> Authority {
        Authority::appwrite("https://appwrite.example.com/v1", "another")
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        self.0.validate(token).await
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

/// A client that can write to Redis has no sealing key, so it can reject no session.
#[tokio::test]
async fn forged_rejection_is_ignored_where_records_are_sealed() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let sealed = || {
        let key = SecretKey::from_bytes([7; 32]).unwrap();
        node(patient(redis.url()).sealing_key(key), &probe)
    };
    let [(_, a), (_, b), (_, c)] = [(); 3].map(|()| sealed());
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&a, "t").await.unwrap_err(), 401);
    assert_eq!(ask(&b, "t").await.unwrap_err(), 401);
    assert_eq!(probe.calls(), 1, "a genuine one is shared");
    let key = rejection(&redis).unwrap();
    let genuine = redis.get(&key).unwrap();
    let until = format!("{:.6}", redis.time() + 0.9);
    let forged: Vec<_> = genuine.split(':').collect();
    let forged = format!("{}:{}:{until}:1000000:invalid", forged[0], forged[1]);
    probe.answer(|_| Ok(session("ada")));
    let proof = genuine.rsplit(':').next().unwrap();
    for text in [forged.clone(), format!("{forged}:{proof}")] {
        redis.set(&key, text);
        ask(&c, "t").await.unwrap();
        redis.run::<()>(&cmd("FLUSHALL"));
    }
    // The rejection of another token.
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&a, "u").await.unwrap_err(), 401);
    let moved = redis.get(&rejection(&redis).unwrap()).unwrap();
    redis.run::<()>(&cmd("FLUSHALL"));
    redis.set(&key, moved);
    probe.answer(|_| Ok(session("ada")));
    ask(&c, "t").await.unwrap();
}

/// Until the permissions of its user are extended, a node stores sessions as before.
#[tokio::test]
async fn user_without_permission_for_reservations_loses_only_them() {
    let redis = Redis::start_with(&[
        "--user",
        "old",
        "on",
        ">old",
        "+@all",
        "~session_cache:*",
        "~session_space:*",
        "~session_tomb:*",
        "~user_invalidated:*",
        "~session_ended:*",
        "~session_users:*",
        "~session_ban:*",
        "~session_probe",
        "~session_listener:*",
    ]);
    let probe = Probe::new();
    let url = redis.url().replace("redis://", "redis://old:old@");
    let [(a_cache, a), (_, b)] = [(); 2].map(|()| node(patient(url.clone()), &probe));
    ask(&a, "t").await.unwrap();
    assert_eq!(ask(&b, "t").await.unwrap().1, Origin::Redis);
    let _ = a_cache.revoke_token(&token("t")).await.unwrap();
    assert_eq!(ask(&b, "t").await.unwrap_err(), 401);
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(ask(&a, "bad").await.unwrap_err(), 401);
    assert_eq!(ask(&b, "bad").await.unwrap_err(), 401);
    assert_eq!((reservation(&redis), rejection(&redis)), (None, None));
    assert_eq!(a_cache.stats().redis_errors, 0);
}

#[tokio::test]
async fn nothing_is_shared_if_it_is_switched_off() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let nodes = [(); 2].map(|()| node(patient(redis.url()).share_validations(false), &probe));
    let holder = hold(&redis, &probe, "t").await;
    assert!(reservation(&redis).is_some(), "of a node that shares");
    let calls = probe.calls();
    let asks = join_all(nodes.iter().map(|(_, layer)| ask(layer, "t")));
    let release = async {
        probe.wait_for_calls(calls + 2).await;
        probe.let_go();
    };
    tokio::join!(asks, release);
    holder.await.unwrap();
    probe.answer(|_| Err(ValidationError::invalid()));
    for (n, (_, layer)) in nodes.iter().enumerate() {
        assert_eq!(ask(layer, "bad").await.unwrap_err(), 401);
        assert_eq!(probe.calls(), calls + 3 + n);
    }
    assert_eq!(rejection(&redis), None);
}

/// During a deployment a node of a later version may have stored the record.
#[tokio::test]
async fn record_of_a_later_version_is_not_replaced() {
    let (redis, probe) = (Redis::start(), Probe::new());
    let (_, layer) = node(patient(redis.url()), &probe);
    ask(&layer, "t").await.unwrap();
    let key = session_key("t");
    let ours = redis.get(&key).unwrap();
    let later = ours.replacen("\"version\":3", "\"version\":4", 1);
    assert_ne!(ours, later);
    for later in [later, "sealed2:of another form".to_owned()] {
        redis.set(&key, &later);
        let calls = probe.calls();
        assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
        assert_eq!(probe.calls(), calls + 1, "it is a miss");
        assert_eq!(redis.get(&key).unwrap(), later);
        assert_eq!(reservation(&redis), None);
    }
}
