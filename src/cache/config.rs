//! Section of a configuration file, as the Python service has it.

use serde::{Deserialize, Serialize};

/// Configuration section that the Python service reads as well, for any serde format.
///
/// An unknown key is an error that lists the known ones. Values are checked by
/// [`SessionCacheBuilder::build`](super::builder::SessionCacheBuilder::build).
///
/// ```
/// use tower_session_cache::{SessionCache, SessionCacheConfig};
///
/// let config: SessionCacheConfig = serde_json::from_str(r#"{ "ttl_seconds": 60 }"#)?;
/// let cache = SessionCache::builder().config(&config).build()?;
/// # let _ = cache;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionCacheConfig {
    /// Whether sessions are cached. Defaults to true.
    pub enabled: bool,
    /// How long a session is served without another validation, in seconds. Defaults to 300.
    pub ttl_seconds: u64,
    /// Number of the Redis database, used if the URL names none. Defaults to 2.
    pub redis_db: u16,
    /// Maximum lifetime of a session at the identity provider, in seconds. A revoked token is
    /// rejected for this long. Defaults to 2592000 (30 days).
    pub duration_remember_me: u64,
}

impl Default for SessionCacheConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            ttl_seconds: 300,
            redis_db: 2,
            duration_remember_me: 30 * 24 * 3600,
        }
    }
}
