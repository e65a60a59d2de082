//! A minute at full speed, an hour with `--full`, while Redis and the identity provider fail in
//! turn. A binary of its own, so that the memory that it measures is all its own.
//!
//! `cargo test --all-features --test soak -- --nocapture` prints its figures;
//! `SESSION_CACHE_SOAK_SECONDS` sets how long it takes, and `SESSION_CACHE_SEED` repeats its
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
/// So many refused tokens are remembered by each node.
const MOST_REFUSALS: u64 = 10_000;
/// No request may take longer, by its deadline; and as much again for a machine that is slow.
const LATE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
enum Outage {
    None,
    Down,
    Throttled,
    Slow,
    Hanging,
}

/// Each place has one session at a time, of which this is the number. What was logged out it never
/// accepts again.
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
    /// The logouts that have returned, and on which node they hold if not on all.
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
                // Short lives and little room, so that every bound is met.
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

    /// A session ends here and a new one begins: all the others go on.
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

    /// As many guesses as are remembered, so that nothing has to grow afterwards to be full.
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
                    // Some are asked for far more often than others.
                    let most = random.random_range(1..=SESSIONS);
                    let text = self.provider.token(random.random_range(0..most));
                    self.request(node, &text).await;
                }
            }
            // In-process answers never wait, and others want to run.
            tokio::task::yield_now().await;
        }
    }

    /// One failure after the other, with time to recover between them.
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

/// Resident memory of this process, in KiB.
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
        soon("a node full of refusals", fill).await.unwrap();
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(Arc::clone(&world).client(client)))
        .collect();
    let chaos = tokio::spawn(Arc::clone(&world).chaos());

    // The first third fills all that is bounded.
    let third = Duration::from_secs(seconds()) / 3;
    let mut peaks = Vec::new();
    for _ in 0..3 {
        let until = Instant::now() + third;
        let mut peak = 0;
        while Instant::now() < until {
            tokio::time::sleep(third.min(Duration::from_millis(500))).await;
            // What it has read along is of no use here, and would be all that grows.
            world.proxy.commands();
            peak = peak.max(memory().unwrap_or_default());
        }
        peaks.push(peak);
    }
    world.ends.store(true, SeqCst);
    for task in clients.into_iter().chain([chaos]) {
        soon("the end of a task", task).await.unwrap();
    }

    // All is well again, and everybody who is logged in is let in, from Redis.
    for (cache, layer) in &world.nodes {
        until("the flights to land", || {
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
        "soak: {} s, {} served ({} from Redis), {} refused, {} unavailable, {} logouts, slowest {} \
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
    // What an allocator keeps varies; a leak at this rate does not stop at a quarter.
    assert!(peaks[2] <= peaks[1] + peaks[1] / 4, "{peaks:?} KiB");
}
