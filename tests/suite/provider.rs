//! An identity provider that fails for one token, for all tokens, or limits the rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::json;
use tower_session_cache::{
    AppwriteValidator, IntrospectionAuth, IntrospectionValidator, Origin, ProviderHealth,
    SessionCache, SessionCacheBuilder, SessionCacheLayer, SessionToken, SessionValidator,
    ValidationError, testing::ManualClock, validator_fn,
};

use crate::support::{
    appwrite::{Appwrite, Endpoint, Fault as AppwriteFault},
    client::{ask, rejection},
    introspection::{CLIENT_ID, CLIENT_SECRET, Demands, Fault, Introspection, jdoe},
    log::{Recording, record},
    probe::{Probe, session},
};

struct Node {
    clock: ManualClock,
    cache: SessionCache,
    probe: Probe,
    layer: SessionCacheLayer<Probe>,
}

fn node() -> Node {
    node_of(SessionCache::builder())
}

fn node_of(builder: SessionCacheBuilder) -> Node {
    let clock = ManualClock::new();
    let cache = builder.clock(clock.clone()).build().unwrap();
    let probe = Probe::new();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    Node {
        clock,
        cache,
        probe,
        layer,
    }
}

impl Node {
    async fn status(&self, token: &str) -> u16 {
        status(&self.layer, token).await
    }
}

async fn status<V: SessionValidator>(layer: &SessionCacheLayer<V>, token: &str) -> u16 {
    match ask(layer, token).await {
        Ok(_) => 200,
        Err(status) => status.as_u16(),
    }
}

/// Number of lines at `info` and above that the validation target has logged.
fn lines(log: &Recording) -> usize {
    let text = log.text();
    let is_line = |line: &&str| {
        line.contains("tower_session_cache::validation")
            && [" INFO ", " WARN ", "ERROR "]
                .iter()
                .any(|level| line.contains(level))
    };
    text.lines().filter(is_line).count()
}

fn failing(text: &str) -> Result<tower_session_cache::ValidatedSession, ValidationError> {
    match text {
        text if text.starts_with("bad") => Err(ValidationError::unavailable("500")),
        text if text.starts_with("odd") => Err(ValidationError::misconfigured("400")),
        _ => Ok(session("ada")),
    }
}

#[tokio::test]
async fn token_that_fails_alone_is_remembered_and_logged_at_debug() {
    let log = record();
    let node = node();
    node.probe.answer(failing);
    assert_eq!(node.status("good").await, 200);
    for (token, name) in [("bad", "good"), ("odd", "fine")] {
        let mut calls = Vec::new();
        for n in 0..200 {
            let before = node.probe.calls();
            assert_eq!(node.status(token).await, 503);
            calls.push(node.probe.calls() - before);
            assert_eq!(node.status(&format!("{name}-{n}")).await, 200);
            node.clock.advance(Duration::from_millis(500));
        }
        // After 0, 1, 3 and 7 seconds, and then every 5 seconds, the negative TTL.
        let at: Vec<usize> = (0..200).filter(|n| calls[*n] > 0).collect();
        assert_eq!(at[..6], [0, 2, 6, 14, 24, 34], "{token}");
        assert!(at.len() < 25, "{at:?}");
    }
    assert_eq!(lines(&log), 0, "{}", log.text());
    assert_eq!(node.cache.health_check().await.provider, ProviderHealth::Up);
    assert!(
        log.text()
            .contains("identity provider failed for one token")
    );
}

#[tokio::test]
async fn token_that_recovers_is_served_and_starts_again_with_one_second() {
    let node = node();
    node.probe.answer(failing);
    assert_eq!(node.status("good").await, 200);
    for wait in [1, 2, 4] {
        assert_eq!(node.status("bad").await, 503);
        node.clock.advance(Duration::from_secs(wait));
    }
    node.probe.answer(|_| Ok(session("ada")));
    assert_eq!(node.status("bad").await, 200);
    let _ = node
        .cache
        .invalidate_token(&SessionToken::parse("bad").unwrap())
        .await
        .unwrap();
    node.probe.answer(failing);
    for status in [503, 503] {
        assert_eq!(node.status("bad").await, status);
        node.clock.advance(Duration::from_secs(1));
        let calls = node.probe.calls();
        assert_eq!(node.status("bad").await, 503);
        assert_eq!(node.probe.calls() - calls, usize::from(status == 503));
        node.clock.advance(Duration::from_secs(30));
    }
}

