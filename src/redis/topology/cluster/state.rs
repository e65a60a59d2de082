//! What is known of a cluster, and the connections to its primaries.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use bb8_redis::redis::ConnectionInfo;
use tokio::sync::{Notify, watch};

use super::{cluster_info::Address, slot_map::SlotMap};
use crate::{
    redis::{
        connection::{ServerPool, ServerRegistry, Timeouts},
        endpoint::{Endpoint, at},
        keys::KeySpace,
    },
    sync::{BackgroundTask, lock},
};

/// Servers that commands were sent on to and that the map does not have yet.
const MAX_STRAYS: usize = 64;

pub(crate) struct Cluster {
    /// The nodes that were named, by which the others are found.
    pub(crate) seeds: Vec<ConnectionInfo>,
    pub(crate) deadlines: Timeouts,
    pub(crate) names: KeySpace,
    pub(crate) met: Arc<ServerRegistry>,
    pub(crate) known: watch::Sender<ClusterStatus>,
    pub(crate) strays: Mutex<HashMap<Address, ServerPool>>,
    /// The latest epoch of the cluster's own that was seen.
    pub(crate) epoch: AtomicU64,
    /// Asks for a look at the cluster ahead of the next.
    pub(crate) look: Arc<Notify>,
    pub(crate) survey: BackgroundTask,
}

pub(crate) enum ClusterStatus {
    /// Nobody has looked yet.
    Undiscovered,
    /// No node has told so far.
    Unreachable,
    Mapped(Arc<SlotMap>),
}

impl Cluster {
    /// Connects on first use.
    pub(crate) fn new(
        seeds: Vec<ConnectionInfo>,
        deadlines: Timeouts,
        names: KeySpace,
        met: Arc<ServerRegistry>,
    ) -> Self {
        Self {
            seeds,
            deadlines,
            names,
            met,
            known: watch::Sender::new(ClusterStatus::Undiscovered),
            strays: Mutex::default(),
            epoch: AtomicU64::new(0),
            look: Arc::default(),
            survey: BackgroundTask::default(),
        }
    }

    /// Whether no command has a chance now.
    pub(crate) fn is_skipped(&self) -> bool {
        match &*self.known.borrow() {
            ClusterStatus::Undiscovered => false,
            ClusterStatus::Unreachable => true,
            ClusterStatus::Mapped(map) => map.owners().all(|owner| owner.links.is_skipped()),
        }
    }

    /// A server that a command was sent on to.
    pub(crate) fn server(&self, map: &SlotMap, address: &Address) -> Option<ServerPool> {
        if let Some(links) = map.links(address) {
            return Some(links);
        }
        let mut strays = lock(&self.strays);
        if let Some(links) = strays.get(address) {
            return Some(links.clone());
        }
        if strays.len() >= MAX_STRAYS {
            return None;
        }
        let links = self.links(address);
        strays.insert(address.clone(), links.clone());
        Some(links)
    }

    pub(crate) fn links(&self, address: &Address) -> ServerPool {
        let server = Endpoint::Fixed(Box::new(self.connection_info(address)));
        let (probe, met) = (self.names.write_probe(), Arc::clone(&self.met));
        ServerPool::new(server, self.deadlines, probe, met)
    }

    /// As the first of the named nodes, but for its address.
    pub(crate) fn connection_info(&self, address: &Address) -> ConnectionInfo {
        at(&self.seeds[0], &address.host, address.port)
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
            .field("deadlines", &self.deadlines)
            .finish_non_exhaustive()
    }
}
