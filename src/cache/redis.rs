//! The store that all nodes share, and the Python service with them.
//!
//! On one server every operation is one round trip and one script, so what it compares is of one
//! moment. On a cluster it reads what is apart, and compares again whenever it serves. No operation
//! fails: when Redis does not answer in time, the outcome says so, and the caller decides without
//! it.

mod apart;
mod breaker;
#[cfg(feature = "cluster")]
mod cluster;
mod fill;
mod listener;
mod lookup;
mod memory;
mod met;
mod names;
mod pool;
mod revocation;
mod run;
mod scripts;
mod servers;
mod warned;

use std::{
    collections::hash_map::RandomState,
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

#[cfg(feature = "cluster")]
use bb8_redis::redis::ConnectionAddr;
use bb8_redis::redis::{
    ConnectionInfo, FromRedisValue, IntoConnectionInfo, Value, from_redis_value, parse_redis_url,
};

pub(crate) use self::lookup::Replace;
use self::{
    breaker::Effect,
    listener::Listener,
    memory::Memory,
    names::{Keys, Names},
    servers::Servers,
    warned::Warned,
};
pub(super) use self::{
    fill::Filled,
    lookup::{Found, Seen, Served},
    pool::Deadlines,
    revocation::Verdict,
    servers::Place,
};
use super::{key::EntryKey, lease::Lease, life::Lifetimes, seal::Sealing, stats::RedisMeter};
use crate::clock::Clock;

pub(super) struct Redis {
    links: Servers,
    listener: Option<Listener>,
    names: Names,
    sealing: Option<Sealing>,
    clock: Clock,
    limits: Limits,
    memory: Memory,
    warned: Warned,
    nonces: (RandomState, AtomicU64),
}

/// What the protocol is told, in the units in which it speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) deadlines: Deadlines,
    pub(super) ttl: Duration,
    pub(super) lifetimes: Lifetimes,
    pub(super) validation_deadline: Duration,
    pub(super) longest_session: Duration,
    pub(super) tombstone_ttl: Duration,
    pub(super) capacity: usize,
}

/// The local cache that stands before this store.
pub(super) struct Tier {
    pub(super) lease: Arc<Lease>,
    /// Whether it hears of changed records, or of tombstones and marks only.
    pub(super) hears_records: bool,
}

impl Redis {
    pub(super) fn new(
        place: Place,
        prefix: String,
        sealing: Option<Sealing>,
        clock: Clock,
        limits: Limits,
        tier: Option<Tier>,
    ) -> Result<Self, bb8_redis::redis::RedisError> {
        let names = Names::new(prefix);
        let lease = tier.as_ref().map(|tier| Arc::clone(&tier.lease));
        Ok(Self {
            listener: tier.map(|tier| Listener::new(tier, names.clone())),
            links: Servers::new(place, limits.deadlines, &names, lease)?,
            names,
            sealing,
            clock,
            limits,
            memory: Memory::new(limits.capacity),
            warned: Warned::default(),
            nonces: (RandomState::new(), AtomicU64::new(0)),
        })
    }

    /// Whether requests ask Redis at all, or would wait in vain.
    pub(super) fn is_skipped(&self) -> bool {
        self.links.is_skipped()
    }

    pub(super) fn meter(&self) -> &RedisMeter {
        self.links.meter()
    }

    pub(super) async fn answers(&self) -> bool {
        self.links.call(Effect::Reads).reaches_all().await
    }

    fn keys(&self, key: &EntryKey) -> Keys {
        self.names.keys(key)
    }

    fn mark_key(&self, name: &str) -> String {
        self.names.mark(name)
    }

    /// The user's id, or its keyed hash where records are sealed.
    fn mark_name(&self, user_id: &str) -> String {
        match &self.sealing {
            None => user_id.to_owned(),
            Some(sealing) => sealing.user(user_id),
        }
    }

    /// And the name under which nodes may still look that have the previous key.
    pub(super) fn mark_names(&self, user_id: &str) -> impl Iterator<Item = String> {
        let sealing = self.sealing.as_ref();
        let previous = sealing.and_then(|sealing| sealing.previous_user(user_id));
        [Some(self.mark_name(user_id)), previous]
            .into_iter()
            .flatten()
    }
}

fn read<T: FromRedisValue>(reply: Value) -> Option<T> {
    from_redis_value(reply).ok()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Reads the URL of a node of a cluster, which has one database and a port.
#[cfg(feature = "cluster")]
pub(super) fn node(url: &str) -> Result<ConnectionInfo, NoNode> {
    let info = server(url, 0).ok_or(NoNode::Unreadable)?;
    if info.redis_settings().db() != 0 {
        return Err(NoNode::NamesDatabase);
    }
    match info.addr() {
        ConnectionAddr::Unix(_) => Err(NoNode::Unreadable),
        ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } => Ok(info),
        _ => Err(NoNode::Unreadable),
    }
}

/// Why a URL is none of a cluster's.
#[cfg(feature = "cluster")]
pub(super) enum NoNode {
    Unreadable,
    NamesDatabase,
}

/// Reads a URL; `db` is used when it names no database. The error does not show the URL.
pub(super) fn server(url: &str, db: u16) -> Option<ConnectionInfo> {
    let parsed = parse_redis_url(url)?;
    let info = parsed.as_str().into_connection_info().ok()?;
    let names_db = match parsed.scheme() {
        "unix" | "redis+unix" | "valkey+unix" => parsed.query_pairs().any(|(name, _)| name == "db"),
        _ => !matches!(parsed.path(), "" | "/"),
    };
    let mut redis = info.redis_settings().clone();
    if !names_db {
        redis = redis.set_db(db.into());
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Some(info.set_redis_settings(redis).set_tcp_settings(tcp))
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}
