//! Location of the primary: URLs, TLS, and the sentinels that name it.

mod connect;
mod credentials;
mod sentinel;
mod server;
#[cfg(feature = "tls")]
mod tls;
mod url;

pub use self::credentials::RedisCredentials;
#[cfg(feature = "tls")]
pub use self::tls::RedisTls;
#[cfg(feature = "tls")]
pub(crate) use self::tls::has_tls;
pub(crate) use self::{
    connect::{Connection, Server, connection_config},
    credentials::{CredentialsProvider, CredentialsSource, Login, ProviderError},
    sentinel::{PrimaryTerm, SentinelClient},
    server::{Connected, Endpoint, TrackedNode},
    url::{AddressMap, NodeFault, ServerUrl, UrlFault, at},
};
