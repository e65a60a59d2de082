//! The question a cache cannot answer: is this token good, and whose is it?
//!
//! A [`SessionValidator`] asks the identity provider. What it may answer is deliberately narrow:
//! a [`ValidatedSession`], or a [`ValidationError`] that keeps *refused* (the provider said no)
//! apart from *unavailable* (nobody could tell). A provider that cannot be reached must neither
//! log anyone out nor let anyone in, and only the validator knows which of the two it met.

use std::{error::Error as StdError, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use tower_layer::Layer;
use tower_service::Service;

use crate::{
    namespace::{Authority, Branches, Namespace, Source},
    token::SessionToken,
    user::UserData,
};

mod combine;
mod layered;
mod or;
mod pause;

pub use self::{
    combine::{AndThen, Filter, Map},
    layered::{LayeredValidator, ValidatorCall},
    or::Or,
};

pub(crate) use self::pause::Pause;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Asks the identity provider what a session token stands for.
///
/// A validator has to say four things. None has a default, since a wrong default lets users in:
///
/// 1. its [namespace](Self::namespace): whose cached sessions are as good as its own;
/// 2. its [authority](Self::authority): who issues the sessions;
/// 3. [`validate`](Self::validate): what a token stands for;
/// 4. [`accepts`](Self::accepts): whether it would let a cached session in itself.
///
/// One that wraps another hands all four on. [`or`](Self::or), [`map`](Self::map),
/// [`and_then`](Self::and_then), [`filter`](Self::filter) and [`layer`](Self::layer) do. Shared
/// validators come as [`Arc<V>`], closures through [`validator_fn`], and a choice made at run time
/// through [`ErasedValidator`].
///
/// A validation runs in a task of its own and is shared by all requests of a layer that wait for
/// the same token, so the future must be `Send`; it is dropped when the cache's validation
/// deadline passes, and must be safe to drop at any `.await`.
///
/// ```
/// use tower_session_cache::{
///     Authority, Namespace, SessionToken, SessionValidator, UserData, ValidatedSession,
///     ValidationError,
/// };
///
/// struct OneUser;
///
/// impl SessionValidator for OneUser {
///     fn namespace(&self) -> Namespace {
///         Namespace::named("one-user")
///     }
///
///     fn authority(&self) -> Authority {
///         "https://login.example.com".into()
///     }
///
///     async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
///         // Real tokens go to the identity provider; comparing secrets like this leaks timing.
///         if token.expose_secret() == "let-me-in" {
///             Ok(ValidatedSession::new(UserData::new("ada")))
///         } else {
///             Err(ValidationError::invalid())
///         }
///     }
///
///     fn accepts(&self, _: &UserData) -> bool {
///         true // It has no rules beyond what the provider says.
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a session validator",
    label = "this cannot validate session tokens",
    note = "implement `SessionValidator` for it, or wrap an async closure: `validator_fn(\"name\", |token| async move {{ … }})`",
    note = "tower's layers go around a validator by `SessionValidator::layer`; one that is chosen at run time is wrapped by `ErasedValidator::new`"
)]
pub trait SessionValidator: Send + Sync + 'static {
    /// Whose cached sessions are as good as this validator's own. Called once, when a layer is
    /// made.
    ///
    /// Derive it from the settings that decide which tokens the provider accepts from this
    /// validator ([`Namespace::new`]): its kind, endpoint, and client or project.
    fn namespace(&self) -> Namespace;

    /// Who issues the sessions, unless a session [says so itself](ValidatedSession::with_authority).
    fn authority(&self) -> Authority;

    /// Resolves a token.
    ///
    /// A refusal by a rule of this validator's own, which another validator of the same namespace
    /// need not have, is marked by [`ValidationError::by_own_rule`]. Any other refusal is taken
    /// for the identity provider's: it ends what is cached in the namespace.
    ///
    /// # Errors
    ///
    /// [`ValidationError::invalid`] or [`ValidationError::forbidden`] when the identity provider
    /// refused, [`ValidationError::unavailable`] when it could not be asked or made no sense.
    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send;

    /// Whether this validator would let a session in that a validator of its namespace has
    /// accepted. Called for every request with a session, wherever the session came from, so it
    /// must not wait.
    ///
    /// For a cached session `false` means that the token is validated again.
    ///
    /// # Security
    ///
    /// Compare here everything that [`validate`](Self::validate) demands beyond the provider's yes
    /// (audience, scopes, roles). What is not compared is not demanded of cached sessions.
    fn accepts(&self, user: &UserData) -> bool;

    /// The canonical spelling of a token that the provider takes for the same in several spellings;
    /// `None` if the token is canonical as it is. Called for every request, before the lookup.
    ///
    /// Defaults to `None`: each spelling is a token of its own. With a canonical one a session has
    /// one record, however a client spells its token, and revoking the token revokes all of them.
    /// [`SessionInfo::token`](crate::SessionInfo::token) is the canonical one. An
    /// [`or`](Self::or) takes tokens as they are, an [`or_if`](Self::or_if) asks the branch that it
    /// picks.
    ///
    /// # Security
    ///
    /// The canonical token must be one that the provider accepts if and only if it accepts the token:
    /// leave alone whatever the provider checks, such as a signature.
    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        let _ = token;
        None
    }

    /// Asks another validator about tokens that this one refuses as
    /// [invalid](ValidationErrorKind::Invalid).
    ///
    /// Not when this one is unavailable: a provider that is down must not hand its users over to
    /// another. And not when it knows the user and does not let them in. The name tells whose a
    /// session is ([`SessionInfo::branches`](crate::SessionInfo::branches)), so that each is asked
    /// whether it [`accepts`](Self::accepts) its own; this validator has the empty name.
    ///
    /// There is one lookup for both, under a namespace made of both of theirs and the name. It is
    /// none of theirs: a service with only one of the two neither sees nor writes its records.
    ///
    /// # Security
    ///
    /// Every token is shown to the first validator's provider, also those of the second. Where a
    /// token's shape tells whose it is, use [`or_if`](Self::or_if).
    fn or<V: SessionValidator>(self, name: impl Into<String>, other: V) -> Or<Self, V>
    where
        Self: Sized,
    {
        Or::new(self, name.into(), other, None)
    }

    /// Asks another validator, and only it, about the tokens that the closure picks; this one about
    /// all others.
    ///
    /// ```
    /// use tower_session_cache::{SessionValidator, UserData, ValidatedSession, validator_fn};
    ///
    /// let people = validator_fn("people", |_| async { Ok(UserData::new("ada").into()) });
    /// let machines = validator_fn("machines", |_| async { Ok(UserData::new("robot").into()) });
    /// let both = people.or_if("machines", machines, |token| {
    ///     token.expose_secret().starts_with("key_")
    /// });
    /// # let _ = both;
    /// ```
    ///
    /// The closure is not a part of the namespace. Two services on one Redis that choose
    /// differently by it need [namespaces of their own](crate::SessionCacheLayer::with_namespace).
    fn or_if<V: SessionValidator>(
        self,
        name: impl Into<String>,
        other: V,
        is_others: impl Fn(&SessionToken) -> bool + Send + Sync + 'static,
    ) -> Or<Self, V>
    where
        Self: Sized,
    {
        Or::new(self, name.into(), other, Some(Arc::new(is_others)))
    }

    /// Changes each session before it is cached, as to choose a tier. Keeps authority and
    /// [`accepts`](Self::accepts), which is asked about the changed user.
    ///
    /// The name tells the records of this closure from those of others: it becomes a part of the
    /// namespace.
    fn map<F>(self, name: impl AsRef<str>, change: F) -> Map<Self, F>
    where
        Self: Sized,
        F: Fn(ValidatedSession) -> ValidatedSession + Send + Sync + 'static,
    {
        Map::new(self, name.as_ref(), change)
    }

    /// Changes or refuses each session before it is cached, as to load roles from a database.
    /// Keeps authority and [`accepts`](Self::accepts), which is asked about the changed user.
    ///
    /// The name tells the records of this closure from those of others: it becomes a part of the
    /// namespace. The closure runs once per validation. What has to hold on every request belongs
    /// into a [`filter`](Self::filter).
    fn and_then<F, Fut>(self, name: impl AsRef<str>, next: F) -> AndThen<Self, F>
    where
        Self: Sized,
        F: Fn(ValidatedSession) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ValidatedSession, ValidationError>> + Send,
    {
        AndThen::new(self, name.as_ref(), next)
    }

    /// Lets only users in for whom the closure is true; others get 403. It is asked on every
    /// request, also about cached sessions. Keeps namespace and authority.
    ///
    /// The user is as a validator of the namespace has made it: see [`Namespace`] about tiers.
    fn filter<F>(self, accepts: F) -> Filter<Self, F>
    where
        Self: Sized,
        F: Fn(&UserData) -> bool + Send + Sync + 'static,
    {
        Filter::new(self, accepts)
    }

    /// Puts a tower layer around the calls of this validator: a timeout, retries, a limit. Keeps
    /// namespace, authority and [`accepts`](Self::accepts).
    ///
    /// An error of the layer that is no [`ValidationError`], such as that of tower's
    /// `TimeoutLayer`, means [unavailable](ValidationError::unavailable).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower::ServiceBuilder;
    /// use tower_session_cache::{SessionValidator, UserData, validator_fn};
    ///
    /// let validator = validator_fn("people", |_| async { Ok(UserData::new("ada").into()) });
    /// let limits = ServiceBuilder::new()
    ///     .concurrency_limit(64)
    ///     .timeout(Duration::from_secs(1));
    /// let validator = validator.layer(limits);
    /// # let _ = validator;
    /// ```
    fn layer<L>(self, layer: L) -> LayeredValidator<Self, L::Service>
    where
        Self: Sized,
        L: Layer<ValidatorCall<Self>>,
        L::Service: Service<SessionToken, Response = ValidatedSession, Error: Into<BoxError>>
            + Clone
            + Send,
    {
        LayeredValidator::new(self, layer)
    }
}

