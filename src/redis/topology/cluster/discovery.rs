//! Periodic discovery of a cluster: which primaries there are, which slots they hold, and whether
//! each still has the run ID that was registered.
//!
//! A command that fails or is redirected requests a refresh ahead of time.

use std::{
    borrow::Cow,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
    time::Duration,
};

use bb8_redis::redis::{ConnectionAddr, Value, cmd, from_redis_value, pipe};
use futures_util::future::{join_all, select_ok};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    cluster_info::{Address, ClusterInfo, PrimaryInfo},
    slot_map::{Primary, SlotMap},
    state::{Cluster, ClusterStatus},
};
use crate::{
    protocol::Timestamp,
    redis::{
        connection::{CallOptions, ServerPool, SharedConnection},
        endpoint::{Connected, Server, connection_config},
        error::with_hint,
    },
    sync::{Backoff, lock},
    telemetry::REDIS,
};

/// Longest and shortest interval between two refreshes.
const INTERVAL: Duration = Duration::from_millis(500);
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of nodes that are asked at the same time; the first usable reply counts.
const ASKED: usize = 8;

pub(crate) async fn watch(cluster: Weak<Cluster>, refresh_requested: Arc<Notify>) {
    let (mut source, mut backoff) = (None, Backoff::new(LEAST_INTERVAL));
    loop {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        let has_told = cluster.refresh(&mut source).await;
        drop(cluster);
        if has_told {
            backoff.reset();
            sleep(LEAST_INTERVAL).await;
            let _ = timeout(INTERVAL - LEAST_INTERVAL, refresh_requested.notified()).await;
        } else {
            sleep(backoff.pause(INTERVAL)).await;
        }
    }
}

/// Connection to the node that reports the state of the cluster. It is kept until the node fails
/// to.
pub(crate) struct DiscoveryConnection {
    server: Connected,
    address: Address,
}

impl Cluster {
    /// Refreshes the slot map and checks the run IDs. Returns whether a node reported its state.
    async fn refresh(&self, source: &mut Option<DiscoveryConnection>) -> bool {
        let view = self.view(source).await;
        let has_told = view.is_ok();
        let before = self.known.borrow().map();
        let map = match (view, before.clone()) {
            (Ok(view), before) => self.build_slot_map(view, before).await,
            (Err(_), Some(before)) => before,
            (Err(trouble), None) => {
                self.mark_unreachable(&trouble);
                return false;
            }
        };
        if before.is_some() {
            self.publish(&map);
        }
        let timeout = match before {
            Some(_) => self.timeouts.call,
            None => self.timeouts.connect,
        };
        let until = Instant::now() + timeout;
        let has_same_run_id = async |primary: &Primary| {
            if !primary.pool.has_same_run_id(until).await {
                warn_if_unreachable(primary);
            }
        };
        join_all(map.owners().map(has_same_run_id)).await;
        if before.is_none() {
            self.publish(&map);
        }
        // No command waits for primaries without slots, some of which may turn out to be replicas.
        let others = map.primaries.iter().filter(|one| one.slots.is_empty());
        join_all(others.map(has_same_run_id)).await;
        if before.is_none() {
            self.registry.finish_discovery();
        }
        has_told
    }

    fn publish(&self, map: &Arc<SlotMap>) {
        let before = self
            .known
            .send_replace(ClusterStatus::Mapped(Arc::clone(map)));
        if matches!(before, ClusterStatus::Unreachable) {
            tracing::info!(target: REDIS, "Redis cluster available again");
        }
    }

    fn mark_unreachable(&self, trouble: &str) {
        if matches!(
            self.known.send_replace(ClusterStatus::Unreachable),
            ClusterStatus::Undiscovered
        ) {
            tracing::warn!(
                target: REDIS,
                error = trouble,
                hint = "check that the cluster is running and its state is ok, and check hosts, \
                        ports, user and password in the URLs of `RedisConfig::cluster` \
                        (usually REDIS_CLUSTER_URLS)",
                "Redis cluster unavailable, sessions are not cached"
            );
        }
    }

    /// Returns the report of a node that sees the majority of the cluster, and no older epoch than
    /// before.
    async fn view(&self, source: &mut Option<DiscoveryConnection>) -> Result<ClusterInfo, String> {
        if let Some(known) = source
            && let Ok(view) = self.fetch_info(known).await
        {
            return Ok(view);
        }
        *source = None;
        let asked = self.candidates().into_iter();
        let asked = asked.map(|node| {
            Box::pin(async move {
                let mut source = self.connect_to(node).await?;
                let view = self.fetch_info(&mut source).await?;
                Ok::<_, String>((source, view))
            })
        });
        match select_ok(asked).await {
            Ok(((found, view), _)) => {
                *source = Some(found);
                Ok(view)
            }
            Err(trouble) => {
                // Accept an older epoch next time: the cluster may have been created again.
                self.epoch.store(0, SeqCst);
                Err(trouble)
            }
        }
    }

