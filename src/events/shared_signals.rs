//! Security event tokens ([RFC 8417]) of the Shared Signals Framework, by push ([RFC 8935]).
//!
//! [RFC 8417]: https://www.rfc-editor.org/rfc/rfc8417
//! [RFC 8935]: https://www.rfc-editor.org/rfc/rfc8935

use std::{fmt, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use serde_json::{Value, json};

use super::{
    issuer::EventIssuer,
    outcome::EventOutcome,
    refusal::{Refusal, RefusalKind},
    revoked::Revoked,
    secret_header::SecretHeader,
    signed_event::{SignedEvent, invalid},
    source::RevocationSource,
    subject::{Subject, UserMap},
};
use crate::config_error::ConfigError;

const TYPES: [Option<&str>; 1] = [Some("secevent+jwt")];

const PREFIX: &str = "https://schemas.openid.net/secevent/";

/// The session of the subject has ended.
const SESSION_REVOKED: &str = "caep/event-type/session-revoked";

/// Events after which a session may have ended, or the user may have changed. Others, such as the
/// verification of a stream, are acknowledged.
const USER_CHANGED: [&str; 15] = [
    SESSION_REVOKED,
    "caep/event-type/assurance-level-change",
    "caep/event-type/credential-change",
    "caep/event-type/device-compliance-change",
    "caep/event-type/risk-level-change",
    "caep/event-type/token-claims-change",
    "risc/event-type/account-credential-change-required",
    "risc/event-type/account-disabled",
    "risc/event-type/account-enabled",
    "risc/event-type/account-purged",
    "risc/event-type/credential-compromise",
    "risc/event-type/identifier-changed",
    "risc/event-type/identifier-recycled",
    "risc/event-type/sessions-revoked",
    "oauth/event-type/tokens-revoked",
];

/// Reads the security events that a transmitter of the Shared Signals Framework pushes, such as
/// Keycloak or Okta.
///
/// `caep/session-revoked` ends the session that its subject names, and the sessions of the user are
/// validated again. Other CAEP and RISC events about a user, such as a changed password or a disabled
/// account, only cause that validation. The rest is acknowledged.
///
/// A user is known by the issuer and its `sub` (`iss_sub`). Other subjects, such as one with an
/// e-mail address, are acknowledged and counted as unmapped unless
/// [`map_subject`](Self::map_subject) maps them.
///
/// Answers are 202 if the event applies or changes nothing, 503 if it is only queued or if the keys
/// of the issuer are unavailable, and 400 with `{"err":…,"description":…}` otherwise.
///
/// # Security
///
/// An event is refused unless it is signed by the issuer, is a security event token for one of the
/// audiences, and has `iat` and `jti`. Its age is not limited, because a transmitter delivers events
/// after an outage as well. Set [`authorization`](Self::authorization) if the transmitter sends
/// that header.
///
/// ```
/// use tower_session_cache::{EventIssuer, SharedSignals};
///
/// # fn source(secret: &str) -> Result<(), tower_session_cache::ConfigError> {
/// let realm = EventIssuer::new("https://keycloak.example.com/realms/shop")?;
/// // Keycloak's audience is the client's ID and the stream's ID.
/// let stream = "signals/0b1f5c9e-6f0a-4b43-9f0e-2d1a5c7d8e9f";
/// let signals = SharedSignals::new(realm, [stream])?.authorization(format!("Bearer {secret}"))?;
/// # let _ = signals;
/// # Ok(()) }
/// # source("x5Wd3kFq8Zr1Tt0v").unwrap();
/// ```
#[derive(Clone)]
pub struct SharedSignals {
    name: &'static str,
    issuer: EventIssuer,
    audiences: Vec<String>,
    authorization: Option<SecretHeader>,
    map: Option<Arc<UserMap>>,
}

impl SharedSignals {
    /// Creates a source for the events of an issuer to these audiences. The audience of a stream is
    /// the `aud` that the transmitter returned when the stream was created.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no audience, or an empty one.
    pub fn new<I>(issuer: EventIssuer, audiences: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let audiences: Vec<_> = audiences.into_iter().map(Into::into).collect();
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(ConfigError::new(
                "shared signals require the audiences of the streams; pass the `aud` that the \
                 transmitter returned when the stream was created",
            ));
        }
        Ok(Self {
            name: "shared_signals",
            issuer,
            audiences,
            authorization: None,
            map: None,
        })
    }

    /// Sets the value of the label `source` in metrics and log lines. Defaults to `shared_signals`.
    /// Use it if there are several issuers.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Requires this value of the header `Authorization`, for example `Bearer x5Wd3kFq8Zr1Tt0v`. It
    /// is what the stream was created with (`authorization_header`). By default the header is not
    /// read, because the signature proves the sender.
    ///
    /// # Errors
    ///
    /// Returns an error if the value cannot be one of a header, or has less than 16 bytes.
    pub fn authorization(mut self, value: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        self.authorization = Some(SecretHeader::new("authorization", value.as_ref())?);
        Ok(self)
    }

    /// Maps a subject identifier that is not the issuer's `iss_sub` to the ID of a user, such as
    /// `{"format":"email","email":"ada@example.com"}`. `None` counts as unmapped.
    #[must_use]
    pub fn map_subject(
        mut self,
        map: impl Fn(&Value) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.map = Some(Arc::new(map));
        self
    }

    pub(super) fn issuer(&self) -> &EventIssuer {
        &self.issuer
    }

    /// Reads a security event token.
    pub(super) async fn token(&self, token: &str, now: DateTime<Utc>) -> Result<Revoked, Refusal> {
        let event = self.issuer.verify(token, &TYPES).await?;
        event.check_audience(&self.audiences)?;
        let issued_at = event.issued_at(now)?;
        let id = event.id()?;
        if event.events()?.is_empty() {
            return Err(invalid("the claim events is empty"));
        }
        Ok(self
            .revoked(&event)?
            .with_event_id(self.issuer.as_str(), id)
            .occurred_at(issued_at))
    }

    fn revoked(&self, event: &SignedEvent) -> Result<Revoked, Refusal> {
        let mut revoked = Revoked::nothing();
        for (name, payload) in event.events()? {
            let name = name.strip_prefix(PREFIX).unwrap_or_default();
            if !USER_CHANGED.contains(&name) {
                continue;
            }
            // Drafts put the subject into the event.
            let subject = event.get("sub_id").or_else(|| payload.get("subject"));
            let subject = subject.map_or_else(Subject::default, |subject| {
                Subject::parse(subject, self.issuer.as_str(), self.map.as_deref())
            });
            let ended = subject.session.filter(|_| name == SESSION_REVOKED);
            if subject.users.is_empty() && ended.is_none() {
                revoked = revoked.and_user(None);
            }
            if let Some(session) = ended {
                revoked = revoked.and_session(self.issuer.authority(), session);
            }
            for user in &subject.users {
                revoked = revoked.and_user(user.as_str());
            }
        }
        Ok(revoked)
    }
}

