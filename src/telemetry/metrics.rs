//! All metrics: their names, labels and help texts. A value of a label is added in its enum, and a
//! metric in its set.
//!
//! [`Stats`] reads the same counts.

use super::{
    instruments::{
        Counter, Family, Gauge, Histogram, Instrument, Label, Metric, label, metric_set,
    },
    stats::{Revocations, Stats},
};

label! {
    /// How a request came to its answer.
    enum LookupOutcome: "outcome" {
        Local = "local",
        Redis = "redis",
        Miss = "miss",
        Negative = "negative",
        Revoked = "revoked",
        Stale = "stale",
        Bypass = "bypass",
    }
}

label! {
    /// How a validation ended.
    enum ValidationOutcome: "outcome" {
        Accepted = "accepted",
        Rejected = "refused",
        Unavailable = "unavailable",
    }
}

label! {
    /// Which revocation it is.
    enum RevocationKind: "kind" {
        InvalidateToken = "invalidate_token",
        RevokeToken = "revoke_token",
        InvalidateUser = "invalidate_user",
    }
}

label! {
    /// What became of it.
    enum RevocationOutcome: "outcome" {
        Applied = "delivered",
        Queued = "queued",
        QueueFull = "not_queued",
    }
}

metric_set! {
    /// The metrics of a cache.
    struct CacheMetrics {
        lookups: Family<LookupOutcome, Counter> = "session_cache_lookups_total",
            "Requests by where their answer came from; stale ones were misses first";
        lookup_duration: Family<LookupOutcome, Histogram> = "session_cache_lookup_seconds",
            "How long requests waited that had to wait";
        validations_started: Counter = "session_cache_validations_begun_total",
            "Calls of the validator";
        validations: Family<ValidationOutcome, Counter> = "session_cache_validations_total",
            "Validations by what came of them";
        validation_duration: Family<ValidationOutcome, Histogram> =
            "session_cache_validation_seconds",
            "How long the validator took";
        coalesced: Counter = "session_cache_joined_total",
            "Requests that waited for a validation which another one had begun";
        refreshes: Counter = "session_cache_refreshes_total",
            "Sessions in use that were validated again ahead of their end in the cache";
        stored: Counter = "session_cache_stored_total",
            "Validations whose answer was stored";
        overtaken: Counter = "session_cache_overtaken_total",
            "Validations that a revocation overtook";
        revocations_started: Counter = "session_cache_revocations_begun_total",
            "Calls of invalidate_token, revoke_token and invalidate_user";
        revocations: Family<RevocationKind, Family<RevocationOutcome, Counter>> =
            "session_cache_revocations_total",
            "Revocations by kind and by what came of them";
    }
}

metric_set! {
    /// How Redis is used.
    struct RedisMetrics {
        connections: Gauge = "session_cache_redis_connections",
            "Open connections to Redis, without the listener's";
        commands_in_flight: Gauge = "session_cache_redis_in_use",
            "Commands that wait for Redis now";
        errors: Counter = "session_cache_redis_unanswered_total",
            "Commands that Redis did not answer in time, or not as it should";
    }
}

metric_set! {
    /// How well the local cache hears.
    struct ListenerMetrics {
        lease_held: Gauge = "session_cache_lease_held",
            "Whether sessions may be served from the local cache now";
        heartbeat: Histogram = "session_cache_listener_lag_seconds",
            "How long the listener's heartbeats took, behind all pushes before them";
        invalidations: Counter = "session_cache_listener_pushes_total",
            "Changes that Redis has told of";
        local_resets: Counter = "session_cache_listener_epochs_total",
            "How many times the local cache has begun anew";
    }
}

pub(crate) const VALIDATIONS_IN_FLIGHT: Metric = Metric {
    name: "session_cache_validations_in_flight",
    help: "Tokens that are being validated now",
};

pub(crate) const REVOCATIONS_QUEUED: Metric = Metric {
    name: "session_cache_revocations_undelivered",
    help: "Revocations that hold here and wait for Redis",
};

pub(crate) const REDIS_CIRCUIT_OPEN: Metric = Metric {
    name: "session_cache_redis_skipped",
    help: "Whether Redis is left alone now, since it did not answer",
};

impl CacheMetrics {
    /// The counts. What other parts of the cache hold now is left at zero.
    pub(crate) fn stats(&self) -> Stats {
        let lookups = |outcome| self.lookups.with(outcome).get();
        let validations = |outcome| self.validations.with(outcome).get();
        let revocations = |kind| {
            let outcomes = self.revocations.with(kind);
            Revocations {
                delivered: outcomes.with(RevocationOutcome::Applied).get(),
                queued: outcomes.with(RevocationOutcome::Queued).get(),
                not_queued: outcomes.with(RevocationOutcome::QueueFull).get(),
            }
        };
        let local_hits = lookups(LookupOutcome::Local);
        Stats {
            hits: local_hits.saturating_add(lookups(LookupOutcome::Redis)),
            local_hits,
            stale: lookups(LookupOutcome::Stale),
            misses: lookups(LookupOutcome::Miss),
            negative: lookups(LookupOutcome::Negative),
            revoked: lookups(LookupOutcome::Revoked),
            bypassed: lookups(LookupOutcome::Bypass),
            validations: self.validations_started.get(),
            refreshes: self.refreshes.get(),
            joined: self.coalesced.get(),
            accepted: validations(ValidationOutcome::Accepted),
            refused: validations(ValidationOutcome::Rejected),
            unavailable: validations(ValidationOutcome::Unavailable),
            stored: self.stored.get(),
            overtaken: self.overtaken.get(),
            revocations: self.revocations_started.get(),
            invalidated_tokens: revocations(RevocationKind::InvalidateToken),
            revoked_tokens: revocations(RevocationKind::RevokeToken),
            invalidated_users: revocations(RevocationKind::InvalidateUser),
            ..Stats::default()
        }
    }
}
