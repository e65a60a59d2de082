//! What Redis says of a token, in one shape for every way to ask.

use super::run_ids::RunIds;
use crate::protocol::RevocationState;

/// The reply of the lookup script, or what was read in its place.
pub(crate) struct LookupReply {
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) mark_name: Option<Vec<u8>>,
    pub(crate) revocations: RevocationState,
    /// The run of the servers that said so.
    pub(crate) run_ids: RunIds,
}
