//! Sessions in the memory of this process, whose revocations are detected by generation counters.
//!
//! Without Redis they are the cache. With Redis they save a round trip, and they are compared not
//! only with what this process has revoked but also with what Redis has pushed.
//!
//! Lookup, fill and revocation are short and synchronous. A hit holds no lock across an `.await`
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

use super::{
    negative_cache::{NegativeCache, RejectedBy},
    revoked_tokens::RevokedTokens,
};
use crate::{
    coherence::{
        CacheableRecord, Generation, Generations, Lease, ReadVersion, TokenStripe, UserStripe,
    },
    model::{CachedSession, LayerId, Origin, RecordVersion, UserData},
    protocol::{CacheKey, IdentityHasher, LifetimePolicy, LocalKey, Provenance},
    sync::lock,
    time::{Clock, wall_micros},
    validator::{ValidatedSession, ValidationError},
};

/// Maximum number of rejected tokens that are remembered, whatever the capacity for sessions is.
const MAX_NEGATIVE_ENTRIES: usize = 10_000;

pub(crate) struct LocalStore {
    entries: Cache<LocalKey, Entry, UnitWeighter, BuildHasherDefault<IdentityHasher>>,
    generations: Generations,
    revoked: Mutex<RevokedTokens>,
    negative: NegativeCache,
    /// The lease that is required to serve sessions that are also stored in Redis.
    lease: Option<Arc<Lease>>,
    clock: Clock,
    lifetimes: LifetimePolicy,
    times: Ttls,
}

/// Durations in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ttls {
    /// Maximum time in memory of a session that is also stored in Redis.
    pub(crate) max_age: u64,
    /// How long after its TTL a session may be served if the identity provider is unavailable.
    pub(crate) stale: u64,
    pub(crate) revoked_token_ttl: u64,
    pub(crate) negative_ttl: u64,
}

#[derive(Clone)]
struct Entry {
    user: UserData,
    expires_at: Option<DateTime<Utc>>,
    usable_until: u64,
    refresh_at: u64,
    /// Identifies the record of the session.
    record: RecordVersion,
    version: ReadVersion,
    token_stripe: TokenStripe,
    user_stripe: UserStripe,
    /// `None` unless `stale_if_error` is set.
    stale: Option<Arc<StaleWindow>>,
}

/// Until when an expired session may be served, and what must be compared before.
pub(crate) struct StaleWindow {
    until: u64,
    /// Compared with the state in Redis to find out whether the session is still valid.
    pub(crate) provenance: Option<Provenance>,
}

/// A session whose cache entry may have expired.
pub(crate) struct StaleEntry {
    pub(crate) user: UserData,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) generation: Generation,
    pub(crate) window: Arc<StaleWindow>,
}

/// Whether a validated session may be stored and served.
pub(crate) enum FillCheck {
    Ok,
    /// A revocation happened after the lookup.
    Conflict,
    Revoked,
    Expired,
}

