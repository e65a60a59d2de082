//! Redis over TLS: it is used if everything is valid. Otherwise one log line says what to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bb8_redis::redis::cmd;
use tokio::{io::AsyncReadExt, net::TcpListener};
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, RedisHealth, RedisTls, SessionCache, SessionCacheLayer,
};

use crate::support::{
    client::{ask, token},
    log::record,
    probe::Probe,
    soon,
    tls::{Authority, Pair, TlsRedis, is_spoken},
    until,
};

const SLOWLY: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(700);

fn node(url: String, tls: RedisTls, is_patient: bool) -> (SessionCache, SessionCacheLayer<Probe>) {
    let redis = RedisConfig::single(url)
        .tls(tls)
        .timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(20))
        // Each lookup waits this long if there is never a connection.
        .checkout_timeout(if is_patient { SLOWLY } else { SOON });
    let cache = SessionCache::builder()
        .redis(redis)
        .unwrap()
        .local_cache(LocalCacheConfig::new(100).lease(Duration::from_secs(20)))
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    (cache, layer)
}

fn trusting(authority: &Authority) -> RedisTls {
    RedisTls::new().root_certificates(authority.pem())
}

fn with(tls: RedisTls, Pair { certificate, key }: Pair) -> RedisTls {
    tls.client_certificate(certificate, key)
}

#[tokio::test]
async fn lookups_and_the_listener_use_tls() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    for asks in [false, true] {
        let redis = TlsRedis::start(&authority, &authority.issue("127.0.0.1"), asks, &[]);
        let mut tls = trusting(&authority);
        if asks {
            tls = with(tls, authority.issue("a client"));
        }
        for url in [redis.url(), redis.url().replace("rediss:", "valkeys:")] {
            let (cache, layer) = node(url, tls.clone(), true);
            ask(&layer, "t").await.unwrap();
            until("a lease", || cache.stats().lease_age.is_some()).await;
            soon("a hit in memory", async {
                while ask(&layer, "t").await.unwrap().1 != Origin::Local {}
            })
            .await;
            let _ = cache.revoke_token(&token("other")).await.unwrap();
            assert_eq!(cache.health_check().await.redis, RedisHealth::Up);
            let clients: String = redis.plain.run(cmd("CLIENT").arg("LIST"));
            let over_tls = format!("laddr=127.0.0.1:{}", redis.port);
            let count = clients.lines().filter(|it| it.contains(&over_tls)).count();
            // All connections except the one that lists them.
            assert_eq!(count, clients.lines().count() - 1, "{clients}");
            assert!(count >= 2, "{clients}");
        }
    }
}

/// Returns the one warning of a node that cannot use this Redis.
async fn complaint(url: String, tls: RedisTls) -> String {
    let log = record();
    let (cache, layer) = node(url, tls, false);
    soon("the circuit breaker to open", async {
        while !cache.stats().redis_circuit_open {
            assert_eq!(ask(&layer, "t").await.unwrap().1, Origin::Validator);
        }
    })
    .await;
    assert_eq!(cache.health_check().await.redis, RedisHealth::Down);
    let text = log.text();
    let complaints = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let complaints: Vec<_> = text.lines().filter(complaints).collect();
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(!text.contains("hunter2"), "{text}");
    complaints[0].to_owned()
}

