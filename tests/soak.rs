//! Runs for one minute at full speed, or one hour with `--full`, while Redis and the identity
//! provider fail in turn. This is a separate binary, so that it measures only its own memory.
//!
//! `cargo test --all-features --test soak -- --nocapture` prints its figures;
//! `SESSION_CACHE_SOAK_SECONDS` sets the duration, and `SESSION_CACHE_SEED` repeats the random
//! choices.
#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "made of the suite's parts, of which it takes some"
)]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bb8_redis::redis::cmd;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tower_session_cache::{
    Authority, Namespace, Origin, SessionCache, SessionCacheLayer, SessionToken, SessionValidator,
    UserData, ValidatedSession, ValidationError,
};

use support::{
    client::{ask, token},
    proxy::{Fault, Proxy},
    redis::Redis,
    soon, until,
};

const SESSIONS: usize = 600;
const CLIENTS: u64 = 48;
const NODES: usize = 2;
/// Maximum number of rejected tokens that each node caches.
const MOST_REFUSALS: u64 = 10_000;
/// Maximum time of a request: its timeout, and as much again for a slow machine.
const LATE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
enum Outage {
    None,
    Down,
    Throttled,
    Slow,
    Hanging,
}

/// Each place has one session at a time, whose number is stored here. A session that was logged out
/// is never accepted again.
struct Provider {
    sessions: Vec<AtomicU64>,
    outage: Mutex<Outage>,
}

#[derive(Clone)]
struct Asks(Arc<Provider>);

impl SessionValidator for Asks {
    fn namespace(&self) -> Namespace {
        Namespace::named("asks")
    }

