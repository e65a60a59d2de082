//! Fault injection for Redis and for the identity provider. During each fault no response is wrong
//! or late. Afterwards no connection or task is left behind, the cache is used again without
//! intervention, and the log has one line for each change of state.

use std::time::{Duration, Instant};

use bb8_redis::redis::{Client, cmd};
use tokio::runtime::Handle;
use tower_session_cache::{
    AppwriteValidator, Origin, RedisConfig, RevokeErrorKind, SessionCache, SessionCacheLayer,
    ValidationError, testing::ManualClock, validator_fn,
};

use crate::support::{
    appwrite::{Appwrite, Endpoint, Fault as ProviderFault},
    client::{ask, token},
    log::{Recording, record},
    pass_time,
    probe::{Probe, session},
    proxy::{Fault, Proxy},
    redis::{Redis, is_before_7},
    soon, until,
};

/// Far longer than any timeout here, and far shorter than a hang.
const LATE: Duration = Duration::from_secs(20);

/// A node with a Redis that is about to fail, and the number of tasks before the fault.
struct Scene {
    redis: Redis,
    proxy: Proxy,
    cache: SessionCache,
    probe: Probe,
    layer: SessionCacheLayer<Probe>,
    tasks: usize,
    log: Recording,
}

impl Scene {
    async fn new(arguments: &[&str]) -> Self {
        Self::with_timeout(arguments, Duration::from_millis(250)).await
    }

    async fn with_timeout(arguments: &[&str], timeout: Duration) -> Self {
        let redis = Redis::start_with(arguments);
        let proxy = Proxy::start(redis.port()).await;
        let cache = SessionCache::builder()
            .redis(RedisConfig::single(proxy.url()).timeout(timeout))
            .unwrap()
            .build()
            .unwrap();
        let probe = Probe::answering(|text| match text.split_once('-') {
            Some(("bad", _)) => Err(ValidationError::invalid()),
            Some((user, _)) => Ok(session(user)),
            None => panic!("{text:?} is not a token of this test"),
        });
        let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
        let log = record();
        let scene = Self {
            tasks: 0,
            redis,
            proxy,
            cache,
            probe,
            layer,
            log,
        };
        scene.until_in_use("before").await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        Self { tasks, ..scene }
    }

    fn config(&self, name: &str, value: &str) {
        self.redis
            .run::<()>(cmd("CONFIG").arg("SET").arg(name).arg(value));
    }

    async fn until_in_use(&self, when: &str) {
        let text = format!("ada-{when}");
        soon("the cache to be used", async {
            while ask(&self.layer, &text).await.unwrap().1 != Origin::Redis {
                crate::support::pass().await;
            }
        })
        .await;
    }

    /// Sends requests of all kinds during the fault; returns the duration of the slowest.
    async fn requests(&self, when: &str) -> Duration {
        let mut slowest = Duration::ZERO;
        for round in 0..12 {
            let mut requests = Vec::new();
            for (user, text) in [
                ("ada", "ada-before".to_owned()),
                ("bea", "bea-before".to_owned()),
                ("cleo", format!("cleo-{when}-{round}")),
                ("bad", format!("bad-{when}-{}", round % 2)),
            ] {
                let layer = self.layer.clone();
                requests.push(tokio::spawn(async move {
                    let start = Instant::now();
                    let answer = ask(&layer, &text).await;
                    (user, answer, start.elapsed())
                }));
            }
            for request in requests {
                let (user, answer, took) = request.await.unwrap();
                match answer {
                    Ok((served, _)) => assert_eq!(served.id(), user, "{when}"),
                    Err(status) => assert_eq!((user, status.as_u16()), ("bad", 401), "{when}"),
                }
                slowest = slowest.max(took);
            }
        }
        assert!(slowest < LATE, "{when}: {slowest:?}");
        slowest
    }

    /// Asserts the recovery after the fault: the cache is used again, and no task or connection is
    /// left.
    async fn over(&self, when: &str, changes: usize) {
        self.until_in_use(&format!("after-{when}")).await;
        until("all validations to finish", || {
            self.cache.stats().validations_in_flight == 0
        })
        .await;
        assert!(!self.cache.stats().redis_circuit_open);
        assert_eq!(self.changes(), (changes, changes), "{}", self.log.text());
        assert!(!self.log.text().contains("panicked"));
        // Abandoned connections end when the server or the proxy closes them.
        soon("connections and tasks to be as before", async {
            loop {
                let clients: String = self.redis.run(cmd("CLIENT").arg("LIST"));
                let tasks = Handle::current().metrics().num_alive_tasks();
                // The clients of this loop do not count. Redis 8 with I/O threads lists them for some
                // time after they have disconnected.
                let clients = clients.lines().filter(|line| !line.contains("cmd=client"));
                if clients.count() <= 2 && tasks <= self.tasks {
                    break;
                }
                crate::support::pass().await;
            }
        })
        .await;
    }

