//! Signature algorithms that a token may use.

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    VerificationAlgorithm,
};

/// Signature algorithm of a token ([RFC 7518], [RFC 8037]).
///
/// All of them verify with a public key. `none` and the HMAC algorithms (`HS256` and others) are not
/// supported, because a token that uses them can be made by a party without the issuer's private
/// key.
///
/// [RFC 7518]: https://www.rfc-editor.org/rfc/rfc7518#section-3.1
/// [RFC 8037]: https://www.rfc-editor.org/rfc/rfc8037#section-3.1
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JwsAlgorithm {
    /// RSA with PKCS #1 v1.5 padding and SHA-256. Most identity providers sign with it.
    Rs256,
    /// RSA with PKCS #1 v1.5 padding and SHA-384.
    Rs384,
    /// RSA with PKCS #1 v1.5 padding and SHA-512.
    Rs512,
    /// RSA-PSS with SHA-256.
    Ps256,
    /// RSA-PSS with SHA-384.
    Ps384,
    /// RSA-PSS with SHA-512.
    Ps512,
    /// ECDSA with the curve P-256 and SHA-256.
    Es256,
    /// ECDSA with the curve P-384 and SHA-384.
    Es384,
    /// EdDSA with Ed25519. Tokens call it `EdDSA` or `Ed25519`.
    EdDsa,
}

/// How *ring* verifies the signatures of an algorithm, by the type of key that it requires.
pub(super) enum Verification {
    Rsa(&'static RsaParameters),
    Ec {
        curve: &'static str,
        /// Length of a coordinate, in bytes.
        coordinate: usize,
        algorithm: &'static EcdsaVerificationAlgorithm,
    },
    Okp {
        curve: &'static str,
        algorithm: &'static dyn VerificationAlgorithm,
    },
}

impl JwsAlgorithm {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            // The second name is that of RFC 9864.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }

    pub(super) fn verification(self) -> Verification {
        match self {
            Self::Rs256 => Verification::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Verification::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Verification::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Verification::Rsa(&RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Verification::Rsa(&RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Verification::Rsa(&RSA_PSS_2048_8192_SHA512),
            Self::Es256 => Verification::Ec {
                curve: "P-256",
                coordinate: 32,
                algorithm: &ECDSA_P256_SHA256_FIXED,
            },
            Self::Es384 => Verification::Ec {
                curve: "P-384",
                coordinate: 48,
                algorithm: &ECDSA_P384_SHA384_FIXED,
            },
            Self::EdDsa => Verification::Okp {
                curve: "Ed25519",
                algorithm: &ED25519,
            },
        }
    }
}
