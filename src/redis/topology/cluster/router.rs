//! Routing of commands to the primary that holds their key, by the slot map and by redirects.

use std::{borrow::Cow, sync::Arc};

use bb8_redis::redis::{Cmd, ErrorKind, ServerErrorKind};
use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use super::{
    cluster_info::Address,
    discovery::watch,
    hash_slot::slot,
    slot_map::SlotMap,
    state::{Cluster, ClusterStatus},
};
use crate::redis::{
    connection::{CallOptions, CommandError, Reply, SharedConnection},
    endpoint::TrackedNode,
};

/// Maximum number of times that a command is sent. More redirects mean that the nodes disagree.
const MAX_HOPS: usize = 5;

const NOT_KNOWN: CommandError = CommandError::Unavailable(Cow::Borrowed(
    "the cluster node that holds the key is unknown",
));

impl Cluster {
    /// Sends a command to the server that holds the key, and follows redirects.
    pub(crate) async fn ask<'c>(
        self: &Arc<Self>,
        mut options: CallOptions,
        key: &str,
        command: impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
    ) -> Result<Reply, CommandError> {
        let map = self.map(options.until).await.ok_or(NOT_KNOWN)?;
        let Some(owner) = map.owner(slot(key)) else {
            self.refresh_requested.notify_one();
            return Err(NOT_KNOWN);
        };
        let (mut address, mut pool) = (owner.address.clone(), owner.pool.clone());
        let mut before: Option<Arc<str>> = None;
        for _ in 0..MAX_HOPS {
            let (error, run_id) = match pool.ask(options, &command).await {
                Ok(answer) => return Ok(answer.via(before)),
                Err(CommandError::Redirected { error, run_id }) => (error, run_id),
                Err(unavailable) => {
                    self.refresh_requested.notify_one();
                    return Err(unavailable);
                }
            };
            let next = error.redirect_node();
            let Some(next) = next.and_then(|(node, _)| Address::parse(node, &address)) else {
                return Err(CommandError::Redirected { error, run_id });
            };
            options.is_asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            if options.is_asking {
                before = Some(run_id);
            } else {
                before = None;
                self.registry.topology_changed();
                self.refresh_requested.notify_one();
            }
            pool = self.server(&map, &next).ok_or(NOT_KNOWN)?;
            address = next;
        }
        Err(NOT_KNOWN)
    }

    /// Returns whether each slot has a primary, and each of these replies.
    pub(crate) async fn all_answer(self: &Arc<Self>, options: CallOptions, command: &Cmd) -> bool {
        let Some(map) = self.map(options.until).await else {
            return false;
        };
        let asked = map.owners().map(async |owner| {
            let answer = owner.pool.ask(options, |_| Cow::Borrowed(command)).await;
            answer.is_ok()
        });
        map.is_whole() && join_all(asked).await.into_iter().all(|answers| answers)
    }

    /// Returns all primaries, including those without slots, because a slot may be moving to them.
    pub(crate) async fn tracked_nodes(
        self: &Arc<Self>,
        until: Instant,
        nonce: u64,
    ) -> (u64, Vec<TrackedNode>) {
        let topology_version = self.topology_version(until).await.unwrap_or_default();
        let Some(map) = self.map(until).await else {
            return (topology_version, Vec::new());
        };
        let heard = map.primaries.iter().map(|primary| TrackedNode {
            server: self.endpoint(self.connection_info(&primary.address)),
            probe: map.key_on(&primary.address, |n| {
                self.key_space.probe(nonce.wrapping_add(n))
            }),
        });
        (topology_version, heard.collect())
    }

    /// Returns the topology version as soon as the cluster is known. Until then its primaries are
    /// registered for the first time.
    pub(crate) async fn topology_version(self: &Arc<Self>, until: Instant) -> Option<u64> {
        self.map(until).await?;
        Some(self.registry.topology_version())
    }

    async fn map(self: &Arc<Self>, until: Instant) -> Option<Arc<SlotMap>> {
        // Timers and connections need a runtime.
        Handle::try_current().ok()?;
        self.discovery
            .start(|| watch(Arc::downgrade(self), Arc::clone(&self.refresh_requested)));
        if let Some(map) = self.known.borrow().map() {
            return Some(map);
        }
        let mut known = self.known.subscribe();
        let is_known = known.wait_for(|known| !matches!(known, ClusterStatus::Undiscovered));
        timeout_at(until, is_known).await.ok()?.ok()?.map()
    }
}
