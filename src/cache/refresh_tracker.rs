//! Remembers which records have been refreshed ahead of their end, so that each is refreshed once
//! per process: whether the refresh fails or is rejected, hits go on as they would have without it,
//! until the record ends or is evicted.

use quick_cache::sync::Cache;

use crate::{model::RecordVersion, protocol::CacheKey};

/// The records that are remembered. One that is forgotten may be refreshed twice.
const MAX_REMEMBERED: usize = 16_384;

/// The records whose refresh has started.
pub(crate) struct RefreshTracker(Cache<CacheKey, RecordVersion>);

impl RefreshTracker {
    pub(crate) fn new() -> Self {
        Self(Cache::new(MAX_REMEMBERED))
    }

    pub(crate) fn is_started(&self, key: &CacheKey, record: RecordVersion) -> bool {
        self.0.get(key) == Some(record)
    }

    pub(crate) fn start(&self, key: CacheKey, record: RecordVersion) {
        self.0.insert(key, record);
    }
}
