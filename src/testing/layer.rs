//! Layer and session for unit tests of handlers.

use super::validator::TestValidator;
use std::sync::Arc;

use crate::{
    cache::SessionCache,
    middleware::SessionCacheLayer,
    model::{Authority, Branches, Namespace, Origin, SessionInfo, Source},
    time::Clock,
    token::{SessionToken, TokenError},
    validator::ValidatedSession,
};

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

/// Creates the session of a request, for a test that calls a handler without a layer. It comes from
/// the validator of a [`TestValidator`], which was called now.
///
/// ```
/// use tower_session_cache::{SessionInfo, UserData, testing::session_info};
///
/// async fn logout(session: SessionInfo) -> String {
///     session.user().id().to_owned()
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = session_info("tok", UserData::new("ada"))?;
/// assert_eq!(session.token().expose_secret(), "tok");
/// assert_eq!(logout(session.clone()).await, "ada");
///
/// // As the layer inserts it:
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(session.user());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// Returns an error if the token is empty or has bytes that no token has.
pub fn session_info(
    token: &str,
    session: impl Into<ValidatedSession>,
) -> Result<SessionInfo, TokenError> {
    let session = session.into();
    let authority = || Authority::new("test");
    let source = Source {
        namespace: Namespace::named("test"),
        authority: session.authority.clone().unwrap_or_else(authority),
        branches: Branches::default(),
        is_native: true,
        // This is the ID of no cache, because the session is in none.
        cache: u64::MAX,
    };
    let user = session.user_in(Arc::new(source), Clock::system().wall());
    Ok(SessionInfo {
        token: SessionToken::copy(token.as_bytes())?,
        origin: Origin::Validator,
        expires_at: session.expires_at,
        stale: false,
        rejected_tokens: 0,
        user: user.into_shared(),
    })
}
