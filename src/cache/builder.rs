//! Builder of a cache. Settings are checked while the cache is built, so that none of them fails
//! later.

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
    memory::{LocalCacheConfig, LocalStore, Rejections, Ttls},
    protocol::{IdentityNames, KeyDeriver, LifetimePolicy, Sealing},
    redis::{CheckedRedisConfig, RedisConfig, RedisStore, StoreLimits, Timeouts, TrackingConfig},
    telemetry::CacheMetrics,
    time::Clock,
};

/// Builder of a [`SessionCache`], created by [`SessionCache::builder`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing until `build` is called"]
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

/// Creates a cache in the memory of this process only, with the default settings.
impl Default for SessionCache {
    fn default() -> Self {
        let builder = SessionCacheBuilder::new();
        let settings = builder.settings.resolve(None);
        let local = builder.local(settings, DEFAULT_CAPACITY, DEFAULT_CAPACITY, None);
        builder.finish(settings, local, None)
    }
}

impl SessionCache {
    /// Creates a builder with the default settings.
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
            default_database: 0,
            pepper: None,
            previous_pepper: None,
            sealing_key: None,
            previous_sealing_key: None,
            clock: Clock::system(),
        }
    }

    /// Applies the settings of a configuration file. They replace values that were set before.
    /// Settings that the file does not have stay unchanged. A `ttl_seconds` that equals the default
    /// counts as not set, so that it can be shortened as described at [`ttl`](Self::ttl).
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

    /// Sets the longest time for which a token is rejected without another validation after the
    /// identity provider rejected it as invalid. Defaults to 5 seconds, or to the [`ttl`](Self::ttl) if
    /// that is shorter. 0 turns negative caching off. Must not exceed 1 hour, nor a `ttl` that was set.
    ///
    /// The first rejection of a token is used for 1 second, because a provider may not know a new
    /// session at once, and each further one for twice as long as the one before. With Redis all nodes
    /// use it, unless [`share_validations`](Self::share_validations) is off.
    ///
    /// Up to 10,000 such tokens are remembered, in addition to the sessions. A rejection because
    /// the user is blocked or a factor is missing is not remembered, since this may end at any
    /// time. A token whose validation failed while others succeeded is remembered in the same way, on
    /// this node only.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.settings.negative_ttl = Some(ttl);
        self
    }

    /// Sets whether the nodes that share a Redis validate a session once for all of them. Defaults to
    /// `true`. Without Redis it has no effect.
    ///
    /// A node that finds nothing usable reserves the validation for itself, by the script that looks
    /// the token up. The other nodes wait for the result. A reservation lasts for twice the median
    /// time of the node's latest validations, at least 50 ms and at most 1 second. If it ends without
    /// a result, because its node has failed or is slow, the next node takes it. No node waits for
    /// longer than half of the [`validation_timeout`](Self::validation_timeout); then it validates the
    /// session itself. A reservation is no proof: which records may be served is decided as without
    /// it. If Redis does not reply or rejects writes, each node validates on its own.
    ///
    /// It takes one key of about 150 bytes for each token that is being validated, and one for each
    /// token that was rejected lately. The [ACL](crate::docs::deployment) of the user needs
    /// `~session_reservation:*` and `~session_rejection:*`.
    pub fn share_validations(mut self, share: bool) -> Self {
        self.settings.shares_validations = share;
        self
    }

    /// Stores the sessions in Redis, which all nodes and the Python service share. Without this
    /// setting, sessions are cached in the memory of this process only. A second call replaces the
    /// first.
    ///
    /// Takes a [URL](RedisConfig#urls) of one server, such as `redis://127.0.0.1:6379/2`, or a
    /// [`RedisConfig`] for [sentinels](RedisConfig::sentinel), a [cluster](RedisConfig::cluster),
    /// and all other Redis settings. No connection is opened before the first use. An unavailable
    /// Redis does not make requests fail: sessions are then validated without it.
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
    /// Returns an error if a URL is invalid, if it requires TLS and the feature `tls` is off, if it
    /// requests TLS without verification (`#insecure`), with which any server could impersonate
    /// Redis, or if another setting of the `RedisConfig` is invalid. The error does not show the
    /// URL.
    pub fn redis<C>(mut self, redis: C) -> Result<Self, ConfigError>
    where
        C: TryInto<RedisConfig>,
        C::Error: Into<ConfigError>,
    {
        let config: RedisConfig = redis.try_into().map_err(Into::into)?;
        self.redis = Some(config.check()?);
        Ok(self)
    }

    /// Sets how long a request may wait in the layer in total. After that it is rejected with 503.
    /// Defaults to the time of one lookup and of two validations and fills, since the token is
    /// validated once more if a revocation happens in between. With the other defaults that is
    /// 10.75 seconds. Must be at least 100 milliseconds.
    ///
    /// If [`validation_timeout`](Self::validation_timeout) or [`RedisConfig::timeout`] was not set,
    /// its default is shortened to fit. If they were set and do not fit, `build` returns an error.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = Some(timeout);
        self
    }

    /// Sets the percentage of its lifetime in the cache after which a session in use is validated
    /// again in the background, so that its user does not wait for the identity provider. Defaults
    /// to 80. Must be between 1 and 100; 100 turns it off.
    ///
    /// A refresh starts once for each record and process, when a request uses the session after
    /// that time. It yields to validations that a request waits for: refreshes take up to half of
    /// the [`max_concurrent_validations`](Self::max_concurrent_validations) permits, and one that
    /// would have to wait for a permit ends. The next request that uses the session starts another.
    /// The same applies while the provider limits the rate. A
    /// rejection ends the cached session immediately. If the validation fails, the session stays
    /// cached until its TTL ends.
    pub fn refresh_ahead(mut self, percent: u8) -> Self {
        self.settings.refresh_ahead = percent;
        self
    }

    /// Sets a local cache, which serves sessions from the memory of this process without a round
    /// trip to Redis. Defaults to none. Without Redis it has no effect, since all sessions are in
    /// memory then.
    ///
    /// A revocation then takes effect on other nodes within milliseconds, and at the latest one
    /// [`lease`](LocalCacheConfig::lease) after it returned. On the node that revoked, it takes
    /// effect immediately. While Redis is unavailable, or if another server replies than before,
    /// nothing is served from memory. The same applies before Redis 6, or if the Redis user may not
    /// send `HELLO 3`, `CLIENT TRACKING`, `INFO`, `PING` or `SET` of a key that begins with
    /// `session_listener:`. This is logged once, and every session is looked up in Redis.
    ///
    /// # Limitations
    ///
    /// If a hypervisor pauses this virtual machine, its clock may stop too, and the lease is
    /// extended by the length of the pause. On Linux, time spent in system suspend counts.
    pub fn local_cache(mut self, local: LocalCacheConfig) -> Self {
        self.settings.local_cache = Some(local);
        self
    }

    /// Sets the longest [`lease`](LocalCacheConfig::lease) of all nodes that share the Redis. It
    /// determines when a revocation has [settled](crate::Revocation::settled), and nothing else.
    /// Must be between the lease of this node and 1 minute. Defaults to the lease of this node, or
    /// to 1 second if it has no local cache.
    pub fn fleet_lease(mut self, lease: Duration) -> Self {
        self.settings.fleet_lease = Some(lease);
        self
    }

    /// Turns on a canary, which measures how long revocations take. Defaults to off. Must be between
    /// 1 second and 1 minute. Requires a [`local_cache`](Self::local_cache) if Redis is used, because
    /// without one a revocation applies immediately. Has no effect without Redis.
    ///
    /// The nodes that share the Redis revoke a session of the canary once per `interval`, by one
    /// command in total, and each node measures how long it would still have served it. Set it to
    /// the [`lease`](LocalCacheConfig::lease), and to the same on all nodes. A node that receives no
    /// revocations then reports this within two leases. The results are in
    /// [`Stats::canary`](crate::Stats::canary), in the
    /// [metrics](crate::docs::observability#canary) and in a warning. They change no guarantee.
    pub fn canary(mut self, interval: Duration) -> Self {
        self.settings.canary = Some(interval);
        self
    }

    /// Sets how long after its TTL a session may be served if the identity provider is unavailable.
    /// Defaults to 0, which turns this off. Must be less than 1 hour. The defaults of
    /// [`ttl`](Self::ttl) and [`validation_timeout`](Self::validation_timeout) are shortened to
    /// fit, so that no session is served after its revocation is forgotten. A session that was
    /// validated within [`provider_lag`](Self::provider_lag) after a revocation is not served stale.
    ///
    /// Such a session is marked ([`SessionInfo::is_stale`](crate::SessionInfo::is_stale)). It is
    /// served only if the session itself has not expired, and if a read from Redis, made after the
    /// provider failed, shows that neither the token nor the user was revoked. It is served from
    /// the memory of this process, so with Redis it requires a [`local_cache`](Self::local_cache).
    ///
    /// # Security
    ///
    /// Do not enable this while the Python service logs users out on its own. Its plain `DEL`
    /// is indistinguishable from the end of the TTL, so a logged-out session could be served.
    pub fn stale_if_error(mut self, stale: Duration) -> Self {
        self.settings.stale_if_error = stale;
        self
    }

    /// Sets how long sessions of the local cache are still served after Redis was restarted or
    /// replaced. Defaults to 0, which turns this off: every session is then validated again before
    /// it is served. Must not exceed 1 hour.
    ///
    /// The duration begins when this node notices that another server replies: one with another run
    /// ID, after a restart or a failover. Within it, a session that the local cache could have
    /// served immediately before is served without waiting, and is validated again in the background
    /// (stale-while-revalidate). It is marked ([`SessionInfo::is_stale`](crate::SessionInfo::is_stale)).
    /// These validations take up to half of the
    /// [`max_concurrent_validations`](Self::max_concurrent_validations) permits, and never wait for
    /// one. No session is served after its [`ttl`](Self::ttl) or its own expiry. Requires a
    /// [`local_cache`](Self::local_cache) if Redis is used, and has no effect without Redis.
    ///
    /// # Security
    ///
    /// If Redis acknowledged a revocation and lost it, and this node had not received it before, the
    /// revoked session is served on this node until its validation, at most for this duration. What
    /// this node knows to be revoked is not served, nor what the new server knows to be revoked. So
    /// a revocation that returned `Ok` after this node had noticed the new server applies as usual.
    ///
    /// Do not enable this while the Python service logs users out on its own. Its plain `DEL`
    /// leaves nothing that could be read before a session is served.
    pub fn stale_after_restart(mut self, stale: Duration) -> Self {
        self.settings.stale_after_restart = stale;
        self
    }

    /// Sets how long after a revocation the identity provider may still reply as before. Defaults to
    /// the [`ttl`](Self::ttl). 0 turns this off: then the first validation after a revocation counts
    /// for the whole TTL.
    ///
    /// A provider with a cache or replicas of its own, or one that reports a logout before it has
    /// committed it, may confirm a session that it has just ended. So trust in a reply grows with its
    /// distance from [`invalidate_user`](SessionCache::invalidate_user) or
    /// [`invalidate_token`](SessionCache::invalidate_token): a session that is validated a time *t*
    /// after it is served for *t*, but for at least 1 second and at most the TTL. If the provider
    /// confirms an ended session for a time *d*, which must not exceed this setting, the session is
    /// served for up to 2*d* + 1 second after the revocation.
    ///
    /// In exchange a revocation costs about twelve validations of a session in use instead of one,
    /// within the TTL, or as many on each node without [`share_validations`](Self::share_validations).
    /// Most of them run in the background. It costs more if
    /// [`refresh_ahead`](Self::refresh_ahead) is set to less than 80. A session that is validated
    /// within this time is not served stale ([`stale_if_error`](Self::stale_if_error)).
    ///
    /// # Limitations
    ///
    /// The difference between the clocks of Redis, of this node and of the Python service adds to the
    /// time for which an ended session is served. So does the duration of a validation, for requests
    /// that join one in flight.
    pub fn provider_lag(mut self, lag: Duration) -> Self {
        self.settings.provider_lag = Some(lag);
        self
    }

    /// Sets a secret under which tokens are hashed by HMAC-SHA-256 instead of plain SHA-256. An
    /// attacker who can read Redis can then not test whether a guessed token is there. Defaults to
    /// none, which the Python service expects. All nodes need the same pepper.
    ///
    /// To change the pepper, first set the new one on all nodes as
    /// [`previous_pepper`](Self::previous_pepper), so that they write revocations under both. Then
    /// swap the two on one node after the other. Remove the old one when the longest session has
    /// expired.
    pub fn pepper(mut self, secret: SecretKey) -> Self {
        self.pepper = Some(secret);
        self
    }

    /// Sets a second pepper. Records and tombstones under it are read, and tombstones are written
    /// under it as well. Defaults to none.
    pub fn previous_pepper(mut self, secret: SecretKey) -> Self {
        self.previous_pepper = Some(secret);
        self
    }

    /// Sets a key that encrypts and authenticates the records. An attacker who can read Redis then
    /// learns no email address or name, and one who can write to Redis cannot forge a session.
    /// Revocation marks are stored under a keyed hash of the user's ID. Defaults to none, which the
    /// Python service expects. All nodes need the same key.
    ///
    /// An attacker who can write to Redis can still delete keys and restore earlier values: an old
    /// record together with the old mark and the old tombstone, for one TTL. The key is changed
    /// like the [`pepper`](Self::pepper).
    pub fn sealing_key(mut self, secret: SecretKey) -> Self {
        self.sealing_key = Some(secret);
        self
    }

    /// Sets a second sealing key. Records that it sealed are opened, and revocation marks are
    /// written under it as well. Defaults to none.
    pub fn previous_sealing_key(mut self, secret: SecretKey) -> Self {
        self.previous_sealing_key = Some(secret);
        self
    }

    /// Sets whether sessions are cached. If `false`, no session is looked up or stored, and every
    /// request is validated. Revoked tokens are still rejected. Defaults to `true`.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets how long a validated session is served without another validation, and never beyond its
    /// own expiry. Must be at least 1 second. Defaults to 5 minutes, or to less if
    /// [`max_session_lifetime`](Self::max_session_lifetime) is shorter, or if
    /// [`stale_if_error`](Self::stale_if_error) or [`validation_timeout`](Self::validation_timeout)
    /// leave less of the 1 hour for which a revocation is remembered.
    ///
    /// The TTL of each session is up to 10 % shorter, so that sessions cached together do not
    /// expire together.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// Sets the maximum number of sessions, and of revoked tokens, kept in this process. Defaults
    /// to 100,000. Must not be 0.
    pub fn capacity(mut self, sessions: usize) -> Self {
        self.settings.capacity = sessions;
        self
    }

    /// Sets the maximum lifetime of a session at the identity provider. A revoked token is rejected
    /// for this long. Defaults to 30 days. Must be at least the [`ttl`](Self::ttl) +
    /// [`stale_if_error`](Self::stale_if_error) + 5 seconds. If the TTL was not set, it is shortened to
    /// fit.
    pub fn max_session_lifetime(mut self, longest: Duration) -> Self {
        self.settings.max_session_lifetime = longest;
        self
    }

    /// Sets how long one call of the validator may take, including the wait for a permit. Must not
    /// be 0. Defaults to 5 seconds, or to less if [`request_timeout`](Self::request_timeout), a
    /// [`ttl`](Self::ttl) of nearly 1 hour, or [`stale_if_error`](Self::stale_if_error) leave less
    /// time.
    pub fn validation_timeout(mut self, timeout: Duration) -> Self {
        self.settings.validation_timeout = Some(timeout);
        self
    }

    /// Sets how many validations may run at the same time. Defaults to 256. Must not be 0.
    pub fn max_concurrent_validations(mut self, validations: usize) -> Self {
        self.settings.max_concurrent_validations = validations;
        self
    }

    /// Sets the clock that decides about expiry. Defaults to the system's clock.
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
    /// Returns an error if a setting is invalid, or if two that were set contradict each other. The
    /// error names them and says what to write instead. A setting that was not set causes no error,
    /// because its default is adjusted.
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
                "`previous_pepper` and `previous_sealing_key` require a current key; set `pepper` \
                 or `sealing_key` as well",
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
            stale_if_error: self.settings.stale_if_error,
            lifetimes: self.lifetimes(settings),
            validation_timeout: settings.validation_timeout,
            max_session_lifetime: self.settings.max_session_lifetime,
            tombstone_ttl: TOMBSTONE_TTL,
            negative_ttl: micros(settings.negative_ttl),
            shares_validations: self.settings.shares_validations,
            capacity: self.settings.capacity,
        };
        let tier = local.map(|local| TrackingConfig {
            lease: Arc::new(
                Lease::new(
                    micros(local.lease),
                    micros(self.settings.stale_after_restart),
                    self.clock.clone(),
                )
                .with_canary(self.settings.canary.map(micros)),
            ),
            tracks_records: local.tracks_records,
        });
        let lease = tier.as_ref().map(|tier| Arc::clone(&tier.lease));
        let redis = self.redis.clone().map(|redis| {
            let (database, clock) = (self.default_database, self.clock.clone());
            let sealing = self
                .sealing_key
                .as_ref()
                .map(|key| Sealing::new(key, self.previous_sealing_key.as_ref()));
            // What hides a user's ID in records hides it in names as well.
            let (key, previous) = match &self.sealing_key {
                Some(key) => (Some(key), &self.previous_sealing_key),
                None => (self.pepper.as_ref(), &self.previous_pepper),
            };
            let names = IdentityNames::new(key, previous.as_ref());
            RedisStore::new(redis, database, sealing, names, clock, limits, tier)
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
            bridges_restarts: !self.settings.stale_after_restart.is_zero(),
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
            rejections: Rejections::new(micros(settings.max_record_age())),
            clock: self.clock,
            is_enabled: self.enabled,
            max_record_age: micros(settings.max_record_age()),
            revoked_token_ttl: micros(self.settings.max_session_lifetime),
            fleet_lease: settings.fleet_lease,
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
        let lag = micros(settings.provider_lag);
        LifetimePolicy::new(micros(settings.ttl), self.settings.refresh_ahead, lag)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
