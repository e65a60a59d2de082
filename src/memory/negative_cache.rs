//! Negative cache: tokens that the identity provider has just rejected, so that a flood of invalid
//! tokens does not become a flood of validations.
//!
//! A rejection by the identity provider counts for all layers of the namespace, one by a layer's
//! own rules for that layer only. Only *invalid* is remembered, for `negative_ttl`, in this process
//! only and in a separate space, so that no session is evicted. Revoking a token ends its entries.
//! Revoking a user ends all entries, because the user of a rejected token is unknown.

use quick_cache::sync::Cache;

use crate::{
    coherence::{Generation, Generations},
    protocol::CacheKey,
    time::Clock,
};

pub(crate) struct NegativeCache {
    /// Keyed by the token and the layer whose rules rejected it, 0 for the identity provider.
    tokens: Cache<(CacheKey, u64), NegativeEntry>,
    clock: Clock,
    ttl: u64,
}

#[derive(Clone, Copy)]
struct NegativeEntry {
    until: u64,
    generation: Generation,
}

impl NegativeCache {
    pub(crate) fn new(capacity: usize, clock: Clock, ttl: u64) -> Self {
        Self {
            tokens: Cache::new(capacity),
            clock,
            ttl,
        }
    }

    /// `generation` was read before the validation that rejected the token.
    pub(crate) fn insert(&self, key: &CacheKey, rules: u64, generation: Generation) {
        if self.ttl > 0 {
            let until = self.clock.elapsed().saturating_add(self.ttl);
            let entry = NegativeEntry { until, generation };
            self.tokens.insert((key.clone(), rules), entry);
        }
    }

    pub(crate) fn remove(&self, key: &CacheKey, rules: u64) {
        if self.ttl > 0 {
            for rules in [0, rules] {
                self.tokens.remove(&(key.clone(), rules));
            }
        }
    }

    pub(crate) fn contains(&self, key: &CacheKey, rules: u64, generations: &Generations) -> bool {
        if self.ttl == 0 {
            return false;
        }
        let place = (key.clone(), rules);
        let Some(entry) = self.tokens.get(&place) else {
            return false;
        };
        let holds = self.clock.elapsed() < entry.until
            && generations.is_current_for_all_users(entry.generation, &key.token);
        if !holds {
            self.tokens
                .remove_if(&place, |now| now.until == entry.until);
        }
        holds
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }
}
