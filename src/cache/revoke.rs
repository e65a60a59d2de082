//! Revocations: into Redis first, then into this process, and on their way when Redis is out of
//! reach.
//!
//! A revocation that could not be delivered denies on this node at once: its token or user is
//! served from no cache here until Redis has it. It is delivered in the background, in order. The
//! queue is bounded; one that finds it full is not delivered at all, and until all records of
//! that time have aged this node serves nothing from Redis.
//!
//! `tests/model/src/revoke.rs` is the model of this.

use std::{
    collections::{HashMap, VecDeque},
    error::Error as StdError,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::store::Store;
use crate::protocol::{EntryKey, TokenKey, Verdict};
use crate::sync::{Backoff, lock};
use crate::telemetry::REVOCATION;
use crate::telemetry::{Gauge, REVOCATIONS_QUEUED, RevocationKind, RevocationOutcome};

/// Undelivered revocations that are kept.
const MAX_QUEUED: usize = 10_000;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A revocation that holds: no request that begins from now on is served from a cache with what
/// it revoked, on any node; on one with a [local cache](crate::memory::LocalCacheConfig) of its own, no request
/// that begins a lease later.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Revocation {
    replicas: Option<u32>,
}

impl Revocation {
    /// How many replicas of the primary have it, at least, of those that
    /// [`wait_for_replicas`](super::RedisConfig::wait_for_replicas) waited for; nothing
    /// without that setting, and without Redis.
    ///
    /// With fewer than were asked for it holds all the same, but a failover may lose it. Then it
    /// may be repeated, which costs a validation.
    #[must_use]
    pub fn replicas(&self) -> Option<u32> {
        self.replicas
    }
}

/// A revocation that holds on this node only. A cache without Redis never fails to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeError {
    kind: RevokeErrorKind,
}

/// How a revocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RevokeErrorKind {
    /// Redis does not answer. It is delivered to it as soon as possible; a revoked token for as
    /// long as the verdict holds, the rest until no record from before can be usable any more
    /// (cache TTL, validation timeout and 5 seconds).
    Queued,
    /// Redis does not answer, and too many revocations wait for it already. Repeat it later.
    NotQueued,
}

impl RevokeError {
    /// How it failed.
    #[must_use]
    pub fn kind(&self) -> RevokeErrorKind {
        self.kind
    }
}

impl fmt::Display for RevokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RevokeErrorKind::Queued => {
                "the revocation holds on this node only, and waits for Redis to answer"
            }
            RevokeErrorKind::NotQueued => {
                "the revocation holds on this node only; repeat it when Redis answers again"
            }
        })
    }
}

impl StdError for RevokeError {}

#[derive(Clone)]
pub(super) enum Revoke {
    Token(EntryKey, Verdict),
    User(String),
}

impl Revoke {
    fn kind(&self) -> RevocationKind {
        match self {
            Self::Token(_, Verdict::Forget) => RevocationKind::InvalidateToken,
            Self::Token(_, Verdict::Refuse) => RevocationKind::RevokeToken,
            Self::User(_) => RevocationKind::InvalidateUser,
        }
    }
}

async fn revoke(store: Arc<Store>, what: Revoke) -> Result<Revocation, RevokeError> {
    if let Revoke::Token(key, Verdict::Refuse) = &what {
        store.refuse(key);
    }
    if let Some(runs) = store.deliver(&what).await {
        store.apply(&what);
        store.report(what.kind(), RevocationOutcome::Applied);
        // It holds by now, so that nobody is served while this waits.
        let replicas = match &store.redis {
            Some(redis) => redis.replicas(&runs).await,
            None => None,
        };
        return Ok(Revocation { replicas });
    }
    let outcome = store.queue(what);
    if outcome
        == Err(RevokeError {
            kind: RevokeErrorKind::Queued,
        })
        && store.undelivered.begins()
    {
        tokio::spawn(deliver_all(Arc::downgrade(&store)));
    }
    outcome
}

impl Store {
    pub(super) async fn revoke(self: &Arc<Self>, what: Revoke) -> Result<Revocation, RevokeError> {
        self.metrics.revocations_started.increment();
        if self.redis.is_none() {
            self.apply(&what);
            self.report(what.kind(), RevocationOutcome::Applied);
            return Ok(Revocation { replicas: None });
        }
        // In a task of its own, so that it comes to its end if the caller goes away.
        let Ok(runtime) = Handle::try_current() else {
            return self.queue(what);
        };
        match runtime.spawn(revoke(Arc::clone(self), what.clone())).await {
            Ok(outcome) => outcome,
            // The runtime shuts down.
            Err(_) => self.queue(what),
        }
    }

    async fn deliver(&self, what: &Revoke) -> Option<Vec<Arc<str>>> {
        let Some(redis) = &self.redis else {
            return Some(Vec::new());
        };
        match what {
            Revoke::Token(key, verdict) => redis.revoke_token(key, *verdict).await.ok(),
            Revoke::User(id) => redis.revoke_user(id).await.ok(),
        }
    }

