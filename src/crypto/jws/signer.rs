//! Signer of tokens for tests, with a key of its own.

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::base64url::encode;

/// Signs tokens with ES256 and a random key.
#[derive(Debug)]
pub(crate) struct TestSigner {
    key: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
}

impl TestSigner {
    /// Creates a signer whose key has the ID. Returns `None` if the system has no random numbers.
    pub(crate) fn new(id: &str) -> Option<Self> {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok()?;
        Some(Self {
            key: EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).ok()?,
            random,
            id: id.to_owned(),
        })
    }

    /// Returns the public key as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        // A byte that names the form of the point, and its coordinates.
        let point = self.key.public_key().as_ref().get(1..).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        json!({
            "kty": "EC",
            "crv": "P-256",
            "x": encode(x),
            "y": encode(y),
            "kid": self.id,
            "alg": "ES256",
            "use": "sig",
        })
    }

    /// Signs a token. The members of `header` replace those that this signer adds, except for `null`,
    /// which removes them.
    pub(crate) fn sign(&self, header: &Value, payload: &Value) -> String {
        let mut members = json!({ "alg": "ES256", "kid": self.id });
        if let (Some(members), Some(others)) = (members.as_object_mut(), header.as_object()) {
            members.extend(others.clone());
            members.retain(|_, value| !value.is_null());
        }
        self.sign_text(&members.to_string(), &payload.to_string())
    }

    /// Signs a header and a payload as they are.
    pub(crate) fn sign_text(&self, header: &str, payload: &str) -> String {
        let message = format!(
            "{}.{}",
            encode(header.as_bytes()),
            encode(payload.as_bytes())
        );
        let signature = self.key.sign(&self.random, message.as_bytes());
        let signature = signature.map_or_else(|_| Vec::new(), |bytes| bytes.as_ref().to_vec());
        format!("{message}.{}", encode(&signature))
    }
}
