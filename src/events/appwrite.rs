//! Appwrite's webhooks.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Response, StatusCode, request::Parts};
use percent_encoding::percent_decode_str;
use ring::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY};
use serde_json::Value;

use super::{
    outcome::EventOutcome,
    refusal::{Refusal, RefusalKind},
    revoked::Revoked,
    source::RevocationSource,
};
use crate::config_error::ConfigError;

const SIGNATURE: &str = "x-appwrite-webhook-signature";

/// Reads the webhooks of an Appwrite project.
///
/// Create the webhook in the Appwrite console for the events that
/// [What your provider pushes](crate::docs::events#appwrite) lists, and pass its URL and its
/// signature key. The signature covers the URL and the body, and the user's ID is read from the
/// body. The sessions of the user are validated again.
///
/// Appwrite never repeats a delivery, and switches a webhook off after ten failures. A revocation
/// that is queued, because Redis is unavailable, is therefore answered with 200.
///
/// # Security
///
/// Appwrite's signature is HMAC-SHA-1 and covers no time, so that a recorded request can be
/// replayed. A replay costs validations of the user's sessions and ends none of them.
pub struct AppwriteWebhook {
    name: &'static str,
    /// The URL as it is configured, and percent-decoded if that differs. Appwrite signed the second
    /// one before August 2026.
    urls: Vec<Vec<u8>>,
    keys: Vec<hmac::Key>,
}

impl AppwriteWebhook {
    /// Creates a source. The URL is the one that is configured in Appwrite, which may differ from
    /// what this service receives from a proxy. The secret is the webhook's signature key, as text.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL does not begin with `https://` or `http://`, or if the secret
    /// has less than 8 bytes, which is Appwrite's minimum.
    pub fn new(url: impl AsRef<str>, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let url = url.as_ref();
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(ConfigError::new(
                "the URL of an Appwrite webhook must begin with https:// or http://; copy it from \
                 the webhook's settings in the Appwrite console",
            ));
        }
        let mut urls = vec![url.as_bytes().to_vec()];
        let decoded: Cow<'_, [u8]> = percent_decode_str(url).into();
        if *decoded != *url.as_bytes() {
            urls.push(decoded.into_owned());
        }
        let keys = vec![key(secret.as_ref())?];
        let name = "appwrite";
        Ok(Self { name, urls, keys })
    }

    /// Sets the value of the label `source` in metrics and log lines. Defaults to `appwrite`. Use
    /// it if there are several projects.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Also accepts the signature key from before a rotation. Set the new one in both places first,
    /// and remove this one when Appwrite has delivered everything that was signed with it.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret has less than 8 bytes.
    pub fn previous_secret(mut self, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        self.keys.truncate(1);
        self.keys.push(key(secret.as_ref())?);
        Ok(self)
    }

    fn is_signed(&self, head: &Parts, body: &[u8]) -> bool {
        let Some(signature) = head.headers.get(SIGNATURE) else {
            return false;
        };
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        self.urls.iter().any(|url| {
            let message = [url.as_slice(), body].concat();
            let mut keys = self.keys.iter();
            keys.any(|key| hmac::verify(key, &message, &signature).is_ok())
        })
    }
}

#[cfg(feature = "testing")]
impl AppwriteWebhook {
    /// Creates the request that Appwrite would send for an event, signed with the current secret.
    /// The event is what the webhook contains: a session, a user or a token as Appwrite's API
    /// describes it.
    #[must_use]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn signed_request(&self, event: &Value) -> http::Request<String> {
        let body = event.to_string();
        let url = self.urls.first().map(Vec::as_slice).unwrap_or_default();
        let message = [url, body.as_bytes()].concat();
        let signature = self.keys.first().map(|key| hmac::sign(key, &message));
        let signature = STANDARD.encode(signature.as_ref().map_or(&[][..], AsRef::as_ref));
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::try_from(url).unwrap_or_default();
        if let Ok(signature) = http::HeaderValue::try_from(signature) {
            request.headers_mut().insert(SIGNATURE, signature);
        }
        request
    }
}

fn key(secret: &[u8]) -> Result<hmac::Key, ConfigError> {
    if secret.len() < 8 {
        return Err(ConfigError::new(
            "the secret of an Appwrite webhook must have at least 8 bytes; copy the signature key \
             from the webhook's settings in the Appwrite console",
        ));
    }
    Ok(hmac::Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret))
}

impl fmt::Debug for AppwriteWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppwriteWebhook")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl RevocationSource for AppwriteWebhook {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn read(&self, head: &Parts, body: &[u8], _: DateTime<Utc>) -> Result<Revoked, Refusal> {
        if !self.is_signed(head, body) {
            return Err(Refusal::new(
                RefusalKind::AuthenticationFailed,
                "the signature is missing or wrong",
            ));
        }
        // Two equal bodies may be two events: one object describes a user whose sessions are all
        // ended twice. So nothing identifies a duplicate, and each of them is applied.
        Ok(user(body))
    }

    fn answer(&self, outcome: &EventOutcome) -> Response<Bytes> {
        let outcome = match outcome {
            // This node delivers it, and Appwrite would not repeat it.
            EventOutcome::Queued => EventOutcome::Applied,
            outcome => *outcome,
        };
        outcome.answer_with(StatusCode::OK)
    }
}

/// A session and a token name their user, and a user has its own ID.
pub(crate) fn user(body: &[u8]) -> Revoked {
    let event: Value = serde_json::from_slice(body).unwrap_or_default();
    let named = event["userId"].as_str().filter(|id| !id.is_empty());
    Revoked::user(named.or(event["$id"].as_str()))
}
