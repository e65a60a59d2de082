//! How a cache is set up. Every setting is checked here, once, so that nothing fails later.

use std::{error::Error as StdError, fmt, num::NonZeroUsize, time::Duration};

use super::{SessionCache, SessionCacheConfig};
use crate::clock::Clock;

/// How long a revocation must be remembered beside the records that it outlives: one hour, the
/// same on every node.
const TOMBSTONE_TTL: Duration = Duration::from_secs(3600);

/// What clocks may differ by, and the slowest validation of a peer.
const SLACK: Duration = Duration::from_secs(5);

/// Builds a [`SessionCache`]; made by [`SessionCache::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionCacheBuilder {
    pub(super) enabled: bool,
    pub(super) ttl: Duration,
    pub(super) capacity: usize,
    pub(super) longest_session: Duration,
    pub(super) validation_deadline: Duration,
    pub(super) max_validations: usize,
    pub(super) clock: Clock,
}

impl SessionCacheBuilder {
    pub(super) fn new() -> Self {
        Self {
            enabled: true,
            ttl: Duration::from_secs(300),
            capacity: 100_000,
            longest_session: Duration::from_secs(30 * 24 * 3600),
            validation_deadline: Duration::from_secs(5),
            max_validations: 256,
            clock: Clock::system(),
        }
    }

    /// Takes over what a configuration file says; settings it does not have stay as they are.
    pub fn config(self, config: &SessionCacheConfig) -> Self {
        let SessionCacheConfig {
            enabled,
            ttl_seconds,
            redis_db: _, // Without Redis there is no database to choose.
            duration_remember_me,
        } = *config;
        self.enabled(enabled)
            .ttl(Duration::from_secs(ttl_seconds))
            .longest_session(Duration::from_secs(duration_remember_me))
    }

    /// Turns the cache off: lookup and fill are skipped and every request is validated.
    /// Revocations still refuse. Defaults to on.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// How long a validated session is served without asking again, and never beyond its own
    /// expiry. Defaults to 5 minutes; must be at least a second.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The most sessions, and the most revoked tokens, kept in this process. Defaults to 100,000;
    /// must not be 0.
    pub fn capacity(mut self, sessions: usize) -> Self {
        self.capacity = sessions;
        self
    }

    /// The longest life of a session at the identity provider: so long a revoked token stays
    /// refused. Defaults to 30 days; must not be shorter than the TTL.
    pub fn longest_session(mut self, longest: Duration) -> Self {
        self.longest_session = longest;
        self
    }

    /// How long one call of the validator may take, waiting for its turn included. Defaults to
    /// 5 seconds; must not be 0.
    pub fn validation_deadline(mut self, deadline: Duration) -> Self {
        self.validation_deadline = deadline;
        self
    }

    /// How many validations may run at once. Defaults to 256; must not be 0.
    pub fn max_validations(mut self, validations: usize) -> Self {
        self.max_validations = validations;
        self
    }

    /// Replaces the clock that decides about expiry.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn clock(mut self, clock: crate::testing::ManualClock) -> Self {
        self.clock = Clock::Manual(clock);
        self
    }

    /// The finished cache. May be called outside of a runtime.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense; the error names it and says what to write instead.
    pub fn build(self) -> Result<SessionCache, ConfigError> {
        let capacity = NonZeroUsize::new(self.capacity)
            .filter(|capacity| capacity.get() <= u32::MAX as usize)
            .ok_or(ConfigError(
                "capacity must be between 1 and 4294967295; to cache nothing, set enabled = false",
            ))?;
        if self.ttl < Duration::from_secs(1) {
            return Err(ConfigError(
                "ttl_seconds must be at least 1; to cache nothing, set enabled = false",
            ));
        }
        if self.validation_deadline.is_zero() {
            return Err(ConfigError(
                "the validation deadline must be longer than zero, for example 5 seconds",
            ));
        }
        let needed = self
            .ttl
            .saturating_add(self.validation_deadline)
            .saturating_add(SLACK);
        if needed > TOMBSTONE_TTL {
            return Err(ConfigError(
                "ttl_seconds, the validation deadline and 5 seconds of slack must not exceed one \
                 hour together, since a revocation is remembered that long; set ttl_seconds to \
                 3590 or less",
            ));
        }
        if self.longest_session < self.ttl.saturating_add(SLACK) {
            return Err(ConfigError(
                "duration_remember_me is in seconds and must not be shorter than ttl_seconds + 5; \
                 set it to the longest session of the identity provider, for example 2592000",
            ));
        }
        if self.longest_session > Duration::from_secs(10 * 366 * 24 * 3600) {
            return Err(ConfigError(
                "duration_remember_me is in seconds and must not exceed ten years; 30 days are \
                 2592000",
            ));
        }
        if !(1..=tokio::sync::Semaphore::MAX_PERMITS).contains(&self.max_validations) {
            return Err(ConfigError(
                "max_validations must be at least 1, for example 256",
            ));
        }
        Ok(SessionCache::from_parts(self, capacity))
    }
}

/// A setting that makes no sense. Its text names the setting and says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(&'static str);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for ConfigError {}
