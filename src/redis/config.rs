//! Settings of Redis: which servers, and how to reach them.
//!
//! The setters of [`RedisConfig`] never fail. [`RedisConfig::check`] is the one place that does. It
//! returns what was parsed from the URLs, and no URL.

use std::{
    error::Error as StdError, fmt, fs, future::Future, mem, path::PathBuf, str::FromStr, sync::Arc,
    time::Duration,
};

use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::{
    config_error::ConfigError,
    redis::endpoint::{
        AddressMap, CredentialsProvider, NodeFault, ProviderError, RedisCredentials, Server,
        ServerUrl, UrlFault,
    },
};
#[cfg(feature = "tls")]
use crate::{
    crypto::TlsFault,
    redis::endpoint::{RedisTls, has_tls},
};

/// Maximum of each timeout.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Maximum time that a revocation waits for replicas.
const MAX_REPLICA_WAIT: Duration = Duration::from_secs(60);

/// Configuration of the Redis that stores the sessions, and of the connections to it. Pass it to
/// [`SessionCacheBuilder::redis`](crate::SessionCacheBuilder::redis).
///
/// A URL alone needs no `RedisConfig`: `.redis("redis://127.0.0.1:6379/2")?` is the same as
/// `.redis(RedisConfig::single("redis://127.0.0.1:6379/2"))?`. No method here fails;
/// `SessionCacheBuilder::redis` checks all settings and returns the error. `Debug` shows addresses,
/// and no user or password.
///
/// ```
/// use std::time::Duration;
/// use tower_session_cache::{RedisConfig, SessionCache};
///
/// let sentinels = ["redis://s1", "redis://s2", "redis://s3"];
/// let redis = RedisConfig::sentinel(sentinels, "mymaster")
///     .credentials_from("redis://sessions:PASSWORD@_/2")
///     .timeout(Duration::from_millis(100))
///     .wait_for_replicas(2, Duration::from_millis(100));
/// let cache = SessionCache::builder().redis(redis)?.build()?;
/// # let _ = cache;
/// # Ok::<(), tower_session_cache::ConfigError>(())
/// ```
///
/// # URLs
///
/// A URL is `redis://[user:password@]host[:port][/database]`, `rediss://` with the same for TLS
/// (feature `tls`), or `unix:///path[?db=…&user=…&pass=…]` for a socket. `valkey://`, `valkeys://`,
/// `redis+unix://` and `valkey+unix://` mean the same. Characters that a URL does not allow are
/// percent-encoded, for example `%40` for `@`.
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is passed to `SessionCacheBuilder::redis`"]
pub struct RedisConfig {
    deployment: Result<Deployment, ConfigError>,
    credentials: Option<Result<ServerUrl, ConfigError>>,
    provider: Option<CredentialsProvider>,
    address_map: AddressMap,
    database: Option<u16>,
    #[cfg(feature = "tls")]
    tls: Option<RedisTls>,
    timeouts: RedisTimeouts,
    replicas: Option<ReplicaWait>,
    key_prefix: String,
}

/// The servers, as they were configured.
#[derive(Clone)]
pub(crate) enum Deployment {
    Single(ServerUrl),
    Sentinel {
        sentinels: Vec<Server>,
        /// The name of the primary at the sentinels.
        name: String,
        /// How to connect to the primary, at whatever address.
        primary: ServerUrl,
    },
    /// Some of the nodes, through which the others are found.
    Cluster(Vec<Server>),
}

/// The timeouts that were set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RedisTimeouts {
    pub(crate) call: Option<Duration>,
    pub(crate) connect: Option<Duration>,
    pub(crate) checkout: Option<Duration>,
}

/// How many replicas a revocation waits for, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplicaWait {
    pub(crate) replicas: u32,
    pub(crate) timeout: Duration,
}

