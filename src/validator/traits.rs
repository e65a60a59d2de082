//! Trait for validators of session tokens.

use std::{future::Future, sync::Arc};

use serde::de::DeserializeOwned;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    adapters::{AndThen, Decodes, Filter, Keys, LayeredValidator, Map, Or, ValidatorCall},
    error::{BoxError, ValidationError},
    session::ValidatedSession,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

/// Validates session tokens with an identity provider.
///
/// A validator has to define four things. None has a default, because a wrong default could grant
/// access:
///
/// 1. its [namespace](Self::namespace), which states which validators share its cached sessions;
/// 2. its [authority](Self::authority), which issues the sessions;
/// 3. [`validate`](Self::validate), which returns the session of a token;
/// 4. [`accepts`](Self::accepts), which decides whether it would accept a cached session itself.
///
/// A validator that wraps another one forwards all four, as [`or`](Self::or), [`map`](Self::map),
/// [`and_then`](Self::and_then), [`filter`](Self::filter) and [`layer`](Self::layer) do. [`Arc<V>`]
/// shares a validator, [`validator_fn`](crate::validator_fn) creates one from a closure, and
/// [`ErasedValidator`](crate::ErasedValidator) allows a choice at run time.
///
/// A validation runs in its own task and is shared by all requests of a layer that wait for the
/// same token, so the future must be `Send`. The future is dropped when the cache's
/// `validation_timeout` elapses, so it must be safe to drop at any `.await`.
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
    note = "apply a tower layer with `SessionValidator::layer`; wrap a validator that is chosen at run time in `ErasedValidator::new`"
)]
pub trait SessionValidator: Send + Sync + 'static {
    /// Returns the namespace, which states which validators share cached sessions with this one.
    /// Called once, when a layer is created.
    ///
    /// Derive it from the settings that decide which tokens the provider accepts from this
    /// validator ([`Namespace::new`]): its kind, its endpoint, and its client or project.
    fn namespace(&self) -> Namespace;

    /// Returns the issuer of the sessions. [`ValidatedSession::with_authority`] sets a different
    /// one for a session.
    fn authority(&self) -> Authority;

    /// Validates a token.
    ///
    /// Use [`ValidationError::by_own_rule`] to mark a rejection by a rule of this validator, which
    /// another validator of the same namespace may not have. Any other rejection counts as the
    /// identity provider's: it ends the token's cached session in the namespace.
    ///
    /// # Errors
    ///
    /// Returns [`ValidationError::invalid`] or [`ValidationError::forbidden`] if the identity
    /// provider rejected the token, and [`ValidationError::unavailable`] if the provider could not
    /// be called or its response was not usable.
    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send;

    /// Returns `true` if this validator would accept a session that a validator of its namespace
    /// has accepted. Called for every request with a session, wherever the session came from, so it
    /// must not block.
    ///
    /// If it returns `false` for a cached session, the token is validated again.
    ///
    /// # Security
    ///
    /// Compare here everything that [`validate`](Self::validate) requires in addition to the
    /// provider's approval (audience, scopes, roles). Any requirement that is not compared here
    /// does not apply to cached sessions.
    fn accepts(&self, user: &UserData) -> bool;

    /// Returns the canonical spelling of a token that the provider accepts in several spellings, or
    /// `None` if the token is canonical already. Called for every request, before the lookup.
    ///
    /// Defaults to `None`, so that each spelling is a separate token. With a canonical spelling, a
    /// session has one record, however a client spells its token, and revoking the token revokes
    /// all spellings. [`SessionInfo::token`](crate::SessionInfo::token) then returns the canonical
    /// token. [`or`](Self::or) does not change tokens. [`or_if`](Self::or_if) uses the canonical
    /// spelling of the branch that it selects.
    ///
    /// # Security
    ///
    /// The provider must accept the canonical token if and only if it accepts the token. Do not
    /// change any part that the provider checks, such as a signature.
    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        let _ = token;
        None
    }

    /// Falls back to another validator for tokens that this one rejects as
    /// [invalid](crate::ValidationErrorKind::Invalid).
    ///
    /// There is no fallback if this validator is unavailable, because a provider that is down must
    /// not hand its users over to another provider. There is also none if this validator knows the
    /// user and forbids access. `name` is the name of `other`. It identifies the branch that a
    /// session belongs to ([`SessionInfo::branches`](crate::SessionInfo::branches)), so that each
    /// branch decides with [`accepts`](Self::accepts) about its own sessions. This validator has the
    /// empty name.
    ///
    /// Both validators share one lookup, under a namespace derived from both of their namespaces
    /// and the name. It differs from either namespace: a service with only one of the two
    /// validators neither reads nor writes its records.
    ///
    /// # Security
    ///
    /// Every token is sent to the first validator's provider, including the tokens of the second.
    /// If the shape of a token shows its provider, use [`or_if`](Self::or_if).
    fn or<V: SessionValidator>(self, name: impl Into<String>, other: V) -> Or<Self, V>
    where
        Self: Sized,
    {
        Or::new(self, name.into(), other, None)
    }

    /// Sends the tokens that the closure selects to another validator only, and all others to this
    /// validator only. `name` is the name of `other`, as in [`or`](Self::or).
    ///
    /// ```
    /// use tower_session_cache::{SessionValidator, UserData, ValidatedSession, validator_fn};
    ///
    /// let people = validator_fn("people", |_| async { Ok(UserData::new("ada")) });
    /// let machines = validator_fn("machines", |_| async { Ok(UserData::new("robot")) });
    /// let both = people.or_if("machines", machines, |token| {
    ///     token.expose_secret().starts_with("key_")
    /// });
    /// # let _ = both;
    /// ```
    ///
    /// The closure is not part of the namespace. Two services on one Redis whose closures decide
    /// differently need [separate namespaces](crate::SessionCacheLayer::with_namespace).
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

    /// Changes each session before it is cached, for example to choose a tier. Keeps the authority
    /// and [`accepts`](Self::accepts), which receives the changed user.
    ///
    /// The name becomes part of the namespace, so that the records of this closure are kept apart
    /// from those of other closures.
    fn map<F>(self, name: impl AsRef<str>, change: F) -> Map<Self, F>
    where
        Self: Sized,
        F: Fn(ValidatedSession) -> ValidatedSession + Send + Sync + 'static,
    {
        Map::new(self, name.as_ref(), change)
    }

    /// Changes or rejects each session before it is cached, for example to load roles from a
    /// database. Keeps the authority and [`accepts`](Self::accepts), which receives the changed
    /// user.
    ///
    /// The name becomes part of the namespace, so that the records of this closure are kept apart
    /// from those of other closures. The closure runs once per validation. Put a condition that
    /// must hold for every request into a [`filter`](Self::filter).
    fn and_then<F, Fut>(self, name: impl AsRef<str>, next: F) -> AndThen<Self, F>
    where
        Self: Sized,
        F: Fn(ValidatedSession) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ValidatedSession, ValidationError>> + Send,
    {
        AndThen::new(self, name.as_ref(), next)
    }

    /// Accepts only users for whom the closure returns `true`. Other users get 403. The closure is
    /// called for every request, including those with cached sessions. Keeps the namespace and the
    /// authority.
    ///
    /// The closure receives the user as a validator of the namespace has stored it: see
    /// [`Namespace`] about tiers.
    fn filter<F>(self, accepts: F) -> Filter<Self, F>
    where
        Self: Sized,
        F: Fn(&UserData) -> bool + Send + Sync + 'static,
    {
        Filter::new(self, accepts)
    }

    /// Accepts only users that can be [decoded](UserData::decode) as `T`. A cached user that cannot
    /// be, such as one from before a field was added, is validated again. If the new user cannot be
    /// decoded either, the validation fails with 503 and a log line. Keeps the namespace and the
    /// authority.
    ///
    /// The user is decoded once for each entry of the cache, before its first request. Call it last,
    /// after [`map`](Self::map) and [`and_then`](Self::and_then) have set the attributes.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tower_session_cache::{SessionValidator, UserData, validator_fn};
    ///
    /// #[derive(Deserialize, Serialize)]
    /// struct Profile {
    ///     tenant: String,
    ///     roles: Vec<String>,
    /// }
    ///
    /// let people = validator_fn("people", |_| async { Ok(UserData::new("ada")) });
    /// let people = people
    ///     .map("profile", |mut session| {
    ///         let user = session.user.to_builder().attribute("tenant", "acme");
    ///         session.user = user.attribute("roles", vec!["admin"]).build();
    ///         session
    ///     })
    ///     .decodes::<Profile>();
    /// # let _ = people;
    /// ```
    fn decodes<T>(self) -> Decodes<Self>
    where
        Self: Sized,
        T: DeserializeOwned + Send + Sync + 'static,
    {
        Decodes::new::<T>(self)
    }

    /// Declares that the tokens of this validator are keys and not sessions, such as API keys of
    /// machines. [`log_out`](crate::SessionCache::log_out) and its variants then return an error
    /// ([`RevokeErrorKind::NotASession`](crate::RevokeErrorKind::NotASession)) and revoke nothing. So
    /// a request with a key to the logout route of people does not revoke the key.
    ///
    /// A session that was cached before this was declared is validated again. Keeps the namespace
    /// and the authority.
    fn keys(self) -> Keys<Self>
    where
        Self: Sized,
    {
        Keys { validator: self }
    }

    /// Applies a tower layer to the calls of this validator, such as a timeout, retries or a limit.
    /// Keeps the namespace, the authority and [`accepts`](Self::accepts).
    ///
    /// If the layer returns an error that is not a [`ValidationError`], such as that of tower's
    /// `TimeoutLayer`, the result is [unavailable](ValidationError::unavailable).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower::ServiceBuilder;
    /// use tower_session_cache::{SessionValidator, UserData, validator_fn};
    ///
    /// let validator = validator_fn("people", |_| async { Ok(UserData::new("ada")) });
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
