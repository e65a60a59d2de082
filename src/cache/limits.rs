//! Limits of the settings, each alone and all together.
//!
//! [`CacheSettings::resolve`] fills in what was not set. Such a default is adjusted to what was
//! set, so that no default makes `build` fail. It only becomes shorter, never longer than the
//! documented one, so that nothing is served for longer. The exception is the timeout of Redis,
//! which is at least `checkout_timeout`; it has no effect on how long anything is served.
//! [`CacheSettings::check`] then rejects settings that contradict each other.

use std::{num::NonZeroUsize, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    config_error::ConfigError,
    memory::{DEFAULT_LEASE, LocalCacheConfig},
    protocol::CLOCK_SKEW_TOLERANCE as SLACK_MICROS,
    redis::RedisTimeouts,
};

/// How long a revocation must be remembered, so that it outlives the records that it invalidates:
/// one hour, the same on every node.
pub(crate) const TOMBSTONE_TTL: Duration = Duration::from_secs(3600);

/// Maximum difference between clocks that is tolerated.
pub(crate) const CLOCK_SKEW_TOLERANCE: Duration =
    Duration::from_micros(SLACK_MICROS.unsigned_abs());

const DEFAULT_TTL: Duration = Duration::from_secs(300);
const MIN_TTL: Duration = Duration::from_secs(1);

const DEFAULT_NEGATIVE_TTL: Duration = Duration::from_secs(5);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(3600);

const MAX_STALE_AFTER_RESTART: Duration = Duration::from_secs(3600);

const DEFAULT_VALIDATION_TIMEOUT: Duration = Duration::from_secs(5);
/// A TTL of nearly 1 hour must leave at least this much for the default.
const MIN_DEFAULT_VALIDATION_TIMEOUT: Duration = Duration::from_secs(1);

const DEFAULT_REDIS_TIMEOUT: Duration = Duration::from_millis(250);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

const MIN_REQUEST_TIMEOUT: Duration = Duration::from_millis(100);
/// `request_timeout` must leave at least this much for a default, because no server would reply in
/// less time.
const MIN_DEFAULT_TIMEOUT: Duration = Duration::from_millis(10);

const DEFAULT_MAX_SESSION_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
const LONGEST_MAX_SESSION_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

const MIN_LEASE: Duration = Duration::from_millis(100);
const MAX_LEASE: Duration = Duration::from_secs(60);
/// The fleet sends one command per interval.
const MIN_CANARY: Duration = Duration::from_secs(1);

pub(crate) const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99_999);
const MAX_CAPACITY: usize = u32::MAX as usize;

/// Settings that limit each other. `None` means not set.
#[derive(Clone, Debug)]
pub(crate) struct CacheSettings {
    pub(crate) ttl: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) stale_if_error: Duration,
    pub(crate) stale_after_restart: Duration,
    pub(crate) provider_lag: Option<Duration>,
    pub(crate) max_session_lifetime: Duration,
    pub(crate) validation_timeout: Option<Duration>,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) max_concurrent_validations: usize,
    pub(crate) refresh_ahead: u8,
    pub(crate) capacity: usize,
    pub(crate) local_cache: Option<LocalCacheConfig>,
    pub(crate) fleet_lease: Option<Duration>,
    pub(crate) shares_validations: bool,
    pub(crate) canary: Option<Duration>,
}

/// Values in effect, whether they were set or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EffectiveSettings {
    pub(crate) ttl: Duration,
    pub(crate) negative_ttl: Duration,
    pub(crate) provider_lag: Duration,
    pub(crate) validation_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) redis_timeout: Duration,
    pub(crate) checkout_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) fleet_lease: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            ttl: None,
            negative_ttl: None,
            stale_if_error: Duration::ZERO,
            stale_after_restart: Duration::ZERO,
            provider_lag: None,
            max_session_lifetime: DEFAULT_MAX_SESSION_LIFETIME,
            validation_timeout: None,
            request_timeout: None,
            max_concurrent_validations: 256,
            refresh_ahead: 80,
            capacity: DEFAULT_CAPACITY.get(),
            local_cache: None,
            fleet_lease: None,
            shares_validations: true,
            canary: None,
        }
    }
}

impl CacheSettings {
    /// Sets the TTL from a configuration file, where every setting has a value. A value that equals
    /// the default counts as not set.
    pub(crate) fn set_ttl_unless_default(&mut self, ttl: Duration) {
        self.ttl = (ttl != DEFAULT_TTL).then_some(ttl);
    }

