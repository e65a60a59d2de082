//! What a validator returns for a valid token.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::model::{Authority, Branches, Namespace, Source, UserData};

/// What the identity provider says a good token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidatedSession {
    /// Whose session it is. A user with an empty id is treated as a failure of the validator.
    pub user: UserData,
    /// When the session ends by itself, if the provider tells. It is never served after that.
    pub expires_at: Option<DateTime<Utc>>,
    /// The provider's id of the session, if it tells. Not a secret: it is cached and shown.
    pub session_id: Option<String>,
    /// Who issued the session, where it is not the validator's
    /// [authority](crate::SessionValidator::authority).
    pub authority: Option<Authority>,
    /// Set by `or` alone.
    pub(crate) branches: Branches,
}

impl ValidatedSession {
    /// A session of which no expiry is known: only the cache's TTL bounds it.
    #[must_use]
    pub fn new(user: UserData) -> Self {
        Self {
            user,
            expires_at: None,
            session_id: None,
            authority: None,
            branches: Branches::default(),
        }
    }

    /// Sets the provider's id of the session. Defaults to not known.
    #[must_use]
    pub fn with_session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = Some(id.into());
        self
    }

    /// Sets who issued the session. Defaults to the validator's
    /// [authority](crate::SessionValidator::authority).
    ///
    /// # Security
    ///
    /// Do not take it from a response unless the validator has verified it: a
    /// response that names the authority names the user.
    #[must_use]
    pub fn with_authority(mut self, authority: impl Into<Authority>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// The user as a cache hit of this validator would return it.
    pub(super) fn cached_user(&self, namespace: Namespace, authority: Authority) -> UserData {
        let source = Source {
            namespace,
            authority: self.authority.clone().unwrap_or(authority),
            branches: self.branches.clone(),
            is_native: true,
            // None: it is in no cache.
            cache: u64::MAX,
        };
        let session_id = self.session_id.as_deref();
        self.user.in_session(Arc::new(source), session_id)
    }

    /// Sets when the session ends by itself. Defaults to not known.
    #[must_use]
    pub fn with_expires_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.expires_at = at.into();
        self
    }
}

impl From<UserData> for ValidatedSession {
    fn from(user: UserData) -> Self {
        Self::new(user)
    }
}
