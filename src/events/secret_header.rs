//! Header whose value is a secret.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, request::Parts};
use sha2::Sha256;

use super::refusal::{Refusal, RefusalKind};
use crate::{config_error::ConfigError, crypto::keyed};

/// Secrets are compared by their HMAC under this key, which makes the comparison independent of
/// their length and of where they differ.
const PURPOSE: &[u8] = b"tower-session-cache header secret";

/// A header, and the values that it may have.
#[derive(Clone)]
pub(super) struct SecretHeader {
    pub(super) name: HeaderName,
    /// HMACs of the secrets.
    secrets: Vec<[u8; 32]>,
}

impl SecretHeader {
    pub(super) fn new(name: &str, secret: &[u8]) -> Result<Self, ConfigError> {
        let name = HeaderName::try_from(name).map_err(|_| {
            ConfigError::new(
                "the header with the secret must have a valid name, for example x-webhook-secret",
            )
        })?;
        Ok(Self {
            name,
            secrets: vec![digest(secret)?],
        })
    }

    /// Also accepts the secret from before a rotation, in place of an earlier one.
    pub(super) fn add_previous(&mut self, secret: &[u8]) -> Result<(), ConfigError> {
        self.secrets.truncate(1);
        self.secrets.push(digest(secret)?);
        Ok(())
    }

    pub(super) fn check(&self, head: &Parts) -> Result<(), Refusal> {
        let value = head.headers.get(&self.name);
        if value.is_some_and(|value| self.is_known(value)) {
            return Ok(());
        }
        let reason = "the secret is missing or wrong";
        Err(Refusal::new(RefusalKind::AuthenticationFailed, reason))
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
