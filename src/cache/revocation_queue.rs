//! Queue of revocations that Redis does not have yet. Until they are delivered, this node denies
//! their tokens and users.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    model::{Authority, UserData},
    protocol::{CacheKey, IdentityDigest, TokenDigest, TombstoneKind},
    sync::lock,
    telemetry::{Gauge, OLDEST_QUEUED_REVOCATION, REVOCATIONS_QUEUED, RevocationKind},
};

/// Maximum number of undelivered revocations.
const MAX_QUEUED: usize = 10_000;

/// How a revocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RevokeErrorKind {
    /// Redis is unavailable. The revocation is queued and delivered as soon as possible. Delivery
    /// of a revoked token is attempted for `max_session_lifetime`, that of any other revocation
    /// until no record from before can be usable (`ttl` + `validation_timeout` + 5 seconds).
    Queued,
    /// Redis is unavailable, and too many revocations are queued already. Repeat the revocation
    /// later.
    QueueFull,
    /// The token is a key and not a session ([`SessionValidator::keys`](crate::SessionValidator::keys)),
    /// so a logout does not end it. Nothing was revoked. Use
    /// [`revoke_token`](crate::SessionCache::revoke_token) to revoke a key.
    NotASession,
}

#[derive(Clone)]
pub(crate) enum RevocationRequest {
    Token(CacheKey, TombstoneKind),
    User(String),
    /// Ends a session for `ttl`. `user` is its user, if known.
    Session {
        session: IdentityDigest,
        user: Option<String>,
        ttl: Duration,
    },
    /// Bans a user for `ttl`, or lifts the ban.
    Ban {
        authority: Authority,
        id: String,
        ttl: Option<Duration>,
    },
}

impl RevocationRequest {
    pub(crate) fn kind(&self) -> RevocationKind {
        match self {
            Self::Token(_, TombstoneKind::Invalidate) => RevocationKind::InvalidateToken,
            Self::Token(_, TombstoneKind::Revoke { .. }) => RevocationKind::RevokeToken,
            Self::Token(_, TombstoneKind::Lift) => RevocationKind::LiftToken,
            Self::User(_) => RevocationKind::InvalidateUser,
            Self::Session { .. } => RevocationKind::EndSession,
            Self::Ban { ttl: Some(_), .. } => RevocationKind::BanUser,
            Self::Ban { ttl: None, .. } => RevocationKind::LiftBan,
        }
    }

    /// Whether it takes an earlier one back.
    pub(crate) fn is_lift(&self) -> bool {
        matches!(
            self,
            Self::Token(_, TombstoneKind::Lift) | Self::Ban { ttl: None, .. }
        )
    }

    /// Returns the user whose records it makes unusable.
    fn user(&self) -> Option<&str> {
        match self {
            Self::Token(..) => None,
            Self::User(id) | Self::Ban { id, .. } => Some(id),
            Self::Session { user, .. } => user.as_deref(),
        }
    }
}

/// Revocations that Redis does not have yet, in order, and the tokens and users that they deny.
pub(crate) struct RevocationQueue {
    queue: Mutex<Queue>,
    /// Number of queued revocations, so that a lookup does not take the lock while the queue is
    /// empty.
    waiting: AtomicU64,
    gauge: Gauge,
    /// Age of the oldest, in seconds, as of the last attempt to deliver it.
    oldest: Gauge,
    /// Lookups that began before this time serve nothing from Redis. In microseconds, by the clock
    /// of this process.
    reads_disabled_until: AtomicU64,
    /// Number of revocations that have started and are neither applied nor queued.
    started: Arc<Started>,
}

#[derive(Default)]
struct Started {
    count: AtomicU64,
    /// Notifies of each revocation that ends, and of each that leaves the queue.
    ended: Notify,
}

/// A revocation that has started. Dropping it ends it.
pub(crate) struct StartedRevocation(Arc<Started>);

/// First revocation of the queue.
pub(crate) struct QueuedRevocation {
    pub(crate) what: RevocationRequest,
    /// How long it has been waiting, in seconds.
    pub(crate) age: u64,
    /// Everything that it revoked is too old to be used, so it need not be delivered any more.
    pub(crate) is_expired: bool,
}

