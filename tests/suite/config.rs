//! Configuration: the section that the Python service has, and errors that say what to write
//! instead.

use std::time::Duration;

use tower_session_cache::{
    ConfigError, LocalCacheConfig, RedisConfig, SessionCache, SessionCacheBuilder,
    SessionCacheConfig,
};

fn refused(change: impl FnOnce(SessionCacheBuilder) -> SessionCacheBuilder) -> String {
    let error: ConfigError = change(SessionCache::builder()).build().unwrap_err();
    error.to_string()
}

#[test]
fn config_section_of_the_python_service_is_parsed() {
    let text =
        r#"{ "enabled": true, "ttl_seconds": 60, "redis_db": 2, "duration_remember_me": 86400 }"#;
    let config: SessionCacheConfig = serde_json::from_str(text).unwrap();
    assert_eq!(
        (config.ttl_seconds, config.duration_remember_me),
        (60, 86_400)
    );
    assert!(SessionCache::builder().config(&config).build().is_ok());
    let empty: SessionCacheConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(empty, SessionCacheConfig::default());
}

#[test]
fn unknown_config_key_error_lists_the_known_keys() {
    let error = serde_json::from_str::<SessionCacheConfig>(r#"{ "ttl": 60 }"#).unwrap_err();
    let text = error.to_string();
    for name in [
        "`ttl`",
        "enabled",
        "ttl_seconds",
        "redis_db",
        "duration_remember_me",
    ] {
        assert!(text.contains(name), "{text}");
    }
    assert!(serde_json::from_str::<SessionCacheConfig>(r#"{ "ttl_seconds": -1 }"#).is_err());
}

#[test]
fn invalid_values_are_rejected_with_a_hint() {
    let seconds = Duration::from_secs;
    assert!(refused(|b| b.ttl(Duration::ZERO)).contains("`ttl` (`ttl_seconds`) must be at least"));
    assert!(refused(|b| b.ttl(seconds(3_595))).contains("3590 s or less"));
    let longest = |b: SessionCacheBuilder, n| b.ttl(seconds(300)).max_session_lifetime(seconds(n));
    // The setting that is too small is named, and no setting that was not set.
    let error = refused(|b| longest(b, 304));
    assert!(
        error.starts_with("`max_session_lifetime` (`duration_remember_me`) must"),
        "{error}"
    );
    assert!(!error.contains("stale_if_error"), "{error}");
    let with_stale = |b: SessionCacheBuilder, n| longest(b, n).stale_if_error(seconds(3_290));
    for (n, other) in [(304, "reduce `ttl`"), (3_000, "reduce `stale_if_error`")] {
        let error = refused(|b| with_stale(b, n));
        assert!(
            error.starts_with("`max_session_lifetime`") && error.contains(other),
            "{error}"
        );
    }
    assert!(longest(SessionCache::builder(), 305).build().is_ok());
    assert!(refused(|b| b.max_session_lifetime(Duration::MAX)).contains("10 years"));
    assert!(refused(|b| b.capacity(0)).contains("`capacity`"));
    assert!(refused(|b| b.capacity(usize::MAX)).contains("`capacity`"));
    assert!(refused(|b| b.max_concurrent_validations(0)).contains("at least 1"));
    assert!(
        refused(|b| b.max_concurrent_validations(usize::MAX))
            .contains("`max_concurrent_validations`")
    );
    assert!(refused(|b| b.validation_timeout(Duration::ZERO)).contains("`validation_timeout`"));
    assert!(refused(|b| b.validation_timeout(Duration::MAX)).contains("1 hour"));
    assert!(refused(|b| b.refresh_ahead(0)).contains("from 1 to 100"));
    assert!(refused(|b| b.refresh_ahead(101)).contains("from 1 to 100"));
    assert!(refused(|b| b.ttl(seconds(2)).negative_ttl(seconds(3))).contains("`negative_ttl`"));
}

/// Each of these settings is the only one that is set, so defaults must adapt to it.
#[test]
fn build_succeeds_with_any_single_valid_setting() {
    type Change = fn(SessionCacheBuilder) -> SessionCacheBuilder;
    let alone: [(&str, Change); 14] = [
        ("ttl", |b| b.ttl(Duration::from_secs(1))),
        ("ttl", |b| b.ttl(Duration::from_secs(3_594))),
        ("negative_ttl", |b| b.negative_ttl(Duration::ZERO)),
        ("negative_ttl", |b| {
            b.negative_ttl(Duration::from_secs(3_600))
        }),
        ("max_session_lifetime", |b| {
            b.max_session_lifetime(Duration::from_secs(6))
        }),
        ("max_session_lifetime", |b| {
            b.max_session_lifetime(Duration::from_secs(100))
        }),
        ("validation_timeout", |b| {
            b.validation_timeout(Duration::from_nanos(1))
        }),
        ("validation_timeout", |b| {
            b.validation_timeout(Duration::from_secs(3_594))
        }),
        ("request_timeout", |b| {
            b.request_timeout(Duration::from_millis(100))
        }),
        ("request_timeout", |b| {
            b.request_timeout(Duration::from_secs(1))
        }),
        ("capacity", |b| b.capacity(1)),
        ("refresh_ahead", |b| b.refresh_ahead(1)),
        ("local_cache", |b| {
            let local = LocalCacheConfig::new(1).lease(Duration::from_secs(60));
            b.local_cache(local.max_age(Duration::from_nanos(1)))
        }),
        ("stale_if_error", |b| {
            // With Redis it needs a local cache, which is not on by default.
            let local = LocalCacheConfig::new(1);
            b.local_cache(local)
                .stale_if_error(Duration::from_secs(3_593))
        }),
    ];
    for (name, change) in alone {
        let without = change(SessionCache::builder()).build();
        assert!(without.is_ok(), "{name}: {without:?}");
        let with = change(SessionCache::builder().redis("redis://redis").unwrap()).build();
        assert!(with.is_ok(), "{name}: {with:?}");
    }
    let redis: [fn(RedisConfig) -> RedisConfig; 6] = [
        |redis| redis.timeout(Duration::from_millis(50)),
        |redis| redis.timeout(Duration::from_secs(3_600)),
        |redis| redis.connect_timeout(Duration::from_millis(1)),
        |redis| redis.connect_timeout(Duration::from_secs(3_600)),
        |redis| redis.checkout_timeout(Duration::from_millis(1)),
        |redis| redis.checkout_timeout(Duration::from_secs(3_600)),
    ];
    for change in redis {
        let redis = change(RedisConfig::single("redis://redis"));
        let cache = SessionCache::builder()
            .redis(redis.clone())
            .unwrap()
            .build();
        assert!(cache.is_ok(), "{redis:?}: {cache:?}");
    }
    let file: SessionCacheConfig =
        serde_json::from_str(r#"{ "duration_remember_me": 100 }"#).unwrap();
    assert!(SessionCache::builder().config(&file).build().is_ok());
}

#[test]
fn redis_setting_accepts_urls_and_configs() {
    let text = "redis://redis:6379/2";
    let owned = text.to_owned();
    let builder = SessionCache::builder;
    for result in [
        builder().redis(text),
        builder().redis(&owned),
        builder().redis(owned),
        builder().redis(RedisConfig::single(text)),
        builder().redis(text.parse::<RedisConfig>().unwrap()),
    ] {
        assert!(result.unwrap().build().is_ok());
    }
    for error in [
        builder().redis("redis"),
        builder().redis(RedisConfig::single("redis")),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("redis://host:6379/2"), "{error}");
    }
}

#[test]
fn request_timeout_below_the_sum_of_its_parts_is_rejected() {
    let millis = Duration::from_millis;
    let build = |request, validation, redis| {
        let redis = RedisConfig::single("redis://redis").timeout(redis);
        let builder = SessionCache::builder().redis(redis).unwrap();
        let builder = builder
            .validation_timeout(validation)
            .request_timeout(request);
        builder.build().map_err(|error| error.to_string())
    };
    let error = build(millis(10_749), millis(5_000), millis(250)).unwrap_err();
    assert!(error.contains("`request_timeout`"), "{error}");
    assert!(build(millis(10_750), millis(5_000), millis(250)).is_ok());
    assert!(build(millis(2_750), millis(1_000), millis(1_000)).is_err());
    assert!(build(millis(5_000), millis(1_000), millis(1_000)).is_ok());
}
