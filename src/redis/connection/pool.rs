//! Pool of connections to one server: few, shared, and no call waits longer than the timeout.
//!
//! bb8 keeps the connections. Its stock manager either sends a PING on each connection before use,
//! or never finds out that one has died. Our manager reads a flag on the connection that is set on
//! the first I/O error or timeout, so checking costs nothing and the pool recovers after a restart.
//! Only a connection that has been idle is tested by a PING, because nothing else shows that it was
//! dropped on the way to the server.
//!
//! A connection is cloned out of the pool and returned immediately. Each multiplexes all its
//! callers, so a slow caller does not block the others. The clones are kept outside of the pool,
//! because a checkout costs a lock and a timer even if the pool always has a connection.

use std::{
    borrow::Cow,
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bb8_redis::{
    bb8::{ManageConnection, Pool, PooledConnection},
    redis::{Cmd, cmd, from_redis_value},
};
use futures_util::future::{Either, select};
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    breaker::Breaker,
    info::{field, identity},
    manager::{Manager, ServerState},
    options::{CallOptions, CommandError, Reply, Timeouts},
    server_registry::ServerRegistry,
    shared_connection::{ConnectionState, SharedConnection, is_elsewhere},
};
use crate::{
    redis::{
        endpoint::{Endpoint, connection_config},
        error::{rejects_writes, with_hint},
        scripts::Script,
    },
    sync::{BackgroundTask, Backoff, lock},
    telemetry::REDIS,
};

/// Pauses between two attempts to reach a server that did not reply: the first and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Number of connections. Two carry as many commands as one Redis can answer.
const CONNECTIONS: u32 = 2;

/// Share of a timeout that the test of an idle connection may take, and its maximum. Two of them may
/// have to be tested, and the rest must suffice for a new one. A revocation waits for the same share
/// before it tries a new connection.
const TEST_SHARE: u32 = 3;
const MAX_TEST: Duration = Duration::from_secs(1);

/// Pool of connections to one server.
#[derive(Clone)]
pub(crate) struct ServerPool(Arc<PoolInner>);

struct PoolInner {
    /// Created on first use, because bb8 connects immediately, which requires a runtime.
    pool: Mutex<Option<RuntimePool>>,
    manager: Manager,
    /// The connections in use. Commands take them in turn, and ask the pool only for one that is
    /// missing or broken.
    connections: [Mutex<Option<SharedConnection>>; CONNECTIONS as usize],
    turn: AtomicUsize,
    shared: Arc<ServerState>,
    breaker: Breaker,
    /// A revocation has reached the server while the breaker was open.
    probe_now: Arc<Notify>,
    /// Held by a revocation that makes a connection of its own, so that there is one at a time.
    spare: tokio::sync::Mutex<()>,
    timeouts: Timeouts,
    /// Dedicated key that is written to find out whether the server takes writes again.
    probe: Mutex<String>,
    probe_task: BackgroundTask,
}

/// A pool, and the runtime on which it opens connections. If the runtime ends, bb8 still counts
/// those that were being opened, and waits for them forever.
struct RuntimePool {
    pool: Pool<Manager>,
    /// A task that ends only with the runtime.
    runtime: AbortHandle,
}

impl Drop for RuntimePool {
    fn drop(&mut self) {
        self.runtime.abort();
    }
}

impl ServerPool {
    /// Creates a pool that connects on first use.
    pub(crate) fn new(
        server: Endpoint,
        timeouts: Timeouts,
        probe: String,
        registry: Arc<ServerRegistry>,
    ) -> Self {
        let shared = Arc::new(ServerState::new(registry, server.timeout_message()));
        let manager = Manager {
            server,
            config: connection_config(timeouts.connect),
            timeout: timeouts.connect,
            test_timeout: (timeouts.call / TEST_SHARE).min(MAX_TEST),
            shared: Arc::clone(&shared),
        };
        Self(Arc::new(PoolInner {
            pool: Mutex::default(),
            manager,
            connections: Default::default(),
            turn: AtomicUsize::new(0),
            shared,
            breaker: Breaker::default(),
            probe_now: Arc::default(),
            spare: tokio::sync::Mutex::default(),
            timeouts,
            probe: Mutex::new(probe),
            probe_task: BackgroundTask::default(),
        }))
    }

    pub(crate) fn is_circuit_open(&self) -> bool {
        self.0.breaker.is_open()
    }