    /// How often the log reports that Redis became unavailable and available again.
    fn changes(&self) -> (usize, usize) {
        let text = self.log.text();
        let count = |line| text.matches(line).count();
        (
            count("Redis unavailable, circuit breaker opened"),
            count("Redis available again"),
        )
    }

    async fn until_circuit_open(&self) {
        let mut n = 0;
        soon("the circuit breaker to open", async {
            while !self.cache.stats().redis_circuit_open {
                n += 1;
                // A new token each time; its lookup may succeed.
                ask(&self.layer, &format!("dora-{n}")).await.unwrap();
            }
        })
        .await;
    }

    async fn connections_under_way(&self) {
        let mut loads = 0;
        until("two connections to be in progress", || {
            let commands = self.proxy.commands();
            loads += commands.iter().filter(|name| *name == "SCRIPT").count();
            // Each connection loads six scripts.
            loads >= 12
        })
        .await;
    }

    /// Waits until two probes have been sent while Redis still fails.
    async fn two_probes(&self) {
        self.proxy.commands();
        let mut probes = 0;
        until("two probes", || {
            let is_probe = |name: &String| ["EVALSHA", "PING", "INFO"].contains(&name.as_str());
            probes += self
                .proxy
                .commands()
                .iter()
                .filter(|name| is_probe(name))
                .count();
            probes >= 2
        })
        .await;
    }
}

#[tokio::test]
async fn cache_recovers_after_redis_is_killed_and_restarted_empty() {
    let mut scene = Scene::new(&[]).await;
    scene.redis.kill();
    scene.requests("killed").await;
    scene.redis.restart();
    scene.over("killed", 1).await;
}

#[tokio::test]
async fn cache_recovers_after_redis_freezes() {
    let scene = Scene::new(&[]).await;
    scene.redis.pause();
    scene.requests("frozen").await;
    assert!(scene.cache.stats().redis_circuit_open);
    scene.redis.resume();
    scene.over("frozen", 1).await;
}

/// No reset and no reply, as with a firewall that dropped the state of the connection.
#[tokio::test]
async fn cache_recovers_after_redis_is_silently_unreachable() {
    let scene = Scene::new(&[]).await;
    scene.proxy.fault(Fault::Swallow);
    scene.requests("silent").await;
    assert!(scene.cache.stats().redis_circuit_open);
    scene.proxy.fault(Fault::None);
    scene.over("silent", 1).await;
}

/// A load balancer or NAT drops the state of idle connections and reports it to neither side. The
/// first operation of each kind afterwards succeeds: it waits for no reply on a lost connection for
/// longer than a part of its timeout.
#[tokio::test]
async fn first_operation_after_idle_connections_were_lost_succeeds() {
    for first in ["revocation", "known token", "unknown token"] {
        let scene = Scene::with_timeout(&[], LATE).await;
        scene.until_in_use("again").await;
        scene.proxy.forget_connections();
        pass_time(Duration::from_secs(3600)).await;
        let start = Instant::now();
        match first {
            "revocation" => {
                let revoked = scene.cache.invalidate_user("ada").await;
                assert!(revoked.is_ok(), "{revoked:?}");
            }
            "known token" => {
                let (_, origin) = ask(&scene.layer, "ada-before").await.unwrap();
                assert_eq!(origin, Origin::Redis);
            }
            _ => {
                ask(&scene.layer, "bea-new").await.unwrap();
                let (_, origin) = ask(&scene.layer, "bea-new").await.unwrap();
                assert_eq!(origin, Origin::Redis);
            }
        }
        assert!(start.elapsed() < LATE, "{first}");
        assert!(scene.proxy.lost() > 0, "{first}: no connection was lost");
        assert_eq!(scene.cache.stats().redis_errors, 0, "{first}");
        scene.over("idle", 0).await;
    }
}

/// As with a server that freezes while a client connects, or a firewall that loses its state then.
#[tokio::test]
async fn cache_recovers_after_redis_goes_silent_while_connecting() {
    let mut scene = Scene::new(&[]).await;
    scene.redis.kill();
    scene.redis.restart();
    scene.proxy.fault(Fault::SwallowAfterGreeting);
    scene.requests("connecting").await;
    assert!(scene.cache.stats().redis_circuit_open);
    // The maximum number of connections is in progress, and none of them will ever be established.
    scene.connections_under_way().await;
    scene.proxy.fault(Fault::None);
    scene.over("connecting", 1).await;
}

