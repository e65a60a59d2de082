//! Connection setup that all parts of the `redis` module share.

use std::time::Duration;

use bb8_redis::redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, RedisError, aio::MultiplexedConnection,
};

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
    server: ConnectionInfo,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, RedisError> {
    Client::open(server)?
        .get_multiplexed_async_connection_with_config(config)
        .await
}
