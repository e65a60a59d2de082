//! Rejections: status, challenge, reason and response.
//!
//! A rejection is a response and never an error, so the service's error type is that of the inner
//! service. Status and `WWW-Authenticate` follow [RFC 6750, section 3]. The reason is in the
//! response's extensions, for logs and metrics of outer layers.
//!
//! A request that can be a gRPC call (see `grpc.rs`) gets a trailers-only response instead, with
//! `grpc-status` 16 for 401, 7 for 403, 3 for 400 and 14 for 503.
//!
//! [RFC 6750, section 3]: https://www.rfc-editor.org/rfc/rfc6750#section-3

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{challenge::Challenge, grpc};
use crate::{
    cache::Denied,
    token::{RequestHead, Schemes, TokenError},
    validator::{ForbiddenReason, ValidationErrorKind},
};

/// `Retry-After` of a 503 response, unless the identity provider sent one.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why a request was rejected. It is in the extensions of the response. In `optional` mode it is in
/// the extensions of a request that was passed on without a user. `Display` shows a sentence for
/// the client, which contains nothing from the request.
///
/// If several layers in `optional` mode found no user, the more telling reason remains: forbidden
/// before an authentication that is not sufficient, this before invalid or revoked, and these before
/// a scheme that is not read and a missing token.
///
/// ```
/// # use tower_session_cache::Rejection;
/// fn log<B>(response: &http::Response<B>) {
///     if let Some(rejection) = response.extensions().get::<Rejection>() {
///         println!("refused: {}", rejection.reason());
///     }
/// }
/// # log(&http::Response::new(()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    kind: RejectionKind,
    retry_after: Duration,
    schemes: Schemes,
    challenge: Option<Arc<Challenge>>,
    /// Parameters of the challenge that belong to this rejection, in the form of the header.
    details: Option<Arc<str>>,
    /// Whether a gRPC call also gets a plain HTTP response.
    http_only: bool,
}

/// The kinds of [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The credential is malformed: 400 with `error="invalid_request"`.
    Malformed(TokenError),
    /// There is no session token: 401 without an error code.
    Missing,
    /// The token was sent with an authorization scheme that the layer does not read: 401 without an
    /// error code ([RFC 6750, section 3.1]). The challenge names the schemes that it reads.
    ///
    /// [RFC 6750, section 3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1
    UnsupportedScheme,
    /// The identity provider rejected the token: 401 with `error="invalid_token"`.
    Invalid,
    /// The application has revoked the token: 401 with `error="invalid_token"`.
    Revoked,
    /// The session is valid, but its user did not authenticate as recently or in the way that the
    /// route requires: 401 with `error="insufficient_user_authentication"` and the requirement
    /// ([RFC 9470](https://www.rfc-editor.org/rfc/rfc9470)). The client asks the user to
    /// authenticate again.
    InsufficientAuthentication,
    /// The user is known, but access is denied: 403.
    Forbidden(ForbiddenReason),
    /// The token could not be validated: 503 with `Retry-After`.
    Unavailable,
}

impl Rejection {
    pub(crate) fn new(kind: RejectionKind, schemes: Schemes) -> Self {
        Self {
            kind,
            retry_after: RETRY_AFTER,
            schemes,
            challenge: None,
            details: None,
            http_only: false,
        }
    }

    pub(crate) fn denied(denied: Denied, schemes: Schemes) -> Self {
        let error = match denied {
            Denied::Revoked => return Self::new(RejectionKind::Revoked, schemes),
            Denied::InsufficientAuthentication(details) => {
                let details = Some(details).filter(|details| !details.is_empty());
                let kind = RejectionKind::InsufficientAuthentication;
                return Self::new(kind, schemes).with_details(details);
            }
            Denied::Validation(error) => error,
        };
        let kind = match error.kind() {
            ValidationErrorKind::Invalid => RejectionKind::Invalid,
            ValidationErrorKind::Forbidden(reason) => RejectionKind::Forbidden(reason),
            ValidationErrorKind::Unavailable | ValidationErrorKind::Misconfigured => {
                RejectionKind::Unavailable
            }
        };
        Self {
            retry_after: error.retry_after().unwrap_or(RETRY_AFTER),
            ..Self::new(kind, schemes)
        }
    }

