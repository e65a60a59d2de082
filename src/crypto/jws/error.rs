//! Errors of tokens.

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JwsError {
    /// The text is longer than 64 KiB.
    TooLong,
    /// The text is not a token in the compact serialization, or its header or payload is not a JSON
    /// object without duplicate members.
    Malformed,
    /// The header has `crit`: the token must not be processed by a recipient that does not
    /// understand the extension.
    CriticalExtension,
    /// The algorithm is not among those that the caller accepts.
    Algorithm,
    /// The key set has no such key. The issuer may have published it since the set was fetched.
    UnknownKey,
    /// The key set has the key, but it is not one for the algorithm.
    UnfitKey,
    /// Several keys of the set would fit, and the token does not say which.
    AmbiguousKey,
    /// The signature is invalid.
    Signature,
}

impl JwsError {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "the token is longer than 64 KiB",
            Self::Malformed => "the token is not a valid JWT in the compact serialization",
            Self::CriticalExtension => "the token requires an extension (`crit`)",
            Self::Algorithm => "the token is signed with an algorithm that is not accepted",
            Self::UnknownKey => "the token is signed with a key that the issuer does not publish",
            Self::UnfitKey => "the key of the token does not fit its algorithm",
            Self::AmbiguousKey => "the token does not say with which key it is signed (`kid`)",
            Self::Signature => "the signature of the token is invalid",
        }
    }
}
