//! Counts that tell an operator what the cache does; read by [`SessionCache::stats`].
//!
//! [`SessionCache::stats`]: super::SessionCache::stats

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::session::Origin;

/// What a cache has done since it was built, and what it holds. All counts start at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests answered from the cache.
    pub hits: u64,
    /// Those of them that were answered from the memory of this process.
    pub local_hits: u64,
    /// Validations that nobody could decide, and that were answered by a session in memory whose
    /// cache time was over.
    pub stale: u64,
    /// Lookups that found nothing usable.
    pub misses: u64,
    /// Validations begun.
    pub validations: u64,
    /// Sessions in use that were to be validated again ahead of their end in the cache.
    pub refreshes: u64,
    /// Requests that waited for a validation which another one had begun.
    pub joined: u64,
    /// Validations that the identity provider refused.
    pub refused: u64,
    /// Validations that nobody could decide.
    pub unavailable: u64,
    /// Validations whose answer was stored.
    pub stored: u64,
    /// Validations that a revocation overtook, so that the provider was asked again.
    pub overtaken: u64,
    /// Calls of `invalidate_token`, `revoke_token` and `invalidate_user`.
    pub revocations: u64,
    /// Sessions in memory now, some of them perhaps ended.
    pub entries: u64,
    /// Revoked tokens remembered now.
    pub verdicts: u64,
    /// Refused tokens remembered now.
    pub refusals: u64,
    /// Validations in flight now.
    pub in_flight: u64,
    /// Revocations that hold here and wait for Redis to answer.
    pub undelivered: u64,
    /// Whether Redis is left alone now, since it did not answer three times in a row.
    pub redis_skipped: bool,
    /// Whether Redis is connected that tells the local cache of changes.
    pub listening: bool,
    /// How long ago everything that had changed in Redis was known here; nothing while sessions
    /// are not served from the local cache, but looked up in Redis.
    pub lease_age: Option<Duration>,
    /// Changes that Redis has told of.
    pub pushes: u64,
    /// How many times the local cache has begun anew, since it might have missed a change.
    pub epochs: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) local_hits: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) validations: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unavailable: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) overtaken: AtomicU64,
    pub(crate) revocations: AtomicU64,
}

impl Counters {
    pub(crate) fn hit(&self, origin: Origin) {
        count(&self.hits);
        if origin == Origin::Local {
            count(&self.local_hits);
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    /// The counts; what is held now is left at zero.
    pub(super) fn read(&self) -> Stats {
        let Self {
            hits,
            local_hits,
            stale,
            misses,
            validations,
            refreshes,
            joined,
            refused,
            unavailable,
            stored,
            overtaken,
            revocations,
        } = self;
        Stats {
            hits: hits.load(Relaxed),
            local_hits: local_hits.load(Relaxed),
            stale: stale.load(Relaxed),
            misses: misses.load(Relaxed),
            validations: validations.load(Relaxed),
            refreshes: refreshes.load(Relaxed),
            joined: joined.load(Relaxed),
            refused: refused.load(Relaxed),
            unavailable: unavailable.load(Relaxed),
            stored: stored.load(Relaxed),
            overtaken: overtaken.load(Relaxed),
            revocations: revocations.load(Relaxed),
            ..Stats::default()
        }
    }
}
