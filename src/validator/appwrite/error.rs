//! Errors of calls to Appwrite, with advice for the operator.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use super::operation::Operation;
use crate::validator::{
    error::{ForbiddenReason, ValidationError},
    http::{Failure, HttpError},
};

/// A failed call to Appwrite.
///
/// `Display` names the call, what happened and the setting to check. `Display`, `Debug` and the
/// [`source`](StdError::source) contain no token, no password, no e-mail address, and not
/// Appwrite's own message, which may quote one.
#[derive(Debug)]
pub struct AppwriteError {
    kind: AppwriteErrorKind,
    failure: Box<Failure>,
    retry_after: Option<Duration>,
}

/// The kinds of [`AppwriteError`] that a caller must distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AppwriteErrorKind {
    /// Appwrite rejected the credentials: an unknown session, wrong credentials, or a recovery
    /// secret that is wrong or was used. An application should respond with 401.
    Unauthorized,
    /// Appwrite knows the user and denies access. An application should respond with 403.
    Forbidden(ForbiddenReason),
    /// An e-mail address or a password does not have the form that Appwrite requires. An
    /// application should respond with 400.
    InvalidArgument,
    /// There were too many calls. See [`retry_after`](AppwriteError::retry_after).
    RateLimited,
    /// There was no complete response before the timeout.
    Timeout,
    /// There was no connection, or it ended early.
    Transport,
    /// Appwrite, or a proxy in front of it, responded with a 5xx status.
    ServerError,
    /// The response does not come from Appwrite, or does not match the request.
    UnexpectedResponse,
    /// The response is longer than 256 KiB.
    BodyTooLarge,
    /// Appwrite does not accept how this service calls it. A retry will not help.
    Misconfigured,
}

impl AppwriteError {
    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> AppwriteErrorKind {
        self.kind
    }

    /// Returns the time after which a retry makes sense, between 1 and 60 s, if Appwrite sent one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(super) fn new(kind: AppwriteErrorKind, operation: Operation, advice: &'static str) -> Self {
        Self {
            kind,
            failure: Box::new(Failure::new(format!("Appwrite, {operation}"), advice)),
            retry_after: None,
        }
    }

    pub(super) fn unexpected(operation: Operation, advice: &'static str) -> Self {
        Self::new(AppwriteErrorKind::UnexpectedResponse, operation, advice)
    }

    /// Creates an error for a call without a complete response. `status` is set if only the body of
    /// the response is missing.
    pub(super) fn unanswered(
        operation: Operation,
        error: HttpError,
        status: Option<StatusCode>,
    ) -> Self {
        let (kind, advice) = match error {
            HttpError::Timeout(_) => (
                AppwriteErrorKind::Timeout,
                "no complete response within the timeout; check that APPWRITE_ENDPOINT is \
                 reachable from this host and not overloaded, or increase `timeout` of the \
                 validator",
            ),
            HttpError::Connect(_) | HttpError::Transport(_) => (
                AppwriteErrorKind::Transport,
                "could not connect, or the connection was closed early; check that Appwrite is \
                 running, that APPWRITE_ENDPOINT has its scheme, host and port, and the proxy \
                 settings",
            ),
            HttpError::TooLong => (
                AppwriteErrorKind::BodyTooLarge,
                "the response is longer than 256 KiB; check that APPWRITE_ENDPOINT is the endpoint \
                 of Appwrite",
            ),
        };
        let mut unanswered = Self::new(kind, operation, advice);
        unanswered.failure = Box::new(unanswered.failure.with_error(error, status));
        unanswered
    }

    /// Adds the status and the `type` of the response.
    pub(super) fn with_response(mut self, status: StatusCode, error_type: Option<&str>) -> Self {
        self.failure = Box::new(self.failure.with_response(status, error_type));
        self
    }

    pub(super) fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// Returns the failure that decides about a session. The module documentation gives the order.
    pub(super) fn or_more_severe(self, other: Self) -> Self {
        // If both calls are throttled, the longer wait counts.
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

/// Rejections lose their source, because an operator does not need to know what a client did. All
/// other errors keep it.
impl From<AppwriteError> for ValidationError {
    fn from(error: AppwriteError) -> Self {
        let (status, after) = (error.failure.status(), error.retry_after);
        match error.kind {
            AppwriteErrorKind::Unauthorized => Self::invalid(),
            AppwriteErrorKind::Forbidden(reason) => Self::forbidden(reason),
            // Validations of different tokens differ only in the token.
            AppwriteErrorKind::InvalidArgument | AppwriteErrorKind::Misconfigured
                if status == Some(StatusCode::BAD_REQUEST) =>
            {
                Self::misconfigured(error).blaming_token()
            }
            AppwriteErrorKind::InvalidArgument | AppwriteErrorKind::Misconfigured => {
                Self::misconfigured(error).for_all_tokens()
            }
            AppwriteErrorKind::Transport if error.failure.is_unconnected() => {
                Self::unavailable(error).for_all_tokens()
            }
            AppwriteErrorKind::RateLimited
            | AppwriteErrorKind::Timeout
            | AppwriteErrorKind::Transport
            | AppwriteErrorKind::ServerError
            | AppwriteErrorKind::UnexpectedResponse
            | AppwriteErrorKind::BodyTooLarge => Self::unavailable(error).with_retry_after(after),
        }
    }
}

impl fmt::Display for AppwriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.failure, f)
    }
}

impl StdError for AppwriteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.failure.source()
    }
}
