//! What a request learns about its session beside the user: logout handlers need the token.

use chrono::{DateTime, Utc};

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
