//! State of a cluster, and the connections to its primaries.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use tokio::sync::{Notify, watch};

use super::{cluster_info::Address, slot_map::SlotMap};
use crate::{
    redis::{
        connection::{ServerPool, ServerRegistry, Timeouts},
        endpoint::{AddressMap, CredentialsSource, Endpoint, Server, at},
        keys::KeySpace,
    },
    sync::{BackgroundTask, lock},
};

/// Maximum number of redirect targets that are not in the slot map yet.
const MAX_STRAYS: usize = 64;

pub(crate) struct Cluster {
    /// The configured nodes, through which the others are found.
    pub(crate) seeds: Vec<Server>,
    pub(crate) access: NodeAccess,
    pub(crate) timeouts: Timeouts,
    pub(crate) key_space: KeySpace,
    pub(crate) registry: Arc<ServerRegistry>,
    pub(crate) known: watch::Sender<ClusterStatus>,
    pub(crate) redirect_targets: Mutex<HashMap<Address, ServerPool>>,
    /// The latest epoch of the cluster that was seen.
    pub(crate) epoch: AtomicU64,
    /// Requests a refresh ahead of the next one.
    pub(crate) refresh_requested: Arc<Notify>,
    pub(crate) discovery: BackgroundTask,
}

/// How nodes are reached, in addition to the settings of the first configured one.
#[derive(Default)]
pub(crate) struct NodeAccess {
    pub(crate) credentials: Option<Arc<CredentialsSource>>,
    pub(crate) address_map: AddressMap,
}

pub(crate) enum ClusterStatus {
    /// The first discovery is not complete.
    Undiscovered,
    /// No node has reported its state so far.
    Unreachable,
    Mapped(Arc<SlotMap>),
}

impl Cluster {
    /// Creates a cluster that connects on first use.
    pub(crate) fn new(
        seeds: Vec<Server>,
        access: NodeAccess,
        timeouts: Timeouts,
        key_space: KeySpace,
        registry: Arc<ServerRegistry>,
    ) -> Self {
        Self {
            seeds,
            access,
            timeouts,
            key_space,
            registry,
            known: watch::Sender::new(ClusterStatus::Undiscovered),
            redirect_targets: Mutex::default(),
            epoch: AtomicU64::new(0),
            refresh_requested: Arc::default(),
            discovery: BackgroundTask::default(),
        }
    }

    /// Returns whether no command can succeed now.
    pub(crate) fn is_circuit_open(&self) -> bool {
        match &*self.known.borrow() {
            ClusterStatus::Undiscovered => false,
            ClusterStatus::Unreachable => true,
            ClusterStatus::Mapped(map) => map.owners().all(|owner| owner.pool.is_circuit_open()),
        }
    }

    /// Returns the pool of a server that a command is redirected to. Returns `None` if too many of
    /// them are not in the slot map.
    pub(crate) fn server(&self, map: &SlotMap, address: &Address) -> Option<ServerPool> {
        if let Some(pool) = map.pool(address) {
            return Some(pool);
        }
        let mut redirect_targets = lock(&self.redirect_targets);
        if let Some(pool) = redirect_targets.get(address) {
            return Some(pool.clone());
        }
        if redirect_targets.len() >= MAX_STRAYS {
            return None;
        }
        let pool = self.pool(address);
        redirect_targets.insert(address.clone(), pool.clone());
        Some(pool)
    }

    pub(crate) fn pool(&self, address: &Address) -> ServerPool {
        let server = self.endpoint(self.connection_info(address));
        let (probe, registry) = (self.key_space.write_probe(), Arc::clone(&self.registry));
        ServerPool::new(server, self.timeouts, probe, registry)
    }

    /// Returns the settings of the first configured node with another address.
    pub(crate) fn connection_info(&self, address: &Address) -> Server {
        let map = &self.access.address_map;
        at(&self.seeds[0], map, &address.host, address.port)
    }

    pub(crate) fn endpoint(&self, server: Server) -> Endpoint {
        Endpoint::fixed(server, self.access.credentials.clone())
    }
}

impl ClusterStatus {
    pub(crate) fn map(&self) -> Option<Arc<SlotMap>> {
        match self {
            Self::Mapped(map) => Some(Arc::clone(map)),
            Self::Undiscovered | Self::Unreachable => None,
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("deadlines", &self.timeouts)
            .finish_non_exhaustive()
    }
}
