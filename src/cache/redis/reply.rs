//! What Redis says of a token, in one shape for every way to ask.

use super::run::Run;
use crate::protocol::Beside;

/// The reply of the lookup script, or what was read in its place.
pub(super) struct Looked {
    pub(super) value: Option<Vec<u8>>,
    pub(super) mark_name: Option<Vec<u8>>,
    pub(super) beside: Beside,
    /// The run of the servers that said so.
    pub(super) run: Run,
}
