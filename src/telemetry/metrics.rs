//! All metrics: names, labels and help texts. Add a label value to its enum, a metric to its set,
//! and a second label by nesting a [`Family`]. [`Stats`] reads the same counts.

#[cfg(feature = "events")]
use super::{instruments::TimeGauge, stats::EventStats};
use super::{
    instruments::{
        Counter, Family, Gauge, Histogram, Instrument, Label, Metric, label, metric_set,
    },
    stats::{CanaryStats, RevocationCounts, Stats},
};

label! {
    /// Where the result of a lookup came from.
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
    /// Whether a validated session was stored.
    enum FillOutcome: "outcome" {
        Stored = "stored",
        Conflict = "conflict",
    }
}

label! {
    /// How a node's wait for the validation of another node ended.
    enum ReservationWaitOutcome: "outcome" {
        Shared = "shared",
        Lapsed = "lapsed",
    }
}

label! {
    /// What is revoked.
    enum RevocationKind: "kind" {
        InvalidateToken = "invalidate_token",
        RevokeToken = "revoke_token",
        InvalidateUser = "invalidate_user",
        EndSession = "end_session",
        BanUser = "ban_user",
        LiftToken = "lift_token",
        LiftBan = "lift_ban",
    }
}

label! {
    /// How a revocation ended.
    enum RevocationOutcome: "outcome" {
        Applied = "applied",
        Queued = "queued",
        QueueFull = "queue_full",
    }
}

metric_set! {
    /// Lookups, validations, fills and revocations of a cache.
    struct CacheMetrics {
        lookups: Family<LookupOutcome, Counter> = "session_cache_lookups_total",
            "Number of lookups by outcome; a stale one is also counted as a miss";
        lookup_duration: Family<LookupOutcome, Histogram> = "session_cache_lookup_duration_seconds",
            "Duration of lookups that were not answered from memory";
        validations_started: Counter = "session_cache_validations_started_total",
            "Number of validator calls that were started";
        validations: Family<ValidationOutcome, Counter> = "session_cache_validations_total",
            "Number of validations by outcome";
        validation_duration: Family<ValidationOutcome, Histogram> =
            "session_cache_validation_duration_seconds",
            "Duration of validator calls, without the wait for a permit";
        coalesced: Counter = "session_cache_coalesced_requests_total",
            "Number of requests that waited for a validation which another request had started";
        providers_down: Gauge = "session_cache_providers_down",
            "Number of layers whose identity provider is unavailable or misconfigured";
        providers_rejecting_all: Gauge = "session_cache_providers_rejecting_all",
            "Number of layers that have rejected every token since the start";
        refreshes: Counter = "session_cache_refreshes_total",
            "Number of sessions whose validation was started before their cache entry expired";
        reservation_waits: Family<ReservationWaitOutcome, Counter> =
            "session_cache_reservation_waits_total",
            "Number of waits for a validation by another node, by whether its result was shared";
        fills: Family<FillOutcome, Counter> = "session_cache_fills_total",
            "Number of validated sessions, stored or discarded because a revocation came first";
        revocations_started: Counter = "session_cache_revocations_started_total",
            "Number of revocations that were started";
        revocations: Family<RevocationKind, Family<RevocationOutcome, Counter>> =
            "session_cache_revocations_total",
            "Number of revocations by kind and outcome";
    }
}

metric_set! {
    /// Connections to Redis, and the commands on them.
    struct RedisMetrics {
        connections: Gauge = "session_cache_redis_connections",
            "Number of connections to Redis, without those of the invalidation listener";
        commands_in_flight: Gauge = "session_cache_redis_commands_in_flight",
            "Number of commands that wait for a reply of Redis";
        errors: Counter = "session_cache_redis_errors_total",
            "Number of commands that timed out or failed";
    }
}

metric_set! {
    /// The invalidation listener of the local cache.
    struct ListenerMetrics {
        lease_held: Gauge = "session_cache_lease_held",
            "Whether sessions may be served from the local cache";
        heartbeat: Histogram = "session_cache_invalidation_heartbeat_seconds",
            "Round-trip time of a heartbeat, which arrives after all invalidations sent before it";
        invalidations: Counter = "session_cache_invalidations_total",
            "Number of invalidations received from Redis";
        local_resets: Counter = "session_cache_local_resets_total",
            "Number of times the local cache was discarded because an invalidation may have been missed";
    }
}

label! {
    /// What a canary has found.
    enum CanaryFault: "fault" {
        NotReceived = "not_received",
        Deleted = "deleted",
        ClockSkew = "clock_skew",
        NodeWithoutCanary = "node_without_canary",
    }
}

