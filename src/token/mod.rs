//! Session tokens, and the places where a request carries them.

mod authorization;
mod cookie;
mod cookie_removal;
mod headers;
mod session_token;
mod source;

pub(crate) use self::authorization::AuthScheme;
pub use self::{
    cookie_removal::CookieRemoval,
    session_token::{SessionToken, TokenError},
    source::TokenSource,
};
