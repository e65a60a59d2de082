//! Errors of introspection, with advice for the operator.

use std::{error::Error as StdError, fmt};

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
            "no complete response within the timeout; check that `endpoint` is reachable from this \
             host and not overloaded, or increase `timeout` of the validator"
        }
        HttpError::Connect(_) | HttpError::Transport(_) => {
            "could not connect, or the connection was closed early; check that the server is \
             running, that `endpoint` has its scheme, host and port, and the proxy settings"
        }
        HttpError::TooLong => {
            "the response is longer than 256 KiB; check `endpoint`, and reduce the claims that the \
             server includes in its responses"
        }
    };
    let failure = failure(advice).with_error(error, status);
    let is_unconnected = failure.is_unconnected();
    let failed = ValidationError::unavailable(failure);
    if is_unconnected {
        failed.for_all_tokens()
    } else {
        failed
    }
}

/// The source of a rejection by the server, which is logged if the server rejects all tokens.
#[derive(Debug)]
pub(super) struct Inactive {
    pub(super) endpoint: String,
    pub(super) client: String,
}

impl fmt::Display for Inactive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, client } = self;
        let client = match &**client {
            "" => "no client",
            client => client,
        };
        write!(
            f,
            "the endpoint {endpoint}, called as {client}, calls the tokens inactive; check that the \
             `aud` of the tokens contains this client, which requires an audience mapper with \
             Keycloak, and that the client is permitted to introspect tokens"
        )
    }
}

impl StdError for Inactive {}
