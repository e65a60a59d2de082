//! Environment of the stress tests: several nodes, the Python service, revocations and faults, all
//! at random, and an oracle that decides for each response whether it was allowed.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bb8_redis::redis::{Client, Cmd, cmd};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::RwLock;
use tower_session_cache::{
    Authority, LocalCacheConfig, Namespace, Origin, RedisConfig, SessionCache, SessionCacheLayer,
    SessionToken, SessionValidator, Stats, UserData, ValidatedSession, ValidationError,
};

use super::{
    client::{ask, ask_for_all, token},
    cluster::{Cluster, Plan},
    peer::{self, mark_key, session_key, tomb_key},
    redis::Redis,
    soon,
};

const USERS: usize = 4;
const TOKENS: usize = 3;

/// Settings of a run.
#[derive(Clone, Copy)]
pub struct Settings {
    pub name: &'static str,
    pub nodes: usize,
    /// Redis freezes and restarts. With a local cache, listeners are also cut and the server is
    /// flushed. A cluster's primaries are killed, and its slots moved.
    pub with_chaos: bool,
    pub is_cluster: bool,
    /// Lease of the local cache, if any. Every second local cache tracks revocations only.
    pub lease: Option<Duration>,
}

/// Size of the hosted runs, or of a full run.
pub fn requests() -> usize {
    match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 1_000_000,
        None => 50_000,
    }
}

/// State of the provider: for each token the number of its last change, which is the tier of its
/// user.
#[derive(Default)]
struct Truth {
    versions: Mutex<HashMap<String, u64>>,
    /// Sessions that were logged out.
    dead: Mutex<HashSet<String>>,
}

#[derive(Clone)]
struct Provider {
    truth: Arc<Truth>,
    /// Whether the provider goes on accepting tokens that were logged out.
    forgives: bool,
}

/// Returns the session of a token that is used for one logout: what comes before the dot.
fn session_of(text: &str) -> Option<&str> {
    Some(text.split_once('.')?.0)
}

fn user_of(text: &str) -> String {
    text.split('-').next().unwrap().to_owned()
}

impl Truth {
    fn version(&self, text: &str) -> u64 {
        self.versions
            .lock()
            .unwrap()
            .get(text)
            .copied()
            .unwrap_or_default()
    }

    fn change(&self, text: &str) -> u64 {
        let mut versions = self.versions.lock().unwrap();
        let version = versions.entry(text.to_owned()).or_default();
        *version += 1;
        *version
    }
}

async fn pause(random: &mut StdRng) {
    match random.random_range(0..4) {
        0 => {}
        1 | 2 => {
            for _ in 0..random.random_range(0..20) {
                tokio::task::yield_now().await;
            }
        }
        _ => tokio::time::sleep(Duration::from_micros(random.random_range(0..2_000))).await,
    }
}

impl SessionValidator for Provider {
    fn namespace(&self) -> Namespace {
        super::probe::namespace()
    }

