//! What is counted, under which names and labels. [`SessionCache::stats`] tells it, and with the
//! feature `metrics` the `metrics` facade does.
//!
//! [`SessionCache::stats`]: crate::SessionCache::stats

use super::{
    instruments::{Counter, Latency, Level, Metric, Stopwatch},
    stats::{Revocations, Stats},
};

/// How a request came to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Local,
    Redis,
    Miss,
    Negative,
    Revoked,
    Stale,
    Bypass,
}

impl Answer {
    const ALL: [Self; 7] = [
        Self::Local,
        Self::Redis,
        Self::Miss,
        Self::Negative,
        Self::Revoked,
        Self::Stale,
        Self::Bypass,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::Miss => "miss",
            Self::Negative => "negative",
            Self::Revoked => "revoked",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
        }
    }
}

/// How a validation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validated {
    Accepted,
    Refused,
    Unavailable,
}

impl Validated {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Unavailable];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Which revocation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidateToken,
    RevokeToken,
    InvalidateUser,
}

impl Kind {
    const ALL: [Self; 3] = [
        Self::InvalidateToken,
        Self::RevokeToken,
        Self::InvalidateUser,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InvalidateToken => "invalidate_token",
            Self::RevokeToken => "revoke_token",
            Self::InvalidateUser => "invalidate_user",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Delivered,
    Queued,
    NotQueued,
}

impl Delivery {
    const ALL: [Self; 3] = [Self::Delivered, Self::Queued, Self::NotQueued];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Queued => "queued",
            Self::NotQueued => "not_queued",
        }
    }
}

/// The counts of a cache; those of Redis are kept where its connections are.
pub(crate) struct Counters {
    lookups: [Counter; 7],
    lookup_times: [Latency; 7],
    validated: [Counter; 3],
    validation_times: [Latency; 3],
    pub(crate) validations: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) joined: Counter,
    pub(crate) stored: Counter,
    pub(crate) overtaken: Counter,
    pub(crate) revocations: Counter,
    revoked: [[Counter; 3]; 3],
}

impl Counters {
    pub(crate) fn new() -> Self {
        let of = |outcome| [("outcome", outcome)];
        Self {
            lookups: Answer::ALL.map(|answer| Counter::new(LOOKUPS, &of(answer.name()))),
            lookup_times: Answer::ALL.map(|answer| Latency::new(LOOKUP, &of(answer.name()))),
            validated: Validated::ALL.map(|end| Counter::new(VALIDATIONS, &of(end.name()))),
            validation_times: Validated::ALL.map(|end| Latency::new(VALIDATION, &of(end.name()))),
            validations: Counter::new(VALIDATIONS_BEGUN, &[]),
            refreshes: Counter::new(REFRESHES, &[]),
            joined: Counter::new(JOINED, &[]),
            stored: Counter::new(STORED, &[]),
            overtaken: Counter::new(OVERTAKEN, &[]),
            revocations: Counter::new(REVOCATIONS_BEGUN, &[]),
            revoked: Kind::ALL.map(|kind| {
                Delivery::ALL.map(|end| {
                    let labels = [("kind", kind.name()), ("outcome", end.name())];
                    Counter::new(REVOCATIONS, &labels)
                })
            }),
        }
    }

    #[inline]
    pub(crate) fn looked_up(&self, answer: Answer) {
        self.lookups[answer as usize].add();
    }

    /// A request has waited for its answer since then.
    pub(crate) fn waited(&self, answer: Answer, since: Stopwatch) {
        self.lookup_times[answer as usize].add(since);
    }

    /// Since the call of the validator began, if it came to that.
    pub(crate) fn validated(&self, end: Validated, since: Option<Stopwatch>) {
        self.validated[end as usize].add();
        if let Some(since) = since {
            self.validation_times[end as usize].add(since);
        }
    }

    pub(crate) fn revoked(&self, kind: Kind, end: Delivery) {
        self.revoked[kind as usize][end as usize].add();
    }

    /// The counts; what is held now is left at zero.
    pub(crate) fn read(&self) -> Stats {
        let Self {
            lookups,
            lookup_times: _,
            validated,
            validation_times: _,
            validations,
            refreshes,
            joined,
            stored,
            overtaken,
            revocations,
            revoked,
        } = self;
        let [
            local,
            redis,
            misses,
            negative,
            refused_here,
            stale,
            bypassed,
        ] = lookups.each_ref().map(Counter::read);
        let [accepted, refused, unavailable] = validated.each_ref().map(Counter::read);
        let [invalidated_tokens, revoked_tokens, invalidated_users] =
            revoked.each_ref().map(|ends| {
                let [delivered, queued, not_queued] = ends.each_ref().map(Counter::read);
                Revocations {
                    delivered,
                    queued,
                    not_queued,
                }
            });
        Stats {
            hits: local.saturating_add(redis),
            local_hits: local,
            stale,
            misses,
            negative,
            revoked: refused_here,
            bypassed,
            validations: validations.read(),
            refreshes: refreshes.read(),
            joined: joined.read(),
            accepted,
            refused,
            unavailable,
            stored: stored.read(),
            overtaken: overtaken.read(),
            revocations: revocations.read(),
            invalidated_tokens,
            revoked_tokens,
            invalidated_users,
            ..Stats::default()
        }
    }
}

