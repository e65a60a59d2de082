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
    model::LayerId,
    protocol::CacheKey,
    time::Clock,
};

/// By whose rules a token was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RejectedBy {
    /// The identity provider. It counts for all layers of the namespace.
    Provider,
    /// A layer's own rule. It counts for that layer.
    Layer(LayerId),
}

pub(crate) struct NegativeCache {
    tokens: Cache<(CacheKey, RejectedBy), NegativeEntry>,
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
    pub(crate) fn insert(&self, key: &CacheKey, by: RejectedBy, generation: Generation) {
        if self.ttl > 0 {
            let until = self.clock.elapsed().saturating_add(self.ttl);
            let entry = NegativeEntry { until, generation };
            self.tokens.insert((key.clone(), by), entry);
        }
    }

    pub(crate) fn remove(&self, key: &CacheKey, layer: Option<LayerId>) {
        if self.ttl > 0 {
            let layer = layer.map(RejectedBy::Layer);
            for by in std::iter::once(RejectedBy::Provider).chain(layer) {
                self.tokens.remove(&(key.clone(), by));
            }
        }
    }

    pub(crate) fn contains(
        &self,
        key: &CacheKey,
        by: RejectedBy,
        generations: &Generations,
    ) -> bool {
        if self.ttl == 0 {
            return false;
        }
        let place = (key.clone(), by);
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