#[tokio::test]
async fn slow_redis_is_used_within_the_timeout_and_skipped_beyond_it() {
    let scene = Scene::new(&[]).await;
    scene.proxy.fault(Fault::Delay(Duration::from_millis(100)));
    scene.requests("slow").await;
    scene.proxy.fault(Fault::Delay(Duration::from_secs(1)));
    scene.until_circuit_open().await;
    scene.requests("slower").await;
    scene.proxy.fault(Fault::None);
    scene.until_in_use("after").await;
    let (gone, back) = scene.changes();
    // On a slow machine the first delay may exceed the timeout as well.
    assert!((1..=2).contains(&gone) && back == gone, "{gone} {back}");
}

#[tokio::test]
async fn cache_recovers_after_replies_are_cut_off() {
    let scene = Scene::new(&[]).await;
    scene.proxy.fault(Fault::Cut);
    scene.requests("cut").await;
    assert!(scene.cache.stats().redis_circuit_open);
    scene.proxy.fault(Fault::None);
    scene.over("cut", 1).await;
}

#[tokio::test]
async fn killed_connections_do_not_open_the_circuit_breaker() {
    // Redis 8 with I/O threads may take long to close a connection.
    let scene = Scene::with_timeout(&[], LATE).await;
    for _ in 0..5 {
        scene
            .redis
            .run::<()>(cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal"));
        scene.requests("killed-connections").await;
    }
    scene.over("killed-connections", 0).await;
}

#[tokio::test]
async fn flushed_redis_does_not_open_the_circuit_breaker() {
    let scene = Scene::new(&[]).await;
    scene.redis.run::<()>(&cmd("FLUSHALL"));
    scene.requests("flushed").await;
    scene.over("flushed", 0).await;
}

/// Redis is out of memory, unable to save, or a replica, and still replies to reads.
#[tokio::test]
async fn breaker_stays_open_while_redis_rejects_writes() {
    let scene = Scene::new(&["--save", "3600", "1000000"]).await;
    for (round, error) in ["OOM", "MISCONF", "READONLY"].into_iter().enumerate() {
        let folder = scene.redis.folder().join("dump.rdb");
        match error {
            "OOM" => scene.config("maxmemory", "1"),
            "MISCONF" => {
                // A save ends with a rename to this path, which fails because it is a directory.
                let _ = std::fs::remove_file(&folder);
                std::fs::create_dir(&folder).unwrap();
                scene.redis.run::<()>(&cmd("BGSAVE"));
                until("the save to fail", || {
                    let info: String = scene.redis.run(cmd("INFO").arg("persistence"));
                    info.contains("rdb_last_bgsave_status:err")
                })
                .await;
            }
            _ => scene
                .redis
                .run::<()>(cmd("REPLICAOF").arg("127.0.0.1").arg("1")),
        }
        let refused: bb8_redis::redis::RedisResult<()> = Client::open(scene.redis.url())
            .unwrap()
            .get_connection()
            .and_then(|mut connection| cmd("SET").arg("x").arg("y").query(&mut connection));
        assert_eq!(refused.unwrap_err().code(), Some(error));
        scene.until_circuit_open().await;
        scene.requests(error).await;
        let queued = scene
            .cache
            .revoke_token(&token(&format!("eve-{error}")))
            .await;
        assert_eq!(queued.unwrap_err().kind(), RevokeErrorKind::Queued);
        scene.two_probes().await;
        assert!(
            scene.cache.stats().redis_circuit_open,
            "the breaker must not flap"
        );
        match error {
            "OOM" => scene.config("maxmemory", "0"),
            "MISCONF" => {
                std::fs::remove_dir(&folder).unwrap();
                scene.redis.run::<()>(&cmd("BGSAVE"));
            }
            _ => scene.redis.run::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")),
        }
        scene.over(error, round + 1).await;
        until("the deliveries", || {
            scene.cache.stats().queued_revocations == 0
        })
        .await;
    }
}

#[tokio::test]
async fn cache_recovers_after_redis_suddenly_requires_a_password() {
    let scene = Scene::new(&[]).await;
    let mut admin = Client::open(scene.redis.url())
        .unwrap()
        .get_connection()
        .unwrap();
    scene.config("requirepass", "s3cr3t-pass");
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal");
    kill.exec(&mut admin).unwrap();
    scene.until_circuit_open().await;
    scene.requests("NOAUTH").await;
    let text = scene.log.text();
    let named = text.contains("NOAUTH") || text.contains("Authentication required");
    assert!(named, "{text}");
    let mut config = cmd("CONFIG");
    config.arg("SET").arg("requirepass").arg("");
    config.exec(&mut admin).unwrap();
    drop(admin);
    scene.over("NOAUTH", 1).await;
}

#[tokio::test]
async fn cache_recovers_after_redis_loads_its_data_slowly() {
    let slowly = ["--key-load-delay", "2000"];
    let answering = ["--loading-process-events-interval-bytes", "1024"];
    // Redis 6.2 does not have this setting, and sends no replies while it loads.
    if is_before_7() {
        return;
    }
    let mut scene = Scene::new(&[slowly, answering].concat()).await;
    for n in 0..2_000 {
        scene.redis.set(&format!("ballast:{n}"), "x");
    }
    scene.redis.run::<()>(&cmd("SAVE"));
    scene.redis.kill();
    scene.redis.restart();
    scene.requests("LOADING").await;
    scene.over("LOADING", 1).await;
}

#[tokio::test]
async fn cache_recovers_after_redis_reaches_maxclients() {
    let mut scene = Scene::new(&["--maxclients", "8"]).await;
    let client = Client::open(scene.redis.url()).unwrap();
    scene.redis.kill();
    scene.redis.restart();
    let mut others = Vec::new();
    while let Ok(mut connection) = client.get_connection_with_timeout(LATE)
        && cmd("PING").exec(&mut connection).is_ok()
    {
        others.push(connection);
    }
    assert!(others.len() >= 6, "{}", others.len());
    scene.requests("maxclients").await;
    assert!(scene.cache.stats().redis_circuit_open);
    drop(others);
    scene.over("maxclients", 1).await;
}

#[tokio::test]
async fn flood_of_invalid_tokens_leaves_nothing_in_redis_for_long() {
    let redis = Redis::start();
    // The time during which a rejection is remembered does not pass.
    let clock = ManualClock::new();
    let builder = SessionCache::builder()
        .redis(RedisConfig::single(redis.url()).timeout(Duration::from_secs(20)))
        .unwrap();
    let cache = builder.clock(clock).build().unwrap();
    let probe = Probe::answering(|_| Err(ValidationError::invalid()));
    let layer = SessionCacheLayer::new(cache, probe.clone());
    for n in 0..300 {
        let answer = ask(&layer, &format!("bad-{}", n % 5)).await;
        assert_eq!(answer.unwrap_err(), 401);
    }
    assert_eq!(
        probe.calls(),
        5,
        "repeated tokens are not validated again within the negative TTL"
    );
    for n in 0..1_000 {
        ask(&layer, &format!("bad-{n}")).await.unwrap_err();
    }
    // Each is a rejection that nodes share, and ends 1 s and the negative TTL of 5 s later.
    for key in redis.keys() {
        assert!(key.starts_with("session_rejection:"), "{key}");
        let left: i64 = redis.run(cmd("PTTL").arg(&key));
        assert!((-2..=6_000).contains(&left) && left != -1, "{key}: {left}");
    }
}

/// While the identity provider fails, cached sessions are served and other tokens get 503.
#[tokio::test]
async fn provider_outage_keeps_cached_sessions_and_rejects_others() {
    let redis = Redis::start();
    let appwrite = Appwrite::start().await;
    appwrite.add_user("ada", "ada@example.com", "password");
    let cache = SessionCache::builder()
        .redis(RedisConfig::single(redis.url()).timeout(Duration::from_secs(5)))
        .unwrap()
        .validation_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let validator = AppwriteValidator::new(appwrite.endpoint(), appwrite.project_id()).unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), validator);
    let known = appwrite.issue("ada");
    assert_eq!(ask(&layer, &known).await.unwrap().0.id(), "ada");
    let log = record();
    let mut outages = 0;
    for fault in [
        ProviderFault::Cut,
        ProviderFault::Delay(Duration::from_secs(30)),
        ProviderFault::Hang,
        ProviderFault::Status(500),
        ProviderFault::Html(502),
        ProviderFault::Html(401),
        ProviderFault::HalfBody,
        ProviderFault::Typed {
            status: 404,
            kind: "project_not_found",
        },
        ProviderFault::Throttled {
            reset_epoch: None,
            retry_after: Some(1),
        },
    ] {
        for place in [Endpoint::Account, Endpoint::Session] {
            appwrite.fault(place, fault.clone());
        }
        let fresh = [(); 3].map(|()| appwrite.issue("ada"));
        for fresh in &fresh {
            let start = Instant::now();
            assert_eq!(ask(&layer, fresh).await.unwrap_err(), 503, "{fault:?}");
            assert!(start.elapsed() < LATE, "{fault:?}");
            let (user, origin) = ask(&layer, &known).await.unwrap();
            assert_eq!((user.id(), origin), ("ada", Origin::Redis), "{fault:?}");
        }
        appwrite.clear_faults();
        soon("sessions to be validated again", async {
            while ask(&layer, &fresh[2]).await.is_err() {
                crate::support::pass().await;
            }
        })
        .await;
        outages += 1;
        let text = log.text();
        let count = |line| text.matches(line).count();
        let reported =
            count("identity provider unavailable") + count("no session can be validated");
        assert_eq!(reported, outages, "{fault:?}: {text}");
        assert_eq!(count("identity provider available again"), outages);
    }
    until("all validations to finish", || {
        cache.stats().validations_in_flight == 0
    })
    .await;
    // An invalid token is rejected after an outage as before.
    assert_eq!(ask(&layer, "no-such-session").await.unwrap_err(), 401);
}

