//! HTTP client for calls to identity providers.
//!
//! A call carries a token and perhaps a secret of this service, so it is sent to the configured
//! host only: no redirects, no cookies, and nothing from the client's own request. Its duration and
//! the length of its response are limited. Only this folder depends on reqwest.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use reqwest::{Response, Url, redirect::Policy};

use super::endpoint::is_loopback;
use crate::{crypto::install_tls_provider, validator::error::BoxError};

const USER_AGENT: &str = concat!("tower-session-cache/", env!("CARGO_PKG_VERSION"));

/// Real responses are far smaller, even with everything that a provider lets its users store.
const MAX_BODY: usize = 256 * 1024;

/// A pool of connections to one provider.
pub(crate) struct HttpClient(reqwest::Client);

pub(crate) struct HttpResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body, or the error from reading it. The status may determine the meaning of the response
    /// even if the body could not be read.
    pub(crate) body: Result<Vec<u8>, HttpError>,
}

/// Why there is no response, or no body of it.
#[derive(Debug)]
pub(crate) enum HttpError {
    /// The response was not complete before the timeout.
    Timeout(BoxError),
    /// There is no connection, or it ended early.
    Transport(BoxError),
    /// The body is longer than 256 KiB.
    TooLong,
}

impl HttpClient {
    /// Creates a client, which opens no connection yet. The headers are sent with every call.
    pub(crate) fn new(
        endpoint: &Url,
        headers: &HeaderMap,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, BoxError> {
        install_tls_provider();
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .default_headers(headers.clone())
                .redirect(Policy::none())
                .referer(false)
                .tcp_nodelay(true)
                .connect_timeout(connect_timeout)
                .timeout(timeout);
            // A proxy would look for a loopback host on itself.
            if is_loopback(endpoint) {
                builder.no_proxy()
            } else {
                builder
            }
        };
        let http = match builder().build() {
            // A container without CA certificates may still call a neighboring container over plain
            // HTTP.
            Err(_) if endpoint.scheme() == "http" => builder().tls_certs_only([]).build(),
            built => built,
        };
        Ok(Self(http?))
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<HttpResponse, HttpError> {
        let mut request = self.0.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let mut response = request.send().await?;
        let body = read(&mut response).await;
        Ok(HttpResponse {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body,
        })
    }
}

async fn read(response: &mut Response) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(HttpError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        let is_timeout = error.is_timeout();
        // The operator chose the URL, but may have put secrets into it.
        let source = error.without_url().into();
        if is_timeout {
            Self::Timeout(source)
        } else {
            Self::Transport(source)
        }
    }
}
