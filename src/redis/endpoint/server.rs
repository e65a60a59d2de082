//! Server to connect to: a fixed address, or the primary that sentinels name.

use std::{fmt, sync::Arc};

use bb8_redis::redis::{ConnectionAddr, ConnectionInfo, RedisError};

use super::{
    connect::Server,
    sentinel::{PrimaryTerm, SentinelClient},
};

/// The server that takes the writes.
#[derive(Clone)]
pub(crate) enum Endpoint {
    Fixed(Box<Server>),
    /// The primary that the sentinels name.
    Sentinel(Arc<SentinelClient>),
}

/// A server whose changes must be tracked.
pub(crate) struct TrackedNode {
    pub(crate) server: Endpoint,
    /// A key of no other use that this server holds. A primary of a cluster without slots holds
    /// none.
    pub(crate) probe: Option<String>,
}

impl Endpoint {
    /// Returns the error text for a server that does not reply in time.
    pub(crate) fn timeout_message(&self) -> &'static str {
        timeout_message(match self {
            Self::Fixed(server) => server,
            Self::Sentinel(sentinels) => sentinels.connection_info(),
        })
    }

    /// Returns the server to connect to. Must be called before every connection.
    pub(crate) async fn resolve(&self) -> Result<(Server, Option<PrimaryTerm>), RedisError> {
        match self {
            Self::Fixed(server) => Ok((Server::clone(server), None)),
            Self::Sentinel(sentinels) => {
                let (server, term) = sentinels.primary().await?;
                Ok((server, Some(term)))
            }
        }
    }
}

/// Returns the error text for a server that does not reply in time. A server that expects plain
/// text waits for the end of a line, which a TLS handshake does not have.
pub(crate) fn timeout_message(server: &ConnectionInfo) -> &'static str {
    match server.addr() {
        ConnectionAddr::TcpTls { .. } => {
            "no reply within the timeout; check that the port is Redis's `tls-port`"
        }
        _ => "no reply within the timeout",
    }
}

/// Shows the address, or the name at the sentinels, and no user or password.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(server) => server.addr().fmt(f),
            Self::Sentinel(sentinels) => sentinels.name().fmt(f),
        }
    }
}
