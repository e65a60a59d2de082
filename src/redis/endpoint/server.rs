//! The server to connect to: a fixed address, or the one that sentinels name.

use std::{fmt, sync::Arc};

use bb8_redis::redis::{ConnectionAddr, ConnectionInfo, RedisError};

use super::sentinel::{PrimaryTerm, SentinelClient};

/// The server that takes the writes.
#[derive(Clone)]
pub(crate) enum Endpoint {
    Fixed(Box<ConnectionInfo>),
    /// Whichever the sentinels name.
    Sentinel(Arc<SentinelClient>),
}

/// A server whose changes have to be heard.
pub(crate) struct TrackedNode {
    pub(crate) server: Endpoint,
    /// A key of no other use that this server holds; one of a cluster may hold none at all.
    pub(crate) probe: Option<String>,
}

impl Endpoint {
    /// What to say when it says nothing.
    pub(crate) fn timeout_message(&self) -> &'static str {
        timeout_message(match self {
            Self::Fixed(server) => server,
            Self::Sentinel(sentinels) => sentinels.connection_info(),
        })
    }

    /// To be asked before every connection.
    pub(crate) async fn resolve(
        &self,
    ) -> Result<(ConnectionInfo, Option<PrimaryTerm>), RedisError> {
        match self {
            Self::Fixed(server) => Ok((ConnectionInfo::clone(server), None)),
            Self::Sentinel(sentinels) => {
                let (server, term) = sentinels.primary().await?;
                Ok((server, Some(term)))
            }
        }
    }
}

/// One that expects plain text waits for the end of a line, which no TLS handshake has.
pub(crate) fn timeout_message(server: &ConnectionInfo) -> &'static str {
    match server.addr() {
        ConnectionAddr::TcpTls { .. } => {
            "no answer within the timeout; check that the port is Redis's tls-port"
        }
        _ => "no answer within the timeout",
    }
}

/// As an operator knows it; no user or password.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(server) => server.addr().fmt(f),
            Self::Sentinel(sentinels) => sentinels.name().fmt(f),
        }
    }
}