#[tokio::test]
async fn failure_is_not_remembered_while_no_other_token_is_validated() {
    let node = node();
    for calls in [1, 3] {
        node.probe
            .answer(|_| Err(ValidationError::unavailable("500")));
        assert_eq!(node.status("t").await, 503);
        assert_eq!(node.probe.calls(), calls);
        node.probe.answer(|_| Ok(session("ada")));
        assert_eq!(node.status("t").await, 200);
        let token = SessionToken::parse("t").unwrap();
        let _ = node.cache.invalidate_token(&token).await.unwrap();
    }
}

#[tokio::test]
async fn revocation_ends_a_remembered_failure() {
    let node = node();
    node.probe.answer(failing);
    assert_eq!(node.status("good").await, 200);
    assert_eq!(node.status("bad").await, 503);
    let _ = node.cache.invalidate_user("ada").await.unwrap();
    assert_eq!(node.status("bad").await, 503);
    assert_eq!(node.probe.calls(), 3);
}

#[tokio::test]
async fn provider_is_down_after_failures_for_three_tokens() {
    for (prefix, event) in [("bad", "provider unavailable"), ("odd", "misconfigured")] {
        let log = record();
        let node = node();
        node.probe.answer(failing);
        assert_eq!(node.status("good").await, 200);
        for n in 0..3 {
            assert_eq!(lines(&log), 0, "{}", log.text());
            for _ in 0..5 {
                assert_eq!(node.status(&format!("{prefix}-{n}")).await, 503);
            }
        }
        assert_eq!(lines(&log), 1, "{}", log.text());
        assert!(log.text().contains(event));
        assert_eq!(
            node.cache.health_check().await.provider,
            ProviderHealth::Down
        );
        // During an outage no failure is remembered, so that it ends with the first success.
        node.probe.answer(|_| Ok(session("ada")));
        assert_eq!(node.status(&format!("{prefix}-2")).await, 200);
        assert_eq!(lines(&log), 2, "{}", log.text());
        assert_eq!(node.cache.health_check().await.provider, ProviderHealth::Up);
    }
}

#[tokio::test]
async fn failure_for_all_tokens_is_reported_immediately() {
    let log = record();
    let node = node();
    node.probe
        .answer(|_| Err(ValidationError::unavailable("refused").for_all_tokens()));
    assert_eq!(node.status("t").await, 503);
    assert_eq!(node.status("t").await, 503);
    assert_eq!((node.probe.calls(), lines(&log)), (2, 1));
    node.probe
        .answer(|_| Err(ValidationError::misconfigured("client").for_all_tokens()));
    assert_eq!(node.status("t").await, 503);
    assert_eq!(lines(&log), 2);
    assert_eq!(
        node.cache.health_check().await.provider,
        ProviderHealth::Down
    );
}

#[tokio::test]
async fn failing_token_is_served_stale_while_it_is_remembered() {
    let builder = SessionCache::builder().ttl(Duration::from_secs(30));
    let node = node_of(builder.stale_if_error(Duration::from_secs(60)));
    assert_eq!(node.status("bad").await, 200);
    assert_eq!(node.status("good").await, 200);
    node.probe.answer(failing);
    node.clock.advance(Duration::from_secs(30));
    for _ in 0..3 {
        assert!(ask(&node.layer, "bad").await.is_ok());
    }
    assert_eq!(node.probe.calls(), 3);
    assert_eq!(node.cache.stats().stale_hits, 3);
}

