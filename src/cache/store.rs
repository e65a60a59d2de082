//! Lookups and fills across the memory of this process and Redis.

use std::time::Duration;

use super::{
    revocation_queue::RevocationQueue,
    ticket::{Fill, Lookup, RedisSnapshot, Ticket},
    validations::ValidationLeader,
};
use crate::{
    coherence::Generation,
    memory::{FillCheck, LocalStore, RejectedBy, Rejections},
    model::{CachedSession, LayerId, Origin, UserData},
    protocol::{CacheKey, KeyDeriver, LocalKey, TombstoneKind},
    redis::{Denial, FillReply, LookupResult, RedisStore, ReplacePolicy},
    sync::singleflight::Closed,
    telemetry::{CacheMetrics, FillOutcome, LookupOutcome},
    time::Clock,
    validator::{ForbiddenReason, ValidatedSession, ValidationError},
};

/// Both cache tiers, the queue of revocations, and the metrics.
pub(crate) struct Store {
    pub(crate) local: LocalStore,
    pub(crate) redis: Option<RedisStore>,
    pub(crate) key_deriver: KeyDeriver,
    pub(crate) queue: RevocationQueue,
    pub(crate) rejections: Rejections,
    pub(crate) clock: Clock,
    pub(crate) is_enabled: bool,
    /// Time after which no record from before a revocation can be usable any more, in microseconds.
    pub(crate) max_record_age: u64,
    /// How long a revoked token is rejected, in microseconds.
    pub(crate) revoked_token_ttl: u64,
    /// The longest lease of the nodes that share the Redis.
    pub(crate) fleet_lease: Duration,
    pub(crate) metrics: CacheMetrics,
}

impl Store {
    fn serves_from_memory(&self) -> bool {
        self.is_enabled && (self.redis.is_none() || self.local.lease().is_some())
    }

    /// Returns a session that can be served without waiting, if there is one. Computes the key only
    /// if sessions are served from memory.
    #[inline]
    pub(crate) fn get_local(&self, key: impl FnOnce() -> LocalKey) -> Option<CachedSession> {
        if !self.serves_from_memory() {
            return None;
        }
        self.local.get(key())
    }

    /// Whether this process knows that the token was revoked. A hit in memory never hides this.
    pub(crate) fn is_revoked(&self, key: &CacheKey) -> bool {
        self.local.is_revoked(key) && !(self.redis.is_some() && self.local.is_token_check_due(key))
    }

    /// Does the same as [`Self::is_revoked`], and finds out at most once per second whether another
    /// node has lifted the revocation.
    async fn is_still_revoked(&self, key: &CacheKey) -> bool {
        if !self.local.is_revoked(key) {
            return false;
        }
        if let Some(redis) = &self.redis
            // What is on its way to Redis cannot have been lifted there. This must be known before
            // the tombstone is read.
            && self.queue.undelivered() == 0
            && let Some(checked) = self.local.start_token_check(key)
            && let Some(tombstone) = redis.tombstone(key).await
            // Only a lift replaces a tombstone that refuses. One that is gone proves nothing.
            && tombstone.is_readable()
            && !tombstone.refuses()
        {
            self.local.lift_checked_token(key, checked);
        }
        self.local.is_revoked(key)
    }

    pub(crate) async fn lookup(&self, key: &CacheKey) -> Lookup {
        // Read the generation first, so that any revocation during this lookup is detected.
        let generation = self.local.generation();
        if self.serves_from_memory()
            && let Some(session) = self.local.get(key.local)
        {
            return Lookup::Hit(session);
        }
        // Boxed, so that the future of a hit does not reserve space for it.
        if self.local.is_revoked(key) && Box::pin(self.is_still_revoked(key)).await {
            return Lookup::Revoked;
        }
        // Read the version before the read is sent, so that any change during the read is detected.
        let version = self.local.lease().and_then(|lease| lease.read_version());
        let rejected = self.rejections.rejected_until(key);
        let began = self.clock.elapsed();
        let snapshot = match &self.redis {
            Some(redis) if self.is_enabled => redis.lookup(key).await,
            _ => return self.take_ticket(key, ReplacePolicy::AnyOlder).await,
        };
        match snapshot {
            LookupResult::Record(served) => {
                let user = &served.record.user;
                // Check the queue before the generation. Delivery advances the generation before it
                // removes the queue entry, so one of the two checks always sees the revocation.
                if self.has_queued_revocation(key, Some(user), began) {
                    return Lookup::Miss(self.ticket(key, generation, RedisSnapshot::Queued));
                }
                if !self.local.is_unchanged(key, generation, user) {
                    return self.take_ticket(key, ReplacePolicy::AnyOlder).await;
                }
                let since = served.record.since().0;
                if rejected.hides(since) || self.rejections.rejected_until(key).hides(since) {
                    return self.take_ticket(key, ReplacePolicy::AnyOlder).await;
                }
                if let Some(version) = version {
                    self.local.insert_from_redis(key, version, began, &served);
                }
                Lookup::Hit(CachedSession {
                    due: served.due(),
                    user: served.record.user.clone(),
                    expires_at: served.record.expires_at,
                    origin: Origin::Redis,
                })
            }
            found => self.miss(key, generation, began, found),
        }
    }

