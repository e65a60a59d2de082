//! Session tokens, and the places where a request carries them.

mod authorization;
mod cookie;
mod cookie_removal;
mod headers;
mod query;
mod request_head;
mod session_token;
mod source;
mod websocket_protocol;

pub(crate) use self::{
    authorization::Schemes,
    request_head::{Predicate, both, either},
    source::Found,
};
pub use self::{
    cookie_removal::CookieRemoval,
    request_head::RequestHead,
    session_token::{SessionToken, TokenError},
    source::TokenSource,
};
