//! Revocations. They are written to Redis first and then applied in this process. If Redis is
//! unavailable, they are queued.
//!
//! A revocation that could not be delivered takes effect on this node immediately: until Redis has
//! it, its token or user is served from no cache here. It is delivered in the background, in order.
//! The queue is bounded. A revocation that finds it full is not delivered, and this node serves
//! nothing from Redis until all records of that time are too old to be used.
//!
//! `tests/model/src/revoke.rs` models this.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    revocation_queue::{QueuedRevocation, RevocationRequest, RevokeErrorKind},
    store::Store,
};
use crate::{
    protocol::{CacheKey, IdentityDigest, TombstoneKind},
    redis::EndedSession,
    sync::Backoff,
    telemetry::{REVOCATION, RevocationKind, RevocationOutcome},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A queued revocation is reported when it has been waiting for so many seconds.
const ALARMS: [u64; 3] = [15, 45, 60];

/// A revocation that applies on all nodes. No request that begins from now on is served from a
/// cache with what it revoked. On another node with a [local
/// cache](crate::memory::LocalCacheConfig), this holds only for requests that begin after the
/// revocation has [settled](Self::settled), at least one lease later.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "with local caches, other nodes may serve what was revoked until it has settled: await `settled`, or assign it to `_`"]
pub struct Revocation {
    replicas: Option<u32>,
    settles_at: Instant,
}

impl Revocation {
    /// Returns how many replicas of the primary have the revocation, at least, of those that
    /// [`wait_for_replicas`](crate::redis::RedisConfig::wait_for_replicas) waited for. Returns
    /// `None` without that setting, and without Redis.
    ///
    /// If fewer replicas have it than requested, the revocation applies nevertheless, but a
    /// failover may lose it. It may then be repeated, which costs a validation.
    #[must_use]
    pub fn replicas(&self) -> Option<u32> {
        self.replicas
    }

    /// Returns the time until which another node may at most still serve what was revoked: one
    /// [`fleet_lease`](crate::SessionCacheBuilder::fleet_lease) after Redis had the revocation. It
    /// lies in the past if the cache has no Redis.
    ///
    /// A node that receives the message of Redis does not need that long, which is nearly always
    /// the case.
    #[must_use]
    pub fn settles_at(&self) -> Instant {
        self.settles_at
    }

    /// Waits until no node can serve what was revoked, which is at
    /// [`settles_at`](Self::settles_at). No request that begins afterwards is served with it.
    ///
    /// # Cancel safety
    ///
    /// The future only waits, and can be dropped at any time.
    pub async fn settled(&self) {
        tokio::time::sleep_until(self.settles_at.into()).await;
    }

    fn and(self, other: Self) -> Self {
        Self {
            replicas: self.replicas.min(other.replicas),
            settles_at: self.settles_at.max(other.settles_at),
        }
    }
}

/// A revocation that applies on this node only, or a logout of a key, which revokes nothing. A cache
/// without Redis never fails to revoke a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeError {
    kind: RevokeErrorKind,
}

impl RevokeError {
    pub(super) fn not_a_session() -> Self {
        Self {
            kind: RevokeErrorKind::NotASession,
        }
    }

    /// Returns how the revocation failed.
    #[must_use]
    pub fn kind(&self) -> RevokeErrorKind {
        self.kind
    }
}

impl fmt::Display for RevokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RevokeErrorKind::Queued => {
                "the revocation is queued and applies on this node only until Redis is available \
                 again"
            }
            RevokeErrorKind::QueueFull => {
                "the revocation applies on this node only, because the queue is full; repeat it \
                 when Redis is available again"
            }
            RevokeErrorKind::NotASession => {
                "the token is a key and not a session, so nothing was revoked; use `revoke_token` \
                 to revoke a key"
            }
        })
    }
}

impl StdError for RevokeError {}