pub(crate) fn count(counter: &Counter) {
    counter.add();
}

/// How Redis is used.
pub(crate) struct RedisMeter {
    pub(crate) connections: Level,
    pub(crate) in_use: Level,
    pub(crate) unanswered: Counter,
}

impl Default for RedisMeter {
    fn default() -> Self {
        Self {
            connections: Level::new(REDIS_CONNECTIONS),
            in_use: Level::new(REDIS_IN_USE),
            unanswered: Counter::new(REDIS_UNANSWERED, &[]),
        }
    }
}

/// How well the local cache hears.
pub(crate) struct ListenerMeter {
    pub(crate) held: Level,
    pub(crate) lag: Latency,
    pub(crate) pushes: Counter,
    pub(crate) epochs: Counter,
}

impl ListenerMeter {
    pub(crate) fn new() -> Self {
        Self {
            held: Level::new(LEASES),
            lag: Latency::new(LAG, &[]),
            pushes: Counter::new(PUSHES, &[]),
            epochs: Counter::new(EPOCHS, &[]),
        }
    }
}

const LOOKUPS: Metric = Metric(
    "session_cache_lookups_total",
    "Requests by where their answer came from; stale ones were misses first",
);
const LOOKUP: Metric = Metric(
    "session_cache_lookup_seconds",
    "How long requests waited that had to wait",
);
const VALIDATIONS: Metric = Metric(
    "session_cache_validations_total",
    "Validations by what came of them",
);
const VALIDATION: Metric = Metric(
    "session_cache_validation_seconds",
    "How long the validator took",
);
const VALIDATIONS_BEGUN: Metric = Metric(
    "session_cache_validations_begun_total",
    "Calls of the validator",
);
pub(crate) const IN_FLIGHT: Metric = Metric(
    "session_cache_validations_in_flight",
    "Tokens that are being validated now",
);
const JOINED: Metric = Metric(
    "session_cache_joined_total",
    "Requests that waited for a validation which another one had begun",
);
const REFRESHES: Metric = Metric(
    "session_cache_refreshes_total",
    "Sessions in use that were validated again ahead of their end in the cache",
);
const STORED: Metric = Metric(
    "session_cache_stored_total",
    "Validations whose answer was stored",
);
const OVERTAKEN: Metric = Metric(
    "session_cache_overtaken_total",
    "Validations that a revocation overtook",
);
const REVOCATIONS_BEGUN: Metric = Metric(
    "session_cache_revocations_begun_total",
    "Calls of invalidate_token, revoke_token and invalidate_user",
);
const REVOCATIONS: Metric = Metric(
    "session_cache_revocations_total",
    "Revocations by kind and by what came of them",
);
pub(crate) const UNDELIVERED: Metric = Metric(
    "session_cache_revocations_undelivered",
    "Revocations that hold here and wait for Redis",
);
pub(crate) const REDIS_SKIPPED: Metric = Metric(
    "session_cache_redis_skipped",
    "Whether Redis is left alone now, since it did not answer",
);
const REDIS_CONNECTIONS: Metric = Metric(
    "session_cache_redis_connections",
    "Open connections to Redis, without the listener's",
);
const REDIS_IN_USE: Metric = Metric(
    "session_cache_redis_in_use",
    "Commands that wait for Redis now",
);
const REDIS_UNANSWERED: Metric = Metric(
    "session_cache_redis_unanswered_total",
    "Commands that Redis did not answer in time, or not as it should",
);
const LEASES: Metric = Metric(
    "session_cache_lease_held",
    "Whether sessions may be served from the local cache now",
);
const LAG: Metric = Metric(
    "session_cache_listener_lag_seconds",
    "How long the listener's heartbeats took, behind all pushes before them",
);
const PUSHES: Metric = Metric(
    "session_cache_listener_pushes_total",
    "Changes that Redis has told of",
);
const EPOCHS: Metric = Metric(
    "session_cache_listener_epochs_total",
    "How many times the local cache has begun anew",
);