    /// Returns the nodes to ask. There is always one, because a cluster is configured by its nodes.
    fn candidates(&self) -> Vec<Server> {
        let map = self.known.borrow().map();
        let primaries = map.iter().flat_map(|map| &map.primaries);
        let known = primaries.map(|primary| self.connection_info(&primary.address));
        let mut all: Vec<_> = known.chain(self.seeds.iter().cloned()).collect();
        let at = RandomState::new().hash_one(()) as usize % all.len();
        all.rotate_left(at);
        all.truncate(ASKED);
        all
    }

    async fn connect_to(&self, node: Server) -> Result<DiscoveryConnection, String> {
        let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) =
            node.addr().clone()
        else {
            return Err("a cluster node must be given by host and port".to_owned());
        };
        let endpoint = self.endpoint(node);
        let timeout_message = endpoint.timeout_message();
        let config = connection_config(self.timeouts.connect);
        let connect = endpoint.connect(&config, |server| server);
        // The timeout includes the greeting, which an unresponsive server leaves unanswered.
        match timeout(self.timeouts.connect, connect).await {
            Ok(Ok(server)) => Ok(DiscoveryConnection {
                server,
                address: Address { host, port },
            }),
            Ok(Err(error)) => Err(with_hint(&error)),
            Err(_) => Err(timeout_message.to_owned()),
        }
    }

    async fn fetch_info(&self, source: &mut DiscoveryConnection) -> Result<ClusterInfo, String> {
        let mut ask = pipe();
        for what in ["SLOTS", "NODES", "INFO"] {
            ask.cmd("CLUSTER").arg(what);
        }
        let Connected {
            connection, login, ..
        } = &mut source.server;
        let asked = async {
            if let Some(login) = login {
                login.renew(connection).await?;
            }
            ask.query_async::<(Value, String, String)>(connection).await
        };
        let (slots, nodes, info) = match timeout(self.timeouts.call, asked).await {
            Ok(answer) => answer.map_err(|error| with_hint(&error))?,
            Err(_) => return Err("no reply within the timeout".to_owned()),
        };
        let view = ClusterInfo::parse(slots, &nodes, &info, &source.address)
            .ok_or("a cluster node sent unreadable information about the cluster")?;
        if !view.is_ok || view.epoch < self.epoch.load(SeqCst) {
            return Err("a cluster node does not see the whole cluster".to_owned());
        }
        self.epoch.fetch_max(view.epoch, SeqCst);
        Ok(view)
    }

    /// Builds a new slot map and reuses the existing connections.
    async fn build_slot_map(
        &self,
        view: ClusterInfo,
        before: Option<Arc<SlotMap>>,
    ) -> Arc<SlotMap> {
        let mut redirect_targets = mem::take(&mut *lock(&self.redirect_targets));
        let primaries = view.primaries.into_iter().map(|with_hint| {
            let PrimaryInfo { id, address, slots } = with_hint;
            let known = before.as_ref().and_then(|map| map.pool(&address));
            let known = known.or_else(|| redirect_targets.remove(&address));
            let pool = known.unwrap_or_else(|| self.pool(&address));
            Primary {
                id,
                address,
                pool,
                slots,
            }
        });
        let map = SlotMap::new(primaries.collect());
        if let Some(before) = before.as_ref().filter(|before| map.is_as(before)) {
            return Arc::clone(before);
        }
        for primary in &map.primaries {
            let probe = self.key_space.write_probe();
            let key = map.key_on(&primary.address, |n| format!("{probe}{n}"));
            primary.pool.set_probe_key(key.unwrap_or(probe));
        }
        self.registry.topology_changed();
        let is_there = |owner: &Primary| map.primaries.iter().any(|one| one.id == owner.id);
        if before.is_some_and(|before| !before.owners().all(is_there)) {
            // What a removed primary held may be lost, whichever server holds its slots now.
            if let Some(now) = time(&map, self.timeouts.call).await {
                self.registry.raise_trust_floor(now);
            }
        }
        Arc::new(map)
    }
}

/// Logs once that no connection could be made so far to the address that a primary announces.
fn warn_if_unreachable(primary: &Primary) {
    let Some(error) = primary.pool.first_failure() else {
        return;
    };
    let Address { host, port } = &primary.address;
    tracing::warn!(
        target: REDIS,
        announced = format!("{host}:{port}"),
        error,
        hint = "check that the node runs; if this address is valid only inside the cluster's \
                network, set `cluster-announce-ip` and `cluster-announce-port` of the node, or \
                `RedisConfig::address_map`",
        "Redis cluster node unreachable at its announced address"
    );
}

/// Returns the time of the first primary that replies.
async fn time(map: &SlotMap, timeout: Duration) -> Option<Timestamp> {
    let until = Instant::now() + timeout;
    let primaries = map.primaries.iter();
    let asked: Vec<_> = primaries
        .map(|primary| Box::pin(time_of(&primary.pool, until)))
        .collect();
    if asked.is_empty() {
        return None;
    }
    Some(select_ok(asked).await.ok()?.0)
}

async fn time_of(pool: &ServerPool, until: Instant) -> Result<Timestamp, ()> {
    let time = |_: &SharedConnection| Cow::Owned(cmd("TIME"));
    let answer = pool
        .ask(CallOptions::read(until), time)
        .await
        .map_err(|_| ())?;
    from_redis_value(answer.value)
        .map(Timestamp::from_redis_time)
        .map_err(|_| ())
}