    fn authority(&self) -> Authority {
        "asks".into()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let outage = *self.0.outage.lock().unwrap();
        match outage {
            Outage::None => tokio::task::yield_now().await,
            Outage::Down => return Err(ValidationError::unavailable("down")),
            Outage::Throttled => {
                let soon = Duration::from_millis(200);
                return Err(ValidationError::unavailable("429").with_retry_after(soon));
            }
            Outage::Slow => tokio::time::sleep(Duration::from_millis(50)).await,
            Outage::Hanging => std::future::pending().await,
        }
        let text = token.expose_secret();
        if self.0.is_logged_in(text) {
            Ok(UserData::new(user_of(text)).into())
        } else {
            Err(ValidationError::invalid())
        }
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

#[derive(Default)]
struct Counts {
    served: AtomicU64,
    from_redis: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    logouts: AtomicU64,
    slowest: AtomicU64,
}

struct World {
    seed: u64,
    redis: Mutex<Redis>,
    proxy: Proxy,
    provider: Arc<Provider>,
    nodes: Vec<(SessionCache, SessionCacheLayer<Asks>)>,
    /// Logouts that have returned, with the node on which they apply if it is not all nodes.
    ended: RwLock<HashMap<String, Option<usize>>>,
    counts: Counts,
    ends: AtomicBool,
}

impl Provider {
    fn token(&self, place: usize) -> String {
        let session = self.sessions[place].load(SeqCst);
        format!("user{}-{place}-{session}", place % 100)
    }

    fn is_logged_in(&self, text: &str) -> bool {
        let place = text.split('-').nth(1).unwrap().parse();
        place.is_ok_and(|place: usize| self.token(place) == text)
    }
}

fn user_of(text: &str) -> &str {
    text.split_once('-').unwrap().0
}

impl World {
    async fn new(seed: u64) -> Arc<Self> {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.port()).await;
        let provider = Arc::new(Provider {
            sessions: (0..SESSIONS).map(|_| AtomicU64::new(0)).collect(),
            outage: Mutex::new(Outage::None),
        });
        let nodes = (0..NODES).map(|_| {
            let cache = SessionCache::builder()
                .redis(proxy.url())
                .unwrap()
                // Short lifetimes and a small capacity, so that every limit is reached.
                .ttl(Duration::from_secs(5))
                .validation_timeout(Duration::from_secs(1))
                .negative_ttl(Duration::from_secs(1))
                .capacity(SESSIONS / 2)
                .max_concurrent_validations(64)
                .build()
                .unwrap();
            (
                cache.clone(),
                SessionCacheLayer::new(cache, Asks(Arc::clone(&provider))),
            )
        });
        Arc::new(Self {
            seed,
            nodes: nodes.collect(),
            redis: Mutex::new(redis),
            proxy,
            provider,
            ended: RwLock::default(),
            counts: Counts::default(),
            ends: AtomicBool::new(false),
        })
    }

    async fn request(&self, node: usize, text: &str) {
        let ended = self.ended.read().unwrap().get(text).copied();
        let ended = ended.is_some_and(|at| at.is_none_or(|at| at == node));
        let start = Instant::now();
        let answer = ask(&self.nodes[node].1, text).await;
        let took = u64::try_from(start.elapsed().as_micros()).unwrap();
        self.counts.slowest.fetch_max(took, SeqCst);
        let seed = self.seed;
        match answer {
            Ok((user, origin)) => {
                assert_eq!(user.id(), user_of(text), "{text}; seed {seed}");
                assert!(!ended, "{text} after its logout; seed {seed}");
                self.counts.served.fetch_add(1, SeqCst);
                if origin == Origin::Redis {
                    self.counts.from_redis.fetch_add(1, SeqCst);
                }
            }
            Err(status) if status == 503 => {
                self.counts.unavailable.fetch_add(1, SeqCst);
            }
            Err(status) => {
                let refused = status == 401 && !self.provider.is_logged_in(text);
                assert!(refused, "{text}: {status}; seed {seed}");
                self.counts.refused.fetch_add(1, SeqCst);
            }
        }
    }

    /// Ends a session and begins a new one. All others continue.
    async fn logout(&self, random: &mut StdRng) {
        let place = random.random_range(0..SESSIONS);
        let old = self.provider.token(place);
        self.provider.sessions[place].fetch_add(1, SeqCst);
        let node = random.random_range(0..NODES);
        let outcome = self.nodes[node].0.revoke_token(&token(&old)).await;
        self.counts.logouts.fetch_add(1, SeqCst);
        let holds_at = outcome.is_err().then_some(node);
        self.ended.write().unwrap().insert(old.clone(), holds_at);
        for node in 0..NODES {
            self.request(node, &old).await;
        }
    }

    /// Sends as many invalid tokens as are cached, so that no cache has to grow afterwards.
    async fn fill(self: Arc<Self>, client: u64) {
        for n in 0..MOST_REFUSALS / CLIENTS + 1 {
            for node in 0..NODES {
                self.request(node, &format!("guess-{client}-{n}x")).await;
            }
        }
    }

    async fn client(self: Arc<Self>, client: u64) {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(client));
        while !self.ends.load(SeqCst) {
            let node = random.random_range(0..NODES);
            match random.random_range(0..1_000) {
                0..10 => self.logout(&mut random).await,
                10..50 => {
                    let text = format!("guess-x-{}", random.random::<u64>());
                    self.request(node, &text).await;
                }
                _ => {
                    // Some sessions are requested far more often than others.
                    let most = random.random_range(1..=SESSIONS);
                    let text = self.provider.token(random.random_range(0..most));
                    self.request(node, &text).await;
                }
            }
            // Results from memory never wait, and other tasks must run.
            tokio::task::yield_now().await;
        }
    }

    /// Causes one failure after the other, with time to recover between them.
    async fn chaos(self: Arc<Self>) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 1);
        let mut kinds = 0;
        while !self.ends.load(SeqCst) {
            let lasts = Duration::from_millis(random.random_range(100..700));
            let wait = async || tokio::time::sleep(lasts).await;
            let config = |name: &str, value: &str| {
                let redis = self.redis.lock().unwrap();
                redis.run::<()>(cmd("CONFIG").arg("SET").arg(name).arg(value));
            };
            kinds += 1;
            match kinds % 12 {
                0 => {
                    self.redis.lock().unwrap().kill();
                    wait().await;
                    self.redis.lock().unwrap().restart();
                }
                1 => {
                    self.redis.lock().unwrap().pause();
                    wait().await;
                    self.redis.lock().unwrap().resume();
                }
                2 => {
                    config("maxmemory", "1");
                    wait().await;
                    config("maxmemory", "0");
                }
                3 => {
                    let redis = self.redis.lock().unwrap();
                    redis.run::<()>(cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal"));
                }
                4 => self.redis.lock().unwrap().run::<()>(&cmd("FLUSHALL")),
                kind @ 5..8 => {
                    self.proxy.fault(match kind {
                        5 => Fault::Swallow,
                        6 => Fault::Cut,
                        _ => Fault::Delay(Duration::from_millis(20)),
                    });
                    wait().await;
                    self.proxy.fault(Fault::None);
                }
                kind => {
                    *self.provider.outage.lock().unwrap() = match kind {
                        8 => Outage::Down,
                        9 => Outage::Throttled,
                        10 => Outage::Slow,
                        _ => Outage::Hanging,
                    };
                    wait().await;
                    *self.provider.outage.lock().unwrap() = Outage::None;
                }
            }
            wait().await;
        }
    }
}

