//! How a cache is set up. Every setting is checked here, once, so that nothing fails later.

use std::mem;
use std::{error::Error as StdError, fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use bb8_redis::redis::ConnectionInfo;

use super::redis::NodeFault;
use super::{
    SessionCache, SessionCacheConfig,
    local::{Local, Times},
    redis,
    redis::{Deadlines, Limits, Place, Redis, Sentinels, Server, Tier, UrlFault, Wanted},
    revoke::Undelivered,
    store::Store,
    tier::LocalCacheConfig,
    validations::Validations,
};
use crate::coherence::Lease;
use crate::protocol::{Lifetimes, Naming, SLACK as SLACK_MICROS, Sealing};
use crate::telemetry::CacheMetrics;
use crate::{crypto::SecretKey, time::Clock};

/// How long a revocation must be remembered beside the records that it outlives: one hour, the
/// same on every node.
const TOMBSTONE_TTL: Duration = Duration::from_secs(3600);

const NEGATIVE_TTL: Duration = Duration::from_secs(5);

const MIN_LEASE: Duration = Duration::from_millis(100);
const MAX_LEASE: Duration = Duration::from_secs(60);

/// For replicas.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99_999);

const SLACK: Duration = Duration::from_micros(SLACK_MICROS.unsigned_abs());

/// Builds a [`SessionCache`]; made by [`SessionCache::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionCacheBuilder {
    enabled: bool,
    ttl: Duration,
    capacity: usize,
    max_session_lifetime: Duration,
    validation_timeout: Duration,
    max_concurrent_validations: usize,
    negative_ttl: Option<Duration>,
    redis: Option<RedisUrl>,
    sentinels: Option<(Vec<RedisUrl>, String)>,
    cluster: Option<Vec<RedisUrl>>,
    #[cfg(feature = "tls")]
    redis_tls: Option<super::RedisTls>,
    redis_db: u16,
    replicas: Option<Wanted>,
    redis_deadline: Duration,
    redis_connect_deadline: Duration,
    redis_checkout_deadline: Option<Duration>,
    request_timeout: Option<Duration>,
    refresh_ahead: u8,
    local_cache: Option<LocalCacheConfig>,
    stale_if_error: Duration,
    key_prefix: String,
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
        let local = builder.local(DEFAULT_CAPACITY, DEFAULT_CAPACITY, None);
        builder.finish(local, None)
    }
}

/// May contain a password.
#[derive(Clone)]
struct RedisUrl(String);

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(…)")
    }
}

impl SessionCache {
    /// Starts a cache with the default settings.
    pub fn builder() -> SessionCacheBuilder {
        SessionCacheBuilder::new()
    }
}

impl SessionCacheBuilder {
    pub(super) fn new() -> Self {
        Self {
            enabled: true,
            ttl: Duration::from_secs(300),
            capacity: DEFAULT_CAPACITY.get(),
            max_session_lifetime: Duration::from_secs(30 * 24 * 3600),
            validation_timeout: Duration::from_secs(5),
            max_concurrent_validations: 256,
            negative_ttl: None,
            redis: None,
            sentinels: None,
            cluster: None,
            #[cfg(feature = "tls")]
            redis_tls: None,
            redis_db: 2,
            replicas: None,
            redis_deadline: Duration::from_millis(250),
            redis_connect_deadline: Duration::from_secs(1),
            redis_checkout_deadline: None,
            request_timeout: None,
            refresh_ahead: 80,
            local_cache: None,
            stale_if_error: Duration::ZERO,
            key_prefix: String::new(),
            pepper: None,
            previous_pepper: None,
            sealing_key: None,
            previous_sealing_key: None,
            clock: Clock::system(),
        }
    }

    /// Takes over what a configuration file says; settings it does not have stay as they are.
    pub fn config(self, config: &SessionCacheConfig) -> Self {
        let SessionCacheConfig {
            enabled,
            ttl_seconds,
            redis_db,
            duration_remember_me,
        } = *config;
        self.enabled(enabled)
            .ttl(Duration::from_secs(ttl_seconds))
            .max_session_lifetime(Duration::from_secs(duration_remember_me))
            .redis_db(redis_db)
    }

