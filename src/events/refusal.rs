//! Why a pushed event is not acted on.

use std::{error::Error as StdError, fmt};

/// Reason why a request is not an authentic event, so that nothing is revoked.
///
/// Its text is logged and may be part of the answer. It is a constant, so that it contains nothing
/// of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    kind: RefusalKind,
    reason: &'static str,
}

impl Refusal {
    /// Creates a refusal. The reason is a short text in lower case, such as `the signature is
    /// wrong`.
    #[must_use]
    pub const fn new(kind: RefusalKind, reason: &'static str) -> Self {
        Self { kind, reason }
    }

    /// Returns the kind, from which a source makes the answer.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl StdError for Refusal {}

/// Kind of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The request does not have the form of an event, or its body could not be read.
    InvalidRequest,
    /// The event is signed with an unknown key, or with an algorithm that is not allowed.
    InvalidKey,
    /// The event comes from another issuer.
    InvalidIssuer,
    /// The event is for another audience.
    InvalidAudience,
    /// The signature or the secret is missing or wrong.
    AuthenticationFailed,
    /// The event is too old, or from the future.
    OutsideTolerance,
    /// Whether the event is authentic cannot be decided now. The sender should repeat it.
    Unavailable,
}