/// Returns the resident memory of this process in KiB.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

fn seconds() -> u64 {
    if let Ok(seconds) = std::env::var("SESSION_CACHE_SOAK_SECONDS") {
        return seconds.parse().expect("SESSION_CACHE_SOAK_SECONDS");
    }
    match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 3_600,
        None => 60,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_are_correct_and_memory_is_bounded() {
    static PANICS: AtomicU64 = AtomicU64::new(0);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, SeqCst);
        usual(info);
    }));
    let seed = std::env::var("SESSION_CACHE_SEED").map_or_else(
        |_| rand::rng().random(),
        |seed| seed.parse().expect("SESSION_CACHE_SEED is a number"),
    );
    println!("soak: SESSION_CACHE_SEED={seed}");
    let world = World::new(seed).await;
    let fills: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(Arc::clone(&world).fill(client)))
        .collect();
    for fill in fills {
        soon("a node full of rejected tokens", fill).await.unwrap();
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(Arc::clone(&world).client(client)))
        .collect();
    let chaos = tokio::spawn(Arc::clone(&world).chaos());

    // The first third fills everything that has a limit.
    let third = Duration::from_secs(seconds()) / 3;
    let mut peaks = Vec::new();
    for _ in 0..3 {
        let until = Instant::now() + third;
        let mut peak = 0;
        while Instant::now() < until {
            tokio::time::sleep(third.min(Duration::from_millis(500))).await;
            // Drop the commands that the proxy has recorded, which would grow without limit.
            world.proxy.commands();
            peak = peak.max(memory().unwrap_or_default());
        }
        peaks.push(peak);
    }
    world.ends.store(true, SeqCst);
    for task in clients.into_iter().chain([chaos]) {
        soon("the end of a task", task).await.unwrap();
    }

    // Everything has recovered, and each session that is logged in is served from Redis.
    for (cache, layer) in &world.nodes {
        until("the validations to end", || {
            cache.stats().validations_in_flight == 0
        })
        .await;
        until("all deliveries", || cache.stats().queued_revocations == 0).await;
        for place in 0..50 {
            let text = &world.provider.token(place);
            soon("a session to be served from Redis", async {
                loop {
                    if let Ok((served, origin)) = ask(layer, text).await {
                        assert_eq!(served.id(), user_of(text));
                        if origin == Origin::Redis {
                            break;
                        }
                    }
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        let stats = cache.stats();
        assert!(
            stats.negative_entries <= MOST_REFUSALS
                && stats.revoked_token_entries <= SESSIONS as u64 / 2
        );
        println!("soak: {stats:?}");
    }
    let Counts {
        served,
        from_redis,
        refused,
        unavailable,
        logouts,
        slowest,
    } = &world.counts;
    println!(
        "soak: {} s, {} served ({} from Redis), {} rejected, {} unavailable, {} logouts, slowest {} \
         ms, memory {} KiB, then {}, then {}",
        third.as_secs() * 3,
        served.load(SeqCst),
        from_redis.load(SeqCst),
        refused.load(SeqCst),
        unavailable.load(SeqCst),
        logouts.load(SeqCst),
        slowest.load(SeqCst) / 1_000,
        peaks[0],
        peaks[1],
        peaks[2],
    );
    assert!(Duration::from_micros(slowest.load(SeqCst)) < LATE);
    assert_eq!(PANICS.load(SeqCst), 0);
    // The memory that an allocator keeps varies. A leak at this rate would exceed a quarter.
    assert!(peaks[2] <= peaks[1] + peaks[1] / 4, "{peaks:?} KiB");
}
