//! Details of a request's session besides the user, such as the token, which a logout handler
//! needs.

use std::fmt;

use chrono::{DateTime, Utc};

use super::{
    namespace::{Authority, Namespace},
    shared_user::SharedUser,
};
use crate::token::SessionToken;

/// The session of a request, which [`UserData::session`](crate::UserData::session) returns. With the
/// feature `axum` it is an extractor as well.
///
/// Cloning copies the token. `Debug` does not show it.
#[derive(Clone)]
pub struct SessionInfo {
    pub(crate) token: SessionToken,
    pub(crate) origin: Origin,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) stale: bool,
    pub(crate) rejected_tokens: u8,
    pub(crate) user: SharedUser,
}

impl SessionInfo {
    /// Returns the token of the request, which a logout handler can revoke.
    #[must_use]
    pub fn token(&self) -> &SessionToken {
        &self.token
    }

    /// Returns how many cookies of the same name came before the one with this token and were
    /// rejected: 0, 1 or 2. If it is not 0, the browser keeps stale cookies, which cost a lookup
    /// for each request. [`CookieRemoval`](crate::CookieRemoval) deletes them.
    #[must_use]
    pub fn rejected_tokens(&self) -> usize {
        self.rejected_tokens.into()
    }

    /// Returns where the session came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the time at which the session expires, if the identity provider reported it.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.expires_at
    }

    /// Returns the issuer of the session. User IDs and session IDs are unique per authority only.
    ///
    /// Returns `None` if the application itself stored the user in the cache.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.user.source().map(|source| &source.authority)
    }

    /// Returns the namespace in which the session was validated, and whose records contain it.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.user.source().map(|source| &source.namespace)
    }

    /// Returns the names of the branches of [`or`](crate::SessionValidator::or) that accepted the
    /// token, from the outermost to the innermost. The first branch of each `or` has the empty
    /// name. The iterator is empty if the validator has no branches.
    pub fn branches(&self) -> impl Iterator<Item = &str> {
        let source = self.user.source();
        source
            .into_iter()
            .flat_map(|source| source.branches.names())
    }

    /// Returns the identity provider's ID of the session, if it reports one: Appwrite's `$id`, the
    /// claim `sid` of introspection, or the ID that a custom validator has set with
    /// [`with_session_id`](crate::ValidatedSession::with_session_id). It is not a secret.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.user.session_id()
    }

    /// Returns the time at which the validation began that the session comes from. By the clock of
    /// Redis if the session was read from there.
    #[must_use]
    pub fn validated_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.user.times().validated_at).unwrap_or_default()
    }

    /// Returns the time at which the user last authenticated, if the identity provider reports it:
    /// the claim `auth_time` of introspection, the creation of Appwrite's session, or what a custom
    /// validator has set with
    /// [`with_authenticated_at`](crate::ValidatedSession::with_authenticated_at).
    #[must_use]
    pub fn authenticated_at(&self) -> Option<DateTime<Utc>> {
        let seconds = self.user.times().authenticated_at?;
        DateTime::from_timestamp(seconds, 0)
    }

    /// Returns how the user authenticated, if the identity provider reports it: the claim `acr` of
    /// introspection (authentication context class), or what a custom validator has set with
    /// [`with_acr`](crate::ValidatedSession::with_acr).
    #[must_use]
    pub fn acr(&self) -> Option<&str> {
        self.user.acr()
    }

    /// Returns `true` if the token is a key and not a session, which no
    /// [logout](crate::SessionCache::log_out) ends: see
    /// [`SessionValidator::keys`](crate::SessionValidator::keys).
    #[must_use]
    pub fn is_key(&self) -> bool {
        self.user.times().is_key
    }

    /// Returns `true` if the session should have been validated again first, and was served from
    /// the cache instead: because the identity provider was unavailable
    /// ([`stale_if_error`](crate::SessionCacheBuilder::stale_if_error)), or because Redis was
    /// restarted ([`stale_after_restart`](crate::SessionCacheBuilder::stale_after_restart)).
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }
}

impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInfo")
            .field("user", &self.user.id())
            .field("origin", &self.origin)
            .field("expires_at", &self.expires_at)
            .field("is_stale", &self.stale)
            .finish_non_exhaustive()
    }
}

/// Where a session came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The local cache, in the memory of this process.
    Local,
    /// The Redis that the nodes share.
    Redis,
    /// The validator, called for this request or for another request that waited for the same
    /// token.
    Validator,
}

impl Origin {
    /// Returns a short, stable word for logs and headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::Validator => "validator",
        }
    }
}

/// Identifies a record whose session is due to be validated again, by the time of its lookup or by
/// its end in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordVersion(pub(crate) i64);
