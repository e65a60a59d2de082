//! Lookups and fills across the memory of this process and Redis.

use super::{
    revocation_queue::RevocationQueue,
    ticket::{Fill, Lookup, RedisSnapshot, Ticket},
    validations::ValidationLeader,
};
use crate::{
    coherence::Generation,
    memory::{FillCheck, LocalStore, RejectedBy},
    model::{CachedSession, LayerId, Origin},
    protocol::{CacheKey, KeyDeriver, LocalKey},
    redis::{FillReply, LookupResult, RedisStore, ReplacePolicy},
    sync::singleflight::Closed,
    telemetry::{CacheMetrics, FillOutcome, LookupOutcome},
    time::Clock,
    validator::{ValidatedSession, ValidationError},
};

/// Both cache tiers, the queue of revocations, and the metrics.
pub(crate) struct Store {
    pub(crate) local: LocalStore,
    pub(crate) redis: Option<RedisStore>,
    pub(crate) key_deriver: KeyDeriver,
    pub(crate) queue: RevocationQueue,
    pub(crate) clock: Clock,
    pub(crate) is_enabled: bool,
    /// Time after which no record from before a revocation can be usable any more, in microseconds.
    pub(crate) max_record_age: u64,
    /// How long a revoked token is rejected, in microseconds.
    pub(crate) revoked_token_ttl: u64,
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
        if self.is_revoked(key) {
            return Lookup::Revoked;
        }
        // Read the version before the read is sent, so that any change during the read is detected.
        let version = self.local.lease().and_then(|lease| lease.read_version());
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
                if self.has_queued_revocation(key, Some(user.id()), began) {
                    return Lookup::Miss(self.ticket(key, generation, RedisSnapshot::Unavailable));
                }
                if !self.local.is_unchanged(key, generation, user.id()) {
                    return self.take_ticket(key, ReplacePolicy::AnyOlder).await;
                }
                if let Some(version) = version {
                    self.local.insert_from_redis(key, version, &served);
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
        let (id, generation) = match &self.redis {
            None => (stale.user.id(), stale.generation),
            Some(redis) => {
                let provenance = stale.window.provenance.as_ref()?;
                let id = stale.user.id();
                let began = self.clock.elapsed();
                if !redis.is_still_valid(key, id, provenance).await
                    || self.has_queued_revocation(key, Some(id), began)
                {
                    return None;
                }
                (id, generation)
            }
        };
        let holds = self.local.is_unchanged(key, generation, id);
        holds.then_some(CachedSession {
            user: stale.user,
            expires_at: stale.expires_at,
            origin: Origin::Local,
            due: None,
        })
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
            LookupResult::Miss(snapshot) if !self.has_queued_revocation(key, None, began) => {
                RedisSnapshot::Taken(snapshot)
            }
            LookupResult::Miss(_) | LookupResult::Record(..) | LookupResult::Unavailable => {
                RedisSnapshot::Unavailable
            }
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

    /// Evicts what is cached for a token that the identity provider has rejected.
    pub(crate) async fn evict(&self, ticket: &Ticket) {
        self.local.evict(&ticket.key);
        if let (Some(redis), RedisSnapshot::Taken(snapshot)) = (&self.redis, &ticket.snapshot) {
            redis.evict(&ticket.key, snapshot).await;
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
            Fill::Skipped | Fill::Expired | Fill::Revoked | Fill::Unavailable => {}
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
            snapshot,
        } = ticket;
        // Read the generation before the comparisons. If this fill conflicts, the next one then
        // detects what is revoked from here on.
        let now = self.local.generation();
        match self.local.check(&key, generation, session) {
            FillCheck::Ok => self.local.forget_negative(&key, layer),
            FillCheck::Revoked => return Fill::Revoked,
            FillCheck::Expired => return Fill::Expired,
            FillCheck::Conflict => {
                return match self.take_ticket(&key, ReplacePolicy::AnyOlder).await {
                    Lookup::Miss(ticket) => Fill::Conflict(ticket),
                    Lookup::Hit(_) | Lookup::Revoked => Fill::Revoked,
                };
            }
        }
        if !self.is_enabled {
            return Fill::Skipped;
        }
        let Some(redis) = &self.redis else {
            self.local.insert(&key, generation, session);
            return Fill::Stored;
        };
        match snapshot {
            RedisSnapshot::Taken(snapshot) => match redis.fill(&key, &snapshot, session).await {
                FillReply::Stored => {
                    // This node knows that the record has changed, so it evicts the old entry
                    // without waiting for a push.
                    self.local.evict(&key);
                    Fill::Stored
                }
                FillReply::Skipped => Fill::Skipped,
                FillReply::Revoked => Fill::Revoked,
                FillReply::Unavailable => Fill::Unavailable,
                FillReply::Conflict(snapshot) => {
                    Fill::Conflict(self.ticket(&key, now, RedisSnapshot::Taken(snapshot)))
                }
            },
            RedisSnapshot::Unavailable | RedisSnapshot::Disabled => Fill::Skipped,
        }
    }

    fn ticket(&self, key: &CacheKey, generation: Generation, snapshot: RedisSnapshot) -> Ticket {
        Ticket {
            key: key.clone(),
            generation,
            snapshot,
        }
    }

    /// Whether a revocation that Redis does not have yet makes the records of Redis unusable on
    /// this node.
    fn has_queued_revocation(&self, key: &CacheKey, user_id: Option<&str>, began: u64) -> bool {
        let queue = &self.queue;
        queue.denies_token(key, began) || user_id.is_some_and(|id| queue.denies_user(id))
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