#[tokio::test]
async fn rate_limit_of_one_token_does_not_affect_others() {
    let log = record();
    let node = node();
    for (hint, wait) in [(20, 20), (3_600, 60)] {
        let token = format!("limited-{hint}");
        let hint = Duration::from_secs(hint);
        node.probe.answer(move |text| match text {
            text if text.starts_with("limited") => {
                Err(ValidationError::unavailable("429").with_retry_after(hint))
            }
            _ => Ok(session("ada")),
        });
        assert_eq!(node.status(&token).await, 503);
        let calls = node.probe.calls();
        for n in 0..5 {
            node.clock.advance(Duration::from_secs(1));
            let left = wait - n - 1;
            let rejection = rejection(&node.layer, &token).await;
            assert_eq!(rejection.retry_after(), Some(Duration::from_secs(left)));
            assert_eq!(node.status(&format!("other-{wait}-{n}")).await, 200);
        }
        assert_eq!(node.probe.calls() - calls, 5);
        node.clock.advance(Duration::from_secs(wait - 5));
        node.probe.answer(|_| Ok(session("ada")));
        assert_eq!(node.status(&token).await, 200);
    }
    assert_eq!(lines(&log), 0, "{}", log.text());
}

/// A provider that permits three concurrent calls and limits the others.
#[tokio::test(start_paused = true)]
async fn rate_limited_provider_gets_fewer_concurrent_calls() {
    const PERMITTED: usize = 3;

    let (running, limited, most) =
        <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let counts = (running.clone(), limited.clone(), most.clone());
    let provider = validator_fn("limits", move |_| {
        let (running, limited, most) = counts.clone();
        async move {
            let now = running.fetch_add(1, SeqCst) + 1;
            most.fetch_max(now, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            running.fetch_sub(1, SeqCst);
            if now <= PERMITTED {
                return Ok(session("ada"));
            }
            limited.fetch_add(1, SeqCst);
            Err(ValidationError::unavailable("429").with_retry_after(Duration::from_secs(1)))
        }
    });
    let clock = ManualClock::new();
    let cache = SessionCache::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache, provider);
    let burst = |name: &'static str| {
        let layer = layer.clone();
        async move {
            let all = (0..32).map(|n| {
                let layer = layer.clone();
                tokio::spawn(async move { status(&layer, &format!("{name}-{n}")).await })
            });
            let mut statuses = Vec::new();
            for one in all.collect::<Vec<_>>() {
                statuses.push(one.await.unwrap());
            }
            statuses
        }
    };
    let first = burst("first").await;
    assert_eq!(
        first.iter().filter(|status| **status == 200).count(),
        PERMITTED
    );
    assert_eq!(most.swap(0, SeqCst), 32);
    // From now on the clock moves with the time that the provider takes.
    let moving = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.advance(Duration::from_millis(10));
        }
    });
    for name in ["second", "third", "fourth", "fifth"] {
        burst(name).await;
    }
    limited.store(0, SeqCst);
    most.store(0, SeqCst);
    let last = burst("last").await;
    let served = last.iter().filter(|status| **status == 200).count();
    let (most, limited) = (most.load(SeqCst), limited.load(SeqCst));
    assert!(most <= 2 * PERMITTED, "{most} at the same time");
    assert!(
        served > limited && served >= 8,
        "{served} served, {limited} limited"
    );
    moving.abort();
}

#[tokio::test]
async fn provider_that_rejects_all_tokens_is_reported_once() {
    let log = record();
    let node = node();
    node.probe
        .answer(|_| Err(ValidationError::invalid().with_source("check the audience")));
    for n in 0..19 {
        assert_eq!(node.status(&format!("t{n}")).await, 401);
    }
    node.clock.advance(Duration::from_secs(61));
    assert_eq!(node.status("t0").await, 401);
    assert_eq!(lines(&log), 0, "19 different tokens");
    assert_eq!(node.cache.health_check().await.provider, ProviderHealth::Up);
    for n in 19..25 {
        assert_eq!(node.status(&format!("t{n}")).await, 401);
    }
    assert_eq!(lines(&log), 1, "{}", log.text());
    assert!(log.text().contains("check the audience"));
    let provider = node.cache.health_check().await.provider;
    assert_eq!(provider, ProviderHealth::RejectsAll);
    node.probe.answer(|_| Ok(session("ada")));
    assert_eq!(node.status("good").await, 200);
    assert_eq!(node.cache.health_check().await.provider, ProviderHealth::Up);
}

