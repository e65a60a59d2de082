//! Clock that decides about expiry, and that tests can move.
//!
//! It has two readings, since neither replaces the other: the wall clock says whether a session has
//! expired, and a clock that cannot be set says how long a record has been cached.

use chrono::{DateTime, Utc};

#[derive(Clone, Debug)]
pub(crate) enum Clock {
    System {
        start: u64,
    },
    #[cfg(feature = "testing")]
    Manual(super::manual_clock::ManualClock),
}

impl Clock {
    pub(crate) fn system() -> Self {
        Self::System {
            start: since_boot(),
        }
    }

    /// Returns microseconds since the Unix epoch, by the node's clock.
    pub(crate) fn wall(&self) -> i64 {
        match self {
            Self::System { .. } => Utc::now().timestamp_micros(),
            #[cfg(feature = "testing")]
            Self::Manual(clock) => clock.now().timestamp_micros(),
        }
    }

    /// Returns microseconds since this clock was created. Never goes back.
    pub(crate) fn elapsed(&self) -> u64 {
        match self {
            Self::System { start } => since_boot().saturating_sub(*start),
            #[cfg(feature = "testing")]
            Self::Manual(clock) => clock.elapsed(),
        }
    }
}

/// Returns a time in microseconds. Unlike `Instant`, it includes the time in which the machine is
/// suspended.
#[cfg(target_os = "linux")]
fn since_boot() -> u64 {
    use rustix::time::{ClockId, clock_gettime};

    // Neither is negative, and the result overflows only after half a million years.
    let time = clock_gettime(ClockId::Boottime);
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000)
        .wrapping_add(time.tv_nsec as u64 / 1_000)
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> u64 {
    use std::{sync::LazyLock, time::Instant};

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Converts a time to the unit of [`Clock::wall`].
pub(crate) fn wall_micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}
