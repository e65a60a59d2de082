//! Errors of a validation.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use crate::protocol::LastingCause;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a token was not validated. It is cheap to clone, because all requests that waited for the
/// validation share it.
///
/// `Display` never contains data of the token or the user. The optional source is the validator's
/// own error. It is available through [`source`](StdError::source) and logged, so a validator must
/// keep secrets out of it.
#[derive(Clone)]
pub struct ValidationError {
    kind: ValidationErrorKind,
    retry_after: Option<Duration>,
    cause: Cause,
    scope: Scope,
    branch: Option<BranchFailure>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What the failure of a validation concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureScope {
    /// The token, because the provider decides about others. `is_invalid` is set if its response
    /// names the token as the reason.
    Token { is_invalid: bool },
    /// The token or the provider.
    Unknown,
    /// The provider.
    Provider,
}

/// What the branch of a failure has recorded about its provider.
#[derive(Clone)]
pub(crate) struct BranchFailure {
    pub(crate) scope: FailureScope,
    pub(crate) is_down: Arc<AtomicBool>,
}

/// The origin of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The identity provider.
    Provider,
    /// The provider of one branch of the validator. The branch has its own limit.
    Branch,
    /// A rule of the validator itself.
    OwnRule,
    /// This node, which did not call the provider or did not wait long enough for it, because too
    /// many validations were waiting.
    NotCalled,
}

/// The tokens that a failure of the provider concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The token of the call, as far as is known.
    Token,
    /// The token of the call, which the response names as the reason.
    BlamedToken,
    /// All tokens.
    AllTokens,
}

/// The kinds of [`ValidationError`] that the caller of a validator must distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValidationErrorKind {
    /// The token was rejected: it is unknown, expired, revoked or forged. The response is 401.
    Invalid,
    /// The user is known, but access is denied. The response is 403.
    Forbidden(ForbiddenReason),
    /// The identity provider could not be called, or its response was not usable. The response is
    /// 503.
    Unavailable,
    /// The identity provider does not accept this service, because the service is misconfigured.
    /// The response is 503, and the failure is logged as an error, because a retry will not help.
    Misconfigured,
}

/// Why access is denied to a known user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForbiddenReason {
    /// An administrator has blocked the user.
    Blocked,
    /// The sign-in is not complete: a second factor is missing.
    MfaRequired,
    /// The password must be reset first.
    PasswordResetRequired,
    /// The token was not issued for this use. The challenge contains `error="insufficient_scope"`.
    InsufficientScope,
    /// The token is valid, but belongs to no user: it is a client's own, for example.
    NoUser,
    /// A reason of the application, with a short, stable word such as `"trial_ended"`.
    Custom(&'static str),
    /// Another reason, given by the identity provider.
    Other,
}

impl ForbiddenReason {
    /// Returns a short, stable word for logs and problem bodies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "user_blocked",
            Self::MfaRequired => "more_factors_required",
            Self::PasswordResetRequired => "password_reset_required",
            Self::InsufficientScope => "insufficient_scope",
            Self::NoUser => "no_user",
            Self::Custom(word) => word,
            Self::Other => "forbidden",
        }
    }
}

impl ValidationError {
    /// Creates an error for a token that the identity provider rejected as unknown, expired,
    /// revoked or forged.
    #[must_use]
    pub fn invalid() -> Self {
        Self::of(ValidationErrorKind::Invalid)
    }

    /// Creates an error for a user whom the identity provider knows and to whom it denies access.
    #[must_use]
    pub fn forbidden(reason: ForbiddenReason) -> Self {
        Self::of(ValidationErrorKind::Forbidden(reason))
    }

