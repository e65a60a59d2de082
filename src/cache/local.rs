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
    key::EntryKey,
    life::Lifetimes,
    refresh::Due,
    refusals::Refusals,
    stripes::{Seen, Stripes, UserStripe},
    ticket::CachedSession,
    verdicts::Verdicts,
};
use crate::{
    clock::{Clock, wall_micros},
    session::Origin,
    user::UserData,
    validator::ValidatedSession,
};

/// Refused tokens that are remembered, whatever the capacity for sessions is.
const MAX_REFUSALS: usize = 10_000;

pub(super) struct Local {
    entries: Cache<EntryKey, Entry>,
    stripes: Stripes,
    verdicts: Mutex<Verdicts>,
    refusals: Refusals,
    clock: Clock,
    lifetimes: Lifetimes,
    verdict_ttl: u64,
}

#[derive(Clone)]
struct Entry {
    user: UserData,
    expires_at: Option<DateTime<Utc>>,
    usable_until: u64,
    refresh_at: u64,
    seen: Seen,
    user_stripe: UserStripe,
}

/// Whether what was validated may be stored and served.
pub(super) enum Check {
    Fine,
    /// A revocation came after the lookup.
    Moved,
    Refused,
    Ended,
}

impl Local {
    pub(super) fn new(
        capacity: NonZeroUsize,
        clock: Clock,
        lifetimes: Lifetimes,
        verdict_ttl: u64,
        negative_ttl: u64,
    ) -> Self {
        Self {
            entries: Cache::new(capacity.get()),
            stripes: Stripes::new(),
            verdicts: Mutex::new(Verdicts::new(capacity.get())),
            refusals: Refusals::new(MAX_REFUSALS, clock.clone(), negative_ttl),
            clock,
            lifetimes,
            verdict_ttl,
        }
    }

    /// The near lookup: a usable entry, or nothing.
    pub(super) fn hit(&self, key: &EntryKey) -> Option<CachedSession> {
        let entry = self.entries.get(key)?;
        let now = self.clock.elapsed();
        let live = now < entry.usable_until
            && !ended(entry.expires_at, &self.clock)
            && self
                .stripes
                .unchanged(entry.seen, &key.token, entry.user_stripe);
        if live {
            Some(CachedSession {
                user: entry.user,
                expires_at: entry.expires_at,
                origin: Origin::Local,
                due: (now >= entry.refresh_at).then_some(Due(entry.usable_until.cast_signed())),
            })
        } else {
            let seen = entry.seen;
            // Only that very entry: a newer one may have come meanwhile.
            self.entries.remove_if(key, |now| now.seen == seen);
            None
        }
    }

    /// To be noted before anything is looked up or validated, and before [`Self::refuses`]: a
    /// verdict that comes in between is then seen by the fill.
    pub(super) fn seen(&self) -> Seen {
        self.stripes.seen()
    }

    pub(super) fn is_unchanged(&self, key: &EntryKey, seen: Seen, user_id: &str) -> bool {
        self.stripes
            .unchanged(seen, &key.token, self.stripes.user(user_id))
    }

    pub(super) fn check(&self, key: &EntryKey, seen: Seen, session: &ValidatedSession) -> Check {
        if self.refuses(key) {
            Check::Refused
        } else if !self.is_unchanged(key, seen, session.user.id()) {
            Check::Moved
        } else if session.user.id().is_empty() || ended(session.expires_at, &self.clock) {
            Check::Ended
        } else {
            Check::Fine
        }
    }

    /// A revocation between the check and this does no harm: every hit compares `seen`.
    pub(super) fn store(&self, key: EntryKey, seen: Seen, session: &ValidatedSession) {
        let now = self.clock.elapsed();
        let left = session
            .expires_at
            .map(|at| wall_micros(at).saturating_sub(self.clock.wall()));
        let life = self.lifetimes.life(&key.token, now.cast_signed(), left);
        let refresh_after = self.lifetimes.refresh_after(life).unwrap_or(u64::MAX);
        self.entries.insert(
            key,
            Entry {
                user: session.user.clone(),
                expires_at: session.expires_at,
                usable_until: now.saturating_add(life),
                refresh_at: now.saturating_add(refresh_after),
                seen,
                user_stripe: self.stripes.user(session.user.id()),
            },
        );
    }

    pub(super) fn invalidate_token(&self, key: &EntryKey) {
        self.stripes.revoke_token(&key.token);
        self.entries.remove(key);
    }

    /// The identity provider has refused its token.
    pub(super) fn evict(&self, key: &EntryKey) {
        self.entries.remove(key);
    }

    /// Answers whether an older verdict had to be forgotten for want of space. The stripe moves
    /// by [`Self::invalidate_token`], afterwards: whoever sees it moved finds the verdict.
    pub(super) fn refuse(&self, key: &EntryKey) -> bool {
        let now = self.clock.elapsed();
        self.verdicts()
            .insert(key.token, now.saturating_add(self.verdict_ttl), now)
    }

    pub(super) fn invalidate_user(&self, id: &str) {
        self.stripes.revoke_user(id);
    }

    /// Sessions, verdicts and refusals held.
    pub(super) fn len(&self) -> (usize, usize, usize) {
        (
            self.entries.len(),
            self.verdicts().len(),
            self.refusals.len(),
        )
    }

    /// The identity provider refused a token in a validation that began after `seen`.
    pub(super) fn remember_refusal(&self, key: &EntryKey, seen: Seen) {
        self.refusals.remember(key, seen);
    }

    pub(super) fn forget_refusal(&self, key: &EntryKey) {
        self.refusals.forget(key);
    }

    /// Whether it did so a moment ago, and nothing was revoked since.
    pub(super) fn was_refused(&self, key: &EntryKey) -> bool {
        self.refusals.holds(key, &self.stripes)
    }

    pub(super) fn refuses(&self, key: &EntryKey) -> bool {
        self.verdicts().refuses(&key.token, self.clock.elapsed())
    }

    fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        // No code under this lock panics half-way through a change.
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(expires_at: Option<DateTime<Utc>>, clock: &Clock) -> bool {
    expires_at.is_some_and(|at| wall_micros(at) <= clock.wall())
}
