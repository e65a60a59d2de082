//! HTTP calls to identity providers: what the validators have in common.

mod client;
mod endpoint;
mod failure;
mod json;
mod pool;
mod retry_after;
mod settings;

pub(crate) use reqwest::Url;

#[cfg(any(feature = "introspection", feature = "oidc-events"))]
pub(crate) use self::{client::HttpResponse, endpoint::is_loopback};
pub(crate) use self::{
    client::{HttpClient, HttpError, Repeat},
    endpoint::{EndpointError, parse_endpoint},
    failure::Failure,
    json::json_object,
    retry_after::{rate_limit_wait, retry_after},
    settings::{ClientFault, HttpSettings},
};
