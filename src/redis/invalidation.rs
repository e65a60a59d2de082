//! Listener for the invalidations that Redis pushes. Its heartbeats prove that they still arrive.
//!
//! It has a dedicated connection to each server that holds keys, because pushes and replies must
//! arrive in one order: redis-rs delivers each push before any reply that came after it. The reply
//! to a PING thus proves that the pushes of all changes acknowledged before it are counted. The
//! latest PING proves less: a Redis with I/O threads may send a PONG a moment ahead of the push of
//! a write that it has already acknowledged to another client. So each PONG proves this only for
//! the changes that were acknowledged before the *previous* PING was sent.
//!
//! If a server cannot push, or an intermediary withholds its pushes, only the local cache is lost:
//! before a lease is taken, the listener writes a key of no other use and waits for its push.
//!
//! The primaries of a cluster share one lease. It ends for all of them if one does not reply, or if
//! the primaries or their slots change in any way.

use std::{
    collections::hash_map::RandomState, fmt, future::Future, hash::BuildHasher, sync::Arc,
    time::Duration,
};

use bb8_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, ProtocolVersion, PushInfo, PushKind, RedisError,
    ServerErrorKind, Value, cmd,
};
use futures_util::future::{join, try_join_all};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    error::{is_database_rejected, is_unauthenticated},
    keys::{ChangedKey, KeySpace},
};
use crate::{
    coherence::Lease,
    redis::{
        connection::{Access, field, identity},
        endpoint::{
            Connected, Connection, Endpoint, Login, PrimaryTerm, TrackedNode, connection_config,
        },
        topology::Topology,
    },
    sync::{BackgroundTask, Backoff},
    telemetry::{INVALIDATION, Timer},
};

/// Heartbeats per lease, and between two checks of the server's role and run ID.
const BEATS: u32 = 8;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two attempts to reach a server that does not reply.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause between two attempts with a server that rejects what the listener needs.
const LONGEST_PAUSE_IF_UNUSABLE: Duration = Duration::from_secs(30);

/// Configuration of the listener for the local cache in front of this store.
pub(crate) struct TrackingConfig {
    pub(crate) lease: Arc<Lease>,
    /// Whether changed records are tracked, or only tombstones and marks.
    pub(crate) tracks_records: bool,
}

/// Listener of a cache. Its task ends when this value is dropped.
pub(crate) struct Listener {
    subscription: Arc<Subscription>,
    task: BackgroundTask,
}

struct Subscription {
    lease: Arc<Lease>,
    key_space: KeySpace,
    tracks_records: bool,
    /// Longest wait for any one reply. After it the lease has expired anyway.
    timeout: Duration,
}

/// Why there is no lease.
enum ListenError {
    /// Temporary. Other callers that wait for Redis report it.
    Unavailable,
    /// Lasts until an operator changes something.
    Unsupported(String),
}

impl Listener {
    pub(crate) fn new(tier: TrackingConfig, key_space: KeySpace) -> Self {
        let TrackingConfig {
            lease,
            tracks_records,
        } = tier;
        Self {
            subscription: Arc::new(Subscription {
                timeout: Duration::from_micros(lease.length()),
                lease,
                key_space,
                tracks_records,
            }),
            task: BackgroundTask::default(),
        }
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.subscription.lease
    }

    pub(crate) fn tracks_records(&self) -> bool {
        self.subscription.tracks_records
    }

    /// Ends the listener for good, and with it the lease.
    pub(crate) fn stop(&self) {
        self.task.stop();
    }

    /// Starts the listener unless it is running: at the first lookup, and again if the runtime of
    /// that lookup has ended.
    pub(crate) fn start(&self, servers: &Topology) {
        self.task.start(|| {
            let (subscription, servers) = (Arc::clone(&self.subscription), servers.clone());
            async move {
                let canary = write_rounds(&subscription, &servers);
                join(listen(Arc::clone(&subscription), servers.clone()), canary).await;
            }
        });
    }
}

async fn listen(subscription: Arc<Subscription>, servers: Topology) {
    let (mut backoff, mut has_warned) = (Backoff::new(FIRST_PAUSE), false);
    loop {
        let mut held = LeaseGuard {
            lease: &subscription.lease,
            beats: 0,
            has_warned,
        };
        let trouble = match subscription.run(&servers, &mut held).await {
            Err(trouble) => trouble,
            Ok(never) => match never {},
        };
        if held.beats > 1 {
            backoff.reset();
        }
        has_warned = held.has_warned;
        drop(held);
        let mut longest = LONGEST_PAUSE;
        if let ListenError::Unsupported(trouble) = trouble {
            longest = LONGEST_PAUSE_IF_UNUSABLE;
            if !std::mem::replace(&mut has_warned, true) {
                tracing::warn!(
                    target: INVALIDATION,
                    error = trouble,
                    hint = "use Redis 6 or later, permit HELLO 3, CLIENT TRACKING, INFO, PING and \
                            SET for the user in the URL, and remove proxies that withhold pushes",
                    "local cache disabled, sessions are read from Redis"
                );
            }
        }
        sleep(backoff.pause(longest)).await;
    }
}