    /// Fills in the defaults. `redis` is `None` if there is no Redis.
    pub(crate) fn resolve(&self, redis: Option<RedisTimeouts>) -> EffectiveSettings {
        let redis = redis.unwrap_or_default();
        // A record must not outlive the tombstone of its revocation.
        let records = TOMBSTONE_TTL - CLOCK_SKEW_TOLERANCE;
        let shortest_ttl = self.ttl.unwrap_or(MIN_TTL);
        let (redis_timeout, for_validation) = self.split_request_timeout(redis);
        let validation_timeout = self.validation_timeout.unwrap_or_else(|| {
            let room = records
                .saturating_sub(shortest_ttl)
                .saturating_sub(self.stale_if_error);
            DEFAULT_VALIDATION_TIMEOUT.min(room).min(for_validation)
        });
        let ttl = self.ttl.unwrap_or_else(|| {
            let room = records.saturating_sub(validation_timeout);
            let session = self
                .max_session_lifetime
                .saturating_sub(CLOCK_SKEW_TOLERANCE);
            let room = room.min(session).saturating_sub(self.stale_if_error);
            DEFAULT_TTL.min(room)
        });
        EffectiveSettings {
            ttl,
            negative_ttl: self
                .negative_ttl
                .unwrap_or_else(|| DEFAULT_NEGATIVE_TTL.min(ttl)),
            provider_lag: self.provider_lag.unwrap_or(ttl),
            validation_timeout,
            request_timeout: self
                .request_timeout
                .unwrap_or_else(|| longest_request(redis_timeout, validation_timeout)),
            redis_timeout,
            checkout_timeout: redis.checkout.unwrap_or(redis_timeout),
            connect_timeout: redis.connect.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            fleet_lease: self
                .fleet_lease
                .unwrap_or_else(|| self.local_cache.map_or(DEFAULT_LEASE, |local| local.lease)),
        }
    }

    /// Returns the timeout of Redis, and the longest time that this leaves for a validation.
    fn split_request_timeout(&self, redis: RedisTimeouts) -> (Duration, Duration) {
        let checkout = redis.checkout.unwrap_or_default();
        let most = DEFAULT_REDIS_TIMEOUT.max(checkout);
        let Some(request) = self.request_timeout else {
            return (redis.call.unwrap_or(most), Duration::MAX);
        };
        let redis_timeout = redis.call.unwrap_or_else(|| match self.validation_timeout {
            Some(validation) => most.min(request.saturating_sub(validation.saturating_mul(2)) / 3),
            // The rest of the time is left to the provider, which is slower than Redis.
            None => most.min(checkout.max(request / 10)),
        });
        let rest = request.saturating_sub(redis_timeout.saturating_mul(3));
        (redis_timeout, rest / 2)
    }

    /// Checks the settings, each alone and all together.
    pub(crate) fn check(&self, redis: Option<RedisTimeouts>) -> Result<(), ConfigError> {
        let effective = self.resolve(redis);
        self.check_capacities(redis.is_some())?;
        self.check_lifetimes(effective)?;
        self.check_timeouts(redis, effective)?;
        if !self.stale_if_error.is_zero() && redis.is_some() && self.local_cache.is_none() {
            return Err(ConfigError::new(
                "`stale_if_error` requires `local_cache` if Redis is used, because stale sessions \
                 are served from local memory; set `local_cache` as well",
            ));
        }
        if self.stale_after_restart > MAX_STALE_AFTER_RESTART {
            return Err(ConfigError::new(
                "`stale_after_restart` must not exceed 1 hour; reduce it, for example to 30 s",
            ));
        }
        if !self.stale_after_restart.is_zero() && redis.is_some() && self.local_cache.is_none() {
            return Err(ConfigError::new(
                "`stale_after_restart` requires `local_cache` if Redis is used, because such \
                 sessions are served from local memory; set `local_cache` as well",
            ));
        }
        if let Some(interval) = self.canary {
            if !(MIN_CANARY..=MAX_LEASE).contains(&interval) {
                return Err(ConfigError::new(
                    "`canary` must be between 1 s and 1 minute, for example the `lease` of \
                     `local_cache`",
                ));
            }
            if redis.is_some() && self.local_cache.is_none() {
                return Err(ConfigError::new(
                    "`canary` requires `local_cache` if Redis is used, because without one a \
                     revocation applies immediately; set `local_cache` as well, or leave out \
                     `canary`",
                ));
            }
        }
        if !(1..=Semaphore::MAX_PERMITS).contains(&self.max_concurrent_validations) {
            return Err(ConfigError::new(
                "`max_concurrent_validations` must be at least 1, for example 256",
            ));
        }
        if !(1..=100).contains(&self.refresh_ahead) {
            return Err(ConfigError::new(
                "`refresh_ahead` must be a percentage of `ttl` from 1 to 100, for example 80; 100 \
                 turns it off",
            ));
        }
        Ok(())
    }

