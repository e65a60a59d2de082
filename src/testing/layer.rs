//! A layer for a handler's unit test.

use super::validator::TestValidator;
use crate::{cache::SessionCache, middleware::SessionCacheLayer, validator::ValidatedSession};

/// A layer that knows one session, with a cache of its own in the process.
///
/// The token is expected as `Authorization: Bearer`; the layer can be set up further like any
/// other.
pub fn session_for(
    token: &str,
    session: impl Into<ValidatedSession>,
) -> SessionCacheLayer<TestValidator> {
    let validator = TestValidator::new().with_session(token, session);
    SessionCacheLayer::new(SessionCache::default(), validator)
}
