//! Standard Webhooks, also with the header names of Svix.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, request::Parts};
use serde_json::Value;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    json_event::JsonEvent,
    refusal::{Refusal, RefusalKind},
    revoked::Revoked,
    source::RevocationSource,
};
use crate::config_error::ConfigError;

/// How far the timestamp may differ from the cache's clock, in seconds.
const TOLERANCE: u64 = 300;

/// A sender that rotates its secret sends two signatures. More than this number are not read.
const MAX_SIGNATURES: usize = 8;

/// Names of the headers with the ID, the timestamp and the signatures.
const HEADERS: [[&str; 3]; 2] = [
    ["webhook-id", "webhook-timestamp", "webhook-signature"],
    ["svix-id", "svix-timestamp", "svix-signature"],
];

/// Reads events in the form of [Standard Webhooks](https://www.standardwebhooks.com), as Clerk and
/// other users of Svix send them.
///
/// A closure maps the event to users. If it sets no [ID](Revoked::with_event_id), duplicates are
/// recognized by `webhook-id`. If it sets no [time](Revoked::occurred_at), the age of the event is
/// measured from its `timestamp`.
///
/// ```
/// use tower_session_cache::{Revoked, StandardWebhook};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// let clerk = StandardWebhook::new(secret, |event| match event["type"].as_str() {
///     Some("session.revoked" | "session.ended" | "session.removed") => {
///         Revoked::user(event["data"]["user_id"].as_str())
///     }
///     Some("user.updated" | "user.deleted") => Revoked::user(event["data"]["id"].as_str()),
///     _ => Revoked::nothing(),
/// })?;
/// # let _ = clerk;
/// # Ok(()) }
/// ```
///
/// # Security
///
/// The signature (`v1`, HMAC-SHA-256) covers the ID, the timestamp and the body. A timestamp that
/// differs from the cache's clock by more than 5 minutes is refused, so that a recorded request
/// cannot be replayed later. The asymmetric `v1a` is not supported.
pub struct StandardWebhook {
    keys: Vec<Zeroizing<Vec<u8>>>,
    event: JsonEvent,
}

impl StandardWebhook {
    /// Creates a source. The secret is the text that the sender shows, such as `whsec_…`: at least
    /// 24 bytes in base64, with or without this prefix.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret is not base64, or shorter.
    pub fn new<F>(secret: impl AsRef<str>, map: F) -> Result<Self, ConfigError>
    where
        F: Fn(&Value) -> Revoked + Send + Sync + 'static,
    {
        Ok(Self {
            keys: vec![key(secret.as_ref())?],
            event: JsonEvent::new("standard_webhook", map),
        })
    }

    /// Sets the value of the label `source` in metrics and log lines. Defaults to
    /// `standard_webhook`. Use it if there are several sources of this kind.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.event.name = name;
        self
    }

    /// Also accepts signatures with the secret from before a rotation.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret is not base64, or shorter than 24 bytes.
    pub fn previous_secret(mut self, secret: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.keys.truncate(1);
        self.keys.push(key(secret.as_ref())?);
        Ok(self)
    }

    /// Returns the ID and the time of the attempt, if the request is authentic.
    fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<(&'a [u8], DateTime<Utc>), Refusal> {
        let failed = |reason| Refusal::new(RefusalKind::AuthenticationFailed, reason);
        let [id, timestamp, signature] = HEADERS
            .into_iter()
            .find(|names| names.iter().all(|name| headers.contains_key(*name)))
            .ok_or(failed("the headers of a Standard Webhook are missing"))?;
        let value = |name| headers.get(name).map_or(&[][..], |value| value.as_bytes());
        let (id, timestamp) = (value(id), value(timestamp));
        let attempted_at = std::str::from_utf8(timestamp)
            .ok()
            .and_then(|seconds| DateTime::from_timestamp(seconds.parse().ok()?, 0))
            .ok_or(failed("the timestamp is not a number of seconds"))?;
        if attempted_at.timestamp().abs_diff(now.timestamp()) > TOLERANCE {
            return Err(Refusal::new(
                RefusalKind::OutsideTolerance,
                "the timestamp differs from this host's clock by more than 5 minutes",
            ));
        }
        let signatures = headers.get_all(signature).into_iter();
        let signatures: Vec<_> = signatures
            .filter_map(|value| value.to_str().ok())
            .flat_map(str::split_whitespace)
            // Supabase separates signatures by a comma and a blank.
            .filter_map(|item| item.trim_end_matches(',').strip_prefix("v1,"))
            .take(MAX_SIGNATURES)
            .filter_map(|signature| STANDARD.decode(signature).ok())
            .collect();
        let is_signed = self.keys.iter().any(|key| {
            mac(key, id, timestamp, body)
                .is_some_and(|mac| is_any_of(&mac, signatures.iter().map(Vec::as_slice)))
        });
        if !is_signed {
            return Err(failed("the signature is wrong"));
        }
        Ok((id, attempted_at))
    }
}

