//! Two identity providers, of which the second is asked about tokens that the first does not know.

use super::{SessionValidator, ValidatedSession, ValidationError, ValidationErrorKind};
use crate::{token::SessionToken, user::UserData};

/// The attribute that tells whose a user is.
pub(crate) const VALIDATOR: &str = "validator";

/// A validator that asks a second one; made by [`SessionValidator::or`].
#[derive(Clone, Debug)]
pub struct Or<A, B> {
    pub(super) first: A,
    pub(super) name: String,
    pub(super) second: B,
}

impl<A: SessionValidator, B: SessionValidator> SessionValidator for Or<A, B> {
    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        match self.first.validate(token.clone()).await {
            Err(error) if error.kind() == ValidationErrorKind::Invalid => {}
            answer => return answer,
        }
        let mut session = self.second.validate(token).await?;
        let user = session.user.to_builder();
        session.user = user.attribute(VALIDATOR, self.name.as_str()).build();
        Ok(session)
    }

    fn accepts(&self, user: &UserData) -> bool {
        let validator = user.attributes().get(VALIDATOR);
        if validator.and_then(|name| name.as_str()) == Some(self.name.as_str()) {
            self.second.accepts(user)
        } else {
            self.first.accepts(user)
        }
    }
}
