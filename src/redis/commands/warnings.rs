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

    pub(crate) fn unreadable(&self, kind: &str) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                kind,
                hint = "check whether another application writes to this database, or set \
                        `key_prefix`",
                "unreadable value in Redis ignored"
            );
        }
    }

    pub(crate) fn sealed(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                hint = "set the same `sealing_key` on all nodes, and the old key as \
                        `previous_sealing_key`",
                "record sealed with an unknown key ignored"
            );
        }
    }

    pub(crate) fn not_sealed(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                hint = "set the same `sealing_key` on all nodes, and do not let the Python \
                        service use this database",
                "unsealed record ignored"
            );
        }
    }

    pub(crate) fn unshared(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                hint = "permit `~session_reservation:*` and `~session_rejection:*` for the user in the \
                        URL, or set `share_validations(false)`",
                "reservations not permitted, nodes validate separately"
            );
        }
    }

    pub(crate) fn too_long(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                hint = "reduce the attributes that the validator adds",
                "session record too large, not cached"
            );
        }
    }

    pub(crate) fn crowded(&self) {
        if self.is_news() {
            tracing::warn!(
                target: REDIS,
                hint = "check which session ID the validator returns; it must be unique per login",
                "session ID shared by too many users, session not cached"
            );
        }
    }
}