    /// Looks up a token for a caller that does not accept what is stored, or wants it validated
    /// again.
    pub(crate) async fn take_ticket(&self, key: &CacheKey, replace: ReplacePolicy) -> Lookup {
        let generation = self.local.generation();
        if self.local.is_revoked(key) {
            return Lookup::Revoked;
        }
        let Some(redis) = &self.redis else {
            return Lookup::Miss(self.ticket(key, generation, RedisSnapshot::Disabled));
        };
        let began = self.clock.elapsed();
        let found = redis.take_snapshot(key, replace).await;
        match found {
            // A disabled cache still rejects a token that another node has revoked, and nothing
            // else.
            LookupResult::Revoked => Lookup::Revoked,
            _ if !self.is_enabled => {
                Lookup::Miss(self.ticket(key, generation, RedisSnapshot::Disabled))
            }
            found => self.miss(key, generation, began, found),
        }
    }

    /// Returns a session whose cache entry has expired, for use while the identity provider is
    /// unavailable. Returns it only if no revocation since its validation began makes it unusable.
    /// Takes a closed leader, because a caller that joins later might have started after a
    /// revocation that this did not see.
    pub(crate) async fn stale(
        &self,
        _leader: &ValidationLeader<Closed>,
        key: &CacheKey,
    ) -> Option<CachedSession> {
        let generation = self.local.generation();
        if !self.is_enabled || self.local.is_revoked(key) {
            return None;
        }
        let stale = self.local.get_stale(key)?;
        let user = &stale.user;
        let generation = match &self.redis {
            None => stale.generation,
            Some(redis) => {
                let provenance = stale.window.provenance.as_ref()?;
                let began = self.clock.elapsed();
                if !redis.is_still_valid(key, user.id(), provenance).await
                    || self.has_queued_revocation(key, Some(user), began)
                {
                    return None;
                }
                generation
            }
        };
        let holds = self.local.is_unchanged(key, generation, user);
        holds.then_some(CachedSession {
            user: stale.user,
            expires_at: stale.expires_at,
            origin: Origin::Local,
            due: None,
        })
    }

    /// Returns a session of the local cache although another Redis server has appeared, which may
    /// have lost revocations: see `stale_after_restart`. Returns it only if neither this process
    /// nor that server knows of a revocation since its validation began.
    pub(crate) async fn bridged(&self, key: &CacheKey) -> Option<CachedSession> {
        let redis = self.redis.as_ref()?;
        let generation = self.local.generation();
        if self.local.is_revoked(key) {
            return None;
        }
        let entry = self.local.get_bridged(key)?;
        let provenance = entry.window.provenance.as_ref()?;
        let user = &entry.user;
        let began = self.clock.elapsed();
        let holds = !self.local.is_ended(user)
            && redis
                .is_unrevoked_after_restart(key, user.id(), provenance)
                .await
            // The new server may not know whose marks a session that was ended by its ID has.
            && redis.denial(user).await.is_none()
            && !self.has_queued_revocation(key, Some(user), began)
            && self.local.is_unchanged(key, generation, user)
            && self.local.get_bridged(key).is_some();
        holds.then_some(CachedSession {
            user: entry.user,
            expires_at: entry.expires_at,
            origin: Origin::Local,
            due: None,
        })
    }

    /// Ends the bridge for a session that was not accepted when it was validated again.
    pub(crate) fn end_bridge(&self, key: &CacheKey) {
        self.local.evict(key);
    }

    fn miss(
        &self,
        key: &CacheKey,
        generation: Generation,
        began: u64,
        found: LookupResult,
    ) -> Lookup {
        let snapshot = match found {
            LookupResult::Revoked => return Lookup::Revoked,
            LookupResult::Miss(_) if self.has_queued_revocation(key, None, began) => {
                RedisSnapshot::Queued
            }
            LookupResult::Miss(snapshot) => RedisSnapshot::Taken(snapshot),
            LookupResult::Record(..) | LookupResult::Unavailable => RedisSnapshot::Unavailable,
        };
        Lookup::Miss(self.ticket(key, generation, snapshot))
    }