/// Checked [`RedisConfig`].
#[derive(Clone, Debug)]
pub(crate) struct CheckedRedisConfig {
    pub(crate) deployment: Deployment,
    pub(crate) database: Option<u16>,
    pub(crate) timeouts: RedisTimeouts,
    pub(crate) replicas: Option<ReplicaWait>,
    pub(crate) key_prefix: String,
    pub(crate) credentials: Option<CredentialsProvider>,
    pub(crate) address_map: AddressMap,
}

impl RedisConfig {
    /// Creates a configuration for one server, given by its [URL](Self#urls).
    pub fn single(url: impl AsRef<str>) -> Self {
        Self::new(parse(url.as_ref()).map(Deployment::Single))
    }

    /// Creates a configuration for the server that these sentinels name as the primary called
    /// `name`. It is followed through failovers. Pass the URLs of all sentinels.
    ///
    /// Each [URL](Self#urls) has the sentinel's own user and password. Its port is 26379 unless
    /// given. The primary is connected to without user, password and TLS, unless
    /// [`credentials_from`](Self::credentials_from) is set.
    pub fn sentinel<U: AsRef<str>>(
        urls: impl IntoIterator<Item = U>,
        name: impl Into<String>,
    ) -> Self {
        let sentinels = urls
            .into_iter()
            .map(|url| parse(url.as_ref()).map(|url| url.sentinel()));
        let sentinels: Result<Vec<_>, _> = sentinels.collect();
        Self::new(sentinels.and_then(|sentinels| {
            if sentinels.is_empty() {
                return Err(NO_SENTINEL);
            }
            Ok(Deployment::Sentinel {
                sentinels,
                name: name.into(),
                primary: ServerUrl::plain()?,
            })
        }))
    }

    /// Creates a configuration for a Redis Cluster, given by the [URLs](Self#urls) of some of its
    /// nodes, primaries or replicas. The other nodes are discovered.
    ///
    /// All nodes must have the same user and password, and either all use TLS or none does. A
    /// cluster has only database 0, so no URL may name another. If a primary is down, the sessions
    /// whose keys it holds are not cached until a replica has taken over; no request fails.
    /// [`docs::cluster`](crate::docs::cluster) lists what a cluster guarantees and what it does
    /// not.
    ///
    /// ```
    /// use tower_session_cache::{RedisConfig, SessionCache};
    ///
    /// let nodes = RedisConfig::cluster(["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]);
    /// let cache = SessionCache::builder().redis(nodes)?.build()?;
    /// # let _ = cache;
    /// # Ok::<(), tower_session_cache::ConfigError>(())
    /// ```
    pub fn cluster<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> Self {
        let nodes = urls.into_iter().map(|url| node(url.as_ref()));
        let nodes: Result<Vec<_>, _> = nodes.collect();
        Self::new(nodes.and_then(|nodes| {
            let first = credentials(nodes.first().ok_or(CLUSTER_URLS)?);
            if nodes.iter().any(|node| credentials(node) != first) {
                return Err(CLUSTER_CREDENTIALS);
            }
            Ok(Deployment::Cluster(nodes))
        }))
    }

    fn new(deployment: Result<Deployment, ConfigError>) -> Self {
        Self {
            deployment,
            credentials: None,
            provider: None,
            address_map: AddressMap::default(),
            database: None,
            #[cfg(feature = "tls")]
            tls: None,
            timeouts: RedisTimeouts::default(),
            replicas: None,
            key_prefix: String::new(),
        }
    }

    /// Sets how to connect to the primary that the sentinels name: user, password, TLS and database
    /// are those of this [URL](Self#urls). Its host and port are not used. Defaults to none of
    /// them.
    ///
    /// Only for [`sentinel`](Self::sentinel). The URLs of other deployments contain these settings
    /// themselves.
    pub fn credentials_from(mut self, url: impl AsRef<str>) -> Self {
        self.credentials = Some(parse(url.as_ref()));
        self
    }

