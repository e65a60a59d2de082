//! The store that all nodes share, and the Python service with them.
//!
//! On one server every operation is one round trip and one script, so what it compares is of one
//! moment. On a cluster it reads what is apart, and compares again whenever it serves. No operation
//! fails: when Redis does not answer in time, the outcome says so, and the caller decides without
//! it.

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
#[cfg(feature = "tls")]
pub use self::endpoint::RedisTls;
pub(crate) use self::{
    commands::{FillReply, LookupResult, LookupSnapshot, RedisStore, ReplacePolicy, StoreLimits},
    config::{CheckedRedisConfig, RedisTimeouts},
    connection::Timeouts,
    invalidation::TrackingConfig,
};
