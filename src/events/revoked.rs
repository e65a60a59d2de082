//! What an event concerns.

use std::fmt;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::model::Authority;

/// What an authentic event concerns. Returned by a [`RevocationSource`](super::RevocationSource).
///
/// ```
/// use tower_session_cache::Revoked;
///
/// let event = serde_json::json!({ "type": "user.deleted", "data": { "id": "ada" } });
/// let revoked = match event["type"].as_str() {
///     Some("user.deleted") => Revoked::user(event["data"]["id"].as_str()),
///     _ => Revoked::nothing(),
/// };
/// # let _ = revoked;
/// ```
#[derive(Clone, Default)]
#[must_use = "nothing is revoked unless it is returned to the receiver"]
pub struct Revoked {
    pub(super) users: Vec<String>,
    pub(super) sessions: Vec<(Authority, String)>,
    pub(super) is_unmapped: bool,
    pub(super) occurred_at: Option<DateTime<Utc>>,
    pub(super) key: Option<EventKey>,
}

impl Revoked {
    /// The event is understood and changes no session.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// The event concerns a subject that cannot be mapped to a user. It is acknowledged, since a
    /// repetition would not help, and counted separately.
    pub fn unmapped() -> Self {
        Self {
            is_unmapped: true,
            ..Self::default()
        }
    }

    /// The event concerns this user, whose sessions are validated again, as
    /// [`SessionCache::invalidate_user`](crate::SessionCache::invalidate_user) describes. `None` or
    /// an empty ID is [unmapped](Self::unmapped).
    pub fn user<'a>(id: impl Into<Option<&'a str>>) -> Self {
        Self::nothing().and_user(id)
    }

    /// The event concerns all of these users. An event without users is
    /// [`nothing`](Self::nothing).
    pub fn users<I>(ids: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        ids.into_iter()
            .fold(Self::nothing(), |revoked, id| revoked.and_user(id.as_ref()))
    }

    /// Adds a user. `None` or an empty ID is [unmapped](Self::unmapped).
    pub fn and_user<'a>(mut self, id: impl Into<Option<&'a str>>) -> Self {
        match id.into() {
            Some(id) if !id.is_empty() => self.users.push(id.to_owned()),
            _ => self.is_unmapped = true,
        }
        self
    }

    /// Adds a session by its ID, which is unique at the authority that issued it.
    ///
    /// # Security
    ///
    /// The session is rejected from then on, whatever the identity provider reports. Add a session
    /// only if the issuer has signed that it has ended.
    pub fn and_session(mut self, authority: &Authority, id: impl Into<String>) -> Self {
        self.sessions.push((authority.clone(), id.into()));
        self
    }

    /// Sets when the change happened at the identity provider. It is used for a metric only.
    pub fn occurred_at(mut self, time: DateTime<Utc>) -> Self {
        self.occurred_at = Some(time);
        self
    }

    /// Sets the ID of the event, which must be unique at its issuer. If an event with this issuer
    /// and ID was applied within the last 10 minutes, it is acknowledged without another
    /// revocation.
    ///
    /// Do not use an ID that the sender did not sign.
    pub fn with_event_id(self, issuer: impl AsRef<[u8]>, id: impl AsRef<[u8]>) -> Self {
        let (issuer, id) = (issuer.as_ref(), id.as_ref());
        Self {
            key: Some(EventKey::new(issuer, id)),
            ..self
        }
    }
}

/// Prints no ID.
impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revoked")
            .field("users", &self.users.len())
            .field("sessions", &self.sessions.len())
            .field("is_unmapped", &self.is_unmapped)
            .finish_non_exhaustive()
    }
}

/// Digest of an issuer and an event's ID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EventKey([u8; 32]);

impl EventKey {
    fn new(issuer: &[u8], id: &[u8]) -> Self {
        // The length separates the two parts: no other pair has the same bytes.
        let length = (issuer.len() as u64).to_be_bytes();
        let digest = Sha256::new().chain_update(length).chain_update(issuer);
        Self(digest.chain_update(id).finalize().into())
    }
}
