//! Redis behind a name, as it is found in the field: connections are dropped without notice, reset,
//! delayed and frozen, and other servers take over the name. An oracle decides for each response and
//! for each revocation whether its result was allowed.
//!
//! The run lasts one minute, or ten with `--full`. `SESSION_CACHE_SOAK_SECONDS` sets another
//! duration, and `SESSION_CACHE_SEED` repeats the random choices.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bb8_redis::redis::cmd;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_session_cache::{
    Authority, LocalCacheConfig, Namespace, Origin, RedisConfig, Revocation, RevokeError,
    SessionCache, SessionCacheLayer, SessionToken, SessionValidator, UserData, ValidatedSession,
    ValidationError,
};

use crate::support::{
    client::{ask, token},
    process::{Running, command},
    proxy::{Fault, Proxy},
    redis::Redis,
    soon, until,
    world::seed,
};

const USERS: usize = 40;
const TOKENS: usize = 5;
const CLIENTS: u64 = 12;
/// Number of earlier logouts that are requested again.
const LOGOUTS: usize = 500;
const TIMEOUT: Duration = Duration::from_millis(1_500);
const LEASE: Duration = Duration::from_millis(500);
/// A revocation is not judged if a timer of this process, or a reply of the server on a direct
/// connection, was late by this much while it ran: the machine is too busy.
const STALL: Duration = Duration::from_millis(30);
/// Time after which an idle connection is tested, and a little more.
const REST: Duration = Duration::from_millis(10_500);

/// The node that rests between its requests, until its connections count as idle.
const SLEEPER: usize = 2;
const NODES: usize = 3;

/// Accepts the tokens that are logged in. The tier of a user is the number of the last change.
/// Tokens with `forever` in their name are accepted after their logout as well, so that only the
/// cache rejects them.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<HashMap<String, State>>>);

#[derive(Clone, Copy, Default)]
struct State {
    version: u64,
    is_dead: bool,
}

impl Provider {
    fn state(&self, text: &str) -> State {
        let states = self.0.lock().unwrap();
        states.get(text).copied().unwrap_or_default()
    }

    fn change(&self, text: &str) -> u64 {
        let mut states = self.0.lock().unwrap();
        let state = states.entry(text.to_owned()).or_default();
        state.version += 1;
        state.version
    }
}

impl SessionValidator for Provider {
    fn namespace(&self) -> Namespace {
        "soak".into()
    }

