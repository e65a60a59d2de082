//! The store that all nodes share, and the Python service with them.
//!
//! On one server every operation is one round trip and one script, so what it compares is of one
//! moment. On a cluster it reads what is apart, and compares again whenever it serves. No operation
//! fails: when Redis does not answer in time, the outcome says so, and the caller decides without
//! it.

mod apart;
mod batch;
mod breaker;
mod cluster;
mod config;
mod fill;
mod info;
mod link;
mod listener;
mod lookup;
mod manager;
mod memory;
mod met;
mod names;
mod options;
mod outcome;
mod pool;
mod replicas;
mod reply;
mod revocation;
mod run;
mod scripts;
mod sentinel;
mod server;
mod servers;
mod store;
#[cfg(feature = "tls")]
mod tls;
mod trouble;
mod url;
mod warned;

pub use self::config::RedisConfig;
pub(crate) use self::outcome::Replace;
#[cfg(feature = "tls")]
pub use self::tls::RedisTls;
pub(super) use self::{
    config::{CheckedRedisConfig, RedisTimeouts},
    listener::Tier,
    options::Deadlines,
    outcome::{Filled, Found, Seen},
    store::{Limits, Redis},
};
