//! All metrics: their names, labels and help texts. A value of a label is added in its enum, and a
//! metric in its set.
//!
//! [`Stats`] reads the same counts.

use super::{
    instruments::{
        Counter, Family, Gauge, Histogram, Instrument, Label, Metric, label, metric_set,
    },
    stats::{RevocationCounts, Stats},
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
        Rejected = "rejected",
        Unavailable = "unavailable",
    }
}

label! {
    /// What became of a validated session.
    enum FillOutcome: "outcome" {
        Stored = "stored",
        Conflict = "conflict",
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
        Applied = "applied",
        Queued = "queued",
        QueueFull = "queue_full",
    }
}

metric_set! {
    /// The metrics of a cache.
    struct CacheMetrics {
        lookups: Family<LookupOutcome, Counter> = "session_cache_lookups_total",
            "Requests by where their answer came from; stale ones were misses first";
        lookup_duration: Family<LookupOutcome, Histogram> = "session_cache_lookup_duration_seconds",
            "How long requests waited that had to wait";
        validations_started: Counter = "session_cache_validations_started_total",
            "Calls of the validator";
        validations: Family<ValidationOutcome, Counter> = "session_cache_validations_total",
            "Validations by what came of them";
        validation_duration: Family<ValidationOutcome, Histogram> =
            "session_cache_validation_duration_seconds",
            "How long the validator took";
        coalesced: Counter = "session_cache_coalesced_requests_total",
            "Requests that waited for a validation which another one had begun";
        refreshes: Counter = "session_cache_refreshes_total",
            "Sessions in use that were validated again ahead of their end in the cache";
        fills: Family<FillOutcome, Counter> = "session_cache_fills_total",
            "Validated sessions that were stored, and those that a revocation overtook";
        revocations_started: Counter = "session_cache_revocations_started_total",
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
        commands_in_flight: Gauge = "session_cache_redis_commands_in_flight",
            "Commands that wait for Redis now";
        errors: Counter = "session_cache_redis_errors_total",
            "Commands that Redis did not answer in time, or not as it should";
    }
}

metric_set! {
    /// How well the local cache hears.
    struct ListenerMetrics {
        lease_held: Gauge = "session_cache_lease_held",
            "Whether sessions may be served from the local cache now";
        heartbeat: Histogram = "session_cache_invalidation_heartbeat_seconds",
            "How long the listener's heartbeats took, behind all pushes before them";
        invalidations: Counter = "session_cache_invalidations_total",
            "Changes that Redis has told of";
        local_resets: Counter = "session_cache_local_resets_total",
            "How many times the local cache has begun anew";
    }
}

pub(crate) const VALIDATIONS_IN_FLIGHT: Metric = Metric {
    name: "session_cache_validations_in_flight",
    help: "Tokens that are being validated now",
};

pub(crate) const REVOCATIONS_QUEUED: Metric = Metric {
    name: "session_cache_revocations_queued",
    help: "Revocations that hold here and wait for Redis",
};

pub(crate) const REDIS_CIRCUIT_OPEN: Metric = Metric {
    name: "session_cache_redis_circuit_open",
    help: "Whether Redis is left alone now, since it did not answer",
};

impl CacheMetrics {
    /// The counts. What other parts of the cache hold now is left at zero.
    pub(crate) fn stats(&self) -> Stats {
        let lookups = |outcome| self.lookups.with(outcome).get();
        let validations = |outcome| self.validations.with(outcome).get();
        let revocations = |kind| {
            let outcomes = self.revocations.with(kind);
            RevocationCounts {
                applied: outcomes.with(RevocationOutcome::Applied).get(),
                queued: outcomes.with(RevocationOutcome::Queued).get(),
                queue_full: outcomes.with(RevocationOutcome::QueueFull).get(),
            }
        };
        let local_hits = lookups(LookupOutcome::Local);
        Stats {
            hits: local_hits.saturating_add(lookups(LookupOutcome::Redis)),
            local_hits,
            stale_hits: lookups(LookupOutcome::Stale),
            misses: lookups(LookupOutcome::Miss),
            negative_hits: lookups(LookupOutcome::Negative),
            revoked_hits: lookups(LookupOutcome::Revoked),
            bypassed: lookups(LookupOutcome::Bypass),
            validations: self.validations_started.get(),
            refreshes: self.refreshes.get(),
            coalesced: self.coalesced.get(),
            validations_accepted: validations(ValidationOutcome::Accepted),
            validations_rejected: validations(ValidationOutcome::Rejected),
            validations_unavailable: validations(ValidationOutcome::Unavailable),
            fills: self.fills.with(FillOutcome::Stored).get(),
            fill_conflicts: self.fills.with(FillOutcome::Conflict).get(),
            revocations: self.revocations_started.get(),
            token_invalidations: revocations(RevocationKind::InvalidateToken),
            token_revocations: revocations(RevocationKind::RevokeToken),
            user_invalidations: revocations(RevocationKind::InvalidateUser),
            ..Stats::default()
        }
    }
}
