//! The cache finds and follows the primary that the sentinels name, even if they disagree.

use std::time::Duration;

use bb8_redis::redis::cmd;
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, RedisTls, SessionCache, SessionCacheBuilder,
    SessionCacheLayer,
};

use crate::support::{
    client::{ask, token},
    log::record,
    peer::{session_key, tomb_key},
    probe::Probe,
    redis::Redis,
    sentinel::{Fake, NAME, Says, Sentinel, Set},
    soon,
    tls::{Authority, TlsRedis, is_spoken, options},
    until,
};

type Layer = SessionCacheLayer<Probe>;

fn config(urls: impl IntoIterator<Item = String>) -> RedisConfig {
    RedisConfig::sentinel(urls, NAME)
        .database(2)
        .timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(20))
        .checkout_timeout(Duration::from_secs(1))
}

fn builder_of(redis: RedisConfig) -> SessionCacheBuilder {
    SessionCache::builder().redis(redis).unwrap()
}

fn builder(urls: impl IntoIterator<Item = String>) -> SessionCacheBuilder {
    builder_of(config(urls))
}

fn node(builder: SessionCacheBuilder) -> (SessionCache, Layer) {
    let cache = builder.build().unwrap();
    (cache.clone(), SessionCacheLayer::new(cache, Probe::new()))
}

async fn fakes(says: [Says; 3]) -> [Fake; 3] {
    let [a, b, c] = says.map(Fake::start);
    [a.await, b.await, c.await]
}

fn urls(fakes: &[Fake]) -> Vec<String> {
    fakes.iter().map(Fake::url).collect()
}

async fn until_from_redis(layer: &Layer, token: &str) {
    soon("the cache to be used", async {
        while ask(layer, token).await.unwrap().1 != Origin::Redis {}
    })
    .await;
}

#[tokio::test]
async fn failover_is_followed_and_starts_a_new_epoch() {
    let mut set = Set::start();
    let local = LocalCacheConfig::new(100).lease(Duration::from_secs(5));
    let (near, near_layer) = node(builder(set.urls()).local_cache(local));
    let (cache, layer) = node(builder_of(
        config(set.urls()).wait_for_replicas(2, Duration::from_secs(20)),
    ));
    until_from_redis(&layer, "t").await;
    ask(&near_layer, "t").await.unwrap();
    until("a lease", || near.stats().lease_age.is_some()).await;
    assert!(set.primary().get(&session_key("t")).is_some());
    let revocation = cache.revoke_token(&token("gone")).await.unwrap();
    assert_eq!(revocation.replicas(), Some(2));
    let (log, epochs) = (record(), near.stats().local_resets);

    set.fail_over();
    let tomb = set.primary().get(&tomb_key("gone"));
    assert!(tomb.is_some(), "all replicas had it");
    // Wherever the trust floor is: records stored under another run ID are no longer accepted.
    until_from_redis(&layer, "t").await;
    assert_eq!(ask(&layer, "gone").await.unwrap_err(), 401);
    soon("the local cache to be used again", async {
        while ask(&near_layer, "t").await.unwrap().1 != Origin::Local {}
    })
    .await;
    assert!(near.stats().local_resets > epochs);
    assert_eq!(ask(&near_layer, "gone").await.unwrap_err(), 401);
    let text = log.text();
    assert_eq!(text.matches("Redis restarted or replaced").count(), 2);
    assert!(text.contains("sentinels reported a new primary"), "{text}");
}

/// The old primary was cut off from its sentinels, and continues as if nothing had happened.
#[tokio::test]
async fn clients_leave_an_old_primary_that_still_answers() {
    let (old, new) = (Redis::start(), Redis::start());
    let fakes = fakes([Says::Primary(1, old.port()); 3]).await;
    let local = LocalCacheConfig::new(100).lease(Duration::from_secs(20));
    let (near, near_layer) = node(builder(urls(&fakes)).local_cache(local));
    let (cache, layer) = node(builder(urls(&fakes)));
    until_from_redis(&layer, "t").await;
    ask(&near_layer, "t").await.unwrap();
    until("a lease", || near.stats().lease_age.is_some()).await;
    assert!(old.listeners().len() == 1 && !old.other_clients().is_empty());

    for fake in &fakes {
        fake.say(Says::Primary(2, new.port()));
    }
    // The nodes connect only when there is something to do.
    soon("the new primary to be used", async {
        while new.get(&session_key("t")).is_none() || new.listeners().is_empty() {
            ask(&layer, "t").await.unwrap();
            ask(&near_layer, "t").await.unwrap();
        }
    })
    .await;
    let _ = cache.revoke_token(&token("t")).await.unwrap();
    assert!(new.get(&tomb_key("t")).is_some());
    assert!(old.get(&tomb_key("t")).is_none());
    soon("the old primary to be left", async {
        // The connection that lists the clients is also a client.
        while old.listeners().len() + old.other_clients().len() > 1 {
            let _ = ask(&near_layer, "other").await;
            let _ = ask(&layer, "other").await;
        }
    })
    .await;
}

