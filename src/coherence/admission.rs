//! Which records of Redis the local cache may keep, and for how long.

use std::sync::Arc;

use super::generations::UserStripe;
use crate::{model::RecordVersion, protocol::Record};

/// A record that may be served, and for how long.
pub(crate) struct CacheableRecord {
    pub(crate) record: Arc<Record>,
    /// So many microseconds are left of its life.
    pub(crate) left: u64,
    /// And so many until it is time to validate it again, if ever.
    pub(crate) refresh_in: Option<u64>,
    pub(crate) version: RecordVersion,
    pub(crate) admission: Option<Admission>,
}

impl CacheableRecord {
    pub(crate) fn due(&self) -> Option<RecordVersion> {
        (self.refresh_in == Some(0)).then_some(self.version)
    }
}

/// How it may be kept in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission {
    /// The stripe in which the pushes of its user's mark are counted.
    pub(crate) user: UserStripe,
    /// Whether its mark stands under the name that [`RedisStore::is_still_valid`](crate::redis::RedisStore::is_still_valid) looks under.
    pub(crate) can_revalidate: bool,
}
