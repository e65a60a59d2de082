//! The sessions that this process holds, under the rules of revocation by counting.
//!
//! Without Redis they are the cache. Before Redis they spare a round trip, and what they are
//! compared with is not only what this process has revoked but what Redis has pushed.
//!
//! Lookup, fill and revocation are short and synchronous: a hit takes no lock across an await,
//! and allocates nothing.

use std::{
    hash::BuildHasherDefault,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
};

use chrono::{DateTime, Utc};
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{negative_cache::NegativeCache, revoked_tokens::RevokedTokens};
use crate::{
    coherence::{
        CacheableRecord, Generation, Generations, Lease, ReadVersion, TokenStripe, UserStripe,
    },
    model::{CachedSession, Origin, RecordVersion, UserData},
    protocol::{CacheKey, IdentityHasher, LifetimePolicy, LocalKey, Provenance},
    sync::lock,
    time::{Clock, wall_micros},
    validator::ValidatedSession,
};

/// Refused tokens that are remembered, whatever the capacity for sessions is.
const MAX_REFUSALS: usize = 10_000;

pub(crate) struct LocalStore {
    entries: Cache<LocalKey, Entry, UnitWeighter, BuildHasherDefault<IdentityHasher>>,
    stripes: Generations,
    verdicts: Mutex<RevokedTokens>,
    refusals: NegativeCache,
    /// What it takes to serve what stands in Redis as well.
    lease: Option<Arc<Lease>>,
    clock: Clock,
    lifetimes: LifetimePolicy,
    times: Ttls,
}

/// In microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ttls {
    /// The longest time in memory for what stands in Redis as well.
    pub(crate) max_age: u64,
    /// How long after its time in the cache a session may be served for want of a better answer.
    pub(crate) stale: u64,
    pub(crate) verdict_ttl: u64,
    pub(crate) negative_ttl: u64,
}

#[derive(Clone)]
struct Entry {
    user: UserData,
    expires_at: Option<DateTime<Utc>>,
    usable_until: u64,
    refresh_at: u64,
    /// Which record of the session it is.
    of: RecordVersion,
    noted: ReadVersion,
    token_stripe: TokenStripe,
    user_stripe: UserStripe,
    /// Only where something may be served stale.
    after: Option<Arc<StaleWindow>>,
}

/// What may become of a session when its time in the cache is over.
pub(crate) struct StaleWindow {
    until: u64,
    /// By what Redis tells whether it still holds.
    pub(crate) cause: Option<Provenance>,
}

/// A session whose time in the cache may be over.
pub(crate) struct StaleEntry {
    pub(crate) user: UserData,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) seen: Generation,
    pub(crate) after: Arc<StaleWindow>,
}

/// Whether what was validated may be stored and served.
pub(crate) enum FillCheck {
    Ok,
    /// A revocation came after the lookup.
    Conflict,
    Revoked,
    Expired,
}

impl LocalStore {
    pub(crate) fn new(
        sessions: NonZeroUsize,
        verdicts: NonZeroUsize,
        lease: Option<Arc<Lease>>,
        clock: Clock,
        lifetimes: LifetimePolicy,
        times: Ttls,
    ) -> Self {
        Self {
            entries: Cache::with(
                sessions.get(),
                sessions.get() as u64,
                UnitWeighter,
                BuildHasherDefault::default(),
                DefaultLifecycle::default(),
            ),
            stripes: Generations::new(),
            verdicts: Mutex::new(RevokedTokens::new(verdicts.get())),
            refusals: NegativeCache::new(MAX_REFUSALS, clock.clone(), times.negative_ttl),
            lease,
            clock,
            lifetimes,
            times,
        }
    }

