//! Result of resolving a token: a session, or a denial. Cache, resolver and layer pass it to each
//! other.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{
    model::{Origin, SharedUser},
    telemetry::LookupOutcome,
    token::SessionToken,
    validator::{ValidationError, ValidationErrorKind},
};

pub(crate) type Outcome = Result<Resolved, Denied>;

#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) user: SharedUser,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) origin: Origin,
    /// Whether its cache entry had expired.
    pub(crate) is_stale: bool,
}

/// A session, and the token that it belongs to.
pub(crate) struct Accepted {
    pub(crate) token: SessionToken,
    pub(crate) resolved: Resolved,
    /// Number of tokens of the request that were rejected before this one.
    pub(crate) rejected_tokens: u8,
}

impl Accepted {
    #[inline]
    pub(crate) fn first(token: SessionToken, resolved: Resolved) -> Self {
        Self {
            token,
            resolved,
            rejected_tokens: 0,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Denied {
    /// The application has revoked the token.
    Revoked,
    /// The validator rejected the token, or failed.
    Validation(ValidationError),
    /// The user did not authenticate as the route requires, with the parameters of the challenge.
    InsufficientAuthentication(Arc<str>),
}

impl Denied {
    /// Returns `true` if the token is known to be unusable, as opposed to a failure after which it
    /// may be valid.
    pub(crate) fn is_rejection(&self) -> bool {
        match self {
            Self::Revoked | Self::InsufficientAuthentication(_) => true,
            Self::Validation(error) => error.is_rejection(),
        }
    }

    /// Returns `true` if the user of the token is known, but access is denied.
    pub(crate) fn is_forbidden(&self) -> bool {
        match self {
            Self::Revoked => false,
            Self::InsufficientAuthentication(_) => true,
            Self::Validation(error) => matches!(error.kind(), ValidationErrorKind::Forbidden(_)),
        }
    }
}

impl From<ValidationError> for Denied {
    fn from(error: ValidationError) -> Self {
        Self::Validation(error)
    }
}

impl From<Origin> for LookupOutcome {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Local => Self::Local,
            Origin::Redis => Self::Redis,
            Origin::Validator => Self::Miss,
        }
    }
}

impl From<&Outcome> for LookupOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Ok(resolved) => resolved.origin.into(),
            Err(Denied::Revoked) => Self::Revoked,
            Err(Denied::Validation(_) | Denied::InsufficientAuthentication(_)) => Self::Negative,
        }
    }
}
