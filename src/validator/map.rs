//! Validators that change or reject sessions, and keep the properties of the validator that they
//! wrap.

use std::future::Future;

use super::{
    adapters::{AndThen, Map},
    error::ValidationError,
    session::ValidatedSession,
    traits::SessionValidator,
};
use crate::{
    model::{Authority, Branches, Namespace, UserData},
    token::SessionToken,
};

/// Returns the namespace of a validator whose sessions are changed by a closure with this name.
fn derived_namespace(validator: &impl SessionValidator, kind: &str, name: &str) -> Namespace {
    Namespace::derived(kind, [validator.namespace().as_str(), name])
}

/// The issuer of a session, the branch that accepted it, and whether its token is a key. They must
/// survive if a closure returns a new session.
struct Attribution {
    authority: Option<Authority>,
    branches: Branches,
    is_key: bool,
}

impl Attribution {
    fn of(session: &ValidatedSession) -> Self {
        Self {
            authority: session.authority.clone(),
            branches: session.branches.clone(),
            is_key: session.is_key,
        }
    }

    fn restore(self, mut session: ValidatedSession) -> ValidatedSession {
        session.authority = session.authority.or(self.authority);
        session.branches = self.branches;
        session.is_key |= self.is_key;
        session
    }
}

impl<V: SessionValidator, F> Map<V, F> {
    pub(super) fn new(validator: V, name: &str, change: F) -> Self {
        Self {
            namespace: derived_namespace(&validator, "map", name),
            validator,
            change,
        }
    }
}

impl<V, F> SessionValidator for Map<V, F>
where
    V: SessionValidator,
    F: Fn(ValidatedSession) -> ValidatedSession + Send + Sync + 'static,
{
    fn namespace(&self) -> Namespace {
        self.namespace.clone()
    }

    fn authority(&self) -> Authority {
        self.validator.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let session = self.validator.validate(token).await?;
        let attribution = Attribution::of(&session);
        Ok(attribution.restore((self.change)(session)))
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.validator.accepts(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.validator.canonical(token)
    }
}

impl<V: SessionValidator, F> AndThen<V, F> {
    pub(super) fn new(validator: V, name: &str, next: F) -> Self {
        Self {
            namespace: derived_namespace(&validator, "and_then", name),
            validator,
            next,
        }
    }
}

impl<V, F, Fut> SessionValidator for AndThen<V, F>
where
    V: SessionValidator,
    F: Fn(ValidatedSession) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ValidatedSession, ValidationError>> + Send,
{
    fn namespace(&self) -> Namespace {
        self.namespace.clone()
    }

    fn authority(&self) -> Authority {
        self.validator.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let session = self.validator.validate(token).await?;
        let attribution = Attribution::of(&session);
        (self.next)(session)
            .await
            .map(|session| attribution.restore(session))
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.validator.accepts(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.validator.canonical(token)
    }
}
