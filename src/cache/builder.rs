//! How a cache is set up. Every setting is checked here, once, so that nothing fails later.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use super::{
    config::SessionCacheConfig,
    handle::SessionCache,
    limits::{CacheSettings, DEFAULT_CAPACITY, EffectiveSettings, TOMBSTONE_TTL},
    revocation_queue::RevocationQueue,
    store::Store,
    validations::Validations,
};
use crate::{
    coherence::Lease,
    config_error::ConfigError,
    crypto::SecretKey,
    memory::{LocalCacheConfig, LocalStore, Ttls},
    protocol::{KeyDeriver, LifetimePolicy, Sealing},
    redis::{CheckedRedisConfig, RedisConfig, RedisStore, StoreLimits, Timeouts, TrackingConfig},
    telemetry::CacheMetrics,
    time::Clock,
};

/// Builds a [`SessionCache`]; made by [`SessionCache::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionCacheBuilder {
    enabled: bool,
    settings: CacheSettings,
    redis: Option<CheckedRedisConfig>,
    default_database: u16,
    pepper: Option<SecretKey>,
    previous_pepper: Option<SecretKey>,
    sealing_key: Option<SecretKey>,
    previous_sealing_key: Option<SecretKey>,
    clock: Clock,
}

/// A cache in this process alone, with every setting at its default.
impl Default for SessionCache {
    fn default() -> Self {
        let builder = SessionCacheBuilder::new();
        let settings = builder.settings.resolve(None);
        let local = builder.local(settings, DEFAULT_CAPACITY, DEFAULT_CAPACITY, None);
        builder.finish(settings, local, None)
    }
}

impl SessionCache {
    /// Starts a cache with the default settings.
    pub fn builder() -> SessionCacheBuilder {
        SessionCacheBuilder::new()
    }
}

impl SessionCacheBuilder {
    fn new() -> Self {
        Self {
            enabled: true,
            settings: CacheSettings::default(),
            redis: None,
            default_database: 2,
            pepper: None,
            previous_pepper: None,
            sealing_key: None,
            previous_sealing_key: None,
            clock: Clock::system(),
        }
    }

    /// Takes over the settings of a configuration file. It replaces those that were set before;
    /// settings that the file does not have stay as they are. A `ttl_seconds` that is the default
    /// counts as not set, so that it gives way as described at [`ttl`](Self::ttl).
    pub fn config(mut self, config: &SessionCacheConfig) -> Self {
        let SessionCacheConfig {
            enabled,
            ttl_seconds,
            redis_db,
            duration_remember_me,
        } = *config;
        let ttl = Duration::from_secs(ttl_seconds);
        self.settings.set_ttl_unless_default(ttl);
        self.default_database = redis_db;
        self.enabled(enabled)
            .max_session_lifetime(Duration::from_secs(duration_remember_me))
    }

