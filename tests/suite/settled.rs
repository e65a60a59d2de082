//! No node serves a session once its revocation has settled: with local caches, messages of Redis
//! that never arrive, and a node that stands still. Porcupine judges the same history.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheLayer, UserData,
    ValidatedSession,
};

use crate::support::{
    client::{ask, ask_for_all, token},
    history::{History, Verdict},
    probe::{Probe, authority},
    proxy::{Fault, Proxy},
    redis::Redis,
    soon,
};

const NODES: usize = 8;
/// Nodes to which Redis's messages are lost, and with each of them the rest of the connection.
const DEAF: [usize; 2] = [5, 6];
/// Node that stands still from time to time, with its listener, its connections and its requests.
const FROZEN: usize = 7;
const LEASE: Duration = Duration::from_millis(250);
const LONG: Duration = Duration::from_secs(3_600);
/// Requests to each node for each revoked token: before it has settled, and afterwards.
const BEFORE: usize = 9;
const AFTER: usize = 4;
/// Revocations that are in progress at the same time.
const TASKS: usize = 8;

fn revocations() -> usize {
    match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 1_000,
        None => 96,
    }
}

/// Number of a token in the history. Each session has two tokens, `t<n>-a` and `t<n>-b`.
fn text(number: usize) -> String {
    format!("t{}-{}", number / 2, ["a", "b"][number % 2])
}

/// Accepts every token, even after the end of its session.
fn provider() -> Probe {
    Probe::answering(|text| {
        let (login, _) = text.split_once('-').unwrap();
        Ok(ValidatedSession::new(UserData::new(format!("user-{login}"))).with_session_id(login))
    })
}

struct Node {
    layer: SessionCacheLayer<Probe>,
    cache: SessionCache,
    /// The runtime of its tasks.
    runtime: Handle,
}

impl Node {
    fn new(url: &str, runtime: Handle) -> Self {
        let _inside = runtime.enter();
        // Without replies, only the provider would decide. So no lookup may time out.
        let redis = RedisConfig::single(url).timeout(Duration::from_secs(20));
        let cache = SessionCache::builder()
            .redis(redis)
            .unwrap()
            .local_cache(LocalCacheConfig::new(10_000).lease(LEASE))
            .build()
            .unwrap();
        Self {
            layer: SessionCacheLayer::new(cache.clone(), provider()),
            cache,
            runtime,
        }
    }
}

struct World {
    nodes: Vec<Node>,
    history: History,
    /// For each node the number of requests that were served from its memory.
    served_locally: [AtomicUsize; NODES],
    /// Requests that were served while the revocation was in progress.
    served_late: AtomicUsize,
    /// For each revocation the time from its call until it had settled, unless its node may have
    /// stood still.
    durations: Mutex<Vec<Duration>>,
}

