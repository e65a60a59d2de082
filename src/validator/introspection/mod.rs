//! Asks an OAuth 2.0 authorization server whose a token is: token introspection, [RFC 7662].
//!
//! One `POST` per validation, which every large server understands the same way. What the response
//! means:
//!
//! 1. `active` decides. It must be a boolean in a JSON object; anything else is *unavailable*. An
//!    active token that has expired (`exp`), or is not yet valid (`nbf`), is *invalid* all the
//!    same.
//! 2. An issuer or an audience that was asked for and does not agree makes a token *invalid*, and so
//!    does a key that it is bound to. A scope that is missing is *forbidden*, as
//!    `insufficient_scope` is 403 in [RFC 6750].
//! 3. No other response refuses anybody: a server that does not accept *us*, or does not
//!    introspect, is *misconfigured*, and one that fails is *unavailable*.
//!
//! What a token was allowed to do stays with the cached user, and is compared again on every hit:
//! the cache may hold what a validator with other settings, or another service, has put there.
//!
//! [RFC 7662]: https://www.rfc-editor.org/rfc/rfc7662
//! [RFC 6750]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1

mod auth;
mod builder;
mod claims;
mod client;
mod config_error;
mod error;
mod response;
mod validator;

pub use self::{
    auth::IntrospectionAuth, builder::IntrospectionValidatorBuilder,
    config_error::IntrospectionConfigError, response::IntrospectionResponse,
    validator::IntrospectionValidator,
};

#[cfg(fuzzing)]
pub(crate) use self::{
    claims::{Settings, session},
    response::classify,
};