    pub(super) fn with_details(mut self, details: Option<Arc<str>>) -> Self {
        self.details = details;
        self
    }

    pub(super) fn with_form(self, http_only: bool, challenge: Option<Arc<Challenge>>) -> Self {
        Self {
            http_only,
            challenge,
            ..self
        }
    }

    /// Returns the rejection that says more about a request: this one, or that of an outer layer,
    /// which has passed the request on.
    pub(crate) fn or_more_telling(self, outer: Option<&Self>) -> Self {
        match outer {
            Some(outer) if outer.rank() > self.rank() => outer.clone(),
            _ => self,
        }
    }

    fn rank(&self) -> u8 {
        match self.kind {
            RejectionKind::Missing => 0,
            RejectionKind::UnsupportedScheme => 1,
            RejectionKind::Invalid | RejectionKind::Revoked => 2,
            RejectionKind::InsufficientAuthentication => 3,
            RejectionKind::Forbidden(_) => 4,
            // No layer passes such a request on.
            RejectionKind::Malformed(_) | RejectionKind::Unavailable => 5,
        }
    }

    /// Returns the kind of rejection.
    #[must_use]
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// Returns the status of the response: 400, 401, 403 or 503. A gRPC client receives
    /// [`grpc_code`](Self::grpc_code) instead.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.kind {
            RejectionKind::Malformed(_) => StatusCode::BAD_REQUEST,
            RejectionKind::Missing
            | RejectionKind::UnsupportedScheme
            | RejectionKind::Invalid
            | RejectionKind::Revoked
            | RejectionKind::InsufficientAuthentication => StatusCode::UNAUTHORIZED,
            RejectionKind::Forbidden(_) => StatusCode::FORBIDDEN,
            RejectionKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns a short, stable word for logs, metrics and problem bodies. It contains nothing from
    /// the request.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self.kind {
            RejectionKind::Malformed(_) => "malformed_token",
            RejectionKind::Missing => "missing_token",
            RejectionKind::UnsupportedScheme => "unsupported_scheme",
            RejectionKind::Invalid => "invalid_token",
            RejectionKind::Revoked => "revoked_token",
            RejectionKind::InsufficientAuthentication => "insufficient_authentication",
            RejectionKind::Forbidden(reason) => reason.as_str(),
            RejectionKind::Unavailable => "unavailable",
        }
    }

    /// Returns the time after which the client may retry. Set for 503 only.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.kind == RejectionKind::Unavailable).then_some(self.retry_after)
    }

    /// Returns `true` if the token is missing, rejected or forbidden, so that `optional` mode
    /// passes the request on.
    pub(crate) fn is_anonymous(&self) -> bool {
        match self.kind {
            RejectionKind::Missing
            | RejectionKind::UnsupportedScheme
            | RejectionKind::Invalid
            | RejectionKind::Revoked
            | RejectionKind::InsufficientAuthentication
            | RejectionKind::Forbidden(_) => true,
            RejectionKind::Malformed(_) | RejectionKind::Unavailable => false,
        }
    }

    /// Returns the response that the layer sends unless
    /// [`with_rejection_response`](crate::SessionCacheLayer::with_rejection_response) is called:
    /// status, challenge and `Retry-After`, with an empty body. A request that can be a gRPC call
    /// gets the status 200 and `grpc-status`, unless
    /// [`http_only`](crate::SessionCacheLayer::http_only) is called.
    #[must_use]
    pub fn response(&self, head: &RequestHead<'_>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        match self.grpc_content_type(head) {
            Some(content_type) => {
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, content_type);
                grpc::insert_status(self.grpc_code(), &self.to_string(), headers);
            }
            None => *response.status_mut() = self.status(),
        }
        self.insert_headers(response.headers_mut());
        response
    }

    /// Returns the same as [`response`](Self::response) with problem details as JSON ([RFC 9457])
    /// and the member `reason` in addition to the standard ones. A gRPC call gets no body.
    ///
    /// Use it as `with_rejection_response(Rejection::problem_json)`.
    ///
    /// [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457
    #[must_use]
    pub fn problem_json(&self, head: &RequestHead<'_>) -> Response<Bytes> {
        let mut response = self.response(head);
        if self.grpc_content_type(head).is_none() {
            let problem = json!({
                "type": "about:blank",
                "title": self.status().canonical_reason(),
                "status": self.status().as_u16(),
                "detail": self.to_string(),
                "reason": self.reason(),
            });
            *response.body_mut() = problem.to_string().into();
            let content_type = HeaderValue::from_static("application/problem+json");
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
        }
        response
    }

    /// Returns the gRPC status code: 3 (`INVALID_ARGUMENT`) for 400, 16 (`UNAUTHENTICATED`) for
    /// 401, 7 (`PERMISSION_DENIED`) for 403 and 14 (`UNAVAILABLE`) for 503.
    ///
    /// With tonic: `Status::new(rejection.grpc_code().into(), rejection.to_string())`.
    #[must_use]
    pub fn grpc_code(&self) -> i32 {
        match self.kind {
            RejectionKind::Malformed(_) => 3,
            RejectionKind::Missing
            | RejectionKind::UnsupportedScheme
            | RejectionKind::Invalid
            | RejectionKind::Revoked
            | RejectionKind::InsufficientAuthentication => 16,
            RejectionKind::Forbidden(_) => 7,
            RejectionKind::Unavailable => 14,
        }
    }

    fn grpc_content_type(&self, head: &RequestHead<'_>) -> Option<HeaderValue> {
        (!self.http_only)
            .then(|| grpc::response_content_type(head))
            .flatten()
    }

    fn insert_headers(&self, headers: &mut HeaderMap) {
        for challenge in self.challenges() {
            headers.append(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(after) = self.retry_after() {
            // Rounded up, because a client that retries too early is rejected again.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }

    /// Returns the values of `WWW-Authenticate`.
    fn challenges(&self) -> impl Iterator<Item = HeaderValue> {
        let (has_challenge, error) = match self.kind {
            RejectionKind::Malformed(_) => (true, Some("invalid_request")),
            RejectionKind::Missing | RejectionKind::UnsupportedScheme => (true, None),
            RejectionKind::Invalid | RejectionKind::Revoked => (true, Some("invalid_token")),
            RejectionKind::InsufficientAuthentication => {
                (true, Some("insufficient_user_authentication"))
            }
            RejectionKind::Forbidden(ForbiddenReason::InsufficientScope) => {
                (true, Some("insufficient_scope"))
            }
            RejectionKind::Forbidden(_) | RejectionKind::Unavailable => (false, None),
        };
        let schemes = [
            (self.schemes.has_bearer, "Bearer"),
            (self.schemes.has_dpop, "DPoP"),
        ];
        let named = schemes
            .into_iter()
            .filter(move |(is_named, _)| *is_named && has_challenge);
        let challenge = self.challenge.as_deref().cloned().unwrap_or_default();
        let details = self.details.clone();
        named.filter_map(move |(_, scheme)| challenge.header(scheme, error, details.as_deref()))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RejectionKind::Malformed(error) => error.fmt(f),
            RejectionKind::Missing => f.write_str("a session token is required"),
            RejectionKind::UnsupportedScheme => TokenError::UnsupportedScheme.fmt(f),
            RejectionKind::Invalid | RejectionKind::Revoked => {
                f.write_str("the session is invalid or has expired")
            }
            RejectionKind::InsufficientAuthentication => {
                f.write_str("the user must authenticate again, or with another method")
            }
            RejectionKind::Forbidden(_) => f.write_str("access denied"),
            RejectionKind::Unavailable => {
                f.write_str("the session could not be validated, try again later")
            }
        }
    }
}
