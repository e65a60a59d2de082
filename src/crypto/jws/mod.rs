//! Verification of signed tokens: JWS ([RFC 7515]) in its compact serialization, and the public keys
//! of an issuer (JWK, [RFC 7517]).
//!
//! 1. The caller lists the algorithms that it accepts. The token's header only selects among them.
//!    `none` and the HMAC algorithms do not exist here.
//! 2. A key comes from the issuer's key set and from nowhere else. `jku`, `jwk`, `x5u` and `x5c` of
//!    a header are never read.
//! 3. A key must fit the algorithm by its `kty`, `crv`, `alg`, `use` and `key_ops`. An RSA key has
//!    2,048 to 8,192 bits.
//! 4. Parsers are strict: no padding, white space or trailing bits in base64url, and no member twice
//!    in a JSON object. Two parsers that read one token differently are the start of most attacks.
//! 5. The payload is returned only by the verification.
//!
//! The signatures are verified by *ring*, which is linked through rustls already.
//!
//! [RFC 7515]: https://www.rfc-editor.org/rfc/rfc7515
//! [RFC 7517]: https://www.rfc-editor.org/rfc/rfc7517

mod algorithm;
mod base64url;
mod error;
mod key;
mod key_set;
#[cfg(any(test, feature = "testing"))]
mod signer;
mod strict_json;
mod token;

#[cfg(test)]
mod tests;

pub use self::algorithm::JwsAlgorithm;
#[cfg(any(test, feature = "testing"))]
pub(crate) use self::signer::TestSigner;
pub(crate) use self::{error::JwsError, key_set::KeySet, strict_json::strict_object, token::Jws};