/// Revokes concurrently. What was queued or not even that decides about the whole.
async fn revoke_all(
    store: &Arc<Store>,
    all: Vec<RevocationRequest>,
) -> Result<Revocation, RevokeError> {
    // The first is applied first, so that a request that sees one of them sees the first.
    for what in &all {
        store.deny(what);
    }
    let outcomes = all.into_iter().map(|what| revoke(store, what));
    let outcomes = futures_util::future::join_all(outcomes).await;
    let outcome = outcomes
        .into_iter()
        .reduce(|one, other| match (one, other) {
            (Ok(one), Ok(other)) => Ok(one.and(other)),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
            (Err(one), Err(other)) => Err(match one.kind {
                RevokeErrorKind::Queued => other,
                RevokeErrorKind::QueueFull | RevokeErrorKind::NotASession => one,
            }),
        });
    store.start_delivery();
    outcome.unwrap_or_else(|| Ok(store.applied(None)))
}

async fn revoke(store: &Arc<Store>, what: RevocationRequest) -> Result<Revocation, RevokeError> {
    // What a lift takes back must not reach Redis after it.
    let must_wait = what.is_lift() && store.queue.len() > 0;
    if !must_wait && let Some(delivered) = store.deliver(&what).await {
        store.apply(&what, delivered.mark_names);
        let revocation = store.applied(None);
        store.report(what.kind(), RevocationOutcome::Applied);
        // The revocation applies already, so no revoked session is served while this waits.
        let replicas = match &store.redis {
            Some(redis) => redis.replicas(&delivered.run_ids).await,
            None => None,
        };
        return Ok(Revocation {
            replicas,
            ..revocation
        });
    }
    store.queue(what)
}

/// What delivering a revocation to Redis has shown.
#[derive(Default)]
struct Delivered {
    run_ids: Vec<Arc<str>>,
    /// Names of the marks that were moved, beyond those of a user that is known here.
    mark_names: Vec<String>,
}

impl Store {
    pub(crate) async fn revoke(
        self: &Arc<Self>,
        all: Vec<RevocationRequest>,
    ) -> Result<Revocation, RevokeError> {
        for _ in &all {
            self.metrics.revocations_started.increment();
        }
        // Run the revocation in its own task, so that it completes if the caller drops the future.
        let runtime = match Handle::try_current() {
            Ok(runtime) if self.redis.is_some() => runtime,
            _ => return self.revoke_without_redis(all),
        };
        let started = self.queue.start_revocation();
        let task = {
            let (store, all) = (Arc::clone(self), all.clone());
            async move {
                let _started = started;
                revoke_all(&store, all).await
            }
        };
        match runtime.spawn(task).await {
            Ok(outcome) => outcome,
            // The runtime is shutting down.
            Err(_) => self.revoke_without_redis(all),
        }
    }

    /// Applies revocations in this process, and queues them if there is a Redis.
    fn revoke_without_redis(&self, all: Vec<RevocationRequest>) -> Result<Revocation, RevokeError> {
        let mut outcome = Ok(self.applied(Some(Duration::ZERO)));
        for what in all {
            self.deny(&what);
            if self.redis.is_some() {
                outcome = self.queue(what);
            } else {
                self.apply(&what, Vec::new());
                self.report(what.kind(), RevocationOutcome::Applied);
            }
        }
        outcome
    }

    /// Returns a revocation that Redis has had since now.
    fn applied(&self, lease: Option<Duration>) -> Revocation {
        Revocation {
            replicas: None,
            settles_at: Instant::now() + lease.unwrap_or(self.fleet_lease),
        }
    }

    /// Starts the delivery of queued revocations unless it is running. It may have ended with the
    /// runtime that it ran on.
    pub(crate) fn start_delivery(self: &Arc<Self>) {
        if self.queue.len() > 0
            && let Ok(runtime) = Handle::try_current()
        {
            let store = Arc::downgrade(self);
            self.queue
                .start_delivery(|| runtime.spawn(deliver_queued(store)).abort_handle());
        }
    }

