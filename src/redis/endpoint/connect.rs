//! Connection setup that all parts of the `redis` module share.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use bb8_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, RedisError, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

#[cfg(feature = "tls")]
use super::tls::TlsConfig;
use crate::sync::BackgroundTask;

/// A server, and how to connect to it.
#[derive(Clone)]
pub(crate) struct Server {
    info: ConnectionInfo,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
}

impl Server {
    pub(super) fn new(info: ConnectionInfo) -> Self {
        Self {
            info,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Changes the settings of the connection, and keeps the TLS configuration.
    pub(crate) fn map(self, change: impl FnOnce(ConnectionInfo) -> ConnectionInfo) -> Self {
        Self {
            info: change(self.info),
            #[cfg(feature = "tls")]
            tls: self.tls,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn set_tls(&mut self, config: TlsConfig) {
        self.tls = Some(config);
    }
}

impl Deref for Server {
    type Target = ConnectionInfo;

    fn deref(&self) -> &ConnectionInfo {
        &self.info
    }
}

/// Shows the address only.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.info.addr().to_string(), f)
    }
}

/// A connection. It ends with its last clone.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: MultiplexedConnection,
    /// The task that reads and writes, unless redis-rs has spawned it and ends it.
    _driver: Option<Arc<BackgroundTask>>,
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.inner.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

/// Settings of a connection whose replies have no timeout of their own: the caller limits the whole
/// operation, with the wait for a connection.
pub(crate) fn connection_config(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(None)
}

/// Connects to a server. The caller must limit the wait: an unresponsive server accepts the
/// connection, and does not reply to the greeting.
pub(crate) async fn connect(
    server: Server,
    config: &AsyncConnectionConfig,
) -> Result<Connection, RedisError> {
    // redis-rs builds its TLS configuration with the provider of the process, and installs one if
    // there is none.
    #[cfg(feature = "tls")]
    if let Some(tls) = &server.tls {
        let stream = tls.connect(&server).await?;
        let (inner, driver) =
            MultiplexedConnection::new_with_config(server.redis_settings(), stream, config.clone())
                .await?;
        let task = BackgroundTask::default();
        task.start(|| driver);
        return Ok(Connection {
            inner,
            _driver: Some(Arc::new(task)),
        });
    }
    let inner = Client::open(server.info)?
        .get_multiplexed_async_connection_with_config(config)
        .await?;
    Ok(Connection {
        inner,
        _driver: None,
    })
}
