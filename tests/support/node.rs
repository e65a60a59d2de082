//! Node of a service that validates tokens by introspection at a real identity provider.

use std::time::Duration;

use http::StatusCode;
use tower_session_cache::{
    EventIssuer, IntrospectionValidator, IntrospectionValidatorBuilder, LocalCacheConfig, Origin,
    RedisConfig, SessionCache, SessionCacheLayer,
};

use super::{client::ask, pass, redis::Redis, soon};

/// Longer than a server takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A real issuer. Its keys are fetched, because a provider does not repeat a token that is not
/// answered in time.
pub async fn issuer_with_keys(url: impl Into<String>) -> EventIssuer {
    let issuer = EventIssuer::builder(url).timeout(PATIENCE).build().unwrap();
    soon("the keys of the issuer", async {
        while issuer.fetch_keys().await.is_err() {
            pass().await;
        }
    })
    .await;
    issuer
}

pub struct Node {
    pub cache: SessionCache,
    pub layer: SessionCacheLayer<IntrospectionValidator>,
    cached_in: Origin,
}

impl Node {
    /// A node with a local cache.
    pub fn new(redis: &Redis, validator: IntrospectionValidatorBuilder) -> Self {
        Self::with_lease(redis, validator, Some(Duration::from_secs(1)))
    }

    /// Without a lease, the node has no local cache.
    pub fn with_lease(
        redis: &Redis,
        validator: IntrospectionValidatorBuilder,
        lease: Option<Duration>,
    ) -> Self {
        let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
        let mut builder = SessionCache::builder().redis(redis).unwrap();
        let mut cached_in = Origin::Redis;
        if let Some(lease) = lease {
            builder = builder.local_cache(LocalCacheConfig::new(100).lease(lease));
            cached_in = Origin::Local;
        }
        let cache = builder.validation_timeout(2 * PATIENCE).build().unwrap();
        let validator = validator.timeout(PATIENCE).build().unwrap();
        Self {
            layer: SessionCacheLayer::new(cache.clone(), validator),
            cache,
            cached_in,
        }
    }

    /// Sends requests until one is served from memory, or from Redis if there is no local cache.
    pub async fn caches(&self, token: &str) {
        soon("a hit", async {
            while ask(&self.layer, token).await.unwrap().1 != self.cached_in {
                pass().await;
            }
        })
        .await;
    }

    pub async fn rejects(&self, token: &str) {
        soon("a rejection", async {
            while ask(&self.layer, token).await != Err(StatusCode::UNAUTHORIZED) {
                pass().await;
            }
        })
        .await;
    }
}
