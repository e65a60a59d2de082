//! Session cache.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod time;
mod token;
mod user;
mod validator;

pub use token::{SessionToken, TokenError, TokenSource};
pub use user::{UserData, UserDataBuilder};
pub use validator::{
    ErasedValidator, ForbiddenReason, SessionValidator, ValidatedSession, ValidationError,
    ValidationErrorKind, ValidatorFn, validator_fn,
};
