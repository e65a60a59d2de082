//! Metrics, statistics, and the targets of log lines and spans.

mod instruments;
mod metrics;
#[cfg(not(feature = "metrics"))]
mod noop;
#[cfg(feature = "metrics")]
mod recorder;
mod stats;
mod targets;

#[cfg(feature = "events")]
pub use self::stats::EventStats;
pub use self::stats::{CanaryStats, RevocationCounts, Stats};
pub(crate) use self::{
    instruments::{Gauge, GaugeGuard, Timer},
    metrics::{
        CacheMetrics, CanaryFault, CanaryMetrics, FillOutcome, ListenerMetrics, LookupOutcome,
        OLDEST_QUEUED_REVOCATION, REDIS_CIRCUIT_OPEN, REVOCATIONS_QUEUED, RedisMetrics,
        ReservationWaitOutcome, RevocationKind, RevocationOutcome, VALIDATIONS_IN_FLIGHT,
        ValidationOutcome,
    },
    targets::{
        INVALIDATION, LAYER, LOOKUP, REDIS, REVOCATION, VALIDATION, lookup_span, refresh_span,
    },
};
#[cfg(feature = "events")]
pub(crate) use self::{
    metrics::{EventLabel, EventMetrics},
    targets::EVENTS,
};
