//! Two identity providers, of which the second is asked about tokens that the first does not know,
//! or about those that a closure picks.
//!
//! Which of them accepted a token is a fact of the session, kept where no provider can write it.

use std::{fmt, sync::Arc};

use super::{
    adapters::{Branch, Or, Route},
    error::{ValidationError, ValidationErrorKind},
    pause::Pause,
    session::ValidatedSession,
    traits::SessionValidator,
};
use crate::{
    model::{Authority, Namespace, UserData},
    time::Clock,
    token::SessionToken,
};

impl<A: SessionValidator, B: SessionValidator> Or<A, B> {
    pub(super) fn new(first: A, name: String, second: B, is_seconds: Option<Arc<Route>>) -> Self {
        // The empty name is the first one's.
        let name = if name.is_empty() {
            "second".to_owned()
        } else {
            name
        };
        let kind = if is_seconds.is_some() { "or_if" } else { "or" };
        let (one, two) = (first.namespace(), second.namespace());
        Self {
            namespace: Namespace::derived(kind, [one.as_str(), &name, two.as_str()]),
            first: Branch::new(String::new(), first),
            second: Branch::new(name, second),
            is_seconds,
        }
    }
}

impl<V: SessionValidator> Branch<V> {
    fn new(name: String, validator: V) -> Self {
        Self {
            name,
            validator,
            pause: Arc::new(Pause::new(Clock::system())),
        }
    }

    async fn validate(
        &self,
        or: &Namespace,
        token: SessionToken,
    ) -> Result<ValidatedSession, ValidationError> {
        self.pause.check()?;
        let mut session = self.validator.validate(token).await.map_err(|error| {
            if !error.is_refused() {
                self.pause.observe(&error);
            }
            error.of_branch()
        })?;
        let authority = session.authority;
        session.authority = Some(authority.unwrap_or_else(|| self.validator.authority()));
        session.branches = session.branches.inside(or, &self.name);
        Ok(session)
    }
}

impl<A: SessionValidator, B: SessionValidator> SessionValidator for Or<A, B> {
    fn namespace(&self) -> Namespace {
        self.namespace.clone()
    }

    /// The first one's. Each session has the authority of the branch that accepted it.
    fn authority(&self) -> Authority {
        self.first.validator.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let or = &self.namespace;
        if let Some(is_seconds) = &self.is_seconds {
            return if is_seconds(&token) {
                self.second.validate(or, token).await
            } else {
                self.first.validate(or, token).await
            };
        }
        let refused = match self.first.validate(or, token.clone()).await {
            Err(error) if error.kind() == ValidationErrorKind::Invalid => error,
            answer => return answer,
        };
        self.second.validate(or, token).await.map_err(|error| {
            // Without that rule the first might have let it in.
            if refused.is_own_rule() && error.is_refused() {
                error.by_own_rule()
            } else {
                error
            }
        })
    }

    /// Each branch is asked about its own sessions. One of neither is not accepted.
    fn accepts(&self, user: &UserData) -> bool {
        let branch = user
            .source()
            .and_then(|source| source.branches.of(&self.namespace));
        match branch {
            Some(name) if name == self.first.name => self.first.validator.accepts(user),
            Some(name) if name == self.second.name => self.second.validator.accepts(user),
            Some(_) | None => false,
        }
    }

    /// Only where it is known whose token it is.
    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        if self.is_seconds.as_ref()?(token) {
            self.second.validator.canonical(token)
        } else {
            self.first.validator.canonical(token)
        }
    }
}

impl<A: fmt::Debug, B: fmt::Debug> fmt::Debug for Or<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Or")
            .field("first", &self.first.validator)
            .field("name", &self.second.name)
            .field("second", &self.second.validator)
            .finish_non_exhaustive()
    }
}