#[tokio::test]
async fn wrong_audience_setting_is_reported_with_its_reason() {
    let log = record();
    let server = Introspection::start(Demands::Basic).await;
    let auth = IntrospectionAuth::basic(CLIENT_ID, CLIENT_SECRET);
    let validator = IntrospectionValidator::builder(server.endpoint(), auth)
        .audience("misspelled")
        .build()
        .unwrap();
    let clock = ManualClock::new();
    let cache = SessionCache::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let layer = SessionCacheLayer::new(cache, validator);
    for n in 0..25 {
        server.issue(&format!("t{n}"), jdoe());
        assert_eq!(status(&layer, &format!("t{n}")).await, 401);
        clock.advance(Duration::from_secs(5));
    }
    assert_eq!(lines(&log), 1, "{}", log.text());
    let text = log.text();
    let line = text
        .lines()
        .find(|line| line.contains("all tokens rejected"));
    assert!(line.unwrap().contains("configured `audience`"), "{line:?}");
}

#[tokio::test]
async fn twenty_rejections_within_a_minute_or_after_a_success_are_not_reported() {
    let log = record();
    for with_success in [false, true] {
        let node = node();
        if with_success {
            assert_eq!(node.status("good").await, 200);
        }
        node.probe.answer(|_| Err(ValidationError::invalid()));
        for n in 0..40 {
            assert_eq!(node.status(&format!("t{n}")).await, 401);
            if with_success {
                node.clock.advance(Duration::from_secs(5));
            }
        }
        assert_eq!(node.cache.health_check().await.provider, ProviderHealth::Up);
    }
    assert_eq!(lines(&log), 0, "{}", log.text());
}

struct Introspecting {
    server: Introspection,
    clock: ManualClock,
    layer: SessionCacheLayer<IntrospectionValidator>,
}

impl Introspecting {
    async fn start() -> Self {
        let server = Introspection::start(Demands::Basic).await;
        let auth = IntrospectionAuth::basic(CLIENT_ID, CLIENT_SECRET);
        let validator = IntrospectionValidator::new(server.endpoint(), auth).unwrap();
        let clock = ManualClock::new();
        let cache = SessionCache::builder()
            .ttl(Duration::from_secs(30))
            .stale_if_error(Duration::from_secs(600))
            .clock(clock.clone())
            .build()
            .unwrap();
        Self {
            server,
            clock,
            layer: SessionCacheLayer::new(cache, validator),
        }
    }

    async fn status(&self, token: &str) -> u16 {
        status(&self.layer, token).await
    }

    async fn succeed(&self, token: &str) {
        self.server.mend();
        self.server.issue(token, jdoe());
        assert_eq!(self.status(token).await, 200);
    }
}

fn oauth_error(status: u16, code: &str) -> Fault {
    Fault::json(status, &json!({ "error": code }))
}

#[tokio::test]
async fn response_that_blames_the_token_rejects_it_if_others_are_introspected() {
    let log = record();
    let scene = Introspecting::start().await;
    let mut good = 0;
    for (status, code) in [
        (400, "invalid_request"),
        (401, "invalid_token"),
        (400, "unsupported_token_type"),
        (401, "request_unauthorized"),
        (403, "access_denied"),
    ] {
        // Nothing shows yet whether the token or this service is the reason.
        scene.server.fault(oauth_error(status, code));
        if good == 0 {
            assert_eq!(scene.status("first").await, 503, "{code}");
        }
        good += 1;
        scene.succeed(&format!("good-{good}")).await;
        scene.server.fault(oauth_error(status, code));
        let calls = scene.server.calls();
        for _ in 0..10 {
            assert_eq!(scene.status(code).await, 401, "{code}");
        }
        assert_eq!(scene.server.calls() - calls, 1, "{code}");
    }
    assert_eq!(lines(&log), 0, "{}", log.text());
    for n in 0..3 {
        scene.status(&format!("another-{n}")).await;
    }
    assert_eq!(lines(&log), 1, "{}", log.text());
    assert_eq!(scene.status("one-more").await, 503);
}