    fn authority(&self) -> Authority {
        "soak".into()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let text = token.expose_secret();
        let State { version, is_dead } = self.state(text);
        if is_dead {
            return Err(ValidationError::invalid());
        }
        tokio::task::yield_now().await;
        let user = UserData::builder(user_of(text)).tier(version.to_string());
        Ok(user.build().into())
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

fn user_of(text: &str) -> String {
    text.split('-').next().unwrap().to_owned()
}

/// A change at the provider whose revocation has returned.
#[derive(Clone, Copy)]
struct Change {
    version: u64,
    at: Instant,
    /// The node that revoked, if the revocation applies there only.
    only_on: Option<usize>,
    by: usize,
}

/// A token that was logged out and that the provider goes on accepting.
#[derive(Clone)]
struct Logout {
    text: String,
    node: usize,
    /// When the revocation had returned, and the number of the swap before it began.
    at: Instant,
    swap: u64,
    is_queued: bool,
}

/// What a swap does to a server that was demoted before and still replies.
enum Demotion {
    Begins,
    Continues,
    /// It was killed, or promoted again.
    Ends,
}

/// What the name leads to, as the chaos knows it.
struct Name {
    port: u16,
    /// Since when the server behind the name takes writes, or `None` while it does not.
    healthy_since: Option<Instant>,
    /// Number of the swaps so far. Each may have lost what the server before it knew.
    swaps: u64,
    /// Number of the swap that demoted a server. Connections to it may still get replies.
    demoted_at: Option<u64>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    local: AtomicU64,
    redis: AtomicU64,
    validated: AtomicU64,
    rejected: AtomicU64,
    unavailable: AtomicU64,
    revocations: AtomicU64,
    queued: AtomicU64,
    /// Revocations that began and ended while the server behind the name took writes.
    judged: AtomicU64,
    /// Responses from before a revocation, by a demoted server that the node had not left yet.
    demoted: AtomicU64,
    /// Responses from the local cache within a lease of the revocation.
    leased: AtomicU64,
    /// Logged-out tokens that another node accepted after a swap, or while Redis was unavailable.
    lost: AtomicU64,
    out_of_reach: AtomicU64,
    rests: AtomicU64,
    faults: [AtomicU64; KINDS.len()],
}

const KINDS: [&str; 10] = [
    "restart", "empty", "failover", "demotion", "freeze", "reset", "drop", "delay", "cut", "refuse",
];

struct Node {
    cache: SessionCache,
    layer: SessionCacheLayer<Provider>,
    proxy: Proxy,
    /// Number of the last swap after which this node completed a write.
    has_written_since: AtomicU64,
}

struct Soak {
    seed: u64,
    nodes: Vec<Node>,
    provider: Provider,
    texts: Vec<String>,
    name: Mutex<Name>,
    /// Since when each node's own connections work, apart from the server.
    paths: Vec<Mutex<Option<Instant>>>,
    changes: Mutex<HashMap<String, Vec<Change>>>,
    logouts: Mutex<Vec<Logout>>,
    /// When the machine was last too busy, and the number of checks so far.
    stalled: Mutex<Instant>,
    checks: AtomicU64,
    counts: Counts,
    ends: AtomicBool,
    is_over: AtomicBool,
    started: Instant,
    /// The last faults, for the message of a failure.
    log: Mutex<Vec<String>>,
}

impl Soak {
    async fn new(seed: u64, server: u16) -> Arc<Self> {
        let provider = Provider::default();
        let mut nodes = Vec::new();
        for n in 0..NODES {
            let proxy = Proxy::start(server).await;
            let mut builder = SessionCache::builder()
                .redis(RedisConfig::single(proxy.url()).timeout(TIMEOUT))
                .unwrap()
                .ttl(Duration::from_secs(5))
                .negative_ttl(Duration::from_secs(1));
            if n == 1 {
                builder = builder.local_cache(LocalCacheConfig::new(1_000).lease(LEASE));
            }
            let cache = builder.build().unwrap();
            nodes.push(Node {
                layer: SessionCacheLayer::new(cache.clone(), provider.clone()),
                cache,
                proxy,
                has_written_since: AtomicU64::new(0),
            });
        }
        let now = Instant::now();
        Arc::new(Self {
            seed,
            nodes,
            provider,
            texts: (0..USERS)
                .flat_map(|user| (0..TOKENS).map(move |n| format!("user{user}-token{n}")))
                .collect(),
            name: Mutex::new(Name {
                port: server,
                healthy_since: Some(now),
                swaps: 0,
                demoted_at: None,
            }),
            paths: (0..NODES).map(|_| Mutex::new(Some(now))).collect(),
            changes: Mutex::default(),
            logouts: Mutex::default(),
            stalled: Mutex::new(now),
            checks: AtomicU64::new(0),
            counts: Counts::default(),
            ends: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            started: now,
            log: Mutex::default(),
        })
    }

    fn note(&self, what: String) {
        let mut log = self.log.lock().unwrap();
        if log.len() == 20 {
            log.remove(0);
        }
        log.push(format!("{:?} {what}", self.started.elapsed()));
    }

    fn context(&self) -> String {
        let now = self.started.elapsed();
        let log = self.log.lock().unwrap().join("\n  ");
        format!(
            "now {now:?}; SESSION_CACHE_SEED={}; last faults:\n  {log}",
            self.seed
        )
    }

    /// Since when both the server and the node's path to it work.
    fn healthy_since(&self, node: usize) -> Option<Instant> {
        let name = self.name.lock().unwrap().healthy_since?;
        let path = (*self.paths[node].lock().unwrap())?;
        Some(name.max(path))
    }

    async fn request(&self, node: usize, text: &str) {
        let began = Instant::now();
        let known = self.changes.lock().unwrap().get(text).cloned();
        let may_be_demoted = self.may_be_demoted(node);
        let was_dead = self.provider.state(text).is_dead;
        let answer = ask(&self.nodes[node].layer, text).await;
        let counts = &self.counts;
        counts.requests.fetch_add(1, SeqCst);
        let (user, origin) = match answer {
            Ok(served) => served,
            Err(status) if status == 503 => {
                counts.unavailable.fetch_add(1, SeqCst);
                return;
            }
            Err(status) => {
                let is_right = status == 401 && self.provider.state(text).is_dead;
                assert!(is_right, "{text}: {status}; {}", self.context());
                counts.rejected.fetch_add(1, SeqCst);
                return;
            }
        };
        let count = match origin {
            Origin::Local => &counts.local,
            Origin::Redis => &counts.redis,
            _ => &counts.validated,
        };
        count.fetch_add(1, SeqCst);
        assert_eq!(user.id(), user_of(text), "{text}; {}", self.context());
        let served: u64 = user.tier().parse().unwrap();
        let changes = known.into_iter().flatten();
        let missed: Vec<_> = changes
            .filter(|change| change.version > served)
            .filter(|change| change.only_on.is_none_or(|only| only == node))
            .collect();
        if missed.is_empty() {
            return;
        }
        let is_leased = origin == Origin::Local
            && missed
                .iter()
                .all(|change| change.by != node && began <= change.at + LEASE);
        if is_leased {
            counts.leased.fetch_add(1, SeqCst);
        } else if origin == Origin::Redis && may_be_demoted {
            counts.demoted.fetch_add(1, SeqCst);
        } else {
            let ages: Vec<_> = missed.iter().map(|it| (it.by, began - it.at)).collect();
            panic!(
                "{text} was served by {origin:?} on node {node} as of {served}, logged out: \
                 {was_dead}, against revocations of node and age {ages:?}; {}",
                self.context()
            );
        }
    }

    /// Whether the node may still have connections only to a server that was demoted. Once it has
    /// written to the new server, it must not read from the old one.
    fn may_be_demoted(&self, node: usize) -> bool {
        let name = self.name.lock().unwrap();
        let written = self.nodes[node].has_written_since.load(SeqCst);
        name.demoted_at.is_some_and(|swap| written < swap)
    }

    /// Revokes, and judges the outcome. Returns whether the revocation applies on all nodes.
    async fn judged<F>(&self, node: usize, revocation: F) -> bool
    where
        F: Future<Output = Result<Revocation, RevokeError>>,
    {
        let (began, swaps) = (Instant::now(), self.name.lock().unwrap().swaps);
        let before = self.healthy_since(node);
        let outcome = revocation.await;
        let took = began.elapsed();
        let after = self.healthy_since(node);
        let counts = &self.counts;
        counts.revocations.fetch_add(1, SeqCst);
        let was_healthy = before == after && before.is_some_and(|since| since + TIMEOUT < began);
        if was_healthy && outcome.is_err() {
            // A stall that has just ended is not recorded yet.
            let checks = self.checks.load(SeqCst);
            let ended = || self.checks.load(SeqCst) > checks + 1 || self.ends.load(SeqCst);
            until("two checks of the machine", ended).await;
        }
        let is_stalled = self.ends.load(SeqCst) || *self.stalled.lock().unwrap() >= began - TIMEOUT;
        if was_healthy && !is_stalled {
            counts.judged.fetch_add(1, SeqCst);
            assert!(
                outcome.is_ok(),
                "a revocation on node {node} failed after {took:?}, although the server behind the \
                 name had taken writes for {:?}; {:?}; {}",
                began - before.unwrap(),
                self.nodes[node].cache.stats(),
                self.context()
            );
        }
        match outcome {
            Ok(_) => {
                let written = &self.nodes[node].has_written_since;
                if self.name.lock().unwrap().swaps == swaps {
                    written.fetch_max(swaps, SeqCst);
                }
                true
            }
            Err(_) => {
                counts.queued.fetch_add(1, SeqCst);
                false
            }
        }
    }

    /// Changes the session at the provider first, then revokes it.
    async fn revoke(&self, node: usize, text: &str, by_user: bool) {
        let user = user_of(text);
        let changed: Vec<_> = self
            .texts
            .iter()
            .filter(|other| *other == text || (by_user && user_of(other) == user))
            .map(|text| (text, self.provider.change(text)))
            .collect();
        let cache = &self.nodes[node].cache;
        let applies = if by_user {
            self.judged(node, cache.invalidate_user(&user)).await
        } else {
            self.judged(node, cache.invalidate_token(&token(text)))
                .await
        };
        let at = Instant::now();
        let mut changes = self.changes.lock().unwrap();
        for (text, version) in changed {
            let of_text = changes.entry(text.clone()).or_default();
            let only_on = (!applies).then_some(node);
            // Changes of which a local cache may not know are kept, and the last before them.
            let old = |change: &Change| change.only_on == only_on && change.at + 2 * LEASE < at;
            let last = of_text.iter().filter(|change| old(change));
            let last = last.map(|change| change.version).max();
            of_text.retain(|change| !old(change) || Some(change.version) == last);
            of_text.push(Change {
                version,
                at,
                only_on,
                by: node,
            });
        }
    }

    async fn log_out(&self, node: usize, random: &mut StdRng) {
        let is_forever = random.random_range(0..2) == 0;
        let kind = if is_forever { "forever" } else { "once" };
        let user = random.random_range(0..USERS);
        let text = format!("user{user}-{kind}{}", random.random::<u64>());
        for node in 0..NODES {
            if node != SLEEPER {
                let _ = ask(&self.nodes[node].layer, &text).await;
            }
        }
        if !is_forever {
            let state = State {
                version: 0,
                is_dead: true,
            };
            self.provider.0.lock().unwrap().insert(text.clone(), state);
        }
        let swap = self.name.lock().unwrap().swaps;
        let cache = &self.nodes[node].cache;
        let applies = self.judged(node, cache.revoke_token(&token(&text))).await;
        let logout = Logout {
            text: text.clone(),
            node,
            at: Instant::now(),
            swap,
            is_queued: !applies,
        };
        if is_forever {
            let mut logouts = self.logouts.lock().unwrap();
            if logouts.len() < LOGOUTS {
                logouts.push(logout.clone());
            } else {
                logouts[random.random_range(0..LOGOUTS)] = logout.clone();
            }
        }
        for other in 0..NODES {
            if other != SLEEPER {
                self.request_logged_out(other, &logout).await;
            }
        }
        if !is_forever {
            self.provider.0.lock().unwrap().remove(&text);
        }
    }

    /// Requests a token after its logout. A dead one is never served. One that the provider accepts
    /// is served only where the revocation is not known.
    async fn request_logged_out(&self, node: usize, logout: &Logout) {
        let Logout {
            text,
            node: by,
            at,
            swap,
            is_queued,
        } = logout;
        let began = Instant::now();
        let cache = &self.nodes[node].cache;
        let (before, may_be_demoted) = (cache.stats(), self.may_be_demoted(node));
        let healthy = self.healthy_since(node);
        let answer = ask(&self.nodes[node].layer, text).await;
        let after = cache.stats();
        let counts = &self.counts;
        counts.requests.fetch_add(1, SeqCst);
        let Ok((_, origin)) = answer else {
            counts.rejected.fetch_add(1, SeqCst);
            return;
        };
        let is_dead = text.contains("-once");
        let is_elsewhere = node != *by;
        let is_lost = is_elsewhere && self.name.lock().unwrap().swaps > *swap;
        let is_out_of_reach = is_elsewhere
            && origin == Origin::Validator
            && (before.redis_circuit_open
                || after.redis_circuit_open
                || before.redis_errors < after.redis_errors);
        let is_leased = is_elsewhere && origin == Origin::Local;
        if *is_queued && is_elsewhere {
            // Not known there until it is delivered.
        } else if is_leased && began <= *at + LEASE {
            counts.leased.fetch_add(1, SeqCst);
        } else if !is_dead && is_lost {
            counts.lost.fetch_add(1, SeqCst);
        } else if !is_dead && is_out_of_reach {
            counts.out_of_reach.fetch_add(1, SeqCst);
        } else if is_elsewhere && origin == Origin::Redis && may_be_demoted {
            counts.demoted.fetch_add(1, SeqCst);
        } else {
            panic!(
                "{text} was served by {origin:?} on node {node} after its logout on node {by}, with \
                 Redis available since {healthy:?} and swap {swap}; {}",
                self.context()
            );
        }
    }

    async fn client(self: Arc<Self>, client: u64) {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(client));
        while !self.ends.load(SeqCst) {
            let node = random.random_range(0..SLEEPER);
            let text = &self.texts[random.random_range(0..self.texts.len())];
            match random.random_range(0..1_000) {
                0..15 => self.revoke(node, text, false).await,
                15..30 => self.revoke(node, text, true).await,
                30..36 => self.log_out(node, &mut random).await,
                36..80 => {
                    let logout = {
                        let logouts = self.logouts.lock().unwrap();
                        (!logouts.is_empty())
                            .then(|| logouts[random.random_range(0..logouts.len())].clone())
                    };
                    if let Some(logout) = logout {
                        self.request_logged_out(node, &logout).await;
                    }
                }
                _ => self.request(node, text).await,
            }
            // Leaves the processor to the servers and to the other tests that run now.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
        }
    }

    /// A node without requests at night. Its idle connections are dropped without notice, and then
    /// its first call is a revocation or a request.
    async fn sleeper(self: Arc<Self>) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 2);
        while !self.ends.load(SeqCst) {
            for _ in 0..50 {
                let text = &self.texts[random.random_range(0..self.texts.len())];
                self.request(SLEEPER, text).await;
            }
            tokio::time::sleep(REST).await;
            self.nodes[SLEEPER].proxy.forget_connections();
            self.note("the idle connections of the sleeper were dropped".to_owned());
            self.counts.rests.fetch_add(1, SeqCst);
            let text = &self.texts[random.random_range(0..self.texts.len())];
            match random.random_range(0..3) {
                0 => self.request(SLEEPER, text).await,
                kind => self.revoke(SLEEPER, text, kind == 1).await,
            }
        }
    }

    /// Records when a timer of this process was late, or the server's reply on a connection without
    /// a proxy.
    async fn stalls(self: Arc<Self>) {
        let pause = Duration::from_millis(5);
        while !self.ends.load(SeqCst) {
            let began = Instant::now();
            tokio::time::sleep(pause).await;
            let replies = self.ping().await.is_ok();
            if !replies || began.elapsed() > pause + STALL {
                *self.stalled.lock().unwrap() = Instant::now();
            }
            self.checks.fetch_add(1, SeqCst);
        }
    }

    async fn ping(&self) -> std::io::Result<()> {
        let port = self.name.lock().unwrap().port;
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        server.write_all(b"PING\r\n").await?;
        server.read_exact(&mut [0; 7]).await?;
        Ok(())
    }

    fn unhealthy(&self) {
        self.name.lock().unwrap().healthy_since = None;
    }

    fn healthy(&self) {
        self.name.lock().unwrap().healthy_since = Some(Instant::now());
    }

    /// Directs the name to another server.
    fn lead_to(&self, server: &Redis, demotion: Demotion) {
        let mut name = self.name.lock().unwrap();
        for node in &self.nodes {
            node.proxy.lead_to(server.port());
        }
        name.port = server.port();
        name.swaps += 1;
        match demotion {
            Demotion::Begins => name.demoted_at = Some(name.swaps),
            Demotion::Ends => name.demoted_at = None,
            Demotion::Continues => {}
        }
        name.healthy_since = Some(Instant::now());
    }

    /// Causes one fault after another, with a pause between them. The calls block, so this has a
    /// thread of its own.
    fn chaos(&self, mut servers: Vec<Redis>) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 1);
        let mut current = 0;
        let mut order: Vec<usize> = Vec::new();
        while !self.ends.load(SeqCst) {
            let pause = |random: &mut StdRng| {
                std::thread::sleep(Duration::from_millis(random.random_range(50..1_500)));
            };
            // Each kind once per round, in random order.
            let kind = order.pop().unwrap_or_else(|| {
                order = (0..KINDS.len()).collect();
                for n in (1..order.len()).rev() {
                    order.swap(n, random.random_range(0..=n));
                }
                order.pop().unwrap()
            });
            self.counts.faults[kind].fetch_add(1, SeqCst);
            let node = random.random_range(0..SLEEPER);
            let (path, proxy) = (&self.paths[node], &self.nodes[node].proxy);
            self.note(format!("{} (node {node}, server {current})", KINDS[kind]));
            match KINDS[kind] {
                "restart" => {
                    self.unhealthy();
                    servers[current].kill();
                    pause(&mut random);
                    servers[current].restart();
                    self.lead_to(&servers[current], Demotion::Continues);
                }
                "empty" => {
                    self.unhealthy();
                    servers[current].kill();
                    current = 1 - current;
                    servers[current].kill();
                    servers[current].restart();
                    self.lead_to(&servers[current], Demotion::Ends);
                }
                "failover" | "demotion" => {
                    let is_demotion = KINDS[kind] == "demotion";
                    let next = 1 - current;
                    if !replicates(&servers[next], &servers[current]) {
                        continue;
                    }
                    self.unhealthy();
                    if is_demotion {
                        // Out of reach of the new primary, so that it replies as of now.
                        replicate(&servers[current], 1);
                    } else {
                        servers[current].kill();
                    }
                    let mut promote = cmd("REPLICAOF");
                    servers[next].run::<()>(promote.arg("NO").arg("ONE"));
                    self.lead_to(
                        &servers[next],
                        match is_demotion {
                            true => Demotion::Begins,
                            false => Demotion::Ends,
                        },
                    );
                    current = next;
                }
                "freeze" => {
                    self.unhealthy();
                    servers[current].pause();
                    pause(&mut random);
                    servers[current].resume();
                    self.healthy();
                }
                "reset" => {
                    let mut kill = cmd("CLIENT");
                    servers[current].run::<()>(kill.arg("KILL").arg("TYPE").arg("normal"));
                }
                "drop" => {
                    proxy.forget_connections();
                    *path.lock().unwrap() = Some(Instant::now());
                }
                "delay" => {
                    proxy.fault(Fault::Delay(TIMEOUT / 40));
                    pause(&mut random);
                    proxy.fault(Fault::None);
                }
                kind => {
                    *path.lock().unwrap() = None;
                    match kind {
                        "cut" => proxy.fault(Fault::Cut),
                        _ => {
                            proxy.refuse(true);
                            proxy.fault(Fault::Cut);
                        }
                    }
                    pause(&mut random);
                    proxy.fault(Fault::None);
                    proxy.refuse(false);
                    *path.lock().unwrap() = Some(Instant::now());
                }
            }
            self.note("done".to_owned());
            pause(&mut random);
            // The other server follows the current one, so that it can take over.
            let other = 1 - current;
            if !servers[other].is_running() {
                servers[other].restart();
            }
            if random.random_range(0..2) == 0 {
                replicate(&servers[other], servers[current].port());
            }
        }
        // The servers end with this thread.
        while !self.is_over.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Soak {
    fn report(&self, peaks: &[u64]) {
        let count = |count: &AtomicU64| count.load(SeqCst);
        let counts = &self.counts;
        println!(
            "redis soak: {:?}, {} requests ({} local, {} from Redis, {} validated, {} rejected, {} \
             unavailable), {} within a lease, {} from a demoted server; {} revocations, {} judged, \
             {} queued; {} logouts lost by a swap, {} unknown while Redis was unavailable; {} \
             nights; memory {peaks:?} KiB",
            self.started.elapsed(),
            count(&counts.requests),
            count(&counts.local),
            count(&counts.redis),
            count(&counts.validated),
            count(&counts.rejected),
            count(&counts.unavailable),
            count(&counts.leased),
            count(&counts.demoted),
            count(&counts.revocations),
            count(&counts.judged),
            count(&counts.queued),
            count(&counts.lost),
            count(&counts.out_of_reach),
            count(&counts.rests),
        );
        for (kind, times) in KINDS.iter().zip(&counts.faults) {
            println!("redis soak: {kind} {}", count(times));
        }
        assert!(count(&counts.redis) > 0 && count(&counts.local) > 0 && count(&counts.judged) > 0);
    }
}

