//! Validator whose users can be decoded as a type of the application, also those that were cached.

use serde::de::DeserializeOwned;

use super::{
    adapters::Decodes, error::ValidationError, session::ValidatedSession, traits::SessionValidator,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

impl<V> Decodes<V> {
    pub(super) fn new<T>(validator: V) -> Self
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        Self {
            validator,
            check: |user| user.decode::<T>().map(drop),
        }
    }
}

impl<V: SessionValidator> SessionValidator for Decodes<V> {
    fn namespace(&self) -> Namespace {
        self.validator.namespace()
    }

    fn authority(&self) -> Authority {
        self.validator.authority()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let session = self.validator.validate(token).await?;
        (self.check)(&session.user).map_err(ValidationError::unavailable)?;
        Ok(session)
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.validator.accepts(user) && (self.check)(user).is_ok()
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.validator.canonical(token)
    }
}