    pub(crate) fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// The near lookup: a usable entry, or nothing.
    pub(crate) fn hit(&self, key: LocalKey) -> Option<CachedSession> {
        let now = self.clock.elapsed();
        // Before the entry's numbers are compared: what the lease proves is counted by now.
        if let Some(lease) = &self.lease
            && !lease.is_alive(now)
        {
            return None;
        }
        let entry = self.entries.get(&key)?;
        let (token, user) = (entry.token_stripe, entry.user_stripe);
        let is_unchanged = match &self.lease {
            None => self.stripes.unchanged(entry.noted.seen, token, user),
            // Not whether a revocation still waits for Redis: it was counted when it began to.
            Some(lease) => lease.is_unchanged(entry.noted, token, user),
        };
        let has_ended = ended(entry.expires_at, &self.clock);
        if is_unchanged && now < entry.usable_until && !has_ended {
            return Some(CachedSession {
                user: entry.user,
                expires_at: entry.expires_at,
                origin: Origin::Local,
                due: (now >= entry.refresh_at).then_some(entry.of),
            });
        }
        // Redis may still vouch for what was pushed for another reason than a revocation.
        let until = entry.after.as_ref().map_or(0, |after| after.until);
        let is_over = now >= until || (!is_unchanged && self.lease.is_none());
        if is_over || has_ended {
            // Only that very entry: a newer one may have come meanwhile.
            self.entries
                .remove_if(&key, |standing| standing.noted == entry.noted);
        }
        None
    }

    /// What may be served for want of a better answer, once it is known that nothing was revoked.
    pub(crate) fn aged(&self, key: &CacheKey) -> Option<StaleEntry> {
        let entry = self.entries.get(&key.near)?;
        let is_known = self
            .lease
            .as_ref()
            .is_none_or(|lease| lease.is_alive(lease.now()) && lease.is_of_now(entry.noted));
        let after = entry.after?;
        let is_over = self.clock.elapsed() >= after.until || ended(entry.expires_at, &self.clock);
        (is_known && !is_over).then_some(StaleEntry {
            user: entry.user,
            expires_at: entry.expires_at,
            seen: entry.noted.seen,
            after,
        })
    }

    fn after(
        &self,
        end: u64,
        cause: impl FnOnce() -> Option<Provenance>,
    ) -> Option<Arc<StaleWindow>> {
        let until = end.saturating_add(self.times.stale);
        (self.times.stale > 0).then(|| {
            Arc::new(StaleWindow {
                until,
                cause: cause(),
            })
        })
    }

    /// To be noted before anything is looked up or validated, and before [`Self::refuses`]: a
    /// verdict that comes in between is then seen by the fill.
    pub(crate) fn seen(&self) -> Generation {
        self.stripes.seen()
    }

    pub(crate) fn is_unchanged(&self, key: &CacheKey, seen: Generation, user_id: &str) -> bool {
        self.stripes.unchanged(
            seen,
            TokenStripe::of(&key.token),
            self.stripes.user(user_id),
        )
    }

    pub(crate) fn check(
        &self,
        key: &CacheKey,
        seen: Generation,
        session: &ValidatedSession,
    ) -> FillCheck {
        if self.refuses(key) {
            FillCheck::Revoked
        } else if !self.is_unchanged(key, seen, session.user.id()) {
            FillCheck::Conflict
        } else if session.user.id().is_empty() || ended(session.expires_at, &self.clock) {
            FillCheck::Expired
        } else {
            FillCheck::Ok
        }
    }

    /// A revocation between the check and this does no harm: every hit compares `seen`.
    pub(crate) fn store(&self, key: &CacheKey, seen: Generation, session: &ValidatedSession) {
        let now = self.clock.elapsed();
        let left = session
            .expires_at
            .map(|at| wall_micros(at).saturating_sub(self.clock.wall()));
        let life = self.lifetimes.life(&key.token, now.cast_signed(), left);
        let refresh_after = self.lifetimes.refresh_after(life).unwrap_or(u64::MAX);
        let usable_until = now.saturating_add(life);
        self.entries.insert(
            key.near,
            Entry {
                user: session.user.clone(),
                expires_at: session.expires_at,
                usable_until,
                refresh_at: now.saturating_add(refresh_after),
                of: RecordVersion(usable_until.cast_signed()),
                noted: ReadVersion::own(seen),
                token_stripe: TokenStripe::of(&key.token),
                user_stripe: self.stripes.user(session.user.id()),
                after: self.after(usable_until, || None),
            },
        );
    }

