//! Validator whose type is chosen at run time.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use super::{error::ValidationError, session::ValidatedSession, traits::SessionValidator};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

/// A type-erased validator, for a choice at run time.
///
/// ```
/// use tower_session_cache::{ErasedValidator, UserData, ValidatedSession, ValidationError, validator_fn};
///
/// let closed = std::env::args().any(|arg| arg == "--closed");
/// let validator = if closed {
///     ErasedValidator::new(validator_fn("closed", |_| async {
///         Err::<UserData, _>(ValidationError::invalid())
///     }))
/// } else {
///     ErasedValidator::new(validator_fn("anyone", |_| async {
///         Ok(ValidatedSession::new(UserData::new("ada")))
///     }))
/// };
/// # let _ = validator;
/// ```
#[derive(Clone)]
pub struct ErasedValidator(Arc<dyn DynValidator>);

impl ErasedValidator {
    /// Erases the type of a validator.
    pub fn new(validator: impl SessionValidator) -> Self {
        Self(Arc::new(validator))
    }
}

impl fmt::Debug for ErasedValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasedValidator")
    }
}

impl SessionValidator for ErasedValidator {
    fn namespace(&self) -> Namespace {
        self.0.namespace_dyn()
    }

    fn authority(&self) -> Authority {
        self.0.authority_dyn()
    }

    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        self.0.validate_boxed(token)
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.0.accepts_dyn(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.0.canonical_dyn(token)
    }
}

type BoxValidation<'a> =
    Pin<Box<dyn Future<Output = Result<ValidatedSession, ValidationError>> + Send + 'a>>;

trait DynValidator: Send + Sync {
    fn namespace_dyn(&self) -> Namespace;
    fn authority_dyn(&self) -> Authority;
    fn validate_boxed(&self, token: SessionToken) -> BoxValidation<'_>;
    fn accepts_dyn(&self, user: &UserData) -> bool;
    fn canonical_dyn(&self, token: &SessionToken) -> Option<SessionToken>;
}

impl<V: SessionValidator> DynValidator for V {
    fn namespace_dyn(&self) -> Namespace {
        self.namespace()
    }

    fn authority_dyn(&self) -> Authority {
        self.authority()
    }

    fn validate_boxed(&self, token: SessionToken) -> BoxValidation<'_> {
        Box::pin(self.validate(token))
    }

    fn accepts_dyn(&self, user: &UserData) -> bool {
        self.accepts(user)
    }

    fn canonical_dyn(&self, token: &SessionToken) -> Option<SessionToken> {
        self.canonical(token)
    }
}
