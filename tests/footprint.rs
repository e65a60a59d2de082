//! What a session in memory takes, and what a hit allocates. A binary of its own, since it counts
//! every allocation.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends by a panic, and takes a part of what others share"
)]

#[path = "support/process.rs"]
mod process;
#[path = "support/redis.rs"]
mod redis;

use std::{convert::Infallible, future::ready, num::NonZeroUsize, task::Poll};

use allocation_counter::{AllocationInfo, measure};
use http::{HeaderValue, Request, Response, header};
use tower::{Layer, Service, service_fn};
use tower_session_cache::{
    Fill, Lookup, SessionCache, SessionCacheLayer, SessionToken, UserData, ValidatedSession,
    validator_fn,
};

/// Fifty thousand, or a million in full.
fn sessions() -> usize {
    match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 1_000_000,
        None => 50_000,
    }
}

/// The user of a token, and the length of all its texts.
fn user(n: usize) -> (UserData, usize) {
    let texts = [
        format!("user-{n:016}"),
        format!("user-{n:016}@example.com"),
        "Ada Lovelace".to_owned(),
        "professional".to_owned(),
    ];
    let length = texts.iter().map(String::len).sum();
    let [id, email, name, tier] = texts;
    let user = UserData::builder(id).email(email).name(name).tier(tier);
    (user.email_verified(true).build(), length)
}

fn token(n: usize) -> SessionToken {
    SessionToken::parse(format!("token-{n}")).unwrap()
}

fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = std::task::Waker::noop();
    match future
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits for something"),
    }
}

fn store(cache: &SessionCache, n: usize) -> usize {
    let (user, length) = user(n);
    let Lookup::Miss(ticket) = now(cache.get(&token(n))) else {
        panic!("it was stored already");
    };
    let stored = now(cache.set(ticket, &ValidatedSession::new(user)));
    assert!(matches!(stored, Fill::Stored));
    length
}

#[test]
fn a_session_takes_at_most_400_bytes_and_its_texts() {
    let count = NonZeroUsize::new(sessions()).unwrap();
    // Filled once, and then flooded: what had to make room is remembered for a while.
    for (rounds, most) in [(1, 400), (2, 600)] {
        let (mut texts, mut cache) = (0, None);
        let AllocationInfo { bytes_current, .. } = measure(|| {
            let builder = SessionCache::builder().capacity(count.get());
            let full = builder.build().unwrap();
            for n in 0..count.get() * rounds {
                texts += store(&full, n);
            }
            cache = Some(full);
        });
        let entries = usize::try_from(cache.as_ref().unwrap().stats().entries).unwrap();
        assert!(entries <= count.get() && entries > count.get() / 10 * 9);
        let texts = texts / (count.get() * rounds) * entries;
        let each = (usize::try_from(bytes_current).unwrap() - texts) / entries;
        println!("{entries} sessions: {each} bytes each, and the user's texts");
        assert!(each <= most, "{each}");
    }
}

#[test]
fn a_hit_in_memory_allocates_for_the_extensions_and_what_they_hold() {
    let cache = SessionCache::default();
    store(&cache, 1);
    let never = validator_fn(|_| async { unreachable!("it is cached") });
    let request = || {
        Request::builder()
            // Its bytes are shared, as are those that a server has read.
            .header(
                header::AUTHORIZATION,
                HeaderValue::from_static("Bearer token-1"),
            )
            .body(())
            .unwrap()
    };
    let inner = service_fn(|request: Request<()>| {
        assert!(request.extensions().get::<UserData>().is_some());
        ready(Ok::<_, Infallible>(Response::new(())))
    });
    let mut service = SessionCacheLayer::new(cache.clone(), never).layer(inner);
    let mut hit = || {
        let request = request();
        measure(|| {
            let _ = now(service.call(request)).unwrap();
        })
    };
    hit();
    let hit = hit();
    // The first that is put there brings a map and its table, the second nothing but itself: here
    // the user, and the session with the text of its token.
    let two = measure(|| {
        let mut extensions = http::Extensions::new();
        extensions.insert(String::new());
        extensions.insert(vec![0_u8]);
    });
    assert_eq!(cache.stats().hits, 2);
    assert_eq!(hit.count_total, two.count_total, "{hit:?} {two:?}");
    assert!(hit.count_total <= 5, "{hit:?}");
}

/// All of them: of the request, of the command that it travels in, and of reading the reply.
#[test]
fn a_hit_in_redis_makes_at_most_20_allocations() {
    const HITS: u64 = 100;
    let server = redis::Redis::start();
    // Everything runs in this thread, which is the one that is measured.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let minute = std::time::Duration::from_secs(60);
    let builder = SessionCache::builder().redis(server.url()).unwrap();
    let cache = builder.redis_deadline(minute).build().unwrap();
    let validator = validator_fn(|_| async { Ok(ValidatedSession::new(user(1).0)) });
    let inner = service_fn(|request: Request<()>| {
        assert!(request.extensions().get::<UserData>().is_some());
        ready(Ok::<_, Infallible>(Response::new(())))
    });
    let mut service = SessionCacheLayer::new(cache.clone(), validator).layer(inner);
    let mut serve = |hits: u64| {
        let bearer = HeaderValue::from_static("Bearer token-1");
        let request = || Request::builder().header(header::AUTHORIZATION, bearer.clone());
        let requests: Vec<_> = (0..hits).map(|_| request().body(()).unwrap()).collect();
        measure(|| {
            runtime.block_on(async {
                for request in requests {
                    let response = service.call(request).await.unwrap();
                    assert!(response.status().is_success());
                }
            });
        })
    };
    serve(10);
    let all = serve(HITS);
    assert_eq!(cache.stats().validations, 1);
    assert_eq!(cache.stats().hits, HITS + 9);
    println!("{} allocations in {HITS} hits", all.count_total);
    assert!(all.count_total <= 20 * HITS, "{all:?}");
}