impl RevocationSource for SharedSignals {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn read(
        &self,
        head: &Parts,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Revoked, Refusal> {
        if let Some(authorization) = &self.authorization {
            authorization.check(head)?;
        }
        let body = std::str::from_utf8(body).map_err(|_| invalid("the body is not a token"))?;
        self.token(body.trim_ascii(), now).await
    }

    fn answer(&self, outcome: &EventOutcome) -> Response<Bytes> {
        let mut answer = outcome.answer_with(StatusCode::ACCEPTED);
        if let Some(error) = delivery_error(outcome) {
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            *answer.body_mut() = error.to_string().into();
            let json = HeaderValue::from_static("application/json");
            answer.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        answer
    }
}

/// Returns what the transmitter is told about an event that it must not repeat ([RFC 8935, section
/// 2.4]).
///
/// [RFC 8935, section 2.4]: https://www.rfc-editor.org/rfc/rfc8935#section-2.4
pub(super) fn delivery_error(outcome: &EventOutcome) -> Option<Value> {
    let (code, description) = match outcome {
        EventOutcome::Refused(refusal) => {
            let code = match refusal.kind() {
                RefusalKind::Unavailable => return None,
                RefusalKind::InvalidKey => "invalid_key",
                RefusalKind::InvalidIssuer => "invalid_issuer",
                RefusalKind::InvalidAudience => "invalid_audience",
                RefusalKind::AuthenticationFailed => "authentication_failed",
                RefusalKind::InvalidRequest | RefusalKind::OutsideTolerance => "invalid_request",
            };
            (code, refusal.reason())
        }
        EventOutcome::TooLarge => ("invalid_request", "the body is too long"),
        EventOutcome::TooSlow => ("invalid_request", "the body did not arrive in time"),
        _ => return None,
    };
    Some(json!({ "err": code, "description": description }))
}

impl fmt::Debug for SharedSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSignals")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}
