//! Targets of log lines and spans. Users name them in filters, so they are not module paths.

use tracing::{Span, field::Empty};

pub(crate) const LOOKUP: &str = "tower_session_cache::lookup";
pub(crate) const VALIDATION: &str = "tower_session_cache::validation";
pub(crate) const REVOCATION: &str = "tower_session_cache::revocation";
pub(crate) const REDIS: &str = "tower_session_cache::redis";
pub(crate) const INVALIDATION: &str = "tower_session_cache::invalidation";
#[cfg(feature = "events")]
pub(crate) const EVENTS: &str = "tower_session_cache::events";
pub(crate) const LAYER: &str = "tower_session_cache::layer";

/// Creates the span of a lookup that has to wait. The validation that it starts runs inside.
pub(crate) fn lookup_span() -> Span {
    tracing::info_span!(target: LOOKUP, "session_lookup", outcome = Empty, coalesced = Empty)
}

/// Creates the span of a validation that no request waits for. The request that caused it may end
/// earlier, so its span is not the parent.
pub(crate) fn refresh_span() -> Span {
    let span = tracing::info_span!(target: LOOKUP, parent: None, "session_refresh");
    span.follows_from(Span::current());
    span
}
