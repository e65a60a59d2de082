//! The servers that were met, and what follows when another one turns up than before.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
};

use crate::{
    coherence::Lease,
    protocol::{SLACK, Timestamp},
    sync::lock,
    telemetry::{REDIS, RedisMetrics},
};

/// More runs are not remembered; one that is forgotten counts as another when it is met again.
const MAX_RUNS: usize = 4_096;

/// What all servers of one cache have in common: one, or the primaries of a cluster.
pub(crate) struct ServerRegistry {
    /// Ends when another server is met: what was read before may be missing what it has lost.
    lease: Option<Arc<Lease>>,
    /// Several servers at once, or one at a time.
    is_cluster: bool,
    runs: Mutex<KnownServers>,
    /// Records up to this time may be missing a mark that a failover or restart has lost.
    floor: AtomicI64,
    /// Counts whatever may have changed about who holds what.
    turn: AtomicU64,
    has_warned_of_eviction: AtomicBool,
    pub(crate) metrics: RedisMetrics,
}

struct KnownServers {
    /// The oldest first.
    met: Vec<Arc<str>>,
    /// From here on another run is one that has taken the place of one before.
    is_whole: bool,
}

impl ServerRegistry {
    pub(crate) fn new(lease: Option<Arc<Lease>>, is_cluster: bool) -> Self {
        Self {
            lease,
            is_cluster,
            runs: Mutex::new(KnownServers {
                met: Vec::new(),
                is_whole: false,
            }),
            floor: AtomicI64::new(0),
            turn: AtomicU64::new(0),
            has_warned_of_eviction: AtomicBool::new(false),
            metrics: RedisMetrics::default(),
        }
    }

    /// A connection leads to this run, which has not served anybody yet; `now` is its time.
    pub(crate) fn meet(&self, run: &Arc<str>, now: Timestamp) {
        let mut runs = self.runs();
        if runs.met.contains(run) {
            return;
        }
        let is_another = runs.is_whole;
        if !self.is_cluster {
            runs.met.clear();
            runs.is_whole = true;
        } else if runs.met.len() >= MAX_RUNS {
            runs.met.remove(0);
        }
        runs.met.push(Arc::clone(run));
        self.turned();
        if is_another {
            // Before anybody else finds the run known.
            self.distrust(now);
            tracing::warn!(
                target: REDIS,
                "another Redis answers than before, or it was restarted: what was cached until \
                 now is validated again, since revocations may have been lost"
            );
        }
    }

    /// What was stored until now may be missing what revoked it.
    pub(crate) fn distrust(&self, now: Timestamp) {
        self.floor.fetch_max(now.plus(SLACK).0, SeqCst);
        if let Some(lease) = &self.lease {
            lease.lose();
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    pub(crate) fn has_met(&self, run: &str) -> bool {
        self.runs().met.iter().any(|met| **met == *run)
    }

    pub(crate) fn floor(&self) -> Timestamp {
        Timestamp(self.floor.load(SeqCst))
    }

    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(SeqCst)
    }

    fn turned(&self) {
        self.turn.fetch_add(1, SeqCst);
    }

    /// Slots have moved, or primaries have come or gone.
    pub(crate) fn moved(&self) {
        self.turned();
        if let Some(lease) = &self.lease {
            lease.lose();
        }
    }

    /// All servers that there are have been met, as far as they answer.
    pub(crate) fn is_whole(&self) {
        self.runs().is_whole = true;
    }

    pub(crate) fn warn_of_eviction(&self, policy: &str) {
        if !self.has_warned_of_eviction.swap(true, SeqCst) {
            tracing::warn!(
                target: REDIS,
                policy,
                "Redis may evict the marks of users and the tombstones of tokens, and with them \
                 revocations; set its maxmemory-policy to noeviction, or leave it memory to spare"
            );
        }
    }

    fn runs(&self) -> MutexGuard<'_, KnownServers> {
        lock(&self.runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn floors(met: &ServerRegistry, run: &str) -> bool {
        let floor = met.floor();
        met.meet(&run.into(), Timestamp(floor.0 + NOW.0));
        met.floor() > floor
    }

    #[test]
    fn of_one_server_every_other_run_than_the_last_is_another() {
        let met = ServerRegistry::new(None, false);
        assert!(!floors(&met, "a") && !floors(&met, "a"));
        assert!(floors(&met, "b") && floors(&met, "a"));
        assert!(met.has_met("a") && !met.has_met("b"));
        assert_eq!(met.floor(), Timestamp(2 * (NOW.0 + SLACK)));
    }

    #[test]
    fn of_a_cluster_every_run_that_was_not_there_at_first() {
        let met = ServerRegistry::new(None, true);
        assert!(!floors(&met, "a") && !floors(&met, "b"));
        met.is_whole();
        let turn = met.turn();
        assert!(!floors(&met, "a") && !floors(&met, "b") && met.turn() == turn);
        assert!(floors(&met, "c") && met.turn() > turn);
        assert!(!floors(&met, "c") && met.has_met("a"));
        for n in 0..2 * MAX_RUNS {
            met.meet(&format!("{n}").into(), NOW);
        }
        assert_eq!(met.runs().met.len(), MAX_RUNS);
    }
}
