//! Calls of an identity provider over HTTP, in what they have in common whoever it is.

mod client;
mod endpoint;
mod retry_after;

pub(crate) use reqwest::Url;

#[cfg(feature = "introspection")]
pub(crate) use self::{client::Answer, endpoint::is_loopback};
pub(crate) use self::{
    client::{CallFailure, Client},
    endpoint::{EndpointFault, parse_endpoint},
    retry_after::{rate_limit_reset, retry_after},
};
