//! Program that performs one hit after another and nothing else, so that an instruction counter
//! counts little besides the hits.
//!
//! `session-cache-instructions local|redis|get COUNT [URL]`: `local` is an in-process hit and
//! `redis` is a hit in the Redis at `URL`, each through the layer; `get` is a plain `GET` by
//! redis-rs. The cost of one operation is the difference between the instruction counts of two
//! runs, divided by the difference between their `COUNT`s.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use bb8_redis::redis::{AsyncConnectionConfig, Client, cmd};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use tower_layer::Layer;
use tower_service::Service;
use tower_session_cache::{
    RedisConfig, SessionCache, SessionCacheLayer, UserData, ValidatedSession, validator_fn,
};

/// Service that responds immediately.
#[derive(Clone)]
struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(request.extensions().get::<UserData>().is_some());
        ready(Ok(Response::new(())))
    }
}

/// Header with a token of 64 bytes, a common length of session tokens.
const BEARER: &str = "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

async fn through_the_layer(cache: SessionCache, count: u64) {
    let validator = validator_fn("instructions", |_token| async {
        let user = UserData::builder("user-1")
            .email("ada@example.com")
            .name("Ada");
        Ok(ValidatedSession::new(user.build()))
    });
    let mut service = SessionCacheLayer::new(cache.clone(), validator).layer(Inner);
    for _ in 0..count {
        let mut request = Request::new(());
        request
            .headers_mut()
            .insert(AUTHORIZATION, HeaderValue::from_static(BEARER));
        let response = service.call(request).await;
        assert!(response.is_ok_and(|response| response.status().is_success()));
    }
    assert_eq!(cache.stats().validations, 1);
}

async fn bare(url: &str, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let record = "x".repeat(400);
    cmd("SET")
        .arg("instructions")
        .arg(record)
        .exec_async(&mut connection)
        .await?;
    for _ in 0..count {
        let record: Vec<u8> = cmd("GET")
            .arg("instructions")
            .query_async(&mut connection)
            .await?;
        assert!(!record.is_empty());
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["local", count] => {
            through_the_layer(SessionCache::builder().build()?, count.parse()?).await
        }
        ["redis", count, url] => {
            let timeout = std::time::Duration::from_secs(60);
            let cache = SessionCache::builder()
                .redis(RedisConfig::single(url).timeout(timeout))?
                .build()?;
            through_the_layer(cache, count.parse()?).await;
        }
        ["get", count, url] => bare(url, count.parse()?).await?,
        _ => return Err("session-cache-instructions local|redis|get COUNT [URL]".into()),
    }
    Ok(())
}
