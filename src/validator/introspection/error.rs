//! What can go wrong with introspection, said so that an operator knows where to look.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use crate::validator::{
    error::{BoxError, ValidationError},
    http::HttpError,
};

/// Nobody knows whether the token is good. It contains neither the token nor a secret of ours nor
/// the server's own `error_description`, which may quote either.
#[derive(Debug)]
pub(crate) struct IntrospectionError {
    advice: &'static str,
    is_misconfigured: bool,
    status: Option<StatusCode>,
    named: Option<String>,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

impl IntrospectionError {
    /// Asking again may help.
    pub(super) fn unavailable(advice: &'static str) -> Self {
        Self {
            advice,
            is_misconfigured: false,
            status: None,
            named: None,
            retry_after: None,
            source: None,
        }
    }

    /// Asking again does not help until a setting is changed.
    pub(super) fn misconfigured(advice: &'static str) -> Self {
        Self {
            is_misconfigured: true,
            ..Self::unavailable(advice)
        }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Keeps the `error` of the response for the log, if it looks like one: it is foreign text.
    pub(super) fn with_code(mut self, code: Option<String>) -> Self {
        self.named = code
            .filter(|code| code.len() <= 64)
            .filter(|code| code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')));
        self
    }

    pub(super) fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }
}

impl From<HttpError> for IntrospectionError {
    fn from(failure: HttpError) -> Self {
        let (advice, source) = match failure {
            HttpError::Timeout(source) => (
                "no answer in time; check that the endpoint can be reached from here and is not \
                 overloaded, or raise the validator's timeout",
                Some(source),
            ),
            HttpError::Transport(source) => (
                "no connection, or it ended early; check that the server runs, that the endpoint \
                 names its host, port and scheme, and the proxy settings",
                Some(source),
            ),
            HttpError::TooLong => (
                "the answer is longer than 256 KiB; check the endpoint, and which claims the \
                 server puts into its answers",
                None,
            ),
        };
        Self {
            source,
            ..Self::unavailable(advice)
        }
    }
}

impl From<IntrospectionError> for ValidationError {
    fn from(error: IntrospectionError) -> Self {
        if error.is_misconfigured {
            return Self::misconfigured(error);
        }
        let after = error.retry_after;
        let unavailable = Self::unavailable(error);
        match after {
            Some(after) => unavailable.with_retry_after(after),
            None => unavailable,
        }
    }
}

impl fmt::Display for IntrospectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token introspection: {}", self.advice)?;
        match (self.status, &self.named) {
            (Some(status), Some(named)) => write!(f, " ({} {named})", status.as_u16()),
            (Some(status), None) => write!(f, " ({})", status.as_u16()),
            (None, _) => Ok(()),
        }
    }
}

impl StdError for IntrospectionError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}
