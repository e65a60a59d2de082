//! How it scales: with a second thread, with a thousand times the sessions, and with ten thousand
//! tokens at once that nobody has seen before.
//!
//! `cargo bench --bench scaling`

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that ends by a panic, and takes a part of what others share"
)]

#[path = "../tests/support/process.rs"]
mod process;
#[path = "../tests/support/redis.rs"]
mod redis;
mod support;

use std::{
    hint::black_box,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tower::{Layer, Service};
use tower_session_cache::{
    SessionCache, SessionCacheBuilder, SessionCacheLayer, SessionToken, UserData, ValidatedSession,
    validator_fn,
};

use self::support::{
    rounds::{Spread, nanos, verdict},
    service::{Inner, bearer, fill, now, request, token, user},
};

const CALLS: usize = 300_000;
const ROUNDS: usize = 9;

/// Cold tokens at once, and what the validator takes for each.
const STORM: usize = 10_000;
const VALIDATION: Duration = Duration::from_millis(5);
const AT_ONCE: usize = 64;

/// A cache in the process that holds so many sessions.
fn filled(sessions: usize) -> SessionCache {
    let cache = SessionCache::builder()
        .capacity(sessions * 2)
        .build()
        .unwrap();
    now(fill(&cache, sessions));
    cache
}

/// Hits in a second, by all threads together.
fn hits(cache: &SessionCache, threads: usize, bearers: &[HeaderValue]) -> f64 {
    let begin = Barrier::new(threads);
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let begin = &begin;
                scope.spawn(move || {
                    let never = validator_fn(|_| async { unreachable!("it is cached") });
                    let mut service = SessionCacheLayer::new(cache.clone(), never).layer(Inner);
                    begin.wait();
                    nanos(CALLS, |n| {
                        let bearer = &bearers[(n * 7_919 + thread * 131) % bearers.len()];
                        let _ = black_box(now(service.call(request(bearer))));
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    times.iter().map(|nanos| 1e9 / nanos).sum()
}

fn threads() {
    let cache = filled(1_000);
    let bearers: Vec<_> = (0..1_000).map(bearer).collect();
    let mut rates: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (threads, rates) in [1, 2].into_iter().zip(&mut rates) {
            rates.push(hits(&cache, threads, &bearers));
        }
    }
    let ratio = Spread::of_ratios(&rates[1], &rates[0]);
    verdict("hits in the process, two threads by one", ratio, 1.8, true);
}

fn sessions() {
    let sizes = [1_000, 1_000_000];
    let caches = sizes.map(filled);
    let maps = sizes.map(|size| {
        let map: Cache<[u8; 32], UserData> = Cache::new(size * 2);
        for n in 0..size {
            map.insert(Sha256::digest(token(n)).into(), user(n));
        }
        map
    });
    // As many of each, spread over all, and made before the time runs.
    let spread = |size: usize| (0..50_000).map(move |n| (n * 611_953) % size);
    let bearers = sizes.map(|size| spread(size).map(bearer).collect::<Vec<_>>());
    let digests = sizes.map(|size| {
        let digest = |n| -> [u8; 32] { Sha256::digest(token(n)).into() };
        spread(size).map(digest).collect::<Vec<_>>()
    });
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for size in 0..2 {
            let never = validator_fn(|_| async { unreachable!("it is cached") });
            let mut service = SessionCacheLayer::new(caches[size].clone(), never).layer(Inner);
            times[size][0].push(nanos(bearers[size].len(), |n| {
                let _ = black_box(now(service.call(request(&bearers[size][n]))));
            }));
            times[size][1].push(nanos(digests[size].len(), |n| {
                black_box(maps[size].get(&digests[size][n]));
            }));
        }
    }
    let [few, many] = times.map(|times| times.map(|rounds| Spread::of(rounds).middle));
    println!(
        "a hit among 1,000 sessions {:.0} ns, among 1,000,000 {:.0} ns: {:.0} ns more; the map alone \
         {:.0} ns, {:.0} ns: {:.0} ns more",
        few[0],
        many[0],
        many[0] - few[0],
        few[1],
        many[1],
        many[1] - few[1],
    );
}

/// How long it takes until all are answered, by how long the validator alone would.
async fn storm(builder: SessionCacheBuilder, seed: usize) -> f64 {
    let cache = builder.max_validations(AT_ONCE).build().unwrap();
    let validator = validator_fn(|token: SessionToken| async move {
        tokio::time::sleep(VALIDATION).await;
        Ok(ValidatedSession::new(UserData::new(token.expose_secret())))
    });
    let service = SessionCacheLayer::new(cache.clone(), validator).layer(Inner);
    let since = Instant::now();
    let callers: Vec<_> = (0..STORM)
        .map(|n| {
            let mut service = service.clone();
            tokio::spawn(async move {
                service
                    .call(request(&bearer(seed * STORM + n)))
                    .await
                    .unwrap()
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().status(), StatusCode::OK);
    }
    let took = since.elapsed();
    assert_eq!(cache.stats().validations, STORM as u64);
    took.as_secs_f64() / (VALIDATION.as_secs_f64() * (STORM / AT_ONCE) as f64)
}

fn storms() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = redis::Redis::start();
        let builder = || {
            let deadline = Duration::from_secs(60);
            SessionCache::builder()
                .validation_deadline(deadline)
                .request_deadline(deadline * 4)
        };
        let mut ratios: [Vec<f64>; 2] = Default::default();
        for round in 0..5 {
            ratios[0].push(storm(builder(), round).await);
            let redis = builder().redis(server.url()).unwrap();
            ratios[1].push(storm(redis.redis_deadline(Duration::from_secs(10)), round).await);
        }
        let [alone, redis] = ratios.map(Spread::of);
        let what = "10,000 cold tokens, of the validator's own time";
        verdict(&format!("{what}, in the process"), alone, 1.5, false);
        verdict(&format!("{what}, with Redis"), redis, 1.5, false);
    });
}

fn main() {
    threads();
    sessions();
    storms();
}
