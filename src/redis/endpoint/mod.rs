//! Location of the primary: URLs, TLS, and the sentinels that name it.

mod connect;
mod sentinel;
mod server;
#[cfg(feature = "tls")]
mod tls;
mod url;

#[cfg(feature = "tls")]
pub use self::tls::RedisTls;
#[cfg(feature = "tls")]
pub(crate) use self::tls::has_tls;
pub(crate) use self::{
    connect::{Connection, Server, connect, connection_config},
    sentinel::{PrimaryTerm, SentinelClient},
    server::{Endpoint, TrackedNode, timeout_message},
    url::{NodeFault, ServerUrl, UrlFault, at},
};
