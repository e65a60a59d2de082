//! Validator for two identity providers. The second gets the tokens that the first does not know,
//! or those that a closure selects.
//!
//! The branch that accepted a token is stored in the session, in a place that no provider can
//! write.

use std::{fmt, sync::Arc};

use super::{
    adapters::{Branch, Or, Route},
    adaptive_limit::AdaptiveLimit,
    error::{BranchFailure, ValidationError, ValidationErrorKind},
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
            state: Arc::default(),
        }
    }

    async fn validate(
        &self,
        namespace: &Namespace,
        token: SessionToken,
    ) -> Result<ValidatedSession, ValidationError> {
        let result = self.call(namespace, token.clone()).await;
        self.record(&token, result)
    }

    /// Calls the validator without a record of the result.
    async fn call(
        &self,
        namespace: &Namespace,
        token: SessionToken,
    ) -> Result<ValidatedSession, ValidationError> {
        let mut place = self.limit.acquire(&token).await?;
        place.start()?;
        let result = self.validator.validate(token).await;
        place.finish(&result);
        let mut session = result.map_err(ValidationError::in_branch)?;
        let authority = session.authority;
        session.authority = Some(authority.unwrap_or_else(|| self.validator.authority()));
        session.branches = session.branches.inside(namespace, &self.name);
        Ok(session)
    }

    /// Records what a result shows about the provider of this branch.
    fn record(
        &self,
        token: &SessionToken,
        result: Result<ValidatedSession, ValidationError>,
    ) -> Result<ValidatedSession, ValidationError> {
        match result {
            Err(error) if !error.is_rejection() => Err(self.record_failure(token, error)),
            decision => {
                self.state.record_decision(token);
                decision
            }
        }
    }

    fn record_failure(&self, token: &SessionToken, error: ValidationError) -> ValidationError {
        // A branch inside of this one has another provider.
        if error.is_not_called() || error.branch_failure().is_some() {
            return error;
        }
        let scope = self.state.record_failure(token, &error);
        error.with_branch_failure(BranchFailure {
            scope,
            is_down: Arc::clone(self.state.is_down()),
        })
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
        let rejected = match self.first.call(namespace, token.clone()).await {
            Err(error) if error.kind() == ValidationErrorKind::Invalid => {
                self.first.state.record_decision(&token);
                error
            }
            // A provider may send an error for a token of another provider, whose form it does not
            // know.
            Err(error) if error.blames_token() => error,
            result => return self.first.record(&token, result),
        };
        self.second
            .validate(namespace, token.clone())
            .await
            .map_err(|error| {
                if !error.is_rejection() {
                    error
                } else if !rejected.is_rejection() {
                    // The second branch does not know the token, so the failure of the first stands.
                    self.first.record_failure(&token, rejected)
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
