//! Tracker of the records that have been refreshed before their expiry, so that each is refreshed
//! once per process. If the refresh fails or is rejected, hits continue as they would have without
//! it, until the record expires or is evicted.

use quick_cache::sync::Cache;

use crate::{model::RecordVersion, protocol::CacheKey};

/// Maximum number of records that are remembered. A forgotten one may be refreshed twice.
const MAX_REMEMBERED: usize = 16_384;

/// Records whose refresh has started.
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

    /// Lets the refresh of a record start again, because it has not called the validator.
    pub(crate) fn forget(&self, key: &CacheKey) {
        self.0.remove(key);
    }
}