/// Writes the rounds of the canary that are due on this node, if it has one.
async fn write_rounds(subscription: &Subscription, servers: &Topology) {
    let Some(canary) = subscription.lease.canary() else {
        return;
    };
    let life = u64::try_from(canary.life().as_millis()).unwrap_or(u64::MAX);
    loop {
        if let Some(round) = canary.tick() {
            let key = subscription.key_space.tombstone(&round.name());
            let mut set = cmd("SET");
            // A command that is sent twice must not be pushed twice.
            set.arg(&key).arg("canary").arg("NX").arg("PX").arg(life);
            if servers.call(Access::Write).send(&key, &set).await.is_ok() {
                canary.written(round);
            }
        }
        sleep(canary.pause()).await;
    }
}

/// Guard for the time during which each server has a connection. However that time ends, also with
/// the runtime, dropping the guard releases the lease.
struct LeaseGuard<'a> {
    lease: &'a Lease,
    beats: u32,
    has_warned: bool,
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        self.lease.release();
    }
}

enum Never {}

/// Connection to a server that pushes changes.
struct TrackingConnection {
    connection: Connection,
    run_id: Arc<str>,
    /// Over as soon as the sentinels name another primary. `None` without sentinels.
    term: Option<PrimaryTerm>,
    /// `None` if the credentials do not change.
    login: Option<Login>,
    probe: Option<Arc<Probe>>,
}

impl TrackingConnection {
    fn is_left(&self) -> bool {
        self.term.as_ref().is_some_and(PrimaryTerm::is_over)
    }
}

impl Subscription {
    /// Connects, and holds the lease for as long as heartbeats are answered.
    async fn run(
        &self,
        servers: &Topology,
        held: &mut LeaseGuard<'_>,
    ) -> Result<Never, ListenError> {
        let nonce = RandomState::new().hash_one(());
        let (topology_version, nodes) = servers.tracked_nodes(&self.key_space, nonce).await;
        if nodes.is_empty() {
            return Err(ListenError::Unavailable);
        }
        let nodes = nodes.into_iter().map(|server| self.track(server));
        let mut nodes = try_join_all(nodes).await?;
        let run_ids: Vec<_> = nodes.iter().map(|node| Arc::clone(&node.run_id)).collect();
        // This must come after tracking is on: what was read before may have changed without a
        // push.
        self.lease.connected(run_ids.clone());
        try_join_all(nodes.iter_mut().map(|node| self.verify_push(node))).await?;

        let mut previous = None;
        loop {
            // The slowest server determines the lease, because all of them must reply.
            let (sent, timer) = (self.lease.now(), Timer::start());
            let ping = cmd("PING");
            let pongs = nodes.iter_mut();
            let pongs = pongs.map(|node| self.beat(node, &ping));
            try_join_all(pongs).await?;
            self.lease.record_heartbeat(timer);
            if let Some(previous) = previous.replace(sent) {
                self.lease.extend(previous);
            }
            // This must come after the extension: either this check sees the change, or the change
            // ends the lease.
            let run_ids = run_ids.iter().map(|run_id| &**run_id);
            if !servers.are_current(topology_version, run_ids)
                || nodes.iter().any(TrackingConnection::is_left)
            {
                return Err(ListenError::Unavailable);
            }
            held.beats = held.beats.saturating_add(1);
            if held.beats > 1 && std::mem::take(&mut held.has_warned) {
                tracing::info!(target: INVALIDATION, "local cache enabled again");
            }
            if held.beats == 1 {
                continue;
            }
            if held.beats.is_multiple_of(BEATS) {
                let run_ids = nodes.iter_mut();
                let run_ids = run_ids.map(|node| self.identify(&mut node.connection));
                let run_ids = try_join_all(run_ids).await?;
                if run_ids.iter().ne(nodes.iter().map(|node| &node.run_id)) {
                    return Err(ListenError::Unavailable);
                }
            }
            sleep(self.timeout / BEATS).await;
        }
    }

    /// Connects to a server and turns on tracking. The server pushes changes from here on.
    async fn track(&self, heard: TrackedNode) -> Result<TrackingConnection, ListenError> {
        let TrackedNode { server, probe } = heard;
        let probe = probe.map(|name| {
            Arc::new(Probe {
                name,
                pushed: Notify::new(),
            })
        });
        let Connected {
            mut connection,
            term,
            login,
        } = self.connect(&server, probe.clone()).await?;
        let run_id = self.identify(&mut connection).await?;
        let mut track = cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST");
        for kind in self.key_space.tracked(self.tracks_records) {
            track.arg("PREFIX").arg(kind);
        }
        self.ask::<Value>(&mut connection, &track).await?;
        Ok(TrackingConnection {
            connection,
            run_id,
            term,
            login,
            probe,
        })
    }

