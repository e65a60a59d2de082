//! Validator that combines the results of two calls to Appwrite.

use std::{fmt, sync::Arc};

use futures_util::future;

use super::{
    client::AppwriteClient,
    error::AppwriteError,
    operation::Operation,
    response,
    response::{Account, SessionResponse},
    user::Tier,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::{SessionToken, TokenSource},
    validator::{
        error::{ForbiddenReason, ValidationError},
        session::ValidatedSession,
        traits::SessionValidator,
    },
};

/// The attribute of a user whose session is anonymous.
const ANONYMOUS: &str = "anonymous";

/// Validates the sessions of one Appwrite project, and logs users in and out.
///
/// Clones share the connections, so create one validator at startup and clone it.
///
/// 1. Calls go to the endpoint directly or through the proxy that the environment names
///    (`HTTPS_PROXY`, `NO_PROXY`). An endpoint on loopback is never reached through a proxy.
/// 2. Redirects are not followed, because the token would be sent along. Cookies are not stored.
/// 3. A response of more than 256 KiB is not read further.
/// 4. `https` is not enforced, because Appwrite often runs next to its backend. Without it, an
///    attacker who can read the network between the two can take over sessions.
/// 5. `email`, `name`, `emailVerification`, `$createdAt` and `$updatedAt` become fields of the
///    [`UserData`]. A date that cannot be parsed becomes `None`. For the tier, see
///    [`tier`](crate::AppwriteValidatorBuilder::tier).
/// 6. Anonymous sessions, which Appwrite creates for any client that requests one, are treated like
///    other sessions. Their users have the attribute `anonymous`. To reject them, see
///    [`forbid_anonymous`](crate::AppwriteValidatorBuilder::forbid_anonymous).
/// 7. Records in Redis are shared with the validators of the same endpoint and project, and with a
///    Python service. See [`namespace`](crate::AppwriteValidatorBuilder::namespace).
///
/// ```
/// use tower_session_cache::AppwriteValidator;
///
/// let appwrite = AppwriteValidator::new("https://appwrite.example.com/v1", "demo")?;
/// let source = appwrite.token_source();
/// # let _ = source;
/// # Ok::<(), tower_session_cache::AppwriteConfigError>(())
/// ```
#[derive(Clone)]
pub struct AppwriteValidator(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) namespace: Namespace,
    pub(super) authority: Authority,
    pub(super) client: AppwriteClient,
    pub(super) tier: Box<Tier>,
    pub(super) forbids_anonymous: bool,
}

impl AppwriteValidator {
    /// Returns the source that reads the session where clients of this project put it, see
    /// [`TokenSource::appwrite`].
    ///
    /// Two of the places are cookies. Before you use it for browsers, read the section on cookies
    /// and CSRF of [`TokenSource`].
    #[must_use]
    pub fn token_source(&self) -> TokenSource {
        TokenSource::appwrite(self.project_id())
    }

    /// Returns the ID of the project whose sessions it validates.
    #[must_use]
    pub fn project_id(&self) -> &str {
        self.0.client.project_id()
    }

    async fn account(&self, token: &SessionToken) -> Result<Account, AppwriteError> {
        let client = &self.0.client;
        let response = client.call(Operation::Account, Some(token), None).await?;
        response::account(
            &response.body,
            response::user_id_hint(token).as_deref(),
            &self.0.tier,
        )
    }

    fn to_session(
        &self,
        account: Account,
        session: SessionResponse,
    ) -> Result<ValidatedSession, ValidationError> {
        let Account {
            mut user,
            is_reachable,
        } = account;
        if session.is_anonymous && !is_reachable {
            if self.0.forbids_anonymous {
                return Err(ValidationError::forbidden(ForbiddenReason::Other).by_own_rule());
            }
            user = user.to_builder().attribute(ANONYMOUS, true).build();
        }
        let validated = ValidatedSession::new(user)
            .with_expires_at(session.expires_at)
            .with_authenticated_at(session.created_at);
        Ok(match session.id {
            Some(id) => validated.with_session_id(id),
            None => validated,
        })
    }

    async fn session(&self, token: &SessionToken) -> Result<SessionResponse, AppwriteError> {
        let client = &self.0.client;
        let response = client.call(Operation::Session, Some(token), None).await?;
        response::session(Operation::Session, &response.body)
    }
}

impl SessionValidator for AppwriteValidator {
    fn namespace(&self) -> Namespace {
        self.0.namespace.clone()
    }

    fn authority(&self) -> Authority {
        self.0.authority.clone()
    }

    /// Validates a token.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time, because both calls only read.
    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        match future::join(self.account(&token), self.session(&token)).await {
            (Ok(account), Ok(session)) => {
                response::same_user(Operation::Session, &session.user_id, account.user.id())?;
                self.to_session(account, session)
            }
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => Err(error.into()),
            (Err(account), Err(session)) => Err(account.or_more_severe(session).into()),
        }
    }

    /// Returns `false` for an anonymous session if these are forbidden. A record of the Python
    /// service is then not accepted either, because it does not say what kind of session it
    /// contains.
    fn accepts(&self, user: &UserData) -> bool {
        !self.0.forbids_anonymous
            || (!user.attributes().contains_key(ANONYMOUS)
                && user.source().is_some_and(|source| source.is_native))
    }

    /// Appwrite decodes base64 leniently. It issues tokens with padding and without other bytes.
    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        response::canonical(token)
    }
}

impl fmt::Debug for AppwriteValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppwriteValidator")
            .field("endpoint", &self.0.client.endpoint())
            .field("project_id", &self.0.client.project_id())
            .finish_non_exhaustive()
    }
}
