//! Dispatch of commands to the server that holds their key: a single server, or a primary of a
//! cluster.

use std::{borrow::Cow, fmt, sync::Arc};

use bb8_redis::redis::{Cmd, cmd};
use tokio::time::Instant;

use super::{batch::LookupBatcher, replicas::ReplicaWaiter};
use crate::{
    coherence::Lease,
    protocol::Timestamp,
    redis::{
        config::{Deployment, ReplicaWait},
        connection::{
            Access, CallOptions, CommandError, Reply, ServerPool, ServerRegistry, SharedConnection,
            Timeouts, Unavailable,
        },
        endpoint::{Endpoint, SentinelClient, TrackedNode},
        keys::KeySpace,
        scripts::Script,
        topology::cluster::{Cluster, NodeAccess},
    },
    telemetry::RedisMetrics,
};

#[derive(Clone)]
pub(crate) struct Topology {
    registry: Arc<ServerRegistry>,
    timeouts: Timeouts,
    kind: TopologyKind,
}

#[derive(Clone)]
enum TopologyKind {
    Single(Arc<SingleServer>),
    Cluster(Arc<Cluster>),
}

struct SingleServer {
    endpoint: Endpoint,
    pool: ServerPool,
    batcher: LookupBatcher,
    replicas: Option<ReplicaWaiter>,
}

/// One operation. All of its commands share one deadline.
pub(crate) struct Operation<'a> {
    servers: &'a Topology,
    options: CallOptions,
}

impl Topology {
    /// Creates a topology that connects on first use.
    pub(crate) fn new(
        deployment: Deployment,
        access: NodeAccess,
        database: u16,
        replicas: Option<ReplicaWait>,
        timeouts: Timeouts,
        key_space: &KeySpace,
        lease: Option<Arc<Lease>>,
    ) -> Self {
        let endpoint = match deployment {
            Deployment::Single(url) => Endpoint::fixed(url.server(database), access.credentials),
            Deployment::Sentinel {
                sentinels,
                name,
                primary,
            } => {
                let primary = primary.server(database);
                let sentinels = SentinelClient::new(
                    sentinels,
                    name,
                    primary,
                    access.address_map,
                    timeouts.connect,
                );
                Endpoint::sentinel(sentinels, access.credentials)
            }
            Deployment::Cluster(nodes) => {
                let registry = Arc::new(ServerRegistry::new(lease, true));
                let cluster = Cluster::new(
                    nodes,
                    access,
                    timeouts,
                    key_space.clone(),
                    Arc::clone(&registry),
                );
                return Self {
                    registry,
                    timeouts,
                    kind: TopologyKind::Cluster(Arc::new(cluster)),
                };
            }
        };
        let registry = Arc::new(ServerRegistry::new(lease, false));
        let probe = key_space.write_probe();
        let pool = ServerPool::new(endpoint.clone(), timeouts, probe, Arc::clone(&registry));
        let server = SingleServer {
            endpoint,
            batcher: LookupBatcher::new(pool.clone()),
            pool,
            replicas: replicas.map(ReplicaWaiter::new),
        };
        Self {
            registry,
            timeouts,
            kind: TopologyKind::Single(Arc::new(server)),
        }
    }

    /// Returns whether record and mark may be on different servers.
    pub(crate) fn is_cluster(&self) -> bool {
        self.registry.is_cluster()
    }

    pub(crate) fn is_circuit_open(&self) -> bool {
        match &self.kind {
            TopologyKind::Single(one) => one.pool.is_circuit_open(),
            TopologyKind::Cluster(cluster) => cluster.is_circuit_open(),
        }
    }

    pub(crate) fn metrics(&self) -> &RedisMetrics {
        &self.registry.metrics
    }

    pub(crate) fn trust_floor(&self) -> Timestamp {
        self.registry.trust_floor()
    }

