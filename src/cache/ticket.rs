//! What a lookup and a fill have to say to each other, and to the application.

use crate::{coherence::Generation, model::CachedSession, protocol::CacheKey, redis};

/// What a lookup found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Lookup {
    /// A session that may be served.
    Hit(CachedSession),
    /// Nothing usable: the identity provider must be asked, and the ticket says from when on.
    Miss(Ticket),
    /// The token was revoked. It is refused, whatever the identity provider would say.
    Revoked,
}

/// What a lookup saw, so that nothing validated before a revocation is ever stored after it.
///
/// Taken *before* the validator is asked, consumed by [`SessionCache::set`].
///
/// [`SessionCache::set`]: super::handle::SessionCache::set
#[derive(Clone, Debug)]
#[must_use]
pub struct Ticket {
    pub(crate) key: CacheKey,
    pub(crate) generation: Generation,
    pub(crate) snapshot: RedisSnapshot,
}

/// What a lookup saw in Redis.
#[derive(Clone, Debug)]
pub(crate) enum RedisSnapshot {
    /// There is none, or it is not to be asked.
    Disabled,
    /// It gave no answer, or a revocation is on its way to it: nothing may be stored.
    Unavailable,
    Taken(Box<redis::LookupSnapshot>),
}

impl Ticket {
    /// Whether the lookup learned what it had to. Without Redis it always has.
    pub(crate) fn is_answered(&self) -> bool {
        !matches!(self.snapshot, RedisSnapshot::Unavailable)
    }
}

/// What became of a session that was to be stored.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub enum Fill {
    /// It will be served from the cache.
    Stored,
    /// It was valid, but is not stored: the cache is off, Redis did not answer the lookup, or it
    /// holds a newer record.
    Skipped,
    /// It has ended already, or names no user; it must not be served.
    Expired,
    /// A revocation came after the lookup. Validate once more, with this new ticket.
    Conflict(Ticket),
    /// The token was revoked. Its session must not be served.
    Revoked,
    /// Redis did not answer, or the validation took too long, so nobody knows whether a revocation
    /// came after the lookup. Serve it only to who asked before the validation began.
    Unavailable,
}
