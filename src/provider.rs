//! Calls of an identity provider over HTTP, in what they have in common whoever it is.
//!
//! A call carries a token and perhaps a secret of ours, so it goes to the very host that was
//! configured or nowhere: no redirects, no cookies, nothing of the client's own request. It has an
//! end in time and in length. No other file knows reqwest.

use std::{error::Error as StdError, time::Duration};

use chrono::{DateTime, Utc};
use http::{HeaderMap, Method, StatusCode, header};
pub(crate) use reqwest::Url;
use reqwest::{Response, redirect::Policy};

use crate::crypto;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

const USER_AGENT: &str = concat!("tower-session-cache/", env!("CARGO_PKG_VERSION"));

/// Real answers are far smaller, even with all that a provider lets its users store.
const MAX_BODY: usize = 256 * 1024;

/// What is wrong with the address of a provider, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointFault {
    NotUrl,
    Scheme,
    Credentials,
}

/// Reads an address that the operator wrote. What follows the host is for the caller to check.
pub(crate) fn parse_endpoint(endpoint: &str) -> Result<Url, EndpointFault> {
    let url = Url::parse(endpoint).map_err(|_| EndpointFault::NotUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EndpointFault::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(EndpointFault::Credentials);
    }
    Ok(url)
}

/// Whether the address is on this very host.
pub(crate) fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A pool of connections to one provider.
pub(crate) struct Client(reqwest::Client);

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The status may settle what the answer means even if its body could not be read.
    pub(crate) body: Result<Vec<u8>, CallFailure>,
}

/// Why there is no answer, or none of its body.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// Not all of it in time.
    Timeout(BoxError),
    /// No connection, or one that ended early.
    Transport(BoxError),
    /// More than 256 KiB.
    TooLong,
}

impl Client {
    /// Opens nothing yet. The headers go with every call.
    pub(crate) fn new(
        endpoint: &Url,
        headers: &HeaderMap,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, BoxError> {
        crypto::install();
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .default_headers(headers.clone())
                .redirect(Policy::none())
                .referer(false)
                .tcp_nodelay(true)
                .connect_timeout(connect_timeout)
                .timeout(timeout);
            // A proxy would look for such a host on itself.
            if is_loopback(endpoint) {
                builder.no_proxy()
            } else {
                builder
            }
        };
        let http = match builder().build() {
            // A container without CA certificates may well talk plain HTTP to the one beside it.
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
    ) -> Result<Answer, CallFailure> {
        let mut request = self.0.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let mut response = request.send().await?;
        let body = read(&mut response).await;
        Ok(Answer {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body,
        })
    }
}

async fn read(response: &mut Response) -> Result<Vec<u8>, CallFailure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(CallFailure::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl From<reqwest::Error> for CallFailure {
    fn from(error: reqwest::Error) -> Self {
        let is_timeout = error.is_timeout();
        // The address is the operator's own, but may come with what the operator put in it.
        let source = error.without_url().into();
        if is_timeout {
            Self::Timeout(source)
        } else {
            Self::Transport(source)
        }
    }
}

/// `Retry-After`, as seconds or as a date ([RFC 9110, section 10.2.3]).
///
/// [RFC 9110, section 10.2.3]: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
pub(crate) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = value.parse::<i64>().ok().or_else(|| {
        let date = DateTime::parse_from_rfc2822(value).ok()?;
        Some(date.timestamp().saturating_sub(now.timestamp()))
    });
    seconds.map(clamped)
}

/// `X-RateLimit-Reset`, which no standard defines: seconds since 1970 as Appwrite and many others
/// write them, or seconds from now where the number is too small for that.
pub(crate) fn rate_limit_reset(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    const LONGEST_WAIT: i64 = 31 * 24 * 60 * 60;

    let value = headers.get("x-ratelimit-reset")?.to_str().ok()?;
    let reset = value.trim().parse::<i64>().ok()?;
    Some(clamped(if reset <= LONGEST_WAIT {
        reset
    } else {
        reset.saturating_sub(now.timestamp())
    }))
}

/// A limit that lasts an hour may be lifted earlier, and a wrong clock must not stop us for days.
fn clamped(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, 60).unsigned_abs())
}
