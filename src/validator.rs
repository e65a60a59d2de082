//! The question a cache cannot answer: is this token good, and whose is it?
//!
//! A [`SessionValidator`] asks the identity provider. What it may answer is deliberately narrow:
//! a [`ValidatedSession`], or a [`ValidationError`] that keeps *refused* (the provider said no)
//! apart from *unavailable* (nobody could tell). A provider that cannot be reached must neither
//! log anyone out nor let anyone in, and only the validator knows which of the two it met.

use std::{error::Error as StdError, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use crate::{token::SessionToken, user::UserData};

mod or;
mod service;

#[cfg(feature = "introspection")]
pub(crate) use self::or::VALIDATOR;
pub use self::{
    or::Or,
    service::{ValidatorService, validator_service},
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Asks the identity provider what a session token stands for.
///
/// A validation runs in a task of its own and is shared by all requests that wait for the same
/// token, so the future must be `Send`; it is dropped when the cache's validation deadline
/// passes, and must be safe to drop at any `.await`.
///
/// Shared validators come as [`Arc<V>`], closures through [`validator_fn`], and a choice made at
/// run time through [`ErasedValidator`].
///
/// ```
/// use tower_session_cache::{SessionToken, SessionValidator, UserData, ValidatedSession, ValidationError};
///
/// struct OneUser;
///
/// impl SessionValidator for OneUser {
///     async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
///         // Real tokens go to the identity provider; comparing secrets like this leaks timing.
///         if token.expose_secret() == "let-me-in" {
///             Ok(ValidatedSession::new(UserData::new("ada")))
///         } else {
///             Err(ValidationError::invalid())
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a session validator",
    label = "nobody knows how to ask this what a token stands for",
    note = "implement `SessionValidator` for it, or wrap an async closure: `validator_fn(|token| async move {{ … }})`",
    note = "a tower service is wrapped by `validator_service`; one that is chosen at run time, by `ErasedValidator::new`"
)]
pub trait SessionValidator: Send + Sync + 'static {
    /// Resolves a token.
    ///
    /// # Errors
    ///
    /// [`ValidationError::invalid`] or [`ValidationError::forbidden`] when the identity provider
    /// refused, [`ValidationError::unavailable`] when it could not be asked or made no sense.
    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send;

    /// Whether a cached user may still be served; asked on every hit, so it must be quick.
    ///
    /// Defaults to true. Answering false makes the hit a miss: the token is validated again.
    fn accepts(&self, user: &UserData) -> bool {
        let _ = user;
        true
    }

    /// Asks another validator about tokens that this one refuses as
    /// [invalid](ValidationErrorKind::Invalid).
    ///
    /// Not when this one is unavailable: a provider that is down must not hand its users over to
    /// another. And not when it knows the user and does not let them in. The name tells whose a
    /// cached user is (it is kept as the attribute `validator`), so that each is asked whether it
    /// [`accepts`](Self::accepts) its own; it must differ between validators.
    fn or<V: SessionValidator>(self, name: impl Into<String>, other: V) -> Or<Self, V>
    where
        Self: Sized,
    {
        Or {
            first: self,
            name: name.into(),
            second: other,
        }
    }
}

impl<V: SessionValidator + ?Sized> SessionValidator for Arc<V> {
    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        (**self).validate(token)
    }

    fn accepts(&self, user: &UserData) -> bool {
        (**self).accepts(user)
    }
}

/// Makes a validator of an async closure; mostly for tests and small services.
///
/// ```
/// use tower_session_cache::{UserData, ValidatedSession, validator_fn};
///
/// let anyone = validator_fn(|_token| async { Ok(ValidatedSession::new(UserData::new("ada"))) });
/// # let _ = anyone;
/// ```
pub fn validator_fn<F, Fut>(f: F) -> ValidatorFn<F>
where
    F: Fn(SessionToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ValidatedSession, ValidationError>> + Send,
{
    ValidatorFn(f)
}

/// A [`SessionValidator`] made of a closure by [`validator_fn`].
#[derive(Clone, Copy)]
pub struct ValidatorFn<F>(F);

impl<F> fmt::Debug for ValidatorFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ValidatorFn")
    }
}

impl<F, Fut> SessionValidator for ValidatorFn<F>
where
    F: Fn(SessionToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ValidatedSession, ValidationError>> + Send,
{
    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        (self.0)(token)
    }
}

/// Any validator behind one type, for a choice that is made at run time.
///
/// ```
/// use tower_session_cache::{ErasedValidator, UserData, ValidatedSession, ValidationError, validator_fn};
///
/// let closed = std::env::args().any(|arg| arg == "--closed");
/// let validator = if closed {
///     ErasedValidator::new(validator_fn(|_| async { Err(ValidationError::invalid()) }))
/// } else {
///     ErasedValidator::new(validator_fn(|_| async {
///         Ok(ValidatedSession::new(UserData::new("ada")))
///     }))
/// };
/// # let _ = validator;
/// ```
#[derive(Clone)]
pub struct ErasedValidator(Arc<dyn DynValidator>);

impl ErasedValidator {
    /// Hides the validator's type.
    pub fn new(validator: impl SessionValidator) -> Self {
        Self(Arc::new(validator))
    }
}

