//! Redis, the store that all nodes share with each other and with the Python service.
//!
//! On a single server each operation is one round trip and one script, so all values that it
//! compares are of one moment. On a cluster an operation reads record and mark separately, and each
//! lookup that serves a record compares them again. No operation fails: if Redis does not reply in
//! time, the outcome says so, and the caller decides without it.

mod commands;
mod config;
mod connection;
mod endpoint;
mod error;
mod invalidation;
mod keys;
mod record_cache;
mod scripts;
mod topology;

pub use self::config::RedisConfig;
pub use self::endpoint::RedisCredentials;
#[cfg(feature = "tls")]
pub use self::endpoint::RedisTls;
pub(crate) use self::{
    commands::{
        Denial, EndedSession, FillReply, LookupResult, LookupSnapshot, RedisStore, Reservation,
        Serve, StoreLimits,
    },
    config::{CheckedRedisConfig, RedisTimeouts},
    connection::Timeouts,
    invalidation::TrackingConfig,
};
