//! Failure of a call, the common part of all providers' errors.

use std::{error::Error as StdError, fmt};

use http::StatusCode;

use super::client::HttpError;
use crate::validator::error::BoxError;

/// A failed call, with advice for the operator.
///
/// It contains neither a token nor a secret. Of the body it contains only the error code, because a
/// message of the provider may quote a token, a secret or an e-mail address.
#[derive(Debug)]
pub(crate) struct Failure {
    call: String,
    advice: &'static str,
    status: Option<StatusCode>,
    code: Option<String>,
    is_unconnected: bool,
    source: Option<BoxError>,
}

impl Failure {
    pub(crate) fn new(call: impl Into<String>, advice: &'static str) -> Self {
        Self {
            call: call.into(),
            advice,
            status: None,
            code: None,
            is_unconnected: false,
            source: None,
        }
    }

    /// Adds the status and the error code of the body. The code is untrusted text, so it is added
    /// only if it looks like an error code.
    pub(crate) fn with_response(mut self, status: StatusCode, code: Option<&str>) -> Self {
        self.status = Some(status);
        self.code = code
            .filter(|code| code.len() <= 64)
            .filter(|code| code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')))
            .map(str::to_owned);
        self
    }

    #[cfg(feature = "appwrite")]
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Whether no connection could be opened. A connection that ends without a response may have
    /// been closed because of the token: by a proxy that rejects its characters, for example.
    pub(crate) fn is_unconnected(&self) -> bool {
        self.is_unconnected
    }

    /// Adds an error of the application.
    #[cfg(feature = "oidc-events")]
    pub(crate) fn with_source(mut self, source: BoxError) -> Self {
        self.source = Some(source);
        self
    }

    /// Adds the reason why there is no response, or no body of the response that has the status.
    pub(crate) fn with_error(mut self, error: HttpError, status: Option<StatusCode>) -> Self {
        self.status = status;
        self.is_unconnected = matches!(error, HttpError::Connect(_));
        self.source = match error {
            HttpError::Timeout(source)
            | HttpError::Connect(source)
            | HttpError::Transport(source) => Some(source),
            HttpError::TooLong => None,
        };
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.advice)?;
        match (self.status, &self.code) {
            (Some(status), Some(code)) => write!(f, " ({} {code})", status.as_u16()),
            (Some(status), None) => write!(f, " ({})", status.as_u16()),
            (None, _) => Ok(()),
        }
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