    /// Starts an operation, and with it its timeout.
    pub(crate) fn call(&self, effect: Access) -> Operation<'_> {
        let options = CallOptions::new(effect, Instant::now() + self.timeouts.call);
        Operation {
            servers: self,
            options,
        }
    }

    /// Starts a revocation. It is sent even while the circuit breaker is open, because it must not
    /// fail once a server takes writes again.
    pub(crate) fn revocation(&self) -> Operation<'_> {
        let options = CallOptions::revocation(Instant::now() + self.timeouts.call);
        Operation {
            servers: self,
            options,
        }
    }

    /// Returns the batcher of lookups, if one server holds all that a lookup reads.
    pub(crate) fn batcher(&self) -> Option<&LookupBatcher> {
        match &self.kind {
            TopologyKind::Single(one) => Some(&one.batcher),
            TopologyKind::Cluster(_) => None,
        }
    }

    /// Returns how many replicas have what the server wrote under these run IDs, if
    /// `wait_for_replicas` is set.
    pub(crate) async fn replicas(&self, run_ids: &[Arc<str>]) -> Option<u32> {
        match &self.kind {
            TopologyKind::Single(one) => {
                Some(one.replicas.as_ref()?.have(&one.pool, run_ids).await)
            }
            TopologyKind::Cluster(_) => None,
        }
    }

    /// Returns the topology version, and as of that version all servers that hold keys or may be
    /// given some.
    pub(crate) async fn tracked_nodes(
        &self,
        key_space: &KeySpace,
        nonce: u64,
    ) -> (u64, Vec<TrackedNode>) {
        match &self.kind {
            TopologyKind::Single(one) => {
                let (server, probe) = (one.endpoint.clone(), Some(key_space.probe(nonce)));
                (
                    self.registry.topology_version(),
                    vec![TrackedNode { server, probe }],
                )
            }
            TopologyKind::Cluster(cluster) => {
                let until = Instant::now() + self.timeouts.connect;
                cluster.tracked_nodes(until, nonce).await
            }
        }
    }

    /// Returns whether lookups still reach the servers with these run IDs and, on a cluster, the
    /// topology version is unchanged.
    pub(crate) fn are_current<'a>(
        &self,
        topology_version: u64,
        mut run_ids: impl Iterator<Item = &'a str>,
    ) -> bool {
        (!self.is_cluster() || self.registry.topology_version() == topology_version)
            && run_ids.all(|run_ids| self.registry.is_registered(run_ids))
    }
}

impl Operation<'_> {
    /// Returns the deadline.
    pub(crate) fn until(&self) -> Instant {
        self.options.until
    }

    /// Runs a script.
    pub(crate) async fn run(
        &self,
        script: Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Reply, Unavailable> {
        let answer = self.run_together(script, keys, arguments).await?;
        answer.ok_or(Unavailable)
    }

    /// Runs a script over keys of one slot. Returns `None`, without running it, if the slot is
    /// moving and the keys are not on one server.
    pub(crate) async fn run_together(
        &self,
        script: Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Option<Reply>, Unavailable> {
        let key = keys.first().copied().unwrap_or_default();
        let answer = self.ask(key, |connection| {
            Cow::Owned(connection.script(script, keys, arguments))
        });
        match answer.await {
            Ok(answer) => Ok(Some(answer)),
            Err(CommandError::Redirected { .. }) => Ok(None),
            Err(CommandError::Unavailable(_)) => Err(Unavailable),
        }
    }

    /// Returns a number that changes whenever a key may have moved to another server.
    pub(crate) async fn topology_version(&self) -> Result<u64, Unavailable> {
        match &self.servers.kind {
            TopologyKind::Single(_) => Ok(self.servers.registry.topology_version()),
            TopologyKind::Cluster(cluster) => cluster
                .topology_version(self.options.until)
                .await
                .ok_or(Unavailable),
        }
    }

    /// Sends a command to the server that holds the key.
    pub(crate) async fn send(&self, key: &str, command: &Cmd) -> Result<Reply, Unavailable> {
        let answer = self.ask(key, |_| Cow::Borrowed(command));
        answer.await.map_err(|_| Unavailable)
    }

    /// Returns whether all servers reply.
    pub(crate) async fn reaches_all(&self) -> bool {
        let ping = cmd("PING");
        match &self.servers.kind {
            TopologyKind::Single(_) => self.send("", &ping).await.is_ok(),
            TopologyKind::Cluster(cluster) => {
                Box::pin(cluster.all_answer(self.options, &ping)).await
            }
        }
    }

    async fn ask<'c>(
        &self,
        key: &str,
        command: impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
    ) -> Result<Reply, CommandError> {
        match &self.servers.kind {
            TopologyKind::Single(one) => one.pool.ask(self.options, command).await,
            // Boxed, so that the future for a single server stays small.
            TopologyKind::Cluster(cluster) => {
                Box::pin(cluster.ask(self.options, key, command)).await
            }
        }
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            TopologyKind::Single(one) => one.pool.fmt(f),
            TopologyKind::Cluster(cluster) => cluster.fmt(f),
        }
    }
}
