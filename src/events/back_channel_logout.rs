//! OpenID Connect Back-Channel Logout 1.0.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    issuer::EventIssuer,
    outcome::EventOutcome,
    refusal::{Refusal, RefusalKind},
    revoked::Revoked,
    signed_event::{LEEWAY, invalid, outside},
    source::RevocationSource,
};
use crate::config_error::ConfigError;

const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Tokens of most providers have no type or the one of any JWT.
const TYPES: [Option<&str>; 3] = [None, Some("jwt"), Some("logout+jwt")];

/// Age at which a logout token without `exp` has expired.
const MAX_AGE: TimeDelta = TimeDelta::minutes(5);

/// How far `exp` may be ahead. Providers choose 2 to 15 minutes.
const MAX_LIFETIME: TimeDelta = TimeDelta::days(1);

/// Reads the logout tokens that an OpenID provider sends to the clients of a user when a session
/// ends ([OpenID Connect Back-Channel Logout 1.0]).
///
/// Register the URL of the route at each client that logs users in, and pass the IDs of these
/// clients: a logout token is for the client and not for the service that validates its access
/// tokens. If the token names a session (`sid`), that session ends here. If it names a user (`sub`),
/// all sessions of the user are validated again, because some providers name one session of several.
/// The user's ID must be the `sub` of the access token, which it is not if the provider uses
/// pairwise subjects.
///
/// Answers are 200 if the logout applies, 503 if it is only queued or if the keys of the issuer are
/// unavailable, and 400 with `{"error":"invalid_request",…}` otherwise.
///
/// # Security
///
/// A token is refused unless it is signed by the issuer, names one of the clients, has `iat` and
/// `jti`, has not expired (without `exp`: is at most 5 minutes old), and is a logout token. A
/// token with a `nonce`, such as an ID token, is not. Clocks may differ by 60 seconds.
///
/// [OpenID Connect Back-Channel Logout 1.0]: https://openid.net/specs/openid-connect-backchannel-1_0.html
#[derive(Clone, Debug)]
pub struct BackChannelLogout {
    name: &'static str,
    issuer: EventIssuer,
    client_ids: Vec<String>,
}

impl BackChannelLogout {
    /// Creates a source for the logout tokens of an issuer to these clients.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no client ID, or an empty one.
    pub fn new<I>(issuer: EventIssuer, client_ids: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let client_ids: Vec<_> = client_ids.into_iter().map(Into::into).collect();
        if client_ids.is_empty() || client_ids.iter().any(String::is_empty) {
            return Err(ConfigError::new(
                "back-channel logout requires the IDs of the clients that log users in; pass those \
                 at which the URL of the route is registered",
            ));
        }
        Ok(Self {
            name: "back_channel_logout",
            issuer,
            client_ids,
        })
    }

    /// Sets the value of the label `source` in metrics and log lines. Defaults to `back_channel_logout`.
    /// Use it if there are several issuers.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    async fn token(&self, token: &str, now: DateTime<Utc>) -> Result<Revoked, Refusal> {
        let event = self.issuer.verify(token, &TYPES).await?;
        event.check_audience(&self.client_ids)?;
        if !event.events()?.get(LOGOUT).is_some_and(Value::is_object) {
            return Err(invalid("the token is not a logout token"));
        }
        if event.get("nonce").is_some() {
            return Err(invalid("a logout token must not have a nonce"));
        }
        let issued_at = event.issued_at(now)?;
        let expires_at = event.time("exp")?.unwrap_or(issued_at + MAX_AGE);
        if expires_at <= now - LEEWAY {
            return Err(outside("the logout token has expired"));
        }
        if expires_at > now + MAX_LIFETIME {
            return Err(outside("the logout token expires more than a day from now"));
        }
        let (id, session, user) = (event.id()?, event.text("sid")?, event.text("sub")?);
        if session.is_none() && user.is_none() {
            return Err(invalid(
                "the logout token names neither a session nor a user",
            ));
        }
        let mut revoked = Revoked::nothing();
        if let Some(session) = session {
            revoked = revoked.and_session(self.issuer.authority(), session);
        }
        if let Some(user) = user {
            revoked = revoked.and_user(user);
        }
        Ok(revoked
            .with_event_id(self.issuer.as_str(), id)
            .occurred_at(issued_at))
    }
}

impl RevocationSource for BackChannelLogout {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn read(&self, _: &Parts, body: &[u8], now: DateTime<Utc>) -> Result<Revoked, Refusal> {
        self.token(&logout_token(body)?, now).await
    }

    fn answer(&self, outcome: &EventOutcome) -> Response<Bytes> {
        let mut answer = outcome.answer_with(StatusCode::OK);
        if !matches!(
            answer.status(),
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE
        ) {
            let description = match outcome {
                EventOutcome::Refused(refusal) => refusal.reason(),
                EventOutcome::TooLarge => "the body is too long",
                _ => "the body did not arrive in time",
            };
            let body = json!({ "error": "invalid_request", "error_description": description });
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            *answer.body_mut() = body.to_string().into();
            let json = HeaderValue::from_static("application/json");
            answer.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        let no_store = HeaderValue::from_static("no-store");
        answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
        answer
    }
}

/// Returns the parameter `logout_token` of a form. Others are ignored, as the standard requires.
pub(crate) fn logout_token(form: &[u8]) -> Result<String, Refusal> {
    let form = std::str::from_utf8(form).map_err(|_| invalid("the body is not a form"))?;
    let mut tokens = form
        .split('&')
        .filter_map(|parameter| parameter.split_once('='))
        // A percent-encoded name is the same parameter, so that it cannot hide a second token.
        .filter(|(name, _)| percent_decode_str(name).eq(*b"logout_token"));
    match (tokens.next(), tokens.next()) {
        (Some((_, token)), None) => percent_decode_str(token)
            .decode_utf8()
            .map(Into::into)
            .map_err(|_| Refusal::new(RefusalKind::InvalidRequest, "the body is not a form")),
        (None, _) => Err(invalid("the parameter logout_token is missing")),
        (Some(_), Some(_)) => Err(invalid("the parameter logout_token occurs twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_must_have_exactly_one_logout_token() {
        for (form, token) in [
            ("logout_token=a.b.c", Some("a.b.c")),
            ("logout_token=a%2Eb.c&logout_tokens=x", Some("a.b.c")),
            ("x=1&logout%5Ftoken=a&&y", Some("a")),
            ("logout_token=", Some("")),
            ("logout_token=a&logout_token=a", None),
            ("logout_token=a&logout%5ftoken=b", None),
            ("logout_token", None),
            ("LOGOUT_TOKEN=a", None),
            ("", None),
        ] {
            assert_eq!(
                logout_token(form.as_bytes()).ok().as_deref(),
                token,
                "{form}"
            );
        }
        assert!(logout_token(b"logout_token=\xff").is_err());
        assert!(logout_token(b"logout_token=%ff").is_err());
    }
}