    /// Returns whether the circuit breaker is open for a command. If it is, a task probes the
    /// server.
    pub(crate) fn skips_commands(&self) -> bool {
        let is_open = self.is_circuit_open();
        if is_open {
            self.0.start_probe();
        }
        is_open
    }

    /// Returns a pool of one connection, in addition to the shared ones.
    pub(crate) fn pool_of_one(&self, timeout: Duration) -> Pool<Manager> {
        self.0.pool_of(1, timeout)
    }

    /// Takes a connection from such a pool.
    pub(crate) async fn checkout<'p>(
        &self,
        pool: &'p Pool<Manager>,
    ) -> Result<PooledConnection<'p, Manager>, String> {
        self.0.shared.checkout(pool).await
    }

    /// Returns the error of an attempt to connect, if none has succeeded yet. Returns it once.
    pub(crate) fn first_failure(&self) -> Option<String> {
        self.0.shared.first_failure()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.0.timeouts.call
    }

    /// Returns the name of the probe key. Any caller may write it.
    pub(crate) fn probe(&self) -> String {
        lock(&self.0.probe).clone()
    }

    /// Sends a command, and sends it again if the connection turns out to be dead. This is safe
    /// because every command can be repeated.
    pub(crate) async fn ask<'c>(
        &self,
        options: CallOptions,
        command: impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
    ) -> Result<Reply, CommandError> {
        let inner = &self.0;
        let breaker = &inner.breaker;
        let is_open = self.skips_commands();
        if is_open && !options.is_revocation {
            return Err(CommandError::Unavailable(
                "the circuit breaker is open".into(),
            ));
        }
        // Timers and connections need a runtime.
        if Handle::try_current().is_err() {
            return Err(CommandError::Unavailable("no Tokio runtime".into()));
        }
        let metrics = &inner.shared.registry.metrics;
        let _in_flight = metrics.commands_in_flight.guard();
        match inner.attempt(options, command).await {
            Ok(answer) => {
                breaker.succeeded(options.effect);
                if is_open {
                    inner.probe_now.notify_one();
                }
                Ok(answer)
            }
            Err(CommandError::Unavailable(error)) => {
                metrics.errors.increment();
                if breaker.failed(options.effect) {
                    tracing::warn!(
                        target: REDIS,
                        %error,
                        server = %inner.manager.server,
                        hint = "check that Redis is running and accepts writes, and check host, \
                                port, user and password in the URL of \
                                `SessionCacheBuilder::redis` (usually REDIS_URL)",
                        "Redis unavailable, circuit breaker opened"
                    );
                    inner.start_probe();
                }
                Err(CommandError::Unavailable(error))
            }
            redirected => redirected,
        }
    }

    /// Sets the key to write from now on, after the previous one has moved to another server.
    pub(crate) fn set_probe_key(&self, key: String) {
        *lock(&self.0.probe) = key;
    }

    /// Returns whether the server is still a primary with the run ID that its connection found when
    /// it was made. Connections to another run are not used any more: the next connection registers
    /// the server again.
    pub(crate) async fn has_same_run_id(&self, until: Instant) -> bool {
        let info = |_: &SharedConnection| Cow::Owned(cmd("INFO"));
        let Ok(Reply { value, run_id }) = self.0.attempt(CallOptions::read(until), info).await
        else {
            return false;
        };
        let has_same_run_id = from_redis_value::<String>(value)
            .is_ok_and(|info| field(&info, "role") == "master" && identity(&info) == run_id);
        if !has_same_run_id {
            self.0.retire(|_| true);
        }
        has_same_run_id
    }
}

/// Probes the server until it replies, then closes the breaker. Ends without a reply if the pool is
/// dropped.
async fn close_when_it_answers(connections: Weak<PoolInner>, probe_now: Arc<Notify>) {
    let mut backoff = Backoff::new(FIRST_PAUSE);
    loop {
        let _ = timeout(backoff.pause(MAX_PAUSE), probe_now.notified()).await;
        let Some(connections) = connections.upgrade() else {
            return;
        };
        // The probe is a write, because a server that is full, cannot save or has become a replica
        // rejects writes only.
        let options = CallOptions::write(Instant::now() + connections.timeouts.call);
        let key = lock(&connections.probe).clone();
        let probe = |connection: &SharedConnection| {
            Cow::Owned(connection.script(Script::Probe, &[&key], &[]))
        };
        // A redirect also proves that the server responds.
        if !matches!(
            connections.attempt(options, probe).await,
            Err(CommandError::Unavailable(_))
        ) {
            connections.breaker.close();
            tracing::info!(target: REDIS, "Redis available again, circuit breaker closed");
            return;
        }
    }
}