    /// Sets a provider of user and password, for credentials that change while the process runs,
    /// such as the tokens of a cloud's identity service. They replace those of the URLs on all
    /// connections to servers that hold keys: of lookups and revocations, of the listener, to the
    /// primary that sentinels name and to the nodes of a cluster. The sentinels themselves use their
    /// URLs. Defaults to none.
    ///
    /// The provider is called before a connection is made, unless credentials with a
    /// [lifetime](RedisCredentials::valid_for) are at hand, and before they expire. Connections that
    /// stand then send `AUTH` again. A call may take 10 seconds, and no longer than
    /// [`connect_timeout`](Self::connect_timeout) if a connection waits for it. If it fails, one
    /// line is logged, the previous credentials are used until they expire, and the call is
    /// repeated. The error is logged as it is, so it must not contain a password.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_session_cache::{RedisConfig, RedisCredentials};
    ///
    /// # async fn fetch_token() -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    /// #     Ok(String::new())
    /// # }
    /// let redis = RedisConfig::single("rediss://cache.example:6379").credentials_provider(|| async {
    ///     let token = fetch_token().await?;
    ///     Ok(RedisCredentials::new("sessions", token).valid_for(Duration::from_secs(15 * 60)))
    /// });
    /// # let _ = redis;
    /// ```
    pub fn credentials_provider<F, R>(mut self, provider: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<RedisCredentials, Box<dyn StdError + Send + Sync>>>
            + Send
            + 'static,
    {
        self.provider = Some(CredentialsProvider::new(provider));
        self
    }

    /// Sets a file with the password, such as a mounted secret. The user is that of the URL. The
    /// file is read before each connection and every 30 seconds, and connections that stand send
    /// `AUTH` again if it has changed. Line ends after the password are ignored. Defaults to none.
    ///
    /// This is a [`credentials_provider`](Self::credentials_provider); the later call of the two
    /// counts.
    pub fn password_file(self, path: impl Into<PathBuf>) -> Self {
        let path = Arc::new(path.into());
        self.credentials_provider(move || {
            let path = Arc::clone(&path);
            async move {
                let read = spawn_blocking(move || {
                    let text = fs::read_to_string(&*path);
                    text.map_err(|error| format!("{}: {error}", path.display()))
                });
                let text = Zeroizing::new(read.await?.map_err(ProviderError::from)?);
                Ok(RedisCredentials::password(
                    text.trim_end_matches(['\r', '\n']),
                ))
            }
        })
    }

    /// Sets how addresses that sentinels or cluster nodes announce map to those that this process
    /// can reach, for example through Docker, NAT or SSH tunnels. `map` receives the announced host
    /// and port, and returns the address to connect to, or `None` to use the announced one. With TLS
    /// the certificate must be for the returned host. Defaults to the announced addresses. Not for
    /// [`single`](Self::single), whose URL is the address.
    ///
    /// ```
    /// use tower_session_cache::RedisConfig;
    ///
    /// let redis = RedisConfig::cluster(["redis://127.0.0.1:7001"])
    ///     // The containers publish their ports on this host.
    ///     .address_map(|_, port| Some(("127.0.0.1".to_owned(), port)));
    /// # let _ = redis;
    /// ```
    pub fn address_map(
        mut self,
        map: impl Fn(&str, u16) -> Option<(String, u16)> + Send + Sync + 'static,
    ) -> Self {
        self.address_map = AddressMap::new(map);
        self
    }

    /// Sets the CAs that are trusted on TLS connections, and the client certificate. Defaults to
    /// the CAs of the system and no certificate. Requires a `rediss://` URL. No connection falls
    /// back to plain text.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, tls: RedisTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the number of the database that is used if the URL names none. Defaults to
    /// [`SessionCacheConfig::redis_db`](crate::SessionCacheConfig::redis_db) if a configuration file of
    /// the Python service was applied, which is 2 unless it says otherwise, and else to 0. A cluster
    /// has only database 0.
    pub fn database(mut self, number: u16) -> Self {
        self.database = Some(number);
        self
    }

    /// Sets the timeout of one operation: a lookup, a fill or a revocation, with all commands that
    /// it sends. Must be more than 0 and at most 1 hour. Defaults to 250 milliseconds, or more if
    /// [`checkout_timeout`](Self::checkout_timeout) is longer, or less if
    /// [`request_timeout`](crate::SessionCacheBuilder::request_timeout) leaves no room for it.
    ///
    /// If a lookup times out, the request counts as a miss. If a revocation times out, it is
    /// [queued](crate::RevokeErrorKind::Queued).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.call = Some(timeout);
        self
    }

