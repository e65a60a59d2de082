//! What can go wrong with a call to Appwrite, said so that an operator knows where to look.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use super::operation::Call;
use crate::validator::{
    error::{BoxError, ForbiddenReason, ValidationError},
    http::CallFailure,
};

/// A call to Appwrite that did not do what it should.
///
/// `Display` names the call, what happened and the setting to look at. Neither it nor `Debug` nor
/// the [`source`](StdError::source) contains a token, a password, an e-mail address, or Appwrite's
/// own message, which may quote one.
#[derive(Debug)]
pub struct AppwriteError {
    kind: AppwriteErrorKind,
    call: Call,
    advice: &'static str,
    status: Option<StatusCode>,
    named: Option<String>,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

/// The cases a caller of Appwrite must tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AppwriteErrorKind {
    /// Appwrite said no: an unknown session, wrong credentials, a recovery secret that is wrong or
    /// was used. An application answers 401.
    Refused,
    /// Appwrite knows the user and does not let them in. An application answers 403.
    Forbidden(ForbiddenReason),
    /// An e-mail address or a password does not have the form that Appwrite wants. An application
    /// answers 400.
    InvalidArgument,
    /// Too many calls; see [`retry_after`](AppwriteError::retry_after).
    Throttled,
    /// No complete answer before the timeout.
    Timeout,
    /// No connection, or one that ended early.
    Transport,
    /// Appwrite, or a proxy in front of it, answered 5xx.
    ServerError,
    /// An answer that is not one of Appwrite's, or not one to this question.
    UnexpectedAnswer,
    /// An answer of more than 256 KiB.
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

    pub(super) fn new(kind: AppwriteErrorKind, call: Call, advice: &'static str) -> Self {
        Self {
            kind,
            call,
            advice,
            status: None,
            named: None,
            retry_after: None,
            source: None,
        }
    }

    pub(super) fn unexpected(call: Call, advice: &'static str) -> Self {
        Self::new(AppwriteErrorKind::UnexpectedAnswer, call, advice)
    }

    pub(super) fn unanswered(call: Call, failure: CallFailure) -> Self {
        let (kind, advice, source) = match failure {
            CallFailure::Timeout(source) => (
                AppwriteErrorKind::Timeout,
                "no answer in time; check that APPWRITE_ENDPOINT can be reached from here and is \
                 not overloaded, or raise the validator's timeout",
                Some(source),
            ),
            CallFailure::Transport(source) => (
                AppwriteErrorKind::Transport,
                "no connection, or it ended early; check that Appwrite runs, that \
                 APPWRITE_ENDPOINT names its host, port and scheme, and the proxy settings",
                Some(source),
            ),
            CallFailure::TooLong => (
                AppwriteErrorKind::BodyTooLarge,
                "the answer is longer than 256 KiB; check that APPWRITE_ENDPOINT is Appwrite's",
                None,
            ),
        };
        Self {
            source,
            ..Self::new(kind, call, advice)
        }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Keeps the `type` of the answer for the log, if it looks like one: it is foreign text.
    pub(super) fn with_type(mut self, named: Option<&str>) -> Self {
        self.named = named
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
    pub(super) fn or_weightier(self, other: Self) -> Self {
        // Of two calls that are throttled, the one to wait longer for.
        if (other.weight(), other.retry_after) > (self.weight(), self.retry_after) {
            other
        } else {
            self
        }
    }

    fn weight(&self) -> u8 {
        match self.kind {
            AppwriteErrorKind::Forbidden(_) => 3,
            AppwriteErrorKind::Refused => 2,
            AppwriteErrorKind::InvalidArgument | AppwriteErrorKind::Misconfigured => 1,
            AppwriteErrorKind::Throttled
            | AppwriteErrorKind::Timeout
            | AppwriteErrorKind::Transport
            | AppwriteErrorKind::ServerError
            | AppwriteErrorKind::UnexpectedAnswer
            | AppwriteErrorKind::BodyTooLarge => 0,
        }
    }
}

/// Refusals lose their source: what a client did is no news for an operator. All else keeps it.
impl From<AppwriteError> for ValidationError {
    fn from(error: AppwriteError) -> Self {
        match error.kind {
            AppwriteErrorKind::Refused => Self::invalid(),
            AppwriteErrorKind::Forbidden(reason) => Self::forbidden(reason),
            // A validation has no arguments but those of our configuration.
            AppwriteErrorKind::InvalidArgument | AppwriteErrorKind::Misconfigured => {
                Self::misconfigured(error)
            }
            AppwriteErrorKind::Throttled
            | AppwriteErrorKind::Timeout
            | AppwriteErrorKind::Transport
            | AppwriteErrorKind::ServerError
            | AppwriteErrorKind::UnexpectedAnswer
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
        write!(f, "Appwrite, {}: {}", self.call, self.advice)?;
        match (self.status, &self.named) {
            (Some(status), Some(named)) => write!(f, " ({} {named})", status.as_u16()),
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