    /// How long a token that the identity provider refused as invalid is refused without asking
    /// again, in this process. Defaults to 5 seconds, or to a shorter TTL; 0 turns it off.
    ///
    /// At most 10,000 are remembered, beside the sessions. Blocked users and missing factors are
    /// not: these end at any time.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Keeps the sessions in Redis, where all nodes and the Python service find them. Without it
    /// they are cached in this process alone.
    ///
    /// The URL is `redis://[user:password@]host[:port][/database]`, `rediss://` with the same for
    /// TLS (feature `tls`), or `unix:///path[?db=…&user=…&pass=…]` for a socket; `valkey://`,
    /// `valkeys://`, `redis+unix://` and `valkey+unix://` mean the same. Characters that a URL does
    /// not take are written as `%40`. Nothing is connected before the first use, and a Redis that
    /// is down fails no request: sessions are then validated without it.
    ///
    /// # Errors
    ///
    /// A URL that is not understood, that asks for TLS without the feature, or for TLS that
    /// verifies nothing (`#insecure`), with which anybody could answer as Redis and make anybody a
    /// user. The error does not show it.
    pub fn redis(mut self, url: impl Into<String>) -> Result<Self, ConfigError> {
        let url = url.into();
        redis::server(&url, 0)?;
        self.redis = Some(RedisUrl(url));
        Ok(self)
    }

    /// Keeps the sessions in a Redis Cluster, in place of a single server; takes neither
    /// [`redis`](Self::redis) nor [`redis_sentinel`](Self::redis_sentinel) beside it.
    ///
    /// The URLs are those of [`redis`](Self::redis), with a host, of some of its nodes, primaries
    /// or replicas: those that answer tell the others. All nodes need the same user and password,
    /// and all take TLS or none does. A cluster has one database, so no URL names another than 0,
    /// and [`redis_db`](Self::redis_db) is not used.
    ///
    /// Nothing is connected before the first use. A node that is down costs the sessions whose
    /// keys it holds their place in the cache until a replica has taken over; no request fails.
    /// What holds on a cluster and what does not is told in [`docs::cluster`](crate::docs::cluster).
    ///
    /// ```
    /// use tower_session_cache::SessionCache;
    ///
    /// let nodes = ["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"];
    /// let cache = SessionCache::builder().redis_cluster(nodes)?.build()?;
    /// # let _ = cache;
    /// # Ok::<(), tower_session_cache::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as for [`redis`](Self::redis), no URL at all, and one that names a database, or
    /// that differs from the first in user, password or TLS.
    pub fn redis_cluster<U: Into<String>>(
        mut self,
        urls: impl IntoIterator<Item = U>,
    ) -> Result<Self, ConfigError> {
        let urls: Vec<_> = urls.into_iter().map(|url| RedisUrl(url.into())).collect();
        nodes(&urls)?;
        self.cluster = Some(urls);
        Ok(self)
    }

    /// Keeps the sessions in the Redis that these sentinels name as the primary of that name, and
    /// follows it through failovers. The URLs are those of [`redis`](Self::redis), with the
    /// sentinels' own users and passwords; their port is 26379 unless given. Name all of them.
    ///
    /// The primary is connected without user, password and TLS. If it takes any of these, set
    /// [`redis`](Self::redis), too: all but host and port comes from that URL.
    ///
    /// # Errors
    ///
    /// The same as for [`redis`](Self::redis), and no URL at all.
    pub fn redis_sentinel<U: Into<String>>(
        mut self,
        urls: impl IntoIterator<Item = U>,
        primary: impl Into<String>,
    ) -> Result<Self, ConfigError> {
        let urls: Vec<_> = urls.into_iter().map(|url| RedisUrl(url.into())).collect();
        for RedisUrl(url) in &urls {
            redis::sentinel(url)?;
        }
        if urls.is_empty() {
            return Err(ConfigError(
                "there is no sentinel to ask; name each by a URL like redis://host:26379 (they \
                 usually come from REDIS_SENTINEL_URLS)",
            ));
        }
        self.sentinels = Some((urls, primary.into()));
        Ok(self)
    }

