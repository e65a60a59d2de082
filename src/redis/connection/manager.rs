//! bb8's connection manager. It registers the run ID of the server before a connection is used.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bb8_redis::{
    bb8::{ManageConnection, Pool, PooledConnection, RunError},
    redis::{AsyncConnectionConfig, ErrorKind, RedisError, ServerErrorKind, pipe},
};
use futures_util::future::{Either, select};
use tokio::{sync::watch, time::timeout};

use super::{
    info::{field, identity, is_too_old},
    server_registry::{Registration, ServerRegistry},
    shared_connection::{ConnectionState, SharedConnection, load_scripts},
};
use crate::{
    protocol::Timestamp,
    redis::{
        endpoint::{Connected, Endpoint},
        error::{is_command_rejected, with_hint},
    },
};

/// State that all connections to one server share.
pub(crate) struct ServerState {
    pub(crate) registry: Arc<ServerRegistry>,
    /// Why the last attempt to connect failed, if it did. Changes with every attempt.
    trouble: watch::Sender<Option<String>>,
    /// Whether a connection was made, or the first failure was returned.
    has_connected: AtomicBool,
    /// Error text if the server does not reply in time.
    timeout_message: &'static str,
}

#[derive(Clone)]
pub(crate) struct Manager {
    pub(crate) server: Endpoint,
    pub(crate) config: AsyncConnectionConfig,
    pub(crate) timeout: Duration,
    /// Timeout of the test of an idle connection.
    pub(crate) test_timeout: Duration,
    pub(crate) shared: Arc<ServerState>,
}

impl ManageConnection for Manager {
    type Connection = SharedConnection;
    type Error = RedisError;

    async fn connect(&self) -> Result<SharedConnection, RedisError> {
        // The timeout covers every step: an unresponsive server accepts connections and goes no
        // further.
        let connection = timeout(self.timeout, self.connection())
            .await
            .unwrap_or_else(|_| Err((ErrorKind::Io, self.shared.timeout_message).into()));
        if connection.is_ok() {
            self.shared.has_connected.store(true, SeqCst);
        }
        let trouble = connection.as_ref().err().map(with_hint);
        self.shared.trouble.send_replace(trouble);
        connection
    }

    async fn is_valid(&self, connection: &mut SharedConnection) -> Result<(), RedisError> {
        if connection.is_usable(self.test_timeout).await {
            return Ok(());
        }
        Err((ErrorKind::Io, "the connection is broken").into())
    }

    fn has_broken(&self, connection: &mut SharedConnection) -> bool {
        connection.is_broken()
    }
}

impl Manager {
    async fn connection(&self) -> Result<SharedConnection, RedisError> {
        let Connected {
            mut connection,
            term,
            login,
        } = self.server.connect(&self.config, |server| server).await?;
        let hashes = match load_scripts(&mut connection).await {
            Ok(hashes) => Some(hashes),
            Err(error) if is_command_rejected(&error) => {
                self.shared.registry.warn_of_scripts(&error);
                None
            }
            Err(error) => return Err(error),
        };
        let (info, time): (String, (i64, i64)) = pipe()
            .cmd("INFO")
            .cmd("TIME")
            .query_async(&mut connection)
            .await?;
        if field(&info, "role") == "slave" {
            return Err((
                ErrorKind::Server(ServerErrorKind::ReadOnly),
                "connected to a replica, which receives revocations late and accepts no writes; \
                 configure the address of the primary",
            )
                .into());
        }
        let (run_id, registration) = self
            .shared
            .register(&info, Timestamp::from_redis_time(time));
        Ok(SharedConnection {
            connection,
            state: Arc::new(ConnectionState::new(
                hashes,
                run_id,
                registration,
                term,
                login,
                self.shared.registry.metrics.connections.guard(),
            )),
        })
    }
}

impl ServerState {
    pub(crate) fn new(registry: Arc<ServerRegistry>, timeout_message: &'static str) -> Self {
        Self {
            registry,
            trouble: watch::Sender::default(),
            has_connected: AtomicBool::new(false),
            timeout_message,
        }
    }

    /// Takes a connection from a pool. Fails as soon as an attempt to connect does: bb8 would wait
    /// out its timeout, although nothing tries again in the meantime.
    pub(crate) async fn checkout<'p>(
        &self,
        pool: &'p Pool<Manager>,
    ) -> Result<PooledConnection<'p, Manager>, String> {
        let mut trouble = self.trouble.subscribe();
        let connection = pin!(pool.get());
        let failure = pin!(async {
            // The next attempts after a success may fail.
            loop {
                // This value owns the sender, so there is always a next change.
                let _ = trouble.changed().await;
                if let Some(trouble) = &*trouble.borrow_and_update() {
                    return trouble.clone();
                }
            }
        });
        match select(connection, failure).await {
            Either::Left((Ok(connection), _)) => Ok(connection),
            Either::Left((Err(RunError::User(error)), _)) => Err(with_hint(&error)),
            Either::Left((Err(RunError::TimedOut), _)) => Err(self.trouble()),
            Either::Right((trouble, _)) => Err(trouble),
        }
    }

    /// Registers the run ID of a server before a connection to it is used.
    fn register(&self, info: &str, now: Timestamp) -> (Arc<str>, Registration) {
        let field = |name| field(info, name);
        // Marks and tombstones outlive the records that they revoke, but eviction ignores that
        // order.
        let policy = field("maxmemory_policy");
        if !matches!(policy, "" | "noeviction") && !matches!(field("maxmemory"), "" | "0") {
            self.registry.warn_of_eviction(policy);
        }
        if is_too_old(info) {
            self.registry.warn_of_version(field("redis_version"));
        }
        let run_id = identity(info);
        let version = self.registry.register(&run_id, now);
        let registration = Registration::new(Arc::clone(&self.registry), version);
        (run_id, registration)
    }

    /// Returns the error of an attempt to connect, if none has succeeded yet. Returns it once.
    pub(crate) fn first_failure(&self) -> Option<String> {
        let trouble = self.trouble.borrow().clone()?;
        (!self.has_connected.swap(true, SeqCst)).then_some(trouble)
    }

    pub(crate) fn trouble(&self) -> String {
        let trouble = self.trouble.borrow().clone();
        trouble.unwrap_or_else(|| self.timeout_message.to_owned())
    }
}
