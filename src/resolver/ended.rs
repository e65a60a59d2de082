//! Wait for the end of a session, for a connection that outlives the check of its request.

use std::time::Duration;

use tokio::time::timeout;

use super::resolve::{LocalResult, Resolver};
use crate::{
    cache::{Denied, Outcome},
    model::{SessionInfo, UserData},
    time::wall_micros,
    token::SessionToken,
    validator::SessionValidator,
};

/// The least time between two checks that no revocation causes.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Why a session has ended, as
/// [`SessionCacheLayer::session_ended`](crate::SessionCacheLayer::session_ended) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The application has revoked it: by a logout, or because its token or session was revoked.
    Revoked,
    /// It has reached its own expiry, and the identity provider has not prolonged it.
    Expired,
    /// The identity provider or a rule of the layer has rejected it, its user is banned, or the
    /// token belongs to another user by now.
    Rejected,
}

impl SessionEnd {
    /// Returns `revoked`, `expired` or `rejected`, for logs and close frames.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }
}

impl<V: SessionValidator> Resolver<V> {
    pub(crate) async fn ended(self, session: SessionInfo, check_every: Duration) -> SessionEnd {
        let (token, mut expires_at) = (session.token.clone(), session.expires_at);
        let mut user = UserData::from(session.user);
        let (key, store) = (self.cache().key(&token), self.cache().store());
        loop {
            // Read before the check, so that a revocation during the check is not missed.
            let seen = store.local.watermark();
            let outcome = self.check(&token).await;
            let now = store.clock().wall();
            let is_over = |at| wall_micros(at) <= now;
            match outcome {
                Ok(resolved) => {
                    let found = UserData::from(resolved.user);
                    if (found.id(), found.authority()) != (user.id(), user.authority()) {
                        return SessionEnd::Rejected;
                    }
                    (user, expires_at) = (found, resolved.expires_at);
                }
                Err(Denied::Revoked) => return SessionEnd::Revoked,
                // No session is served beyond its expiry, even if it cannot be validated.
                Err(_) if expires_at.is_some_and(is_over) => return SessionEnd::Expired,
                Err(denied) if denied.is_rejection() => return SessionEnd::Rejected,
                // The session may be valid.
                Err(_) => {}
            }
            let left = expires_at.map_or(Duration::MAX, |at| {
                let left = wall_micros(at).saturating_sub(now);
                Duration::from_micros(u64::try_from(left).unwrap_or_default())
            });
            let pause = check_every.max(MIN_PAUSE).min(left.max(MIN_PAUSE));
            // Either way the session is checked again.
            let _ = timeout(pause, store.changed(seen, &key, &user)).await;
        }
    }

    async fn check(&self, token: &SessionToken) -> Outcome {
        match self.try_local(token) {
            LocalResult::Ready(outcome) => outcome,
            LocalResult::Pending(key) => {
                let resolved = Box::pin(self.clone().resolve(token.clone(), key)).await;
                resolved.map(|accepted| accepted.resolved)
            }
        }
    }
}