    /// Writes the probe key and waits for its push.
    async fn verify_push(&self, node: &mut TrackingConnection) -> Result<(), ListenError> {
        let Some(probe) = &node.probe else {
            return Ok(());
        };
        let mut set = cmd("SET");
        set.arg(&probe.name).arg("").arg("PX").arg(1_000);
        self.ask::<Value>(&mut node.connection, &set).await?;
        timeout(self.timeout, probe.pushed.notified())
            .await
            .map_err(|_| ListenError::Unsupported("no push arrived for a written key".to_owned()))
    }

    async fn connect(
        &self,
        server: &Endpoint,
        probe: Option<Arc<Probe>>,
    ) -> Result<Connected, ListenError> {
        let (lease, key_space) = (Arc::clone(&self.lease), self.key_space.clone());
        let config = connection_config(self.timeout).set_push_sender(move |push: PushInfo| {
            on_push(&lease, &key_space, probe.as_deref(), &push);
            Ok::<_, fmt::Error>(())
        });
        // The timeout includes the greeting, which an unresponsive server leaves unanswered.
        self.within(server.connect(&config, |server| {
            let settings = server.redis_settings().clone();
            let settings = settings.set_protocol(ProtocolVersion::RESP3);
            server.set_redis_settings(settings)
        }))
        .await
    }

    /// Sends a heartbeat, and before it the credentials if they have changed.
    async fn beat(&self, node: &mut TrackingConnection, ping: &Cmd) -> Result<(), ListenError> {
        if let Some(login) = &node.login {
            self.within(login.renew(&mut node.connection)).await?;
        }
        self.ask::<Value>(&mut node.connection, ping).await?;
        Ok(())
    }

    /// Returns the run ID of the server. Fails unless the server is a primary.
    async fn identify(&self, connection: &mut Connection) -> Result<Arc<str>, ListenError> {
        let sent = self.lease.now();
        let info: String = self.ask(connection, &cmd("INFO")).await?;
        if let Some(canary) = self.lease.canary()
            && let Ok(time) = field(&info, "server_time_usec").parse()
        {
            canary.compare_clocks(time, sent);
        }
        match field(&info, "role") {
            "master" => Ok(identity(&info)),
            _ => Err(ListenError::Unavailable),
        }
    }

    async fn ask<T: FromRedisValue>(
        &self,
        connection: &mut Connection,
        command: &Cmd,
    ) -> Result<T, ListenError> {
        self.within(command.query_async(connection)).await
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, ListenError> {
        match timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(trouble),
            Err(_) => Err(ListenError::Unavailable),
        }
    }
}

/// Key whose push shows that pushes arrive.
struct Probe {
    name: String,
    pushed: Notify,
}

/// Handles a push. It runs before the connection delivers what came after the push, so it must not
/// wait.
fn on_push(lease: &Lease, key_space: &KeySpace, probe: Option<&Probe>, push: &PushInfo) {
    match (&push.kind, push.data.as_slice()) {
        (PushKind::Invalidate, [Value::Array(keys)]) => {
            for key in keys {
                let key = match key {
                    Value::BulkString(key) => key.as_slice(),
                    Value::SimpleString(key) => key.as_bytes(),
                    _ => continue,
                };
                match key_space.read(key) {
                    Some(ChangedKey::Token(name)) => lease.invalidate_token_name(name),
                    Some(ChangedKey::User(name)) => lease.invalidate_user_mark(name),
                    None => {
                        if let Some(probe) = probe.filter(|probe| key == probe.name.as_bytes()) {
                            probe.pushed.notify_one();
                        } else if let Some(canary) = lease.canary()
                            && key_space.is_probe_without_canary(key)
                        {
                            canary.found_node_without_canary(key);
                        }
                    }
                }
            }
        }
        // A push without keys means all keys: the server was flushed.
        (PushKind::Invalidate, _) => lease.flushed(),
        (PushKind::Disconnection, _) => lease.release(),
        _ => {}
    }
}

fn trouble(error: RedisError) -> ListenError {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, Moved, TryAgain};
    let passes = error.is_io_error()
        || error.is_connection_dropped()
        || error.kind() == ErrorKind::MasterNameNotFoundBySentinel
        || [BusyLoading, Ask, Moved, TryAgain, ClusterDown]
            .into_iter()
            .any(|kind| error.kind() == ErrorKind::Server(kind))
        || is_unauthenticated(&error)
        || is_database_rejected(&error);
    if passes {
        ListenError::Unavailable
    } else {
        ListenError::Unsupported(error.to_string())
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}
