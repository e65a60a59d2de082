//! Client for Appwrite's API. Each call carries exactly one credential and only headers of this
//! crate.

use chrono::Utc;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

use super::{
    error::{AppwriteError, AppwriteErrorKind},
    operation::Operation,
    response::classify,
};
use crate::{
    token::SessionToken,
    validator::http::{ClientFault, HttpClient, HttpSettings, Url},
};

const PROJECT: HeaderName = HeaderName::from_static("x-appwrite-project");
const SESSION: HeaderName = HeaderName::from_static("x-appwrite-session");
const FORMAT: HeaderName = HeaderName::from_static("x-appwrite-response-format");

/// Pins the format of the responses, whatever version the server has.
const FORMAT_VERSION: HeaderValue = HeaderValue::from_static("1.8.0");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A response with the success status of its operation.
pub(super) struct SuccessResponse {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

pub(super) struct AppwriteClient {
    http: HttpClient,
    /// The endpoint without a trailing slash.
    endpoint: String,
    project_id: String,
}

impl AppwriteClient {
    pub(super) fn new(
        endpoint: &Url,
        project_id: String,
        project: HeaderValue,
        settings: &HttpSettings,
    ) -> Result<Self, ClientFault> {
        let headers = HeaderMap::from_iter([(PROJECT, project), (FORMAT, FORMAT_VERSION)]);
        Ok(Self {
            http: HttpClient::new(endpoint, headers, settings)?,
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
        operation: Operation,
        token: Option<&SessionToken>,
        arguments: Option<&Value>,
    ) -> Result<SuccessResponse, AppwriteError> {
        let url = format!("{}{}", self.endpoint, operation.path());
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret()).map_err(|_| {
                let advice = "the token is not a valid header value";
                AppwriteError::new(AppwriteErrorKind::Unauthorized, operation, advice)
            })?;
            value.set_sensitive(true);
            headers.insert(SESSION, value);
        }
        let body = arguments.map(|arguments| {
            headers.insert(header::CONTENT_TYPE, JSON);
            arguments.to_string().into_bytes()
        });
        let response = self
            .http
            .call(operation.repeat(), operation.method(), &url, headers, body)
            .await
            .map_err(|error| AppwriteError::unanswered(operation, error, None))?;
        let status = response.status;
        let body = response
            .body
            .map_err(|error| AppwriteError::unanswered(operation, error, Some(status)));
        let body = classify(operation, status, &response.headers, body, Utc::now())?;
        Ok(SuccessResponse {
            headers: response.headers,
            body,
        })
    }
}
