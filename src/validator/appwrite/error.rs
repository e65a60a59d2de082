//! What can go wrong with a call to Appwrite, said so that an operator knows where to look.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use super::operation::Operation;
use crate::validator::{
    error::{BoxError, ForbiddenReason, ValidationError},
    http::HttpError,
};

/// A call to Appwrite that did not do what it should.
///
/// `Display` names the call, what happened and the setting to look at. Neither it nor `Debug` nor
/// the [`source`](StdError::source) contains a token, a password, an e-mail address, or Appwrite's
/// own message, which may quote one.
#[derive(Debug)]
pub struct AppwriteError {
    kind: AppwriteErrorKind,
    operation: Operation,
    advice: &'static str,
    status: Option<StatusCode>,
    error_type: Option<String>,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

/// The cases a caller of Appwrite must tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AppwriteErrorKind {
    /// Appwrite said no: an unknown session, wrong credentials, a recovery secret that is wrong or
    /// was used. An application answers 401.
    Unauthorized,
    /// Appwrite knows the user and does not let them in. An application answers 403.
    Forbidden(ForbiddenReason),
    /// An e-mail address or a password does not have the form that Appwrite wants. An application
    /// answers 400.
    InvalidArgument,
    /// Too many calls; see [`retry_after`](AppwriteError::retry_after).
    RateLimited,
    /// No complete response before the timeout.
    Timeout,
    /// No connection, or one that ended early.
    Transport,
    /// Appwrite, or a proxy in front of it, answered 5xx.
    ServerError,
    /// A response that is not one of Appwrite's, or not one to this question.
    UnexpectedResponse,
    /// A response of more than 256 KiB.
    BodyTooLarge,
    /// Appwrite does not accept how this service calls it. No retry will help.
    Misconfigured,
}

impl AppwriteError {
    /// Which case it is.
    #[must_use]
    pub fn kind(&self) -> AppwriteErrorKind {
        self.kind
    }

    /// When asking again makes sense, between 1 and 60 s, if Appwrite said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(super) fn new(kind: AppwriteErrorKind, operation: Operation, advice: &'static str) -> Self {
        Self {
            kind,
            operation,
            advice,
            status: None,
            error_type: None,
            retry_after: None,
            source: None,
        }
    }

    pub(super) fn unexpected(operation: Operation, advice: &'static str) -> Self {
        Self::new(AppwriteErrorKind::UnexpectedResponse, operation, advice)
    }

    pub(super) fn unanswered(operation: Operation, error: HttpError) -> Self {
        let (kind, advice, source) = match error {
            HttpError::Timeout(source) => (
                AppwriteErrorKind::Timeout,
                "no answer in time; check that APPWRITE_ENDPOINT can be reached from here and is \
                 not overloaded, or raise the validator's timeout",
                Some(source),
            ),
            HttpError::Transport(source) => (
                AppwriteErrorKind::Transport,
                "no connection, or it ended early; check that Appwrite runs, that \
                 APPWRITE_ENDPOINT names its host, port and scheme, and the proxy settings",
                Some(source),
            ),
            HttpError::TooLong => (
                AppwriteErrorKind::BodyTooLarge,
                "the answer is longer than 256 KiB; check that APPWRITE_ENDPOINT is Appwrite's",
                None,
            ),
        };
        Self {
            source,
            ..Self::new(kind, operation, advice)
        }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Keeps the `type` of the response for the log, if it looks like one: it is foreign text.
    pub(super) fn with_error_type(mut self, error_type: Option<&str>) -> Self {
        self.error_type = error_type
            .filter(|name| name.len() <= 64)
            .filter(|name| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')))
            .map(str::to_owned);
        self
    }

    pub(super) fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// The one of two failures that decides about a session; see the module for the order.
    pub(super) fn or_more_severe(self, other: Self) -> Self {
        // Of two calls that are throttled, the one to wait longer for.
        if (other.severity(), other.retry_after) > (self.severity(), self.retry_after) {
            other
        } else {
            self
        }
    }

    fn severity(&self) -> u8 {
        match self.kind {
            AppwriteErrorKind::Forbidden(_) => 3,
            AppwriteErrorKind::Unauthorized => 2,
            AppwriteErrorKind::InvalidArgument | AppwriteErrorKind::Misconfigured => 1,
            AppwriteErrorKind::RateLimited
            | AppwriteErrorKind::Timeout
            | AppwriteErrorKind::Transport
            | AppwriteErrorKind::ServerError
            | AppwriteErrorKind::UnexpectedResponse
            | AppwriteErrorKind::BodyTooLarge => 0,
        }
    }
}

/// Refusals lose their source: what a client did is no news for an operator. All else keeps it.
impl From<AppwriteError> for ValidationError {
    fn from(error: AppwriteError) -> Self {
        match error.kind {
            AppwriteErrorKind::Unauthorized => Self::invalid(),
            AppwriteErrorKind::Forbidden(reason) => Self::forbidden(reason),
            // A validation has no arguments but those of our configuration.
            AppwriteErrorKind::InvalidArgument | AppwriteErrorKind::Misconfigured => {
                Self::misconfigured(error)
            }
            AppwriteErrorKind::RateLimited
            | AppwriteErrorKind::Timeout
            | AppwriteErrorKind::Transport
            | AppwriteErrorKind::ServerError
            | AppwriteErrorKind::UnexpectedResponse
            | AppwriteErrorKind::BodyTooLarge => {
                let after = error.retry_after;
                let unavailable = Self::unavailable(error);
                match after {
                    Some(after) => unavailable.with_retry_after(after),
                    None => unavailable,
                }
            }
        }
    }
}

impl fmt::Display for AppwriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Appwrite, {}: {}", self.operation, self.advice)?;
        match (self.status, &self.error_type) {
            (Some(status), Some(error_type)) => write!(f, " ({} {error_type})", status.as_u16()),
            (Some(status), None) => write!(f, " ({})", status.as_u16()),
            (None, _) => Ok(()),
        }
    }
}

impl StdError for AppwriteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}
