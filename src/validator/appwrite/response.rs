//! Interpretation of Appwrite's responses. It does no I/O, so each row of the table is a unit test.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::{
    error::{AppwriteError, AppwriteErrorKind},
    operation::Operation,
    user::{AppwriteUser, Tier},
};
use crate::{
    model::UserData,
    token::SessionToken,
    validator::{
        error::ForbiddenReason,
        http::{json_object, rate_limit_wait, retry_after},
    },
};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Classifies a response by its status and, if that is not sufficient, by the `type` of its body.
///
/// Only Appwrite's own JSON can reject a token: a proxy's 401 must not log anyone out.
pub(crate) fn classify(
    operation: Operation,
    status: StatusCode,
    headers: &HeaderMap,
    body: Result<Vec<u8>, AppwriteError>,
    now: DateTime<Utc>,
) -> Result<Vec<u8>, AppwriteError> {
    if status == operation.success() {
        return body;
    }
    let error_type = body.as_ref().ok().and_then(|body| error_type_of(body));
    let error_type = error_type.as_deref();
    let error = |kind, advice| {
        AppwriteError::new(kind, operation, advice).with_response(status, error_type)
    };

    if status == StatusCode::TOO_MANY_REQUESTS {
        let advice = "rate limit exceeded; reduce the number of calls, or raise Appwrite's rate \
                      limit for this host";
        let wait = rate_limit_wait(headers, now).into();
        return Err(error(AppwriteErrorKind::RateLimited, advice).with_retry_after(wait));
    }
    if status.is_server_error() {
        let advice = "the server failed; check the logs of Appwrite and of the proxies in front of \
                      it";
        let wait = retry_after(headers, now);
        return Err(error(AppwriteErrorKind::ServerError, advice).with_retry_after(wait));
    }
    if status.is_redirection() {
        let advice = "the response is a redirect, which is not followed; check that no proxy \
                      responds instead of Appwrite, or set APPWRITE_ENDPOINT to the target";
        return Err(error(AppwriteErrorKind::UnexpectedResponse, advice));
    }
    // From here on the body decides, so it must have been read.
    body?;
    let known = error_type
        .filter(|_| status.is_client_error())
        .and_then(|error_type| classify_error_type(operation, status, error_type));
    let (kind, advice) = known.unwrap_or((
        AppwriteErrorKind::UnexpectedResponse,
        "unexpected response; check that APPWRITE_ENDPOINT is the endpoint of Appwrite and that no \
         proxy responds instead",
    ));
    Err(error(kind, advice))
}

/// Returns the `type` of an Appwrite error, an object that also has an integer `code`.
///
/// The message is not read, because it may change and may contain an e-mail address.
fn error_type_of(body: &[u8]) -> Option<String> {
    let mut problem = json_object(body)?;
    problem.get("code")?.as_u64()?;
    match problem.remove("type")? {
        Value::String(error_type) => Some(error_type),
        _ => None,
    }
}

