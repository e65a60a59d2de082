//! Which records of Redis the local cache may keep, and for how long.

use std::sync::Arc;

use super::stripes::UserStripe;
use crate::model::Due;
use crate::protocol::Record;

/// A record that may be served, and for how long.
pub(super) struct Served {
    pub(super) record: Arc<Record>,
    /// So many microseconds are left of its life.
    pub(super) left: u64,
    /// And so many until it is time to validate it again, if ever.
    pub(super) refresh_in: Option<u64>,
    pub(super) of: Due,
    pub(super) keep: Option<Keep>,
}

impl Served {
    pub(super) fn due(&self) -> Option<Due> {
        (self.refresh_in == Some(0)).then_some(self.of)
    }
}

/// How it may be kept in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// The stripe in which the pushes of its user's mark are counted.
    pub(super) user: UserStripe,
    /// Whether its mark stands under the name that [`Redis::vouches`](super::redis::Redis::vouches) looks under.
    pub(super) can_be_vouched_for: bool,
}
