//! The servers that were met, and what follows when another one turns up than before.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
};

use crate::{
    coherence::Lease,
    protocol::{CLOCK_SKEW_TOLERANCE, Timestamp},
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
    known: Mutex<KnownServers>,
    /// Records up to this time may be missing a mark that a failover or restart has lost.
    trust_floor: AtomicI64,
    /// Counts whatever may have changed about who holds what.
    topology_version: AtomicU64,
    has_warned_of_eviction: AtomicBool,
    pub(crate) metrics: RedisMetrics,
}

struct KnownServers {
    /// The oldest first.
    run_ids: Vec<Arc<str>>,
    /// From here on another run is one that has taken the place of one before.
    is_discovered: bool,
}

impl ServerRegistry {
    pub(crate) fn new(lease: Option<Arc<Lease>>, is_cluster: bool) -> Self {
        Self {
            lease,
            is_cluster,
            known: Mutex::new(KnownServers {
                run_ids: Vec::new(),
                is_discovered: false,
            }),
            trust_floor: AtomicI64::new(0),
            topology_version: AtomicU64::new(0),
            has_warned_of_eviction: AtomicBool::new(false),
            metrics: RedisMetrics::default(),
        }
    }

    /// A connection leads to this run, which has not served anybody yet; `now` is its time.
    pub(crate) fn register(&self, run_id: &Arc<str>, now: Timestamp) {
        let mut known = self.known();
        if known.run_ids.contains(run_id) {
            return;
        }
        let is_another = known.is_discovered;
        if !self.is_cluster {
            known.run_ids.clear();
            known.is_discovered = true;
        } else if known.run_ids.len() >= MAX_RUNS {
            known.run_ids.remove(0);
        }
        known.run_ids.push(Arc::clone(run_id));
        self.advance_topology_version();
        if is_another {
            // Before anybody else finds the run known.
            self.raise_trust_floor(now);
            tracing::warn!(
                target: REDIS,
                "another Redis answers than before, or it was restarted: what was cached until \
                 now is validated again, since revocations may have been lost"
            );
        }
    }

    /// What was stored until now may be missing what revoked it.
    pub(crate) fn raise_trust_floor(&self, now: Timestamp) {
        self.trust_floor
            .fetch_max(now.plus(CLOCK_SKEW_TOLERANCE).0, SeqCst);
        if let Some(lease) = &self.lease {
            lease.release();
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    pub(crate) fn is_registered(&self, run_id: &str) -> bool {
        self.known().run_ids.iter().any(|known| **known == *run_id)
    }

    pub(crate) fn trust_floor(&self) -> Timestamp {
        Timestamp(self.trust_floor.load(SeqCst))
    }

    pub(crate) fn topology_version(&self) -> u64 {
        self.topology_version.load(SeqCst)
    }

    fn advance_topology_version(&self) {
        self.topology_version.fetch_add(1, SeqCst);
    }

    /// Slots have moved, or primaries have come or gone.
    pub(crate) fn topology_changed(&self) {
        self.advance_topology_version();
        if let Some(lease) = &self.lease {
            lease.release();
        }
    }

    /// All servers that there are have been met, as far as they answer.
    pub(crate) fn finish_discovery(&self) {
        self.known().is_discovered = true;
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

    fn known(&self) -> MutexGuard<'_, KnownServers> {
        lock(&self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn floors(registry: &ServerRegistry, run_id: &str) -> bool {
        let trust_floor = registry.trust_floor();
        registry.register(&run_id.into(), Timestamp(trust_floor.0 + NOW.0));
        registry.trust_floor() > trust_floor
    }

    #[test]
    fn of_one_server_every_other_run_than_the_last_is_another() {
        let registry = ServerRegistry::new(None, false);
        assert!(!floors(&registry, "a") && !floors(&registry, "a"));
        assert!(floors(&registry, "b") && floors(&registry, "a"));
        assert!(registry.is_registered("a") && !registry.is_registered("b"));
        assert_eq!(
            registry.trust_floor(),
            Timestamp(2 * (NOW.0 + CLOCK_SKEW_TOLERANCE))
        );
    }

    #[test]
    fn of_a_cluster_every_run_that_was_not_there_at_first() {
        let registry = ServerRegistry::new(None, true);
        assert!(!floors(&registry, "a") && !floors(&registry, "b"));
        registry.finish_discovery();
        let topology_version = registry.topology_version();
        assert!(
            !floors(&registry, "a")
                && !floors(&registry, "b")
                && registry.topology_version() == topology_version
        );
        assert!(floors(&registry, "c") && registry.topology_version() > topology_version);
        assert!(!floors(&registry, "c") && registry.is_registered("a"));
        for n in 0..2 * MAX_RUNS {
            registry.register(&format!("{n}").into(), NOW);
        }
        assert_eq!(registry.known().run_ids.len(), MAX_RUNS);
    }
}
