//! Benchmark of a restart of Redis under load: requests per second before and after it, until every
//! session is cached again.
//!
//! `cargo bench --bench restart`. The variables `SESSIONS` (3,000), `RATE` (900 requests a second),
//! `CONNECTIONS` (8), `PROVIDER_MS` (40), `NODES` (1) and `DOWN_MS` (0, how long Redis stays down)
//! change the setup. `STALE_MS` adds a local cache and is its `stale_after_restart`.

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
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower::{Layer, Service};
use tower_session_cache::{
    LocalCacheConfig, SessionCache, SessionCacheLayer, SessionToken, ValidatedSession,
    ValidationError, validator_fn,
};

use self::support::service::{Inner, bearer, request, user};

/// Warm-up, and then the time before the restart.
const BEFORE: u64 = 5;
const MAX: u64 = 120;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

/// What happened since the last line.
#[derive(Default)]
struct Load {
    served: AtomicU64,
    unavailable: AtomicU64,
    validated: AtomicU64,
    waited: AtomicU64,
    ends: AtomicBool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let sessions = setting("SESSIONS", 3_000) as usize;
    let (rate, connections) = (setting("RATE", 900), setting("CONNECTIONS", 8));
    let nodes = setting("NODES", 1) as usize;
    let provider = Duration::from_millis(setting("PROVIDER_MS", 40));
    let down = Duration::from_millis(setting("DOWN_MS", 0));
    let stale = std::env::var("STALE_MS").is_ok();
    let stale = stale.then(|| Duration::from_millis(setting("STALE_MS", 0)));
    let mut redis = redis::Redis::start();
    let load = Arc::new(Load::default());
    let validated = Arc::clone(&load);
    let validator = validator_fn("bench", move |token: SessionToken| {
        validated.validated.fetch_add(1, Relaxed);
        async move {
            sleep(provider).await;
            let n = token.expose_secret().trim_start_matches("token-");
            let n = n.trim_start_matches('0').parse().unwrap_or_default();
            Ok::<_, ValidationError>(ValidatedSession::new(user(n)))
        }
    });
    let nodes: Vec<_> = (0..nodes)
        .map(|_| {
            let mut builder = SessionCache::builder().redis(redis.url()).unwrap();
            if let Some(stale) = stale {
                let local = LocalCacheConfig::new(10 * sessions);
                builder = builder.local_cache(local).stale_after_restart(stale);
            }
            let cache = builder.build().unwrap();
            (
                cache.clone(),
                SessionCacheLayer::new(cache, validator.clone()),
            )
        })
        .collect();

    // Every session is cached before the load begins.
    let warm: Vec<_> = (0..64)
        .map(|task| {
            let layer = nodes[0].1.clone();
            tokio::spawn(async move {
                let mut service = layer.layer(Inner);
                // The second round fills the local cache from Redis.
                for _ in 0..2 {
                    for n in (task..sessions).step_by(64) {
                        let response = service.call(request(&bearer(n))).await.unwrap();
                        assert_eq!(response.status(), StatusCode::OK);
                    }
                }
            })
        })
        .collect();
    for task in warm {
        task.await.unwrap();
    }

    for connection in 0..connections {
        let load = Arc::clone(&load);
        let layer = nodes[connection as usize % nodes.len()].1.clone();
        let pause = Duration::from_nanos(1_000_000_000 * connections / rate);
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(connection);
            let mut service = layer.layer(Inner);
            let mut ticks = interval(pause);
            // A late request delays the following ones of its connection, as a browser's would.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !load.ends.load(Relaxed) {
                ticks.tick().await;
                let request = request(&bearer(random.random_range(0..sessions)));
                let began = Instant::now();
                let status = service.call(request).await.unwrap().status();
                let took = u64::try_from(began.elapsed().as_micros()).unwrap();
                load.waited.fetch_max(took, Relaxed);
                match status {
                    StatusCode::OK => load.served.fetch_add(1, Relaxed),
                    _ => load.unavailable.fetch_add(1, Relaxed),
                };
            }
        });
    }

    println!("second  served  unavailable  validated  of the load  slowest");
    let second = Duration::from_secs(1);
    let mut steady = 0.0;
    let (mut lowest, mut back, mut all) = (f64::MAX, None, None);
    let mut validations = 0;
    let line = |at: i64, steady: f64| {
        let [served, unavailable, validated, waited] = [
            &load.served,
            &load.unavailable,
            &load.validated,
            &load.waited,
        ]
        .map(|count| count.swap(0, Relaxed));
        let share = served as f64 / steady * 100.0;
        println!(
            "{at:6}  {served:6}  {unavailable:11}  {validated:9}  {share:9.0} %  {:4} ms",
            waited / 1_000
        );
        (served as f64, validated)
    };
    let mut ticks = interval(second);
    ticks.tick().await;
    let before: Vec<_> = {
        let mut lines = Vec::new();
        for at in 0..BEFORE {
            ticks.tick().await;
            lines.push(line(at as i64 - BEFORE as i64, rate as f64).0);
        }
        lines
    };
    // The first line contains the start of the load.
    for served in &before[1..] {
        steady += served / (before.len() - 1) as f64;
    }
    let since = Instant::now();
    // Blocks this thread, on which no request runs. The server ends with the thread that starts it.
    redis.kill();
    std::thread::sleep(down);
    redis.restart();
    let was_down = since.elapsed();
    for at in 0..MAX {
        ticks.tick().await;
        let (served, validated) = line(at as i64, steady);
        validations += validated;
        lowest = lowest.min(served);
        let share = served / steady;
        if share < 0.95 {
            back = None;
        } else if back.is_none() {
            back = Some(since.elapsed());
        }
        if validated == 0 && validations > 0 {
            all = Some(since.elapsed());
            break;
        }
    }
    load.ends.store(true, Relaxed);
    let stats = nodes.iter().map(|(cache, _)| cache.stats());
    let (refreshes, stale) = stats.fold((0, 0), |(refreshes, stale), stats| {
        (refreshes + stats.refreshes, stale + stats.stale_hits)
    });
    println!(
        "Redis was down for {was_down:.1?}. Served at the least {:.0} % of the load, and 95 % again \
         after {:.1?}; the last validation {all:.1?} after the restart began. {validations} \
         validations of {sessions} sessions, {refreshes} refreshes, {stale} stale responses.",
        lowest / steady * 100.0,
        back.unwrap_or_default(),
    );
    redis.kill();
}
