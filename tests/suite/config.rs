//! Configuration: what the existing service's section may say, and errors that say what to write.

use std::time::Duration;

use tower_session_cache::{ConfigError, SessionCache, SessionCacheBuilder, SessionCacheConfig};

fn refused(change: impl FnOnce(SessionCacheBuilder) -> SessionCacheBuilder) -> String {
    let error: ConfigError = change(SessionCache::builder()).build().unwrap_err();
    error.to_string()
}

#[test]
fn the_section_of_the_existing_service_is_understood() {
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
fn an_unknown_key_is_an_error_that_lists_the_known_ones() {
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
fn senseless_values_are_refused_with_what_to_write_instead() {
    let seconds = Duration::from_secs;
    assert!(refused(|b| b.ttl(Duration::ZERO)).contains("ttl_seconds must be at least 1"));
    assert!(refused(|b| b.ttl(seconds(3_591))).contains("3590 or less"));
    assert!(refused(|b| b.max_session_lifetime(seconds(304))).contains("duration_remember_me"));
    assert!(refused(|b| b.max_session_lifetime(Duration::MAX)).contains("ten years"));
    assert!(refused(|b| b.capacity(0)).contains("capacity"));
    assert!(refused(|b| b.capacity(usize::MAX)).contains("capacity"));
    assert!(refused(|b| b.max_concurrent_validations(0)).contains("at least 1"));
    assert!(
        refused(|b| b.max_concurrent_validations(usize::MAX))
            .contains("max_concurrent_validations")
    );
    assert!(refused(|b| b.validation_timeout(Duration::ZERO)).contains("validation timeout"));
    assert!(refused(|b| b.validation_timeout(Duration::MAX)).contains("one hour"));
    assert!(refused(|b| b.redis_connect_deadline(Duration::ZERO)).contains("connecting"));
    let checkout = Duration::from_millis(251);
    assert!(refused(|b| b.redis_checkout_deadline(checkout)).contains("redis_checkout_deadline"));
    assert!(refused(|b| b.redis_checkout_deadline(Duration::ZERO)).contains("not to 0"));
    assert!(refused(|b| b.refresh_ahead(0)).contains("from 1 to 100"));
    assert!(refused(|b| b.refresh_ahead(101)).contains("from 1 to 100"));
    assert!(SessionCache::builder().ttl(seconds(3_590)).build().is_ok());
    // The default of the negative TTL gives way, a setting does not.
    assert!(SessionCache::builder().ttl(seconds(2)).build().is_ok());
    assert!(
        refused(|b| b.ttl(seconds(2)).negative_ttl(seconds(3))).contains("the negative TTL must")
    );
}

#[test]
fn waits_that_exceed_the_requests_own_are_refused() {
    let budget = |b: SessionCacheBuilder, millis| b.request_timeout(Duration::from_millis(millis));
    assert!(refused(|b| budget(b, 10_749)).contains("request_timeout"));
    assert!(budget(SessionCache::builder(), 10_750).build().is_ok());
    let second = Duration::from_secs(1);
    let quick = || SessionCache::builder().validation_timeout(second);
    assert!(budget(quick(), 2_750).build().is_ok());
    assert!(
        budget(quick().redis_deadline(second), 2_750)
            .build()
            .is_err()
    );
    assert!(
        budget(quick().redis_deadline(second), 5_000)
            .build()
            .is_ok()
    );
}
