//! This crate in three setups: in the process, with a local cache in front of Redis, and with Redis
//! alone.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use axum::{Extension, Router, routing::get};
use tower_session_cache::{
    CachedSession, Fill, LocalCacheConfig, Lookup, Origin, RedisConfig, SessionCache, SessionCacheBuilder,
    SessionCacheLayer, SessionToken, UserData, ValidatedSession, ValidationError, validator_fn,
};

use super::{Served, bearers, token, user};

pub async fn local() -> Result<Served, Box<dyn Error>> {
    serve(builder(), Origin::Local).await
}

pub async fn tier(redis: &str) -> Result<Served, Box<dyn Error>> {
    let local = LocalCacheConfig::new(100_000);
    let builder = builder()
        .redis(config(redis).key_prefix("tier:"))?
        .local_cache(local);
    serve(builder, Origin::Local).await
}

pub async fn redis(redis: &str) -> Result<Served, Box<dyn Error>> {
    serve(builder().redis(config(redis))?, Origin::Redis).await
}

/// Returns a builder with a TTL longer than a run, so that no session is validated.
fn builder() -> SessionCacheBuilder {
    SessionCache::builder().ttl(Duration::from_secs(3_000))
}

/// Returns a configuration with a long timeout. A round may saturate Redis, and the cache must not
/// skip Redis for that reason.
fn config(redis: &str) -> RedisConfig {
    RedisConfig::single(redis).timeout(Duration::from_secs(2))
}

async fn serve(builder: SessionCacheBuilder, origin: Origin) -> Result<Served, Box<dyn Error>> {
    // The namespace of the layer's validator, so that the layer finds what is stored here.
    let cache = builder.build()?.with_namespace("peers");
    let mut headers = Vec::new();
    for (n, header) in bearers().enumerate() {
        let user = user(n);
        let id = user.id().to_owned();
        let token = SessionToken::parse(token(n))?;
        let Lookup::Miss(ticket) = cache.get(&token).await else {
            return Err("stored before anything was".into());
        };
        let session = ValidatedSession::new(user);
        if !matches!(cache.set(ticket, &session).await, Fill::Stored) {
            return Err("a session cannot be stored".into());
        }
        served_by(&cache, &token, origin).await?;
        headers.push((header, id));
    }
    let nobody = |_| async { Err(ValidationError::unavailable("nobody is to be asked")) };
    let layer = SessionCacheLayer::new(cache, validator_fn("peers", nobody));
    let handler = async |Extension(user): Extension<UserData>| user.id().to_owned();
    Ok(Served {
        app: Router::new().route("/", get(handler)).layer(layer),
        headers,
    })
}

/// Waits until the session is served from `wanted`. A local cache in front of Redis must connect
/// first.
async fn served_by(
    cache: &SessionCache,
    token: &SessionToken,
    wanted: Origin,
) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        match cache.get(token).await {
            Lookup::Hit(CachedSession { origin, .. }) if origin == wanted => return Ok(()),
            Lookup::Hit(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => return Err("a session that was just stored is missing".into()),
        }
    }
    Err(format!("no session is served by {}", wanted.as_str()).into())
}
