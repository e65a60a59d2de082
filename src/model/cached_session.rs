//! A session as a lookup finds it.

use chrono::{DateTime, Utc};

use super::{
    session::{Origin, RecordVersion},
    user::UserData,
};

/// A session in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedSession {
    /// The user of the session.
    pub user: UserData,
    /// When the session expires, if known. It was in the future at the time of the lookup.
    pub expires_at: Option<DateTime<Utc>>,
    /// Where the session was found.
    pub origin: Origin,
    /// Set if the session is due to be validated again, although it may still be served.
    pub(crate) due: Option<RecordVersion>,
}