    /// Sets how long a token that the identity provider rejected as invalid is rejected without
    /// asking again, in this process. Defaults to 5 seconds, or to the [`ttl`](Self::ttl) if that is
    /// less; 0 turns it off. Must not exceed an hour, nor a `ttl` that was set.
    ///
    /// At most 10,000 such tokens are remembered, in addition to the sessions. Blocked users and
    /// missing factors are not, since these may end at any time.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.settings.negative_ttl = Some(ttl);
        self
    }

    /// Keeps the sessions in Redis, where all nodes and the Python service find them. Without it
    /// they are cached in this process alone. A second call replaces the first.
    ///
    /// Takes a [URL](RedisConfig#urls) of one server, such as `redis://127.0.0.1:6379/2`, or a
    /// [`RedisConfig`] for [sentinels](RedisConfig::sentinel), a [cluster](RedisConfig::cluster), and
    /// all other settings of Redis. Nothing is connected before the first use, and a Redis that is
    /// down fails no request: sessions are then validated without it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_session_cache::{RedisConfig, SessionCache};
    ///
    /// let cache = SessionCache::builder().redis("redis://127.0.0.1:6379/2")?.build()?;
    ///
    /// let redis = RedisConfig::single("redis://127.0.0.1:6379/2").timeout(Duration::from_millis(100));
    /// let cache = SessionCache::builder().redis(redis)?.build()?;
    /// # let _ = cache;
    /// # Ok::<(), tower_session_cache::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if a URL is invalid, if it asks for TLS without the feature `tls`, or for TLS
    /// that verifies nothing (`#insecure`), with which any server could answer as Redis; or if
    /// another setting of the `RedisConfig` makes no sense. The error does not show the URL.
    pub fn redis<C>(mut self, redis: C) -> Result<Self, ConfigError>
    where
        C: TryInto<RedisConfig>,
        C::Error: Into<ConfigError>,
    {
        let config: RedisConfig = redis.try_into().map_err(Into::into)?;
        self.redis = Some(config.check()?);
        Ok(self)
    }

    /// Sets how long a request may wait in this layer in total; then it is answered with 503.
    /// Defaults to the time of a lookup and of two validations and fills, since the identity provider
    /// is asked once more if a revocation comes between. With the other defaults that is 10.75
    /// seconds. Must be at least 100 milliseconds.
    ///
    /// The defaults of other settings give way to it:
    /// [`validation_timeout`](Self::validation_timeout) and [`RedisConfig::timeout`] become short
    /// enough. If they were set, and leave no room, `build` returns an error.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = Some(timeout);
        self
    }

    /// After how many percent of its time in the cache a session that is in use is validated again
    /// in the background, so that its user never waits for the identity provider. Defaults to 80;
    /// 100 turns it off, and 0 is refused.
    ///
    /// It happens once for each record and process, when a request meets the session after that
    /// time, and never when all [`max_concurrent_validations`](Self::max_concurrent_validations) are taken. A refusal
    /// ends the session at once; a failure leaves it to its TTL.
    pub fn refresh_ahead(mut self, percent: u8) -> Self {
        self.settings.refresh_ahead = percent;
        self
    }

    /// Serves sessions from the memory of this process as well, with no round trip to Redis.
    /// Defaults to none; without Redis it changes nothing, since there all sessions are.
    ///
    /// A revocation is then noticed on other nodes within milliseconds, and in the worst case
    /// after the [`lease`](LocalCacheConfig::lease): what this crate promises for the moment at which a
    /// revocation returns holds one lease later, on the node that revoked at once. While Redis
    /// does not answer, or another one answers than before, nothing is served from memory. Nor is
    /// it before Redis 6, or where its user may not send `HELLO 3`, `CLIENT TRACKING`, `INFO`,
    /// `PING` or `SET` of a key that begins with `session_listener:`: the log says so once, and
    /// every session is looked up in Redis.
    ///
    /// Not promised: that a hypervisor which pauses this machine stops its clock's lease, too. On
    /// Linux the lease goes on while the machine is suspended.
    pub fn local_cache(mut self, local: LocalCacheConfig) -> Self {
        self.settings.local_cache = Some(local);
        self
    }

    /// Sets for how long after its time in the cache a session may be served when the identity
    /// provider cannot be asked. Defaults to 0, which is not at all. Must be less than an hour: the
    /// defaults of [`ttl`](Self::ttl) and [`validation_timeout`](Self::validation_timeout) give way,
    /// so that nothing is served after its revocation is forgotten.
    ///
    /// Such an answer is marked ([`SessionInfo::is_stale`](crate::SessionInfo::is_stale)). It
    /// is given only if the session itself has not ended, and if a look into Redis, made after the
    /// provider failed, shows that neither the token nor the user was revoked. It comes from the
    /// memory of this process, so that with Redis it takes a [`local_cache`](Self::local_cache).
    ///
    /// Unsafe while the Python service logs users out by itself: its plain `DEL` looks like the
    /// end of the session's cache time.
    pub fn stale_if_error(mut self, stale: Duration) -> Self {
        self.settings.stale_if_error = stale;
        self
    }

    /// Names tokens by HMAC-SHA-256 under a secret, in place of plain SHA-256: whoever reads Redis
    /// can then not test whether a token that they guess is there. Defaults to none, which the
    /// Python service expects. All nodes need the same.
    ///
    /// To change it, first give the new one to all nodes as
    /// [`previous_pepper`](Self::previous_pepper), so that they write revocations under both; then
    /// swap the two on one node after the other; and take the old one away when the longest
    /// session has passed.
    pub fn pepper(mut self, secret: SecretKey) -> Self {
        self.pepper = Some(secret);
        self
    }

    /// A second pepper: records under it are read, tombstones under it honoured and written.
    /// Defaults to none.
    pub fn previous_pepper(mut self, secret: SecretKey) -> Self {
        self.previous_pepper = Some(secret);
        self
    }

    /// Encrypts and authenticates the records, so that whoever reads Redis learns no address or
    /// name, and whoever writes it can make nobody a user. Marks then stand under a keyed hash of
    /// the user's id. Defaults to none, which the Python service expects. All nodes need the same.
    ///
    /// Who can write Redis can still delete, and put back what stood there earlier: an old record
    /// together with the old mark and the old tombstone, for one TTL. It is changed like
    /// [`pepper`](Self::pepper).
    pub fn sealing_key(mut self, secret: SecretKey) -> Self {
        self.sealing_key = Some(secret);
        self
    }

    /// A second sealing key: records under it are opened, marks under it written. Defaults to
    /// none.
    pub fn previous_sealing_key(mut self, secret: SecretKey) -> Self {
        self.previous_sealing_key = Some(secret);
        self
    }

    /// Turns the cache off: lookup and fill are skipped and every request is validated.
    /// Revocations still refuse. Defaults to on.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets how long a validated session is served without asking again, and never beyond its own
    /// expiry. Must be at least a second. Defaults to 5 minutes, or to less if
    /// [`max_session_lifetime`](Self::max_session_lifetime) is shorter, or if
    /// [`stale_if_error`](Self::stale_if_error) or [`validation_timeout`](Self::validation_timeout)
    /// leave less of the hour for which a revocation is remembered.
    ///
    /// Each session gets up to a tenth less, so that those cached together do not end together.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// Sets the maximum number of sessions, and of revoked tokens, kept in this process. Defaults to
    /// 100,000; must not be 0.
    pub fn capacity(mut self, sessions: usize) -> Self {
        self.settings.capacity = sessions;
        self
    }

    /// Sets the maximum lifetime of a session at the identity provider. A revoked token is rejected
    /// for this long. Defaults to 30 days; must be at least the [`ttl`](Self::ttl) and 5 seconds. If
    /// the TTL was not set, it gives way.
    pub fn max_session_lifetime(mut self, longest: Duration) -> Self {
        self.settings.max_session_lifetime = longest;
        self
    }

    /// Sets how long one call of the validator may take, including the wait for a permit. Must not
    /// be 0. Defaults to 5 seconds, or to less if [`request_timeout`](Self::request_timeout), a
    /// [`ttl`](Self::ttl) of nearly an hour, or [`stale_if_error`](Self::stale_if_error) leave less.
    pub fn validation_timeout(mut self, timeout: Duration) -> Self {
        self.settings.validation_timeout = Some(timeout);
        self
    }

    /// Sets how many validations may run at the same time. Defaults to 256; must not be 0.
    pub fn max_concurrent_validations(mut self, validations: usize) -> Self {
        self.settings.max_concurrent_validations = validations;
        self
    }

    /// Replaces the clock that decides about expiry.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn clock(mut self, clock: crate::time::ManualClock) -> Self {
        self.clock = Clock::Manual(clock);
        self
    }

    /// Builds the cache. Does not require a Tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting makes no sense, or if two that were set contradict each other;
    /// the error names them and says what to write instead. A setting that was not set causes none:
    /// its default gives way.
    pub fn build(self) -> Result<SessionCache, ConfigError> {
        let timeouts = self.redis.as_ref().map(|redis| redis.timeouts);
        self.settings.check(timeouts)?;
        let without = |current: &Option<SecretKey>, previous: &Option<SecretKey>| {
            current.is_none() && previous.is_some()
        };
        if without(&self.pepper, &self.previous_pepper)
            || without(&self.sealing_key, &self.previous_sealing_key)
        {
            return Err(ConfigError::new(
                "`previous_pepper` and `previous_sealing_key` need a current key; set `pepper` or \
                 `sealing_key` as well",
            ));
        }
        let settings = self.settings.resolve(timeouts);
        let capacity = NonZeroUsize::new(self.settings.capacity).unwrap_or(DEFAULT_CAPACITY);
        let local = self.settings.local_cache.filter(|_| self.redis.is_some());
        let entries = local.map_or(capacity, |local| {
            NonZeroUsize::new(local.capacity).unwrap_or(capacity)
        });
        let limits = StoreLimits {
            timeouts: Timeouts {
                connect: settings.connect_timeout,
                checkout: settings.checkout_timeout,
                call: settings.redis_timeout,
            },
            ttl: settings.ttl,
            lifetimes: self.lifetimes(settings),
            validation_timeout: settings.validation_timeout,
            max_session_lifetime: self.settings.max_session_lifetime,
            tombstone_ttl: TOMBSTONE_TTL,
            capacity: self.settings.capacity,
        };
        let tier = local.map(|local| TrackingConfig {
            lease: Arc::new(Lease::new(micros(local.lease), self.clock.clone())),
            tracks_records: local.tracks_records,
        });
        let lease = tier.as_ref().map(|tier| Arc::clone(&tier.lease));
        let redis = self.redis.clone().map(|redis| {
            let (database, clock) = (self.default_database, self.clock.clone());
            let sealing = self
                .sealing_key
                .as_ref()
                .map(|key| Sealing::new(key, self.previous_sealing_key.as_ref()));
            RedisStore::new(redis, database, sealing, clock, limits, tier)
        });
        let local = self.local(settings, entries, capacity, lease);
        Ok(self.finish(settings, local, redis))
    }

    fn local(
        &self,
        settings: EffectiveSettings,
        sessions: NonZeroUsize,
        verdicts: NonZeroUsize,
        lease: Option<Arc<Lease>>,
    ) -> LocalStore {
        let max_age = self
            .settings
            .local_cache
            .map_or(Duration::MAX, |local| local.max_age);
        let times = Ttls {
            max_age: micros(max_age),
            stale: micros(self.settings.stale_if_error),
            revoked_token_ttl: micros(self.settings.max_session_lifetime),
            negative_ttl: micros(settings.negative_ttl),
        };
        let clock = self.clock.clone();
        let lifetimes = self.lifetimes(settings);
        LocalStore::new(sessions, verdicts, lease, clock, lifetimes, times)
    }

    fn finish(
        self,
        settings: EffectiveSettings,
        local: LocalStore,
        redis: Option<RedisStore>,
    ) -> SessionCache {
        let key_deriver = KeyDeriver::new(self.pepper.as_ref(), self.previous_pepper.as_ref());
        let store = Store {
            local,
            redis,
            key_deriver,
            queue: RevocationQueue::default(),
            clock: self.clock,
            is_enabled: self.enabled,
            max_record_age: micros(settings.max_record_age()),
            revoked_token_ttl: micros(self.settings.max_session_lifetime),
            metrics: CacheMetrics::default(),
        };
        let miss_timeout = settings
            .request_timeout
            .saturating_sub(settings.redis_timeout);
        let validations = Validations::new(
            self.settings.max_concurrent_validations,
            settings.validation_timeout,
            miss_timeout,
        );
        SessionCache::new(store, validations)
    }

    fn lifetimes(&self, settings: EffectiveSettings) -> LifetimePolicy {
        LifetimePolicy::new(micros(settings.ttl), self.settings.refresh_ahead)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
