//! Clock that moves only when a test advances it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

/// A clock that stands still until a test advances it. Clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use tower_session_cache::{SessionCache, testing::ManualClock};
///
/// let clock = ManualClock::new();
/// let cache = SessionCache::builder().clock(clock.clone()).build()?;
/// clock.advance(Duration::from_secs(301)); // beyond the default TTL
/// # let _ = cache;
/// # Ok::<(), tower_session_cache::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    start: DateTime<Utc>,
    elapsed: Arc<AtomicU64>,
}

impl ManualClock {
    /// Creates a clock that shows the time at which it was created.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Utc::now(),
            elapsed: Arc::default(),
        }
    }

    /// Returns the time that the clock shows.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let passed = i64::try_from(self.elapsed()).unwrap_or(i64::MAX);
        self.start
            .checked_add_signed(TimeDelta::microseconds(passed))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Advances the clock, in steps of a microsecond.
    pub fn advance(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.elapsed.fetch_add(micros, Ordering::SeqCst);
    }

    pub(crate) fn elapsed(&self) -> u64 {
        self.elapsed.load(Ordering::SeqCst)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}
