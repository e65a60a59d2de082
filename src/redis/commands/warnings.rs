//! Rate-limited warnings about unusable values in Redis. A store that is full of them does not fill
//! the log as well.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::REDIS;

#[derive(Default)]
pub(crate) struct RateLimitedWarnings(AtomicU64);

impl RateLimitedWarnings {
    /// Counts a warning and returns whether to log it: the first, and then each that doubles their
    /// number.
    fn is_news(&self) -> bool {
        (self.0.fetch_add(1, Relaxed) + 1).is_power_of_two()
    }

    pub(crate) fn unreadable(&self, what: &str) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                "{what} in Redis cannot be read and is not used; check whether something else \
                 writes to this database, or set a key prefix"
            );
        }
    }

    pub(crate) fn sealed(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                "a record in Redis is sealed with a key that this node does not have, and is not \
                 used; give all nodes the same sealing key, or the old one as the previous"
            );
        }
    }

    pub(crate) fn not_sealed(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                "a record in Redis is not sealed, and is not used since this node has a sealing \
                 key; give all nodes the same, and keep the Python service out of this database"
            );
        }
    }

    pub(crate) fn too_long(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                "a session is too large to be cached; let the validator add fewer attributes"
            );
        }
    }
}
