//! What can go wrong with a call to Appwrite, said so that an operator knows where to look.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use super::operation::Operation;
use crate::validator::{
    error::{ForbiddenReason, ValidationError},
    http::{Failure, HttpError},
};

/// A call to Appwrite that did not do what it should.
///
/// `Display` names the call, what happened and the setting to look at. Neither it nor `Debug` nor
/// the [`source`](StdError::source) contains a token, a password, an e-mail address, or Appwrite's
/// own message, which may quote one.
#[derive(Debug)]
pub struct AppwriteError {
    kind: AppwriteErrorKind,
    failure: Failure,
    retry_after: Option<Duration>,
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
            failure: Failure::new(format!("Appwrite, {operation}"), advice),
            retry_after: None,
        }
    }

    pub(super) fn unexpected(operation: Operation, advice: &'static str) -> Self {
        Self::new(AppwriteErrorKind::UnexpectedResponse, operation, advice)
    }

    /// A call without a complete response; the status is that of a response whose body is missing.
    pub(super) fn unanswered(
        operation: Operation,
        error: HttpError,
        status: Option<StatusCode>,
    ) -> Self {
        let (kind, advice) = match error {
            HttpError::Timeout(_) => (
                AppwriteErrorKind::Timeout,
                "no answer in time; check that APPWRITE_ENDPOINT can be reached from here and is \
                 not overloaded, or raise the validator's timeout",
            ),
            HttpError::Transport(_) => (
                AppwriteErrorKind::Transport,
                "no connection, or it ended early; check that Appwrite runs, that \
                 APPWRITE_ENDPOINT names its host, port and scheme, and the proxy settings",
            ),
            HttpError::TooLong => (
                AppwriteErrorKind::BodyTooLarge,
                "the answer is longer than 256 KiB; check that APPWRITE_ENDPOINT is Appwrite's",
            ),
        };
        let mut unanswered = Self::new(kind, operation, advice);
        unanswered.failure = unanswered.failure.with_error(error, status);
        unanswered
    }

    /// Adds the status and the `type` of the response.
    pub(super) fn with_response(mut self, status: StatusCode, error_type: Option<&str>) -> Self {
        self.failure = self.failure.with_response(status, error_type);
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
                Self::unavailable(error).with_retry_after(after)
            }
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
