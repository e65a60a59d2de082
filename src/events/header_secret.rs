//! Requests whose sender proves itself by a secret in a header.

use std::fmt;

use chrono::{DateTime, Utc};
use http::request::Parts;
use serde_json::Value;

use super::{
    json_event::JsonEvent, refusal::Refusal, revoked::Revoked, secret_header::SecretHeader,
    source::RevocationSource,
};
use crate::config_error::ConfigError;

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
    header: SecretHeader,
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
        Ok(Self {
            header: SecretHeader::new(header.as_ref(), secret.as_ref())?,
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
        self.header.add_previous(secret.as_ref())?;
        Ok(self)
    }
}

impl fmt::Debug for HeaderSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderSecret")
            .field("name", &self.event.name)
            .field("header", &self.header.name)
            .finish_non_exhaustive()
    }
}

impl RevocationSource for HeaderSecret {
    fn name(&self) -> &'static str {
        self.event.name
    }

    async fn read(&self, head: &Parts, body: &[u8], _: DateTime<Utc>) -> Result<Revoked, Refusal> {
        self.header.check(head)?;
        Ok(self.event.read(body))
    }
}
