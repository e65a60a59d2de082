//! The calls themselves: one credential each, and no header but our own.

use std::time::Duration;

use chrono::Utc;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

use super::{
    error::{AppwriteError, AppwriteErrorKind},
    operation::Call,
    response,
};
use crate::{
    token::SessionToken,
    validator::{
        error::BoxError,
        http::{self as provider, Url},
    },
};

const PROJECT: HeaderName = HeaderName::from_static("x-appwrite-project");
const SESSION: HeaderName = HeaderName::from_static("x-appwrite-session");
const FORMAT: HeaderName = HeaderName::from_static("x-appwrite-response-format");

/// Pins the shape of the answers, whatever version the server has.
const FORMAT_VERSION: HeaderValue = HeaderValue::from_static("1.8.0");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer with the status that the call succeeds with.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

pub(super) struct Client {
    http: provider::Client,
    /// Without a slash at its end.
    endpoint: String,
    project_id: String,
}

impl Client {
    pub(super) fn new(
        endpoint: &Url,
        project_id: String,
        project: HeaderValue,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, BoxError> {
        let headers = HeaderMap::from_iter([(PROJECT, project), (FORMAT, FORMAT_VERSION)]);
        Ok(Self {
            http: provider::Client::new(endpoint, &headers, connect_timeout, timeout)?,
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
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret()).map_err(|_| {
                let advice = "the token does not fit into a header";
                AppwriteError::new(AppwriteErrorKind::Refused, call, advice)
            })?;
            value.set_sensitive(true);
            headers.insert(SESSION, value);
        }
        let body = arguments.map(|arguments| {
            headers.insert(header::CONTENT_TYPE, JSON);
            arguments.to_string().into_bytes()
        });
        let answer = self.http.call(call.method(), &url, headers, body).await;
        let answer = answer.map_err(|failure| AppwriteError::unanswered(call, failure))?;
        let body = answer
            .body
            .map_err(|failure| AppwriteError::unanswered(call, failure).with_status(answer.status));
        let body = response::judge(call, answer.status, &answer.headers, body, Utc::now())?;
        Ok(Answer {
            headers: answer.headers,
            body,
        })
    }
}