impl PoolInner {
    /// Starts the task that closes the breaker unless it is running. It may have ended with the
    /// runtime that it ran on.
    fn start_probe(self: &Arc<Self>) {
        self.probe_task
            .start(|| close_when_it_answers(Arc::downgrade(self), Arc::clone(&self.probe_now)));
    }

    /// Returns the pool of the current runtime.
    fn pool(&self) -> Pool<Manager> {
        let mut current = lock(&self.pool);
        match &*current {
            Some(current) if !current.runtime.is_finished() => current.pool.clone(),
            Some(_) | None => {
                let pool = self.pool_of(CONNECTIONS, self.timeouts.checkout);
                *current = Some(RuntimePool {
                    pool: pool.clone(),
                    runtime: tokio::spawn(std::future::pending::<()>()).abort_handle(),
                });
                pool
            }
        }
    }

    fn pool_of(&self, connections: u32, timeout: Duration) -> Pool<Manager> {
        Pool::builder()
            .max_size(connections)
            // Without this the pool would never grow, because every guard is returned immediately.
            .min_idle(connections)
            .test_on_check_out(true)
            .max_lifetime(None)
            .idle_timeout(None)
            .connection_timeout(timeout)
            .retry_connection(false)
            .build_unchecked(self.manager.clone())
    }

    async fn connection(&self) -> Result<SharedConnection, String> {
        let turn = self.turn.fetch_add(1, Relaxed) % self.connections.len();
        let place = &self.connections[turn];
        let mut kept = lock(place).clone();
        if let Some(connection) = &kept {
            if !connection.is_usable(self.manager.test_timeout).await {
                kept = None;
            } else if !self.is_shared(connection) {
                return Ok(connection.clone());
            }
        }
        // Boxed, as are all rare paths, so that the future of a command stays small.
        let next = Box::pin(self.next_connection()).await;
        let connection = next.or_else(|error| kept.ok_or(error))?;
        *lock(place) = Some(connection.clone());
        Ok(connection)
    }

    /// Returns the next connection of the pool, which gives them in turn. Returns the one after it
    /// if a place has it already.
    async fn next_connection(&self) -> Result<SharedConnection, String> {
        let pool = self.pool();
        let next = self.shared.checkout(&pool).await?.clone();
        if self.holders(&next) == 0 {
            return Ok(next);
        }
        let other = self.shared.checkout(&pool).await;
        Ok(other.map_or(next, |other| other.clone()))
    }

    /// Whether several places have this connection. Another one may then have ended without notice
    /// in the pool, which replaces it only when it is taken.
    fn is_shared(&self, connection: &SharedConnection) -> bool {
        self.holders(connection) > 1
    }

    fn holders(&self, connection: &SharedConnection) -> usize {
        let places = self.connections.iter();
        let holds = places.filter(|place| {
            let kept = lock(place);
            kept.as_ref().is_some_and(|kept| kept.is_same(connection))
        });
        holds.count()
    }