metric_set! {
    /// The canary, a session that the fleet revokes at intervals.
    struct CanaryMetrics {
        latency: Histogram = "session_cache_revocation_latency_seconds",
            "Time for which this node would have served the canary after its revocation";
        rounds: Counter = "session_cache_canary_rounds_total",
            "Number of revocations of the canary that this node has received";
        faults: Family<CanaryFault, Counter> = "session_cache_canary_faults_total",
            "Number of faults of revocations that the canary has found";
    }
}

impl CanaryMetrics {
    /// Returns the counts, without the latency.
    pub(crate) fn stats(&self) -> CanaryStats {
        let count = |fault| self.faults.with(fault).get();
        CanaryStats {
            rounds: self.rounds.get(),
            latency: None,
            not_received: count(CanaryFault::NotReceived),
            deleted: count(CanaryFault::Deleted),
            clock_skew: count(CanaryFault::ClockSkew),
            nodes_without_canary: count(CanaryFault::NodeWithoutCanary),
        }
    }
}

#[cfg(feature = "events")]
label! {
    /// What became of a request that a receiver of pushed events got.
    enum EventLabel: "outcome" {
        Applied = "applied",
        Queued = "queued",
        QueueFull = "queue_full",
        Duplicate = "duplicate",
        Ignored = "ignored",
        Unmapped = "unmapped",
        Rejected = "rejected",
        Unavailable = "unavailable",
        TooLarge = "too_large",
        TooSlow = "too_slow",
    }
}

#[cfg(feature = "events")]
metric_set! {
    /// The events that one receiver gets, with the label `source`.
    struct EventMetrics {
        events: Family<EventLabel, Counter> = "session_cache_events_total",
            "Number of requests to receivers of pushed events by source and outcome";
        age: Histogram = "session_cache_event_age_seconds",
            "Time between an event at the identity provider and its arrival";
        last: TimeGauge = "session_cache_last_event_timestamp_seconds",
            "Time of the latest authentic event, in seconds since the Unix epoch";
    }
}

#[cfg(feature = "events")]
impl EventMetrics {
    /// Returns the counts, without the time of the latest event.
    pub(crate) fn stats(&self) -> EventStats {
        let count = |label| self.events.with(label).get();
        EventStats {
            applied: count(EventLabel::Applied),
            queued: count(EventLabel::Queued),
            queue_full: count(EventLabel::QueueFull),
            duplicates: count(EventLabel::Duplicate),
            ignored: count(EventLabel::Ignored),
            unmapped: count(EventLabel::Unmapped),
            rejected: count(EventLabel::Rejected),
            unavailable: count(EventLabel::Unavailable),
            too_large: count(EventLabel::TooLarge),
            too_slow: count(EventLabel::TooSlow),
            since_last: None,
        }
    }
}

pub(crate) const VALIDATIONS_IN_FLIGHT: Metric = Metric {
    name: "session_cache_validations_in_flight",
    help: "Number of tokens that are being validated",
};

pub(crate) const REVOCATIONS_QUEUED: Metric = Metric {
    name: "session_cache_revocations_queued",
    help: "Number of revocations that apply on one node only and wait for Redis",
};

pub(crate) const OLDEST_QUEUED_REVOCATION: Metric = Metric {
    name: "session_cache_oldest_queued_revocation_seconds",
    help: "How long the oldest queued revocation has been waiting for Redis",
};

pub(crate) const REDIS_CIRCUIT_OPEN: Metric = Metric {
    name: "session_cache_redis_circuit_open",
    help: "Whether the Redis circuit breaker is open",
};

impl CacheMetrics {
    /// Returns the counts. Fields whose values other parts of the cache know stay zero.
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
            shared_validations: self
                .reservation_waits
                .with(ReservationWaitOutcome::Shared)
                .get(),
            lapsed_reservations: self
                .reservation_waits
                .with(ReservationWaitOutcome::Lapsed)
                .get(),
            fills: self.fills.with(FillOutcome::Stored).get(),
            fill_conflicts: self.fills.with(FillOutcome::Conflict).get(),
            revocations: self.revocations_started.get(),
            token_invalidations: revocations(RevocationKind::InvalidateToken),
            token_revocations: revocations(RevocationKind::RevokeToken),
            user_invalidations: revocations(RevocationKind::InvalidateUser),
            session_ends: revocations(RevocationKind::EndSession),
            user_bans: revocations(RevocationKind::BanUser),
            lifted_tokens: revocations(RevocationKind::LiftToken),
            lifted_bans: revocations(RevocationKind::LiftBan),
            ..Stats::default()
        }
    }
}