    /// Returns the rejection if the identity provider, or this layer by its own rules, has just
    /// rejected the token. Must be called after a lookup.
    pub(crate) fn rejection(&self, key: &CacheKey, layer: LayerId) -> Option<ValidationError> {
        [RejectedBy::Provider, RejectedBy::Layer(layer)]
            .into_iter()
            .filter(|_| self.is_enabled)
            .filter_map(|by| self.local.get_negative(key, by))
            .find(ValidationError::is_rejection)
    }

    /// Returns the failure if the validator of this layer has just failed for the token.
    pub(crate) fn failure(&self, ticket: &Ticket, layer: LayerId) -> Option<ValidationError> {
        self.local
            .get_negative(&ticket.key, RejectedBy::Layer(layer))
            .filter(|error| !error.is_rejection())
    }

    /// Stores that the token was rejected in the validation for which this ticket was taken: by the
    /// identity provider, which counts for all layers of the namespace, or by this layer's own
    /// rules.
    pub(crate) fn cache_negative(&self, ticket: &Ticket, by: RejectedBy, error: ValidationError) {
        if self.is_enabled {
            self.local
                .cache_negative(&ticket.key, by, ticket.generation, error);
        }
    }

    /// Stores that the validation for which this ticket was taken had no result, for a reason that
    /// concerns this token. A disabled cache stores only a provider's `Retry-After`.
    pub(crate) fn cache_failure(&self, ticket: &Ticket, layer: LayerId, error: ValidationError) {
        if self.is_enabled || error.retry_after().is_some() {
            self.local
                .cache_failure(&ticket.key, layer, ticket.generation, error);
        }
    }

    /// Evicts what is cached for a token that the identity provider has rejected, and remembers the
    /// rejection, so that no older record is served if it cannot be deleted or is stored again.
    pub(crate) async fn evict(&self, ticket: &Ticket) {
        let key = &ticket.key;
        let Some(redis) = self.redis.as_ref().filter(|_| self.is_enabled) else {
            return self.local.reject(key);
        };
        let RedisSnapshot::Taken(snapshot) = &ticket.snapshot else {
            self.rejections.insert_undeleted(key, &self.clock);
            return self.local.reject(key);
        };
        self.rejections.insert(key, &self.clock);
        self.local.reject(key);
        if !redis.evict(key, snapshot).await {
            self.rejections.insert_undeleted(key, &self.clock);
        }
    }

    /// Stores a validated session, unless a revocation happened since the ticket was taken. Takes a
    /// closed leader, because a caller that joins after the comparison might have started after a
    /// revocation that the comparison did not see.
    pub(crate) async fn fill(
        &self,
        _leader: &ValidationLeader<Closed>,
        ticket: Ticket,
        session: &ValidatedSession,
        layer: LayerId,
    ) -> Fill {
        self.count_fill(self.try_fill(ticket, session, Some(layer)).await)
    }

    /// Does the same as [`Self::fill`] for a session that is shared with no other caller.
    pub(crate) async fn fill_by_ticket(&self, ticket: Ticket, session: &ValidatedSession) -> Fill {
        self.count_fill(self.try_fill(ticket, session, None).await)
    }

    fn count_fill(&self, fill: Fill) -> Fill {
        let fills = &self.metrics.fills;
        match fill {
            Fill::Stored => fills.with(FillOutcome::Stored).increment(),
            Fill::Conflict(_) => fills.with(FillOutcome::Conflict).increment(),
            Fill::Skipped | Fill::Expired | Fill::Revoked | Fill::Banned | Fill::Unavailable => {}
        }
        fill
    }

