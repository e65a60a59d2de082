//! The store as the rest of the crate uses it: its topology, its key names and its limits.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bb8_redis::redis::{FromRedisValue, Value, from_redis_value};

use super::warnings::RateLimitedWarnings;
use crate::{
    protocol::{CacheKey, IdentityNames, LifetimePolicy, Sealing},
    redis::{
        config::CheckedRedisConfig,
        connection::{Access, Timeouts},
        endpoint::CredentialsSource,
        invalidation::{Listener, TrackingConfig},
        keys::{KeySpace, SessionKeys},
        record_cache::RecordCache,
        topology::{NodeAccess, Topology},
    },
    telemetry::RedisMetrics,
    time::Clock,
};

pub(crate) struct RedisStore {
    pub(crate) topology: Topology,
    pub(crate) listener: Option<Listener>,
    pub(crate) key_space: KeySpace,
    pub(crate) sealing: Option<Sealing>,
    pub(crate) identity_names: IdentityNames,
    pub(crate) clock: Clock,
    pub(crate) limits: StoreLimits,
    pub(crate) record_cache: RecordCache,
    pub(crate) warnings: RateLimitedWarnings,
    pub(crate) nonces: (RandomState, AtomicU64),
    /// Identifies this node in its reservations. `None` if nodes do not share validations.
    pub(crate) node: Option<String>,
}

/// Limits and timeouts of the protocol, in the units that it uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreLimits {
    pub(crate) timeouts: Timeouts,
    pub(crate) ttl: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) lifetimes: LifetimePolicy,
    pub(crate) validation_timeout: Duration,
    pub(crate) max_session_lifetime: Duration,
    pub(crate) tombstone_ttl: Duration,
    /// How long a rejection is used at most, in microseconds.
    pub(crate) negative_ttl: u64,
    pub(crate) shares_validations: bool,
    pub(crate) capacity: usize,
}

impl RedisStore {
    pub(crate) fn new(
        config: CheckedRedisConfig,
        default_database: u16,
        sealing: Option<Sealing>,
        identity_names: IdentityNames,
        clock: Clock,
        limits: StoreLimits,
        tier: Option<TrackingConfig>,
    ) -> Self {
        let CheckedRedisConfig {
            deployment,
            database,
            replicas,
            key_prefix,
            credentials,
            address_map,
            ..
        } = config;
        let access = NodeAccess {
            credentials: credentials.map(|it| Arc::new(CredentialsSource::new(it))),
            address_map,
        };
        let database = database.unwrap_or(default_database);
        let has_canary = |tier: &TrackingConfig| tier.lease.canary().is_some();
        let key_space =
            KeySpace::new(key_prefix).with_canary(tier.as_ref().is_some_and(has_canary));
        let lease = tier.as_ref().map(|tier| Arc::clone(&tier.lease));
        Self {
            listener: tier.map(|tier| Listener::new(tier, key_space.clone())),
            topology: Topology::new(
                deployment,
                access,
                database,
                replicas,
                limits.timeouts,
                &key_space,
                lease,
            ),
            key_space,
            sealing,
            identity_names,
            clock,
            limits,
            record_cache: RecordCache::new(limits.capacity),
            warnings: RateLimitedWarnings::default(),
            node: limits
                .shares_validations
                .then(|| format!("{:016x}", RandomState::new().hash_one(()))),
            nonces: (RandomState::new(), AtomicU64::new(0)),
        }
    }

    /// Returns whether requests skip Redis, because they would wait in vain.
    pub(crate) fn is_circuit_open(&self) -> bool {
        self.topology.is_circuit_open()
    }

    /// Whether changed records are pushed to this process while it has a lease.
    pub(crate) fn hears_records(&self) -> bool {
        self.listener.as_ref().is_some_and(Listener::tracks_records)
    }

    /// Ends the invalidation listener.
    pub(crate) fn close(&self) {
        if let Some(listener) = &self.listener {
            listener.stop();
        }
    }

    pub(crate) fn metrics(&self) -> &RedisMetrics {
        self.topology.metrics()
    }

    pub(crate) async fn answers(&self) -> bool {
        self.topology.call(Access::Read).reaches_all().await
    }

    pub(crate) fn keys(&self, key: &CacheKey) -> SessionKeys {
        SessionKeys {
            foreign_bans: self.ban_prefix(key),
            ..self.key_space.keys(key)
        }
    }

    pub(crate) fn mark_key(&self, name: &str) -> String {
        self.key_space.mark(name)
    }

    /// Returns the name of a user's mark: the user ID, or its keyed hash if records are sealed.
    pub(crate) fn mark_name(&self, user_id: &str) -> String {
        match &self.sealing {
            None => user_id.to_owned(),
            Some(sealing) => sealing.user(user_id),
        }
    }

    /// Returns the name of a user's mark, and the name that nodes with the previous sealing key may
    /// still read.
    pub(crate) fn mark_names(&self, user_id: &str) -> impl Iterator<Item = String> {
        let sealing = self.sealing.as_ref();
        let previous = sealing.and_then(|sealing| sealing.previous_user(user_id));
        [Some(self.mark_name(user_id)), previous]
            .into_iter()
            .flatten()
    }
}

pub(crate) fn read<T: FromRedisValue>(reply: Value) -> Option<T> {
    from_redis_value(reply).ok()
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("links", &self.topology)
            .finish_non_exhaustive()
    }
}