fn replicate(server: &Redis, port: u16) {
    server.run::<()>(cmd("REPLICAOF").arg("127.0.0.1").arg(port));
}

/// Makes a server a replica of another one, and waits until it is up to date.
fn replicates(replica: &Redis, primary: &Redis) -> bool {
    replicate(replica, primary.port());
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let info: String = replica.run(cmd("INFO").arg("replication"));
        if info.contains("master_link_status:up") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Returns the resident memory of this process in KiB.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

fn duration() -> Duration {
    let seconds = std::env::var("SESSION_CACHE_SOAK_SECONDS")
        .map(|seconds| seconds.parse().expect("SESSION_CACHE_SOAK_SECONDS"));
    let is_full = std::env::var_os("SESSION_CACHE_FULL").is_some();
    Duration::from_secs(seconds.unwrap_or(if is_full { 600 } else { 60 }))
}

/// Runs the soak in a process of its own, next to the other tests, so that the memory that it
/// measures is its own.
#[test]
fn revocations_apply_whatever_happens_to_redis() {
    let test = std::env::current_exe().unwrap();
    let mut soak = Running(
        command(test)
            .args(["redis_soak::soak", "--exact", "--ignored", "--nocapture"])
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap(),
    );
    let status = soak.0.wait().unwrap();
    assert!(status.success(), "the soak failed; its output is above");
}

#[ignore = "run by `revocations_apply_whatever_happens_to_redis`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    static PANICS: AtomicU64 = AtomicU64::new(0);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, SeqCst);
        usual(info);
    }));
    let seed = seed("redis soak");
    let arguments = ["--repl-diskless-sync-delay", "0"];
    // Started on the thread of the test, because the servers end with it.
    let servers: Vec<_> = (0..2).map(|_| Redis::start_with(&arguments)).collect();
    let soak = Soak::new(seed, servers[0].port()).await;
    let mut tasks: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(Arc::clone(&soak).client(client)))
        .collect();
    tasks.push(tokio::spawn(Arc::clone(&soak).sleeper()));
    tasks.push(tokio::spawn(Arc::clone(&soak).stalls()));
    let chaos = {
        let soak = Arc::clone(&soak);
        std::thread::spawn(move || soak.chaos(servers))
    };
    let third = duration() / 3;
    let mut peaks = Vec::new();
    for _ in 0..3 {
        let until = Instant::now() + third;
        let mut peak = 0;
        while Instant::now() < until && PANICS.load(SeqCst) == 0 {
            tokio::time::sleep(third.min(Duration::from_millis(200))).await;
            for node in &soak.nodes {
                // Drop the commands that the proxy has recorded, which would grow without limit.
                node.proxy.commands();
            }
            peak = peak.max(memory().unwrap_or_default());
        }
        peaks.push(peak);
    }
    soak.ends.store(true, SeqCst);
    for task in tasks {
        soon("the end of a task", task).await.unwrap();
    }
    for node in &soak.nodes {
        let stats = || node.cache.stats();
        until("all deliveries", || stats().queued_revocations == 0).await;
        until("the end of all work", || {
            let stats = stats();
            stats.validations_in_flight == 0 && stats.redis_commands_in_flight == 0
        })
        .await;
    }
    soak.is_over.store(true, SeqCst);
    let ended = tokio::task::spawn_blocking(move || chaos.join().unwrap());
    soon("the end of the chaos", ended).await.unwrap();
    soak.report(&peaks);
    assert_eq!(PANICS.load(SeqCst), 0);
    // Each logout adds a token to the bounded maps, and the memory that an allocator keeps varies. A
    // leak at this rate would exceed a quarter.
    assert!(peaks[2] <= peaks[1] + peaks[1] / 4, "{peaks:?} KiB");
}
