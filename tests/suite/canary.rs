//! The canary with a real Redis: what it costs, what it measures, and that it reports every fault
//! that is injected.

use std::time::Duration;

use bb8_redis::redis::cmd;
use chrono::Utc;
use futures_util::future::join_all;
use tower_session_cache::{
    CanaryStats, LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheLayer,
    testing::ManualClock,
};

use crate::support::{
    client::{ask, token},
    cluster::Cluster,
    log::record as record_log,
    probe::Probe,
    proxy::{Fault as ProxyFault, Proxy},
    redis::Redis,
    until,
};

/// Also the interval of the canary.
const LEASE: Duration = Duration::from_secs(1);
/// The clock of a fleet moves by this at a time.
const STEP: Duration = Duration::from_millis(125);
const STEPS_PER_LEASE: u32 = 8;

struct Node {
    cache: SessionCache,
    proxy: Proxy,
    clock: ManualClock,
}

impl Node {
    async fn start(redis: &Redis, prefix: &str, clock: ManualClock, has_canary: bool) -> Self {
        let proxy = Proxy::start(redis.port()).await;
        let config = RedisConfig::single(proxy.url())
            .timeout(Duration::from_secs(20))
            .key_prefix(prefix);
        let builder = SessionCache::builder()
            .redis(config)
            .unwrap()
            .clock(clock.clone())
            .local_cache(LocalCacheConfig::new(100).lease(LEASE));
        let builder = match has_canary {
            true => builder.canary(LEASE),
            false => builder,
        };
        let cache = builder.build().unwrap();
        // The first lookup starts the listener.
        let _ = cache.get(&token("t")).await;
        Self {
            cache,
            proxy,
            clock,
        }
    }

    fn found(&self) -> CanaryStats {
        self.cache.stats().canary
    }
}

/// Nodes whose clocks move only in steps, so that the speed of the machine does not matter. They are
/// slower than that of Redis, so that what a node measures with both is not used.
struct Fleet {
    prefix: String,
    nodes: Vec<Node>,
}

impl Fleet {
    async fn start(redis: &Redis, name: usize, size: usize) -> Self {
        let prefix = format!("fleet-{name}:");
        let start = |_| Node::start(redis, &prefix, ManualClock::new(), true);
        let nodes = join_all((0..size).map(start)).await;
        let fleet = Self { prefix, nodes };
        while !fleet.nodes.iter().all(|node| node.found().rounds > 1) {
            fleet.step().await;
        }
        fleet
    }

    /// Moves the clocks. All nodes have ticked by the time that the first node, which no test
    /// disturbs, has sent two heartbeats.
    async fn step(&self) {
        let healthy = &self.nodes[0].proxy;
        let before = healthy.pongs();
        for node in &self.nodes {
            node.clock.advance(STEP);
        }
        until("two heartbeats", || healthy.pongs() >= before + 2).await;
    }

    async fn steps(&self, count: u32) {
        for _ in 0..count {
            self.step().await;
        }
    }

    /// Moves the clocks until a fault is reported, by at most two leases.
    async fn until_reported(&self, what: &str, count: impl Fn(CanaryStats) -> u64, node: usize) {
        for _ in 0..2 * STEPS_PER_LEASE {
            if count(self.nodes[node].found()) > 0 {
                return;
            }
            self.step().await;
        }
        let found = self.nodes[node].found();
        assert!(count(found) > 0, "{what}: not within two leases, {found:?}");
    }

    /// Returns the keys of the rounds that Redis has, the latest last.
    fn rounds(&self, redis: &Redis) -> Vec<String> {
        let rounds = format!("{}session_tomb:", self.prefix);
        let mut keys = redis.keys();
        keys.retain(|key| key.starts_with(&rounds));
        keys.sort_by_key(|key| key[key.len() - 17..].to_owned());
        keys
    }
}

fn cases() -> usize {
    match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 100,
        None => 10,
    }
}

/// Injects one fault into each of several fleets, in different phases of a round.
async fn inject(what: &str, fault: impl AsyncFn(&Redis, &mut Fleet, usize)) {
    let redis = Redis::start();
    for batch in (0..cases()).collect::<Vec<_>>().chunks(10) {
        let cases = batch.iter().map(|&case| {
            let (redis, fault) = (&redis, &fault);
            async move {
                let mut fleet = Fleet::start(redis, case, 2).await;
                let phase = u32::try_from(case).unwrap() % STEPS_PER_LEASE;
                fleet.steps(phase).await;
                fault(redis, &mut fleet, case).await;
            }
        });
        join_all(cases).await;
    }
    println!("{what}: {} of {} reported", cases(), cases());
}

#[tokio::test]
async fn node_without_pushes_is_reported_within_two_leases() {
    let log = record_log();
    inject("pushes filtered", async |_, fleet, _| {
        fleet.nodes[1].proxy.withhold_pushes(true);
        fleet
            .until_reported("pushes filtered", |found| found.not_received, 1)
            .await;
    })
    .await;
    let parts = [
        "WARN",
        "tower_session_cache::revocation",
        "canary found a fault of revocations",
        "fault=\"not_received\"",
        "is_served=true",
    ];
    let text = log.text();
    let mut lines = text.lines();
    assert!(lines.any(|line| parts.iter().all(|part| line.contains(part))));
}

#[tokio::test]
async fn frozen_listener_is_reported_within_two_leases() {
    inject("listener frozen", async |_, fleet, _| {
        fleet.nodes[1].proxy.fault(ProxyFault::SwallowPushes);
        fleet
            .until_reported("listener frozen", |found| found.not_received, 1)
            .await;
        // Without heartbeats nothing is served from memory after the lease.
        let latency = fleet.nodes[1].found().latency.unwrap();
        assert!(latency <= LEASE + STEP, "{latency:?}");
    })
    .await;
}

