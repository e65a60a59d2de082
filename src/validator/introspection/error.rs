//! Errors of introspection, with advice for the operator.

use http::StatusCode;

use crate::validator::{
    error::ValidationError,
    http::{Failure, HttpError},
};

pub(super) fn failure(advice: &'static str) -> Failure {
    Failure::new("token introspection", advice)
}

/// Creates an error for a call without a complete response. `status` is set if only the body of the
/// response is missing.
pub(super) fn unanswered(error: HttpError, status: Option<StatusCode>) -> ValidationError {
    let advice = match error {
        HttpError::Timeout(_) => {
            "no answer in time; check that the endpoint can be reached from here and is not \
             overloaded, or raise the validator's timeout"
        }
        HttpError::Transport(_) => {
            "no connection, or it ended early; check that the server runs, that the endpoint \
             names its host, port and scheme, and the proxy settings"
        }
        HttpError::TooLong => {
            "the answer is longer than 256 KiB; check the endpoint, and which claims the server \
             puts into its answers"
        }
    };
    ValidationError::unavailable(failure(advice).with_error(error, status))
}
