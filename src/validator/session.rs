//! Result of a validator for a valid token.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::model::{Authority, Branches, Namespace, SessionTimes, Source, UserData};

/// A session, as the identity provider reports it for a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidatedSession {
    /// The user of the session. A user with an empty ID is treated as a failure of the validator.
    pub user: UserData,
    /// When the session expires, if the provider reports it. The session is never served after that
    /// time.
    pub expires_at: Option<DateTime<Utc>>,
    /// The provider's ID of the session, if it reports one. It is not a secret: it is cached and
    /// shown.
    pub session_id: Option<String>,
    /// The issuer of the session, if it differs from the validator's
    /// [authority](crate::SessionValidator::authority).
    pub authority: Option<Authority>,
    /// Set only by `or`.
    pub(crate) branches: Branches,
    /// Whether `expires_at` is the expiry of the token, which nothing can prolong.
    pub(crate) ends_with_token: bool,
    pub(crate) is_key: bool,
    pub(crate) authenticated_at: Option<DateTime<Utc>>,
    pub(crate) acr: Option<String>,
}

impl ValidatedSession {
    /// Creates a session without a known expiry, which only the cache's TTL limits.
    #[must_use]
    pub fn new(user: UserData) -> Self {
        Self {
            user,
            expires_at: None,
            session_id: None,
            authority: None,
            branches: Branches::default(),
            ends_with_token: false,
            is_key: false,
            authenticated_at: None,
            acr: None,
        }
    }

    /// Sets the provider's ID of the session. Defaults to `None`.
    #[must_use]
    pub fn with_session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = Some(id.into());
        self
    }

    /// Sets the issuer of the session. Defaults to the validator's
    /// [authority](crate::SessionValidator::authority).
    ///
    /// # Security
    ///
    /// Do not take it from a response unless the validator has verified it: a response that chooses
    /// the authority also chooses the user.
    #[must_use]
    pub fn with_authority(mut self, authority: impl Into<Authority>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Returns the user as a cache hit of this validator would return it.
    pub(super) fn cached_user(&self, namespace: Namespace, authority: Authority) -> UserData {
        let source = Source {
            namespace,
            authority: self.authority.clone().unwrap_or(authority),
            branches: self.branches.clone(),
            is_native: true,
            // This is the ID of no cache, because the session is in none.
            cache: u64::MAX,
        };
        self.user_in(Arc::new(source), 0)
    }

    /// Returns the user as that of this session, whose validation began at `validated_at`.
    pub(crate) fn user_in(&self, source: Arc<Source>, validated_at: i64) -> UserData {
        let times = SessionTimes {
            validated_at,
            authenticated_at: self.authenticated_at.map(|at| at.timestamp()),
            ends_with_token: self.ends_with_token,
            is_key: self.is_key,
        };
        let (session_id, acr) = (self.session_id.as_deref(), self.acr.as_deref());
        self.user.in_session(source, session_id, acr, times)
    }

    /// Marks the token as a key, such as an API key of a machine, and not as a session.
    /// [`log_out`](crate::SessionCache::log_out) refuses to end it, so that a request to the logout
    /// route does not revoke the key. [`SessionValidator::keys`](crate::SessionValidator::keys) does
    /// this for all tokens of a validator.
    #[must_use]
    pub fn as_key(mut self) -> Self {
        self.is_key = true;
        self
    }

    /// Sets when the user last authenticated, with a precision of one second. Defaults to `None`.
    /// Routes can [require](crate::SessionCacheLayer::max_authentication_age) a recent time.
    #[must_use]
    pub fn with_authenticated_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.authenticated_at = at.into();
        self
    }

    /// Sets how the user authenticated (authentication context class reference). Defaults to
    /// `None`. Routes can [require](crate::SessionCacheLayer::require_acr) a value.
    #[must_use]
    pub fn with_acr(mut self, acr: impl Into<String>) -> Self {
        self.acr = Some(acr.into());
        self
    }

    /// Sets when the session expires. Defaults to `None`.
    ///
    /// The provider may prolong the session. For a token whose expiry never changes, use
    /// [`with_token_expires_at`](Self::with_token_expires_at).
    #[must_use]
    pub fn with_expires_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.expires_at = at.into();
        self.ends_with_token = false;
        self
    }

    /// Sets when the token expires, for a token whose expiry never changes, such as an access token
    /// of OAuth 2.0. The session may go on with other tokens. Defaults to `None`.
    ///
    /// Cached sessions are treated as after [`with_expires_at`](Self::with_expires_at). In
    /// addition, [`log_out`](crate::SessionCache::log_out) remembers the token only until then.
    #[must_use]
    pub fn with_token_expires_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.expires_at = at.into();
        self.ends_with_token = true;
        self
    }
}

impl From<UserData> for ValidatedSession {
    fn from(user: UserData) -> Self {
        Self::new(user)
    }
}
