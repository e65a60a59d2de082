//! What Redis does for one request, and how long one node takes for a cold token.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bb8_redis::redis::cmd;
use futures_util::future::join_all;
use http::StatusCode;
use tokio::time::{sleep, timeout};
use tower::{Layer, Service};
use tower_session_cache::{
    ErasedValidator, SessionCache, SessionCacheLayer, SessionToken, ValidatedSession,
    ValidationError, validator_fn,
};

use crate::{
    Setup,
    node::{Mode, TTL},
    redis::Redis,
    support::{
        rounds::{Spread, micros},
        service::{Inner, bearer, request, user},
    },
};

/// Percentage of the TTL after which a session is refreshed.
const REFRESH_AHEAD: u8 = 20;
/// Commands that do not belong to a request: heartbeats, and those of this program.
const OTHERS: [&str; 5] = ["ping", "info", "config|resetstat", "select", "hello"];

struct Node {
    cache: SessionCache,
    layer: SessionCacheLayer<ErasedValidator>,
}

impl Node {
    fn new(redis: &Redis, mode: Mode, refresh_ahead: u8, provider: Duration) -> Self {
        let validator = validator_fn("bench", move |_: SessionToken| async move {
            // Even a sleep of zero lasts up to a millisecond.
            if !provider.is_zero() {
                sleep(provider).await;
            }
            Ok::<_, ValidationError>(ValidatedSession::new(user(0)))
        });
        let cache = mode.cache(&redis.url(), Some(refresh_ahead));
        Self {
            layer: SessionCacheLayer::new(cache.clone(), ErasedValidator::new(validator)),
            cache,
        }
    }

    async fn ask(&self, token: usize) -> f64 {
        let began = Instant::now();
        let response = self.layer.layer(Inner).call(request(&bearer(token))).await;
        assert_eq!(response.unwrap().status(), StatusCode::OK);
        micros(began.elapsed())
    }

    async fn is_ready(&self, mode: Mode) {
        self.until(|stats| mode == Mode::Redis || stats.lease_age.is_some())
            .await;
    }

    async fn until(&self, reached: impl Fn(tower_session_cache::Stats) -> bool) {
        let reached = async {
            while !reached(self.cache.stats()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), reached).await.unwrap();
    }
}

/// What Redis has done since a time.
struct Work {
    cpu: f64,
    since: Instant,
    /// CPU per second without requests.
    idle: f64,
}

impl Work {
    fn begin(redis: &Redis, idle: f64) -> Self {
        let _: String = redis.run(cmd("CONFIG").arg("RESETSTAT"));
        Self {
            cpu: cpu(redis),
            since: Instant::now(),
            idle,
        }
    }

    /// Returns the CPU per request in microseconds, and the commands.
    fn end(&self, redis: &Redis, requests: usize) -> (f64, BTreeMap<String, f64>) {
        let took = self.since.elapsed().as_secs_f64();
        let cpu = (cpu(redis) - self.cpu - self.idle * took).max(0.0) / requests as f64;
        let stats: String = redis.run(cmd("INFO").arg("commandstats"));
        let commands = stats.lines().filter_map(|line| {
            let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls: f64 = stats.split(',').next()?.parse().ok()?;
            let calls = calls / requests as f64;
            (!OTHERS.contains(&name) && calls >= 0.05).then(|| (name.to_owned(), calls))
        });
        (cpu, commands.collect())
    }
}

/// Returns the CPU that the server has used, in microseconds.
fn cpu(redis: &Redis) -> f64 {
    let info: String = redis.run(cmd("INFO").arg("cpu"));
    let field = |name: &str| -> f64 {
        let mut lines = info.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        value.parse().unwrap()
    };
    (field("used_cpu_user:") + field("used_cpu_sys:")) * 1e6
}

/// Returns the CPU per second of a server without requests.
async fn idle(redis: &Redis) -> f64 {
    let (before, since) = (cpu(redis), Instant::now());
    sleep(Duration::from_secs(2)).await;
    (cpu(redis) - before) / since.elapsed().as_secs_f64()
}

