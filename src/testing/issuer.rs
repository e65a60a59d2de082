//! Issuer of signed events for tests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use chrono::Utc;
use serde_json::{Value, json};

use crate::{
    config_error::ConfigError,
    crypto::{JwsAlgorithm, TestSigner},
    events::EventIssuer,
};

/// Issuer that signs events in tests, with a random key and ES256.
///
/// ```
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_session_cache::{
///     BackChannelLogout, RevocationReceiver, SessionCache, testing::TestIssuer,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let issuer = TestIssuer::new("https://op.example.com")?;
/// let source = BackChannelLogout::new(issuer.event_issuer()?, ["web"])?;
/// let receiver = RevocationReceiver::new(SessionCache::default(), source);
///
/// let token = issuer.logout_token("web", Some("ada"), None);
/// let request = Request::post("/").body(format!("logout_token={token}"))?;
/// assert_eq!(receiver.oneshot(request).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TestIssuer {
    url: String,
    signer: TestSigner,
    events: AtomicU64,
}

impl TestIssuer {
    /// Creates an issuer with this URL.
    ///
    /// # Errors
    ///
    /// Returns an error if the system has no random numbers.
    pub fn new(url: impl Into<String>) -> Result<Self, ConfigError> {
        Self::with_key_id(url, "test")
    }

    /// Creates an issuer whose key has an ID, as after a rotation of its key.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_key_id(url: impl Into<String>, key_id: &str) -> Result<Self, ConfigError> {
        let signer = TestSigner::new(key_id).ok_or(ConfigError::new(
            "the system has no random numbers; check its random device",
        ))?;
        Ok(Self {
            url: url.into(),
            signer,
            events: AtomicU64::default(),
        })
    }

    /// Returns the settings of a receiver for this issuer. The keys are not fetched.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is not one of an issuer.
    pub fn event_issuer(&self) -> Result<EventIssuer, ConfigError> {
        EventIssuer::builder(&self.url)
            .allow_http()
            .algorithms([JwsAlgorithm::Es256])
            .jwks(self.jwks())
            .build()
    }

    /// Returns the public key of this issuer, as the text of a JWK Set.
    #[must_use]
    pub fn jwks(&self) -> String {
        json!({ "keys": [self.signer.jwk()] }).to_string()
    }

    /// Signs a logout token for a client, which names a user, a session or both. It expires after
    /// two minutes.
    #[must_use]
    pub fn logout_token(&self, client_id: &str, sub: Option<&str>, sid: Option<&str>) -> String {
        let now = Utc::now().timestamp();
        let mut claims = json!({
            "iss": self.url,
            "aud": client_id,
            "iat": now,
            "exp": now + 120,
            "jti": self.event_id(),
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
        });
        for (name, value) in [("sub", sub), ("sid", sid)] {
            if let Some(value) = value {
                claims[name] = value.into();
            }
        }
        self.sign(&json!({ "typ": "logout+jwt" }), &claims)
    }

    /// Signs a security event token for an audience. `event` is the type of the event, and `subject`
    /// the value of `sub_id`.
    #[must_use]
    pub fn security_event(&self, audience: &str, event: &str, subject: &Value) -> String {
        let claims = json!({
            "iss": self.url,
            "aud": audience,
            "iat": Utc::now().timestamp(),
            "jti": self.event_id(),
            "sub_id": subject,
            "events": { event: {} },
        });
        self.sign(&json!({ "typ": "secevent+jwt" }), &claims)
    }

    /// Signs a token with these claims. The members of `header` are added to `alg` and `kid`, or
    /// replace them; `null` removes a member.
    #[must_use]
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.signer.sign(header, claims)
    }

    fn event_id(&self) -> String {
        format!("event-{}", self.events.fetch_add(1, Relaxed))
    }
}