impl fmt::Debug for ErasedValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasedValidator")
    }
}

impl SessionValidator for ErasedValidator {
    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        self.0.validate_boxed(token)
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.0.accepts_dyn(user)
    }
}

type BoxValidation<'a> =
    Pin<Box<dyn Future<Output = Result<ValidatedSession, ValidationError>> + Send + 'a>>;

trait DynValidator: Send + Sync {
    fn validate_boxed(&self, token: SessionToken) -> BoxValidation<'_>;
    fn accepts_dyn(&self, user: &UserData) -> bool;
}

impl<V: SessionValidator> DynValidator for V {
    fn validate_boxed(&self, token: SessionToken) -> BoxValidation<'_> {
        Box::pin(self.validate(token))
    }

    fn accepts_dyn(&self, user: &UserData) -> bool {
        self.accepts(user)
    }
}

/// What the identity provider says a good token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidatedSession {
    /// Whose session it is. A user with an empty id is treated as a failure of the validator.
    pub user: UserData,
    /// When the session ends by itself, if the provider tells. It is never served after that.
    pub expires_at: Option<DateTime<Utc>>,
}

impl ValidatedSession {
    /// A session of which no expiry is known: only the cache's TTL bounds it.
    #[must_use]
    pub fn new(user: UserData) -> Self {
        Self {
            user,
            expires_at: None,
        }
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

/// Why a token was not validated; cheap to clone, since all who waited share it.
///
/// `Display` never contains anything of the token or the user. The optional source is the
/// validator's own error: it is reported through [`source`](StdError::source) and logged, so a
/// validator must keep secrets out of it.
#[derive(Clone)]
pub struct ValidationError {
    kind: ValidationErrorKind,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The cases a caller of a validator must tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValidationErrorKind {
    /// Refused: the token is unknown, expired, revoked or forged. Answered with 401.
    Invalid,
    /// Refused: the user is known, but not let in. Answered with 403.
    Forbidden(ForbiddenReason),
    /// The identity provider could not be asked, or its answer made no sense. Answered with 503.
    Unavailable,
    /// The identity provider does not accept *us*: our configuration is wrong. Answered with 503
    /// and logged as an error, since no retry will help.
    Misconfigured,
}

/// Why a known user is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForbiddenReason {
    /// An administrator has blocked the user.
    Blocked,
    /// The sign-in is not complete: a second factor is missing.
    MoreFactors,
    /// The password must be set anew first.
    PasswordReset,
    /// The token was not issued for this use; with the challenge `error="insufficient_scope"`.
    InsufficientScope,
    /// Another reason of the identity provider.
    Other,
}

impl ForbiddenReason {
    /// A short, stable word for logs and problem bodies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "user_blocked",
            Self::MoreFactors => "more_factors_required",
            Self::PasswordReset => "password_reset_required",
            Self::InsufficientScope => "insufficient_scope",
            Self::Other => "forbidden",
        }
    }
}

impl ValidationError {
    /// The identity provider refused the token: unknown, expired, revoked or forged.
    #[must_use]
    pub fn invalid() -> Self {
        Self::of(ValidationErrorKind::Invalid)
    }

    /// The identity provider knows the user and does not let them in.
    #[must_use]
    pub fn forbidden(reason: ForbiddenReason) -> Self {
        Self::of(ValidationErrorKind::Forbidden(reason))
    }

    /// Nobody could tell: a timeout, a connection error, throttling, a 5xx, an unreadable answer.
    ///
    /// The source is logged; it must not contain a secret.
    #[must_use]
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(Arc::from(source.into())),
            ..Self::of(ValidationErrorKind::Unavailable)
        }
    }

    /// The identity provider rejects our own configuration. The source should name the setting.
    #[must_use]
    pub fn misconfigured(source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(Arc::from(source.into())),
            ..Self::of(ValidationErrorKind::Misconfigured)
        }
    }

    /// Says when asking again makes sense. Until then, but for a minute at most, the validator is
    /// not asked about any token, and clients get 503 with what is left as `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Which case it is.
    #[must_use]
    pub fn kind(&self) -> ValidationErrorKind {
        self.kind
    }

    /// Whether the identity provider said no, as opposed to nobody knowing.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self.kind {
            ValidationErrorKind::Invalid | ValidationErrorKind::Forbidden(_) => true,
            ValidationErrorKind::Unavailable | ValidationErrorKind::Misconfigured => false,
        }
    }

    /// When asking again makes sense, if the identity provider said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    fn of(kind: ValidationErrorKind) -> Self {
        Self {
            kind,
            retry_after: None,
            source: None,
        }
    }
}

impl fmt::Debug for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidationError")
            .field("kind", &self.kind)
            .field("retry_after", &self.retry_after)
            .field("source", &self.source)
            .finish()
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ValidationErrorKind::Invalid => "the identity provider refused the session token",
            ValidationErrorKind::Forbidden(_) => "the identity provider does not let the user in",
            ValidationErrorKind::Unavailable => "the identity provider could not be asked",
            ValidationErrorKind::Misconfigured => {
                "the identity provider rejects this service's configuration"
            }
        })
    }
}

impl StdError for ValidationError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}
