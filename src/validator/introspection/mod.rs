//! Validator for OAuth 2.0 access tokens by token introspection, [RFC 7662].
//!
//! A validation is one `POST`, which every large server understands in the same way. Its response
//! is interpreted as follows:
//!
//! 1. `active` decides. It must be a boolean in a JSON object. Anything else is *unavailable*. An
//!    active token that has expired (`exp`) or is not yet valid (`nbf`) by more than the leeway is
//!    *invalid* nevertheless.
//! 2. A token that the response shows not to be an access token is *invalid*: a refresh, ID or
//!    logout token. If an issuer or an audience is required and the token's does not match, the
//!    token is *invalid*. A token that is bound to a key is also *invalid*, unless bound tokens are
//!    allowed. A missing scope is *forbidden*, as `insufficient_scope` is 403 in [RFC 6750].
//! 3. A token that identifies no user, such as a client's own, is *forbidden*.
//! 4. No other response rejects a token. A server that does not accept *this service*, or does not
//!    introspect, is *misconfigured*. A server that fails is *unavailable*.
//!
//! The permissions of a token are stored with the cached user and compared again on every hit,
//! because the cache may contain sessions that a validator with other settings, or another service,
//! has stored.
//!
//! [RFC 7662]: https://www.rfc-editor.org/rfc/rfc7662
//! [RFC 6750]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1

mod auth;
mod builder;
mod claims;
mod client;
mod clock_skew;
mod config_error;
mod error;
mod response;
mod token_kind;
mod user_id;
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
    token_kind::TokenKinds,
    user_id::UserIdClaims,
};
