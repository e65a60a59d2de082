//! Interpretation of the endpoint's responses. It does no I/O.

use std::fmt;

use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use super::error::{failure, unanswered};
use crate::validator::{
    error::ValidationError,
    http::{HttpResponse, json_object, rate_limit_wait, retry_after},
};

/// The latest and the earliest second that a record can contain: the end of the year 9999 and the
/// start of the year 1.
pub(super) const LAST: i64 = 253_402_300_799;
const FIRST: i64 = -62_135_596_800;
/// A larger number is a time in milliseconds: in the year 2001, or in the year 33658 as seconds.
const MIN_MILLISECONDS: i64 = 1_000_000_000_000;

/// Classifies a response by its status and the error code of its body.
/// [`IntrospectionResponse::parse`] reads the body of a successful response.
///
/// A server that follows [RFC 7662, section 2.2] rejects a token by `active` only. Some servers
/// respond with an error code instead. Such a response rejects the token only if the server
/// introspects other tokens. A response without an error code may be that of a proxy during a
/// deployment, so it is an outage.
///
/// [RFC 7662, section 2.2]: https://www.rfc-editor.org/rfc/rfc7662#section-2.2
pub(crate) fn classify(
    response: HttpResponse,
    sends_bearer: bool,
    now: DateTime<Utc>,
) -> Result<Vec<u8>, ValidationError> {
    let HttpResponse {
        status,
        headers,
        body,
    } = response;
    if status == StatusCode::OK {
        if is_signed(&headers) {
            return Err(ValidationError::misconfigured(failure(
                "the response is signed (RFC 9701), which is not supported; turn off signed \
                 introspection responses for this client at the server",
            ))
            .for_all_tokens());
        }
        return body.map_err(|error| unanswered(error, Some(status)));
    }
    let code = body.ok().and_then(|body| code(&body));
    let failure = |advice| failure(advice).with_response(status, code.as_deref());
    let misconfigured = |advice| ValidationError::misconfigured(failure(advice));
    let unavailable = |advice| ValidationError::unavailable(failure(advice));
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(unavailable(
            "rate limit exceeded; reduce the number of calls, or raise the server's rate limit for \
             this client",
        )
        .with_retry_after(rate_limit_wait(&headers, now)));
    }
    if status.is_server_error() {
        return Err(unavailable(
            "the server failed; check its logs and those of the proxies in front of it",
        )
        .with_retry_after(retry_after(&headers, now)));
    }
    Err(match code.as_deref() {
        Some(code) if is_rejection(status) && is_code(code) => match code {
            "invalid_client" => misconfigured(CREDENTIALS).for_all_tokens(),
            // The credentials of this service are meant (RFC 7662, section 2.3), or its right to
            // introspect this token.
            "invalid_token" if sends_bearer => misconfigured(CREDENTIALS),
            "unauthorized_client" | "insufficient_scope" => misconfigured(CREDENTIALS),
            // Gluu and Janssen send `access_denied` for an unknown token.
            "access_denied" | "invalid_grant"
            | "invalid_request"
            | "invalid_token"
            | "request_unauthorized"
            | "token_inactive"
            | "unsupported_token_type" => misconfigured(
                "the server rejected the request; if this concerns all tokens, check `endpoint`, \
                 that the client is permitted to introspect tokens, and whether the server requires \
                 the client ID and secret by `IntrospectionAuth::basic` or `IntrospectionAuth::post`",
            )
            .blaming_token(),
            _ => misconfigured(
                "the server rejected the request; check `endpoint`, the client's credentials, and \
                 that the client is permitted to introspect tokens",
            ),
        },
        _ if status.is_redirection() => unavailable(
            "the response is a redirect, which is not followed; check that no proxy responds \
             instead of the server, or set `endpoint` to the target",
        ),
        _ => unavailable(
            "the response has no OAuth error code; check `endpoint`, the client's credentials, and \
             that no proxy responds instead of the server",
        ),
    })
}

const CREDENTIALS: &str = "the server rejected the credentials of this service; check the client ID \
    and secret or the bearer token, the authentication method, and that the client is permitted to \
    introspect tokens";

/// Returns `true` for a status with which a server rejects a request for good.
fn is_rejection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403..=405 | 410)
}

/// Returns `true` for a text that has the form of an error code. Proxies and frameworks send a
/// sentence, such as `Not Found`, under the same name.
fn is_code(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'))
}

/// Returns `true` for a signed response. A server can be configured to send one even if the client
/// has not requested it.
fn is_signed(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    ["application/token-introspection+jwt", "application/jwt"]
        .iter()
        .any(|signed| kind.eq_ignore_ascii_case(signed))
}

