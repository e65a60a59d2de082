//! Requests whose sender proves itself by a secret in a header.

use std::fmt;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, request::Parts};
use serde_json::Value;
use sha2::Sha256;

use super::{
    json_event::JsonEvent,
    refusal::{Refusal, RefusalKind},
    revoked::Revoked,
    source::RevocationSource,
};
use crate::{config_error::ConfigError, crypto::keyed};

/// Secrets are compared by their HMAC under this key, which makes the comparison independent of
/// their length and of where they differ.
const PURPOSE: &[u8] = b"tower-session-cache header secret";

/// Reads events of a sender that signs nothing and can send a constant header, such as the web
/// hooks of Ory Kratos and the database webhooks of Supabase.
///
/// A closure maps the JSON body to users.
///
/// ```
/// use tower_session_cache::{HeaderSecret, Revoked};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = "x5Wd3kFq8Zr1Tt0v";
/// // A trigger on `DELETE` of `auth.sessions`.
/// let supabase = HeaderSecret::new("x-webhook-secret", secret, |event| {
///     Revoked::user(event["old_record"]["user_id"].as_str())
/// })?;
/// # let _ = supabase;
/// # Ok(()) }
/// ```
///
/// # Security
///
/// The secret proves the sender, not the content: anyone who sees one request can make others, with
/// any user. Each costs validations and admits no request. Receive these events over TLS, and
/// prefer a source with a signature if the sender offers one.
pub struct HeaderSecret {
    header: HeaderName,
    /// HMACs of the secrets.
    secrets: Vec<[u8; 32]>,
    event: JsonEvent,
}

impl HeaderSecret {
    /// Creates a source. The secret is the whole value of the header, for example
    /// `Bearer x5Wd3kFq8Zr1Tt0v` for `authorization`.
    ///
    /// # Errors
    ///
    /// Returns an error if the name is not one of a header, if the secret cannot be the value of a
    /// header, or if it has less than 16 bytes.
    pub fn new<F>(
        header: impl AsRef<str>,
        secret: impl AsRef<[u8]>,
        map: F,
    ) -> Result<Self, ConfigError>
    where
        F: Fn(&Value) -> Revoked + Send + Sync + 'static,
    {
        let header = HeaderName::try_from(header.as_ref()).map_err(|_| {
            ConfigError::new(
                "the header with the secret must have a valid name, for example x-webhook-secret",
            )
        })?;
        Ok(Self {
            header,
            secrets: vec![digest(secret.as_ref())?],
            event: JsonEvent::new("header_secret", map),
        })
    }

    /// Sets the value of the label `source` in metrics and log lines. Defaults to `header_secret`.
    /// Use it if there are several sources of this kind.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.event.name = name;
        self
    }

    /// Also accepts the secret from before a rotation.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret cannot be the value of a header, or has less than 16 bytes.
    pub fn previous_secret(mut self, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        self.secrets.truncate(1);
        self.secrets.push(digest(secret.as_ref())?);
        Ok(self)
    }

    fn is_known(&self, value: &HeaderValue) -> bool {
        let Ok(mac) = Hmac::<Sha256>::new_from_slice(PURPOSE) else {
            return false;
        };
        let mac = mac.chain_update(value.as_bytes());
        let mut secrets = self.secrets.iter();
        secrets.any(|secret| mac.clone().verify_slice(secret).is_ok())
    }
}

fn digest(secret: &[u8]) -> Result<[u8; 32], ConfigError> {
    if secret.len() < 16 || HeaderValue::from_bytes(secret).is_err() {
        return Err(ConfigError::new(
            "the secret in a header must have at least 16 bytes, without line breaks; generate one \
             with `openssl rand -base64 32`",
        ));
    }
    Ok(keyed(PURPOSE, secret))
}

impl fmt::Debug for HeaderSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderSecret")
            .field("name", &self.event.name)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl RevocationSource for HeaderSecret {
    fn name(&self) -> &'static str {
        self.event.name
    }

    async fn read(&self, head: &Parts, body: &[u8], _: DateTime<Utc>) -> Result<Revoked, Refusal> {
        let value = head.headers.get(&self.header);
        if !value.is_some_and(|value| self.is_known(value)) {
            return Err(Refusal::new(
                RefusalKind::AuthenticationFailed,
                "the secret is missing or wrong",
            ));
        }
        Ok(self.event.read(body))
    }
}
