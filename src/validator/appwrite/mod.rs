//! Validator for Appwrite sessions that keeps concurrent requests separate.
//!
//! Appwrite's own SDK keeps the session in a client that its clones share, so two concurrent
//! requests can swap identities. [`AppwriteValidator`] passes exactly one credential to each call,
//! the token to validate, and forwards nothing from the client's own request.
//!
//! No single call returns both the user and the expiry of the session. A validation therefore makes
//! two concurrent calls, `GET /account` and `GET /account/sessions/current`, and combines the
//! results:
//!
//! 1. Two successful responses that name the same user are a session. If the token names a user, it
//!    must be the same one. Anything else is *unavailable*, never a session.
//! 2. Each call alone proves the state of the session, so one rejection decides, whatever the
//!    result of the other call. *Forbidden* (blocked, or a second factor is missing) takes
//!    precedence over *invalid*.
//! 3. Otherwise the failure decides: *misconfigured* takes precedence over *unavailable*.
//!
//! Only the `type` in Appwrite's own error body makes a response a rejection. A 401 from a proxy in
//! front of Appwrite does not log anyone out.

mod account;
mod builder;
mod client;
mod config_error;
mod error;
mod operation;
mod response;
mod user;
mod validator;

pub use self::{
    account::AppwriteLogin,
    builder::AppwriteValidatorBuilder,
    config_error::AppwriteConfigError,
    error::{AppwriteError, AppwriteErrorKind},
    user::AppwriteUser,
    validator::AppwriteValidator,
};

#[cfg(fuzzing)]
pub(crate) use self::{
    operation::Operation,
    response::{account, classify, recovered, session},
    user::first_label,
};
