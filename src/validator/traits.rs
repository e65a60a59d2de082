//! The trait of everything that validates session tokens.

use std::{future::Future, sync::Arc};

use tower_layer::Layer;
use tower_service::Service;

use super::{
    adapters::{AndThen, Filter, LayeredValidator, Map, Or, ValidatorCall},
    error::{BoxError, ValidationError},
    session::ValidatedSession,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

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
/// validators come as [`Arc<V>`], closures through [`validator_fn`](crate::validator_fn), and a choice made at run time
/// through [`ErasedValidator`](crate::ErasedValidator).
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
    /// [invalid](crate::ValidationErrorKind::Invalid).
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
