//! What is remembered of records that were served before, so that the next lookup costs less.
//!
//! None of it is proof of anything. Whose a token was says which mark to ask for, and so spares
//! the script; what comes back must be of that user. What a record said is used again only when
//! Redis answers with the very same bytes under the very same name, and so spares reading, and
//! opening where records are sealed. Whether the record may be served is decided anew each time.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::keys::{Keys, Names};
use crate::protocol::{EntryKey, Record};

/// So many records are remembered as they were read, a few hundred bytes each.
const MAX_READ: usize = 16_384;

pub(crate) struct Memory {
    /// The names of the marks.
    users: Cache<EntryKey, Arc<str>>,
    read: Cache<EntryKey, Arc<Known>>,
}

/// A token whose user is known from before.
pub(crate) struct Known {
    pub(crate) mark_name: Arc<str>,
    pub(crate) keys: Keys,
    mark: String,
    read: Option<(Vec<u8>, Arc<Record>)>,
}

impl Memory {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            users: Cache::new(capacity),
            read: Cache::new(capacity.min(MAX_READ)),
        }
    }

    pub(crate) fn known(&self, key: &EntryKey, names: &Names) -> Option<Arc<Known>> {
        if let Some(known) = self.read.get(key) {
            return Some(known);
        }
        let mark_name = self.users.get(key)?;
        Some(Arc::new(Known::new(key, mark_name, names)))
    }

    /// Whose the token is.
    pub(crate) fn learn(&self, key: &EntryKey, mark_name: &str) {
        self.users.insert(key.clone(), mark_name.into());
    }

    /// What the record said that was just read, for who gets the same bytes again.
    pub(crate) fn read(&self, key: &EntryKey, known: &Known, value: Vec<u8>, record: Arc<Record>) {
        let known = Known {
            mark_name: Arc::clone(&known.mark_name),
            keys: known.keys.clone(),
            mark: known.mark.clone(),
            read: Some((value, record)),
        };
        self.read.insert(key.clone(), Arc::new(known));
    }

    pub(crate) fn forget(&self, key: &EntryKey) {
        self.users.remove(key);
        self.read.remove(key);
    }
}

impl Known {
    fn new(key: &EntryKey, mark_name: Arc<str>, names: &Names) -> Self {
        Self {
            keys: names.keys(key),
            mark: names.mark(&mark_name),
            mark_name,
            read: None,
        }
    }

    /// The keys to look at: record, tombstone and mark.
    pub(crate) fn asked(&self) -> [&str; 3] {
        [&self.keys.record, &self.keys.tomb, &self.mark]
    }

    /// The record that these very bytes were before.
    pub(crate) fn record(&self, value: &[u8]) -> Option<&Arc<Record>> {
        let (known, record) = self.read.as_ref()?;
        (known == value).then_some(record)
    }
}
