//! How the local cache before Redis is set up.

use std::time::Duration;

/// A cache in this process that stands before Redis and serves without a round trip; see
/// [`SessionCacheBuilder::local_cache`](crate::cache::SessionCacheBuilder::local_cache).
///
/// Redis tells each node of what changes, so that a revocation made anywhere is noticed within
/// milliseconds. A node that hears nothing for the length of its *lease* asks Redis again.
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
#[must_use]
pub struct LocalCacheConfig {
    pub(crate) capacity: usize,
    pub(crate) lease: Duration,
    pub(crate) max_age: Duration,
    pub(crate) tracks_records: bool,
}

impl LocalCacheConfig {
    /// For so many sessions; each takes up to 400 bytes and the user's own texts, and up to 600
    /// while others come in floods. When it is full, one that is seldom used makes room.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            lease: Duration::from_secs(1),
            max_age: Duration::MAX,
            tracks_records: true,
        }
    }

    /// For how long a session may at most be served from memory after a revocation was
    /// acknowledged on another node. Defaults to one second; between 100 milliseconds and one
    /// minute.
    ///
    /// It matters when a connection is cut without a word or Redis freezes: otherwise a revocation
    /// is noticed in the time that a message takes. Eight heartbeats are sent in it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long a session is served from memory before Redis is asked for it again. Defaults to
    /// the rest of its life in Redis, which is also the most.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// For a fleet in which every service that writes these sessions uses this crate: listens to
    /// revocations only, and not to every session that is stored. Defaults to off.
    ///
    /// With it off Redis tells every node of every session that any node stores or that ends,
    /// which costs Redis 1 to 2 microseconds of CPU for each node and each of them. 20 nodes
    /// and 5,000 sessions stored in a second are 0.1 to 0.2 seconds of CPU in each second; with 100
    /// nodes Redis would do little else. Revocations are few, and cost the same each.
    ///
    /// It is safe since a revocation by this crate always writes a tombstone or a mark, and
    /// sessions that the Python service has stored are then not kept in memory. What changes
    /// without a revocation, such as a name, is seen here when the entry has ended. Do *not* turn
    /// it on while anything else ends sessions by deleting their keys: that is not noticed.
    pub fn revocations_only(mut self) -> Self {
        self.tracks_records = false;
        self
    }
}