    /// Sets the timeout for establishing a connection: TCP, TLS, authentication and loading the
    /// scripts. Must be more than 0 and at most 1 hour. Defaults to 1 second.
    ///
    /// Connections are made in the background, so this timeout may exceed the time that a request
    /// waits.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = Some(timeout);
        self
    }

    /// Sets how much of [`timeout`](Self::timeout) an operation may wait for a connection. This
    /// matters only while no connection is up. The wait also ends when an attempt to connect fails,
    /// so an operation does not wait for a server that refuses connections. Must be more than 0 and not longer than `timeout`.
    /// Defaults to all of it.
    pub fn checkout_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.checkout = Some(timeout);
        self
    }

    /// Makes each revocation wait up to `at_most` until `replicas` replicas have it, and return how
    /// many do in [`Revocation::replicas`](crate::Revocation::replicas). Both must be more than 0,
    /// and the wait at most 1 minute. Defaults to not waiting.
    ///
    /// If too few replicas have the revocation, that is no error: it holds, and only a failover may
    /// lose it. Only the caller waits. Requests do not, and the revocation holds in the meantime.
    /// The call may take [`timeout`](Self::timeout) and `at_most` together. Not available for a
    /// [`cluster`](Self::cluster).
    pub fn wait_for_replicas(mut self, replicas: u32, at_most: Duration) -> Self {
        self.replicas = Some(ReplicaWait {
            replicas,
            timeout: at_most,
        });
        self
    }

    /// Sets the prefix of every key in Redis, so that several projects can share one. Defaults to
    /// none, which the Python service expects.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    pub(crate) fn check(self) -> Result<CheckedRedisConfig, ConfigError> {
        let mut deployment = self.deployment?;
        if let Some(credentials) = self.credentials {
            let Deployment::Sentinel { primary, .. } = &mut deployment else {
                return Err(CREDENTIALS);
            };
            *primary = credentials?;
        }
        if matches!(deployment, Deployment::Cluster(_)) {
            if self.replicas.is_some() {
                return Err(CLUSTER_REPLICAS);
            }
            if self.database.is_some_and(|number| number != 0) {
                return Err(CLUSTER_DATABASE);
            }
        }
        if matches!(deployment, Deployment::Single(_)) && self.address_map.is_set() {
            return Err(ADDRESS_MAP);
        }
        #[cfg(feature = "tls")]
        deployment.encrypt(self.tls)?;
        self.timeouts.check()?;
        if self.replicas.is_some_and(|wait| {
            wait.replicas == 0 || wait.timeout.is_zero() || wait.timeout > MAX_REPLICA_WAIT
        }) {
            return Err(REPLICAS);
        }
        Ok(CheckedRedisConfig {
            deployment,
            database: self.database,
            timeouts: self.timeouts,
            replicas: self.replicas,
            key_prefix: self.key_prefix,
            credentials: self.provider,
            address_map: self.address_map,
        })
    }
}

impl RedisTimeouts {
    fn check(self) -> Result<(), ConfigError> {
        let is_wrong =
            |timeout: Option<Duration>| timeout.is_some_and(|it| it.is_zero() || it > MAX_TIMEOUT);
        if is_wrong(self.call) {
            return Err(TIMEOUT);
        }
        if is_wrong(self.connect) {
            return Err(CONNECT_TIMEOUT);
        }
        let checkout_max = self.call.unwrap_or(MAX_TIMEOUT);
        if is_wrong(self.checkout) || self.checkout.is_some_and(|it| it > checkout_max) {
            return Err(CHECKOUT_TIMEOUT);
        }
        Ok(())
    }
}