fn print(what: &str, (cpu, commands): &(f64, BTreeMap<String, f64>)) {
    let commands: Vec<_> = commands
        .iter()
        .map(|(name, calls)| format!("{calls:.1} {name}"))
        .collect();
    println!("| {what} | {cpu:.0} | {} |", commands.join(", "));
}

pub async fn run(setup: Setup) {
    println!("\n| Redis, for each | CPU in µs | commands, also those that scripts call |");
    println!("| --- | --- | --- |");
    let mut latency = Vec::new();
    for mode in [Mode::Redis, Mode::Local] {
        latency.push((mode, one_node(setup, mode).await));
        fleet(setup, mode).await;
    }
    println!("\n| one node, in µs | median | minimum |");
    println!("| --- | --- | --- |");
    for (mode, [cold, ping]) in latency {
        println!(
            "| cold token, the provider replies immediately ({}) | {:.0} | {:.0} |",
            mode.name(),
            cold.middle,
            cold.least
        );
        println!(
            "| one round trip (`PING`) | {:.0} | {:.0} |",
            ping.middle, ping.least
        );
    }
}

/// Measures a cold token, a hit and a refresh. Returns the time of a cold token and of a `PING`.
async fn one_node(setup: Setup, mode: Mode) -> [Spread; 2] {
    let redis = Redis::start();
    let node = Node::new(&redis, mode, REFRESH_AHEAD, Duration::ZERO);
    node.ask(1_000_000).await;
    node.is_ready(mode).await;
    let idle = idle(&redis).await;

    let work = Work::begin(&redis, idle);
    let mut times = Vec::new();
    for token in 0..setup.requests {
        times.push(node.ask(token).await);
    }
    print(
        &format!("cold token ({})", mode.name()),
        &work.end(&redis, setup.requests),
    );
    // Without a refresh, since the TTL has only begun.
    let recent = setup.requests - setup.requests / 10..setup.requests;
    let work = Work::begin(&redis, idle);
    for token in recent.clone() {
        node.ask(token).await;
    }
    let in_redis = work.end(&redis, recent.len());
    print(
        &match mode {
            Mode::Redis => "hit (Redis)".to_owned(),
            _ => format!("first hit, found in Redis ({})", mode.name()),
        },
        &in_redis,
    );
    if mode != Mode::Redis {
        let work = Work::begin(&redis, idle);
        for token in recent.clone() {
            node.ask(token).await;
        }
        let what = format!("hit ({})", mode.name());
        print(&what, &work.end(&redis, recent.len()));
    }
    // Each session becomes due, and its next request starts its refresh.
    sleep(TTL * u32::from(REFRESH_AHEAD) / 100).await;
    let before = node.cache.stats();
    let work = Work::begin(&redis, idle);
    for token in 0..setup.requests {
        node.ask(token).await;
    }
    node.until(|stats| stats.fills >= before.fills + setup.requests as u64)
        .await;
    print(
        &format!("request with a refresh ({})", mode.name()),
        &work.end(&redis, setup.requests),
    );
    let mut connection = redis.connection();
    let pings = (0..setup.requests).map(|_| {
        let began = Instant::now();
        let _: String = cmd("PING").query(&mut connection).unwrap();
        micros(began.elapsed())
    });
    [Spread::of(times), Spread::of(pings.collect())]
}

/// Measures a cold token that all nodes are asked for at the same time.
async fn fleet(setup: Setup, mode: Mode) {
    let redis = Redis::start();
    let nodes: Vec<_> = (0..setup.nodes)
        .map(|_| Node::new(&redis, mode, 100, setup.provider / 5))
        .collect();
    for (n, node) in nodes.iter().enumerate() {
        node.ask(1_000_000 + n).await;
        node.is_ready(mode).await;
    }
    let idle = idle(&redis).await;
    let work = Work::begin(&redis, idle);
    let tokens = setup.requests / 10;
    for token in 0..tokens {
        join_all(nodes.iter().map(|node| node.ask(token))).await;
    }
    print(
        &format!(
            "cold token that {} nodes are asked for ({})",
            setup.nodes,
            mode.name()
        ),
        &work.end(&redis, tokens),
    );
}
