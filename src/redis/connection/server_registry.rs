//! Registry of the servers that were reached, and what follows when a new run ID appears.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
};

use bb8_redis::redis::RedisError;

use crate::{
    coherence::Lease,
    protocol::{CLOCK_SKEW_TOLERANCE, Timestamp},
    sync::lock,
    telemetry::{REDIS, RedisMetrics},
};

/// Maximum number of run IDs that are remembered. A forgotten one counts as new when it appears
/// again.
const MAX_RUNS: usize = 4_096;

/// State that all servers of one cache share: a single server, or the primaries of a cluster.
pub(crate) struct ServerRegistry {
    /// Released when a new run ID appears: that server may have lost revocations of what was read
    /// before.
    lease: Option<Arc<Lease>>,
    /// Whether several servers are in use at the same time, or one at a time.
    is_cluster: bool,
    known: Mutex<KnownServers>,
    /// Records up to this time may be missing a mark that was lost in a failover or restart.
    trust_floor: AtomicI64,
    /// Counts the events after which a key may be on another server.
    topology_version: AtomicU64,
    has_warned_of_eviction: AtomicBool,
    has_warned_of_version: AtomicBool,
    has_warned_of_scripts: AtomicBool,
    pub(crate) metrics: RedisMetrics,
}

/// The registration of one connection's server. If the servers are not a cluster, a connection to
/// another server ends it: the earlier server may still reply, but does not receive revocations.
pub(crate) struct Registration {
    registry: Arc<ServerRegistry>,
    version: u64,
}

impl Registration {
    pub(crate) fn new(registry: Arc<ServerRegistry>, version: u64) -> Self {
        Self { registry, version }
    }

    pub(crate) fn is_superseded(&self) -> bool {
        !self.registry.is_cluster && self.registry.topology_version() != self.version
    }
}

struct KnownServers {
    /// Oldest first.
    run_ids: Vec<Arc<str>>,
    /// Whether the first discovery is complete. From then on a new run ID means that a server has
    /// taken the place of an earlier one.
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
            has_warned_of_version: AtomicBool::new(false),
            has_warned_of_scripts: AtomicBool::new(false),
            metrics: RedisMetrics::default(),
        }
    }

    /// Registers the run ID of a new connection before that connection serves any caller. `now` is
    /// the time of the server. Returns the topology version from then on.
    pub(crate) fn register(&self, run_id: &Arc<str>, now: Timestamp) -> u64 {
        let mut known = self.known();
        if known.run_ids.contains(run_id) {
            return self.topology_version();
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
            // This must happen while `known` is locked, before another task can find the run ID
            // registered.
            self.raise_trust_floor(now);
            if let Some(lease) = &self.lease {
                lease.server_replaced();
            }
            tracing::warn!(
                target: REDIS,
                reason = "revocations may have been lost",
                "Redis restarted or replaced, revalidating cached sessions"
            );
        }
        self.topology_version()
    }

    /// Raises the trust floor to `now` plus slack and ends the lease. The revocation of a record
    /// that was stored until now may have been lost.
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

    /// Advances the topology version and ends the lease, after slots have moved, or primaries have
    /// been added or removed.
    pub(crate) fn topology_changed(&self) {
        self.advance_topology_version();
        if let Some(lease) = &self.lease {
            lease.release();
        }
    }

    /// Marks the first discovery as complete: all servers that answer are registered.
    pub(crate) fn finish_discovery(&self) {
        self.known().is_discovered = true;
    }

    pub(crate) fn warn_of_eviction(&self, policy: &str) {
        if !self.has_warned_of_eviction.swap(true, SeqCst) {
            tracing::warn!(
                target: REDIS,
                policy,
                hint = "set maxmemory-policy of Redis to noeviction, or make sure that Redis \
                        never reaches maxmemory",
                "Redis may evict tombstones and revocation marks"
            );
        }
    }

    pub(crate) fn warn_of_version(&self, version: &str) {
        if !self.has_warned_of_version.swap(true, SeqCst) {
            tracing::warn!(
                target: REDIS,
                version,
                hint = "use Redis 6.2 or later; this version is not tested",
                "Redis is older than the oldest supported version"
            );
        }
    }

    pub(crate) fn warn_of_scripts(&self, error: &RedisError) {
        if !self.has_warned_of_scripts.swap(true, SeqCst) {
            tracing::warn!(
                target: REDIS,
                %error,
                hint = "permit SCRIPT LOAD on the server and on proxies in front of it to save the \
                        transfer, or permit EVAL",
                "Redis loads no scripts, sending them with each call"
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
    fn single_server_treats_every_run_id_change_as_new() {
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
    fn connection_to_a_new_run_id_ends_those_to_the_earlier_one() {
        for is_cluster in [false, true] {
            let registry = Arc::new(ServerRegistry::new(None, is_cluster));
            let connect = |run_id: &str| {
                let version = registry.register(&run_id.into(), NOW);
                Registration::new(Arc::clone(&registry), version)
            };
            let (first, second) = (connect("a"), connect("a"));
            assert!(!first.is_superseded() && !second.is_superseded());
            let third = connect("b");
            assert_eq!(first.is_superseded(), !is_cluster);
            assert_eq!(second.is_superseded(), !is_cluster);
            assert!(!third.is_superseded());
        }
    }

    #[test]
    fn cluster_treats_run_ids_after_discovery_as_new() {
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