fn mac(key: &[u8], id: &[u8], timestamp: &[u8], body: &[u8]) -> Option<Hmac<Sha256>> {
    let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    let parts = [id, b".", timestamp, b".", body];
    Some(parts.iter().fold(mac, Mac::chain_update))
}

/// Compares in constant time.
fn is_any_of<'a>(mac: &Hmac<Sha256>, mut signatures: impl Iterator<Item = &'a [u8]>) -> bool {
    signatures.any(|signature| mac.clone().verify_slice(signature).is_ok())
}

#[cfg(feature = "testing")]
impl StandardWebhook {
    /// Creates the request that a sender would make at this time, signed with the current secret.
    /// The ID must be visible ASCII.
    #[must_use]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn signed_request(
        &self,
        id: &str,
        at: DateTime<Utc>,
        event: &Value,
    ) -> http::Request<String> {
        let body = event.to_string();
        let timestamp = at.timestamp().to_string();
        let key = self.keys.first();
        let mac =
            key.and_then(|key| mac(key, id.as_bytes(), timestamp.as_bytes(), body.as_bytes()));
        let tag = mac.map(|mac| mac.finalize().into_bytes());
        let signature = STANDARD.encode(tag.unwrap_or_default());
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        let values = [id.to_owned(), timestamp, format!("v1,{signature}")];
        for (name, value) in HEADERS[0].into_iter().zip(values) {
            if let Ok(value) = http::HeaderValue::try_from(value) {
                request.headers_mut().insert(name, value);
            }
        }
        request
    }
}

fn key(secret: &str) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    // Supabase shows the version in front of the secret.
    let secret = secret.trim();
    let secret = secret.strip_prefix("v1,").unwrap_or(secret);
    let secret = secret.strip_prefix("whsec_").unwrap_or(secret);
    STANDARD
        .decode(secret)
        .ok()
        .map(Zeroizing::new)
        .filter(|key| key.len() >= 24)
        .ok_or(ConfigError::new(
            "the secret of a Standard Webhook must be at least 24 bytes in base64, with or without \
             the prefix whsec_; copy it from the sender's settings",
        ))
}

impl fmt::Debug for StandardWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandardWebhook")
            .field("name", &self.event.name)
            .finish_non_exhaustive()
    }
}

impl RevocationSource for StandardWebhook {
    fn name(&self) -> &'static str {
        self.event.name
    }

    async fn read(
        &self,
        head: &Parts,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Revoked, Refusal> {
        let (id, attempted_at) = self.verify(&head.headers, body, now)?;
        let mut revoked = self.event.read(body);
        revoked.occurred_at = revoked.occurred_at.or(Some(attempted_at));
        if revoked.key.is_none() {
            // With the body, so that a sender which gives one ID to two events loses none of them.
            revoked = revoked.with_event_id(body, id);
        }
        Ok(revoked)
    }
}