    fn check_capacities(&self, has_redis: bool) -> Result<(), ConfigError> {
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            return Err(ConfigError::new(
                "`capacity` must be between 1 and 4294967295; to cache nothing, set `enabled` to \
                 false",
            ));
        }
        let own_lease = self.local_cache.map_or(Duration::ZERO, |local| local.lease);
        if self
            .fleet_lease
            .is_some_and(|lease| lease > MAX_LEASE || lease < own_lease)
        {
            return Err(ConfigError::new(
                "`fleet_lease` must be between the `lease` of `local_cache` and 1 minute; set it \
                 to the longest lease of all nodes",
            ));
        }
        let Some(local) = self.local_cache.filter(|_| has_redis) else {
            return Ok(());
        };
        if !(1..=MAX_CAPACITY).contains(&local.capacity) {
            return Err(ConfigError::new(
                "`capacity` of `local_cache` must be between 1 and 4294967295; to disable the \
                 local cache, leave out `local_cache`",
            ));
        }
        if !(MIN_LEASE..=MAX_LEASE).contains(&local.lease) {
            return Err(ConfigError::new(
                "`lease` of `local_cache` must be between 100 ms and 1 minute, for example 1 s",
            ));
        }
        if local.max_age.is_zero() {
            return Err(ConfigError::new(
                "`max_age` of `local_cache` must be greater than zero; to disable the local cache, \
                 leave out `local_cache`",
            ));
        }
        Ok(())
    }

    fn check_lifetimes(&self, effective: EffectiveSettings) -> Result<(), ConfigError> {
        // A setting that was not set counts as the shortest value to which its default is adjusted.
        let ttl = self.ttl.unwrap_or(MIN_TTL);
        let validation = self
            .validation_timeout
            .unwrap_or(MIN_DEFAULT_VALIDATION_TIMEOUT);
        if ttl < MIN_TTL {
            return Err(ConfigError::new(
                "`ttl` (`ttl_seconds`) must be at least 1 s; to cache nothing, set `enabled` to \
                 false",
            ));
        }
        if validation.is_zero() {
            return Err(ConfigError::new(
                "`validation_timeout` must be greater than zero, for example 5 s",
            ));
        }
        let used = ttl.saturating_add(CLOCK_SKEW_TOLERANCE);
        if used > self.max_session_lifetime {
            return Err(ConfigError::new(
                "`max_session_lifetime` (`duration_remember_me`) must be at least `ttl` \
                 (`ttl_seconds`) + 5 s; set it to the longest session of the identity provider, for \
                 example 30 days (2592000), or reduce `ttl`",
            ));
        }
        if used.saturating_add(validation) > TOMBSTONE_TTL {
            return Err(ConfigError::new(
                "`ttl` (`ttl_seconds`) + `validation_timeout` + 5 s must not exceed 1 hour, the \
                 lifetime of a tombstone; reduce `ttl` to 3590 s or less, or `validation_timeout`",
            ));
        }
        let stale = used.saturating_add(self.stale_if_error);
        if stale.saturating_add(validation) > TOMBSTONE_TTL {
            return Err(ConfigError::new(
                "`ttl` (`ttl_seconds`) + `stale_if_error` + `validation_timeout` + 5 s must not \
                 exceed 1 hour, the lifetime of a tombstone; reduce `stale_if_error`",
            ));
        }
        if stale > self.max_session_lifetime {
            return Err(ConfigError::new(
                "`max_session_lifetime` (`duration_remember_me`) must be at least `ttl` \
                 (`ttl_seconds`) + `stale_if_error` + 5 s; set it to the longest session of the \
                 identity provider, for example 30 days (2592000), or reduce `stale_if_error`",
            ));
        }
        if self.max_session_lifetime > LONGEST_MAX_SESSION_LIFETIME {
            return Err(ConfigError::new(
                "`max_session_lifetime` (`duration_remember_me`) must not exceed 10 years; 30 days \
                 are 2592000 s",
            ));
        }
        let negative_most = self.ttl.unwrap_or(MAX_NEGATIVE_TTL);
        if effective.negative_ttl > negative_most {
            return Err(ConfigError::new(
                "`negative_ttl` must not exceed `ttl` (`ttl_seconds`), nor 1 hour; reduce it, for \
                 example to 5 s, or set it to 0 to turn it off",
            ));
        }
        Ok(())
    }

    fn check_timeouts(
        &self,
        redis: Option<RedisTimeouts>,
        effective: EffectiveSettings,
    ) -> Result<(), ConfigError> {
        let Some(request) = self.request_timeout else {
            return Ok(());
        };
        if request < MIN_REQUEST_TIMEOUT {
            return Err(ConfigError::new(
                "`request_timeout` must be at least 100 ms, for example 2 s",
            ));
        }
        let least = |set: Option<Duration>| match set {
            Some(_) => Duration::ZERO,
            None => MIN_DEFAULT_TIMEOUT,
        };
        let validation = effective.validation_timeout;
        let call = effective.redis_timeout;
        let is_short_for_redis =
            redis.is_some_and(|set| call < least(set.call) || effective.checkout_timeout > call);
        if request < longest_request(call, validation)
            || validation < least(self.validation_timeout)
            || is_short_for_redis
        {
            return Err(ConfigError::new(
                "`request_timeout` must be at least 3 × `timeout` of `RedisConfig` + 2 × \
                 `validation_timeout`, the time of a lookup and of two validations and fills; \
                 increase it, or reduce these",
            ));
        }
        Ok(())
    }
}

