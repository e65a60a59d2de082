//! Validator with an additional rule, which also applies to cached sessions.

use super::{
    adapters::Filter,
    error::{ForbiddenReason, ValidationError},
    session::ValidatedSession,
    traits::SessionValidator,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

impl<V, F> Filter<V, F> {
    pub(super) fn new(validator: V, accepts: F) -> Self {
        Self { validator, accepts }
    }
}

impl<V, F> SessionValidator for Filter<V, F>
where
    V: SessionValidator,
    F: Fn(&UserData) -> bool + Send + Sync + 'static,
{
    fn namespace(&self) -> Namespace {
        self.validator.namespace()
    }

    fn authority(&self) -> Authority {
        self.validator.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let session = self.validator.validate(token).await?;
        // The closure must see the same user as on a cache hit.
        let user = session.cached_user(self.namespace(), self.authority());
        if (self.accepts)(&user) {
            Ok(session)
        } else {
            Err(ValidationError::forbidden(ForbiddenReason::Other).by_own_rule())
        }
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.validator.accepts(user) && (self.accepts)(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.validator.canonical(token)
    }
}
