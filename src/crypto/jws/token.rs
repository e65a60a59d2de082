//! Signed tokens in the compact serialization ([RFC 7515, section 7.1]).
//!
//! [RFC 7515, section 7.1]: https://www.rfc-editor.org/rfc/rfc7515#section-7.1

use serde_json::{Map, Value};

use super::{
    algorithm::JwsAlgorithm, base64url::decode, error::JwsError, key_set::KeySet,
    strict_json::strict_object,
};

/// Longest token that is parsed, in bytes. A logout token has about 1 KiB.
const MAX_TOKEN: usize = 64 * 1024;

/// A signed token whose header has been read, and nothing else.
#[derive(Debug)]
pub(crate) struct Jws<'a> {
    algorithm: JwsAlgorithm,
    key_id: Option<String>,
    typ: Option<String>,
    signing_input: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Parses a token up to its header, and decodes its signature.
    pub(crate) fn parse(text: &'a str, accepted: &[JwsAlgorithm]) -> Result<Self, JwsError> {
        if text.len() > MAX_TOKEN {
            return Err(JwsError::TooLong);
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(JwsError::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Malformed)?;
        if payload.contains('.') {
            return Err(JwsError::Malformed);
        }
        let header = decode(header).ok_or(JwsError::Malformed)?;
        let header = strict_object(&header).ok_or(JwsError::Malformed)?;
        if header.contains_key("crit") {
            return Err(JwsError::CriticalExtension);
        }
        let algorithm = header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm
            .and_then(JwsAlgorithm::parse)
            .filter(|algorithm| accepted.contains(algorithm))
            .ok_or(JwsError::Algorithm)?;
        let text_member = |name| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(JwsError::Malformed),
        };
        Ok(Self {
            algorithm,
            key_id: text_member("kid")?,
            typ: text_member("typ")?,
            signing_input,
            payload,
            signature: decode(signature).ok_or(JwsError::Malformed)?,
        })
    }

    /// Returns the type that the header declares. The signature covers it.
    pub(crate) fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// Verifies the signature and returns the payload.
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<Vec<u8>, JwsError> {
        let (id, message) = (self.key_id.as_deref(), self.signing_input.as_bytes());
        keys.verify(id, self.algorithm, message, &self.signature)?;
        decode(self.payload).ok_or(JwsError::Malformed)
    }

    /// Verifies the signature and returns the claims of a JWT.
    pub(crate) fn claims(&self, keys: &KeySet) -> Result<Map<String, Value>, JwsError> {
        strict_object(&self.verify(keys)?).ok_or(JwsError::Malformed)
    }
}