impl EffectiveSettings {
    /// Returns the maximum age of a usable record.
    pub(crate) fn max_record_age(&self) -> Duration {
        self.ttl
            .saturating_add(self.validation_timeout)
            .saturating_add(CLOCK_SKEW_TOLERANCE)
    }
}

/// Returns how long a request waits at most if only a revocation interferes: a lookup, and twice a
/// validation and a fill.
fn longest_request(redis: Duration, validation: Duration) -> Duration {
    redis.saturating_add(validation.saturating_add(redis).saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn minutes(n: u64) -> Duration {
        seconds(60 * n)
    }

    type Change = fn(&mut CacheSettings, &mut RedisTimeouts);
    type Expected = fn(EffectiveSettings) -> (Duration, Duration);

    fn set(change: Change) -> (CacheSettings, RedisTimeouts) {
        let (mut settings, mut redis) = (CacheSettings::default(), RedisTimeouts::default());
        settings.local_cache = Some(LocalCacheConfig::new(1));
        change(&mut settings, &mut redis);
        (settings, redis)
    }

    /// Values in effect after one or two settings were set, and nothing else.
    #[test]
    fn defaults_adapt_to_explicit_settings() {
        let cases: &[(&str, Change, Expected)] = &[
            ("nothing", |_, _| {}, |it| (it.ttl, seconds(300))),
            (
                "nothing",
                |_, _| {},
                |it| (it.request_timeout, millis(10_750)),
            ),
            ("nothing", |_, _| {}, |it| (it.provider_lag, seconds(300))),
            // ttl
            (
                "ttl",
                |s, _| s.ttl = Some(seconds(2)),
                |it| (it.provider_lag, seconds(2)),
            ),
            (
                "ttl",
                |s, _| s.ttl = Some(seconds(2)),
                |it| (it.negative_ttl, seconds(2)),
            ),
            (
                "ttl",
                |s, _| s.ttl = Some(seconds(3590)),
                |it| (it.validation_timeout, seconds(5)),
            ),
            (
                "ttl",
                |s, _| s.ttl = Some(seconds(3592)),
                |it| (it.validation_timeout, seconds(3)),
            ),
            (
                "ttl",
                |s, _| s.ttl = Some(seconds(3594)),
                |it| (it.validation_timeout, seconds(1)),
            ),
            // validation_timeout
            (
                "validation_timeout",
                |s, _| s.validation_timeout = Some(seconds(60)),
                |it| (it.request_timeout, millis(120_750)),
            ),
            (
                "validation_timeout",
                |s, _| s.validation_timeout = Some(seconds(60)),
                |it| (it.ttl, seconds(300)),
            ),
            (
                "validation_timeout",
                |s, _| s.validation_timeout = Some(seconds(3500)),
                |it| (it.ttl, seconds(95)),
            ),
            (
                "validation_timeout",
                |s, _| s.validation_timeout = Some(seconds(3594)),
                |it| (it.ttl, seconds(1)),
            ),
            // max_session_lifetime
            (
                "max_session_lifetime",
                |s, _| s.max_session_lifetime = seconds(100),
                |it| (it.ttl, seconds(95)),
            ),
            (
                "max_session_lifetime",
                |s, _| s.max_session_lifetime = seconds(6),
                |it| (it.negative_ttl, seconds(1)),
            ),
            // stale_if_error
            (
                "stale_if_error",
                |s, _| s.stale_if_error = minutes(54),
                |it| (it.ttl, seconds(300)),
            ),
            (
                "stale_if_error",
                |s, _| s.stale_if_error = minutes(58),
                |it| (it.ttl, seconds(110)),
            ),
            (
                "stale_if_error",
                |s, _| s.stale_if_error = seconds(3592),
                |it| (it.validation_timeout, seconds(2)),
            ),
            (
                "stale_if_error, max_session_lifetime",
                |s, _| {
                    s.stale_if_error = minutes(10);
                    s.max_session_lifetime = minutes(12);
                },
                |it| (it.ttl, seconds(115)),
            ),
            // negative_ttl
            (
                "negative_ttl",
                |s, _| s.negative_ttl = Some(minutes(10)),
                |it| (it.ttl, seconds(300)),
            ),
            (
                "negative_ttl",
                |s, _| s.negative_ttl = Some(minutes(60)),
                |it| (it.negative_ttl, minutes(60)),
            ),
            // request_timeout
            (
                "request_timeout",
                |s, _| s.request_timeout = Some(seconds(1)),
                |it| (it.redis_timeout, millis(100)),
            ),
            (
                "request_timeout",
                |s, _| s.request_timeout = Some(seconds(1)),
                |it| (it.validation_timeout, millis(350)),
            ),
            (
                "request_timeout",
                |s, _| s.request_timeout = Some(millis(100)),
                |it| (it.checkout_timeout, millis(10)),
            ),
            (
                "request_timeout",
                |s, _| s.request_timeout = Some(seconds(60)),
                |it| (it.validation_timeout, seconds(5)),
            ),
            (
                "request_timeout, validation_timeout",
                |s, _| {
                    s.request_timeout = Some(seconds(3));
                    s.validation_timeout = Some(millis(1_350));
                },
                |it| (it.redis_timeout, millis(100)),
            ),
            (
                "request_timeout, timeout",
                |s, r| {
                    s.request_timeout = Some(seconds(3));
                    r.call = Some(millis(500));
                },
                |it| (it.validation_timeout, millis(750)),
            ),
            (
                "request_timeout, checkout_timeout",
                |s, r| {
                    s.request_timeout = Some(seconds(3));
                    r.checkout = Some(millis(500));
                },
                |it| (it.validation_timeout, millis(750)),
            ),
            // The timeouts of Redis.
            (
                "timeout",
                |_, r| r.call = Some(millis(50)),
                |it| (it.checkout_timeout, millis(50)),
            ),
            (
                "timeout",
                |_, r| r.call = Some(millis(50)),
                |it| (it.connect_timeout, seconds(1)),
            ),
            (
                "timeout",
                |_, r| r.call = Some(seconds(20)),
                |it| (it.request_timeout, seconds(70)),
            ),
            (
                "checkout_timeout",
                |_, r| r.checkout = Some(seconds(1)),
                |it| (it.redis_timeout, seconds(1)),
            ),
            (
                "checkout_timeout",
                |_, r| r.checkout = Some(millis(50)),
                |it| (it.redis_timeout, millis(250)),
            ),
            (
                "connect_timeout",
                |_, r| r.connect = Some(millis(1)),
                |it| (it.redis_timeout, millis(250)),
            ),
        ];
        for (name, change, expected) in cases {
            let (settings, redis) = set(*change);
            let effective = settings.resolve(Some(redis));
            let (is, expected) = expected(effective);
            assert_eq!(is, expected, "{name}: {effective:?}");
            assert_eq!(settings.check(Some(redis)), Ok(()), "{name}");
            // Whichever default was adjusted, no record outlives its revocation.
            let longest = effective.max_record_age() + settings.stale_if_error;
            assert!(longest <= TOMBSTONE_TTL, "{name}: {effective:?}");
            let longest = effective.ttl + CLOCK_SKEW_TOLERANCE + settings.stale_if_error;
            assert!(longest <= settings.max_session_lifetime, "{name}");
        }
    }

    /// Settings for which no default can be adjusted, and pairs of settings that contradict each
    /// other.
    #[test]
    fn contradictory_settings_are_rejected_by_name() {
        let cases: &[(&str, Change)] = &[
            ("`ttl`", |s, _| s.ttl = Some(millis(999))),
            ("`ttl`", |s, _| s.ttl = Some(seconds(3595))),
            ("`ttl`", |s, _| s.ttl = Some(Duration::MAX)),
            ("`validation_timeout`", |s, _| {
                s.validation_timeout = Some(Duration::ZERO);
            }),
            ("`validation_timeout`", |s, _| {
                s.validation_timeout = Some(seconds(3595));
            }),
            ("`validation_timeout`", |s, _| {
                s.ttl = Some(seconds(300));
                s.validation_timeout = Some(seconds(3500));
            }),
            ("`stale_if_error`", |s, _| s.stale_if_error = minutes(60)),
            ("`stale_after_restart`", |s, _| {
                s.stale_after_restart = seconds(3601);
            }),
            ("`canary` must be", |s, _| s.canary = Some(millis(999))),
            ("`canary` must be", |s, _| s.canary = Some(seconds(61))),
            ("`canary` requires", |s, _| {
                s.canary = Some(seconds(1));
                s.local_cache = None;
            }),
            ("reduce `stale_if_error`", |s, _| {
                s.ttl = Some(seconds(300));
                s.stale_if_error = minutes(55);
            }),
            ("`max_session_lifetime`", |s, _| {
                s.max_session_lifetime = seconds(5);
            }),
            ("`max_session_lifetime`", |s, _| {
                s.ttl = Some(seconds(300));
                s.max_session_lifetime = seconds(304);
            }),
            ("`max_session_lifetime`", |s, _| {
                s.stale_if_error = minutes(10);
                s.max_session_lifetime = minutes(10);
            }),
            ("10 years", |s, _| s.max_session_lifetime = Duration::MAX),
            ("`negative_ttl`", |s, _| {
                s.ttl = Some(seconds(2));
                s.negative_ttl = Some(seconds(3));
            }),
            ("`negative_ttl`", |s, _| s.negative_ttl = Some(minutes(61))),
            ("at least 100 ms", |s, _| {
                s.request_timeout = Some(millis(99));
            }),
            ("`request_timeout`", |s, _| {
                s.request_timeout = Some(seconds(10));
                s.validation_timeout = Some(seconds(5));
            }),
            ("`request_timeout`", |s, r| {
                s.request_timeout = Some(seconds(1));
                r.call = Some(millis(330));
            }),
            ("`request_timeout`", |s, r| {
                s.request_timeout = Some(seconds(1));
                r.checkout = Some(millis(330));
            }),
            ("`request_timeout`", |s, r| {
                s.request_timeout = Some(seconds(3));
                s.validation_timeout = Some(seconds(1));
                r.checkout = Some(millis(500));
            }),
            ("`request_timeout`", |s, r| {
                s.request_timeout = Some(millis(2_750));
                s.validation_timeout = Some(seconds(1));
                r.call = Some(seconds(1));
            }),
        ];
        for (name, change) in cases {
            let (settings, redis) = set(*change);
            let error = settings.check(Some(redis)).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn redis_timeout_is_not_counted_without_redis() {
        let settings = |request| CacheSettings {
            request_timeout: Some(request),
            validation_timeout: Some(seconds(5)),
            ..CacheSettings::default()
        };
        assert_eq!(settings(seconds(10)).check(None), Ok(()));
        assert!(settings(millis(9_999)).check(None).is_err());
    }

    #[test]
    fn default_ttl_of_a_configuration_file_is_adapted() {
        let mut settings = CacheSettings {
            max_session_lifetime: seconds(100),
            ..CacheSettings::default()
        };
        settings.set_ttl_unless_default(seconds(300));
        assert_eq!(settings.resolve(None).ttl, seconds(95));
        settings.set_ttl_unless_default(seconds(301));
        assert!(settings.check(None).is_err());
    }
}