struct Waiting {
    what: RevocationRequest,
    queued_at: u64,
    until: u64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    tokens: HashMap<TokenDigest, usize>,
    users: HashMap<String, usize>,
    sessions: HashMap<IdentityDigest, usize>,
    delivery: Option<AbortHandle>,
}

impl Default for RevocationQueue {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            waiting: AtomicU64::default(),
            gauge: Gauge::new(REVOCATIONS_QUEUED),
            oldest: Gauge::new(OLDEST_QUEUED_REVOCATION),
            reads_disabled_until: AtomicU64::default(),
            started: Arc::default(),
        }
    }
}

impl RevocationQueue {
    pub(crate) fn len(&self) -> u64 {
        self.waiting.load(SeqCst)
    }

    pub(crate) fn start_revocation(&self) -> StartedRevocation {
        self.started.count.fetch_add(1, SeqCst);
        StartedRevocation(Arc::clone(&self.started))
    }

    /// Returns the number of revocations that Redis does not have yet.
    pub(crate) fn undelivered(&self) -> u64 {
        self.started.count.load(SeqCst).saturating_add(self.len())
    }

    /// Waits until Redis has all revocations. The delivery must be running.
    pub(crate) async fn drained(&self) {
        loop {
            let mut ended = std::pin::pin!(self.started.ended.notified());
            // A revocation that ends after this is noticed.
            ended.as_mut().enable();
            if self.undelivered() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Whether the token is denied for a lookup that began at this time of the process. The time
    /// that the lookup took must not count.
    pub(crate) fn denies_token(&self, key: &CacheKey, began: u64) -> bool {
        self.reads_disabled_until.load(SeqCst) > began
            || (self.len() > 0 && self.queue().tokens.contains_key(&key.token))
    }

    pub(crate) fn denies_user(&self, id: &str) -> bool {
        self.len() > 0 && self.queue().users.contains_key(id)
    }

    /// Whether the session or its user is denied.
    pub(crate) fn denies_session(&self, user: &UserData) -> bool {
        if self.len() == 0 {
            return false;
        }
        let queue = self.queue();
        queue.users.contains_key(user.id())
            || (!queue.sessions.is_empty()
                && IdentityDigest::session_of(user)
                    .is_some_and(|session| queue.sessions.contains_key(&session)))
    }

    pub(crate) fn push(
        &self,
        what: RevocationRequest,
        now: u64,
        until: u64,
        records_end: u64,
    ) -> RevokeErrorKind {
        let mut queue = self.queue();
        if queue.waiting.len() >= MAX_QUEUED {
            self.reads_disabled_until.fetch_max(records_end, SeqCst);
            return RevokeErrorKind::QueueFull;
        }
        match &what {
            RevocationRequest::Token(key, _) => *queue.tokens.entry(key.token).or_default() += 1,
            RevocationRequest::Session { session, .. } => {
                *queue.sessions.entry(*session).or_default() += 1;
            }
            RevocationRequest::User(_) | RevocationRequest::Ban { .. } => {}
        }
        if let Some(id) = what.user() {
            *queue.users.entry(id.to_owned()).or_default() += 1;
        }
        queue.waiting.push_back(Waiting {
            what,
            queued_at: now,
            until,
        });
        self.waiting.fetch_add(1, SeqCst);
        self.gauge.increment();
        RevokeErrorKind::Queued
    }

    /// Spawns the task that delivers the queue, unless it is running or there is nothing to
    /// deliver. The last task may have ended with its runtime.
    pub(crate) fn start_delivery(&self, spawn: impl FnOnce() -> AbortHandle) {
        let mut queue = self.queue();
        let is_running = queue.delivery.as_ref().is_some_and(|it| !it.is_finished());
        if !is_running && !queue.waiting.is_empty() {
            queue.delivery = Some(spawn());
        }
    }

    /// Returns the first revocation. If there is none, the delivery task has ended.
    pub(crate) fn next(&self, now: u64) -> Option<QueuedRevocation> {
        let mut queue = self.queue();
        let Some(first) = queue.waiting.front() else {
            queue.delivery = None;
            self.oldest.set_to(0);
            return None;
        };
        let age = now.saturating_sub(first.queued_at) / 1_000_000;
        self.oldest.set_to(u32::try_from(age).unwrap_or(u32::MAX));
        Some(QueuedRevocation {
            what: first.what.clone(),
            age,
            is_expired: first.until <= now,
        })
    }

    pub(crate) fn pop(&self) {
        let mut queue = self.queue();
        queue.pop();
        self.waiting.fetch_sub(1, SeqCst);
        self.gauge.decrement();
        self.started.ended.notify_waiters();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

impl Drop for StartedRevocation {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, SeqCst);
        self.0.ended.notify_waiters();
    }
}

impl Queue {
    fn pop(&mut self) {
        let Some(Waiting { what, .. }) = self.waiting.pop_front() else {
            return;
        };
        match &what {
            RevocationRequest::Token(key, _) => release(&mut self.tokens, &key.token),
            RevocationRequest::Session { session, .. } => release(&mut self.sessions, session),
            RevocationRequest::User(_) | RevocationRequest::Ban { .. } => {}
        }
        if let Some(id) = what.user() {
            release(&mut self.users, id);
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
    use crate::{cache::handle::SessionCache, token::SessionToken};

    fn user(n: usize) -> RevocationRequest {
        RevocationRequest::User(format!("user-{n}"))
    }

    #[test]
    fn full_queue_disables_redis_reads_until_records_expire() {
        let cache = SessionCache::builder().build().unwrap();
        let key = cache.key(&SessionToken::parse("t").unwrap());
        let queue = RevocationQueue::default();
        for n in 0..MAX_QUEUED {
            assert_eq!(queue.push(user(n), 0, 100, 50), RevokeErrorKind::Queued);
        }
        assert!(!queue.denies_token(&key, 0));
        assert_eq!(queue.push(user(0), 0, 100, 50), RevokeErrorKind::QueueFull);
        assert_eq!(queue.len(), MAX_QUEUED as u64);
        assert!(queue.denies_token(&key, 49));
        assert!(!queue.denies_token(&key, 50));
    }

    #[test]
    fn user_is_blocked_until_its_last_queued_revocation_is_removed() {
        let queue = RevocationQueue::default();
        for (n, until) in [(1, 10), (2, 20), (1, 30)] {
            queue.push(user(n), 0, until, 0);
        }
        let waits = |n: usize| queue.denies_user(&format!("user-{n}"));
        let next = |now| {
            let QueuedRevocation {
                what, is_expired, ..
            } = queue.next(now)?;
            let RevocationRequest::User(id) = what else {
                panic!("no user")
            };
            Some((id, is_expired))
        };
        assert_eq!(next(0), Some(("user-1".to_owned(), false)));
        queue.pop();
        assert!(waits(1) && waits(2));
        assert_eq!(next(20), Some(("user-2".to_owned(), true)));
        assert!(waits(2), "until the generations were advanced");
        queue.pop();
        assert_eq!(next(20), Some(("user-1".to_owned(), false)));
        assert!(waits(1) && !waits(2), "the second was given up");
        queue.pop();
        assert!(!waits(1));
        assert_eq!(next(20), None);
    }

    #[tokio::test]
    async fn one_task_at_a_time_delivers_what_is_queued() {
        let queue = RevocationQueue::default();
        let spawned = std::cell::Cell::new(0);
        let spawn = || {
            spawned.set(spawned.get() + 1);
            tokio::spawn(std::future::pending::<()>()).abort_handle()
        };
        queue.start_delivery(spawn);
        assert_eq!(spawned.get(), 0, "nothing is queued");
        queue.push(user(1), 0, 10, 0);
        queue.start_delivery(spawn);
        queue.start_delivery(spawn);
        assert_eq!(spawned.get(), 1);
        let task = queue.queue().delivery.clone().unwrap();
        task.abort();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        queue.start_delivery(spawn);
        assert_eq!(spawned.get(), 2, "the first has ended with its runtime");
        queue.pop();
        assert!(queue.next(0).is_none());
        queue.push(user(2), 0, 10, 0);
        queue.start_delivery(spawn);
        assert_eq!(spawned.get(), 3, "the second has delivered everything");
    }
}