    /// After each revocation waits until so many replicas have it, at most for so long, and tells
    /// by [`Revocation::replicas`](super::Revocation::replicas) how many do. Defaults to not
    /// waiting. Both must be more than 0, and the wait not longer than a minute.
    ///
    /// A revocation that too few have is no error: it holds, and only a failover may lose it. What
    /// waits is the caller alone; requests do not, and the revocation holds in the meantime. With
    /// [`redis_deadline`](Self::redis_deadline) the call takes that much longer at most. It is
    /// refused beside a Redis Cluster, which cannot be waited for.
    pub fn wait_for_replicas(mut self, replicas: u32, at_most: Duration) -> Self {
        self.replicas = Some(Wanted {
            replicas,
            patience: at_most,
        });
        self
    }

    /// The CAs that are trusted on TLS connections, and a certificate of our own. Defaults to the
    /// CAs of the system, and none. It takes a `rediss://` URL; nothing falls back to plain text.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn redis_tls(mut self, tls: super::RedisTls) -> Self {
        self.redis_tls = Some(tls);
        self
    }

    /// The number of the Redis database, used when the URL names none. Defaults to 2, which is
    /// the existing service's.
    pub fn redis_db(mut self, number: u16) -> Self {
        self.redis_db = number;
        self
    }

    /// How long a lookup, a fill or a revocation may wait for Redis in all. Defaults to 250
    /// milliseconds; must not be 0.
    ///
    /// A lookup that takes longer makes the request a miss, and a revocation is then
    /// [queued](super::RevokeErrorKind::Queued).
    pub fn redis_deadline(mut self, deadline: Duration) -> Self {
        self.redis_deadline = deadline;
        self
    }

    /// How much of [`redis_deadline`](Self::redis_deadline) may pass until there is a connection
    /// to use, which matters only while none is up. Defaults to all of it; must be neither 0 nor
    /// longer.
    pub fn redis_checkout_deadline(mut self, deadline: Duration) -> Self {
        self.redis_checkout_deadline = Some(deadline);
        self
    }

    /// How long it may take to make a connection to Redis: TCP, TLS, authentication and loading
    /// the scripts. Defaults to a second; must not be 0. Connections are made in the background,
    /// so it may well exceed what a request waits.
    pub fn redis_connect_deadline(mut self, deadline: Duration) -> Self {
        self.redis_connect_deadline = deadline;
        self
    }

    /// How long a request may wait here in all, whatever happens; then it is answered with 503.
    /// Defaults to the longest orderly way: a lookup, and twice a validation and a fill (when a
    /// revocation comes between, the identity provider is asked once more). With the other
    /// defaults that is 10.75 seconds.
    ///
    /// Less is refused: to keep within a budget of your own, lower
    /// [`validation_timeout`](Self::validation_timeout) as well.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
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
        self.refresh_ahead = percent;
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
        self.local_cache = Some(local);
        self
    }

    /// For how long after its time in the cache a session may be served when the identity provider
    /// cannot be asked. Defaults to 0, which is not at all.
    ///
    /// Such an answer is marked ([`SessionInfo::is_stale`](crate::SessionInfo::is_stale)). It
    /// is given only if the session itself has not ended, and if a look into Redis, made after the
    /// provider failed, shows that neither the token nor the user was revoked. It comes from the
    /// memory of this process, so that with Redis it takes a [`local_cache`](Self::local_cache).
    ///
    /// Unsafe while the Python service logs users out by itself: its plain `DEL` looks like the
    /// end of the session's cache time.
    pub fn stale_if_error(mut self, stale: Duration) -> Self {
        self.stale_if_error = stale;
        self
    }

    /// Puts a text before every key in Redis, so that several projects can share one. Defaults to
    /// none, which the Python service expects.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
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

    /// How long a validated session is served without asking again, and never beyond its own
    /// expiry. Defaults to 5 minutes; must be at least a second.
    ///
    /// Each session gets up to a tenth less, so that those cached together do not end together.
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
    pub fn max_session_lifetime(mut self, longest: Duration) -> Self {
        self.max_session_lifetime = longest;
        self
    }

    /// How long one call of the validator may take, waiting for its turn included. Defaults to
    /// 5 seconds; must not be 0.
    pub fn validation_timeout(mut self, timeout: Duration) -> Self {
        self.validation_timeout = timeout;
        self
    }

    /// How many validations may run at once. Defaults to 256; must not be 0.
    pub fn max_concurrent_validations(mut self, validations: usize) -> Self {
        self.max_concurrent_validations = validations;
        self
    }

    /// Replaces the clock that decides about expiry.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn clock(mut self, clock: crate::time::ManualClock) -> Self {
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
        if self.validation_timeout.is_zero() {
            return Err(ConfigError(
                "the validation timeout must be longer than zero, for example 5 seconds",
            ));
        }
        if self.oldest_record() > TOMBSTONE_TTL {
            return Err(ConfigError(
                "ttl_seconds, the validation timeout and 5 seconds of slack must not exceed one \
                 hour together, since a revocation is remembered that long; set ttl_seconds to \
                 3590 or less",
            ));
        }
        if self.oldest_record().saturating_add(self.stale_if_error) > TOMBSTONE_TTL
            || self.max_session_lifetime < self.ttl + SLACK + self.stale_if_error
        {
            return Err(ConfigError(
                "what is served stale must not outlive the memory of its revocation: ttl_seconds, \
                 stale_if_error, the validation timeout and 5 seconds of slack must not exceed \
                 one hour together, nor the first two duration_remember_me; set stale_if_error to \
                 30 minutes or less",
            ));
        }
        if !self.stale_if_error.is_zero() && self.has_redis() && self.local_cache.is_none() {
            return Err(ConfigError(
                "what is served stale comes from the memory of this process; beside Redis set \
                 local_cache, too",
            ));
        }
        let local = self.local_cache.filter(|_| self.has_redis());
        let entries = match local {
            None => capacity,
            Some(local) => NonZeroUsize::new(local.capacity)
                .filter(|capacity| capacity.get() <= u32::MAX as usize)
                .ok_or(ConfigError(
                    "the local cache's capacity must be between 1 and 4294967295; to have none, \
                     leave out local_cache",
                ))?,
        };
        if local.is_some_and(|local| !(MIN_LEASE..=MAX_LEASE).contains(&local.lease)) {
            return Err(ConfigError(
                "the lease of the local cache must be between 100 milliseconds and one minute, for \
                 example one second",
            ));
        }
        if local.is_some_and(|local| local.max_age.is_zero()) {
            return Err(ConfigError(
                "the longest age in the local cache must be more than zero; to have no local \
                 cache, leave out local_cache",
            ));
        }
        if self.max_session_lifetime < self.ttl.saturating_add(SLACK) {
            return Err(ConfigError(
                "duration_remember_me is in seconds and must not be shorter than ttl_seconds + 5; \
                 set it to the longest session of the identity provider, for example 2592000",
            ));
        }
        if self.max_session_lifetime > Duration::from_secs(10 * 366 * 24 * 3600) {
            return Err(ConfigError(
                "duration_remember_me is in seconds and must not exceed ten years; 30 days are \
                 2592000",
            ));
        }
        if !(1..=tokio::sync::Semaphore::MAX_PERMITS).contains(&self.max_concurrent_validations) {
            return Err(ConfigError(
                "max_concurrent_validations must be at least 1, for example 256",
            ));
        }
        if self.effective_negative_ttl() > self.ttl {
            return Err(ConfigError(
                "the negative TTL must not exceed ttl_seconds, for example 5 seconds; 0 turns it \
                 off",
            ));
        }
        if self.redis_deadline.is_zero() {
            return Err(ConfigError(
                "the Redis deadline must be longer than zero, for example 250 milliseconds",
            ));
        }
        if self.redis_connect_deadline.is_zero() {
            return Err(ConfigError(
                "the deadline for connecting to Redis must be longer than zero, for example 1 \
                 second",
            ));
        }
        let checkout = self.redis_checkout_deadline.unwrap_or(self.redis_deadline);
        if checkout.is_zero() || checkout > self.redis_deadline {
            return Err(ConfigError(
                "the deadline for a connection to Redis is a part of the Redis deadline; set \
                 redis_checkout_deadline to as much or less, but not to 0",
            ));
        }
        if self.replicas.is_some_and(|wanted| {
            wanted.replicas == 0 || wanted.patience.is_zero() || wanted.patience > LONGEST_WAIT
        }) {
            return Err(ConfigError(
                "wait_for_replicas takes at least one replica, and more than zero but not more \
                 than a minute, for example 1 and 100 milliseconds; to wait for none, leave it out",
            ));
        }
        if !(1..=100).contains(&self.refresh_ahead) {
            return Err(ConfigError(
                "refresh_ahead is a percentage of the time in the cache, from 1 to 100; 80 is \
                 usual, and 100 turns it off",
            ));
        }
        if self
            .request_timeout
            .is_some_and(|budget| budget < self.longest_way())
        {
            return Err(ConfigError(
                "request_timeout has no room for a lookup and twice a validation and a fill; set \
                 it to three times redis_deadline and twice validation_timeout, or lower these",
            ));
        }
        let without = |current: &Option<SecretKey>, previous: &Option<SecretKey>| {
            current.is_none() && previous.is_some()
        };
        if without(&self.pepper, &self.previous_pepper)
            || without(&self.sealing_key, &self.previous_sealing_key)
        {
            return Err(ConfigError(
                "a previous pepper or sealing key needs a current one beside it; set pepper or \
                 sealing_key, too",
            ));
        }
        let limits = Limits {
            deadlines: Deadlines {
                connect: self.redis_connect_deadline,
                checkout,
                call: self.redis_deadline,
            },
            ttl: self.ttl,
            lifetimes: self.lifetimes(),
            validation_timeout: self.validation_timeout,
            max_session_lifetime: self.max_session_lifetime,
            tombstone_ttl: TOMBSTONE_TTL,
            capacity: self.capacity,
        };
        let tier = local.map(|local| Tier {
            lease: Arc::new(Lease::new(micros(local.lease), self.clock.clone())),
            hears_records: local.hears_records,
        });
        let lease = tier.as_ref().map(|tier| Arc::clone(&tier.lease));
        let redis = self.place()?.map(|place| {
            let clock = self.clock.clone();
            let sealing = self
                .sealing_key
                .as_ref()
                .map(|key| Sealing::new(key, self.previous_sealing_key.as_ref()));
            let prefix = self.key_prefix.clone();
            Redis::new(place, prefix, sealing, clock, limits, tier)
        });
        let local = self.local(entries, capacity, lease);
        Ok(self.finish(local, redis))
    }

    fn has_redis(&self) -> bool {
        self.redis.is_some() || self.sentinels.is_some() || self.cluster.is_some()
    }

    fn place(&self) -> Result<Option<Place>, ConfigError> {
        if let Some(urls) = &self.cluster {
            if self.redis.is_some() || self.sentinels.is_some() {
                return Err(CLUSTER_ALONE);
            }
            if self.replicas.is_some() {
                return Err(CLUSTER_REPLICAS);
            }
            return Ok(Some(Place::Cluster(self.encrypted(nodes(urls)?)?)));
        }
        let server = self.server()?;
        Ok(server.map(|server| Place::Server(server, self.replicas)))
    }

    fn server(&self) -> Result<Option<Server>, ConfigError> {
        let named = self
            .redis
            .as_ref()
            .map(|RedisUrl(url)| redis::server(url, self.redis_db))
            .transpose()?;
        let Some((urls, primary)) = &self.sentinels else {
            let Some(server) = named else { return Ok(None) };
            let [server] = self.encrypted([server])?;
            return Ok(Some(Server::Named(Box::new(server))));
        };
        let how = named.map_or_else(|| redis::server("redis://primary", self.redis_db), Ok)?;
        let sentinels = urls.iter().map(|RedisUrl(url)| redis::sentinel(url));
        let servers = sentinels.chain([Ok(how)]).collect::<Result<Vec<_>, _>>()?;
        let mut sentinels = self.encrypted(servers)?;
        // It was the last.
        Ok(sentinels.pop().map(|how| {
            let deadline = self.redis_connect_deadline;
            let sentinels = Sentinels::new(sentinels, primary.clone(), how, deadline);
            Server::Elected(Arc::new(sentinels))
        }))
    }

    /// The same servers, with the certificates that are to be used there.
    #[cfg(feature = "tls")]
    fn encrypted<S: AsMut<[ConnectionInfo]>>(&self, mut servers: S) -> Result<S, ConfigError> {
        crate::crypto::install_tls_provider();
        let Some(tls) = &self.redis_tls else {
            return Ok(servers);
        };
        if !servers.as_mut().iter().any(redis::has_tls) {
            return Err(ConfigError(
                "redis_tls is set, and the Redis URL asks for no TLS; write it with rediss://, and \
                 with the port of Redis's tls-port",
            ));
        }
        for server in servers.as_mut() {
            *server = tls.around(server)?;
        }
        Ok(servers)
    }

    #[cfg(not(feature = "tls"))]
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as with the feature"
    )]
    fn encrypted<S>(&self, servers: S) -> Result<S, ConfigError> {
        Ok(servers)
    }

    fn local(
        &self,
        sessions: NonZeroUsize,
        verdicts: NonZeroUsize,
        lease: Option<Arc<Lease>>,
    ) -> Local {
        let max_age = self
            .local_cache
            .map_or(Duration::MAX, |local| local.max_age);
        let times = Times {
            max_age: micros(max_age),
            stale: micros(self.stale_if_error),
            verdict_ttl: micros(self.max_session_lifetime),
            negative_ttl: micros(self.effective_negative_ttl()),
        };
        let clock = self.clock.clone();
        Local::new(sessions, verdicts, lease, clock, self.lifetimes(), times)
    }

    fn finish(self, local: Local, redis: Option<Redis>) -> SessionCache {
        let gives_up_after = micros(self.oldest_record());
        let verdict_ttl = micros(self.max_session_lifetime);
        let miss_timeout = self
            .request_timeout
            .unwrap_or_else(|| self.longest_way())
            .saturating_sub(self.redis_deadline);
        let naming = Naming::new(self.pepper.as_ref(), self.previous_pepper.as_ref());
        let store = Store {
            local,
            redis,
            naming,
            undelivered: Undelivered::default(),
            clock: self.clock,
            is_enabled: self.enabled,
            gives_up_after,
            verdict_ttl,
            metrics: CacheMetrics::default(),
        };
        let validations = Validations::new(
            self.max_concurrent_validations,
            self.validation_timeout,
            miss_timeout,
        );
        SessionCache::new(store, validations)
    }

    fn effective_negative_ttl(&self) -> Duration {
        self.negative_ttl
            .unwrap_or_else(|| NEGATIVE_TTL.min(self.ttl))
    }

    fn lifetimes(&self) -> Lifetimes {
        Lifetimes::new(micros(self.ttl), self.refresh_ahead)
    }

    /// What a request waits for when nothing but a revocation comes between.
    fn longest_way(&self) -> Duration {
        let validation_and_fill = self.validation_timeout.saturating_add(self.redis_deadline);
        self.redis_deadline
            .saturating_add(validation_and_fill.saturating_mul(2))
    }

    /// How old a record may be that is still usable.
    fn oldest_record(&self) -> Duration {
        self.ttl
            .saturating_add(self.validation_timeout)
            .saturating_add(SLACK)
    }
}