#[cfg(feature = "tls")]
impl Deployment {
    /// Sets the TLS configuration of all connections that use TLS. Without such a connection, no
    /// TLS code runs.
    fn encrypt(&mut self, tls: Option<RedisTls>) -> Result<(), ConfigError> {
        let servers: Vec<_> = match self {
            Self::Single(server) => vec![server.server_mut()],
            Self::Sentinel {
                sentinels, primary, ..
            } => sentinels.iter_mut().chain([primary.server_mut()]).collect(),
            Self::Cluster(nodes) => nodes.iter_mut().collect(),
        };
        let mut servers = servers
            .into_iter()
            .filter(|server| has_tls(server))
            .peekable();
        if servers.peek().is_none() {
            return if tls.is_some() {
                Err(NO_TLS_URL)
            } else {
                Ok(())
            };
        }
        let config = tls.unwrap_or_default().config()?;
        for server in servers {
            server.set_tls(config.clone());
        }
        Ok(())
    }
}

/// Shows addresses only.
impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = |servers: &[Server]| -> Vec<_> {
            servers
                .iter()
                .map(|server| server.addr().to_string())
                .collect()
        };
        match self {
            Self::Single(server) => f.debug_tuple("Single").field(server).finish(),
            Self::Sentinel {
                sentinels, name, ..
            } => f
                .debug_tuple("Sentinel")
                .field(&addresses(sentinels))
                .field(name)
                .finish(),
            Self::Cluster(nodes) => f.debug_tuple("Cluster").field(&addresses(nodes)).finish(),
        }
    }
}

/// Parses the [URL](RedisConfig#urls) of one server.
impl FromStr for RedisConfig {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        Ok(Self::new(Ok(Deployment::Single(parse(url)?))))
    }
}

/// Parses the [URL](RedisConfig#urls) of one server.
impl TryFrom<&str> for RedisConfig {
    type Error = ConfigError;

    fn try_from(url: &str) -> Result<Self, ConfigError> {
        url.parse()
    }
}

/// Parses the [URL](RedisConfig#urls) of one server.
impl TryFrom<String> for RedisConfig {
    type Error = ConfigError;

    fn try_from(url: String) -> Result<Self, ConfigError> {
        url.parse()
    }
}

/// Parses the [URL](RedisConfig#urls) of one server.
impl TryFrom<&String> for RedisConfig {
    type Error = ConfigError;

    fn try_from(url: &String) -> Result<Self, ConfigError> {
        url.parse()
    }
}

fn parse(url: &str) -> Result<ServerUrl, ConfigError> {
    Ok(ServerUrl::parse(url)?)
}

fn node(url: &str) -> Result<Server, ConfigError> {
    let node = ServerUrl::parse(url).map_err(NodeFault::Url);
    node.and_then(|url| url.node())
        .map_err(|fault| match fault {
            NodeFault::Url(UrlFault::NotUnderstood) => CLUSTER_URLS,
            NodeFault::Url(fault) => fault.into(),
            NodeFault::NamesDatabase => CLUSTER_DATABASE,
        })
}

/// Returns what must be the same for all nodes: user, password, and whether TLS is used.
fn credentials(
    node: &Server,
) -> (
    Option<&str>,
    Option<&str>,
    mem::Discriminant<bb8_redis::redis::ConnectionAddr>,
) {
    let settings = node.redis_settings();
    let kind = mem::discriminant(node.addr());
    (settings.username(), settings.password(), kind)
}

impl From<UrlFault> for ConfigError {
    fn from(fault: UrlFault) -> Self {
        match fault {
            UrlFault::NotUnderstood => REDIS_URL,
            UrlFault::NoTls => NO_TLS,
            UrlFault::Insecure => INSECURE,
        }
    }
}

