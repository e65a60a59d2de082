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
    time::Duration,
};

use tokio::runtime::Handle;

use super::{
    revocation_queue::{QueuedRevocation, RevocationRequest, RevokeErrorKind},
    store::Store,
};
use crate::{
    protocol::{CacheKey, TombstoneKind},
    sync::Backoff,
    telemetry::{REVOCATION, RevocationKind, RevocationOutcome},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A revocation that applies on all nodes. No request that begins from now on is served from a
/// cache with what it revoked. On another node with a [local
/// cache](crate::memory::LocalCacheConfig), this holds only for requests that begin at least one
/// lease later.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Revocation {
    replicas: Option<u32>,
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
}

/// A revocation that applies on this node only. A cache without Redis never fails to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeError {
    kind: RevokeErrorKind,
}

impl RevokeError {
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
        })
    }
}

impl StdError for RevokeError {}

async fn revoke(store: Arc<Store>, what: RevocationRequest) -> Result<Revocation, RevokeError> {
    if let RevocationRequest::Token(key, TombstoneKind::Revoke) = &what {
        store.insert_revoked_token(key);
    }
    if let Some(runs) = store.deliver(&what).await {
        store.apply(&what);
        store.report(what.kind(), RevocationOutcome::Applied);
        // The revocation applies already, so no revoked session is served while this waits.
        let replicas = match &store.redis {
            Some(redis) => redis.replicas(&runs).await,
            None => None,
        };
        return Ok(Revocation { replicas });
    }
    let outcome = store.queue(what);
    store.start_delivery();
    outcome
}

impl Store {
    pub(crate) async fn revoke(
        self: &Arc<Self>,
        what: RevocationRequest,
    ) -> Result<Revocation, RevokeError> {
        self.metrics.revocations_started.increment();
        if self.redis.is_none() {
            self.apply(&what);
            self.report(what.kind(), RevocationOutcome::Applied);
            return Ok(Revocation { replicas: None });
        }
        // Run the revocation in its own task, so that it completes if the caller drops the future.
        let Ok(runtime) = Handle::try_current() else {
            return self.queue(what);
        };
        let started = self.queue.start_revocation();
        let task = revoke(Arc::clone(self), what.clone());
        let task = async move {
            let _started = started;
            task.await
        };
        match runtime.spawn(task).await {
            Ok(outcome) => outcome,
            // The runtime is shutting down.
            Err(_) => self.queue(what),
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

    async fn deliver(&self, what: &RevocationRequest) -> Option<Vec<Arc<str>>> {
        let Some(redis) = &self.redis else {
            return Some(Vec::new());
        };
        match what {
            RevocationRequest::Token(key, kind) => redis.revoke_token(key, *kind).await.ok(),
            RevocationRequest::User(id) => redis.revoke_user(id).await.ok(),
        }
    }

    /// Applies the revocation in this process.
    fn apply(&self, what: &RevocationRequest) {
        match what {
            RevocationRequest::Token(key, kind) => {
                if *kind == TombstoneKind::Revoke {
                    self.insert_revoked_token(key);
                }
                self.local.invalidate_token(key);
            }
            RevocationRequest::User(id) => {
                let names = self.redis.iter().flat_map(|redis| redis.mark_names(id));
                self.local.invalidate_user(id, names);
            }
        }
    }

    fn insert_revoked_token(&self, key: &CacheKey) {
        if self.local.insert_revoked_token(key) && self.redis.is_none() {
            tracing::warn!(
                target: REVOCATION,
                hint = "increase `capacity`",
                "revoked token evicted before its expiry"
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
            RevocationRequest::Token(_, TombstoneKind::Revoke) => self.revoked_token_ttl,
            RevocationRequest::Token(_, TombstoneKind::Invalidate) | RevocationRequest::User(_) => {
                self.max_record_age
            }
        };
        let kind = self.queue.push(
            what.clone(),
            now.saturating_add(retention),
            now.saturating_add(self.max_record_age),
        );
        // Advance the generation only after the denial is set. A lookup that sees no change of the
        // generation then finds the denial.
        self.apply(&what);
        let end = match kind {
            RevokeErrorKind::Queued => RevocationOutcome::Queued,
            RevokeErrorKind::QueueFull => RevocationOutcome::QueueFull,
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
    let mut expired = 0;
    loop {
        let Some(now) = store.upgrade() else { return };
        let next = now.queue.next(now.clock.elapsed());
        let is_expired = matches!(&next, Some(next) if next.is_expired);
        if !is_expired {
            report_expired(std::mem::take(&mut expired));
        }
        let Some(QueuedRevocation { what, .. }) = next else {
            return;
        };
        if is_expired || now.deliver(&what).await.is_some() {
            // Advance the generation before the denial ends, also for a revocation that is given
            // up. A lookup that began before and has been delayed since must not find the denial
            // gone and the generation unchanged.
            now.apply(&what);
            now.queue.pop();
            expired += u32::from(is_expired);
            backoff.reset();
            continue;
        }
        drop(now);
        tokio::time::sleep(backoff.pause(MAX_PAUSE)).await;
    }
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
        let queued = cache.invalidate_user("ada").await.unwrap_err();
        assert_eq!(queued.kind(), RevokeErrorKind::Queued);
        let local = &cache.store().local;
        let generation = local.generation();
        assert!(local.is_unchanged(&key, generation, "ada"));
        clock.advance(Duration::from_micros(cache.store().max_record_age));
        let expired = async {
            while cache.store().queue.denies_user("ada") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), expired)
            .await
            .expect("the denial ends");
        assert!(!local.is_unchanged(&key, generation, "ada"));
    }
}