#[tokio::test]
async fn each_tls_failure_causes_one_warning_with_advice() {
    if !is_spoken() {
        return;
    }
    let (authority, other) = (Authority::new(), Authority::new());
    let own = authority.issue("127.0.0.1");
    let redis = TlsRedis::start(&authority, &own, false, &[]);
    let asking = TlsRedis::start(&authority, &own, true, &[]);
    let expired = authority.issue_until("127.0.0.1", 2_001);
    let expired = TlsRedis::start(&authority, &expired, false, &[]);
    let elsewhere = TlsRedis::start(&authority, &authority.issue("redis"), false, &[]);
    let guarded = TlsRedis::start(&authority, &own, false, &["--requirepass", "hunter3"]);
    let tls = || trusting(&authority);
    let wrong = guarded.url().replace("//", "//:hunter2@");
    let plain = redis.plain.url().replace("redis:", "rediss:");
    let stranger = || with(tls(), other.issue("a client"));
    for (name, url, tls, advice) in [
        (
            "wrong CA",
            redis.url(),
            trusting(&other),
            "RedisTls::root_certificates",
        ),
        (
            "no CA",
            redis.url(),
            RedisTls::new(),
            "RedisTls::root_certificates",
        ),
        ("expired", expired.url(), tls(), "has expired; renew it"),
        (
            "another host",
            elsewhere.url(),
            tls(),
            "is for another host",
        ),
        (
            "no certificate",
            asking.url(),
            tls(),
            "RedisTls::client_certificate",
        ),
        (
            "a stranger's",
            asking.url(),
            stranger(),
            "RedisTls::client_certificate",
        ),
        ("no TLS", plain, tls(), "tls-port"),
        ("wrong password", wrong, tls(), "check user and password"),
        (
            "no password",
            guarded.url(),
            tls(),
            "Authentication required",
        ),
    ] {
        let complaint = complaint(url, tls).await;
        assert!(complaint.contains(advice), "{name}: {complaint}");
    }
    let keys = [&redis, &asking, &expired, &elsewhere].map(|redis| redis.plain.keys());
    assert!(keys.iter().all(Vec::is_empty), "{keys:?}");
}

/// Whatever the server does, nothing is sent in plain text.
#[tokio::test]
async fn connection_never_falls_back_to_plain_text() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!(
        "rediss://127.0.0.1:{}",
        listener.local_addr().unwrap().port()
    );
    let (seen, plain) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&seen), Arc::clone(&plain));
    let server = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            // A handshake begins with a record of this type.
            let is_handshake = matches!(client.read_u8().await, Ok(0x16));
            counts.0.fetch_add(1, SeqCst);
            counts.1.fetch_add(usize::from(!is_handshake), SeqCst);
        }
    });
    complaint(url, RedisTls::new()).await;
    assert!(seen.load(SeqCst) >= 3);
    assert_eq!(plain.load(SeqCst), 0);
    server.abort();
}

#[test]
fn certificates_are_checked_when_they_are_set() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.issue("a client");
    let stranger = other.issue("a client");
    let of = |certificate: &str, key: &str| RedisTls::new().client_certificate(certificate, key);
    let built = |redis: RedisConfig| {
        let builder = SessionCache::builder().redis(redis);
        builder.map(|_| ()).map_err(|error| error.to_string())
    };
    let over = |tls| built(RedisConfig::single("rediss://redis").tls(tls));

    assert_eq!(over(trusting(&authority)), Ok(()));
    assert_eq!(over(of(&pair.certificate, &pair.key)), Ok(()));
    for (tls, advice) in [
        (
            RedisTls::new().root_certificates("/etc/ca.pem"),
            "the CA as PEM",
        ),
        (
            RedisTls::new().root_certificates(&*pair.key),
            "the CA as PEM",
        ),
        (of("me", &pair.key), "both as PEM"),
        (of(&pair.certificate, "key"), "both as PEM"),
        (of(&pair.certificate, &stranger.key), "belong together"),
        (of(&pair.key, &pair.certificate), "the certificate first"),
    ] {
        let error = over(tls).unwrap_err();
        assert!(error.contains(advice), "{error}");
    }
    let plain = RedisConfig::single("redis://redis").tls(trusting(&authority));
    let error = built(plain).unwrap_err();
    assert!(error.contains("rediss://"), "{error}");
    let insecure = SessionCache::builder().redis("rediss://:hunter2@redis/2#insecure");
    let error = insecure.unwrap_err().to_string();
    assert!(
        error.contains("`RedisConfig::tls`") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn certificates_do_not_appear_in_debug_output() {
    let pair = Authority::new().issue("a client");
    let tls = with(RedisTls::new(), Pair { ..pair });
    let config = RedisConfig::single("rediss://redis").tls(tls.clone());
    let expected = "RedisTls { root_certificates: false, client_certificate: true }";
    assert_eq!(format!("{tls:?}"), expected);
    assert!(format!("{config:?}").contains(expected));
    let builder = SessionCache::builder().redis(config).unwrap();
    assert!(!format!("{builder:?}").contains("PRIVATE KEY"));
}