    fn authority(&self) -> Authority {
        super::probe::authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let mut random = StdRng::from_rng(&mut rand::rng());
        pause(&mut random).await;
        let text = token.expose_secret();
        let session = session_of(text);
        let is_dead = |id: &str| self.truth.dead.lock().unwrap().contains(id);
        if !self.forgives && session.is_some_and(is_dead) {
            return Err(ValidationError::invalid());
        }
        let version = self.truth.version(text).to_string();
        pause(&mut random).await;
        let user = UserData::builder(user_of(text)).tier(version).build();
        let validated = ValidatedSession::new(user);
        Ok(match session {
            Some(id) => validated.with_session_id(id),
            None => validated,
        })
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

/// Changes whose revocations have returned, for all nodes or for one.
struct Floors(HashMap<String, Mutex<Vec<Change>>>);

#[derive(Clone, Copy)]
struct Change {
    /// Time by which the revocation had returned.
    at: Instant,
    version: u64,
    /// Hash slot of the change, on a cluster.
    slot: u16,
}

/// Kill of a primary, and the slots that it held.
struct Kill {
    at: Instant,
    slots: Vec<u16>,
}

/// If a primary is killed within this time after it acknowledged a write, the write may be lost.
const UNREPLICATED: Duration = Duration::from_secs(5);

impl Floors {
    fn new(texts: &[String]) -> Self {
        let empty = |text: &String| (text.clone(), Mutex::default());
        Self(texts.iter().map(empty).collect())
    }

    /// Returns the version of the last change, or of the last change that had returned by a time.
    fn get(&self, text: &str, by: Option<Instant>) -> u64 {
        let changes = self.0[text].lock().unwrap();
        let mut latest = changes.iter().rev();
        let latest = latest.find(|change| by.is_none_or(|by| change.at <= by));
        latest.map_or(0, |change| change.version)
    }

    /// Returns the time by which the revocation of the first change after the served version had
    /// returned.
    fn unknown_since(&self, text: &str, served: u64) -> Option<Instant> {
        let changes = self.0[text].lock().unwrap();
        let unknown = changes.iter().rev();
        let unknown = unknown.take_while(|change| change.version > served);
        unknown.last().map(|change| change.at)
    }

    fn raise(&self, text: &str, version: u64, slot: u16) {
        let mut changes = self.0[text].lock().unwrap();
        let last = changes.last().map_or(0, |last| last.version);
        let at = Instant::now();
        let version = version.max(last);
        changes.push(Change { at, version, slot });
    }

    /// Whether every revocation after this version was acknowledged by a primary that may have been
    /// killed before it replicated the revocation.
    fn are_lost_since(&self, text: &str, version: u64, kills: &[Kill]) -> bool {
        let changes = self.0[text].lock().unwrap();
        let mut since = changes.iter().filter(|change| change.version > version);
        since.all(|change| {
            kills.iter().any(|kill| {
                let apart = kill.at.max(change.at) - kill.at.min(change.at);
                apart < UNREPLICATED && kill.slots.contains(&change.slot)
            })
        })
    }
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    from_redis: AtomicUsize,
    from_memory: AtomicUsize,
    /// For each request that was served from before a revocation: the time from the return of the
    /// revocation to the start of the request.
    late: Mutex<Vec<Duration>>,
    revocations: AtomicUsize,
    queued: AtomicUsize,
    /// Responses from before a revocation that Redis acknowledged and then lost.
    lost: AtomicUsize,
    kills: AtomicUsize,
    moves: AtomicUsize,
}

enum Store {
    Server(Mutex<Redis>),
    Cluster(Mutex<Cluster>),
}

struct World {
    settings: Settings,
    seed: u64,
    /// The task that flushes the server holds the write lock. Tasks that may store what was
    /// validated before a revocation hold the read lock: if the flush removed that revocation, no
    /// node could detect the loss.
    flush: RwLock<()>,
    store: Store,
    urls: Vec<String>,
    /// On a cluster, the slots of the keys for which all tasks race.
    slots: HashMap<String, u16>,
    kills: Mutex<Vec<Kill>>,
    truth: Arc<Truth>,
    texts: Vec<String>,
    nodes: Vec<(SessionCache, SessionCacheLayer<Provider>)>,
    everywhere: Floors,
    here: Vec<Floors>,
    counts: Counts,
    ends: AtomicBool,
}

impl World {
    fn new(seed: u64, settings: Settings) -> Arc<Self> {
        let truth = Arc::<Truth>::default();
        let texts: Vec<_> = (0..USERS)
            .flat_map(|user| (0..TOKENS).map(move |n| format!("user{user}-token{n}")))
            .collect();
        let (store, urls, slots) = if settings.is_cluster {
            let cluster = Cluster::planned(Plan {
                node_timeout: Duration::from_secs(4),
                ..Plan::default()
            });
            let keys = texts
                .iter()
                .flat_map(|text| [tomb_key(text), mark_key(&user_of(text))]);
            let slots = keys.map(|key| (key.clone(), cluster.slot(&key))).collect();
            let urls = cluster.urls();
            (Store::Cluster(Mutex::new(cluster)), urls, slots)
        } else {
            let redis = Redis::start();
            let urls = vec![redis.url()];
            (Store::Server(Mutex::new(redis)), urls, HashMap::new())
        };
        // A restart loses tombstones. The provider must then reject the token. Without chaos, no
        // lookup may time out, because the provider alone would then decide.
        // On a cluster, primaries are killed, and a caller need not wait until they are replaced.
        let (forgives, timeout) = match settings {
            Settings {
                with_chaos: false, ..
            } => (true, Duration::from_secs(60)),
            Settings {
                is_cluster: true, ..
            } => (false, Duration::from_secs(1)),
            _ => (false, Duration::from_millis(100)),
        };
        let nodes = (0..settings.nodes).map(|n| {
            let redis = if settings.is_cluster {
                RedisConfig::cluster(&urls)
            } else {
                RedisConfig::single(&urls[0])
            };
            let mut builder = SessionCache::builder()
                .redis(redis.timeout(timeout))
                .unwrap()
                // Disabled, because a refresh would outlive its request and could overlap a flush.
                .refresh_ahead(100);
            if let Some(lease) = settings.lease {
                let local = LocalCacheConfig::new(1_000).lease(lease);
                builder = builder.local_cache(match n % 2 {
                    0 => local,
                    _ => local.revocations_only(),
                });
            }
            let cache = builder.build().unwrap();
            let truth = Arc::clone(&truth);
            let provider = Provider { truth, forgives };
            (cache.clone(), SessionCacheLayer::new(cache, provider))
        });
        Arc::new(Self {
            settings,
            seed,
            flush: RwLock::new(()),
            nodes: nodes.collect(),
            store,
            urls,
            slots,
            kills: Mutex::default(),
            truth,
            everywhere: Floors::new(&texts),
            here: (0..settings.nodes).map(|_| Floors::new(&texts)).collect(),
            texts,
            counts: Counts::default(),
            ends: AtomicBool::new(false),
        })
    }

    async fn request(&self, node: usize, text: &str) {
        let began = Instant::now();
        let floor = self.floor(node, text, None);
        let in_memory = self.lease_ago().map(|by| self.floor(node, text, Some(by)));
        let answer = {
            let _shared = self.flush.read().await;
            ask(&self.nodes[node].1, text).await
        };
        self.counts.requests.fetch_add(1, SeqCst);
        match answer {
            Ok((user, origin)) => {
                let (floor, count) = match origin {
                    Origin::Local => (in_memory.expect("a lease"), &self.counts.from_memory),
                    Origin::Redis => (floor, &self.counts.from_redis),
                    _ => (floor, &AtomicUsize::new(0)),
                };
                count.fetch_add(1, SeqCst);
                let served: u64 = user.tier().parse().unwrap();
                let seed = self.seed;
                if served < floor && self.is_lost_since(node, text, served) {
                    self.counts.lost.fetch_add(1, SeqCst);
                    return;
                }
                let unknown_since = self.everywhere.unknown_since(text, served);
                if let Some(late) = unknown_since.and_then(|at| began.checked_duration_since(at)) {
                    self.counts.late.lock().unwrap().push(late);
                }
                assert!(
                    served >= floor,
                    "{text} was served as of {served} by {origin:?} on node {node}, after {floor} \
                     was revoked; seed {seed}"
                );
            }
            Err(status) => assert_eq!(status, 503, "seed {}", self.seed),
        }
    }

    fn slot(&self, key: &str) -> u16 {
        self.slots.get(key).copied().unwrap_or_default()
    }

    fn is_lost_since(&self, node: usize, text: &str, version: u64) -> bool {
        let kills = self.kills.lock().unwrap();
        [&self.everywhere, &self.here[node]]
            .into_iter()
            .all(|floors| floors.are_lost_since(text, version, &kills))
    }

    /// Returns the version of the last revocation on another node by a time, or on this one by now.
    fn floor(&self, node: usize, text: &str, by: Option<Instant>) -> u64 {
        let elsewhere = self.everywhere.get(text, by);
        elsewhere.max(self.here[node].get(text, None))
    }

    fn lease_ago(&self) -> Option<Instant> {
        Instant::now().checked_sub(self.settings.lease?)
    }

    /// Makes the change at the provider first, then revokes in the cache. Requests may rely on a
    /// revocation that has returned.
    async fn revoke(&self, node: usize, text: &str, by_user: bool) {
        let user = user_of(text);
        let changed: Vec<_> = if by_user {
            let of_user = self.texts.iter().filter(|text| user_of(text) == user);
            of_user
                .map(|text| (text.as_str(), self.truth.change(text)))
                .collect()
        } else {
            vec![(text, self.truth.change(text))]
        };
        let cache = &self.nodes[node].0;
        let _shared = self.flush.read().await;
        let outcome = if by_user {
            cache.invalidate_user(&user).await
        } else {
            cache.invalidate_token(&token(text)).await
        };
        self.counts.revocations.fetch_add(1, SeqCst);
        if outcome.is_err() {
            self.counts.queued.fetch_add(1, SeqCst);
        }
        let mark = self.slot(&mark_key(&user));
        for (text, version) in changed {
            let slot = if by_user {
                mark
            } else {
                self.slot(&tomb_key(text))
            };
            self.here[node].raise(text, version, slot);
            if outcome.is_ok() {
                self.everywhere.raise(text, version, slot);
            }
        }
    }

    /// Uses a separate session of several tokens, which is logged out with one of them, or by its ID,
    /// and must stay logged out.
    async fn logout(&self, random: &mut StdRng) {
        let node = random.random_range(0..self.nodes.len());
        let id = format!("user0-once{}", random.random::<u64>());
        let texts = ["a", "b", "later"].map(|token| format!("{id}.{token}"));
        let _shared = self.flush.read().await;
        for (_, layer) in &self.nodes {
            for text in &texts[..2] {
                let _ = ask(layer, text).await;
            }
        }
        let (cache, layer) = &self.nodes[node];
        let session = ask_for_all(layer, &texts[0]).await.ok();
        // On a cluster, a failover may lose whose marks the session has.
        let by_id = !self.settings.is_cluster && random.random_range(0..2) == 0;
        self.truth.dead.lock().unwrap().insert(id.clone());
        let outcome = match session {
            _ if by_id => cache.end_session(&super::probe::authority(), &id).await,
            Some((_, session)) => cache.log_out(&session).await,
            None => return,
        };
        let returned = Instant::now();
        self.counts.revocations.fetch_add(1, SeqCst);
        for other in 0..self.nodes.len() {
            if outcome.is_err() && other != node {
                continue;
            }
            for text in &texts {
                let is_late = self.lease_ago().is_none_or(|by| returned <= by);
                let answer = ask(&self.nodes[other].1, text).await;
                let allowed = match &answer {
                    Ok((_, origin)) => *origin == Origin::Local && other != node && !is_late,
                    Err(status) => *status == 401 || *status == 503,
                };
                assert!(
                    allowed,
                    "{text} was served after its logout; seed {}",
                    self.seed
                );
            }
        }
    }

    async fn client(self: Arc<Self>, task: u64, requests: usize) {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(task));
        let mut made = 0;
        while made < requests || !self.has_seen_enough() {
            let node = random.random_range(0..self.nodes.len());
            let text = &self.texts[random.random_range(0..self.texts.len())];
            match random.random_range(0..1_000) {
                0..15 => self.revoke(node, text, false).await,
                15..30 => self.revoke(node, text, true).await,
                30..33 => self.logout(&mut random).await,
                _ => {
                    self.request(node, text).await;
                    made += 1;
                }
            }
        }
    }

    /// The Python service: validates, writes blindly, and resets passwords in its own way. Its
    /// calls block, and go to a server that may be paused, so it has a separate thread.
    fn peer(&self) {
        let mut random = StdRng::seed_from_u64(self.seed);
        while !self.ends.load(SeqCst) {
            let text = &self.texts[random.random_range(0..self.texts.len())];
            let _shared = self.flush.blocking_read();
            let now = chrono::Utc::now().timestamp_micros() as f64 / 1e6;
            if random.random_range(0..10) > 0 {
                let mut record = peer::record(&user_of(text), now);
                record["tier"] = self.truth.version(text).to_string().into();
                std::thread::sleep(Duration::from_micros(random.random_range(0..3_000)));
                let mut setex = cmd("SETEX");
                setex
                    .arg(session_key(text))
                    .arg(300)
                    .arg(record.to_string());
                let _ = self.peers(&setex);
            } else {
                let user = user_of(text);
                let of_user = self.texts.iter().filter(|text| user_of(text) == user);
                let changed: Vec<_> = of_user
                    .map(|text| (text, self.truth.change(text)))
                    .collect();
                let mut set = cmd("SET");
                let now = chrono::Utc::now().timestamp_micros() as f64 / 1e6;
                set.arg(mark_key(&user))
                    .arg(now.to_string())
                    .arg("EX")
                    .arg(2_592_000);
                if self.peers(&set) {
                    let slot = self.slot(&mark_key(&user));
                    for (text, version) in changed {
                        self.everywhere.raise(text, version, slot);
                    }
                }
            }
        }
    }

    /// Whether a server has carried out a command of the Python service. On a cluster, any node
    /// that accepts it is sufficient.
    fn peers(&self, command: &Cmd) -> bool {
        let wait = Duration::from_millis(300);
        self.urls.iter().any(|url| {
            let client = Client::open(url.as_str()).unwrap();
            client
                .get_connection_with_timeout(wait)
                .and_then(|mut connection| {
                    connection.set_read_timeout(Some(wait))?;
                    command.query::<()>(&mut connection)
                })
                .is_ok()
        })
    }

    /// Whether the run has covered enough cases for the race to end. On a busy machine the requests
    /// may be over before a lease was held or a primary was replaced.
    fn has_seen_enough(&self) -> bool {
        let count = |count: &AtomicUsize| count.load(SeqCst);
        let Counts {
            kills,
            moves,
            from_memory,
            from_redis,
            ..
        } = &self.counts;
        let Settings {
            is_cluster, lease, ..
        } = self.settings;
        let has_moved = !is_cluster || (count(kills) > 1 && count(moves) > 9);
        let has_raced = count(from_redis) > 99 && (lease.is_none() || count(from_memory) > 99);
        self.ends.load(SeqCst) || (has_moved && has_raced)
    }

    fn chaos(&self) {
        match &self.store {
            Store::Server(redis) => self.chaos_of_server(redis),
            Store::Cluster(cluster) => self.chaos_of_cluster(&mut cluster.lock().unwrap()),
        }
    }

    /// Kills primaries with SIGKILL and restarts them as replicas, and moves slots key by key.
    fn chaos_of_cluster(&self, cluster: &mut Cluster) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 1);
        let mut slots: Vec<_> = self.slots.values().copied().collect();
        slots.sort_unstable();
        let mut round = 0;
        while !self.ends.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(random.random_range(50..300)));
            round += 1;
            if round % 6 == 0 {
                let killed = cluster.owner(slots[random.random_range(0..slots.len())]);
                let held = slots.iter().copied();
                let held = held.filter(|slot| cluster.owner(*slot) == killed).collect();
                cluster.nodes[killed].kill();
                self.kills.lock().unwrap().push(Kill {
                    at: Instant::now(),
                    slots: held,
                });
                cluster.until_whole();
                cluster.nodes[killed].restart();
                cluster.until_replica(killed);
                self.counts.kills.fetch_add(1, SeqCst);
            } else {
                let slot = slots[random.random_range(0..slots.len())];
                let primaries = cluster.primaries();
                let to = primaries[random.random_range(0..primaries.len())];
                if to == cluster.owner(slot) {
                    continue;
                }
                let moved = cluster.begin_move(slot, to);
                for most in [1, 2] {
                    std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
                    cluster.move_keys(moved, most);
                }
                std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
                cluster.end_move(moved);
                cluster.until_whole();
                self.counts.moves.fetch_add(1, SeqCst);
            }
        }
    }

    fn chaos_of_server(&self, redis: &Mutex<Redis>) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 1);
        let kinds = if self.settings.lease.is_some() { 6 } else { 3 };
        while !self.ends.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(random.random_range(200..600)));
            let mut redis = redis.lock().unwrap();
            match random.random_range(0..kinds) {
                0 => {
                    redis.kill();
                    redis.restart();
                }
                1 | 2 => {
                    redis.pause();
                    std::thread::sleep(Duration::from_millis(random.random_range(10..300)));
                    redis.resume();
                }
                3 => {
                    let _alone = self.flush.blocking_write();
                    redis.run::<()>(&cmd("FLUSHALL"));
                }
                _ => {
                    for listener in redis.listeners() {
                        if random.random_range(0..2) == 0 {
                            redis.end_client(listener);
                        }
                    }
                }
            }
        }
    }
}

