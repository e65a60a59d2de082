//! Negative cache: tokens that the identity provider has just rejected or could not validate, so
//! that a flood of them does not become a flood of validations.
//!
//! A rejection by the identity provider counts for all layers of the namespace, one by a layer's
//! own rules for that layer only. A failure counts for the layer whose validator failed. Each is
//! remembered for one second, because a provider may not know a new session at once, and twice as
//! long each time the token is rejected or fails again, up to `negative_ttl`. A failure is remembered
//! at least until the provider's `Retry-After` has passed.
//!
//! Entries are in this process only and in a separate space, so that no session is evicted. Revoking
//! a token ends its entries. Revoking a user ends all entries, because the user of such a token is
//! unknown.

use std::time::Duration;

use quick_cache::sync::Cache;

use crate::{
    coherence::{Generation, Generations},
    model::LayerId,
    protocol::CacheKey,
    time::Clock,
    validator::ValidationError,
};

/// How long the first rejection or failure of a token is remembered, in microseconds.
const FIRST_WAIT: u64 = 1_000_000;

/// Maximum time for which a provider's `Retry-After` is honored.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// By whose rules a token was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RejectedBy {
    /// The identity provider. It counts for all layers of the namespace.
    Provider,
    /// A layer's own rule, or its validator that failed. It counts for that layer.
    Layer(LayerId),
}

pub(crate) struct NegativeCache {
    tokens: Cache<(CacheKey, RejectedBy), NegativeEntry>,
    clock: Clock,
    ttl: u64,
}

#[derive(Clone)]
struct NegativeEntry {
    until: u64,
    /// How long it was remembered, without the provider's `Retry-After`.
    wait: u64,
    generation: Generation,
    error: ValidationError,
}

impl NegativeCache {
    pub(crate) fn new(capacity: usize, clock: Clock, ttl: u64) -> Self {
        Self {
            tokens: Cache::new(capacity),
            clock,
            ttl,
        }
    }

    /// Stores a rejection or a failure of a token whose validation began after `generation` was read,
    /// at the time `began`. `last_wait` is how long the last rejection was used that nodes share. Returns how long this one
    /// is remembered, in microseconds.
    pub(crate) fn insert(
        &self,
        key: &CacheKey,
        by: RejectedBy,
        (generation, began): (Generation, u64),
        error: ValidationError,
        last_wait: Option<u64>,
    ) -> u64 {
        let place = (key.clone(), by);
        let now = self.clock.elapsed();
        let last = self.tokens.get(&place);
        let last = last
            // A token that has not been rejected for a while starts again.
            .filter(|last| now < last.until.saturating_add(self.ttl))
            // One that was used when the validation began is of a concurrent validation.
            .map(|last| match last.until <= began {
                true => last.wait.saturating_mul(2),
                false => last.wait,
            });
        let shared = last_wait.map(|wait| wait.saturating_mul(2));
        let wait = last.max(shared).unwrap_or(FIRST_WAIT);
        let wait = wait.min(self.ttl);
        let retry_after = error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER);
        let retry_after = u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX);
        let time = wait.max(retry_after);
        if time > 0 {
            let entry = NegativeEntry {
                until: now.saturating_add(time),
                wait,
                generation,
                error,
            };
            self.tokens.insert(place, entry);
        }
        wait
    }

    pub(crate) fn remove(&self, key: &CacheKey, layer: Option<LayerId>) {
        let layer = layer.map(RejectedBy::Layer);
        for by in std::iter::once(RejectedBy::Provider).chain(layer) {
            self.tokens.remove(&(key.clone(), by));
        }
    }

    /// Returns the error with which the token was rejected or failed. The `Retry-After` of a failure
    /// is the time that remains.
    pub(crate) fn get(
        &self,
        key: &CacheKey,
        by: RejectedBy,
        generations: &Generations,
    ) -> Option<ValidationError> {
        let place = (key.clone(), by);
        let entry = self.tokens.get(&place)?;
        let is_current = generations.is_current_for_all_users(entry.generation, &key.token);
        match entry.until.checked_sub(self.clock.elapsed()) {
            Some(left @ 1..) if is_current => Some(match entry.error.retry_after() {
                Some(_) => entry.error.with_retry_after(Duration::from_micros(left)),
                None => entry.error,
            }),
            // The next one must know how long this one was remembered.
            _ if is_current => None,
            _ => {
                self.tokens
                    .remove_if(&place, |now| now.until == entry.until);
                None
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }
}
