//! Tokens that the identity provider refused a moment ago, so that a flood of bad ones does not
//! become one of questions.
//!
//! A refusal by the identity provider counts for all layers of the namespace, one by a layer's own
//! rules for that layer alone. Only *invalid* is remembered, for a few seconds, in this process alone and in a space of its
//! own that pushes out no session. A revocation makes it forget: of the token that is revoked,
//! and of all when it is a user's, since nobody knows whose a refused token is.

use quick_cache::sync::Cache;

use crate::{
    coherence::{Seen, Stripes},
    protocol::EntryKey,
    time::Clock,
};

pub(crate) struct Refusals {
    /// By the token and the layer whose rules refused it, 0 for the identity provider.
    tokens: Cache<(EntryKey, u64), Refusal>,
    clock: Clock,
    ttl: u64,
}

#[derive(Clone, Copy)]
struct Refusal {
    until: u64,
    seen: Seen,
}

impl Refusals {
    pub(crate) fn new(capacity: usize, clock: Clock, ttl: u64) -> Self {
        Self {
            tokens: Cache::new(capacity),
            clock,
            ttl,
        }
    }

    /// `seen` is from before the validation that was refused.
    pub(crate) fn remember(&self, key: &EntryKey, rules: u64, seen: Seen) {
        if self.ttl > 0 {
            let until = self.clock.elapsed().saturating_add(self.ttl);
            let refusal = Refusal { until, seen };
            self.tokens.insert((key.clone(), rules), refusal);
        }
    }

    pub(crate) fn forget(&self, key: &EntryKey, rules: u64) {
        if self.ttl > 0 {
            for rules in [0, rules] {
                self.tokens.remove(&(key.clone(), rules));
            }
        }
    }

    pub(crate) fn holds(&self, key: &EntryKey, rules: u64, stripes: &Stripes) -> bool {
        if self.ttl == 0 {
            return false;
        }
        let place = (key.clone(), rules);
        let Some(refusal) = self.tokens.get(&place) else {
            return false;
        };
        let holds = self.clock.elapsed() < refusal.until
            && stripes.unchanged_for_anyone(refusal.seen, &key.token);
        if !holds {
            self.tokens
                .remove_if(&place, |now| now.until == refusal.until);
        }
        holds
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }
}