    async fn try_fill(
        &self,
        ticket: Ticket,
        session: &ValidatedSession,
        layer: Option<LayerId>,
    ) -> Fill {
        let Ticket {
            key,
            generation,
            taken_at,
            snapshot,
        } = ticket;
        // Read the generation before the comparisons. If this fill conflicts, the next one then
        // detects what is revoked from here on.
        let now = self.local.generation();
        match self.local.check(&key, generation, session) {
            FillCheck::Ok => self.local.forget_negative(&key, layer),
            FillCheck::Revoked => return Fill::Revoked,
            FillCheck::Ended => return self.denied(&key, now, Denial::Ended).await,
            FillCheck::Expired => return Fill::Expired,
            FillCheck::Conflict => {
                return match self.take_ticket(&key, ReplacePolicy::AnyOlder).await {
                    Lookup::Miss(ticket) => {
                        // The next fill may conflict as well, and its session is served.
                        let denial = match &self.redis {
                            Some(redis) => self.denial(redis, &key, now, &session.user).await,
                            None => None,
                        };
                        denial.unwrap_or(Fill::Conflict(ticket))
                    }
                    Lookup::Hit(_) | Lookup::Revoked => Fill::Revoked,
                };
            }
        }
        let user = &session.user;
        // Redis does not have a queued ban yet.
        let is_queued = self.queue.denies_user(user.id());
        if (self.redis.is_none() || is_queued) && self.local.is_banned(user) {
            return self.banned(&key, now);
        }
        let Some(redis) = &self.redis else {
            if !self.is_enabled {
                return Fill::Skipped;
            }
            self.local.insert(&key, generation, taken_at, session);
            return Fill::Stored;
        };
        let snapshot = match snapshot {
            RedisSnapshot::Taken(snapshot) if self.is_enabled => snapshot,
            RedisSnapshot::Unavailable => {
                return self.unanswered(&key, now, user, Fill::Skipped);
            }
            RedisSnapshot::Taken(_) | RedisSnapshot::Disabled | RedisSnapshot::Queued => {
                let denial = self.denial(redis, &key, now, user).await;
                return denial.unwrap_or(Fill::Skipped);
            }
        };
        match redis.fill(&key, &snapshot, session).await {
            FillReply::Stored => {
                // This node knows that the record has changed, so it evicts the old entry without
                // waiting for a push.
                self.local.evict(&key);
                self.rejections.remove(&key, taken_at);
                Fill::Stored
            }
            FillReply::Skipped => Fill::Skipped,
            FillReply::Unavailable => self.unanswered(&key, now, user, Fill::Unavailable),
            FillReply::Conflict(snapshot) => {
                Fill::Conflict(self.ticket(&key, now, RedisSnapshot::Taken(snapshot)))
            }
            FillReply::Denied(denial) => self.denied(&key, now, denial).await,
        }
    }

    /// Returns the denial of a session that is not compared by a fill, if Redis has one.
    async fn denial(
        &self,
        redis: &RedisStore,
        key: &CacheKey,
        now: Generation,
        user: &UserData,
    ) -> Option<Fill> {
        let denial = redis.denial(user).await?;
        Some(self.denied(key, now, denial).await)
    }

    async fn denied(&self, key: &CacheKey, now: Generation, denial: Denial) -> Fill {
        match denial {
            Denial::Revoked => Fill::Revoked,
            Denial::Banned => self.banned(key, now),
            // With a tombstone of its own, the token is rejected without another validation.
            Denial::Ended => {
                let ttl = Duration::from_micros(self.revoked_token_ttl);
                self.insert_revoked_token(key);
                if let Some(redis) = &self.redis {
                    let _ = redis.revoke_token(key, TombstoneKind::Revoke { ttl }).await;
                }
                self.local.invalidate_token(key);
                Fill::Revoked
            }
        }
    }

    /// Returns the outcome of a fill that Redis did not confirm. Then only the bans of this process
    /// are known.
    fn unanswered(&self, key: &CacheKey, now: Generation, user: &UserData, fill: Fill) -> Fill {
        if self.local.is_banned(user) {
            self.banned(key, now)
        } else {
            fill
        }
    }

    /// Rejects a banned user, for a while without another validation.
    fn banned(&self, key: &CacheKey, now: Generation) -> Fill {
        if self.is_enabled {
            let error = ValidationError::forbidden(ForbiddenReason::Blocked);
            self.local
                .cache_negative(key, RejectedBy::Provider, now, error);
        }
        Fill::Banned
    }

    fn ticket(&self, key: &CacheKey, generation: Generation, snapshot: RedisSnapshot) -> Ticket {
        Ticket {
            key: key.clone(),
            generation,
            taken_at: self.clock.elapsed(),
            snapshot,
        }
    }

    /// Whether a revocation that Redis does not have yet makes the records of Redis unusable on
    /// this node.
    fn has_queued_revocation(&self, key: &CacheKey, user: Option<&UserData>, began: u64) -> bool {
        let queue = &self.queue;
        queue.denies_token(key, began) || user.is_some_and(|user| queue.denies_session(user))
    }

    /// Returns the outcome of a lookup that finds nothing.
    pub(crate) fn miss_outcome(&self) -> LookupOutcome {
        if self.is_enabled {
            LookupOutcome::Miss
        } else {
            LookupOutcome::Bypass
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    #[inline]
    pub(crate) fn record_lookup(&self, outcome: LookupOutcome) {
        self.metrics.lookups.with(outcome).increment();
    }

    pub(crate) fn metrics(&self) -> &CacheMetrics {
        &self.metrics
    }
}
