//! Configuration of the local cache.

use std::time::Duration;

/// Lease of a local cache unless another one is set.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(1);

/// Configuration of a local cache, which serves sessions from the memory of this process without a
/// round trip to Redis. See
/// [`SessionCacheBuilder::local_cache`](crate::cache::SessionCacheBuilder::local_cache).
///
/// Redis pushes changes to each node, so that a revocation on any node takes effect within
/// milliseconds. A node that receives no reply to its heartbeats for the length of its *lease*
/// looks sessions up in Redis again.
///
/// ```
/// use std::time::Duration;
/// use tower_session_cache::{LocalCacheConfig, SessionCache};
///
/// let cache = SessionCache::builder()
///     .redis("redis://127.0.0.1:6379/2")?
///     .local_cache(LocalCacheConfig::new(100_000).lease(Duration::from_millis(500)))
///     .build()?;
/// # let _ = cache;
/// # Ok::<(), tower_session_cache::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until it is passed to `SessionCacheBuilder::local_cache`"]
pub struct LocalCacheConfig {
    pub(crate) capacity: usize,
    pub(crate) lease: Duration,
    pub(crate) max_age: Duration,
    pub(crate) tracks_records: bool,
}

impl LocalCacheConfig {
    /// Creates a configuration for up to `capacity` sessions. An entry takes up to 400 bytes (600
    /// under heavy insertion) plus the user's strings. When the cache is full, rarely used entries
    /// are evicted.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            lease: DEFAULT_LEASE,
            max_age: Duration::MAX,
            tracks_records: true,
        }
    }

    /// Sets how long a session may be served from memory at most after a revocation was
    /// acknowledged on another node. Defaults to 1 second. Must be between 100 milliseconds and 1
    /// minute.
    ///
    /// The lease matters if a connection is lost without notice or Redis freezes. Otherwise a
    /// revocation takes effect as soon as its message arrives. Eight heartbeats are sent per lease.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets how long a session is served from memory before it is read from Redis again. Defaults
    /// to the rest of its lifetime in Redis, which is also the maximum.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Tracks revocations only, and not every session that is stored. Meant for deployments in
    /// which every service that writes these sessions uses this crate. Defaults to off.
    ///
    /// If this is off, Redis sends each node a message for every session that any node stores or
    /// that ends. Each message costs Redis 1 to 2 microseconds of CPU. With 20 nodes and 5,000
    /// sessions stored per second, that is 0.1 to 0.2 seconds of CPU per second; with 100 nodes
    /// Redis would do little else. Revocations are few, and each costs the same.
    ///
    /// This is safe because a revocation by this crate always writes a tombstone or a mark, and
    /// sessions that the Python service has stored are then not kept in memory. A change without a
    /// revocation, such as that of a name, becomes visible on this node after the entry has
    /// expired.
    ///
    /// # Security
    ///
    /// Do *not* turn this on while anything else ends sessions by deleting their keys, because the
    /// node does not notice such a deletion.
    pub fn revocations_only(mut self) -> Self {
        self.tracks_records = false;
        self
    }
}
