//! The validator: two calls, put together.

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
/// A clone shares the connections, so make one at the start and clone it. Making it installs
/// rustls' *ring* provider as the process's default when there is none yet.
///
/// 1. Calls go to the endpoint directly or through the proxy that the environment names
///    (`HTTPS_PROXY`, `NO_PROXY`); an endpoint on loopback is never reached through a proxy.
/// 2. Redirects are not followed, since the token would travel with them. Cookies are not kept.
/// 3. A response of more than 256 KiB is not read further.
/// 4. `https` is not enforced, as Appwrite often runs beside its backend; without it, whoever can
///    read the network between the two can take over sessions.
/// 5. `email`, `name`, `emailVerification`, `$createdAt` and `$updatedAt` become those of the
///    [`UserData`], a date that cannot be read becomes `None`; for the tier see
///    [`tier`](crate::AppwriteValidatorBuilder::tier).
/// 6. Anonymous sessions, which Appwrite gives to any client that asks, are sessions like others. Their
///    users have the attribute `anonymous`. To keep them out, see
///    [`forbid_anonymous`](crate::AppwriteValidatorBuilder::forbid_anonymous).
/// 7. Records in Redis are shared with the validators of the same endpoint and project, and with a
///    Python service: see [`namespace`](crate::AppwriteValidatorBuilder::namespace).
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
    /// Where clients of this project put the session; see [`TokenSource::appwrite`].
    ///
    /// Two of the places are cookies: read there about CSRF before you use it for browsers.
    #[must_use]
    pub fn token_source(&self) -> TokenSource {
        TokenSource::appwrite(self.project_id())
    }

    /// The project whose sessions it validates.
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
        let validated = ValidatedSession::new(user).with_expires_at(session.expires_at);
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

    /// Safe to drop at any time: both calls only read.
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

    /// False for an anonymous session where these are forbidden, and for a record of the Python
    /// service there, which does not say what kind of session it is.
    fn accepts(&self, user: &UserData) -> bool {
        !self.0.forbids_anonymous
            || (!user.attributes().contains_key(ANONYMOUS)
                && user.source().is_some_and(|source| source.is_native))
    }

    /// Appwrite decodes base64 leniently; it issues tokens with padding and without other bytes.
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
