//! Validator for two identity providers. The second gets the tokens that the first does not know,
//! or those that a closure selects.
//!
//! The branch that accepted a token is stored in the session, in a place that no provider can
//! write.

use std::{fmt, sync::Arc};

use super::{
    adapters::{Branch, Or, Route},
    adaptive_limit::AdaptiveLimit,
    error::{ValidationError, ValidationErrorKind},
    session::ValidatedSession,
    traits::SessionValidator,
};
use crate::{
    model::{Authority, Namespace, UserData},
    time::Clock,
    token::SessionToken,
};

impl<A: SessionValidator, B: SessionValidator> Or<A, B> {
    pub(super) fn new(
        first: A,
        name: String,
        second: B,
        routes_to_second: Option<Arc<Route>>,
    ) -> Self {
        // The empty name belongs to the first branch.
        let name = if name.is_empty() {
            "second".to_owned()
        } else {
            name
        };
        let kind = if routes_to_second.is_some() {
            "or_if"
        } else {
            "or"
        };
        let (first_namespace, second_namespace) = (first.namespace(), second.namespace());
        Self {
            namespace: Namespace::derived(
                kind,
                [first_namespace.as_str(), &name, second_namespace.as_str()],
            ),
            first: Branch::new(String::new(), first),
            second: Branch::new(name, second),
            routes_to_second,
        }
    }
}

impl<V: SessionValidator> Branch<V> {
    fn new(name: String, validator: V) -> Self {
        Self {
            name,
            validator,
            limit: Arc::new(AdaptiveLimit::new(Clock::system())),
        }
    }

    async fn validate(
        &self,
        namespace: &Namespace,
        token: SessionToken,
    ) -> Result<ValidatedSession, ValidationError> {
        let place = self.limit.acquire(&token).await?;
        let result = self.validator.validate(token).await;
        place.finish(&result);
        let mut session = result.map_err(ValidationError::in_branch)?;
        let authority = session.authority;
        session.authority = Some(authority.unwrap_or_else(|| self.validator.authority()));
        session.branches = session.branches.inside(namespace, &self.name);
        Ok(session)
    }
}

impl<A: SessionValidator, B: SessionValidator> SessionValidator for Or<A, B> {
    fn namespace(&self) -> Namespace {
        self.namespace.clone()
    }

    /// Returns the authority of the first branch. Each session has the authority of the branch that
    /// accepted it.
    fn authority(&self) -> Authority {
        self.first.validator.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let namespace = &self.namespace;
        if let Some(routes_to_second) = &self.routes_to_second {
            return if routes_to_second(&token) {
                self.second.validate(namespace, token).await
            } else {
                self.first.validate(namespace, token).await
            };
        }
        let rejected = match self.first.validate(namespace, token.clone()).await {
            // A provider may send an error for a token of another provider, whose form it does not
            // know.
            Err(error) if error.kind() == ValidationErrorKind::Invalid || error.blames_token() => {
                error
            }
            result => return result,
        };
        self.second
            .validate(namespace, token)
            .await
            .map_err(|error| {
                if !error.is_rejection() {
                    error
                } else if !rejected.is_rejection() {
                    // The second branch does not know the token, so the failure of the first stands.
                    rejected
                } else if rejected.is_own_rule() {
                    // Without its own rule, the first branch might have accepted the token.
                    error.by_own_rule()
                } else {
                    error
                }
            })
    }

    /// Each branch decides about its own sessions. A session of neither branch is not accepted.
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

    /// The branch of a token is known before its validation only if there is a closure.
    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        if self.routes_to_second.as_ref()?(token) {
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
