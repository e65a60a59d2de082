//! Benchmark of an in-process hit against the sum of the minimum work of a session cache: the
//! SHA-256 of the token (a hit uses a cheaper keyed hash instead), one map lookup, the first entry
//! in a request's extensions, and reading the time. The other work that the layer promises is
//! measured in addition: reading the header and keeping it out of logs, and passing on the session
//! with its user.
//!
//! `cargo bench --bench parts`

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program that ends by a panic, and takes a part of what others share"
)]

mod support;

use std::hint::black_box;

use http::{Extensions, header::AUTHORIZATION};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tower::{Layer, Service};
use tower_session_cache::{SessionCache, SessionCacheLayer, UserData, validator_fn};

use self::support::{
    rounds::{Spread, nanos, verdict},
    service::{Inner, bearer, fill, now, request, token, user},
};

const TOKENS: usize = 1_000;
/// Calls per turn. A turn takes a few milliseconds, because the speed of a shared machine changes
/// within a second.
const CALLS: usize = 20_000;
const ROUNDS: usize = 401;
/// A round counts only if the request without the layer took at most this multiple of its minimum.
/// Otherwise another process shared the core, which slows down some of the parts more than others.
const QUIET: f64 = 1.15;
const LIMIT: f64 = 1.3;

fn main() {
    // The namespace of the layer's validator, so that the layer finds what is stored here.
    let cache = SessionCache::builder().build().unwrap();
    let cache = cache.with_namespace("bench");
    let map: Cache<[u8; 32], UserData> = Cache::new(TOKENS);
    now(fill(&cache, TOKENS));
    for n in 0..TOKENS {
        map.insert(Sha256::digest(token(n)).into(), user(n));
    }
    let tokens: Vec<_> = (0..TOKENS).map(token).collect();
    let bearers: Vec<_> = (0..TOKENS).map(bearer).collect();
    let never = validator_fn("bench", |_| std::future::pending::<Result<UserData, _>>());
    let mut service = SessionCacheLayer::new(cache.clone(), never).layer(Inner);
    let request = |n: usize| request(&bearers[n % TOKENS]);
    let digest = |n: usize| -> [u8; 32] { Sha256::digest(black_box(&tokens[n % TOKENS])).into() };
    let digests: Vec<_> = (0..TOKENS).map(digest).collect();
    let ada = user(0);

    let mut times: [Vec<f64>; 8] = Default::default();
    for _ in 0..ROUNDS {
        let mut inner = Inner;
        times[0].push(nanos(CALLS, |n| {
            let _ = black_box(now(inner.call(request(n))));
        }));
        times[1].push(nanos(CALLS, |n| {
            let _ = black_box(now(service.call(request(n))));
        }));
        times[2].push(nanos(CALLS, |n| {
            black_box(digest(n));
        }));
        times[3].push(nanos(CALLS, |n| {
            black_box(map.get(black_box(&digests[n % TOKENS])));
        }));
        times[4].push(nanos(CALLS, |_| {
            let mut extensions = Extensions::new();
            extensions.insert(UserData::clone(black_box(&ada)));
            black_box(&extensions);
        }));
        times[5].push(nanos(CALLS, |_| {
            black_box(chrono::Utc::now());
        }));
        times[6].push(nanos(CALLS, |n| {
            let mut request = request(n);
            let header = request.headers_mut().get_mut(AUTHORIZATION);
            let token = header.and_then(|value| {
                value.set_sensitive(true);
                let token = value.as_bytes().strip_prefix(b"Bearer ")?;
                token.iter().all(u8::is_ascii_graphic).then_some(&*value)
            });
            black_box(token.cloned());
        }));
        times[7].push(nanos(CALLS, |_| {
            let mut extensions = Extensions::new();
            extensions.insert(UserData::clone(black_box(&ada)));
            extensions.insert([0_u64; 9]);
            black_box(&extensions);
        }));
    }
    assert_eq!(cache.stats().local_hits, (ROUNDS * CALLS) as u64);
    let most = Spread::of(times[0].clone()).least * QUIET;
    let is_quiet: Vec<_> = times[0].iter().map(|alone| *alone <= most).collect();
    let times = times.map(|rounds| -> Vec<_> {
        let rounds = rounds.into_iter().zip(&is_quiet);
        rounds
            .filter_map(|(time, quiet)| quiet.then_some(time))
            .collect()
    });
    let quiet = times[0].len();
    println!("{quiet} rounds of {ROUNDS} were quiet");
    if quiet < ROUNDS / 10 {
        println!("NOT A QUIET MACHINE: what follows is not to be relied on");
    }
    let less = |over: &[f64], under: &[f64]| -> Vec<_> {
        over.iter()
            .zip(under)
            .map(|(over, under)| over - under)
            .collect()
    };
    let hit = less(&times[1], &times[0]);
    let parts = &times[2..6];
    let sum: Vec<_> = (0..hit.len())
        .map(|n| parts.iter().map(|part| part[n]).sum())
        .collect();
    let [header, second] = [less(&times[6], &times[0]), less(&times[7], &times[4])];
    let names = [
        "a request without the layer",
        "a request with it, a hit",
        "SHA-256 of the token",
        "one look into the map",
        "first entry in the extensions",
        "the time",
        "beside them: the header",
        "beside them: a second entry",
    ];
    let beside = [header, second];
    for (name, rounds) in names.iter().zip(times[..6].iter().chain(&beside)) {
        let Spread {
            least,
            middle,
            most,
        } = Spread::of(rounds.clone());
        println!("{name:<32}{middle:>7.0} ns ({least:.0} to {most:.0})");
    }
    println!("the hit alone {:.0} ns", Spread::of(hit.clone()).middle);
    println!("its parts     {:.0} ns", Spread::of(sum.clone()).middle);
    verdict(
        "the hit, of its parts",
        Spread::of_ratios(&hit, &sum),
        LIMIT,
        false,
    );
}
