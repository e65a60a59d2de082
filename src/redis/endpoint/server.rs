//! Server to connect to: a fixed address, or the primary that sentinels name.

use std::{fmt, sync::Arc};

use bb8_redis::redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, RedisError};

use super::{
    connect::{Connection, Server, connect},
    credentials::{CredentialsSource, Login},
    sentinel::{PrimaryTerm, SentinelClient},
};
use crate::redis::error::is_unauthenticated;

/// The server that takes the writes, and how to log in there.
#[derive(Clone)]
pub(crate) struct Endpoint {
    location: Location,
    /// Replaces user and password of the URL.
    credentials: Option<Arc<CredentialsSource>>,
}

#[derive(Clone)]
enum Location {
    Fixed(Box<Server>),
    /// The primary that the sentinels name.
    Sentinel(Arc<SentinelClient>),
}

/// A connection, and what ends its use.
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    /// Over as soon as the sentinels name another primary. `None` without sentinels.
    pub(crate) term: Option<PrimaryTerm>,
    /// `None` if the credentials do not change.
    pub(crate) login: Option<Login>,
}

/// A server whose changes must be tracked.
pub(crate) struct TrackedNode {
    pub(crate) server: Endpoint,
    /// A key of no other use that this server holds. A primary of a cluster without slots holds
    /// none.
    pub(crate) probe: Option<String>,
}

impl Endpoint {
    pub(crate) fn fixed(server: Server, credentials: Option<Arc<CredentialsSource>>) -> Self {
        Self {
            location: Location::Fixed(Box::new(server)),
            credentials,
        }
    }

    pub(crate) fn sentinel(
        sentinels: SentinelClient,
        credentials: Option<Arc<CredentialsSource>>,
    ) -> Self {
        Self {
            location: Location::Sentinel(Arc::new(sentinels)),
            credentials,
        }
    }

    /// Returns the error text for a server that does not reply in time.
    pub(crate) fn timeout_message(&self) -> &'static str {
        timeout_message(match &self.location {
            Location::Fixed(server) => server,
            Location::Sentinel(sentinels) => sentinels.connection_info(),
        })
    }

    /// Connects to the server. `change` changes the settings that were configured. The caller must
    /// limit the wait.
    pub(crate) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
        change: impl FnOnce(ConnectionInfo) -> ConnectionInfo,
    ) -> Result<Connected, RedisError> {
        let (server, term) = match &self.location {
            Location::Fixed(server) => (Server::clone(server), None),
            Location::Sentinel(sentinels) => {
                let (server, term) = sentinels.primary().await?;
                (server, Some(term))
            }
        };
        let (server, login) = match &self.credentials {
            None => (server, None),
            Some(credentials) => {
                let (server, login) = credentials.log_in(server).await?;
                (server, Some(login))
            }
        };
        let connection = connect(server.map(change), config).await;
        if let (Err(error), Some(login)) = (&connection, &login)
            && is_unauthenticated(error)
        {
            login.rejected();
        }
        Ok(Connected {
            connection: connection?,
            term,
            login,
        })
    }
}

/// Returns the error text for a server that does not reply in time. A server that expects plain
/// text waits for the end of a line, which a TLS handshake does not have.
fn timeout_message(server: &ConnectionInfo) -> &'static str {
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
        match &self.location {
            Location::Fixed(server) => server.addr().fmt(f),
            Location::Sentinel(sentinels) => sentinels.name().fmt(f),
        }
    }
}
