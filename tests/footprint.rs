//! Memory per session, and allocations per hit. This is a separate binary because it counts every
//! allocation.
#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "made of the suite's parts, of which it takes some"
)]

#[path = "support/process.rs"]
mod process;
#[path = "support/redis.rs"]
mod redis;

use std::{convert::Infallible, future::ready, num::NonZeroUsize, task::Poll, time::Duration};

use allocation_counter::{AllocationInfo, measure};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer, Service, service_fn};
use tower_session_cache::{
    CachedSession, Fill, LocalCacheConfig, Lookup, Origin, RedisConfig, SessionCache,
    SessionCacheLayer, SessionToken, TokenSource, UserData, ValidatedSession, validator_fn,
};

/// Returns 50,000, or 1,000,000 with `SESSION_CACHE_FULL`.
fn sessions() -> usize {
    match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 1_000_000,
        None => 50_000,
    }
}

/// Returns the user of a token, and the total length of the user's strings.
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
        Poll::Pending => panic!("the future is pending"),
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
fn session_takes_at_most_400_bytes_plus_its_strings() {
    let count = NonZeroUsize::new(sessions()).unwrap();
    // Filled once, and then overfilled: the cache keeps traces of evicted entries for a while.
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
        let entries = usize::try_from(cache.as_ref().unwrap().stats().local_entries).unwrap();
        assert!(entries <= count.get() && entries > count.get() / 10 * 9);
        let texts = texts / (count.get() * rounds) * entries;
        let each = (usize::try_from(bytes_current).unwrap() - texts) / entries;
        println!("{entries} sessions: {each} bytes each, and the user's texts");
        assert!(each <= most, "{each}");
    }
}

/// Allocations are counted for one thread, so everything must run in it.
fn one_thread() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

struct BeforeRedis {
    cache: SessionCache,
    entries: usize,
    /// Without the strings of the users.
    bytes: usize,
}

/// Fills a local cache with `count` sessions.
fn before_redis(
    runtime: &tokio::runtime::Runtime,
    redis: &redis::Redis,
    count: usize,
) -> BeforeRedis {
    let (mut texts, mut cache) = (0, None);
    let AllocationInfo { bytes_current, .. } = measure(|| {
        let local = LocalCacheConfig::new(count).lease(Duration::from_secs(60));
        let builder = SessionCache::builder()
            .redis(RedisConfig::single(redis.url()).timeout(Duration::from_secs(20)))
            .unwrap()
            // State outside the local cache must not be measured here.
            .capacity(1)
            .local_cache(local);
        let built = builder.build().unwrap().with_namespace("ada");
        runtime.block_on(async {
            for n in 0..count {
                let (user, length) = user(n);
                if let Lookup::Miss(ticket) = built.get(&token(n)).await {
                    let session = ValidatedSession::new(user);
                    assert!(matches!(built.set(ticket, &session).await, Fill::Stored));
                }
                texts += length;
                until_local(&built, n).await;
            }
        });
        cache = Some(built);
    });
    let cache = cache.unwrap();
    let entries = usize::try_from(cache.stats().local_entries).unwrap();
    assert!(entries <= count && entries > count / 2, "{entries}");
    BeforeRedis {
        cache,
        entries,
        bytes: usize::try_from(bytes_current).unwrap() - texts * entries / count,
    }
}

async fn until_local(cache: &SessionCache, n: usize) {
    let served = async {
        while !matches!(
            cache.get(&token(n)).await,
            Lookup::Hit(CachedSession {
                origin: Origin::Local,
                ..
            })
        ) {
            tokio::task::yield_now().await;
        }
    };
    let deadline = Duration::from_secs(60);
    tokio::time::timeout(deadline, served)
        .await
        .expect("a local hit");
}

#[test]
fn local_cache_with_redis_is_as_small_and_hits_do_not_wait() {
    let redis = redis::Redis::start();
    let runtime = one_thread();
    let [few, many] = [10, sessions() / 25].map(|count| before_redis(&runtime, &redis, count));
    // The difference leaves out what an empty cache and its connections take.
    let entries = many.entries - few.entries;
    let each = (many.bytes - few.bytes) / entries;
    println!("{entries} sessions before Redis: {each} bytes each, and the user's texts");
    assert!(each <= 400, "{each}");
    runtime.block_on(async {
        until_local(&many.cache, 1).await;
        assert_that_hits_are_cheap(&many.cache);
    });
}