impl World {
    /// Sends a request, and returns whether it was served.
    async fn ask(self: &Arc<Self>, node: usize, number: usize) -> bool {
        let world = Arc::clone(self);
        // The request is waiting before the node goes on, if it stands still.
        let called = self.history.call();
        let request = self.nodes[node].runtime.spawn(async move {
            let answer = ask(&world.nodes[node].layer, &text(number)).await;
            let is_served = match &answer {
                Ok((_, origin)) => {
                    let is_local = usize::from(*origin == Origin::Local);
                    world.served_locally[node].fetch_add(is_local, SeqCst);
                    true
                }
                Err(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => false,
                Err(status) => panic!("{status}"),
            };
            world.history.answered(node, number, called, is_served);
            is_served
        });
        request.await.unwrap()
    }

    /// Ends a session in one of four ways, while every node is asked for both of its tokens.
    async fn end(self: &Arc<Self>, session: usize) {
        let numbers = [2 * session, 2 * session + 1];
        for node in 0..NODES {
            for number in numbers {
                // After a validation, after a lookup, and from memory.
                for _ in 0..3 {
                    assert!(self.ask(node, number).await);
                }
            }
        }
        let settled = Arc::new(AtomicBool::new(false));
        let probes: Vec<_> = (0..NODES)
            .flat_map(|node| numbers.map(|number| (node, number)))
            .map(|(node, number)| {
                let (world, settled) = (Arc::clone(self), Arc::clone(&settled));
                tokio::spawn(async move {
                    for _ in 0..BEFORE {
                        if world.ask(node, number).await {
                            world.served_late.fetch_add(1, SeqCst);
                        }
                        if settled.load(SeqCst) {
                            break;
                        }
                        // Spreads the requests over the lease.
                        tokio::time::sleep(LEASE / BEFORE as u32).await;
                    }
                })
            })
            .collect();
        self.revoke(session).await;
        settled.store(true, SeqCst);
        let after: Vec<_> = (0..NODES)
            .flat_map(|node| numbers.map(|number| (node, number)))
            .map(|(node, number)| {
                let world = Arc::clone(self);
                tokio::spawn(async move {
                    for _ in 0..AFTER {
                        let is_served = world.ask(node, number).await;
                        assert!(!is_served, "node {node} served {}", text(number));
                    }
                })
            })
            .collect();
        for probe in probes.into_iter().chain(after) {
            soon("the requests", probe).await.unwrap();
        }
    }

    /// Revokes both tokens, and waits until that has settled.
    async fn revoke(self: &Arc<Self>, session: usize) {
        let node = session % NODES;
        let (kind, id) = (session / NODES % 4, format!("t{session}"));
        let numbers = [2 * session, 2 * session + 1];
        let world = Arc::clone(self);
        let revocation = self.nodes[node].runtime.spawn(async move {
            let Node { layer, cache, .. } = &world.nodes[node];
            let (_, info) = ask_for_all(layer, &text(numbers[0])).await.unwrap();
            let (authority, user) = (authority(), format!("user-{id}"));
            let called = world.history.call();
            let began = Instant::now();
            let revocation = match kind {
                0 => cache.log_out(&info).await,
                1 => cache.end_session(&authority, &id).await,
                2 => cache.ban_user(&authority, &user, LONG).await,
                _ => {
                    let [a, b] = numbers.map(|number| token(&text(number)));
                    let _ = cache.revoke_token(&a).await.unwrap();
                    cache.revoke_token(&b).await
                }
            };
            revocation.unwrap().settled().await;
            for number in numbers {
                world.history.settled(node, number, called);
            }
            if node != FROZEN {
                world.durations.lock().unwrap().push(began.elapsed());
            }
        });
        soon("a revocation", revocation).await.unwrap();
    }
}

/// Starts a thread for a node's tasks. It stands still for as long as a task blocks it, and ends
/// when the sender is dropped.
fn one_thread() -> (Handle, oneshot::Sender<()>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || runtime.block_on(ended));
    (handle, end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_node_serves_a_session_after_its_revocation_has_settled() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let (alone, _end) = one_thread();
    let world = Arc::new(World {
        nodes: (0..NODES)
            .map(|node| match node {
                FROZEN => Node::new(&redis.url(), alone.clone()),
                _ if DEAF.contains(&node) => Node::new(&proxy.url(), Handle::current()),
                _ => Node::new(&redis.url(), Handle::current()),
            })
            .collect(),
        history: History::new(),
        served_locally: Default::default(),
        served_late: AtomicUsize::new(0),
        durations: Mutex::default(),
    });
    for node in 0..NODES {
        // A token that is not revoked.
        let number = 2 * revocations();
        soon("a local hit", async {
            while world.served_locally[node].load(SeqCst) == 0 {
                world.ask(node, number).await;
            }
        })
        .await;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (world, next) = (Arc::clone(&world), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let session = next.fetch_add(1, SeqCst);
                    if session >= revocations() {
                        return;
                    }
                    world.end(session).await;
                }
            })
        })
        .collect();
    // Both faults come and go, so that these nodes hold a lease in between.
    let mut rounds = 0;
    while tasks.iter().any(|task| !task.is_finished()) {
        proxy.fault(Fault::SwallowPushes);
        alone
            .spawn(async { std::thread::sleep(2 * LEASE) })
            .await
            .unwrap();
        proxy.fault(Fault::None);
        tokio::time::sleep(4 * LEASE).await;
        rounds += 1;
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut durations = world.durations.lock().unwrap().clone();
    durations.sort();
    let at = |share: f64| durations[((durations.len() - 1) as f64 * share) as usize];
    let served_locally = world.served_locally.each_ref().map(|n| n.load(SeqCst));
    println!(
        "{} revocations; {rounds} times a node stood still and pushes were lost, on {} connections; \
         {served_locally:?} requests served from the memory of each node, {} during their revocation; \
         settled within {:?} (median), {:?} (99 %), with a lease of {LEASE:?}",
        revocations(),
        proxy.swallowed(),
        world.served_late.load(SeqCst),
        at(0.5),
        at(0.99),
    );
    assert!(proxy.swallowed() > 0, "no push was lost");
    if let Some(verdict) = world.history.check() {
        assert_eq!(verdict, Verdict::Linearizable);
    }
}
