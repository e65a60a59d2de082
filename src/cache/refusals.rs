//! Tokens that the identity provider refused a moment ago, so that a flood of bad ones does not
//! become one of questions.
//!
//! Only *invalid* is remembered, for a few seconds, in this process alone and in a space of its
//! own that pushes out no session. A revocation makes it forget: of the token that is revoked,
//! and of all when it is a user's, since nobody knows whose a refused token is.

use quick_cache::sync::Cache;

use super::{
    key::EntryKey,
    stripes::{Seen, Stripes},
};
use crate::clock::Clock;

pub(super) struct Refusals {
    tokens: Cache<EntryKey, Refusal>,
    clock: Clock,
    ttl: u64,
}

#[derive(Clone, Copy)]
struct Refusal {
    until: u64,
    seen: Seen,
}

impl Refusals {
    pub(super) fn new(capacity: usize, clock: Clock, ttl: u64) -> Self {
        Self {
            tokens: Cache::new(capacity),
            clock,
            ttl,
        }
    }

    /// `seen` is from before the validation that was refused.
    pub(super) fn remember(&self, key: &EntryKey, seen: Seen) {
        if self.ttl > 0 {
            let until = self.clock.elapsed().saturating_add(self.ttl);
            self.tokens.insert(key.clone(), Refusal { until, seen });
        }
    }

    pub(super) fn forget(&self, key: &EntryKey) {
        if self.ttl > 0 {
            self.tokens.remove(key);
        }
    }

    pub(super) fn holds(&self, key: &EntryKey, stripes: &Stripes) -> bool {
        if self.ttl == 0 {
            return false;
        }
        let Some(refusal) = self.tokens.get(key) else {
            return false;
        };
        let holds = self.clock.elapsed() < refusal.until
            && stripes.unchanged_for_anyone(refusal.seen, &key.token);
        if !holds {
            self.tokens.remove_if(key, |now| now.until == refusal.until);
        }
        holds
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}
