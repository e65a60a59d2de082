//! Public keys in the form of a JWK ([RFC 7517], [RFC 7518, section 6]).
//!
//! [RFC 7517]: https://www.rfc-editor.org/rfc/rfc7517#section-4
//! [RFC 7518, section 6]: https://www.rfc-editor.org/rfc/rfc7518#section-6

use ring::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

use super::{
    algorithm::{JwsAlgorithm, Verification},
    base64url::decode,
};

/// A public key of an issuer, for signatures only.
#[derive(Debug)]
pub(super) struct PublicKey {
    pub(super) id: Option<String>,
    /// The only algorithm of this key, if the issuer names one.
    algorithm: Option<JwsAlgorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Ec {
        curve: String,
        x: Vec<u8>,
        y: Vec<u8>,
    },
    Okp {
        curve: String,
        x: Vec<u8>,
    },
}

impl PublicKey {
    /// Reads a member of `keys`. Returns `None` for a key that verifies no signature that this crate
    /// supports: one for encryption, a symmetric one, or one of another curve.
    pub(super) fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name| jwk.get(name).and_then(Value::as_str);
        let bytes = |name| text(name).and_then(decode);
        let is_for_signatures = match jwk.get("use") {
            None => true,
            Some(purpose) => purpose == "sig",
        };
        let may_verify = match jwk.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|one| one == "verify"),
            Some(_) => false,
        };
        if !is_for_signatures || !may_verify {
            return None;
        }
        let algorithm = match jwk.get("alg") {
            None => None,
            Some(name) => Some(JwsAlgorithm::parse(name.as_str()?)?),
        };
        let id = match jwk.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.to_owned()),
        };
        let material = match text("kty")? {
            "RSA" => Material::Rsa {
                n: bytes("n")?,
                e: bytes("e")?,
            },
            "EC" => Material::Ec {
                curve: text("crv")?.to_owned(),
                x: bytes("x")?,
                y: bytes("y")?,
            },
            "OKP" => Material::Okp {
                curve: text("crv")?.to_owned(),
                x: bytes("x")?,
            },
            _ => return None,
        };
        Some(Self {
            id,
            algorithm,
            material,
        })
    }

    /// Returns `true` if this key can verify signatures of the algorithm.
    pub(super) fn fits(&self, algorithm: JwsAlgorithm) -> bool {
        if self.algorithm.is_some_and(|only| only != algorithm) {
            return false;
        }
        match (algorithm.verification(), &self.material) {
            (Verification::Rsa(_), Material::Rsa { .. }) => true,
            (
                Verification::Ec {
                    curve, coordinate, ..
                },
                Material::Ec { curve: own, x, y },
            ) => curve == own && x.len() == coordinate && y.len() == coordinate,
            (Verification::Okp { curve, .. }, Material::Okp { curve: own, .. }) => curve == own,
            _ => false,
        }
    }

    /// Returns `true` if the signature is valid and this key fits the algorithm.
    pub(super) fn verifies(
        &self,
        algorithm: JwsAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        let verified = match (algorithm.verification(), &self.material) {
            (Verification::Rsa(parameters), Material::Rsa { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Verification::Ec { algorithm, .. }, Material::Ec { x, y, .. }) => {
                // The uncompressed form of a point. ring checks that it is on the curve.
                let point = [&[4], &**x, y].concat();
                UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
            (Verification::Okp { algorithm, .. }, Material::Okp { x, .. }) => {
                UnparsedPublicKey::new(algorithm, x).verify(message, signature)
            }
            _ => return false,
        };
        verified.is_ok()
    }
}
