//! Refresh ahead: a session in use is validated again before its time in the cache is over, so
//! that nobody who is active waits for the identity provider.
//!
//! Once for each record and process: whether that validation fails or is refused, hits go on as
//! they would have without it, until the record ends or is evicted.

use quick_cache::sync::Cache;

use crate::session::Due;

use super::{Flight, SessionCache, key::EntryKey};

/// So many are remembered; one that is forgotten may be refreshed twice.
const MAX_REMEMBERED: usize = 16_384;

/// The records whose refresh has begun.
pub(super) struct Refreshes(Cache<EntryKey, Due>);

impl Refreshes {
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_REMEMBERED))
    }

    fn have(&self, key: &EntryKey, due: Due) -> bool {
        self.0.get(key) == Some(due)
    }
}

impl SessionCache {
    /// The flight that refreshes a session; nothing if there was one for this record, the token
    /// is being validated already, or all validations that may run at once do.
    pub(crate) fn refresh(&self, key: &EntryKey, due: Due) -> Option<Flight> {
        let shared = &*self.shared;
        if shared.slots.available_permits() == 0 || shared.refreshes.have(key, due) {
            return None;
        }
        let _span = crate::log::refresh().entered();
        let flight = self.board_nobody(key)?;
        shared.refreshes.0.insert(key.clone(), due);
        Some(flight)
    }
}
