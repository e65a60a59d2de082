//! Session tokens, and the places where a request carries them.

mod cookie;
mod headers;
mod session_token;
mod source;

pub use self::{
    session_token::{SessionToken, TokenError},
    source::TokenSource,
};
