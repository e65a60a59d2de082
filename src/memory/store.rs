//! Sessions in the memory of this process, whose revocations are detected by generation counters.
//!
//! Without Redis they are the cache. With Redis they save a round trip, and they are compared not
//! only with what this process has revoked but also with what Redis has pushed.
//!
//! Lookup, fill and revocation are short and synchronous. A hit holds no lock across an `.await`
//! and allocates nothing.

use std::{
    hash::{BuildHasherDefault, Hash},
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, Mutex},
};

use chrono::{DateTime, Utc};
use futures_util::future::select;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{
    denials::Denials,
    negative_cache::{NegativeCache, RejectedBy},
};
use crate::{
    coherence::{
        CacheableRecord, Generation, Generations, Lease, ReadVersion, Stripes, TokenStripe,
        UserStripe,
    },
    model::{CachedSession, LayerId, Origin, RecordVersion, SharedUser, UserData},
    protocol::{
        CacheKey, IdentityDigest, IdentityHasher, LifetimePolicy, LocalKey, Provenance, TokenDigest,
    },
    sync::lock,
    time::{Clock, wall_micros},
    validator::{ValidatedSession, ValidationError},
};

/// Maximum number of rejected tokens that are remembered, whatever the capacity for sessions is.
const MAX_NEGATIVE_ENTRIES: usize = 10_000;

pub(crate) struct LocalStore {
    entries: Cache<LocalKey, Entry, UnitWeighter, BuildHasherDefault<IdentityHasher>>,
    generations: Generations,
    revoked: Mutex<Denials<TokenDigest>>,
    ended: Mutex<Denials<IdentityDigest>>,
    banned: Mutex<Denials<IdentityDigest>>,
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
    /// Whether a session may be served after Redis was restarted.
    pub(crate) bridges_restarts: bool,
    pub(crate) revoked_token_ttl: u64,
    pub(crate) negative_ttl: u64,
}

#[derive(Clone)]
struct Entry {
    user: SharedUser,
    expires_at: Option<DateTime<Utc>>,
    usable_until: u64,
    refresh_at: u64,
    /// Identifies the record of the session.
    record: RecordVersion,
    version: ReadVersion,
    stripes: Stripes,
    /// `None` unless `stale_if_error` or `stale_after_restart` is set.
    stale: Option<Arc<StaleWindow>>,
}

/// What determines whether a session may be served that is not usable any more.
pub(crate) struct StaleWindow {
    /// End of its TTL.
    ends: u64,
    /// Compared with the state in Redis to find out whether the session is still valid.
    pub(crate) provenance: Option<Provenance>,
}

/// A session whose cache entry may not be usable any more.
pub(crate) struct StaleEntry {
    pub(crate) user: UserData,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) generation: Generation,
    pub(crate) window: Arc<StaleWindow>,
}

impl Entry {
    /// Returns the session, if neither it nor this duration after its TTL has ended.
    fn stale_within(self, duration: u64, clock: &Clock) -> Option<StaleEntry> {
        let window = self.stale?;
        let until = window.ends.saturating_add(duration);
        (clock.elapsed() < until && !ended(self.expires_at, clock)).then_some(StaleEntry {
            user: self.user.into(),
            expires_at: self.expires_at,
            generation: self.version.generation,
            window,
        })
    }
}

/// The revocations before a moment.
#[derive(Clone, Copy)]
pub(crate) struct Watermark {
    own: Generation,
    pushed: Option<Generation>,
}

