//! The sessions that this process holds, under the rules of revocation by counting.
//!
//! Lookup, fill and revocation are short and synchronous: a hit takes no lock across an await,
//! and allocates nothing.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;

use super::{
    key::{EntryKey, TokenKey},
    stripes::{Seen, Stripes, UserStripe},
    verdicts::Verdicts,
};
use crate::{
    clock::{Clock, wall_micros},
    user::UserData,
    validator::ValidatedSession,
};

pub(super) struct Local {
    entries: Cache<EntryKey, Entry>,
    stripes: Stripes,
    verdicts: Mutex<Verdicts>,
    clock: Clock,
    ttl: u64,
    verdict_ttl: u64,
}

#[derive(Clone)]
struct Entry {
    user: UserData,
    expires_at: Option<DateTime<Utc>>,
    usable_until: u64,
    seen: Seen,
    user_stripe: UserStripe,
}

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

/// A session as the cache holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedSession {
    /// Whose session it is.
    pub user: UserData,
    /// When it ends by itself, if known; in the future when it was looked up.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a lookup saw, so that nothing validated before a revocation is ever stored after it.
///
/// Taken *before* the validator is asked, consumed by [`SessionCache::set`].
///
/// [`SessionCache::set`]: super::SessionCache::set
#[derive(Clone, Debug)]
#[must_use]
pub struct Ticket {
    key: EntryKey,
    seen: Seen,
}

/// What became of a session that was to be stored.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub enum Fill {
    /// It will be served from the cache.
    Stored,
    /// It was valid, but not worth storing: the cache is off.
    Skipped,
    /// It has ended already, or names no user; it must not be served.
    Ended,
    /// A revocation came after the lookup. Validate once more, with this new ticket.
    Overtaken(Ticket),
    /// The token was revoked. Its session must not be served.
    Revoked,
}

impl Local {
    pub(super) fn new(capacity: NonZeroUsize, clock: Clock, ttl: u64, verdict_ttl: u64) -> Self {
        Self {
            entries: Cache::new(capacity.get()),
            stripes: Stripes::new(),
            verdicts: Mutex::new(Verdicts::new(capacity.get())),
            clock,
            ttl,
            verdict_ttl,
        }
    }

    /// The near lookup: a usable entry, or nothing.
    pub(super) fn hit(&self, key: &EntryKey) -> Option<CachedSession> {
        let entry = self.entries.get(key)?;
        let live = self.clock.elapsed() < entry.usable_until
            && !ended(entry.expires_at, &self.clock)
            && self
                .stripes
                .unchanged(entry.seen, &key.token, entry.user_stripe);
        if live {
            Some(CachedSession {
                user: entry.user,
                expires_at: entry.expires_at,
            })
        } else {
            let seen = entry.seen;
            // Only that very entry: a newer one may have come meanwhile.
            self.entries.remove_if(key, |now| now.seen == seen);
            None
        }
    }

    pub(super) fn lookup(&self, key: &EntryKey) -> Lookup {
        match self.hit(key) {
            Some(session) => Lookup::Hit(session),
            None => self.ask(key),
        }
    }

    /// A lookup that disregards what is stored.
    pub(super) fn ask(&self, key: &EntryKey) -> Lookup {
        // First the sequence, then the verdict: one that comes in between is seen by the fill.
        let seen = self.stripes.seen();
        if self.refuses(&key.token) {
            Lookup::Revoked
        } else {
            Lookup::Miss(Ticket {
                key: key.clone(),
                seen,
            })
        }
    }

    pub(super) fn fill(&self, ticket: Ticket, session: &ValidatedSession, store: bool) -> Fill {
        let Ticket { key, seen } = ticket;
        let user_stripe = self.stripes.user(session.user.id());
        if self.refuses(&key.token) {
            return Fill::Revoked;
        }
        if !self.stripes.unchanged(seen, &key.token, user_stripe) {
            return match self.ask(&key) {
                Lookup::Miss(ticket) => Fill::Overtaken(ticket),
                _ => Fill::Revoked,
            };
        }
        if session.user.id().is_empty() || ended(session.expires_at, &self.clock) {
            return Fill::Ended;
        }
        if !store {
            return Fill::Skipped;
        }
        // A revocation between the check and this line does no harm: every hit compares `seen`.
        self.entries.insert(
            key,
            Entry {
                user: session.user.clone(),
                expires_at: session.expires_at,
                usable_until: self.clock.elapsed().saturating_add(self.ttl),
                seen,
                user_stripe,
            },
        );
        Fill::Stored
    }

    pub(super) fn invalidate_token(&self, key: EntryKey) {
        self.stripes.revoke_token(&key.token);
        self.entries.remove(&key);
    }

    /// Answers whether an older verdict had to be forgotten for want of space.
    pub(super) fn revoke_token(&self, key: EntryKey) -> bool {
        let now = self.clock.elapsed();
        // The verdict stands before the stripe moves, so whoever sees the one finds the other.
        let forgot = self
            .verdicts()
            .insert(key.token, now.saturating_add(self.verdict_ttl), now);
        self.invalidate_token(key);
        forgot
    }

    pub(super) fn invalidate_user(&self, id: &str) {
        self.stripes.revoke_user(id);
    }

    /// Sessions and verdicts held.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.entries.len(), self.verdicts().len())
    }

    fn refuses(&self, token: &TokenKey) -> bool {
        self.verdicts().refuses(token, self.clock.elapsed())
    }

    fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        // No code under this lock panics half-way through a change.
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(expires_at: Option<DateTime<Utc>>, clock: &Clock) -> bool {
    expires_at.is_some_and(|at| wall_micros(at) <= clock.wall())
}
