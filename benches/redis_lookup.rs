//! Lookups in Redis against the limit: plain `GET`s of the same records on one multiplexed
//! connection, by the same number of callers, in alternating rounds of one run.
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

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bb8_redis::redis::{AsyncConnectionConfig, Client, cmd};
use tower_session_cache::{Lookup, SessionCache, SessionToken, UserData, ValidatedSession};

const CALLERS: usize = 64;
const TOKENS: usize = 1_000;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(1_500);

/// Calls in a second, by all callers together.
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(run()).await.unwrap() });
}

async fn run() {
    let server = redis::Redis::start();
    let cache = SessionCache::builder()
        .redis(server.url())
        .unwrap()
        .redis_deadline(Duration::from_secs(5))
        .build()
        .unwrap();
    let tokens: Vec<_> = (0..TOKENS)
        .map(|n| SessionToken::parse(format!("token-{n:058}")).unwrap())
        .collect();
    for (n, token) in tokens.iter().enumerate() {
        let Lookup::Miss(ticket) = cache.get(token).await else {
            panic!("stored already")
        };
        let user = UserData::builder(format!("user-{n}"))
            .email("ada@example.com")
            .name("Ada");
        let _ = cache
            .set(ticket, &ValidatedSession::new(user.build()))
            .await;
    }
    let keys = Arc::new(server.keys());
    assert_eq!(keys.len(), TOKENS);
    let client = Client::open(server.url()).unwrap();
    let raw = client
        .get_multiplexed_async_connection_with_config(
            &AsyncConnectionConfig::new().set_response_timeout(None),
        )
        .await
        .unwrap();
    let tokens = Arc::new(tokens);

    let (mut plain, mut known) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (keys, raw) = (Arc::clone(&keys), raw.clone());
        plain.push(
            rate(move |n| {
                let (keys, mut raw) = (Arc::clone(&keys), raw.clone());
                async move {
                    let record: Vec<u8> = cmd("GET")
                        .arg(&keys[n])
                        .query_async(&mut raw)
                        .await
                        .unwrap();
                    assert!(!record.is_empty());
                }
            })
            .await,
        );
        let (tokens, cache) = (Arc::clone(&tokens), cache.clone());
        known.push(
            rate(move |n| {
                let (tokens, cache) = (Arc::clone(&tokens), cache.clone());
                async move {
                    assert!(matches!(cache.get(&tokens[n]).await, Lookup::Hit(_)));
                }
            })
            .await,
        );
    }
    let (plain, known) = (median(plain), median(known));
    println!("raw GET on one multiplexed connection  {plain:>9.0} per second   1.00");
    println!(
        "SessionCache::get, a hit in Redis      {known:>9.0} per second   {:.2}",
        known / plain
    );
}
