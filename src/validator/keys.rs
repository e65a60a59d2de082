//! Validator whose tokens are keys of machines, which no logout ends.

use super::{
    adapters::Keys, error::ValidationError, session::ValidatedSession, traits::SessionValidator,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

impl<V: SessionValidator> SessionValidator for Keys<V> {
    fn namespace(&self) -> Namespace {
        self.validator.namespace()
    }

    fn authority(&self) -> Authority {
        self.validator.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        Ok(self.validator.validate(token).await?.as_key())
    }

    fn accepts(&self, user: &UserData) -> bool {
        user.times().is_key && self.validator.accepts(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.validator.canonical(token)
    }
}