impl<V: SessionValidator + ?Sized> SessionValidator for Arc<V> {
    fn namespace(&self) -> Namespace {
        (**self).namespace()
    }

    fn authority(&self) -> Authority {
        (**self).authority()
    }

    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        (**self).validate(token)
    }

    fn accepts(&self, user: &UserData) -> bool {
        (**self).accepts(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        (**self).canonical(token)
    }
}

/// Makes a validator of an async closure; mostly for tests and small services.
///
/// The name is its [namespace](Namespace::named) and its authority: closures of one name share
/// cached sessions. It has no rules but the closure, so it
/// [accepts](SessionValidator::accepts) what was cached under its name; add rules by
/// [`filter`](SessionValidator::filter).
///
/// ```
/// use tower_session_cache::{UserData, ValidatedSession, validator_fn};
///
/// let anyone = validator_fn("anyone", |_token| async {
///     Ok(ValidatedSession::new(UserData::new("ada")))
/// });
/// # let _ = anyone;
/// ```
pub fn validator_fn<F, Fut>(name: impl AsRef<str>, f: F) -> ValidatorFn<F>
where
    F: Fn(SessionToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ValidatedSession, ValidationError>> + Send,
{
    ValidatorFn {
        name: name.as_ref().into(),
        f,
    }
}

/// A [`SessionValidator`] made of a closure by [`validator_fn`].
#[derive(Clone)]
pub struct ValidatorFn<F> {
    name: Arc<str>,
    f: F,
}

impl<F> fmt::Debug for ValidatorFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValidatorFn").field(&self.name).finish()
    }
}

