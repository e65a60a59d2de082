//! Result of resolving a token: a session, or a denial. Cache, resolver and layer pass it to each
//! other.

use chrono::{DateTime, Utc};

use crate::{
    model::{Origin, UserData},
    telemetry::LookupOutcome,
    validator::ValidationError,
};

pub(crate) type Outcome = Result<Resolved, Denied>;

#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) user: UserData,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) origin: Origin,
    /// Whether its cache entry had expired.
    pub(crate) is_stale: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Denied {
    /// The application has revoked the token.
    Revoked,
    /// The validator rejected the token, or failed.
    Validation(ValidationError),
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
            Err(Denied::Validation(_)) => Self::Negative,
        }
    }
}