#[tokio::test]
async fn node_without_canary_is_reported_within_two_leases() {
    inject("older node", async |redis, fleet, _| {
        let older = Node::start(redis, &fleet.prefix, ManualClock::new(), false).await;
        fleet.nodes.push(older);
        for node in 0..2 {
            fleet
                .until_reported("older node", |found| found.nodes_without_canary, node)
                .await;
        }
        assert_eq!(fleet.nodes[2].found(), CanaryStats::default());
    })
    .await;
}

/// A node whose clock the test sets, but which otherwise runs like the clock of Redis.
async fn wrong_clock(redis: &Redis, case: usize) {
    let quarter = Duration::from_secs(15 * 60);
    let clock = ManualClock::new();
    let is_wrong_from_the_start = case.is_multiple_of(2);
    if is_wrong_from_the_start {
        clock.advance(quarter);
    }
    let node = Node::start(redis, &format!("node-{case}:"), clock.clone(), true).await;
    if !is_wrong_from_the_start {
        until("a lease", || {
            let behind = (Utc::now() - clock.now()).to_std();
            clock.advance(behind.unwrap_or_default());
            node.cache.stats().lease_age.is_some()
        })
        .await;
        assert_eq!(node.found().clock_skew, 0);
        clock.advance(quarter);
    }
    let before = node.proxy.pongs();
    until("the report of a wrong clock", || {
        node.found().clock_skew > 0
    })
    .await;
    // Eight heartbeats are sent per lease.
    let heartbeats = node.proxy.pongs() - before;
    assert!(heartbeats <= 16, "{heartbeats}");
}

#[tokio::test]
async fn wrong_clock_is_reported_within_two_leases() {
    let redis = Redis::start();
    for batch in (0..cases()).collect::<Vec<_>>().chunks(10) {
        join_all(batch.iter().map(|case| wrong_clock(&redis, *case))).await;
    }
    println!(
        "clock off by 15 minutes: {} of {} reported",
        cases(),
        cases()
    );
}

#[tokio::test]
async fn deleted_round_is_reported_within_two_leases() {
    inject("mark deleted", async |redis, fleet, _| {
        let round = fleet.rounds(redis).pop().unwrap();
        assert_eq!(redis.run::<u64>(cmd("DEL").arg(round)), 1);
        for node in 0..2 {
            fleet
                .until_reported("mark deleted", |found| found.deleted, node)
                .await;
        }
    })
    .await;
}

/// Returns how often the clients have sent each command, without heartbeats, which are sent with and
/// without a canary, and without the commands of this test.
fn commands(redis: &Redis) -> Vec<(String, u32)> {
    const OTHERS: [&str; 4] = ["ping", "info", "config|resetstat", "select"];
    let stats: String = redis.run(cmd("INFO").arg("commandstats"));
    let commands = stats.lines().filter_map(|line| {
        let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = stats.split(',').next()?.parse().ok()?;
        (!OTHERS.contains(&name)).then(|| (name.to_owned(), calls))
    });
    commands.collect()
}

#[tokio::test]
async fn whole_fleet_sends_one_command_per_interval() {
    const INTERVALS: u32 = 6;
    let redis = Redis::start();
    let fleet = Fleet::start(&redis, 0, 6).await;
    let layer = SessionCacheLayer::new(fleet.nodes[0].cache.clone(), Probe::new());
    // The session is stored, and then found in memory.
    while ask(&layer, "t").await.unwrap().1 != Origin::Local {
        fleet.step().await;
    }
    redis.run::<()>(cmd("CONFIG").arg("RESETSTAT"));
    let before = fleet.nodes[0].found().rounds;
    for _ in 0..INTERVALS * STEPS_PER_LEASE {
        fleet.step().await;
        let origin = ask(&layer, "t").await.unwrap().1;
        assert_eq!(origin, Origin::Local);
    }
    let commands = commands(&redis);
    let [(name, rounds)] = &commands[..] else {
        panic!("{commands:?}");
    };
    assert_eq!(name, "set");
    assert!((INTERVALS - 1..=INTERVALS).contains(rounds), "{rounds}");
    for node in &fleet.nodes {
        let found = node.found();
        assert!(found.rounds >= before + u64::from(rounds - 1), "{found:?}");
        assert!(found.latency.is_some(), "{found:?}");
        let faults = [
            found.not_received,
            found.deleted,
            found.nodes_without_canary,
        ];
        assert_eq!(faults, [0; 3]);
    }
}

#[tokio::test]
async fn canary_works_on_a_cluster() {
    let cluster = Cluster::start();
    let nodes: Vec<_> = (0..2)
        .map(|_| {
            let config = RedisConfig::cluster(cluster.urls())
                .timeout(Duration::from_secs(20))
                .connect_timeout(Duration::from_secs(20));
            let builder = SessionCache::builder().redis(config).unwrap();
            let builder = builder
                .local_cache(LocalCacheConfig::new(100))
                .canary(LEASE);
            builder.build().unwrap()
        })
        .collect();
    for node in &nodes {
        let _ = node.get(&token("t")).await;
    }
    until("rounds", || {
        let mut found = nodes.iter().map(|node| node.stats().canary);
        found.all(|found| found.rounds > 3 && found.latency.is_some())
    })
    .await;
    for node in &nodes {
        assert_eq!(node.stats().canary.nodes_without_canary, 0);
    }
}
