//! Log lines, and the spans that they are in.

use std::time::Duration;

use tower_session_cache::{
    Origin, SessionCache, SessionCacheLayer, SessionToken, ValidatedSession, ValidationError,
    testing::ManualClock, validator_fn,
};
use tracing::Instrument;

use crate::support::{
    client::{ask, token},
    log::record,
    probe::{Probe, session},
    redis::Redis,
    soon, until,
};

/// Returns the lines of the log that contain `what`.
fn lines(log: &str, what: &str) -> Vec<String> {
    let found = log.lines().filter(|line| line.contains(what));
    found.map(str::to_owned).collect()
}

#[tokio::test]
async fn validator_logs_are_inside_the_requests_span() {
    let log = record();
    let validator = validator_fn("ada", async |_: SessionToken| {
        tracing::info!("the validator speaks");
        // A call that it makes logs as well, in whichever task it runs.
        let call = async { tracing::info!("its call speaks") };
        tokio::spawn(call.instrument(tracing::info_span!("call")))
            .await
            .unwrap();
        Ok::<ValidatedSession, ValidationError>(session("ada"))
    });
    let layer = SessionCacheLayer::new(SessionCache::default(), validator);
    let request = ask(&layer, "t").instrument(tracing::info_span!("request", id = 7));
    request.await.unwrap();
    let text = log.text();
    let spoken = lines(&text, "the validator speaks");
    assert!(
        spoken[0].contains("request{id=7}:session_lookup"),
        "{spoken:?}"
    );
    let spoken = lines(&text, "its call speaks");
    assert!(
        spoken[0].contains("request{id=7}:session_lookup"),
        "{spoken:?}"
    );
    assert!(spoken[0].contains(":call"), "{spoken:?}");
    let ended = lines(&text, "session lookup finished");
    assert_eq!(ended.len(), 1);
    assert!(ended[0].contains("outcome=\"miss\""), "{ended:?}");
    assert!(ended[0].contains("DEBUG"), "{ended:?}");
    assert!(
        ended[0].contains("tower_session_cache::lookup"),
        "{ended:?}"
    );
    let ended = lines(&text, "session validation finished");
    assert!(
        ended[0].contains("request{id=7}:session_lookup"),
        "{ended:?}"
    );
    assert!(ended[0].contains("outcome=\"accepted\""), "{ended:?}");
}

#[tokio::test]
async fn local_hit_logs_nothing_and_a_redis_lookup_logs_its_outcome() {
    let log = record();
    let redis = Redis::start();
    let near = SessionCacheLayer::new(SessionCache::default(), Probe::new());
    ask(&near, "t").await.unwrap();
    let before = log.text().len();
    for _ in 0..10 {
        assert_eq!(ask(&near, "t").await.unwrap().1, Origin::Local);
    }
    let said = log.text()[before..].to_owned();
    assert!(!said.contains("tower_session_cache"), "{said}");

    let builder = SessionCache::builder().redis(redis.url()).unwrap();
    let far = builder.build().unwrap();
    let far = SessionCacheLayer::new(far, Probe::new());
    soon("a hit", async {
        while ask(&far, "t").await.unwrap().1 != Origin::Redis {}
    })
    .await;
    let text = log.text();
    let ended = lines(&text, "session lookup finished");
    assert!(
        ended.last().unwrap().contains("outcome=\"redis\""),
        "{ended:?}"
    );
}

#[tokio::test]
async fn validation_is_in_the_leaders_span_and_joiners_are_marked() {
    let log = record();
    let cache = SessionCache::default();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    probe.hold();
    let request = |name: &'static str| {
        let layer = layer.clone();
        let span = tracing::info_span!("request", name);
        tokio::spawn(async move { ask(&layer, "t").await.unwrap() }.instrument(span))
    };
    let first = request("first");
    probe.wait_for_calls(1).await;
    let second = request("second");
    until("the second request to join", || {
        cache.stats().coalesced == 1
    })
    .await;
    // The first request is dropped, and the validation stays in its span.
    first.abort();
    probe.let_go();
    soon("an answer", second).await.unwrap();
    let text = log.text();
    let validated = lines(&text, "session validation finished");
    assert!(
        validated[0].contains("request{name=\"first\"}:session_lookup"),
        "{validated:?}"
    );
    let ended = lines(&text, "session lookup finished");
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert!(
        ended[0].contains("request{name=\"second\"}:session_lookup{coalesced=true"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn refresh_has_a_separate_span() {
    let log = record();
    let clock = ManualClock::new();
    let cache = SessionCache::builder().clock(clock.clone()).build();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.unwrap(), probe.clone());
    ask(&layer, "t").await.unwrap();
    clock.advance(Duration::from_secs(245));
    let before = log.text().len();
    let request = ask(&layer, "t").instrument(tracing::info_span!("request", id = 7));
    assert_eq!(request.await.unwrap().1, Origin::Local);
    let said = || lines(&log.text()[before..], "session validation finished");
    until("a validation", || !said().is_empty()).await;
    let validated = said();
    assert!(validated[0].contains(" session_refresh"), "{validated:?}");
    assert!(!validated[0].contains("request{"), "{validated:?}");
    assert_eq!(probe.calls(), 2);
}

#[tokio::test]
async fn revocation_logs_its_outcome() {
    let log = record();
    let cache = SessionCache::default();
    let _ = cache.revoke_token(&token("t")).await.unwrap();
    let _ = cache.invalidate_user("user-ada").await.unwrap();
    let text = log.text();
    let said = lines(&text, "tower_session_cache::revocation");
    assert_eq!(said.len(), 2, "{text}");
    assert!(
        said[0].contains("kind=\"revoke_token\" outcome=\"applied\""),
        "{said:?}"
    );
    assert!(!text.contains("user-ada"), "{text}");
}