const REDIS_URL: ConfigError = ConfigError(
    "the Redis URL is not understood; write it like redis://host:6379/2, with user and password as \
     redis://user:password@host:6379/2 (it usually comes from REDIS_URL)",
);

impl From<UrlFault> for ConfigError {
    fn from(fault: UrlFault) -> Self {
        match fault {
            UrlFault::NotUnderstood => REDIS_URL,
            UrlFault::NoTls => Self(
                "the Redis URL asks for TLS, which is not built in; turn on the feature `tls` of \
                 tower-session-cache",
            ),
            UrlFault::Insecure => Self(
                "the Redis URL asks for TLS that verifies nothing, so that anybody could answer as \
                 Redis; leave out what follows the #, and hand the server's CA to redis_tls",
            ),
        }
    }
}

#[cfg(feature = "tls")]
impl From<redis::TlsFault> for ConfigError {
    fn from(fault: redis::TlsFault) -> Self {
        match fault {
            redis::TlsFault::Roots => Self(
                "the root certificates for Redis are not understood; hand RedisTls the CA as PEM, \
                 which begins with -----BEGIN CERTIFICATE-----",
            ),
            redis::TlsFault::Client => Self(
                "the client certificate for Redis or its key are not understood, or do not belong \
                 together; hand RedisTls both as PEM, the certificate first",
            ),
        }
    }
}
const CLUSTER_URLS: ConfigError = ConfigError(
    "the URLs of the Redis cluster are not understood; name at least one node, each like \
     redis://host:6379, with user and password as redis://user:password@host:6379 (they usually \
     come from REDIS_CLUSTER_URLS)",
);

