//! Why a token was not validated.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a token was not validated; cheap to clone, since all who waited share it.
///
/// `Display` never contains anything of the token or the user. The optional source is the
/// validator's own error: it is reported through [`source`](StdError::source) and logged, so a
/// validator must keep secrets out of it.
#[derive(Clone)]
pub struct ValidationError {
    kind: ValidationErrorKind,
    retry_after: Option<Duration>,
    cause: Cause,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// Where an error comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The identity provider.
    Provider,
    /// The provider of one branch of the validator. The branch keeps its cooldown.
    Branch,
    /// A rule of the validator's own.
    OwnRule,
    /// This node, which did not call the provider, or not for long enough: during a cooldown, or
    /// because too many validations were waiting.
    NotCalled,
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
    MfaRequired,
    /// The password must be set anew first.
    PasswordResetRequired,
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
            Self::MfaRequired => "more_factors_required",
            Self::PasswordResetRequired => "password_reset_required",
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

    /// Says when asking again makes sense. Until then, but for a minute at most, the provider is
    /// not asked about any token, and clients get 503 with what is left as `Retry-After`. A pause of
    /// the second branch of an [`or`](crate::SessionValidator::or) leaves the first one's sessions alone.
    /// One of the first stops both, since every token is shown to it first; with
    /// [`or_if`](crate::SessionValidator::or_if) neither stops the other.
    #[must_use]
    pub fn with_retry_after(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.retry_after = after.into();
        self
    }

    /// Marks a refusal as one by a rule of this validator's own, such as a scope that it requires,
    /// and not by the identity provider.
    ///
    /// It then counts for this validator's layer alone: what other layers of the namespace have
    /// cached goes on being served by them.
    #[must_use]
    pub fn by_own_rule(mut self) -> Self {
        self.cause = Cause::OwnRule;
        self
    }

    pub(crate) fn is_own_rule(&self) -> bool {
        self.cause == Cause::OwnRule
    }

    /// The provider was not called because of its `Retry-After`.
    pub(crate) fn cooling_down(remaining: Duration) -> Self {
        let cooling_down = "the identity provider asked to be left alone for a while";
        Self {
            cause: Cause::NotCalled,
            ..Self::unavailable(cooling_down).with_retry_after(remaining)
        }
    }

    /// Marks an error as one of this node, which has not called the provider.
    pub(crate) fn not_called(mut self) -> Self {
        self.cause = Cause::NotCalled;
        self
    }

    pub(crate) fn is_not_called(&self) -> bool {
        self.cause == Cause::NotCalled
    }

    /// The `Retry-After` of the provider, unless it is that of a branch.
    pub(crate) fn provider_retry_after(&self) -> Option<Duration> {
        self.retry_after.filter(|_| self.cause == Cause::Provider)
    }

    /// Marks an error of the provider as one of a branch, which keeps its own cooldown.
    pub(crate) fn in_branch(mut self) -> Self {
        if self.cause == Cause::Provider {
            self.cause = Cause::Branch;
        }
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
            cause: Cause::Provider,
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