    /// Makes it hold in this process.
    fn apply(&self, what: &Revoke) {
        match what {
            Revoke::Token(key, verdict) => {
                if *verdict == Verdict::Refuse {
                    self.refuse(key);
                }
                self.local.invalidate_token(key);
            }
            Revoke::User(id) => {
                let names = self.redis.iter().flat_map(|redis| redis.mark_names(id));
                self.local.invalidate_user(id, names);
            }
        }
    }

    fn refuse(&self, key: &EntryKey) {
        if self.local.refuse(key) && self.redis.is_none() {
            tracing::warn!(
                target: REVOCATION,
                "a revoked token was forgotten before its time; raise the cache's capacity"
            );
        }
    }

    fn report(&self, kind: RevocationKind, outcome: RevocationOutcome) {
        self.metrics
            .revocations
            .with(kind)
            .with(outcome)
            .increment();
        let (kind, outcome) = (kind.as_str(), outcome.as_str());
        tracing::debug!(target: REVOCATION, kind, outcome, "sessions were revoked");
    }

    /// Denies it here until it is delivered.
    fn queue(&self, what: Revoke) -> Result<Revocation, RevokeError> {
        let now = self.clock.elapsed();
        let worth = match &what {
            Revoke::Token(_, Verdict::Refuse) => self.verdict_ttl,
            Revoke::Token(_, Verdict::Forget) | Revoke::User(_) => self.gives_up_after,
        };
        let kind = self.undelivered.push(
            what.clone(),
            now.saturating_add(worth),
            now.saturating_add(self.gives_up_after),
        );
        // After the denial stands: a lookup that sees no change finds it.
        self.apply(&what);
        let end = match kind {
            RevokeErrorKind::Queued => RevocationOutcome::Queued,
            RevokeErrorKind::NotQueued => RevocationOutcome::QueueFull,
        };
        self.report(what.kind(), end);
        if kind == RevokeErrorKind::NotQueued {
            tracing::error!(
                target: REVOCATION,
                "too many revocations wait for Redis; one more is not delivered to other nodes"
            );
        }
        Err(RevokeError { kind })
    }
}

async fn deliver_all(store: Weak<Store>) {
    let mut backoff = Backoff::new(FIRST_PAUSE);
    let mut given_up = 0;
    loop {
        let Some(now) = store.upgrade() else { return };
        let next = now.undelivered.next(now.clock.elapsed());
        let has_aged_out = matches!(&next, Some(next) if next.has_aged_out);
        if !has_aged_out {
            report_given_up(std::mem::take(&mut given_up));
        }
        let Some(Next { what, .. }) = next else {
            return;
        };
        if has_aged_out || now.deliver(&what).await.is_some() {
            // The change first, also for what is given up: a lookup that began before it, and has
            // slept since, must not find the denial gone.
            now.apply(&what);
            now.undelivered.pop();
            given_up += u32::from(has_aged_out);
            backoff.reset();
            continue;
        }
        drop(now);
        tokio::time::sleep(backoff.pause(MAX_PAUSE)).await;
    }
}

/// The revocations that Redis does not have yet, in order, and what they deny.
pub(super) struct Undelivered {
    queue: Mutex<Queue>,
    /// How many wait, so that a lookup need not take the lock while there is nothing to find.
    waiting: AtomicU64,
    gauge: Gauge,
    /// The time of this process, in microseconds, until which nothing is served from Redis.
    nothing_until: AtomicU64,
}

/// The revocation whose turn it is.
struct Next {
    what: Revoke,
    /// All that it revoked is too old to be used; nothing has to be delivered any more.
    has_aged_out: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Revoke, u64)>,
    tokens: HashMap<TokenKey, usize>,
    users: HashMap<String, usize>,
    is_delivering: bool,
}

impl Default for Undelivered {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            waiting: AtomicU64::default(),
            gauge: Gauge::new(REVOCATIONS_QUEUED),
            nothing_until: AtomicU64::default(),
        }
    }
}

impl Undelivered {
    pub(super) fn len(&self) -> u64 {
        self.waiting.load(SeqCst)
    }

    /// For a lookup that began at this time of the process; how long it took must not count.
    pub(super) fn denies_token(&self, key: &EntryKey, began: u64) -> bool {
        self.nothing_until.load(SeqCst) > began
            || (self.len() > 0 && self.queue().tokens.contains_key(&key.token))
    }

    pub(super) fn denies_user(&self, id: &str) -> bool {
        self.len() > 0 && self.queue().users.contains_key(id)
    }