#[tokio::test]
async fn newest_sentinel_wins_and_an_outdated_minority_is_ignored() {
    let (old, new) = (Redis::start(), Redis::start());
    let ports = (old.port(), new.port());
    let fakes = fakes([
        Says::Primary(4, ports.0),
        Says::Primary(5, ports.1),
        Says::Primary(5, ports.1),
    ])
    .await;
    // Half of this timeout is the wait for the sentinels.
    let builder = builder_of(config(urls(&fakes)).connect_timeout(Duration::from_secs(1)));
    let (cache, layer) = node(builder);
    soon("the newer primary to be found", async {
        while new.get(&session_key("t")).is_none() {
            ask(&layer, "t").await.unwrap();
        }
    })
    .await;

    // With the up-to-date sentinels silent, the remaining one knows only the old primary.
    for fake in &fakes[1..] {
        fake.say(Says::Nothing);
    }
    old.run::<()>(&cmd("FLUSHALL"));
    let log = record();
    soon("the circuit breaker to open", async {
        while !cache.stats().redis_circuit_open {
            // Repeated, since the sentinels may have been asked just before they became silent.
            for client in new.other_clients() {
                new.end_client(client);
            }
            ask(&layer, "u").await.unwrap();
        }
    })
    .await;
    assert_eq!(old.keys(), [""; 0]);
    let text = log.text();
    assert!(text.contains("have missed a failover"), "{text}");

    // All sentinels were set up again, and count epochs from zero.
    for fake in &fakes[..2] {
        fake.say(Says::Primary(0, ports.0));
    }
    until_from_redis(&layer, "u").await;
    assert!(old.get(&session_key("u")).is_some());
}

#[tokio::test]
async fn unknown_primary_causes_one_warning_with_advice() {
    for (says, reason) in [
        (Says::Unknown, "No such master"),
        (Says::Nothing, "no reply"),
    ] {
        let fakes = fakes([says; 3]).await;
        let log = record();
        let builder = builder_of(config(urls(&fakes)).connect_timeout(Duration::from_secs(1)));
        let (cache, layer) = node(builder.local_cache(LocalCacheConfig::new(100)));
        soon("the circuit breaker to open", async {
            while !cache.stats().redis_circuit_open {
                ask(&layer, "t").await.unwrap();
            }
        })
        .await;
        let text = log.text();
        let complaints: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(complaints.len(), 1, "{complaints:#?}");
        let complaint = complaints[0];
        assert!(
            complaint.contains("RedisConfig::sentinel") && complaint.contains(reason),
            "{complaint}"
        );
    }
}

#[tokio::test]
async fn sentinels_and_primary_use_separate_passwords_and_tls() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let own = authority.issue("127.0.0.1");
    let redis = TlsRedis::start(&authority, &own, true, &["--requirepass", "primary"]);
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &authority, &own, true);
    let mut lines: Vec<_> = options
        .chunks(2)
        .map(|pair| format!("{} {}", pair[0].trim_start_matches("--"), pair[1]))
        .collect();
    lines.extend([
        "tls-replication yes".to_owned(),
        "requirepass sentinel".to_owned(),
        format!("sentinel monitor {NAME} 127.0.0.1 {} 1", redis.port),
        format!("sentinel auth-pass {NAME} primary"),
    ]);
    let sentinel = Sentinel::start(&lines);
    let client = authority.issue("a client");
    let (cache, layer) = node(
        builder_of(
            config([format!("rediss://:sentinel@127.0.0.1:{}", sentinel.port())])
                .credentials_from("rediss://:primary@_/5")
                .tls(
                    RedisTls::new()
                        .root_certificates(authority.pem())
                        .client_certificate(client.certificate, client.key),
                ),
        )
        .local_cache(LocalCacheConfig::new(100).lease(Duration::from_secs(20))),
    );
    until_from_redis(&layer, "t").await;
    until("a lease", || cache.stats().lease_age.is_some()).await;
}

#[test]
fn sentinel_list_must_not_be_empty_and_urls_must_be_valid() {
    let of = |urls: &[&str]| {
        let urls = urls.iter().copied();
        let builder = SessionCache::builder().redis(RedisConfig::sentinel(urls, NAME));
        builder.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(of(&["redis://one", "valkey://two:1"]), Ok(()));
    assert!(of(&[]).unwrap_err().contains("REDIS_SENTINEL_URLS"));
    let error = of(&["redis://one", "two:26379"]).unwrap_err();
    assert!(error.contains("invalid Redis URL"), "{error}");
}