impl LocalStore {
    pub(crate) fn new(
        sessions: NonZeroUsize,
        revoked: NonZeroUsize,
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
            generations: Generations::new(),
            revoked: Mutex::new(RevokedTokens::new(revoked.get())),
            negative: NegativeCache::new(MAX_NEGATIVE_ENTRIES, clock.clone(), times.negative_ttl),
            lease,
            clock,
            lifetimes,
            times,
        }
    }

    pub(crate) fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// Returns a usable entry.
    pub(crate) fn get(&self, key: LocalKey) -> Option<CachedSession> {
        let now = self.clock.elapsed();
        // Check the lease before the numbers of the entry are compared. What the lease proves to be
        // counted has been counted by the time the lease is seen.
        if let Some(lease) = &self.lease
            && !lease.is_alive(now)
        {
            return None;
        }
        let entry = self.entries.get(&key)?;
        let (token, user) = (entry.token_stripe, entry.user_stripe);
        let is_unchanged = match &self.lease {
            None => self
                .generations
                .is_current(entry.version.generation, token, user),
            // The revocation queue is not checked here, because a revocation was counted when it
            // was queued.
            Some(lease) => lease.is_unchanged(entry.version, token, user),
        };
        let has_ended = ended(entry.expires_at, &self.clock);
        if is_unchanged && now < entry.usable_until && !has_ended {
            return Some(CachedSession {
                user: entry.user,
                expires_at: entry.expires_at,
                origin: Origin::Local,
                due: (now >= entry.refresh_at).then_some(entry.record),
            });
        }
        // With Redis, a changed entry is kept until its stale window ends. The push may have had
        // another reason than a revocation, and then Redis may show that the session is still
        // valid.
        let until = entry.stale.as_ref().map_or(0, |window| window.until);
        let is_over = now >= until || (!is_unchanged && self.lease.is_none());
        if is_over || has_ended {
            // Remove only this entry. A newer one may have been inserted meanwhile.
            self.entries
                .remove_if(&key, |standing| standing.version == entry.version);
        }
        None
    }

    /// Returns a session that may be served if the identity provider is unavailable, once the
    /// caller has checked that nothing was revoked.
    pub(crate) fn get_stale(&self, key: &CacheKey) -> Option<StaleEntry> {
        let entry = self.entries.get(&key.local)?;
        let is_known = self.lease.as_ref().is_none_or(|lease| {
            lease.is_alive(lease.now()) && lease.is_current_epoch(entry.version)
        });
        let window = entry.stale?;
        let is_over = self.clock.elapsed() >= window.until || ended(entry.expires_at, &self.clock);
        (is_known && !is_over).then_some(StaleEntry {
            user: entry.user,
            expires_at: entry.expires_at,
            generation: entry.version.generation,
            window,
        })
    }

    fn stale_window(
        &self,
        end: u64,
        provenance: impl FnOnce() -> Option<Provenance>,
    ) -> Option<Arc<StaleWindow>> {
        let until = end.saturating_add(self.times.stale);
        (self.times.stale > 0).then(|| {
            Arc::new(StaleWindow {
                until,
                provenance: provenance(),
            })
        })
    }

    /// Must be read before anything is looked up or validated, and before [`Self::is_revoked`]. The
    /// fill then detects a revocation of the token in between.
    pub(crate) fn generation(&self) -> Generation {
        self.generations.current()
    }

    pub(crate) fn is_unchanged(
        &self,
        key: &CacheKey,
        generation: Generation,
        user_id: &str,
    ) -> bool {
        self.generations.is_current(
            generation,
            TokenStripe::of(&key.token),
            self.generations.user(user_id),
        )
    }

    pub(crate) fn check(
        &self,
        key: &CacheKey,
        generation: Generation,
        session: &ValidatedSession,
    ) -> FillCheck {
        if self.is_revoked(key) {
            FillCheck::Revoked
        } else if !self.is_unchanged(key, generation, session.user.id()) {
            FillCheck::Conflict
        } else if session.user.id().is_empty() || ended(session.expires_at, &self.clock) {
            FillCheck::Expired
        } else {
            FillCheck::Ok
        }
    }

    /// Stores a validated session. A revocation between [`Self::check`] and this is harmless,
    /// because every hit compares `generation`.
    pub(crate) fn insert(
        &self,
        key: &CacheKey,
        generation: Generation,
        session: &ValidatedSession,
    ) {
        let now = self.clock.elapsed();
        let left = session
            .expires_at
            .map(|at| wall_micros(at).saturating_sub(self.clock.wall()));
        let life = self.lifetimes.life(&key.token, now.cast_signed(), left);
        let refresh_after = self.lifetimes.refresh_after(life).unwrap_or(u64::MAX);
        let usable_until = now.saturating_add(life);
        self.entries.insert(
            key.local,
            Entry {
                user: session.user.clone(),
                expires_at: session.expires_at,
                usable_until,
                refresh_at: now.saturating_add(refresh_after),
                record: RecordVersion(usable_until.cast_signed()),
                version: ReadVersion::local(generation),
                token_stripe: TokenStripe::of(&key.token),
                user_stripe: self.generations.user(session.user.id()),
                stale: self.stale_window(usable_until, || None),
            },
        );
    }

    /// Stores a session that was found in Redis by a read that was sent after `version` was read.
    /// What was revoked or pushed in between is harmless here as well, because every hit compares
    /// `version`.
    pub(crate) fn insert_from_redis(
        &self,
        key: &CacheKey,
        version: ReadVersion,
        served: &CacheableRecord,
    ) {
        let Some(admission) = served.admission else {
            return;
        };
        let record = &served.record;
        let now = self.clock.elapsed();
        let ends = now.saturating_add(served.left);
        let vouches = admission.can_revalidate;
        let provenance = || record.provenance.clone().filter(|_| vouches);
        self.entries.insert(
            key.local,
            Entry {
                user: record.user.clone(),
                expires_at: record.expires_at,
                usable_until: ends.min(now.saturating_add(self.times.max_age)),
                refresh_at: now.saturating_add(served.refresh_in.unwrap_or(u64::MAX)),
                record: served.version,
                version,
                token_stripe: TokenStripe::of(&key.token),
                user_stripe: admission.user,
                stale: self.stale_window(ends, provenance),
            },
        );
    }

    pub(crate) fn invalidate_token(&self, key: &CacheKey) {
        self.generations.revoke_token(&key.token);
        if let Some(lease) = &self.lease {
            lease.revoke_token(&key.token);
        }
        self.entries.remove(&key.local);
    }

    /// Removes an entry whose token the identity provider has rejected, or which is outdated by a
    /// newer result of the provider.
    pub(crate) fn evict(&self, key: &CacheKey) {
        self.entries.remove(&key.local);
    }

    /// Remembers a revoked token. Returns whether an older one had to be forgotten because the list
    /// was full. The stripe is advanced afterwards, by [`Self::invalidate_token`]. So a caller that
    /// sees it advanced finds the token in the list.
    pub(crate) fn insert_revoked_token(&self, key: &CacheKey) -> bool {
        let now = self.clock.elapsed();
        self.revoked().insert(
            key.token,
            now.saturating_add(self.times.revoked_token_ttl),
            now,
        )
    }

    /// Revokes all entries of a user. `mark_names` are the names of the user's marks in Redis.
    pub(crate) fn invalidate_user(&self, id: &str, mark_names: impl Iterator<Item = String>) {
        self.generations.revoke_user(id);
        if let Some(lease) = &self.lease {
            for name in mark_names {
                lease.revoke_user(&name);
            }
        }
    }

    /// Returns the number of sessions, revoked tokens and negative entries.
    pub(crate) fn len(&self) -> (usize, usize, usize) {
        (
            self.entries.len(),
            self.revoked().len(),
            self.negative.len(),
        )
    }

    /// Stores that a token was rejected in a validation that began after `generation` was read.
    pub(crate) fn cache_negative(
        &self,
        key: &CacheKey,
        by: RejectedBy,
        generation: Generation,
        error: ValidationError,
    ) {
        self.negative.insert(key, by, generation, error);
    }

    /// Stores that a validation which began after `generation` was read had no result.
    pub(crate) fn cache_failure(
        &self,
        key: &CacheKey,
        layer: LayerId,
        generation: Generation,
        error: ValidationError,
    ) {
        self.negative.insert_failure(key, layer, generation, error);
    }

    /// Removes the rejections by the provider and by the rules of `layer`, and its failure, since a
    /// successful validation contradicts them.
    pub(crate) fn forget_negative(&self, key: &CacheKey, layer: Option<LayerId>) {
        self.negative.remove(key, layer);
    }

    /// Returns why the token has just been rejected or failed, if nothing was revoked since then.
    pub(crate) fn get_negative(&self, key: &CacheKey, by: RejectedBy) -> Option<ValidationError> {
        self.negative.get(key, by, &self.generations)
    }

    pub(crate) fn is_revoked(&self, key: &CacheKey) -> bool {
        self.revoked().contains(&key.token, self.clock.elapsed())
    }

    fn revoked(&self) -> MutexGuard<'_, RevokedTokens> {
        lock(&self.revoked)
    }
}

fn ended(expires_at: Option<DateTime<Utc>>, clock: &Clock) -> bool {
    expires_at.is_some_and(|at| wall_micros(at) <= clock.wall())
}
