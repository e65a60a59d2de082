//! The targets of what this crate logs, which a filter can name: they stay when a file moves.

use tracing::{Span, field::Empty};

pub(crate) const LOOKUP: &str = "tower_session_cache::lookup";
pub(crate) const VALIDATION: &str = "tower_session_cache::validation";
pub(crate) const REVOCATION: &str = "tower_session_cache::revocation";
pub(crate) const REDIS: &str = "tower_session_cache::redis";
pub(crate) const LISTENER: &str = "tower_session_cache::listener";
pub(crate) const LAYER: &str = "tower_session_cache::layer";

/// Of a lookup that has to wait: what is validated for it is inside.
pub(crate) fn lookup() -> Span {
    tracing::info_span!(target: LOOKUP, "session_lookup", outcome = Empty, joined = Empty)
}

/// Of a validation that no request waits for. The request that caused it ends without it, so it
/// is not the parent.
pub(crate) fn refresh() -> Span {
    let span = tracing::info_span!(target: LOOKUP, parent: None, "session_refresh");
    span.follows_from(Span::current());
    span
}
