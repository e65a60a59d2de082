//! Rejections: status, challenge, reason and body.
//!
//! A rejection is a response and never an error, so the service's error type is that of the inner
//! service. Status and `WWW-Authenticate` follow [RFC 6750, section 3]. The reason is in the
//! response's extensions, for logs and metrics of outer layers.
//!
//! A request that can be a gRPC call (see `grpc.rs`) gets a trailers-only response instead, with
//! `grpc-status` 16 for 401, 7 for 403, 3 for 400 and 14 for 503.
//!
//! [RFC 6750, section 3]: https://www.rfc-editor.org/rfc/rfc6750#section-3

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use crate::{
    cache::Denied,
    token::{AuthScheme, TokenError, TokenSource},
    validator::{ForbiddenReason, ValidationErrorKind},
};

/// `Retry-After` of a 503 response, unless the identity provider sent one.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why a request was rejected. It is in the extensions of the response. In `optional` mode it is in
/// the extensions of a request that was passed on without a user.
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
    challenges: Challenges,
    /// Further parameters of the challenge.
    details: Option<Arc<str>>,
}

/// Which authorization schemes a response names, by the token source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Challenges {
    has_bearer: bool,
    has_dpop: bool,
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
    pub(crate) fn new(kind: RejectionKind) -> Self {
        Self {
            kind,
            retry_after: RETRY_AFTER,
            challenges: Challenges {
                has_bearer: true,
                has_dpop: false,
            },
            details: None,
        }
    }

    /// Names the schemes of the source in the challenge. A source that reads no header
    /// `Authorization` gets `Bearer`, because a response with 401 needs a challenge.
    pub(crate) fn with_source(mut self, source: &TokenSource) -> Self {
        let has_dpop = source.reads(AuthScheme::Dpop);
        self.challenges = Challenges {
            has_bearer: !has_dpop || source.reads(AuthScheme::Bearer),
            has_dpop,
        };
        self
    }

    /// Returns the kind of rejection.
    #[must_use]
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// Returns the status of the response: 400, 401, 403 or 503. A gRPC client receives it as
    /// `grpc-status`.
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

    /// Returns the values of `WWW-Authenticate`.
    pub(crate) fn challenges(&self) -> impl Iterator<Item = Cow<'static, str>> {
        let [bearer, dpop] = match self.kind {
            RejectionKind::Malformed(_) => [
                r#"Bearer error="invalid_request""#,
                r#"DPoP error="invalid_request""#,
            ],
            RejectionKind::Missing | RejectionKind::UnsupportedScheme => ["Bearer", "DPoP"],
            RejectionKind::Invalid | RejectionKind::Revoked => [
                r#"Bearer error="invalid_token""#,
                r#"DPoP error="invalid_token""#,
            ],
            RejectionKind::InsufficientAuthentication => [
                r#"Bearer error="insufficient_user_authentication""#,
                r#"DPoP error="insufficient_user_authentication""#,
            ],
            RejectionKind::Forbidden(ForbiddenReason::InsufficientScope) => [
                r#"Bearer error="insufficient_scope""#,
                r#"DPoP error="insufficient_scope""#,
            ],
            RejectionKind::Forbidden(_) | RejectionKind::Unavailable => ["", ""],
        };
        let Challenges {
            has_bearer,
            has_dpop,
        } = self.challenges;
        let challenges = [(has_bearer, bearer), (has_dpop, dpop)].into_iter();
        let details = self.details.as_deref();
        challenges
            .filter(|(is_named, text)| *is_named && !text.is_empty())
            .map(move |(_, text)| match details {
                Some(details) => format!("{text}, {details}").into(),
                None => text.into(),
            })
    }

    pub(crate) fn title(&self) -> String {
        match self.kind {
            RejectionKind::Malformed(error) => error.to_string(),
            RejectionKind::Missing => "a session token is required".to_owned(),
            RejectionKind::UnsupportedScheme => TokenError::UnsupportedScheme.to_string(),
            RejectionKind::Invalid | RejectionKind::Revoked => {
                "the session is invalid or has expired".to_owned()
            }
            RejectionKind::InsufficientAuthentication => {
                "the user must authenticate again, or with another method".to_owned()
            }
            RejectionKind::Forbidden(_) => "access denied".to_owned(),
            RejectionKind::Unavailable => {
                "the session could not be validated, try again later".to_owned()
            }
        }
    }
}

impl From<Denied> for Rejection {
    fn from(denied: Denied) -> Self {
        let error = match denied {
            Denied::Revoked => return Self::new(RejectionKind::Revoked),
            Denied::InsufficientAuthentication(details) => {
                let details = Some(details).filter(|details| !details.is_empty());
                let rejection = Self::new(RejectionKind::InsufficientAuthentication);
                return Self {
                    details,
                    ..rejection
                };
            }
            Denied::Validation(error) => error,
        };
        let mut rejection = Self::new(match error.kind() {
            ValidationErrorKind::Invalid => RejectionKind::Invalid,
            ValidationErrorKind::Forbidden(reason) => RejectionKind::Forbidden(reason),
            ValidationErrorKind::Unavailable | ValidationErrorKind::Misconfigured => {
                RejectionKind::Unavailable
            }
        });
        rejection.retry_after = error.retry_after().unwrap_or(RETRY_AFTER);
        rejection
    }
}

/// Body of a rejection, created by the function that is passed to
/// [`with_rejection_body`](crate::SessionCacheLayer::with_rejection_body).
#[derive(Clone, Debug, Default)]
pub struct RejectionBody {
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) bytes: Bytes,
}

impl RejectionBody {
    /// Creates an empty body. This is the default.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Creates a body with any content type.
    #[must_use]
    pub fn new(content_type: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self {
            content_type: Some(content_type),
            bytes: bytes.into(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.content_type.is_none() && self.bytes.is_empty()
    }

    /// Creates problem details as JSON ([RFC 9457]), with the member `reason` in addition to the
    /// standard ones.
    ///
    /// [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457
    #[must_use]
    pub fn problem_json(rejection: &Rejection, _request: &HeaderMap) -> Self {
        let problem = json!({
            "type": "about:blank",
            "title": rejection.status().canonical_reason(),
            "status": rejection.status().as_u16(),
            "detail": rejection.title(),
            "reason": rejection.reason(),
        });
        Self::new(
            HeaderValue::from_static("application/problem+json"),
            problem.to_string(),
        )
    }
}