    /// What was found in Redis by a read that was sent after `noted`. Nor does it matter here what
    /// was revoked or pushed meanwhile.
    pub(crate) fn keep(&self, key: &CacheKey, noted: ReadVersion, served: &CacheableRecord) {
        let Some(keep) = served.keep else { return };
        let record = &served.record;
        let now = self.clock.elapsed();
        let ends = now.saturating_add(served.left);
        let vouches = keep.can_be_vouched_for;
        let cause = || record.cause.clone().filter(|_| vouches);
        self.entries.insert(
            key.near,
            Entry {
                user: record.user.clone(),
                expires_at: record.expires_at,
                usable_until: ends.min(now.saturating_add(self.times.max_age)),
                refresh_at: now.saturating_add(served.refresh_in.unwrap_or(u64::MAX)),
                of: served.of,
                noted,
                token_stripe: TokenStripe::of(&key.token),
                user_stripe: keep.user,
                after: self.after(ends, cause),
            },
        );
    }

    pub(crate) fn invalidate_token(&self, key: &CacheKey) {
        self.stripes.revoke_token(&key.token);
        if let Some(lease) = &self.lease {
            lease.revoke_token(&key.token);
        }
        self.entries.remove(&key.near);
    }

    /// The identity provider has refused its token, or knows better by now.
    pub(crate) fn evict(&self, key: &CacheKey) {
        self.entries.remove(&key.near);
    }

    /// Answers whether an older verdict had to be forgotten for want of space. The stripe moves
    /// by [`Self::invalidate_token`], afterwards: whoever sees it moved finds the verdict.
    pub(crate) fn refuse(&self, key: &CacheKey) -> bool {
        let now = self.clock.elapsed();
        self.verdicts()
            .insert(key.token, now.saturating_add(self.times.verdict_ttl), now)
    }

    /// The marks have the names that they have in Redis.
    pub(crate) fn invalidate_user(&self, id: &str, mark_names: impl Iterator<Item = String>) {
        self.stripes.revoke_user(id);
        if let Some(lease) = &self.lease {
            for name in mark_names {
                lease.revoke_user(&name);
            }
        }
    }

    /// Sessions, verdicts and refusals held.
    pub(crate) fn len(&self) -> (usize, usize, usize) {
        (
            self.entries.len(),
            self.verdicts().len(),
            self.refusals.len(),
        )
    }

    /// The identity provider refused a token in a validation that began after `seen`.
    pub(crate) fn remember_refusal(&self, key: &CacheKey, rules: u64, seen: Generation) {
        self.refusals.remember(key, rules, seen);
    }

    /// The provider's refusal is contradicted by a success, and so is that by these rules.
    pub(crate) fn forget_refusal(&self, key: &CacheKey, rules: u64) {
        self.refusals.forget(key, rules);
    }

    /// Whether it did so a moment ago, and nothing was revoked since.
    pub(crate) fn was_refused(&self, key: &CacheKey, rules: u64) -> bool {
        self.refusals.holds(key, rules, &self.stripes)
    }

    pub(crate) fn refuses(&self, key: &CacheKey) -> bool {
        self.verdicts().refuses(&key.token, self.clock.elapsed())
    }

    fn verdicts(&self) -> MutexGuard<'_, RevokedTokens> {
        lock(&self.verdicts)
    }
}

fn ended(expires_at: Option<DateTime<Utc>>, clock: &Clock) -> bool {
    expires_at.is_some_and(|at| wall_micros(at) <= clock.wall())
}