#[cfg(feature = "tls")]
impl From<TlsFault> for ConfigError {
    fn from(fault: TlsFault) -> Self {
        match fault {
            TlsFault::Provider(_) => CRYPTO_PROVIDER,
            TlsFault::SystemRoots(_) => SYSTEM_CERTIFICATES,
            TlsFault::Roots => ROOT_CERTIFICATES,
            TlsFault::Client => CLIENT_CERTIFICATE,
        }
    }
}

const REDIS_URL: ConfigError = ConfigError::new(
    "invalid Redis URL; write it like redis://host:6379/2, with user and password as \
     redis://user:password@host:6379/2 (usually REDIS_URL)",
);

const NO_TLS: ConfigError = ConfigError::new(
    "the Redis URL requires TLS, which is not compiled in; enable the feature `tls` of \
     tower-session-cache",
);

const INSECURE: ConfigError = ConfigError::new(
    "the Redis URL must not disable the verification of certificates; remove #insecure, and pass \
     the server's CA to `RedisConfig::tls`",
);

const NO_SENTINEL: ConfigError = ConfigError::new(
    "`RedisConfig::sentinel` (usually REDIS_SENTINEL_URLS) must have at least one URL, for example \
     redis://host:26379",
);

const CREDENTIALS: ConfigError = ConfigError::new(
    "`credentials_from` requires `RedisConfig::sentinel`; for other deployments, write user, \
     password and database into the URL of the server",
);

const ADDRESS_MAP: ConfigError = ConfigError::new(
    "`address_map` requires `RedisConfig::cluster` or `RedisConfig::sentinel`, which announce \
     addresses; for one server, write the address into its URL",
);

const CLUSTER_URLS: ConfigError = ConfigError::new(
    "`RedisConfig::cluster` (usually REDIS_CLUSTER_URLS) must have at least one node, each as a \
     URL like redis://host:6379, or with user and password redis://user:password@host:6379",
);

const CLUSTER_DATABASE: ConfigError = ConfigError::new(
    "a Redis Cluster has only database 0; remove the database from the URLs and leave out \
     `database`, and separate projects that share the cluster by `key_prefix`",
);

const CLUSTER_CREDENTIALS: ConfigError = ConfigError::new(
    "`RedisConfig::cluster` must have URLs that do not differ in user, password or TLS, because \
     discovered nodes use those of the first; give all nodes the same",
);

const CLUSTER_REPLICAS: ConfigError = ConfigError::new(
    "`wait_for_replicas` is not available for `RedisConfig::cluster`; leave it out (docs::cluster \
     describes what a failover can lose)",
);

const REPLICAS: ConfigError = ConfigError::new(
    "`wait_for_replicas` must have at least one replica and a wait greater than zero and at most 1 \
     minute, for example 1 and 100 ms; leave it out to not wait",
);

const TIMEOUT: ConfigError = ConfigError::new(
    "`timeout` of `RedisConfig` must be greater than zero and at most 1 hour, for example 250 ms",
);

const CONNECT_TIMEOUT: ConfigError = ConfigError::new(
    "`connect_timeout` of `RedisConfig` must be greater than zero and at most 1 hour, for example \
     1 s",
);

const CHECKOUT_TIMEOUT: ConfigError = ConfigError::new(
    "`checkout_timeout` of `RedisConfig` must be greater than zero and must not exceed `timeout`; \
     reduce it, or leave it out to use all of `timeout`",
);

#[cfg(feature = "tls")]
const NO_TLS_URL: ConfigError = ConfigError::new(
    "`RedisConfig::tls` requires a URL with TLS; use rediss:// instead of redis://, and the port \
     of Redis's `tls-port`",
);

#[cfg(feature = "tls")]
const CRYPTO_PROVIDER: ConfigError = ConfigError::new(
    "`crypto_provider` of `RedisTls`, or the provider that is installed for the process, must \
     support TLS 1.2 or 1.3; pass another provider to `RedisTls::crypto_provider`",
);

#[cfg(feature = "tls")]
const SYSTEM_CERTIFICATES: ConfigError = ConfigError::new(
    "the CA certificates of the system could not be loaded, and a rediss:// URL requires them; \
     install them (usually the package ca-certificates), or pass the server's CA to \
     `RedisTls::root_certificates`",
);

