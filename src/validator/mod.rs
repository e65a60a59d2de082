//! The question a cache cannot answer: is this token good, and whose is it?
//!
//! A [`SessionValidator`] asks the identity provider. What it may answer is deliberately narrow:
//! a [`ValidatedSession`], or a [`ValidationError`] that keeps *refused* (the provider said no)
//! apart from *unavailable* (nobody could tell). A provider that cannot be reached must neither
//! log anyone out nor let anyone in, and only the validator knows which of the two it met.

mod adapters;
#[cfg(feature = "appwrite")]
pub(crate) mod appwrite;
mod closure;
mod cooldown;
mod erased;
mod error;
mod filter;
#[cfg(any(feature = "appwrite", feature = "introspection"))]
pub(crate) mod http;
#[cfg(feature = "introspection")]
pub(crate) mod introspection;
mod layered;
mod map;
mod or;
mod session;
mod traits;

pub use self::{
    adapters::{AndThen, Filter, LayeredValidator, Map, Or, ValidatorCall},
    closure::{ValidatorFn, validator_fn},
    erased::ErasedValidator,
    error::{ForbiddenReason, ValidationError, ValidationErrorKind},
    session::ValidatedSession,
    traits::SessionValidator,
};

pub(crate) use self::cooldown::Cooldown;