/// Returns the `error` of [RFC 6749, section 5.2].
///
/// [RFC 6749, section 5.2]: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
fn code(body: &[u8]) -> Option<String> {
    match json_object(body)?.remove("error")? {
        Value::String(code) => Some(code),
        _ => None,
    }
}

/// The server's response for an active token. [`tier`](crate::IntrospectionValidatorBuilder::tier)
/// chooses the tier by it.
///
/// `Debug` omits the contents, because they may identify a person.
pub struct IntrospectionResponse(pub(super) Map<String, Value>);

impl IntrospectionResponse {
    /// Parses a response. Returns `None` for a token that is not active.
    pub(crate) fn parse(body: &[u8]) -> Result<Option<Self>, ValidationError> {
        let claims = json_object(body);
        let active = claims
            .as_ref()
            .and_then(|claims| claims.get("active")?.as_bool());
        match (claims, active) {
            (Some(claims), Some(true)) => Ok(Some(Self(claims))),
            (Some(_), Some(false)) => Ok(None),
            _ => Err(ValidationError::unavailable(failure(
                "the response is not a JSON object with a boolean `active`; check `endpoint`, and \
                 that no proxy responds instead",
            ))),
        }
    }

    /// Returns all claims of the response: those of [RFC 7662, section 2.2], under their names
    /// there, and those that the server adds.
    ///
    /// # Security
    ///
    /// Some servers let users edit the source of a claim. A tier taken from such a claim lets users
    /// promote themselves.
    ///
    /// [RFC 7662, section 2.2]: https://www.rfc-editor.org/rfc/rfc7662#section-2.2
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Returns a claim if it is a non-empty text.
    #[must_use]
    pub fn str_claim(&self, name: &str) -> Option<&str> {
        let text = self.0.get(name)?.as_str();
        text.filter(|text| !text.is_empty())
    }

    /// Returns a text by the claim's name, or by names joined by `.` for a nested claim.
    pub(super) fn path(&self, path: &str) -> Option<&str> {
        if let Some(text) = self.str_claim(path) {
            return Some(text);
        }
        let mut names = path.split('.');
        let first = self.0.get(names.next()?)?;
        let text = names.try_fold(first, |value, name| value.get(name))?;
        text.as_str().filter(|text| !text.is_empty())
    }

    /// Returns the scopes of the token, which are the words of `scope`.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        scopes(&self.0)
    }

    /// Returns `true` if the provider has verified the e-mail address. Some servers write the
    /// boolean as a text.
    pub(super) fn is_email_verified(&self) -> bool {
        match self.0.get("email_verified") {
            Some(Value::Bool(is_verified)) => *is_verified,
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }

    /// Returns a time in seconds since 1970 ([RFC 7519, section 2], fractions allowed), clamped to
    /// the years that a record can contain. Null counts as absent. Some servers send the
    /// number as a text, or milliseconds, which are recognized by a number that is beyond these years
    /// as seconds.
    ///
    /// [RFC 7519, section 2]: https://www.rfc-editor.org/rfc/rfc7519#section-2
    pub(super) fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, ValidationError> {
        let seconds = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(time) => time
                .as_i64()
                // A cast from a float saturates at both ends.
                .or_else(|| time.as_f64().map(|seconds| seconds.floor() as i64))
                .or_else(|| time.as_str()?.parse().ok()),
        };
        let seconds = seconds.map(|seconds| match seconds {
            MIN_MILLISECONDS.. => seconds / 1_000,
            _ => seconds,
        });
        let time =
            seconds.and_then(|seconds| DateTime::from_timestamp(seconds.clamp(FIRST, LAST), 0));
        time.map(Some).ok_or_else(|| {
            ValidationError::unavailable(failure(
                "`exp` or `nbf` of an active token is not a number; configure the server to send \
                 seconds since 1970",
            ))
        })
    }
}

/// Returns the words of `scope`. It is a single text in the RFC, and an array on some servers.
pub(super) fn scopes(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    texts(claims.get("scope"))
        .flat_map(|text| text.split(' '))
        .filter(|scope| !scope.is_empty())
}

/// Returns the audiences. `aud` may contain one or several.
pub(super) fn audiences(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    texts(claims.get("aud"))
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let values = match value {
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    values.iter().filter_map(Value::as_str)
}

impl fmt::Debug for IntrospectionResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntrospectionResponse(…)")
    }
}

#[cfg(test)]
mod tests;