impl<F, Fut> SessionValidator for ValidatorFn<F>
where
    F: Fn(SessionToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ValidatedSession, ValidationError>> + Send,
{
    fn namespace(&self) -> Namespace {
        Namespace::named(&*self.name)
    }

    fn authority(&self) -> Authority {
        Authority::new(&*self.name)
    }

    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        (self.f)(token)
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

/// Any validator behind one type, for a choice that is made at run time.
///
/// ```
/// use tower_session_cache::{ErasedValidator, UserData, ValidatedSession, ValidationError, validator_fn};
///
/// let closed = std::env::args().any(|arg| arg == "--closed");
/// let validator = if closed {
///     ErasedValidator::new(validator_fn("closed", |_| async { Err(ValidationError::invalid()) }))
/// } else {
///     ErasedValidator::new(validator_fn("anyone", |_| async {
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
    fn namespace(&self) -> Namespace {
        self.0.namespace_dyn()
    }

    fn authority(&self) -> Authority {
        self.0.authority_dyn()
    }

    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        self.0.validate_boxed(token)
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.0.accepts_dyn(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.0.canonical_dyn(token)
    }
}

type BoxValidation<'a> =
    Pin<Box<dyn Future<Output = Result<ValidatedSession, ValidationError>> + Send + 'a>>;

trait DynValidator: Send + Sync {
    fn namespace_dyn(&self) -> Namespace;
    fn authority_dyn(&self) -> Authority;
    fn validate_boxed(&self, token: SessionToken) -> BoxValidation<'_>;
    fn accepts_dyn(&self, user: &UserData) -> bool;
    fn canonical_dyn(&self, token: &SessionToken) -> Option<SessionToken>;
}

impl<V: SessionValidator> DynValidator for V {
    fn namespace_dyn(&self) -> Namespace {
        self.namespace()
    }

    fn authority_dyn(&self) -> Authority {
        self.authority()
    }

    fn validate_boxed(&self, token: SessionToken) -> BoxValidation<'_> {
        Box::pin(self.validate(token))
    }

    fn accepts_dyn(&self, user: &UserData) -> bool {
        self.accepts(user)
    }

    fn canonical_dyn(&self, token: &SessionToken) -> Option<SessionToken> {
        self.canonical(token)
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
    /// The provider's id of the session, if it tells. Not a secret: it is cached and shown.
    pub session_id: Option<String>,
    /// Who issued the session, where it is not the validator's
    /// [authority](SessionValidator::authority).
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
    /// [authority](SessionValidator::authority).
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

    /// The user as a cached session of this validator has it.
    fn user_of(&self, namespace: Namespace, authority: Authority) -> UserData {
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

/// Who has said no, or has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The identity provider.
    Provider,
    /// A provider that is only a branch of the validator, and whose pause the branch keeps.
    Branch,
    /// A rule of the validator's own.
    OwnRule,
    /// This node, which did not ask: the provider had asked for a pause, or too many others waited.
    NotAsked,
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

    /// Says when asking again makes sense. Until then, but for a minute at most, the provider is
    /// not asked about any token, and clients get 503 with what is left as `Retry-After`. A pause of
    /// the second branch of an [`or`](SessionValidator::or) leaves the first one's sessions alone.
    /// One of the first stops both, since every token is shown to it first; with
    /// [`or_if`](SessionValidator::or_if) neither stops the other.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
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

    /// The provider was not asked, since it had asked for a pause.
    pub(crate) fn paused(left: Duration) -> Self {
        let paused = "the identity provider asked to be left alone for a while";
        Self {
            cause: Cause::NotAsked,
            ..Self::unavailable(paused).with_retry_after(left)
        }
    }

    /// Says that this node has not asked the provider.
    pub(crate) fn not_asked(mut self) -> Self {
        self.cause = Cause::NotAsked;
        self
    }

    pub(crate) fn is_not_asked(&self) -> bool {
        self.cause == Cause::NotAsked
    }

    /// The pause that the provider of the whole validator asks for.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.retry_after.filter(|_| self.cause == Cause::Provider)
    }

    /// The same error, of a branch that keeps its own pause.
    pub(crate) fn of_branch(mut self) -> Self {
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