    /// Sends one command within the deadline. The error says what went wrong.
    async fn attempt<'c>(
        &self,
        options: CallOptions,
        command: impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
    ) -> Result<Reply, CommandError> {
        let used = Mutex::default();
        timeout_at(options.until, async {
            if options.is_revocation {
                Box::pin(self.try_twice(options, &command, &used)).await
            } else {
                self.try_once(options, &command, &used).await
            }
        })
        .await
        .unwrap_or_else(|_| {
            // The reply may still arrive, but the caller has given up. An unresponsive server looks
            // the same, so the connection is marked as broken.
            if let Some(state) = &*lock(&used) {
                state.mark_broken();
            }
            Err(CommandError::Unavailable(self.shared.trouble().into()))
        })
    }

    async fn try_once<'c>(
        &self,
        options: CallOptions,
        command: &impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
        used: &Mutex<Option<Arc<ConnectionState>>>,
    ) -> Result<Reply, CommandError> {
        let since = Instant::now();
        let mut failure = Cow::Borrowed("the server closes connections as soon as they are used");
        // All connections may have died together with the server, so try once more than there are
        // connections.
        for _ in 0..=CONNECTIONS {
            let connection = match self.connection().await {
                Ok(connection) => connection,
                Err(error) => return Err(CommandError::Unavailable(error.into())),
            };
            *lock(used) = Some(Arc::clone(&connection.state));
            match self.send(connection, options, command, since).await {
                Ok(reply) => return Ok(reply),
                Err(Failure::Command(error)) => return Err(error),
                Err(Failure::Connection(None)) => {}
                Err(Failure::Connection(Some(error))) => failure = error,
            }
        }
        Err(CommandError::Unavailable(failure))
    }

    /// Like `try_once`, and tries a new connection in addition if there is no reply after a part of
    /// the timeout. The connections may have been dropped on the way to the server.
    async fn try_twice<'c>(
        &self,
        options: CallOptions,
        command: &impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
        used: &Mutex<Option<Arc<ConnectionState>>>,
    ) -> Result<Reply, CommandError> {
        let since = Instant::now();
        let wait = options.until.saturating_duration_since(since) / TEST_SHARE;
        let first = pin!(self.try_once(options, command, used));
        let silence = pin!(tokio::time::sleep(wait));
        let first = match select(first, silence).await {
            Either::Left((result, _)) => return result,
            Either::Right((_, first)) => first,
        };
        let second = pin!(self.try_on_new_connection(options, command, since));
        match select(first, second).await {
            Either::Left((Err(CommandError::Unavailable(_)), second)) => second.await,
            Either::Right((Err(CommandError::Unavailable(_)), first)) => first.await,
            Either::Left((result, _)) | Either::Right((result, _)) => result,
        }
    }

    async fn try_on_new_connection<'c>(
        &self,
        options: CallOptions,
        command: &impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
        since: Instant,
    ) -> Result<Reply, CommandError> {
        let turn = self.spare.lock().await;
        let is_silent = |connection: &SharedConnection| !connection.has_replied_since(since);
        let live = self.connections.iter().find_map(|place| {
            let kept = lock(place);
            kept.clone().filter(|it| !it.is_broken() && !is_silent(it))
        });
        let connection = match live {
            Some(connection) => connection,
            None => {
                let connection = self.manager.connect().await;
                let connection = connection
                    .map_err(|error| CommandError::Unavailable(with_hint(&error).into()))?;
                // The server replies on a new connection, so the silent ones are dead. A slow
                // server replies on none.
                self.retire(is_silent);
                connection
            }
        };
        drop(turn);
        let result = self.send(connection, options, command, since).await;
        result.map_err(|failure| match failure {
            Failure::Command(error) => error,
            Failure::Connection(error) => CommandError::Unavailable(error.unwrap_or(
                Cow::Borrowed("the server closes connections as soon as they are used"),
            )),
        })
    }

    async fn send<'c>(
        &self,
        mut connection: SharedConnection,
        options: CallOptions,
        command: &impl Fn(&SharedConnection) -> Cow<'c, Cmd>,
        since: Instant,
    ) -> Result<Reply, Failure> {
        match connection.query(options.is_asking, command).await {
            Ok(value) => Ok(Reply {
                value,
                run_id: Arc::clone(connection.run()),
            }),
            Err(error) if error.is_io_error() => {
                connection.mark_broken();
                Err(Failure::Connection(None))
            }
            Err(error) if self.shared.registry.is_cluster() && is_elsewhere(&error) => {
                let run_id = Arc::clone(connection.run());
                Err(Failure::Command(CommandError::Redirected { error, run_id }))
            }
            Err(error) => {
                let text = Cow::Owned(with_hint(&error));
                // Another server may have taken over behind the same name, and only a new
                // connection finds it.
                if rejects_writes(&error) && !connection.is_made_since(since) {
                    self.retire(|_| true);
                    connection.mark_broken();
                    return Err(Failure::Connection(Some(text)));
                }
                if error.is_unrecoverable_error() || rejects_writes(&error) {
                    connection.mark_broken();
                }
                Err(Failure::Command(CommandError::Unavailable(text)))
            }
        }
    }

    /// Excludes connections from further use.
    fn retire(&self, which: impl Fn(&SharedConnection) -> bool) {
        for place in &self.connections {
            if let Some(connection) = lock(place).take_if(|connection| which(connection)) {
                connection.mark_broken();
            }
        }
    }
}

/// Why one try got no usable reply.
enum Failure {
    /// The connection is of no use any more, and another one may be. The text is the server's.
    Connection(Option<Cow<'static, str>>),
    Command(CommandError),
}

impl fmt::Debug for ServerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerPool")
            .field("deadlines", &self.0.timeouts)
            .field("breaker", &self.0.breaker)
            .finish_non_exhaustive()
    }
}
