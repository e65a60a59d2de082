//! Records from Redis that may be served, and how the local cache may keep them.

use std::sync::Arc;

use super::generations::UserStripe;
use crate::{model::RecordVersion, protocol::Record};

/// A record that may be served, with its remaining lifetime.
pub(crate) struct CacheableRecord {
    pub(crate) record: Arc<Record>,
    /// Rest of its lifetime, in microseconds.
    pub(crate) left: u64,
    /// Microseconds until it is due to be validated again. `None` means never.
    pub(crate) refresh_in: Option<u64>,
    pub(crate) version: RecordVersion,
    pub(crate) admission: Option<Admission>,
}

impl CacheableRecord {
    pub(crate) fn due(&self) -> Option<RecordVersion> {
        (self.refresh_in == Some(0)).then_some(self.version)
    }
}

/// How a record may be kept in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission {
    /// Stripe in which the pushes of its user's mark are counted.
    pub(crate) user: UserStripe,
    /// Whether it may be served after its lifetime, if the identity provider is unavailable. It must
    /// not have been validated soon after a revocation, since the provider may have lagged behind.
    /// Its mark must be stored under the name that
    /// [`RedisStore::is_still_valid`](crate::redis::RedisStore::is_still_valid) reads.
    pub(crate) can_be_stale: bool,
}
