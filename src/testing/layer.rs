//! Layer for unit tests of handlers.

use super::validator::TestValidator;
use crate::{cache::SessionCache, middleware::SessionCacheLayer, validator::ValidatedSession};

/// Creates a layer that accepts one session, with its own in-process cache.
///
/// The layer expects the token as `Authorization: Bearer`. It can be configured further like any
/// other layer.
pub fn session_for(
    token: &str,
    session: impl Into<ValidatedSession>,
) -> SessionCacheLayer<TestValidator> {
    let validator = TestValidator::new().with_session(token, session);
    SessionCacheLayer::new(SessionCache::default(), validator)
}
