//! Reply to a lookup, in one form for every way to read it.

use super::run_ids::RunIds;
use crate::protocol::RevocationState;

/// Reply of the lookup script, or what was read in its place.
pub(crate) struct LookupReply {
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) mark_name: Option<Vec<u8>>,
    pub(crate) revocations: RevocationState,
    /// The run IDs of the servers that replied.
    pub(crate) run_ids: RunIds,
    /// Whether the user of a foreign record is banned, if that was read.
    pub(crate) is_banned: Option<bool>,
}
