//! Benchmark of scaling: with a second thread, with 1,000 times as many sessions, and with
//! concurrent requests for 10,000 unknown tokens.
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
    convert::Infallible,
    hint::black_box,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use http::{Request, StatusCode, header::AUTHORIZATION};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tower::{Layer, Service};
use tower_session_cache::{
    RedisConfig, SessionCache, SessionCacheBuilder, SessionCacheLayer, SessionToken, UserData,
    ValidatedSession, ValidationError, validator_fn,
};

use self::support::{
    rounds::{Spread, nanos, verdict},
    service::{Inner, bearer, fill, now, request, token, user},
};

const TOKENS: usize = 1_000;
const CALLS: usize = 200_000;
const LOOKUPS: usize = 50_000;
const ROUNDS: usize = 9;

/// Concurrent requests for cold tokens, and how long the validator takes for each.
const STORM: usize = 10_000;
const VALIDATION: Duration = Duration::from_millis(5);
const AT_ONCE: usize = 64;

/// Builds an in-process cache that holds this number of sessions.
fn filled(sessions: usize) -> SessionCache {
    let cache = SessionCache::builder()
        .capacity(sessions * 2)
        .build()
        .unwrap()
        // The namespace of the layers' validator, so that the layers find what is stored here.
        .with_namespace("bench");
    now(fill(&cache, sessions));
    cache
}

