//! Asks Appwrite whose a session is, without letting two requests meet in one client.
//!
//! Appwrite's own SDK keeps the session in a client that its clones share, so two requests in
//! flight can swap identities. [`AppwriteValidator`] hands each call exactly one credential, the
//! token it was asked about, and forwards nothing of the client's own request.
//!
//! No single call tells both the user and the end of the session, so a validation makes two at
//! once, `GET /account` and `GET /account/sessions/current`, and puts them together like this:
//!
//! 1. Two successful responses that name the same user are a session. If the token names a user, it
//!    must be the same one; anything else is *unavailable*, never a session.
//! 2. Each call alone proves the state of the session, so one refusal decides, whatever the other
//!    call met. *Forbidden* (blocked, a second factor missing) goes before *invalid*.
//! 3. Otherwise the failure counts: *misconfigured* before *unavailable*.
//!
//! A response is a refusal only by the `type` in Appwrite's own error body. A 401 from a proxy in
//! front of Appwrite logs nobody out.

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
