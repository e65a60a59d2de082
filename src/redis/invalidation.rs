//! Hears from Redis what changes there, and proves by heartbeats that it still does.
//!
//! One connection of its own to each server that holds keys, since its pushes and its replies must
//! come in one order: redis-rs hands out each push before it delivers any reply that came after it.
//! A PING that is answered thus proves that what was acknowledged before is counted. But not the
//! last one: a Redis with I/O threads may send a PONG a moment ahead of the push of a write that it
//! has already acknowledged to somebody else, so each PONG proves what the PING *before* it was sent
//! after.
//!
//! A server that cannot push, or something in between that swallows what it pushes, costs nothing
//! but the local cache: before a lease is taken, a key of no other use is written, and its push
//! awaited.
//!
//! The primaries of a cluster are heard together: one that is silent, or any change of who they
//! are, ends the lease of them all.

use std::{
    collections::hash_map::RandomState, fmt, future::Future, hash::BuildHasher, sync::Arc,
    time::Duration,
};

use bb8_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, ProtocolVersion, PushInfo, PushKind, RedisError,
    ServerErrorKind, Value, aio::MultiplexedConnection, cmd,
};
use futures_util::future::try_join_all;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    error::is_unauthenticated,
    keys::{ChangedKey, KeySpace},
};
use crate::{
    coherence::Lease,
    redis::{
        connection::{field, identity},
        endpoint::{Endpoint, PrimaryTerm, TrackedNode, connect, connection_config},
        topology::Topology,
    },
    sync::{BackgroundTask, Backoff},
    telemetry::{INVALIDATION, Timer},
};

/// Heartbeats in the length of a lease, and between two looks at the server's role.
const BEATS: u32 = 8;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts to reach a server that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Between two attempts with one that refuses.
const LONGEST_PAUSE_IF_UNUSABLE: Duration = Duration::from_secs(30);

/// The local cache that stands before this store.
pub(crate) struct TrackingConfig {
    pub(crate) lease: Arc<Lease>,
    /// Whether it hears of changed records, or of tombstones and marks only.
    pub(crate) tracks_records: bool,
}

/// The listener of a cache; it ends with this value.
pub(crate) struct Listener {
    subscription: Arc<Subscription>,
    task: BackgroundTask,
}

struct Subscription {
    lease: Arc<Lease>,
    key_space: KeySpace,
    tracks_records: bool,
    /// The longest wait for any one answer: after it the lease is over anyway.
    timeout: Duration,
}

/// Why there is no lease now.
enum ListenError {
    /// Passes by itself, and is reported by whoever else waits for Redis.
    Unavailable,
    /// An operator has to do something about it.
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

    /// Begins to listen, unless somebody does: with the first lookup, and again if the runtime of
    /// that one has ended.
    pub(crate) fn start(&self, servers: &Topology) {
        self.task
            .start(|| listen(Arc::clone(&self.subscription), servers.clone()));
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
                    "the local cache is off, and every session is looked up in Redis: it takes a \
                     Redis of version 6 or later that allows HELLO 3, CLIENT TRACKING, INFO, PING \
                     and SET to this user, and nothing in between that withholds its pushes"
                );
            }
        }
        sleep(backoff.pause(longest)).await;
    }
}

/// The time of one connection to each server. However it ends, also with its runtime, so does the
/// lease.
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

/// A server that tells what changes.
struct TrackingConnection {
    connection: MultiplexedConnection,
    run_id: Arc<str>,
    /// While sentinels name it.
    term: Option<PrimaryTerm>,
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
        // Only now: what was read before may have changed without a push.
        self.lease.connected(run_ids.clone());
        try_join_all(nodes.iter_mut().map(|node| self.verify_push(node))).await?;

        let mut previous = None;
        loop {
            // The lease is that of the slowest, since all have to answer.
            let (sent, timer) = (self.lease.now(), Timer::start());
            let ping = cmd("PING");
            let pongs = nodes.iter_mut();
            let pongs = pongs.map(|node| self.ask::<Value>(&mut node.connection, &ping));
            try_join_all(pongs).await?;
            self.lease.record_heartbeat(timer);
            if let Some(previous) = previous.replace(sent) {
                self.lease.extend(previous);
            }
            // Afterwards, so that either this sees the change or the change ends the lease.
            let run_ids = run_ids.iter().map(|run_id| &**run_id);
            if !servers.are_current(topology_version, run_ids)
                || nodes.iter().any(TrackingConnection::is_left)
            {
                return Err(ListenError::Unavailable);
            }
            held.beats = held.beats.saturating_add(1);
            if held.beats > 1 && std::mem::take(&mut held.has_warned) {
                tracing::info!(target: INVALIDATION, "sessions are served from the local cache again");
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

    /// Connects to a server, which from here on pushes.
    async fn track(&self, heard: TrackedNode) -> Result<TrackingConnection, ListenError> {
        let TrackedNode { server, probe } = heard;
        let probe = probe.map(|name| {
            Arc::new(Probe {
                name,
                pushed: Notify::new(),
            })
        });
        let (mut connection, term) = self.connect(&server, probe.clone()).await?;
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
            probe,
        })
    }

    /// Waits for the push of a key that is written.
    async fn verify_push(&self, node: &mut TrackingConnection) -> Result<(), ListenError> {
        let Some(probe) = &node.probe else {
            return Ok(());
        };
        let mut set = cmd("SET");
        set.arg(&probe.name).arg("").arg("PX").arg(1_000);
        self.ask::<Value>(&mut node.connection, &set).await?;
        timeout(self.timeout, probe.pushed.notified())
            .await
            .map_err(|_| ListenError::Unsupported("a key was written, and no push came".to_owned()))
    }

    async fn connect(
        &self,
        server: &Endpoint,
        probe: Option<Arc<Probe>>,
    ) -> Result<(MultiplexedConnection, Option<PrimaryTerm>), ListenError> {
        let (lease, key_space) = (Arc::clone(&self.lease), self.key_space.clone());
        let config = connection_config(self.timeout).set_push_sender(move |push: PushInfo| {
            on_push(&lease, &key_space, probe.as_deref(), &push);
            Ok::<_, fmt::Error>(())
        });
        // Greeting included, which a server may leave unanswered.
        self.within(async {
            let (server, term) = server.resolve().await?;
            let settings = server.redis_settings().clone();
            let settings = settings.set_protocol(ProtocolVersion::RESP3);
            let server = server.set_redis_settings(settings);
            Ok((connect(server, &config).await?, term))
        })
        .await
    }

    /// The run of the server, which must be the one that takes the writes.
    async fn identify(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Arc<str>, ListenError> {
        let info: String = self.ask(connection, &cmd("INFO")).await?;
        match field(&info, "role") {
            "master" => Ok(identity(&info)),
            _ => Err(ListenError::Unavailable),
        }
    }

    async fn ask<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
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

/// A key whose push shows that pushes arrive.
struct Probe {
    name: String,
    pushed: Notify,
}

/// Runs before the connection delivers what came after the push, so it must not wait.
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
                        }
                    }
                }
            }
        }
        // Without keys all of them are meant: somebody flushed the server.
        (PushKind::Invalidate, _) => lease.begin_epoch(),
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
        || is_unauthenticated(&error);
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
