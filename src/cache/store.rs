//! Lookups and fills across the memory of this process and Redis.

use std::time::Duration;

use super::{
    revocation_queue::RevocationQueue,
    ticket::{Fill, Lookup, RedisSnapshot, Ticket},
    validations::ValidationLeader,
};
use crate::{
    coherence::Generation,
    memory::{FillCheck, LocalStore, RejectedBy, Rejections, Watermark},
    model::{CachedSession, LayerId, Origin, RecordVersion, UserData},
    protocol::{CLOCK_SKEW_TOLERANCE, CacheKey, KeyDeriver, LastingCause, LocalKey, TombstoneKind},
    redis::{Denial, FillReply, LookupResult, RedisStore, Serve},
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

    /// Whether a session from before a restart of Redis may be served for the token.
    pub(crate) fn is_bridged(&self, key: &CacheKey) -> bool {
        self.local.get_bridged(key).is_some()
    }

    /// Whether Redis has all revocations of this process.
    pub(crate) fn is_delivered(&self) -> bool {
        self.queue.undelivered() == 0
    }

    /// Whether a change of a record is pushed to this process at present.
    pub(crate) fn hears_records(&self) -> bool {
        let lease = self.local.lease();
        lease.is_some_and(|lease| lease.is_alive(lease.now()))
            && self.redis.as_ref().is_some_and(RedisStore::hears_records)
    }

    /// Returns a number that changes when a change of the token is pushed.
    pub(crate) fn pushes(&self, key: &CacheKey) -> u64 {
        self.local
            .lease()
            .map_or(0, |lease| lease.pushes(&key.token))
    }

    /// Waits until [`pushes`](Self::pushes) is no longer `seen`, or for as long as `at_most`.
    pub(crate) async fn pushed(&self, key: &CacheKey, seen: u64, at_most: Duration) {
        match self.local.lease() {
            Some(lease) => {
                let _ = tokio::time::timeout(at_most, lease.pushed(&key.token, seen)).await;
            }
            None => tokio::time::sleep(at_most).await,
        }
    }

    /// Waits until a session may have been revoked since `seen`, as far as this process makes or
    /// receives revocations.
    pub(crate) async fn changed(&self, seen: Watermark, key: &CacheKey, user: &UserData) {
        let names = self.redis.as_ref().map(|redis| redis.mark_names(user.id()));
        let name = names.and_then(|mut names| names.next());
        self.local.changed(seen, key, user, name.as_deref()).await;
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

    /// Looks up a token. If nothing usable is found, reserves the validation for this node for as long
    /// as `reserve` says, which is not called for a hit.
    pub(crate) async fn lookup(
        &self,
        key: &CacheKey,
        reserve: impl Fn() -> Option<Duration>,
    ) -> Lookup {
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
        self.lookup_in_redis(key, generation, Serve::Any, reserve)
            .await
    }

    /// Looks up a token for a refresh of its record. Returns a hit only if a newer record is stored by
    /// now, which is also kept in memory, with the times of its own validation.
    pub(crate) async fn lookup_newer(
        &self,
        key: &CacheKey,
        than: RecordVersion,
        reserve: impl Fn() -> Option<Duration>,
    ) -> Lookup {
        let generation = self.local.generation();
        if self.local.is_revoked(key) {
            return Lookup::Revoked;
        }
        self.lookup_in_redis(key, generation, Serve::Newer(than), reserve)
            .await
    }

    async fn lookup_in_redis(
        &self,
        key: &CacheKey,
        generation: Generation,
        serve: Serve,
        reserve: impl Fn() -> Option<Duration>,
    ) -> Lookup {
        // Read the version before the read is sent, so that any change during the read is detected.
        let version = self.local.lease().and_then(|lease| lease.read_version());
        let rejected = self.rejections.rejected_until(key);
        let began = self.clock.elapsed();
        let snapshot = match &self.redis {
            Some(redis) if self.is_enabled && serve == Serve::Any => {
                redis.lookup(key, &reserve).await
            }
            // Boxed, so that the future of a hit does not reserve space for it.
            Some(redis) if self.is_enabled => {
                Box::pin(redis.take_snapshot(key, serve, reserve())).await
            }
            _ => return Box::pin(self.take_ticket(key, None)).await,
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
                    return Box::pin(self.take_ticket(key, reserve())).await;
                }
                let since = served.record.since().0;
                if rejected.hides(since) || self.rejections.rejected_until(key).hides(since) {
                    let mut lookup = Box::pin(self.take_ticket(key, reserve())).await;
                    if let Lookup::Miss(ticket) = &mut lookup {
                        ticket.has_newer_record = true;
                    }
                    return lookup;
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

    /// Looks up a token for a caller that does not accept what is stored.
    pub(crate) async fn take_ticket(&self, key: &CacheKey, reserve: Option<Duration>) -> Lookup {
        let generation = self.local.generation();
        if self.local.is_revoked(key) {
            return Lookup::Revoked;
        }
        let Some(redis) = &self.redis else {
            return Lookup::Miss(self.ticket(key, generation, RedisSnapshot::Disabled));
        };
        let began = self.clock.elapsed();
        let found = redis.take_snapshot(key, Serve::Nothing, reserve).await;
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
    /// rejected the token.
    pub(crate) fn rejection(&self, ticket: &Ticket, layer: LayerId) -> Option<ValidationError> {
        // Another node has validated the token since this one rejected it, so the provider is asked.
        if ticket.has_newer_record {
            return None;
        }
        self.negatives(&ticket.key, layer)
            .find(ValidationError::is_rejection)
            .or_else(|| self.shared_rejection(ticket))
    }

    /// Whether this process remembers that the token was rejected, or failed, so that it would not be
    /// validated after a lookup that finds nothing.
    pub(crate) fn has_negative(&self, key: &CacheKey, layer: LayerId) -> bool {
        self.negatives(key, layer).next().is_some()
    }

    fn negatives(&self, key: &CacheKey, layer: LayerId) -> impl Iterator<Item = ValidationError> {
        [RejectedBy::Provider, RejectedBy::Layer(layer)]
            .into_iter()
            .filter(|_| self.is_enabled)
            .filter_map(|by| self.local.get_negative(key, by))
    }

    /// Returns the rejection by the provider of which another node knows, unless this process has
    /// revoked a user since: the user of such a token is unknown.
    fn shared_rejection(&self, ticket: &Ticket) -> Option<ValidationError> {
        let RedisSnapshot::Taken(seen) = &ticket.snapshot else {
            return None;
        };
        // The result of another validation counts, whether it can be used or not.
        if seen.observed.is_some() {
            return None;
        }
        let redis = self.redis.as_ref()?;
        let rejection = redis.rejection(seen)?;
        let slack = CLOCK_SKEW_TOLERANCE.unsigned_abs();
        let age = redis.rejection_age(seen, rejection).saturating_add(slack);
        let at = ticket.taken_at.saturating_sub(age);
        if self.local.is_any_user_revoked_since(at) {
            return None;
        }
        // As after a rejection that this node has received, nothing from before it is served.
        self.local.reject(&ticket.key);
        Some(rejection.cause.into())
    }

    /// Returns the failure if the validator of this layer has just failed for the token.
    pub(crate) fn failure(&self, ticket: &Ticket, layer: LayerId) -> Option<ValidationError> {
        self.local
            .get_negative(&ticket.key, RejectedBy::Layer(layer))
            .filter(|error| !error.is_rejection())
    }

    /// Stores that the token was rejected in the validation for which this ticket was taken: by the
    /// identity provider, which counts for all layers of the namespace, or by this layer's own
    /// rules. Returns how long it is remembered, in microseconds.
    pub(crate) fn cache_negative(
        &self,
        ticket: &Ticket,
        by: RejectedBy,
        error: ValidationError,
    ) -> u64 {
        if !self.is_enabled {
            return 0;
        }
        let last_wait = match (&self.redis, &ticket.snapshot) {
            (Some(redis), RedisSnapshot::Taken(seen)) if by == RejectedBy::Provider => {
                redis.last_wait(seen)
            }
            _ => None,
        };
        self.local
            .cache_negative(&ticket.key, by, ticket.since(), error, last_wait)
    }

    /// Ends a validation that was reserved for this node without a stored session. A rejection by the
    /// provider is shared for as long as this node uses it, in microseconds.
    pub(crate) async fn end_validation(
        &self,
        ticket: &Ticket,
        rejection: Option<(LastingCause, u64)>,
    ) {
        let (Some(redis), RedisSnapshot::Taken(seen)) = (&self.redis, &ticket.snapshot) else {
            return;
        };
        match rejection {
            // A token with a record is in use, so this node alone does not reject it for all others.
            Some((cause, wait)) if wait > 0 && seen.observed.is_none() => {
                let age = self.clock.elapsed().saturating_sub(ticket.taken_at);
                let key = &ticket.key;
                redis.share_rejection(key, seen, age, wait, cause).await;
            }
            _ if ticket.is_reserved() => redis.end_reservation(&ticket.key).await,
            _ => {}
        }
    }

    /// Stores that the validation for which this ticket was taken had no result, for a reason that
    /// concerns this token. A disabled cache stores only a provider's `Retry-After`.
    pub(crate) fn cache_failure(&self, ticket: &Ticket, layer: LayerId, error: ValidationError) {
        if self.is_enabled || error.retry_after().is_some() {
            let by = RejectedBy::Layer(layer);
            self.local
                .cache_negative(&ticket.key, by, ticket.since(), error, None);
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
        let reserved = ticket.is_reserved().then(|| ticket.key.clone());
        let fill = self.count_fill(self.try_fill(ticket, session, Some(layer)).await);
        // The fill script has ended the reservation of a session that it stored. If Redis does not
        // reply, the reservation ends by itself.
        if let (
            Fill::Skipped | Fill::Expired | Fill::Revoked | Fill::Banned,
            Some(key),
            Some(redis),
        ) = (&fill, &reserved, &self.redis)
        {
            Box::pin(redis.end_reservation(key)).await;
        }
        fill
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
            ..
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
                return match self.take_ticket(&key, None).await {
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
            let began = self.clock.elapsed();
            self.local
                .cache_negative(key, RejectedBy::Provider, (now, began), error, None);
        }
        Fill::Banned
    }

    fn ticket(&self, key: &CacheKey, generation: Generation, snapshot: RedisSnapshot) -> Ticket {
        Ticket {
            key: key.clone(),
            generation,
            taken_at: self.clock.elapsed(),
            snapshot,
            has_newer_record: false,
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