    /// Creates an error for a validation without a decision: a timeout, a connection error,
    /// throttling, a 5xx status or an unreadable response.
    ///
    /// The source is logged, so it must not contain a secret.
    #[must_use]
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(Arc::from(source.into())),
            ..Self::of(ValidationErrorKind::Unavailable)
        }
    }

    /// Creates an error for an identity provider that rejects the configuration of this service.
    /// The source should name the setting.
    #[must_use]
    pub fn misconfigured(source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(Arc::from(source.into())),
            ..Self::of(ValidationErrorKind::Misconfigured)
        }
    }

    /// Sets the time after which a retry makes sense. Until then, but for one minute at most, the
    /// provider is not called for this token, and clients get 503 with the remaining time as
    /// `Retry-After`. Other tokens are not affected.
    ///
    /// If the provider limits three different tokens within a second, the layer also limits how many
    /// calls it sends at the same time: half as many after each further limit, one more after each
    /// round of successful calls, and without a limit again after one minute in which the provider
    /// limited no call. Validations that would have to wait for too long get 503. Each branch of
    /// [`or`](crate::SessionValidator::or) and [`or_if`](crate::SessionValidator::or_if) has its own
    /// limit.
    #[must_use]
    pub fn with_retry_after(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.retry_after = after.into();
        self
    }

    /// Marks a failure as one that does not depend on the token: there is no connection, or the
    /// provider does not accept this service's own credentials.
    ///
    /// The layer then regards the provider as unavailable or misconfigured immediately. Any other
    /// failure concerns its token until three different tokens have failed without a decision in
    /// between. The layer validates such a token again after one second, and after twice the time at
    /// each further failure, up to `negative_ttl`.
    #[must_use]
    pub fn for_all_tokens(mut self) -> Self {
        self.scope = Scope::AllTokens;
        self
    }

    /// Marks a failure whose response names the token as the reason. If the provider validates other
    /// tokens, this one is invalid.
    #[cfg(any(feature = "appwrite", feature = "introspection"))]
    pub(crate) fn blaming_token(mut self) -> Self {
        self.scope = Scope::BlamedToken;
        self
    }

    pub(crate) fn is_for_all_tokens(&self) -> bool {
        self.scope == Scope::AllTokens
    }

    pub(crate) fn blames_token(&self) -> bool {
        self.scope == Scope::BlamedToken
    }

    /// Adds the validator's own error to a rejection. It is logged only if the provider rejects all
    /// tokens, so it should name the settings to check. It must not contain a secret.
    #[must_use]
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        self.with_shared_source(Arc::from(source.into()))
    }

    pub(crate) fn with_shared_source(mut self, source: Arc<dyn StdError + Send + Sync>) -> Self {
        self.source = Some(source);
        self
    }

    /// Marks a rejection as caused by a rule of this validator, such as a required scope, and not
    /// by the identity provider.
    ///
    /// The rejection then applies to this validator's layer only. Other layers of the namespace
    /// continue to serve what they have cached.
    #[must_use]
    pub fn by_own_rule(mut self) -> Self {
        self.cause = Cause::OwnRule;
        self
    }

    pub(crate) fn is_own_rule(&self) -> bool {
        self.cause == Cause::OwnRule
    }

    /// Creates an error for a provider that was not called because it limits the rate.
    pub(crate) fn limited(retry_after: Duration) -> Self {
        let limited = "the identity provider limits the rate, and too many validations wait for it";
        Self {
            cause: Cause::NotCalled,
            ..Self::unavailable(limited).with_retry_after(retry_after)
        }
    }

    /// Marks an error as caused by this node, which has not called the provider.
    pub(crate) fn not_called(mut self) -> Self {
        self.cause = Cause::NotCalled;
        self
    }

    pub(crate) fn is_not_called(&self) -> bool {
        self.cause == Cause::NotCalled
    }

    /// Returns the provider's `Retry-After`, unless it belongs to a branch.
    pub(crate) fn provider_retry_after(&self) -> Option<Duration> {
        self.retry_after.filter(|_| self.cause == Cause::Provider)
    }

    /// Marks a provider's error as belonging to a branch, which has its own limit.
    pub(crate) fn in_branch(mut self) -> Self {
        if self.cause == Cause::Provider {
            self.cause = Cause::Branch;
        }
        self
    }

    pub(crate) fn with_branch_failure(mut self, failure: BranchFailure) -> Self {
        self.branch = Some(failure);
        self
    }

    /// Returns what the innermost branch has recorded about this failure.
    pub(crate) fn branch_failure(&self) -> Option<&BranchFailure> {
        self.branch.as_ref()
    }

    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> ValidationErrorKind {
        self.kind
    }

    /// Returns `true` if the identity provider rejected the token, as opposed to having made no
    /// decision.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        match self.kind {
            ValidationErrorKind::Invalid | ValidationErrorKind::Forbidden(_) => true,
            ValidationErrorKind::Unavailable | ValidationErrorKind::Misconfigured => false,
        }
    }

    /// Returns the cause of a rejection that does not change while the token exists, so that it can
    /// be remembered.
    pub(crate) fn lasting_cause(&self) -> Option<LastingCause> {
        match self.kind {
            ValidationErrorKind::Invalid => Some(LastingCause::Invalid),
            ValidationErrorKind::Forbidden(ForbiddenReason::NoUser) => Some(LastingCause::NoUser),
            ValidationErrorKind::Forbidden(_)
            | ValidationErrorKind::Unavailable
            | ValidationErrorKind::Misconfigured => None,
        }
    }

    /// Returns the time after which a retry makes sense, if the identity provider sent one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    fn of(kind: ValidationErrorKind) -> Self {
        Self {
            kind,
            retry_after: None,
            cause: Cause::Provider,
            scope: Scope::Token,
            branch: None,
            source: None,
        }
    }
}

impl From<LastingCause> for ValidationError {
    fn from(cause: LastingCause) -> Self {
        match cause {
            LastingCause::Invalid => Self::invalid(),
            LastingCause::NoUser => Self::forbidden(ForbiddenReason::NoUser),
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
            ValidationErrorKind::Invalid => "the identity provider rejected the session token",
            ValidationErrorKind::Forbidden(_) => "the identity provider denied access to the user",
            ValidationErrorKind::Unavailable => "the session token could not be validated",
            ValidationErrorKind::Misconfigured => {
                "the identity provider rejected the configuration of this service"
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