#[tokio::test]
async fn server_that_calls_all_tokens_inactive_is_reported_with_endpoint_and_client() {
    let log = record();
    let scene = Introspecting::start().await;
    for n in 0..20 {
        assert_eq!(scene.status(&format!("t{n}")).await, 401);
    }
    scene.clock.advance(Duration::from_secs(60));
    for n in 20..25 {
        assert_eq!(scene.status(&format!("t{n}")).await, 401);
    }
    assert_eq!(lines(&log), 1, "{}", log.text());
    let text = log.text();
    let line = text
        .lines()
        .find(|line| line.contains("all tokens rejected"));
    for part in [&*scene.server.endpoint(), CLIENT_ID, "audience mapper"] {
        assert!(line.unwrap().contains(part), "{line:?}");
    }
    assert!(!text.contains(CLIENT_SECRET) && !line.unwrap().contains("t20"));
}

#[tokio::test]
async fn token_without_a_user_is_remembered() {
    let scene = Introspecting::start().await;
    let mut machine = jdoe();
    machine.as_object_mut().unwrap().remove("sub");
    scene.server.issue("machine", machine);
    for _ in 0..5 {
        assert_eq!(scene.status("machine").await, 403);
    }
    assert_eq!(scene.server.calls(), 1);
}

#[tokio::test]
async fn rejected_client_credentials_are_one_error() {
    let log = record();
    let scene = Introspecting::start().await;
    scene.succeed("good").await;
    scene.server.fault(oauth_error(401, "invalid_client"));
    for n in 0..10 {
        assert_eq!(scene.status(&format!("t{n}")).await, 503);
    }
    assert_eq!(lines(&log), 1, "{}", log.text());
    assert!(log.text().contains("validator misconfigured"));
}

#[tokio::test]
async fn response_of_an_ingress_is_an_outage_in_which_stale_sessions_are_served() {
    let scene = Introspecting::start().await;
    for fault in [
        Fault::html(404),
        Fault::html(403),
        Fault::html(401),
        Fault::html(400),
        Fault::html(302).with("location", "/maintenance"),
        Fault::json(404, &json!({ "status": 404, "error": "Not Found" })),
    ] {
        let token = format!("{fault:?}")
            .replace([' ', '"'], "")
            .replace(',', ".");
        scene.succeed(&token).await;
        scene.clock.advance(Duration::from_secs(30));
        scene.server.fault(fault);
        for _ in 0..3 {
            let (_, origin) = ask(&scene.layer, &token).await.unwrap();
            assert_eq!(origin, Origin::Local);
        }
    }
}

#[tokio::test]
async fn appwrite_response_to_one_token_is_no_outage() {
    let log = record();
    let server = Appwrite::start().await;
    server.add_user("ada", "ada@example.com", "correct horse");
    let validator = AppwriteValidator::new(server.endpoint(), server.project_id()).unwrap();
    let layer = SessionCacheLayer::new(SessionCache::default(), validator);
    let good = server.issue("ada");
    assert_eq!(status(&layer, &good).await, 200);
    for (fault, expected, calls_per_token) in [
        (AppwriteFault::Status(500), 503, 1),
        (AppwriteFault::Html(404), 503, 1),
        (
            AppwriteFault::Typed {
                status: 400,
                kind: "general_argument_invalid",
            },
            401,
            1,
        ),
        // A proxy that closes the connection without a response. The call is repeated once.
        (AppwriteFault::Cut, 503, 2),
    ] {
        for place in [Endpoint::Account, Endpoint::Session] {
            server.fault(place, fault.clone());
        }
        let bad = server.issue("ada");
        let calls = server.calls(Endpoint::Account);
        for _ in 0..5 {
            assert_eq!(status(&layer, &bad).await, expected, "{fault:?}");
        }
        let calls = server.calls(Endpoint::Account) - calls;
        assert_eq!(calls, calls_per_token, "{fault:?}");
        server.clear_faults();
        let good = server.issue("ada");
        assert_eq!(status(&layer, &good).await, 200);
    }
    assert_eq!(lines(&log), 0, "{}", log.text());
}