fn classify_error_type(
    operation: Operation,
    status: StatusCode,
    error_type: &str,
) -> Option<(AppwriteErrorKind, &'static str)> {
    use AppwriteErrorKind::{Forbidden, InvalidArgument, Misconfigured, Unauthorized};

    const NOT_IN: &str = "the user is known, but access is denied";
    let has_arguments = matches!(operation, Operation::Login | Operation::Recovery);

    Some(match error_type {
        "general_unauthorized_scope"
        | "user_jwt_invalid"
        | "user_unauthorized"
        | "user_session_not_found"
        | "user_not_found" => (Unauthorized, "the session or the user does not exist"),
        "user_invalid_credentials" if operation == Operation::Login => {
            (Unauthorized, "the e-mail address or the password is wrong")
        }
        "user_invalid_token" if operation == Operation::Recovery => (
            Unauthorized,
            "the recovery secret is wrong or has been used",
        ),
        "user_blocked" => (Forbidden(ForbiddenReason::Blocked), NOT_IN),
        "user_password_reset_required" => {
            (Forbidden(ForbiddenReason::PasswordResetRequired), NOT_IN)
        }
        "user_more_factors_required" => (Forbidden(ForbiddenReason::MfaRequired), NOT_IN),
        "project_not_found" => (
            Misconfigured,
            "the project does not exist; check APPWRITE_PROJECT_ID, and that APPWRITE_ENDPOINT is \
             the server or region of the project",
        ),
        "general_route_not_found" => (
            Misconfigured,
            "the route does not exist; check that APPWRITE_ENDPOINT ends in the /v1 of Appwrite's \
             API",
        ),
        "general_service_disabled" | "general_api_disabled" => (
            Misconfigured,
            "the account service or the REST API is disabled; enable it in the settings of the \
             project APPWRITE_PROJECT_ID",
        ),
        "general_unknown_origin" => (
            Misconfigured,
            "the origin is unknown; register it as a platform of the project APPWRITE_PROJECT_ID, \
             or make sure that no proxy adds an Origin header",
        ),
        "user_jwt_and_cookie_set" => (
            Misconfigured,
            "Appwrite received two credentials; check which headers the proxies in front of \
             APPWRITE_ENDPOINT add",
        ),
        "general_argument_invalid" | "password_recently_used" | "password_personal_data"
            if has_arguments =>
        {
            (
                InvalidArgument,
                "the e-mail address or the password is not acceptable",
            )
        }
        _ if status == StatusCode::BAD_REQUEST => (
            Misconfigured,
            "Appwrite rejected the request as malformed; check APPWRITE_ENDPOINT and \
             APPWRITE_PROJECT_ID, and that the server is Appwrite 1.5 or newer",
        ),
        _ => return None,
    })
}

/// Reads a user. Only the members that are needed are parsed, because others vary between versions.
pub(crate) fn account(
    body: &[u8],
    hint: Option<&str>,
    tier: &Tier,
) -> Result<Account, AppwriteError> {
    let mut user = object(Operation::Account, body)?;
    let id = text(&user, "$id");
    if id.is_empty() {
        return Err(not_appwrites(Operation::Account));
    }
    if let Some(hint) = hint {
        same_user(Operation::Account, id, hint)?;
    }
    match user.get("status").and_then(Value::as_bool) {
        Some(true) => {}
        Some(false) => {
            let kind = AppwriteErrorKind::Forbidden(ForbiddenReason::Blocked);
            return Err(AppwriteError::new(
                kind,
                Operation::Account,
                "the user is blocked",
            ));
        }
        None => return Err(not_appwrites(Operation::Account)),
    }
    let is_reachable = ["email", "phone"]
        .iter()
        .any(|name| !text(&user, name).is_empty());
    let verified = user.get("emailVerification").and_then(Value::as_bool);
    let data = UserData::builder(id)
        .email(text(&user, "email"))
        .name(text(&user, "name"))
        .email_verified(verified.unwrap_or(false))
        .created_at(time(text(&user, "$createdAt")))
        .updated_at(time(text(&user, "$updatedAt")));
    let user = AppwriteUser {
        id: id.to_owned(),
        labels: labels(user.remove("labels")),
        // Old servers write an empty array if there are no preferences.
        prefs: match user.remove("prefs") {
            Some(Value::Object(prefs)) => prefs,
            _ => Map::new(),
        },
    };
    Ok(Account {
        user: data.tier(tier(&user)).build(),
        is_reachable,
    })
}

/// A user, and whether the user has an e-mail address or a phone number. Adding one turns an
/// anonymous user into a regular one.
#[derive(Debug)]
pub(crate) struct Account {
    pub(super) user: UserData,
    pub(super) is_reachable: bool,
}

pub(crate) struct SessionResponse {
    pub(super) user_id: String,
    pub(super) expires_at: DateTime<Utc>,
    pub(super) created_at: Option<DateTime<Utc>>,
    pub(super) id: Option<String>,
    pub(super) is_anonymous: bool,
    /// Empty except for callers with an API key.
    pub(super) secret: String,
}

