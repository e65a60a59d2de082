//! The nodes of one process. They take commands from standard input, one a line, and report on
//! standard output.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::StatusCode;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{MissedTickBehavior, interval, sleep},
};
use tower::{Layer, Service};
use tower_session_cache::{
    ErasedValidator, LocalCacheConfig, SessionCache, SessionCacheLayer, SessionToken,
    ValidatedSession, ValidationError, validator_fn,
};

use crate::{
    provider,
    support::service::{Inner, bearer, request, user},
};

pub const TTL: Duration = Duration::from_secs(10);
/// Tokens that a node validates before it is ready, so that it knows how long a validation takes.
const WARM_UP: usize = 5;
/// First argument of a process that is a node.
const NODE: &str = "node";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Redis,
    Local,
    RevocationsOnly,
}

pub const MODES: [Mode; 3] = [Mode::Redis, Mode::Local, Mode::RevocationsOnly];

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Local => "local cache",
            Self::RevocationsOnly => "local cache, revocations only",
        }
    }

    /// Builds a cache of a node.
    pub fn cache(self, redis: &str, refresh_ahead: Option<u8>) -> SessionCache {
        let builder = SessionCache::builder().redis(redis).unwrap().ttl(TTL);
        let local = LocalCacheConfig::new(10_000);
        let builder = match self {
            Self::Redis => builder,
            Self::Local => builder.local_cache(local),
            Self::RevocationsOnly => builder.local_cache(local.revocations_only()),
        };
        match refresh_ahead {
            Some(percent) => builder.refresh_ahead(percent),
            None => builder,
        }
        .build()
        .unwrap()
    }
}

/// Arguments of a process that is a node.
pub struct Settings {
    pub mode: Mode,
    pub redis: String,
    pub provider: SocketAddr,
    /// Number of its first node.
    pub first: usize,
    pub nodes: usize,
}

impl Settings {
    /// Returns `None` if this process is no node.
    pub fn read() -> Option<Self> {
        let mut arguments = std::env::args().skip(1);
        arguments.next().filter(|first| first == NODE)?;
        let mut next = || arguments.next().expect("five arguments");
        let mode = next();
        Some(Self {
            mode: *MODES.iter().find(|it| it.name() == mode).expect("a mode"),
            redis: next(),
            provider: next().parse().unwrap(),
            first: next().parse().unwrap(),
            nodes: next().parse().unwrap(),
        })
    }

    pub fn arguments(&self) -> [String; 6] {
        [
            NODE.to_owned(),
            self.mode.name().to_owned(),
            self.redis.clone(),
            self.provider.to_string(),
            self.first.to_string(),
            self.nodes.to_string(),
        ]
    }
}

struct Node {
    number: usize,
    cache: SessionCache,
    layer: SessionCacheLayer<ErasedValidator>,
}

impl Node {
    fn new(settings: &Settings, number: usize) -> Self {
        let provider = settings.provider;
        let validator = validator_fn("bench", move |_: SessionToken| async move {
            let called = provider::call(provider, number).await;
            called.map_err(ValidationError::unavailable)?;
            Ok::<_, ValidationError>(ValidatedSession::new(user(0)))
        });
        let cache = settings.mode.cache(&settings.redis, None);
        Self {
            number,
            layer: SessionCacheLayer::new(cache.clone(), ErasedValidator::new(validator)),
            cache,
        }
    }

    async fn warm_up(&self, mode: Mode) {
        for n in 0..WARM_UP {
            let token = 1_000_000 + self.number * WARM_UP + n;
            assert!(ask(&self.layer, token).await.0, "Redis and the provider");
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while mode != Mode::Redis && self.cache.stats().lease_age.is_none() {
            assert!(Instant::now() < deadline, "the listener takes no lease");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Sends a request, and returns whether it was served and how long it took.
async fn ask(layer: &SessionCacheLayer<ErasedValidator>, token: usize) -> (bool, Duration) {
    let began = Instant::now();
    let response = layer.layer(Inner).call(request(&bearer(token))).await;
    let is_served = response.unwrap().status() == StatusCode::OK;
    (is_served, began.elapsed())
}

/// Asks for each session once per period.
async fn load(
    node: &Node,
    nodes: usize,
    period: Duration,
    time: Duration,
    sessions: usize,
) -> Vec<(bool, Duration)> {
    // The requests of the nodes are spread over the period.
    sleep(period * node.number as u32 / nodes as u32).await;
    let (mut asked, until) = (Vec::new(), Instant::now() + time);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if Instant::now() >= until {
            return asked;
        }
        let sessions = (0..sessions).map(|token| ask(&node.layer, token));
        asked.extend(join_all(sessions).await);
    }
}

/// Reads commands until standard input ends.
pub async fn run(settings: Settings) {
    let nodes = settings.first..settings.first + settings.nodes;
    let nodes: Vec<_> = nodes.map(|n| Node::new(&settings, n)).collect();
    join_all(nodes.iter().map(|node| node.warm_up(settings.mode))).await;
    println!("ready");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let numbers: Vec<u64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
        let asked: Vec<_> = match numbers[..] {
            [token] => {
                let nodes = nodes.iter();
                let asked = nodes.map(|node| ask(&node.layer, token as usize));
                join_all(asked).await
            }
            [all, period, time, sessions] => {
                let (period, time) = (Duration::from_millis(period), Duration::from_millis(time));
                let nodes = nodes.iter();
                let loads =
                    nodes.map(|node| load(node, all as usize, period, time, sessions as usize));
                join_all(loads).await.concat()
            }
            _ => panic!("not a command: {line}"),
        };
        let failed = asked.iter().filter(|(is_served, _)| !is_served).count();
        let slowest = asked.iter().map(|(_, took)| took.as_micros()).max();
        println!("{} {failed} {}", asked.len(), slowest.unwrap_or_default());
    }
}
