//! Validation of session tokens with an identity provider.
//!
//! A [`SessionValidator`] calls the identity provider. Its results are deliberately limited to a
//! [`ValidatedSession`], or a [`ValidationError`] that distinguishes *rejected* (by the provider)
//! from *unavailable* (there is no decision). An unreachable provider must neither log users out
//! nor let users in, and only the validator knows which of the two cases occurred.

mod adapters;
mod adaptive_limit;
#[cfg(feature = "appwrite")]
pub(crate) mod appwrite;
mod closure;
mod decodes;
mod erased;
mod error;
mod filter;
#[cfg(any(
    feature = "appwrite",
    feature = "introspection",
    feature = "oidc-events"
))]
// The keys of an issuer need less of it than a validator.
#[cfg_attr(
    not(any(feature = "appwrite", feature = "introspection")),
    allow(dead_code, unused_imports)
)]
pub(crate) mod http;
#[cfg(feature = "introspection")]
pub(crate) mod introspection;
#[cfg(feature = "oidc-events")]
pub(crate) mod jwks;
mod keys;
mod layered;
mod map;
mod or;
mod provider_state;
mod session;
mod traits;

pub use self::{
    adapters::{AndThen, Decodes, Filter, Keys, LayeredValidator, Map, Or, ValidatorCall},
    closure::{ValidatorFn, validator_fn},
    erased::ErasedValidator,
    error::{ForbiddenReason, ValidationError, ValidationErrorKind},
    session::ValidatedSession,
    traits::SessionValidator,
};

pub(crate) use self::{
    adaptive_limit::{AdaptiveLimit, in_background, is_background},
    error::FailureScope,
    provider_state::{ErrorChain, ProviderState, insert_hash},
};
