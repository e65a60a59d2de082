//! What an operator sees: counts and measurements, and the targets of what is logged.

mod counters;
mod instruments;
#[cfg(not(feature = "metrics"))]
mod noop;
#[cfg(feature = "metrics")]
mod recorder;
mod stats;
mod targets;

pub use self::stats::{Revocations, Stats};
pub(crate) use self::{
    counters::{
        Answer, Counters, Delivery, IN_FLIGHT, Kind, ListenerMeter, REDIS_SKIPPED, RedisMeter,
        UNDELIVERED, Validated, count,
    },
    instruments::{Held, Level, Stopwatch},
    targets::{LAYER, LISTENER, LOOKUP, REDIS, REVOCATION, VALIDATION, lookup, refresh},
};