/// Returns the calls per second of all threads together. Each thread has its own requests, as in a
/// server.
fn rate<S>(threads: usize, service: impl Fn() -> S + Sync) -> f64
where
    S: Service<Request<()>, Error = Infallible>,
{
    let begin = Barrier::new(threads);
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let (begin, service) = (&begin, &service);
                scope.spawn(move || {
                    let bearers: Vec<_> = (0..TOKENS).map(bearer).collect();
                    let mut service = service();
                    begin.wait();
                    nanos(CALLS, |n| {
                        let bearer = &bearers[(n * 7_919 + thread * 131) % TOKENS];
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
    let cache = filled(TOKENS);
    let hits = || {
        let never = validator_fn("bench", |_| std::future::pending::<Result<UserData, _>>());
        SessionCacheLayer::new(cache.clone(), never).layer(Inner)
    };
    let mut rates: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..ROUNDS * 3 {
        for (n, [alone, behind]) in rates.iter_mut().enumerate() {
            alone.push(rate(n + 1, || Inner));
            behind.push(rate(n + 1, hits));
        }
    }
    let [one, two] = rates;
    let gain = |n: usize| -> Vec<_> {
        let pairs = two[n].iter().zip(&one[n]);
        pairs.map(|(two, one)| two / one).collect()
    };
    let [alone, behind] = [gain(0), gain(1)];
    let middle = |rounds: &Vec<f64>| Spread::of(rounds.clone()).middle;
    println!(
        "two threads by one: {:.2} requests without a layer, {:.2} hits in the process",
        middle(&alone),
        middle(&behind)
    );
    let what = "what hits gain by the second thread, of what requests without a layer do";
    verdict(what, Spread::of_ratios(&behind, &alone), 0.9, true);
}

fn sessions() {
    let sizes = [1_000, 1_000_000];
    let caches = sizes.map(filled);
    // The alternative to the layer: a map from the digest of a token to the user and as much other
    // data as a session needs.
    let maps = sizes.map(|size| {
        let map: Cache<[u8; 32], (UserData, [u64; 7])> = Cache::new(size * 2);
        for n in 0..size {
            map.insert(Sha256::digest(token(n)).into(), (user(n), [0; 7]));
        }
        map
    });
    // Requests are built for each call, so that only the caches and maps take more memory if there
    // are more sessions.
    let nth = |n: usize, size: usize| (n * 611_953) % size;
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (size, times) in times.iter_mut().enumerate() {
            let (cache, map, size) = (&caches[size], &maps[size], sizes[size]);
            let never = validator_fn("bench", |_| std::future::pending::<Result<UserData, _>>());
            let mut service = SessionCacheLayer::new(cache.clone(), never).layer(Inner);
            times[0].push(nanos(LOOKUPS, |n| {
                let _ = black_box(now(service.call(request(&bearer(nth(n, size))))));
            }));
            times[1].push(nanos(LOOKUPS, |n| {
                let mut request = request(&bearer(nth(n, size)));
                let bearer = &request.headers()[AUTHORIZATION];
                let key: [u8; 32] = Sha256::digest(&bearer.as_bytes()[7..]).into();
                if let Some((user, _)) = map.get(&key) {
                    request.extensions_mut().insert(user);
                }
                black_box(request);
            }));
        }
    }
    let middle = |rounds: &Vec<f64>| Spread::of(rounds.clone()).middle;
    let [few, many] = &times;
    let [hit, map] = [("a hit", 0), ("a map in its place", 1)].map(|(what, n)| {
        let [few, many] = [&few[n], &many[n]].map(middle);
        println!("{what}: among 1,000 sessions {few:.0} ns, among 1,000,000 {many:.0} ns");
        many - few
    });
    // Compare the medians. In a round that other load disturbs, a difference may have any value.
    let what = "what a hit takes more of it, by such a map";
    verdict(what, Spread::of(vec![hit / map]), 1.1, false);
}

/// Validates a token in the time that the identity provider takes.
async fn validate(token: SessionToken) -> Result<ValidatedSession, ValidationError> {
    tokio::time::sleep(VALIDATION).await;
    Ok(ValidatedSession::new(UserData::new(token.expose_secret())))
}

/// Returns the seconds until all calls have returned.
async fn until_answered<F>(call: impl Fn(usize) -> F) -> f64
where
    F: Future<Output = bool> + Send + 'static,
{
    let since = Instant::now();
    let callers: Vec<_> = (0..STORM).map(|n| tokio::spawn(call(n))).collect();
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    since.elapsed().as_secs_f64()
}

/// Measures the validator alone, with the same number of concurrent validations.
async fn validator() -> f64 {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    until_answered(|n| {
        let slots = Arc::clone(&slots);
        async move {
            let _slot = slots.acquire().await.unwrap();
            let token = SessionToken::parse(token(n)).unwrap();
            validate(token).await.is_ok()
        }
    })
    .await
}

/// Measures the layer with tokens that it does not know.
async fn storm(builder: SessionCacheBuilder, round: usize) -> f64 {
    let cache = builder.max_concurrent_validations(AT_ONCE).build().unwrap();
    let service =
        SessionCacheLayer::new(cache.clone(), validator_fn("bench", validate)).layer(Inner);
    let took = until_answered(|n| {
        let mut service = service.clone();
        async move {
            let response = service.call(request(&bearer(round * STORM + n))).await;
            response.unwrap().status() == StatusCode::OK
        }
    })
    .await;
    assert_eq!(cache.stats().validations, STORM as u64);
    took
}

fn storms() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = redis::Redis::start();
        let builder = || {
            let timeout = Duration::from_secs(60);
            SessionCache::builder()
                .validation_timeout(timeout)
                .request_timeout(timeout * 4)
        };
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..ROUNDS {
            times[0].push(validator().await);
            times[1].push(storm(builder(), round).await);
            let redis = RedisConfig::single(server.url()).timeout(Duration::from_secs(10));
            times[2].push(storm(builder().redis(redis).unwrap(), round).await);
        }
        let [alone, local, redis] = times;
        println!(
            "{STORM} cold tokens, the validator alone: {:.2} s, of which it waits {:.2} s",
            Spread::of(alone.clone()).middle,
            VALIDATION.as_secs_f64() * (STORM / AT_ONCE) as f64
        );
        for (what, times) in [("in the process", local), ("with Redis", redis)] {
            let ratio = Spread::of_ratios(&times, &alone);
            verdict(
                &format!("{what}, of the validator alone"),
                ratio,
                1.5,
                false,
            );
        }
    });
}

fn main() {
    threads();
    sessions();
    storms();
}