/// Returns the seed from the environment, to repeat a run, or a new one.
pub fn seed(name: &str) -> u64 {
    let seed = std::env::var("SESSION_CACHE_SEED").map_or_else(
        |_| rand::rng().random(),
        |seed| seed.parse().expect("SESSION_CACHE_SEED is a number"),
    );
    println!("{name}: SESSION_CACHE_SEED={seed}");
    seed
}

pub async fn run(settings: Settings, requests: usize) {
    const TASKS: usize = 48;
    let Settings {
        name,
        with_chaos,
        lease,
        ..
    } = settings;
    let world = World::new(seed(name), settings);
    let others: Vec<_> = [
        Some(World::peer as fn(&World)),
        with_chaos.then_some(World::chaos),
    ]
    .into_iter()
    .flatten()
    .map(|other| {
        let world = Arc::clone(&world);
        std::thread::spawn(move || other(&world))
    })
    .collect();
    let share = requests.div_ceil(TASKS);
    let clients: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(Arc::clone(&world).client(task as u64, share)))
        .collect();
    // 10 ms per request is many times the duration of the requests on a busy machine.
    let patience = Duration::from_millis(10) * u32::try_from(requests).unwrap();
    for client in clients {
        let ended = tokio::time::timeout(patience, client).await;
        ended.expect("an end").unwrap();
    }
    world.ends.store(true, SeqCst);
    for other in others {
        soon(
            "the end of a thread",
            tokio::task::spawn_blocking(move || other.join().unwrap()),
        )
        .await
        .unwrap();
    }
    let stats: Vec<_> = world.nodes.iter().map(|(cache, _)| cache.stats()).collect();
    let sum = |of: fn(&Stats) -> u64| stats.iter().map(of).sum::<u64>();
    let Counts {
        requests,
        from_redis,
        from_memory,
        late,
        revocations,
        queued,
        lost,
        kills,
        moves,
    } = &world.counts;
    let late = late.lock().unwrap();
    println!(
        "{name}: {} requests, {} from memory ({} of them late, by up to {:?}), {} from Redis, {} \
         validations, {} joined, {} overtaken, {} revocations, {} queued, {} epochs; {} primaries \
         killed, {} slots moved, {} answers from before a revocation that was acknowledged and lost",
        requests.load(SeqCst),
        from_memory.load(SeqCst),
        late.len(),
        late.iter().max().copied().unwrap_or_default(),
        from_redis.load(SeqCst),
        sum(|stats| stats.validations),
        sum(|stats| stats.coalesced),
        sum(|stats| stats.fill_conflicts),
        revocations.load(SeqCst),
        queued.load(SeqCst),
        sum(|stats| stats.local_resets),
        kills.load(SeqCst),
        moves.load(SeqCst),
        lost.load(SeqCst),
    );
    assert_eq!(from_memory.load(SeqCst) > 0, lease.is_some());
    assert!(
        from_redis.load(SeqCst) > 0 && sum(|stats| stats.coalesced) > 0,
        "nothing raced"
    );
    assert!(
        sum(|stats| stats.fill_conflicts) > 0,
        "nothing was overtaken"
    );
    assert_eq!(queued.load(SeqCst) > 0, with_chaos);
}