/// Whether a validated session may be stored and served.
pub(crate) enum FillCheck {
    Ok,
    /// A revocation happened after the lookup.
    Conflict,
    Revoked,
    /// The session was ended, and the token was not revoked itself.
    Ended,
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
            generations: Generations::new(clock.clone()),
            revoked: Mutex::new(Denials::new(revoked.get())),
            ended: Mutex::new(Denials::new(revoked.get())),
            banned: Mutex::new(Denials::new(revoked.get())),
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
        let is_unchanged = match &self.lease {
            None => self
                .generations
                .is_current(entry.version.generation, entry.stripes),
            // The revocation queue is not checked here, because a revocation was counted when it
            // was queued.
            Some(lease) => lease.is_unchanged(entry.version, entry.stripes),
        };
        let has_ended = ended(entry.expires_at, &self.clock);
        if is_unchanged && now < entry.usable_until && !has_ended {
            return Some(CachedSession {
                user: entry.user.into(),
                expires_at: entry.expires_at,
                origin: Origin::Local,
                due: (now >= entry.refresh_at).then_some(entry.record),
            });
        }
        // With Redis, a changed entry is kept until its stale window ends. The push may have had
        // another reason than a revocation, and then Redis may show that the session is still
        // valid.
        let until = entry.stale.as_ref();
        let until = until.map_or(0, |window| window.ends.saturating_add(self.times.stale));
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
        (is_known && self.times.stale > 0)
            .then_some(entry)?
            .stale_within(self.times.stale, &self.clock)
    }

    /// Returns a session that may be served after another Redis server has appeared, once the
    /// caller has checked that this server knows of no revocation. Its TTL has not passed.
    pub(crate) fn get_bridged(&self, key: &CacheKey) -> Option<StaleEntry> {
        let lease = self
            .lease
            .as_ref()
            .filter(|_| self.times.bridges_restarts)?;
        let entry = self.entries.get(&key.local)?;
        lease
            .is_bridged(entry.version, entry.stripes)
            .then_some(entry)?
            .stale_within(0, &self.clock)
    }

    fn stale_window(&self, ends: u64, provenance: Option<&Provenance>) -> Option<Arc<StaleWindow>> {
        (self.times.stale > 0 || self.times.bridges_restarts).then(|| {
            Arc::new(StaleWindow {
                ends,
                provenance: provenance.cloned(),
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
        user: &UserData,
    ) -> bool {
        // Most often nothing was revoked, and no hash is needed.
        self.generations.is_latest(generation)
            || self.generations.is_current(
                generation,
                stripes(key, user, self.generations.user(user.id())),
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
        } else if self.is_ended(&session.user) {
            FillCheck::Ended
        } else if !self.is_unchanged(key, generation, &session.user) {
            FillCheck::Conflict
        } else if session.user.id().is_empty() || ended(session.expires_at, &self.clock) {
            FillCheck::Expired
        } else {
            FillCheck::Ok
        }
    }

    /// Stores a session whose validation began at `began` at the earliest. A revocation between
    /// [`Self::check`] and this is harmless, because every hit compares `generation`.
    pub(crate) fn insert(
        &self,
        key: &CacheKey,
        generation: Generation,
        began: u64,
        session: &ValidatedSession,
    ) {
        let now = self.clock.elapsed();
        let stripes = stripes(key, &session.user, self.generations.user(session.user.id()));
        let last_revocation = self.generations.last_revocation(stripes);
        let trusted = last_revocation
            .and_then(|at| self.lifetimes.trust(began.saturating_sub(at)))
            .map(|trust| began.saturating_add(trust).saturating_sub(now));
        let left = session
            .expires_at
            .map(|at| wall_micros(at).saturating_sub(self.clock.wall()));
        let life = self.lifetimes.life(&key.token, now.cast_signed(), left);
        let life = trusted.map_or(life, |trusted| life.min(trusted));
        let refresh_after = self.lifetimes.refresh_after(life).unwrap_or(u64::MAX);
        let usable_until = now.saturating_add(life);
        let can_be_stale = trusted.is_none();
        self.entries.insert(
            key.local,
            Entry {
                user: session.user.shared().clone(),
                expires_at: session.expires_at,
                usable_until,
                refresh_at: now.saturating_add(refresh_after),
                record: RecordVersion(usable_until.cast_signed()),
                version: ReadVersion::local(generation),
                stripes,
                stale: can_be_stale
                    .then(|| self.stale_window(usable_until, None))
                    .flatten(),
            },
        );
    }

    /// Stores a session that was found in Redis by a read that was sent at `sent`, after `version`
    /// was read. What was revoked or pushed in between is harmless here as well, because every hit
    /// compares `version`.
    pub(crate) fn insert_from_redis(
        &self,
        key: &CacheKey,
        version: ReadVersion,
        sent: u64,
        served: &CacheableRecord,
    ) {
        let Some(admission) = served.admission else {
            return;
        };
        let record = &served.record;
        // Count from the time before the read, so that the entry does not outlive the trust in its
        // record by the time of the reply.
        let ends = sent.saturating_add(served.left);
        let provenance = record.provenance.as_ref();
        self.entries.insert(
            key.local,
            Entry {
                user: record.user.shared().clone(),
                expires_at: record.expires_at,
                usable_until: ends.min(sent.saturating_add(self.times.max_age)),
                refresh_at: sent.saturating_add(served.refresh_in.unwrap_or(u64::MAX)),
                record: served.version,
                version,
                stripes: stripes(key, &record.user, admission.user),
                stale: admission
                    .can_be_stale
                    .then(|| self.stale_window(ends, provenance))
                    .flatten(),
            },
        );
    }

    /// Stores the session of the canary, as if it had just been read from Redis. Without a lease
    /// nothing is stored. No request can have its key.
    pub(crate) fn insert_canary(&self, key: LocalKey, stripe: TokenStripe) {
        let Some(lease) = &self.lease else { return };
        let Some(version) = lease.read_version() else {
            return;
        };
        let user = UserData::new("canary");
        let life = self.lifetimes.ttl().min(self.times.max_age);
        let usable_until = self.clock.elapsed().saturating_add(life);
        let stripes = Stripes {
            token: stripe,
            session: stripe,
            user: lease.user(user.id()),
        };
        self.entries.insert(
            key,
            Entry {
                user: user.into_shared(),
                expires_at: None,
                usable_until,
                refresh_at: u64::MAX,
                record: RecordVersion(usable_until.cast_signed()),
                version,
                stripes,
                stale: None,
            },
        );
    }

    /// Returns what [`changed`](Self::changed) compares with.
    pub(crate) fn watermark(&self) -> Watermark {
        Watermark {
            own: self.generation(),
            pushed: self.lease.as_ref().map(|lease| lease.generation()),
        }
    }

    /// Waits until the session may have been revoked since `seen`, by this process or, as far as
    /// Redis pushes it, by another one. `mark_name` is the name of the user's mark in Redis.
    pub(crate) async fn changed(
        &self,
        seen: Watermark,
        key: &CacheKey,
        user: &UserData,
        mark_name: Option<&str>,
    ) {
        let own = stripes(key, user, self.generations.user(user.id()));
        let own = self.generations.changed(seen.own, own);
        let (Some(lease), Some(pushed), Some(name)) = (&self.lease, seen.pushed, mark_name) else {
            return own.await;
        };
        let pushed = lease.changed(pushed, stripes(key, user, lease.user(name)));
        select(pin!(own), pin!(pushed)).await;
    }

    pub(crate) fn invalidate_token(&self, key: &CacheKey) {
        self.generations.revoke_token(&key.token);
        if let Some(lease) = &self.lease {
            lease.revoke_token(&key.token);
        }
        self.entries.remove(&key.local);
    }

    /// Removes an entry that is outdated by a newer result of the provider.
    pub(crate) fn evict(&self, key: &CacheKey) {
        self.entries.remove(&key.local);
    }

    /// Removes an entry whose token the identity provider has rejected, and makes one unusable that
    /// is being read from Redis at this moment.
    pub(crate) fn reject(&self, key: &CacheKey) {
        if let Some(lease) = &self.lease {
            lease.revoke_token(&key.token);
        }
        self.entries.remove(&key.local);
    }

    /// Remembers a revoked token. Returns whether an older one had to be forgotten because the list
    /// was full. The stripe is advanced afterwards, by [`Self::invalidate_token`]. So a caller that
    /// sees it advanced finds the token in the list.
    pub(crate) fn insert_revoked_token(&self, key: &CacheKey) -> bool {
        self.deny(&self.revoked, key.token, self.times.revoked_token_ttl)
    }

    /// Forgets that a token was revoked.
    pub(crate) fn lift_token(&self, key: &CacheKey) {
        lock(&self.revoked).remove(&key.token);
    }

    /// Forgets that a token was revoked, unless it was revoked again since its denial was
    /// [checked](Self::start_token_check).
    pub(crate) fn lift_checked_token(&self, key: &CacheKey, until: u64) {
        lock(&self.revoked).remove_if(&key.token, until);
    }

    /// Whether another node may have lifted the revocation of a token.
    pub(crate) fn is_token_check_due(&self, key: &CacheKey) -> bool {
        lock(&self.revoked).is_due(&key.token, self.clock.elapsed())
    }

    /// Makes the caller check whether another node has lifted the revocation. Returns what
    /// identifies the revocation, or `None` if it was checked within the last second.
    pub(crate) fn start_token_check(&self, key: &CacheKey) -> Option<u64> {
        lock(&self.revoked).start_check(&key.token, self.clock.elapsed())
    }

    /// Remembers an ended session. Returns whether an older one had to be forgotten. Like a token,
    /// it is remembered before it is [counted](Self::invalidate_session).
    pub(crate) fn insert_ended_session(&self, session: IdentityDigest) -> bool {
        self.deny(&self.ended, session, self.times.revoked_token_ttl)
    }

    pub(crate) fn is_ended(&self, user: &UserData) -> bool {
        self.is_denied(&self.ended, || IdentityDigest::session_of(user))
    }

    /// Remembers a banned user. Returns whether an older one had to be forgotten.
    pub(crate) fn insert_ban(&self, user: IdentityDigest, ttl: u64) -> bool {
        self.deny(&self.banned, user, ttl)
    }

    pub(crate) fn lift_ban(&self, user: &IdentityDigest) {
        lock(&self.banned).remove(user);
    }

    /// Whether this process has banned the user. Another node may have lifted the ban.
    pub(crate) fn is_banned(&self, user: &UserData) -> bool {
        self.is_denied(&self.banned, || IdentityDigest::user_of(user))
    }

    fn deny<K: Copy + Eq + Hash>(&self, denials: &Mutex<Denials<K>>, key: K, ttl: u64) -> bool {
        let now = self.clock.elapsed();
        lock(denials).insert(key, now.saturating_add(ttl), now)
    }

    fn is_denied(
        &self,
        denials: &Mutex<Denials<IdentityDigest>>,
        digest: impl FnOnce() -> Option<IdentityDigest>,
    ) -> bool {
        // Most often nothing is denied, and no digest is needed.
        if lock(denials).is_empty() {
            return false;
        }
        digest().is_some_and(|digest| lock(denials).contains(&digest, self.clock.elapsed()))
    }

    /// Revokes all entries of a session.
    pub(crate) fn invalidate_session(&self, session: &IdentityDigest) {
        self.generations.revoke_session(session);
        if let Some(lease) = &self.lease {
            lease.revoke_session(session);
        }
    }

    /// Revokes all entries of a user. `mark_names` are the names of the user's marks in Redis.
    pub(crate) fn invalidate_user(&self, id: &str, mark_names: impl Iterator<Item = String>) {
        self.generations.revoke_user(id);
        self.invalidate_marks(mark_names);
    }

    /// Revokes all entries from Redis whose users have marks of these names.
    pub(crate) fn invalidate_marks(&self, mark_names: impl Iterator<Item = String>) {
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
            lock(&self.revoked).len(),
            self.negative.len(),
        )
    }

    /// Stores that a token was rejected, or failed, in a validation that began at a time, after a
    /// generation was read. `last_wait` is how long the last rejection was used that nodes share. Returns how long
    /// this one is remembered, in microseconds.
    pub(crate) fn cache_negative(
        &self,
        key: &CacheKey,
        by: RejectedBy,
        since: (Generation, u64),
        error: ValidationError,
        last_wait: Option<u64>,
    ) -> u64 {
        self.negative.insert(key, by, since, error, last_wait)
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

    /// Whether this process has revoked any user since this time of its clock.
    pub(crate) fn is_any_user_revoked_since(&self, time: u64) -> bool {
        self.generations.is_any_user_revoked_since(time)
    }

    pub(crate) fn is_revoked(&self, key: &CacheKey) -> bool {
        lock(&self.revoked).contains(&key.token, self.clock.elapsed())
    }
}

fn stripes(key: &CacheKey, user: &UserData, user_stripe: UserStripe) -> Stripes {
    let token = TokenStripe::of(&key.token);
    let session = IdentityDigest::session_of(user);
    Stripes {
        token,
        session: session.map_or(token, |session| TokenStripe::of_session(&session)),
        user: user_stripe,
    }
}

fn ended(expires_at: Option<DateTime<Utc>>, clock: &Clock) -> bool {
    expires_at.is_some_and(|at| wall_micros(at) <= clock.wall())
}
