//! What a request learns about its session beside the user: logout handlers need the token.

use chrono::{DateTime, Utc};

use super::{
    namespace::{Authority, Namespace},
    user::UserData,
};
use crate::token::SessionToken;

/// The session of a request, found in its extensions beside [`UserData`](crate::UserData).
///
/// `Debug` does not show the token.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub(crate) token: SessionToken,
    pub(crate) origin: Origin,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) stale: bool,
    pub(crate) user: UserData,
}

impl SessionInfo {
    /// The token that the request carried, for a logout handler to revoke.
    #[must_use]
    pub fn token(&self) -> &SessionToken {
        &self.token
    }

    /// Who answered for the token.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// When the session ends by itself, if the identity provider told.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.expires_at
    }

    /// Who issued the session. Ids of users and of sessions are unique per authority.
    ///
    /// `None` for a user that a program has put into the cache's hands itself.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.user.authority()
    }

    /// In whose name the session was validated, and so whose records hold it.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.user.source().map(|source| &source.namespace)
    }

    /// The branches of [`or`](crate::SessionValidator::or) that accepted the token, from the
    /// outermost to the innermost, by the names that they were given. The first branch of each
    /// `or` has the empty name. None if the validator has no branches.
    pub fn branches(&self) -> impl Iterator<Item = &str> {
        let source = self.user.source();
        source
            .into_iter()
            .flat_map(|source| source.branches.names())
    }

    /// The identity provider's id of the session, if it tells: Appwrite's `$id`, the claim `sid`
    /// of introspection, or what a validator of your own set by
    /// [`with_session_id`](crate::ValidatedSession::with_session_id). Not a secret.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.user.session_id()
    }

    /// Whether the answer's cache time had run out and it was served for want of a better one.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }
}

/// Where the answer about a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The memory of this process.
    Local,
    /// The Redis that the nodes share.
    Redis,
    /// The validator, asked for this request or for another that waited for the same token.
    Validator,
}

impl Origin {
    /// A short, stable word for logs and headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::Validator => "validator",
        }
    }
}

/// A session as the cache holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedSession {
    /// Whose session it is.
    pub user: UserData,
    /// When it ends by itself, if known; in the future when it was looked up.
    pub expires_at: Option<DateTime<Utc>>,
    /// Where it was found.
    pub origin: Origin,
    /// When it is time to validate it again, though it may still be served.
    pub(crate) due: Option<RecordVersion>,
}

/// That it is time to validate a session again, and which record of it: the time of its lookup,
/// or its end in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordVersion(pub(crate) i64);