#[test]
fn local_hit_allocates_only_for_the_request_extensions() {
    let cache = SessionCache::default().with_namespace("ada");
    store(&cache, 1);
    assert_that_hits_are_cheap(&cache);
}

/// Asserts it for the session of `token-1`, which is in memory.
fn assert_that_hits_are_cheap(cache: &SessionCache) {
    let before = cache.stats().hits;
    let never = validator_fn("ada", |_| std::future::pending::<Result<UserData, _>>());
    let request = || {
        Request::builder()
            // Its bytes are shared, as in a request that a server has read.
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
    // The first inserted value allocates the map, its table and itself. Here it is the user, who leads
    // to the session.
    let one = measure(|| {
        let mut extensions = http::Extensions::new();
        extensions.insert(String::new());
    });
    assert_eq!(cache.stats().hits, before + 2);
    println!("{} allocations in a local hit", hit.count_total);
    assert_eq!(hit.count_total, one.count_total, "{hit:?} {one:?}");
    assert!(hit.count_total <= 4, "{hit:?}");
}

#[test]
fn kept_token_does_not_retain_the_request_buffer() {
    let mut kept = None;
    let AllocationInfo { bytes_current, .. } = measure(|| {
        // A server reads all headers into one buffer.
        let buffer = bytes::Bytes::from([b"Bearer token-1".as_slice(), &[b'x'; 8_192]].concat());
        let value = HeaderValue::from_maybe_shared(buffer.slice(..14)).unwrap();
        let headers: HeaderMap = [(header::AUTHORIZATION, value)].into_iter().collect();
        let token = TokenSource::bearer().extract(&headers).unwrap().unwrap();
        kept = Some(token.clone());
    });
    assert_eq!(kept.unwrap().expose_secret(), "token-1");
    assert!(bytes_current < 100, "{bytes_current}");
}

/// Counts all allocations: for the request, for its command, and for reading the reply.
#[test]
fn redis_hit_makes_at_most_20_allocations() {
    const HITS: u64 = 100;
    let server = redis::Redis::start();
    let runtime = one_thread();
    let minute = Duration::from_secs(60);
    let redis = RedisConfig::single(server.url()).timeout(minute);
    let cache = SessionCache::builder()
        .redis(redis)
        .unwrap()
        .build()
        .unwrap();
    let validator = validator_fn("ada", |_| async { Ok(ValidatedSession::new(user(1).0)) });
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

/// Waiting requests use memory for as long as the identity provider takes.
#[test]
fn waiting_request_takes_at_most_8_kilobytes() {
    const WAITING: usize = 1_000;
    let server = redis::Redis::start();
    let runtime = one_thread();
    let minute = Duration::from_secs(60);
    let redis = RedisConfig::single(server.url()).timeout(minute);
    let builder = SessionCache::builder().redis(redis).unwrap();
    let cache = builder
        .max_concurrent_validations(WAITING)
        .validation_timeout(minute)
        .request_timeout(minute * 5)
        .build()
        .unwrap();
    let provider = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let asked = std::sync::Arc::clone(&provider);
    let validator = validator_fn("ada", move |_| {
        let asked = std::sync::Arc::clone(&asked);
        async move {
            let _turn = asked.acquire().await;
            Ok(ValidatedSession::new(user(1).0))
        }
    });
    let inner = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(()))));
    let service = SessionCacheLayer::new(cache.clone(), validator).layer(inner);
    let call = |n: usize| {
        let bearer = HeaderValue::try_from(format!("Bearer token-{n}")).unwrap();
        let request = Request::builder().header(header::AUTHORIZATION, bearer);
        service.clone().call(request.body(()).unwrap())
    };
    runtime.block_on(async {
        provider.add_permits(1);
        assert!(call(WAITING).await.unwrap().status().is_success());
        provider.forget_permits(1);
    });
    let mut callers = tokio::task::JoinSet::new();
    let AllocationInfo { bytes_current, .. } = measure(|| {
        runtime.block_on(async {
            for n in 0..WAITING {
                callers.spawn(call(n));
            }
            let all_wait = async {
                while cache.stats().validations <= WAITING as u64 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(minute, all_wait).await.unwrap();
        });
    });
    let each = usize::try_from(bytes_current).unwrap() / WAITING;
    println!("{WAITING} requests wait: {each} bytes each");
    runtime.block_on(async {
        provider.add_permits(WAITING);
        while let Some(response) = callers.join_next().await {
            assert!(response.unwrap().unwrap().status().is_success());
        }
    });
    assert!(each <= 8_192, "{each}");
}
