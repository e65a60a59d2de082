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
    assert!(refused(|b| b.longest_session(seconds(304))).contains("duration_remember_me"));
    assert!(refused(|b| b.longest_session(Duration::MAX)).contains("ten years"));
    assert!(refused(|b| b.capacity(0)).contains("capacity"));
    assert!(refused(|b| b.capacity(usize::MAX)).contains("capacity"));
    assert!(refused(|b| b.max_validations(0)).contains("at least 1"));
    assert!(refused(|b| b.max_validations(usize::MAX)).contains("max_validations"));
    assert!(refused(|b| b.validation_deadline(Duration::ZERO)).contains("deadline"));
    assert!(refused(|b| b.validation_deadline(Duration::MAX)).contains("one hour"));
    assert!(SessionCache::builder().ttl(seconds(3_590)).build().is_ok());
}
