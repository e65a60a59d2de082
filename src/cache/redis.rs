//! The store that all nodes share, and the Python service with them.
//!
//! On one server every operation is one round trip and one script, so what it compares is of one
//! moment. On a cluster it reads what is apart, and compares again whenever it serves. No operation
//! fails: when Redis does not answer in time, the outcome says so, and the caller decides without
//! it.

mod address;
mod apart;
mod batch;
mod breaker;
mod cluster;
mod fill;
mod listener;
mod lookup;
mod memory;
mod met;
mod names;
mod pool;
mod replicas;
mod revocation;
mod run;
mod scripts;
mod sentinel;
mod server;
mod servers;
#[cfg(feature = "tls")]
mod tls;
mod trouble;
mod warned;

use std::{
    collections::hash_map::RandomState,
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bb8_redis::redis::{FromRedisValue, Value, from_redis_value};

pub(crate) use self::lookup::Replace;
pub(super) use self::server::{NodeFault, node};
#[cfg(feature = "tls")]
pub use self::tls::RedisTls;
#[cfg(feature = "tls")]
pub(super) use self::tls::{TlsFault, has_tls};
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
    replicas::Wanted,
    revocation::{Runs, Verdict},
    sentinel::Sentinels,
    server::{Server, UrlFault, sentinel, server},
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
    ) -> Self {
        let names = Names::new(prefix);
        let lease = tier.as_ref().map(|tier| Arc::clone(&tier.lease));
        Self {
            listener: tier.map(|tier| Listener::new(tier, names.clone())),
            links: Servers::new(place, limits.deadlines, &names, lease),
            names,
            sealing,
            clock,
            limits,
            memory: Memory::new(limits.capacity),
            warned: Warned::default(),
            nonces: (RandomState::new(), AtomicU64::new(0)),
        }
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

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}
