//! Public keys of an issuer (JWK Set, [RFC 7517, section 5]).
//!
//! [RFC 7517, section 5]: https://www.rfc-editor.org/rfc/rfc7517#section-5

use serde_json::Value;

use super::{algorithm::JwsAlgorithm, error::JwsError, key::PublicKey, strict_json::strict_object};

/// Issuers publish fewer than ten keys. A longer list would only make tokens expensive.
const MAX_KEYS: usize = 64;

/// The keys of an issuer that can verify signatures.
#[derive(Debug)]
pub(crate) struct KeySet(Vec<PublicKey>);

impl KeySet {
    /// Parses a key set. Keys that verify no supported signature are left out, as the standard
    /// requires. Returns `None` if the text is not a key set, or has more than 64 keys.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let set = strict_object(text)?;
        let keys = set.get("keys")?.as_array()?;
        if keys.len() > MAX_KEYS {
            return None;
        }
        let keys = keys.iter().filter_map(Value::as_object);
        Some(Self(keys.filter_map(PublicKey::parse).collect()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Verifies a signature with the key that has the ID, or without an ID with the only key that
    /// fits the algorithm ([OpenID Connect Core, section 10.1]).
    ///
    /// [OpenID Connect Core, section 10.1]: https://openid.net/specs/openid-connect-core-1_0.html#SigEnc
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        algorithm: JwsAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), JwsError> {
        let named = |key: &&PublicKey| id.is_none() || key.id.as_deref() == id;
        let mut candidates = self.0.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Err(JwsError::UnknownKey);
        }
        let mut fitting = candidates.filter(|key| key.fits(algorithm));
        let (key, other) = (fitting.next(), fitting.next());
        if other.is_some() {
            return Err(JwsError::AmbiguousKey);
        }
        match key {
            Some(key) if key.verifies(algorithm, message, signature) => Ok(()),
            // Only the ID tells a key that the issuer has replaced from a bad signature.
            None | Some(_) if id.is_none() => Err(JwsError::UnknownKey),
            None => Err(JwsError::UnfitKey),
            Some(_) => Err(JwsError::Signature),
        }
    }
}
