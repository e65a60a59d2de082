//! Failovers under load. A revoked session is served only if a failover has lost a revocation that
//! Redis had acknowledged. Each such case is counted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bb8_redis::redis::cmd;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tower_session_cache::{
    Authority, Namespace, Origin, RedisConfig, SessionCache, SessionCacheLayer, SessionToken,
    SessionValidator, UserData, ValidatedSession, ValidationError,
};

use crate::support::{
    client::{ask, token},
    peer::{mark_key, tomb_key},
    redis::Redis,
    sentinel::{NAME, Set},
    soon,
    world::seed,
};

const NODES: usize = 3;
const USERS: usize = 4;
const TOKENS: usize = 3;
const FAILOVERS: usize = 3;
const TASKS: usize = 16;

/// Accepts every token forever, so that only Redis knows which tokens were logged out. Each change
/// of a token has a number, which is the tier of its user.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<HashMap<String, u64>>>);

impl Provider {
    fn change(&self, text: &str) -> u64 {
        let mut versions = self.0.lock().unwrap();
        let version = versions.entry(text.to_owned()).or_default();
        *version += 1;
        *version
    }
}

impl SessionValidator for Provider {
    fn namespace(&self) -> Namespace {
        crate::support::probe::namespace()
    }

    fn authority(&self) -> Authority {
        crate::support::probe::authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let text = token.expose_secret();
        let version = self.0.lock().unwrap().get(text).copied();
        tokio::task::yield_now().await;
        let tier = version.unwrap_or_default().to_string();
        Ok(UserData::builder(user_of(text)).tier(tier).build().into())
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

fn user_of(text: &str) -> String {
    text.split('-').next().unwrap().to_owned()
}

/// A revocation that Redis has acknowledged.
#[derive(Clone, Debug)]
struct Acknowledged {
    version: u64,
    /// Time on the clock of this machine, which all servers share.
    began: f64,
    replicas: Option<u32>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    from_redis: AtomicUsize,
    revocations: AtomicUsize,
    queued: AtomicUsize,
    logouts: AtomicUsize,
    /// Acknowledged revocations that both replicas had.
    replicated: AtomicUsize,
    /// Requests with a logged-out token that were served while Redis was unavailable.
    out_of_reach: AtomicUsize,
    /// Requests that were served a session whose revocation was lost.
    stale: AtomicUsize,
}

struct Load {
    seed: u64,
    provider: Provider,
    nodes: Vec<(SessionCache, SessionCacheLayer<Provider>)>,
    texts: Vec<String>,
    changes: Mutex<HashMap<String, Vec<Acknowledged>>>,
    logouts: Mutex<Vec<(String, Acknowledged)>>,
    /// Sessions served despite a revocation. Whether it was lost is checked between failovers.
    suspects: Mutex<Vec<(String, Acknowledged)>>,
    counts: Counts,
    ends: AtomicBool,
}

fn now() -> f64 {
    chrono::Utc::now().timestamp_micros() as f64 / 1e6
}

impl Load {
    async fn request(&self, node: usize, text: &str) {
        let known = self.changes.lock().unwrap().get(text).cloned();
        let answer = ask(&self.nodes[node].1, text).await;
        self.counts.requests.fetch_add(1, SeqCst);
        let Ok((user, origin)) = answer else { return };
        if origin == Origin::Redis {
            self.counts.from_redis.fetch_add(1, SeqCst);
        }
        let served: u64 = user.tier().parse().unwrap();
        // The last revocation of those that had returned before the request began.
        let newest = known.into_iter().flatten().max_by_key(|it| it.version);
        if let Some(newest) = newest.filter(|newest| served < newest.version) {
            self.suspect(text, newest);
        }
    }

    async fn request_logged_out(&self, node: usize, random: u64) {
        let logout = {
            let logouts = self.logouts.lock().unwrap();
            let Some(last) = logouts.len().checked_sub(1) else {
                return;
            };
            logouts[usize::try_from(random).unwrap() % (last + 1)].clone()
        };
        self.must_refuse(node, &logout).await;
    }

    async fn must_refuse(&self, node: usize, (text, logout): &(String, Acknowledged)) {
        let (cache, layer) = &self.nodes[node];
        self.counts.requests.fetch_add(1, SeqCst);
        let before = cache.stats();
        let Ok((_, origin)) = ask(layer, text).await else {
            return;
        };
        let after = cache.stats();
        // Without Redis the provider alone decides, and this provider accepts every token.
        let was_out_of_reach = before.redis_circuit_open
            || after.redis_circuit_open
            || before.redis_errors < after.redis_errors;
        if origin == Origin::Validator && was_out_of_reach {
            self.counts.out_of_reach.fetch_add(1, SeqCst);
        } else {
            self.suspect(text, logout.clone());
        }
    }

    fn suspect(&self, text: &str, revocation: Acknowledged) {
        let mut suspects = self.suspects.lock().unwrap();
        suspects.push((text.to_owned(), revocation));
    }

    async fn revoke(&self, node: usize, text: &str, by_user: bool) {
        let user = user_of(text);
        let changed: Vec<_> = self
            .texts
            .iter()
            .filter(|other| *other == text || (by_user && user_of(other) == user))
            .map(|text| (text, self.provider.change(text)))
            .collect();
        let began = now();
        let cache = &self.nodes[node].0;
        let outcome = if by_user {
            cache.invalidate_user(&user).await
        } else {
            cache.invalidate_token(&token(text)).await
        };
        let Some(replicas) = self.count(&outcome) else {
            return;
        };
        for (text, version) in changed {
            let mut changes = self.changes.lock().unwrap();
            changes.entry(text.clone()).or_default().push(Acknowledged {
                version,
                began,
                replicas,
            });
        }
    }

    async fn log_out(&self, node: usize, random: u64) {
        let text = format!("user0-once{random}");
        let _ = ask(&self.nodes[node].1, &text).await;
        let began = now();
        let outcome = self.nodes[node].0.revoke_token(&token(&text)).await;
        if let Some(replicas) = self.count(&outcome) {
            let logout = Acknowledged {
                version: 0,
                began,
                replicas,
            };
            self.logouts.lock().unwrap().push((text, logout));
            self.counts.logouts.fetch_add(1, SeqCst);
        }
    }

    fn count(
        &self,
        outcome: &Result<tower_session_cache::Revocation, tower_session_cache::RevokeError>,
    ) -> Option<Option<u32>> {
        self.counts.revocations.fetch_add(1, SeqCst);
        match outcome {
            Ok(revocation) => {
                let replicas = revocation.replicas();
                if replicas == Some(2) {
                    self.counts.replicated.fetch_add(1, SeqCst);
                }
                Some(replicas)
            }
            Err(_) => {
                self.counts.queued.fetch_add(1, SeqCst);
                None
            }
        }
    }

    async fn client(self: Arc<Self>, task: u64) {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(task));
        while !self.ends.load(SeqCst) {
            let node = random.random_range(0..NODES);
            let text = &self.texts[random.random_range(0..self.texts.len())];
            match random.random_range(0..1_000) {
                0..10 => self.revoke(node, text, false).await,
                10..20 => self.revoke(node, text, true).await,
                20..25 => self.log_out(node, random.random()).await,
                25..100 => self.request_logged_out(node, random.random()).await,
                _ => self.request(node, text).await,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Asserts that this primary does not have the revocation of any suspect.
    fn judge(&self, primary: &Redis) {
        for (text, revocation) in std::mem::take(&mut *self.suspects.lock().unwrap()) {
            let stamp = |key: &str| -> f64 {
                let stands = primary.get(key);
                let stamp = stands.as_deref().and_then(|it| it.split(':').next());
                stamp.and_then(|it| it.parse().ok()).unwrap_or_default()
            };
            let (tomb, mark) = (stamp(&tomb_key(&text)), stamp(&mark_key(&user_of(&text))));
            assert!(
                tomb < revocation.began && (mark < revocation.began || revocation.version == 0),
                "{text} was served against {revocation:?}, which Redis has (tombstone {tomb}, mark \
                 {mark}); seed {}",
                self.seed
            );
            assert_ne!(
                revocation.replicas,
                Some(2),
                "{text}: all replicas had what was lost; seed {}",
                self.seed
            );
            self.counts.stale.fetch_add(1, SeqCst);
        }
    }

    async fn after(&self, what: &str, more: usize, count: &AtomicUsize) {
        let until = count.load(SeqCst) + more;
        soon(what, async {
            while count.load(SeqCst) < until {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn revoked_session_is_served_only_if_a_failover_lost_it() {
    // Started on the thread of the test, because the servers end with it.
    let mut set = Set::start();
    let provider = Provider::default();
    let nodes = (0..NODES).map(|_| {
        let cache = SessionCache::builder()
            .redis(
                RedisConfig::sentinel(set.urls(), NAME)
                    .database(2)
                    .wait_for_replicas(2, Duration::from_secs(1)),
            )
            .unwrap()
            .refresh_ahead(100)
            .build()
            .unwrap();
        (
            cache.clone(),
            SessionCacheLayer::new(cache, provider.clone()),
        )
    });
    let load = Arc::new(Load {
        seed: seed("sentinel"),
        nodes: nodes.collect(),
        provider: provider.clone(),
        texts: (0..USERS)
            .flat_map(|user| (0..TOKENS).map(move |n| format!("user{user}-token{n}")))
            .collect(),
        changes: Mutex::default(),
        logouts: Mutex::default(),
        suspects: Mutex::default(),
        counts: Counts::default(),
        ends: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(Arc::clone(&load).client(task as u64)))
        .collect();
    let counts = &load.counts;
    let mut lost = 0;
    for failover in 0..FAILOVERS {
        set.wait("replicas", |set| set.replicas() == 2);
        load.after("requests", 1_000, &counts.from_redis).await;
        load.after("revocations", 20, &counts.replicated).await;
        load.judge(set.primary());
        let before: Vec<_> = load.logouts.lock().unwrap().clone();
        if failover > 0 {
            // The replicas receive nothing more, so that what is acknowledged now is lost.
            let port = set.primary().port();
            let mut away = cmd("REPLICAOF");
            away.arg("127.0.0.1").arg(1);
            for replica in set.servers.iter().filter(|server| server.port() != port) {
                replica.run::<()>(&away);
            }
            load.after("logouts", 3, &counts.logouts).await;
        }
        let acknowledged: Vec<_> = load.logouts.lock().unwrap().clone();
        // What was served until now is compared with the primary that is about to stop.
        load.judge(set.primary());
        set.fail_over();
        let has = |(text, _): &(String, Acknowledged)| set.primary().get(&tomb_key(text)).is_some();
        lost += acknowledged.iter().filter(|logout| !has(logout)).count();
        for logout in &before {
            assert!(has(logout) || logout.1.replicas != Some(2), "{logout:?}");
        }
    }
    load.after("requests", 1_000, &counts.from_redis).await;
    load.ends.store(true, SeqCst);
    for client in clients {
        soon("the end of a client", client).await.unwrap();
    }
    // Check each logout on each node once more.
    let logouts = load.logouts.lock().unwrap().clone();
    for logout in &logouts {
        for node in 0..NODES {
            load.must_refuse(node, logout).await;
        }
    }
    load.judge(set.primary());
    println!(
        "sentinel: {FAILOVERS} failovers, {} requests, {} from Redis, {} revocations, {} on all \
         replicas, {} queued; {lost} logouts lost by failovers, {} requests served against a \
         revocation that was lost, {} while Redis was unavailable",
        counts.requests.load(SeqCst),
        counts.from_redis.load(SeqCst),
        counts.revocations.load(SeqCst),
        counts.replicated.load(SeqCst),
        counts.queued.load(SeqCst),
        counts.stale.load(SeqCst),
        counts.out_of_reach.load(SeqCst),
    );
    assert!(
        counts.stale.load(SeqCst) > 0,
        "nothing was lost, so nothing was tested"
    );
}