    async fn deliver(&self, what: &RevocationRequest) -> Option<Delivered> {
        let Some(redis) = &self.redis else {
            return Some(Delivered::default());
        };
        let delivered = match what {
            RevocationRequest::Token(key, kind) => redis.revoke_token(key, *kind).await,
            RevocationRequest::User(id) => redis.revoke_user(id).await,
            RevocationRequest::Ban { authority, id, ttl } => {
                redis.set_ban(authority, id, *ttl).await
            }
            RevocationRequest::Session { session, user, ttl } => {
                let ended = redis.end_session(session, user.as_deref(), *ttl).await;
                let EndedSession {
                    run_ids,
                    mark_names,
                } = ended.ok()?;
                return Some(Delivered {
                    run_ids,
                    mark_names,
                });
            }
        };
        Some(Delivered {
            run_ids: delivered.ok()?,
            mark_names: Vec::new(),
        })
    }

    /// Remembers in this process what is rejected from now on. A lookup that sees the revocation
    /// [counted](Self::apply) finds it here.
    fn deny(&self, what: &RevocationRequest) {
        let forgot = match what {
            RevocationRequest::Token(key, TombstoneKind::Revoke { .. }) => {
                return self.insert_revoked_token(key);
            }
            RevocationRequest::Session { session, .. } => self.local.insert_ended_session(*session),
            RevocationRequest::Ban { authority, id, ttl } => {
                let user = IdentityDigest::user(authority, id);
                match ttl {
                    Some(ttl) => {
                        let ttl = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
                        self.local.insert_ban(user, ttl)
                    }
                    None => {
                        self.local.lift_ban(&user);
                        false
                    }
                }
            }
            RevocationRequest::Token(key, TombstoneKind::Lift) => {
                self.local.lift_token(key);
                false
            }
            RevocationRequest::Token(_, TombstoneKind::Invalidate) | RevocationRequest::User(_) => {
                false
            }
        };
        self.report_forgotten(forgot);
    }

    /// Applies the revocation in this process. `mark_names` are the marks that Redis has moved, as
    /// far as this process could not know them.
    fn apply(&self, what: &RevocationRequest, mark_names: Vec<String>) {
        match what {
            RevocationRequest::Token(key, _) => self.local.invalidate_token(key),
            RevocationRequest::User(id) | RevocationRequest::Ban { id, .. } => {
                self.invalidate_local_user(id);
            }
            RevocationRequest::Session { session, user, .. } => {
                if let Some(id) = user {
                    self.invalidate_local_user(id);
                }
                self.local.invalidate_session(session);
            }
        }
        self.local.invalidate_marks(mark_names.into_iter());
    }

    fn invalidate_local_user(&self, id: &str) {
        let names = self.redis.iter().flat_map(|redis| redis.mark_names(id));
        self.local.invalidate_user(id, names);
    }

    pub(super) fn insert_revoked_token(&self, key: &CacheKey) {
        self.report_forgotten(self.local.insert_revoked_token(key));
    }