    fn push(&self, what: Revoke, until: u64, records_end: u64) -> RevokeErrorKind {
        let mut queue = self.queue();
        if queue.waiting.len() >= MAX_QUEUED {
            self.nothing_until.fetch_max(records_end, SeqCst);
            return RevokeErrorKind::NotQueued;
        }
        match &what {
            Revoke::Token(key, _) => *queue.tokens.entry(key.token).or_default() += 1,
            Revoke::User(id) => *queue.users.entry(id.clone()).or_default() += 1,
        }
        queue.waiting.push_back((what, until));
        self.waiting.fetch_add(1, SeqCst);
        self.gauge.increment();
        RevokeErrorKind::Queued
    }

    /// Whether the caller has to deliver: one task at a time does.
    fn begins(&self) -> bool {
        !std::mem::replace(&mut self.queue().is_delivering, true)
    }

    /// The first; without one the task has ended.
    fn next(&self, now: u64) -> Option<Next> {
        let mut queue = self.queue();
        let Some((what, until)) = queue.waiting.front() else {
            queue.is_delivering = false;
            return None;
        };
        Some(Next {
            what: what.clone(),
            has_aged_out: *until <= now,
        })
    }

    fn pop(&self) {
        let mut queue = self.queue();
        queue.pop();
        self.waiting.fetch_sub(1, SeqCst);
        self.gauge.decrement();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

fn report_given_up(count: u32) {
    if count > 0 {
        tracing::error!(
            target: REVOCATION,
            count,
            "revocations were not delivered to Redis until all that they revoked had aged out"
        );
    }
}

impl Queue {
    fn pop(&mut self) {
        match self.waiting.pop_front() {
            Some((Revoke::Token(key, _), _)) => release(&mut self.tokens, &key.token),
            Some((Revoke::User(id), _)) => release(&mut self.users, id.as_str()),
            None => {}
        }
    }
}

fn release<K, Q>(denied: &mut HashMap<K, usize>, key: &Q)
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(count) = denied.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            denied.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::SessionCache, token::SessionToken};

    fn user(n: usize) -> Revoke {
        Revoke::User(format!("user-{n}"))
    }

    #[test]
    fn what_waits_is_bounded_and_then_nothing_is_served_for_a_while() {
        let cache = SessionCache::builder().build().unwrap();
        let key = cache.key(&SessionToken::parse("t").unwrap());
        let undelivered = Undelivered::default();
        for n in 0..MAX_QUEUED {
            assert_eq!(undelivered.push(user(n), 100, 50), RevokeErrorKind::Queued);
        }
        assert!(!undelivered.denies_token(&key, 0));
        assert_eq!(
            undelivered.push(user(0), 100, 50),
            RevokeErrorKind::NotQueued
        );
        assert_eq!(undelivered.len(), MAX_QUEUED as u64);
        assert!(undelivered.denies_token(&key, 49));
        assert!(!undelivered.denies_token(&key, 50));
    }

    #[test]
    fn a_denial_lasts_until_the_last_of_its_kind_is_delivered_or_given_up() {
        let undelivered = Undelivered::default();
        for (n, until) in [(1, 10), (2, 20), (1, 30)] {
            undelivered.push(user(n), until, 0);
        }
        let waits = |n: usize| undelivered.denies_user(&format!("user-{n}"));
        let next = |now| {
            let Next { what, has_aged_out } = undelivered.next(now)?;
            let Revoke::User(id) = what else {
                panic!("no user")
            };
            Some((id, has_aged_out))
        };
        assert!(
            undelivered.begins() && !undelivered.begins(),
            "one task delivers"
        );
        assert_eq!(next(0), Some(("user-1".to_owned(), false)));
        undelivered.pop();
        assert!(waits(1) && waits(2));
        assert_eq!(next(20), Some(("user-2".to_owned(), true)));
        assert!(waits(2), "until the stripes have moved");
        undelivered.pop();
        assert_eq!(next(20), Some(("user-1".to_owned(), false)));
        assert!(waits(1) && !waits(2), "the second was given up");
        undelivered.pop();
        assert!(!waits(1));
        assert_eq!(next(20), None);
        assert!(undelivered.begins(), "the task has ended");
    }

    /// Who looked a record up before, and has slept since, finds the denial gone.
    #[tokio::test]
    async fn what_is_given_up_counts_as_revoked_before_its_denial_ends() {
        let clock = crate::time::ManualClock::new();
        let cache = SessionCache::builder()
            .redis("redis://127.0.0.1:1")
            .unwrap()
            .clock(clock.clone())
            .build()
            .unwrap();
        let key = cache.key(&SessionToken::parse("t").unwrap());
        let queued = cache.invalidate_user("ada").await.unwrap_err();
        assert_eq!(queued.kind(), RevokeErrorKind::Queued);
        let local = &cache.store().local;
        let seen = local.seen();
        assert!(local.is_unchanged(&key, seen, "ada"));
        clock.advance(Duration::from_micros(cache.store().gives_up_after));
        let given_up = async {
            while cache.store().undelivered.denies_user("ada") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), given_up)
            .await
            .expect("an end of the denial");
        assert!(!local.is_unchanged(&key, seen, "ada"));
    }
}