#[cfg(feature = "tls")]
const ROOT_CERTIFICATES: ConfigError = ConfigError::new(
    "`root_certificates` of `RedisTls` must be valid certificates; pass the CA as PEM, which \
     begins with -----BEGIN CERTIFICATE-----",
);

#[cfg(feature = "tls")]
const CLIENT_CERTIFICATE: ConfigError = ConfigError::new(
    "`client_certificate` of `RedisTls` must be a valid certificate and key that belong together; \
     pass both as PEM, the certificate first",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn error(config: RedisConfig) -> String {
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn debug_shows_addresses_and_no_credentials() {
        for (config, address) in [
            (RedisConfig::single("redis://ada:s3cr3t@one:1/2"), "one:1"),
            (
                RedisConfig::sentinel(["redis://ada:s3cr3t@two"], "primary")
                    .credentials_from("redis://ada:s3cr3t@_/2"),
                "two:26379",
            ),
            (
                RedisConfig::cluster(["redis://ada:s3cr3t@three:3"]),
                "three:3",
            ),
            (RedisConfig::single("redis//ada:s3cr3t@four"), "Err"),
            (
                RedisConfig::single("unix:///run/redis?user=ada&pass=s3cr3t"),
                "/run/redis",
            ),
        ] {
            let before = format!("{config:?}");
            let checked = config.check().map(|it| format!("{it:?}"));
            let after = checked.unwrap_or_else(|error| error.to_string());
            assert!(before.contains(address), "{before}");
            for text in [before, after] {
                assert!(!text.contains("ada") && !text.contains("s3cr3t"), "{text}");
            }
        }
    }

    #[test]
    fn credentials_from_applies_only_to_a_sentinel_primary() {
        let url = "redis://ada:s3cr3t@_/5";
        let config = RedisConfig::sentinel(["redis://:own@one"], "primary").credentials_from(url);
        let Deployment::Sentinel {
            sentinels, primary, ..
        } = config.check().unwrap().deployment
        else {
            panic!("sentinels");
        };
        assert_eq!(sentinels[0].redis_settings().password(), Some("own"));
        let primary = primary.server(2);
        let settings = primary.redis_settings();
        assert_eq!(settings.username(), Some("ada"));
        assert_eq!((settings.password(), settings.db()), (Some("s3cr3t"), 5));
        for other in [
            RedisConfig::single("redis://one"),
            RedisConfig::cluster(["redis://one"]),
        ] {
            assert!(error(other.credentials_from(url)).contains("`credentials_from`"));
        }
        let config = RedisConfig::sentinel(["redis://one"], "primary");
        assert!(error(config.credentials_from("_")).contains("redis://host:6379/2"));
    }

    #[test]
    fn timeouts_out_of_range_are_rejected() {
        let millis = Duration::from_millis;
        let config = || RedisConfig::single("redis://one");
        for timeout in [Duration::ZERO, Duration::MAX, MAX_TIMEOUT + millis(1)] {
            assert!(error(config().timeout(timeout)).contains("`timeout`"));
            assert!(error(config().connect_timeout(timeout)).contains("`connect_timeout`"));
            assert!(error(config().checkout_timeout(timeout)).contains("`checkout_timeout`"));
        }
        let both = |checkout| config().timeout(millis(250)).checkout_timeout(checkout);
        assert!(error(both(millis(251))).contains("must not exceed `timeout`"));
        assert!(both(millis(250)).check().is_ok());
    }

    #[test]
    fn cluster_rejects_databases_and_replica_waits() {
        let config = || RedisConfig::cluster(["redis://one", "redis://two/0"]);
        assert!(config().database(0).check().is_ok());
        assert!(error(config().database(7)).contains("only database 0"));
        let waiting = config().wait_for_replicas(1, Duration::from_millis(100));
        assert!(error(waiting).contains("`wait_for_replicas`"));
    }
}
