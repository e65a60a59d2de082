//! Benchmark of lookups in Redis. The upper bound is plain `GET`s of the same records on one
//! multiplexed connection, by the same number of callers, in alternating rounds of one run.
//!
//! `cargo bench --bench redis_lookup`

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "made for tests, of which this takes a part"
)]

#[path = "../tests/support/process.rs"]
mod process;
#[path = "../tests/support/redis.rs"]
mod redis;
mod support;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bb8_redis::redis::{AsyncConnectionConfig, Client, cmd};
use tower_session_cache::{
    Lookup, RedisConfig, SecretKey, SessionCache, SessionCacheBuilder, SessionToken,
};

use self::support::{
    rounds::{Spread, verdict},
    service::{fill, token},
};

const CALLERS: usize = 64;
const TOKENS: usize = 1_000;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(1_500);
/// Target, as a ratio to the rate of the raw `GET`s.
const LIMIT: f64 = 0.8;

/// Returns the calls per second of all callers together.
async fn rate<F, Fut>(call: F) -> f64
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (call, stop) = (Arc::new(call), Arc::new(AtomicBool::new(false)));
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (call, stop) = (Arc::clone(&call), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(Relaxed) {
                    call((caller * 7_919 + calls) % TOKENS).await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    tokio::time::sleep(ROUND).await;
    stop.store(true, Relaxed);
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    calls as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(run()).await.unwrap() });
}

/// A cache that holds all tokens.
async fn filled(builder: SessionCacheBuilder) -> SessionCache {
    let cache = builder.build().unwrap();
    fill(&cache, TOKENS).await;
    cache
}

async fn hits(cache: &SessionCache, tokens: &Arc<Vec<SessionToken>>) -> f64 {
    let (cache, tokens) = (cache.clone(), Arc::clone(tokens));
    rate(move |n| {
        let (tokens, cache) = (Arc::clone(&tokens), cache.clone());
        async move {
            assert!(matches!(cache.get(&tokens[n]).await, Lookup::Hit(_)));
        }
    })
    .await
}

async fn run() {
    let server = redis::Redis::start();
    let tokens: Vec<_> = (0..TOKENS)
        .map(|n| SessionToken::parse(token(n)).unwrap())
        .collect();
    let tokens = Arc::new(tokens);
    let config = || RedisConfig::single(server.url()).timeout(Duration::from_secs(5));
    let builder = || SessionCache::builder().redis(config()).unwrap();
    let plain = filled(builder()).await;
    let keys = Arc::new(server.keys());
    assert_eq!(keys.len(), TOKENS);
    let secret = SecretKey::from_bytes([7; 32]).unwrap();
    let peppered = filled(builder().pepper(secret.clone())).await;
    let sealed = SessionCache::builder().redis(config().key_prefix("sealed:"));
    let sealed = sealed.unwrap().sealing_key(secret);
    let sealed = filled(sealed).await;
    let raw = Client::open(server.url())
        .unwrap()
        .get_multiplexed_async_connection_with_config(
            &AsyncConnectionConfig::new().set_response_timeout(None),
        )
        .await
        .unwrap();

    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let (keys, raw) = (Arc::clone(&keys), raw.clone());
        rates[0].push(
            rate(move |n| {
                let (keys, mut raw) = (Arc::clone(&keys), raw.clone());
                async move {
                    let get = cmd("GET").arg(&keys[n]).to_owned();
                    let record: Vec<u8> = get.query_async(&mut raw).await.unwrap();
                    assert!(!record.is_empty());
                }
            })
            .await,
        );
        rates[1].push(hits(&plain, &tokens).await);
        rates[2].push(hits(&peppered, &tokens).await);
        rates[3].push(hits(&sealed, &tokens).await);
    }
    let names = [
        "raw GET on one multiplexed connection",
        "SessionCache::get, a hit in Redis",
        "the same with a pepper",
        "the same with a sealing key",
    ];
    for (name, rounds) in names.iter().zip(&rates) {
        let Spread {
            least,
            middle,
            most,
        } = Spread::of(rounds.clone());
        println!("{name:<40}{middle:>9.0} per second ({least:.0} to {most:.0})");
    }
    for (name, rounds) in names.iter().zip(&rates).skip(1) {
        verdict(name, Spread::of_ratios(rounds, &rates[0]), LIMIT, true);
    }
}
