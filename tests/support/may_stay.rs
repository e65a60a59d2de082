use tower_session_cache::{Fill, Lookup, SessionCache, SessionInfo, SessionValidator};

/// Whether the connection may stay open.
pub async fn may_stay(
    cache: &SessionCache,
    validator: &impl SessionValidator,
    session: &SessionInfo,
) -> bool {
    // The part of the cache in which the validator's layer keeps its sessions.
    let cache = cache.clone().for_validator(validator);
    match cache.get(session.token()).await {
        Lookup::Hit(hit) => validator.accepts(&hit.user),
        Lookup::Revoked => false,
        // The TTL has passed, or something was revoked, so the provider decides. An unavailable
        // provider does not close the connection.
        Lookup::Miss(ticket) => match validator.validate(session.token().clone()).await {
            Ok(session) => !matches!(
                cache.set(ticket, &session).await,
                Fill::Revoked | Fill::Expired
            ),
            Err(error) => !error.is_rejection(),
        },
        _ => false,
    }
}