    fn report_forgotten(&self, forgot: bool) {
        if forgot && self.redis.is_none() {
            tracing::warn!(
                target: REVOCATION,
                hint = "increase `capacity`",
                "revocation evicted from memory before its expiry"
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
        tracing::debug!(target: REVOCATION, kind, outcome, "revocation finished");
    }

    /// Queues the revocation, and denies its token or user on this node until it is delivered.
    fn queue(&self, what: RevocationRequest) -> Result<Revocation, RevokeError> {
        let now = self.clock.elapsed();
        let retention = match &what {
            RevocationRequest::Token(_, TombstoneKind::Invalidate) | RevocationRequest::User(_) => {
                self.max_record_age
            }
            RevocationRequest::Token(_, TombstoneKind::Revoke { .. } | TombstoneKind::Lift)
            | RevocationRequest::Session { .. }
            | RevocationRequest::Ban { .. } => self.revoked_token_ttl,
        };
        let kind = self.queue.push(
            what.clone(),
            now,
            now.saturating_add(retention),
            now.saturating_add(self.max_record_age),
        );
        // Advance the generation only after the denial is set. A lookup that sees no change of the
        // generation then finds the denial.
        self.apply(&what, Vec::new());
        let end = match kind {
            RevokeErrorKind::Queued => RevocationOutcome::Queued,
            RevokeErrorKind::QueueFull | RevokeErrorKind::NotASession => {
                RevocationOutcome::QueueFull
            }
        };
        self.report(what.kind(), end);
        if kind == RevokeErrorKind::QueueFull {
            tracing::error!(
                target: REVOCATION,
                hint = "repeat the revocation when Redis is available again",
                "revocation queue full, not delivered to other nodes"
            );
        }
        Err(RevokeError { kind })
    }
}

async fn deliver_queued(store: Weak<Store>) {
    let mut backoff = Backoff::new(FIRST_PAUSE);
    let (mut expired, mut alarms) = (0, 0);
    loop {
        let Some(now) = store.upgrade() else { return };
        let next = now.queue.next(now.clock.elapsed());
        let is_expired = matches!(&next, Some(next) if next.is_expired);
        if !is_expired {
            report_expired(std::mem::take(&mut expired));
        }
        let Some(QueuedRevocation { what, age, .. }) = next else {
            return;
        };
        let due = ALARMS.iter().filter(|alarm| **alarm <= age).count();
        if due > alarms {
            report_waiting(age, now.queue.len());
        }
        alarms = due;
        let delivered = match is_expired {
            true => Some(Delivered::default()),
            false => now.deliver(&what).await,
        };
        if let Some(delivered) = delivered {
            // Advance the generation before the denial ends, also for a revocation that is given
            // up. A lookup that began before and has been delayed since must not find the denial
            // gone and the generation unchanged.
            now.apply(&what, delivered.mark_names);
            now.queue.pop();
            expired += u32::from(is_expired);
            backoff.reset();
            continue;
        }
        drop(now);
        tokio::time::sleep(backoff.pause(MAX_PAUSE)).await;
    }
}

fn report_waiting(seconds: u64, count: u64) {
    tracing::warn!(
        target: REVOCATION,
        seconds,
        count,
        hint = "make Redis available; until then other nodes serve what was revoked here",
        "revocations still queued"
    );
}

fn report_expired(count: u32) {
    if count > 0 {
        tracing::error!(
            target: REVOCATION,
            count,
            reason = "all records that they revoke have expired",
            "queued revocations discarded, never delivered to Redis"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::handle::SessionCache, token::SessionToken};

    /// A lookup that began before the revocation was given up, and has been delayed since, finds
    /// the denial gone. It must see the generation changed.
    #[tokio::test]
    async fn abandoned_revocation_is_counted_before_its_denial_ends() {
        let clock = crate::time::ManualClock::new();
        let cache = SessionCache::builder()
            .redis("redis://127.0.0.1:1")
            .unwrap()
            .clock(clock.clone())
            .build()
            .unwrap();
        let key = cache.key(&SessionToken::parse("t").unwrap());
        let user = crate::model::UserData::new("ada");
        let queued = cache.invalidate_user("ada").await.unwrap_err();
        assert_eq!(queued.kind(), RevokeErrorKind::Queued);
        let local = &cache.store().local;
        let generation = local.generation();
        assert!(local.is_unchanged(&key, generation, &user));
        clock.advance(Duration::from_micros(cache.store().max_record_age));
        let expired = async {
            while cache.store().queue.denies_user("ada") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), expired)
            .await
            .expect("the denial ends");
        assert!(!local.is_unchanged(&key, generation, &user));
    }
}