/// No request waits for a Redis that is known to be frozen; requests behave as without Redis.
#[tokio::test]
async fn few_requests_wait_for_a_frozen_redis() {
    let scene = Scene::new(&[]).await;
    let without = SessionCacheLayer::new(SessionCache::default(), scene.probe.clone());
    scene.redis.pause();
    let deadline = Duration::from_millis(250);
    let (mut frozen, mut off) = (Vec::new(), Vec::new());
    for n in 0..300 {
        let text = format!("ada-frozen-{n}");
        for (layer, took) in [(&scene.layer, &mut frozen), (&without, &mut off)] {
            let start = Instant::now();
            let (user, origin) = ask(layer, &text).await.unwrap();
            assert_eq!((user.id(), origin), ("ada", Origin::Validator));
            took.push(start.elapsed());
        }
        if n >= 3 {
            assert!(scene.cache.stats().redis_circuit_open);
        }
    }
    let waited = frozen.iter().filter(|took| **took >= deadline).count();
    // Fewer than half, even on a slow machine.
    assert!((3..150).contains(&waited), "{waited}");
    frozen.sort_unstable();
    off.sort_unstable();
    println!(
        "frozen: slowest {:?}, median {:?}; without Redis: slowest {:?}, median {:?}",
        frozen[299], frozen[150], off[299], off[150]
    );
    scene.redis.resume();
    scene.over("frozen", 1).await;
}