const CLUSTER_DATABASE: ConfigError = ConfigError(
    "a URL of the Redis cluster names a database, and a cluster has only number 0; leave out what \
     follows the port, and tell projects that share the cluster apart by key_prefix",
);

const CLUSTER_USERS: ConfigError = ConfigError(
    "the URLs of the Redis cluster differ in user, password or TLS; give all nodes the same, since \
     those that are found by them are asked as the first",
);

const CLUSTER_ALONE: ConfigError = ConfigError(
    "redis_cluster is set, and redis or redis_sentinel as well; leave out all but one of the three \
     (they usually come from REDIS_CLUSTER_URLS, REDIS_URL and REDIS_SENTINEL_URLS)",
);

const CLUSTER_REPLICAS: ConfigError = ConfigError(
    "wait_for_replicas is set, and a Redis cluster cannot be waited for; leave it out: what a \
     failover loses there is told in docs::cluster",
);

/// Reads the URLs of some nodes of a cluster.
fn nodes(urls: &[RedisUrl]) -> Result<Vec<ConnectionInfo>, ConfigError> {
    let nodes = urls.iter().map(|RedisUrl(url)| redis::node(url));
    let nodes = nodes
        .collect::<Result<Vec<_>, _>>()
        .map_err(|fault| match fault {
            NodeFault::Url(UrlFault::NotUnderstood) => CLUSTER_URLS,
            NodeFault::Url(fault) => fault.into(),
            NodeFault::NamesDatabase => CLUSTER_DATABASE,
        })?;
    let how = |node: &ConnectionInfo| {
        let settings = node.redis_settings();
        let user = settings.username().map(str::to_owned);
        let password = settings.password().map(str::to_owned);
        (user, password, mem::discriminant(node.addr()))
    };
    let first = how(nodes.first().ok_or(CLUSTER_URLS)?);
    if nodes.iter().any(|node| how(node) != first) {
        return Err(CLUSTER_USERS);
    }
    Ok(nodes)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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
