//! Tells layers apart whose validators have the same namespace.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Identifies a layer and its clones within the process. Layers of one namespace may reject by
/// different rules, so what the rules of one layer reject does not count for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LayerId(u64);

impl LayerId {
    /// Returns an identifier that no other layer has.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}
