//! Cache of what earlier lookups learned about a record, so that the next lookup costs less.
//!
//! Nothing in it is proof. The user of a token determines which mark to read, which saves the
//! script; the record that comes back must be of that user. A parsed record is used again only if
//! Redis returns the very same bytes under the very same name, which saves parsing them, and
//! opening them if records are sealed. Whether the record may be served is decided at each lookup.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::keys::{KeySpace, SessionKeys};
use crate::protocol::{CacheKey, Record};

/// Maximum number of records that are remembered as parsed, a few hundred bytes each.
const MAX_READ: usize = 16_384;

pub(crate) struct RecordCache {
    /// Names of the marks.
    users: Cache<CacheKey, Arc<str>>,
    read: Cache<CacheKey, Arc<CachedLookup>>,
}

/// A token whose user is known from an earlier lookup.
pub(crate) struct CachedLookup {
    pub(crate) mark_name: Arc<str>,
    pub(crate) keys: SessionKeys,
    mark: String,
    read: Option<(Vec<u8>, Arc<Record>)>,
}

impl RecordCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            users: Cache::new(capacity),
            read: Cache::new(capacity.min(MAX_READ)),
        }
    }

    pub(crate) fn known(&self, key: &CacheKey, key_space: &KeySpace) -> Option<Arc<CachedLookup>> {
        if let Some(known) = self.read.get(key) {
            return Some(known);
        }
        let mark_name = self.users.get(key)?;
        Some(Arc::new(CachedLookup::new(key, mark_name, key_space)))
    }

    /// Stores the name of the mark of a token's user.
    pub(crate) fn learn_user(&self, key: &CacheKey, mark_name: &str) {
        self.users.insert(key.clone(), mark_name.into());
    }

    /// Stores a record that was just parsed, for a later lookup that reads the same bytes.
    pub(crate) fn read(
        &self,
        key: &CacheKey,
        known: &CachedLookup,
        value: Vec<u8>,
        record: Arc<Record>,
    ) {
        let known = CachedLookup {
            mark_name: Arc::clone(&known.mark_name),
            keys: known.keys.clone(),
            mark: known.mark.clone(),
            read: Some((value, record)),
        };
        self.read.insert(key.clone(), Arc::new(known));
    }

    pub(crate) fn forget(&self, key: &CacheKey) {
        self.users.remove(key);
        self.read.remove(key);
    }
}

impl CachedLookup {
    fn new(key: &CacheKey, mark_name: Arc<str>, key_space: &KeySpace) -> Self {
        Self {
            keys: key_space.keys(key),
            mark: key_space.mark(&mark_name),
            mark_name,
            read: None,
        }
    }

    /// Returns the keys to read: record, tombstone and mark.
    pub(crate) fn keys(&self) -> [&str; 3] {
        [&self.keys.record, &self.keys.tombstone, &self.mark]
    }

    /// Returns the record that was parsed from these very bytes.
    pub(crate) fn record(&self, value: &[u8]) -> Option<&Arc<Record>> {
        let (known, record) = self.read.as_ref()?;
        (known == value).then_some(record)
    }
}
