//! Results of lookups and fills, and the ticket that connects them.

use crate::{
    coherence::Generation,
    model::CachedSession,
    protocol::CacheKey,
    redis::{self, Reservation},
};

/// Result of a lookup.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Lookup {
    /// A session that may be served.
    Hit(CachedSession),
    /// Nothing usable was found. The token must be validated, and only a validation that begins
    /// after this ticket was taken counts.
    Miss(Ticket),
    /// The token was revoked. It must be rejected, whatever the identity provider would reply.
    Revoked,
}

/// State that a lookup saw, used as a fencing token: a session that was validated before a
/// revocation is never stored after it.
///
/// Taken *before* the validator is called, consumed by [`SessionCache::set`].
///
/// [`SessionCache::set`]: super::handle::SessionCache::set
#[derive(Clone, Debug)]
#[must_use = "nothing is cached unless the ticket is passed to `SessionCache::set`"]
pub struct Ticket {
    pub(crate) key: CacheKey,
    pub(crate) generation: Generation,
    /// By the clock of this process, in microseconds.
    pub(crate) taken_at: u64,
    pub(crate) snapshot: RedisSnapshot,
    /// Whether there is a record that may be newer than this node's rejection of the token.
    pub(crate) has_newer_record: bool,
}

/// State that a lookup saw in Redis.
#[derive(Clone, Debug)]
pub(crate) enum RedisSnapshot {
    /// There is no Redis, or the cache is disabled.
    Disabled,
    /// Redis did not reply, so nothing may be stored.
    Unavailable,
    /// Redis replied, but a revocation is queued for it, so nothing may be stored.
    Queued,
    Taken(Box<redis::LookupSnapshot>),
}

impl Ticket {
    /// Returns generation and time of the lookup.
    pub(crate) fn since(&self) -> (Generation, u64) {
        (self.generation, self.taken_at)
    }

    /// Whether the validation is reserved for this node.
    pub(crate) fn is_reserved(&self) -> bool {
        self.reservation() == Reservation::ThisNode
    }

    /// Whether the validation is reserved for another node.
    pub(crate) fn is_reserved_elsewhere(&self) -> bool {
        self.reservation() == Reservation::OtherNode
    }

    fn reservation(&self) -> Reservation {
        match &self.snapshot {
            RedisSnapshot::Taken(seen) => seen.reservation,
            _ => Reservation::None,
        }
    }

    /// Whether the lookup learned the state that it needs. Without Redis it always has.
    pub(crate) fn is_answered(&self) -> bool {
        !matches!(
            self.snapshot,
            RedisSnapshot::Unavailable | RedisSnapshot::Queued
        )
    }
}

/// Result of storing a session.
#[derive(Clone, Debug)]
#[must_use = "it says whether the session may be served: it may have been revoked during the validation"]
#[non_exhaustive]
pub enum Fill {
    /// The session is stored and will be served from the cache.
    Stored,
    /// The session is valid, but was not stored: the cache is disabled, Redis did not reply to the
    /// lookup, or Redis holds a newer record.
    Skipped,
    /// The session has expired already, or names no user. It must not be served.
    Expired,
    /// A revocation happened after the lookup. Validate once more, with this new ticket.
    Conflict(Ticket),
    /// The token was revoked or its session was ended. The session must not be served.
    Revoked,
    /// The user is banned. The session must not be served.
    Banned,
    /// Redis did not reply, or the validation took too long, so it is unknown whether a revocation
    /// happened after the lookup. Serve the session only to requests that arrived before the
    /// validation began.
    Unavailable,
}
