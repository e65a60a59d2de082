//! A provider that is late: for some ticks after a change it may reply as before. Trust in a record
//! then grows with the distance of its validation from the revocation.
//!
//! What a revocation guarantees is here a limit that lasts twice the lag and one tick.

use crate::{
    Model,
    rules::Rule,
    state::{MICROS, Mark, Record, State, Timestamp, Tombstone, Version},
};

impl Model {
    /// The provider has made a change. It may not know it yet.
    pub(crate) fn is_late_with(&self, state: &mut State, token: usize) {
        if self.bounds.lag > 0 {
            state.provider.late_until[token] = state.time + self.bounds.lag;
        }
    }

    /// Returns the version that the provider may still reply with instead of the current one.
    pub(crate) fn late_version(&self, state: &State, token: usize) -> Option<Version> {
        let is_late = self.bounds.lag > 0 && state.time <= state.provider.late_until[token];
        is_late
            .then(|| state.provider.versions[token].checked_sub(1))
            .flatten()
    }

    /// Returns the time after a revocation from which a node serves nothing older.
    pub(crate) fn limit_of(&self, node: usize) -> u8 {
        let ticks = &self.bounds.ticks;
        match self.bounds.lag {
            0 => ticks.bound(node),
            // A lookup by `MGET` uses the node's clock, and a mark may be of the Python service's.
            lag => 2 * lag + 1 + ticks.node_slow[node] + ticks.peer_slow,
        }
    }

    /// Models `acceptance::trusted_until`.
    pub(crate) fn is_trusted(
        &self,
        record: &Record,
        tomb: Option<Tombstone>,
        mark: Option<Mark>,
        now: Timestamp,
    ) -> bool {
        if self.bounds.lag == 0 || !self.holds(Rule::TrustGrows) {
            return true;
        }
        let validated = match record.provenance {
            Some(provenance) => provenance.fence,
            None if self.holds(Rule::PeerTrustHasSlack) => {
                record.cached_at.minus(self.bounds.ticks.slack)
            }
            None => record.cached_at,
        };
        let Some(last) = mark.max(tomb.map(|tomb| tomb.time)) else {
            return true;
        };
        let trust = validated.0.saturating_sub(last.0).max(MICROS);
        now.0 < validated.0 + trust
    }
}