#[tokio::test]
async fn rejection_by_both_branches_keeps_the_failure_of_the_first() {
    let first = Probe::answering(failing);
    let second = Probe::answering(|_| Err(ValidationError::invalid()));
    let layer = SessionCacheLayer::new(SessionCache::default(), first.or("second", second));
    assert_eq!(status(&layer, "odd").await, 503);
}

/// RFC 6585 leaves `Retry-After` to the server, and nginx sends none.
#[tokio::test]
async fn rate_limit_without_retry_after_is_respected() {
    let scene = Introspecting::start().await;
    scene.succeed("good").await;
    scene.server.fault(Fault::json(429, &json!({})));
    let calls = scene.server.calls();
    for n in 0..3 {
        for _ in 0..10 {
            let rejection = rejection(&scene.layer, &format!("t{n}")).await;
            assert_eq!(rejection.retry_after(), Some(Duration::from_secs(1)));
        }
    }
    assert_eq!(scene.server.calls() - calls, 3);
}

/// Servers send these codes about the credentials of this service, and some about the token.
#[tokio::test]
async fn code_that_may_concern_the_token_is_no_outage_until_three_tokens_fail() {
    let scene = Introspecting::start().await;
    for (n, code) in ["unauthorized_client", "insufficient_scope"]
        .iter()
        .enumerate()
    {
        scene.succeed(&format!("good-{n}")).await;
        let log = record();
        scene.server.fault(oauth_error(403, code));
        for _ in 0..10 {
            assert_eq!(scene.status(&format!("bad-{n}")).await, 503, "{code}");
            scene.succeed(&format!("good-{n}")).await;
            scene.server.fault(oauth_error(403, code));
        }
        assert_eq!(lines(&log), 0, "{}", log.text());
        for other in 0..3 {
            assert_eq!(
                scene.status(&format!("other-{n}-{other}")).await,
                503,
                "{code}"
            );
        }
        assert_eq!(lines(&log), 1, "{}", log.text());
    }
}

/// Answers `first` for the tokens of the first provider, and accepts those of the second.
fn two_providers(
    first: impl Fn() -> ValidationError + Send + Sync + 'static,
) -> (Probe, SessionCacheLayer<impl SessionValidator>) {
    let people = Probe::answering(move |text| match text {
        text if text.starts_with("fine") => Ok(session("ada")),
        _ => Err(first()),
    });
    let machines = Probe::answering(|_| Ok(session("robot")));
    let both = people.clone().or_if("machines", machines, |token| {
        token.expose_secret().starts_with("key")
    });
    (
        people,
        SessionCacheLayer::new(SessionCache::default(), both),
    )
}

#[tokio::test]
async fn outage_of_one_branch_is_logged_once_while_the_other_works() {
    let failures: [fn() -> ValidationError; 2] = [
        || ValidationError::unavailable("refused").for_all_tokens(),
        || ValidationError::unavailable("500"),
    ];
    for failure in failures {
        let log = record();
        let (_, layer) = two_providers(failure);
        for n in 0..10 {
            assert_eq!(status(&layer, &format!("t{n}")).await, 503);
            assert_eq!(status(&layer, &format!("key-{n}")).await, 200);
        }
        assert_eq!(lines(&log), 1, "{}", log.text());
        assert_eq!(status(&layer, "fine").await, 200);
        assert_eq!(lines(&log), 2, "{}", log.text());
        assert!(log.text().contains("available again"));
    }
}

#[tokio::test]
async fn second_branch_that_is_down_is_reported_while_the_first_accepts() {
    let log = record();
    let people = Probe::answering(|text| match text {
        text if text.starts_with("fine") => Ok(session("ada")),
        _ => Err(ValidationError::invalid()),
    });
    let machines = Probe::answering(|_| Err(ValidationError::unavailable("500")));
    let both = people.or("machines", machines);
    let cache = SessionCache::default();
    let layer = SessionCacheLayer::new(cache.clone(), both);
    for n in 0..5 {
        assert_eq!(status(&layer, &format!("t{n}")).await, 503);
        assert_eq!(status(&layer, &format!("fine-{n}")).await, 200);
    }
    assert_eq!(lines(&log), 1, "{}", log.text());
}