#[tokio::test(start_paused = true)]
async fn request_without_a_permit_fails_at_the_validation_timeout() {
    let probe = Probe::new();
    let second = Duration::from_secs(1);
    let builder = SessionCache::builder()
        .validation_timeout(second)
        .max_concurrent_validations(1);
    let cache = builder.build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let start = tokio::time::Instant::now();
    let requests: Vec<_> = (0..50)
        .map(|n| {
            let layer = layer.clone();
            tokio::spawn(async move { ask(&layer, &format!("token-{}", n % 10)).await })
        })
        .collect();
    until("all requests to wait", || cache.stats().coalesced == 40).await;
    assert_eq!(
        (probe.calls(), cache.stats().validations_in_flight),
        (1, 10)
    );
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap_err(), 503);
    }
    assert_eq!(start.elapsed(), second);
}

/// The worst case for a request: it arrives just after an in-flight validation has closed, that
/// validation stores nothing, and a revocation overtakes the next one as well.
#[tokio::test(start_paused = true)]
async fn no_request_waits_longer_than_request_timeout() {
    let slow = validator_fn("slow", |_| async {
        tokio::time::sleep(Duration::from_millis(990)).await;
        Ok(session("ada"))
    });
    let builder = SessionCache::builder()
        .validation_timeout(Duration::from_secs(1))
        .request_timeout(Duration::from_millis(2_750));
    let cache = builder.build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), slow);
    let request = || {
        let layer = layer.clone();
        tokio::spawn(async move {
            let start = tokio::time::Instant::now();
            (ask(&layer, "t").await, start.elapsed())
        })
    };
    let early = request();
    let mut late = None;
    for overtakes in [true, false, true, false, true] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if overtakes {
            let _ = cache.invalidate_user("ada").await.unwrap();
        }
        late = late.or_else(|| (!overtakes).then(&request));
    }
    assert_eq!(early.await.unwrap().0.unwrap().0.id(), "ada");
    let (answer, waited) = late.unwrap().await.unwrap();
    assert_eq!(answer.unwrap_err(), 503);
    // Without Redis the part of `request_timeout` for a lookup in Redis is not used.
    assert_eq!(waited, Duration::from_millis(2_500));
}
