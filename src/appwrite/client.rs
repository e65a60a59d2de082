//! The calls themselves: one credential each, no redirects, no body without an end.

use std::{fmt, time::Duration};

use chrono::Utc;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url, redirect::Policy};
use rustls::crypto::{CryptoProvider, ring};
use serde_json::Value;

use super::{
    answer,
    config::AppwriteConfigError,
    error::{AppwriteError, AppwriteErrorKind},
};
use crate::token::SessionToken;

const PROJECT: HeaderName = HeaderName::from_static("x-appwrite-project");
const SESSION: HeaderName = HeaderName::from_static("x-appwrite-session");
const FORMAT: HeaderName = HeaderName::from_static("x-appwrite-response-format");

/// Pins the shape of the answers, whatever version the server has.
const FORMAT_VERSION: HeaderValue = HeaderValue::from_static("1.8.0");

const USER_AGENT: &str = concat!("tower-session-cache/", env!("CARGO_PKG_VERSION"));

/// Real users are far smaller, even with all the preferences that Appwrite lets them have.
const MAX_BODY: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Account,
    Session,
    Login,
    Logout,
    Recovery,
}

impl Call {
    pub(super) fn success(self) -> StatusCode {
        match self {
            Self::Account | Self::Session | Self::Recovery => StatusCode::OK,
            Self::Login => StatusCode::CREATED,
            Self::Logout => StatusCode::NO_CONTENT,
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Account | Self::Session => Method::GET,
            Self::Login => Method::POST,
            Self::Logout => Method::DELETE,
            Self::Recovery => Method::PUT,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Account => "/account",
            Self::Session | Self::Logout => "/account/sessions/current",
            Self::Login => "/account/sessions/email",
            Self::Recovery => "/account/recovery",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.path())
    }
}

/// An answer with the status that the call succeeds with.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

pub(super) struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    endpoint: String,
    project_id: String,
}

impl Client {
    pub(super) fn new(
        endpoint: &Url,
        project_id: String,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, AppwriteConfigError> {
        let project = HeaderValue::from_str(&project_id)
            .map_err(|_| AppwriteConfigError::InvalidProjectId)?;
        let headers = HeaderMap::from_iter([(PROJECT, project), (FORMAT, FORMAT_VERSION)]);

        if CryptoProvider::get_default().is_none() {
            // Fails only when somebody else was faster, and theirs serves as well.
            let _ = ring::default_provider().install_default();
        }
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .default_headers(headers.clone())
                .redirect(Policy::none())
                .referer(false)
                .tcp_nodelay(true)
                .connect_timeout(connect_timeout)
                .timeout(timeout);
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
        Ok(Self {
            http: http.map_err(|error| AppwriteConfigError::Client(error.into()))?,
            endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
            project_id,
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn project_id(&self) -> &str {
        &self.project_id
    }

    pub(super) async fn call(
        &self,
        call: Call,
        token: Option<&SessionToken>,
        arguments: Option<&Value>,
    ) -> Result<Answer, AppwriteError> {
        let url = format!("{}{}", self.endpoint, call.path());
        let mut request = self.http.request(call.method(), url);
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret()).map_err(|_| {
                let advice = "the token does not fit into a header";
                AppwriteError::new(AppwriteErrorKind::Refused, call, advice)
            })?;
            value.set_sensitive(true);
            request = request.header(SESSION, value);
        }
        if let Some(arguments) = arguments {
            request = request.json(arguments);
        }
        let mut response = request
            .send()
            .await
            .map_err(|error| AppwriteError::transport(call, error))?;
        let body = read(call, &mut response).await;
        let body = answer::judge(
            call,
            response.status(),
            response.headers(),
            body,
            Utc::now(),
        )?;
        Ok(Answer {
            headers: std::mem::take(response.headers_mut()),
            body,
        })
    }
}

async fn read(call: Call, response: &mut Response) -> Result<Vec<u8>, AppwriteError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_BODY => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                return Err(AppwriteError::new(
                    AppwriteErrorKind::BodyTooLarge,
                    call,
                    "the answer is longer than 256 KiB; check that APPWRITE_ENDPOINT is Appwrite's",
                )
                .with_status(response.status()));
            }
            Err(error) => return Err(AppwriteError::transport(call, error)),
        }
    }
}

/// A proxy would look for such a host on itself.
fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