/// Reads a session, either the current one or the one that a login created.
pub(crate) fn session(operation: Operation, body: &[u8]) -> Result<SessionResponse, AppwriteError> {
    let session = object(operation, body)?;
    let user_id = text(&session, "userId").to_owned();
    let is_other = session.get("current").and_then(Value::as_bool) == Some(false);
    match time(text(&session, "expire")) {
        Some(expires_at) if !user_id.is_empty() && !is_other => Ok(SessionResponse {
            user_id,
            expires_at,
            created_at: time(text(&session, "$createdAt")),
            id: Some(text(&session, "$id"))
                .filter(|id| !id.is_empty())
                .map(str::to_owned),
            is_anonymous: text(&session, "provider") == "anonymous",
            secret: text(&session, "secret").to_owned(),
        }),
        _ => Err(not_appwrites(operation)),
    }
}

/// Returns the ID of the user whose password was recovered.
pub(crate) fn recovered(body: &[u8]) -> Result<String, AppwriteError> {
    let token = object(Operation::Recovery, body)?;
    match text(&token, "userId") {
        "" => Err(not_appwrites(Operation::Recovery)),
        id => Ok(id.to_owned()),
    }
}

/// Returns the user ID that a token contains. Anyone can create such a token, so the ID is used for
/// a check and never as an identity.
///
/// The format is undocumented, so a token that cannot be parsed is treated like any other.
pub(super) fn user_id_hint(token: &SessionToken) -> Option<String> {
    let json = BASE64.decode(token.expose_secret()).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&json).ok()?;
    claims.get("id")?.as_str().map(str::to_owned)
}

/// Returns the spelling in which Appwrite issues a session's token. Returns `None` if the token has
/// that spelling already or is not such a token.
///
/// PHP's `base64_decode` skips bytes outside of the alphabet, and padding.
pub(super) fn canonical(token: &SessionToken) -> Option<SessionToken> {
    let text = token.expose_secret().as_bytes();
    // Almost every token is canonical. This check avoids decoding it.
    if is_canonical(text) {
        return None;
    }
    let digits: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| is_digit(*byte))
        .collect();
    // A single remaining digit does not encode a byte.
    let length = digits.len() - usize::from(digits.len() % 4 == 1);
    let json = BASE64.decode(&digits[..length]).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&json).ok()?;
    claims.get("id")?.as_str()?;
    SessionToken::parse(BASE64.encode(&json)).ok()
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// Returns `true` if a text is base64 as an encoder writes it: in whole groups, with all unused
/// bits zero.
fn is_canonical(text: &[u8]) -> bool {
    let (digits, unused_bits_are_zero): (_, fn(u8) -> bool) = match text {
        [digits @ .., b'=', b'='] => (digits, |last| matches!(last, b'A' | b'Q' | b'g' | b'w')),
        [digits @ .., b'='] => (digits, |last| {
            matches!(
                last,
                b'A' | b'E'
                    | b'I'
                    | b'M'
                    | b'Q'
                    | b'U'
                    | b'Y'
                    | b'c'
                    | b'g'
                    | b'k'
                    | b'o'
                    | b's'
                    | b'w'
                    | b'0'
                    | b'4'
                    | b'8'
            )
        }),
        digits => (digits, |_| true),
    };
    text.len().is_multiple_of(4)
        && digits.iter().copied().all(is_digit)
        && digits.last().copied().is_some_and(unused_bits_are_zero)
}

/// Compares two user IDs. If they differ, something between this service and Appwrite has mixed up
/// responses.
pub(super) fn same_user(operation: Operation, one: &str, other: &str) -> Result<(), AppwriteError> {
    if one == other {
        return Ok(());
    }
    Err(AppwriteError::unexpected(
        operation,
        "the response is for another user than the request; check that no proxy in front of \
         APPWRITE_ENDPOINT caches or mixes up responses",
    ))
}

fn object(operation: Operation, body: &[u8]) -> Result<Map<String, Value>, AppwriteError> {
    json_object(body).ok_or_else(|| not_appwrites(operation))
}

fn not_appwrites(operation: Operation) -> AppwriteError {
    AppwriteError::unexpected(
        operation,
        "the response is successful but is not from Appwrite; check that APPWRITE_ENDPOINT is the \
         endpoint of Appwrite and that no proxy responds instead",
    )
    .with_response(operation.success(), None)
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.to_utc())
}

fn labels(labels: Option<Value>) -> Vec<String> {
    let Some(Value::Array(labels)) = labels else {
        return Vec::new();
    };
    labels
        .into_iter()
        .filter_map(|label| match label {
            Value::String(label) => Some(label),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
