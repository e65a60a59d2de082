//! The metrics of the `metrics` facade: they equal `stats()`, have the names that the dashboard uses,
//! and contain no private data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Mutex,
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower_session_cache::{
    AppwriteWebhook, HeaderSecret, LocalCacheConfig, Origin, RedisConfig, RevocationReceiver,
    Revoked, SessionCache, SessionCacheLayer, StandardWebhook, Stats, UserData, ValidatedSession,
    ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{ask, http, token},
    example::{start, url},
    probe::{Probe, session},
    redis::Redis,
    soon, until,
};

/// Records only the names and labels that are registered.
#[derive(Default)]
struct Names(Mutex<BTreeSet<(String, String)>>);

impl Names {
    fn add(&self, key: &Key) {
        let labels = key.labels().map(|label| label.value().to_owned());
        let labels = labels.collect::<Vec<_>>().join(" ");
        self.0
            .lock()
            .unwrap()
            .insert((key.name().to_owned(), labels));
    }
}

impl Recorder for Names {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.add(key);
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.add(key);
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.add(key);
        Histogram::noop()
    }
}

/// The names of metrics that occur in a text.
fn named_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let words = words.filter(|word| word.starts_with("session_cache_"));
    // Prometheus adds these suffixes to the name of a histogram.
    let whole = words.map(|word| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| word.strip_suffix(end))
            .unwrap_or(word)
            .to_owned()
    });
    whole.collect()
}

fn source(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn dashboard_and_docs_list_exactly_the_metrics() {
    let names = Names::default();
    with_local_recorder(&names, || {
        let cache = SessionCache::builder()
            .redis("redis://127.0.0.1:1")
            .unwrap()
            .local_cache(LocalCacheConfig::new(1))
            .canary(Duration::from_secs(1))
            .build()
            .unwrap();
        let appwrite = AppwriteWebhook::new("https://example.com/", "signature key").unwrap();
        let _ = RevocationReceiver::new(cache.clone(), appwrite);
        let secret = "bm90IGEgc2VjcmV0IG9mIGFueWJvZHkgYXQgYWxs";
        let standard = StandardWebhook::new(secret, |_| Revoked::nothing()).unwrap();
        let _ = RevocationReceiver::new(cache.clone(), standard);
        let header = HeaderSecret::new("x-secret", secret, |_| Revoked::nothing()).unwrap();
        let _ = RevocationReceiver::new(cache, header);
    });
    let registered = names.0.into_inner().unwrap();
    let names: BTreeSet<String> = registered.iter().map(|(name, _)| name.clone()).collect();
    assert!(names.len() > 15, "{names:?}");

    let dashboard = source("examples/grafana.json");
    let panels: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut queries = String::new();
    for panel in panels["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries += target["expr"].as_str().unwrap();
            queries += "\n";
        }
    }
    assert_eq!(
        named_in(&queries),
        names,
        "names in the queries of the dashboard"
    );
    let page = source("src/docs/observability.md");
    assert_eq!(named_in(&page), names, "names in the page");
    for (_, labels) in &registered {
        for label in labels.split(' ').filter(|label| !label.is_empty()) {
            assert!(
                page.contains(&format!("`{label}`")),
                "the page lacks the label {label}"
            );
        }
    }
}

/// Parses the text format of Prometheus into one number for each name with its labels.
fn read(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter_map(|line| line.rsplit_once(' '));
    lines
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn metrics_equal_stats_and_contain_no_private_data() {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&[0.1, 1.0])
        .unwrap()
        .build_recorder();
    let redis = Redis::start();
    let clock = ManualClock::new();
    let patient = Duration::from_secs(20);
    let with_both_tiers = SessionCache::builder()
        .redis(RedisConfig::single(redis.url()).timeout(patient))
        .unwrap()
        .local_cache(LocalCacheConfig::new(100).lease(Duration::from_secs(60)));
    let alone = SessionCache::builder()
        .ttl(Duration::from_secs(30))
        .stale_if_error(Duration::from_secs(60))
        .clock(clock.clone());
    let off = SessionCache::builder().enabled(false);
    let caches = with_local_recorder(&recorder, || {
        [with_both_tiers, alone, off].map(|builder| builder.build().unwrap())
    });
    let [with_both_tiers, alone, off] = &caches;
    let probe = Probe::answering(|token| match token {
        "secret-wrong" => Err(ValidationError::invalid()),
        "secret-down" => Err(ValidationError::unavailable("out of order")),
        _ => Ok(ValidatedSession::new(
            UserData::builder("user-ada")
                .email("ada@example.com")
                .name("Ada L")
                .build(),
        )),
    });
    let layer = |cache: &SessionCache| SessionCacheLayer::new(cache.clone(), probe.clone());

    let layer_of_all = layer(with_both_tiers);
    soon("a local hit", async {
        while ask(&layer_of_all, "secret-t").await.unwrap().1 != Origin::Local {}
    })
    .await;
    until("a lease", || with_both_tiers.stats().lease_age.is_some()).await;
    for _ in 0..3 {
        assert_eq!(ask(&layer_of_all, "secret-wrong").await.unwrap_err(), 401);
    }
    assert_eq!(ask(&layer_of_all, "secret-down").await.unwrap_err(), 503);
    let _ = with_both_tiers
        .revoke_token(&token("secret-t"))
        .await
        .unwrap();
    assert_eq!(ask(&layer_of_all, "secret-t").await.unwrap_err(), 401);
    let _ = with_both_tiers.invalidate_user("user-ada").await.unwrap();
    let _ = with_both_tiers
        .invalidate_token(&token("secret-t"))
        .await
        .unwrap();

    let stale = layer(alone);
    ask(&stale, "secret-s").await.unwrap();
    probe.answer(|_| Err(ValidationError::unavailable("out of order")));
    clock.advance(Duration::from_secs(30));
    ask(&stale, "secret-s").await.unwrap();
    probe.answer(|_| Ok(session("user-ada")));
    ask(&layer(off), "secret-t").await.unwrap();

    // Two requests wait for one validation.
    probe.hold();
    let waiting = ["secret-j", "secret-j"].map(|text| {
        let layer = layer_of_all.clone();
        tokio::spawn(async move { ask(&layer, text).await.unwrap().1 })
    });
    until("the second to join", || {
        with_both_tiers.stats().coalesced == 1
    })
    .await;
    let text = recorder.handle().render();
    assert_eq!(read(&text)["session_cache_validations_in_flight"], 1.0);
    probe.let_go();
    for waiting in waiting {
        assert_eq!(
            soon("a response", waiting).await.unwrap(),
            Origin::Validator
        );
    }

    redis.pause();
    let cache = with_both_tiers.clone();
    let revoking = tokio::spawn(async move { cache.revoke_token(&token("secret-q")).await });
    until("a command in flight", || {
        with_both_tiers.stats().redis_commands_in_flight == 1
    })
    .await;
    let reported = read(&recorder.handle().render());
    assert_eq!(reported["session_cache_redis_commands_in_flight"], 1.0);
    redis.resume();
    let _ = soon("the revocation", revoking).await.unwrap().unwrap();

    let sum = |of: fn(&Stats) -> u64| caches.iter().map(|cache| of(&cache.stats())).sum::<u64>();
    type Read = fn(&Stats) -> u64;
    let expected: &[(&str, Read)] = &[
        ("lookups_total{outcome=\"local\"}", |s| s.local_hits),
        ("lookups_total{outcome=\"redis\"}", |s| {
            s.hits - s.local_hits
        }),
        ("lookups_total{outcome=\"miss\"}", |s| s.misses),
        ("lookups_total{outcome=\"negative\"}", |s| s.negative_hits),
        ("lookups_total{outcome=\"revoked\"}", |s| s.revoked_hits),
        ("lookups_total{outcome=\"stale\"}", |s| s.stale_hits),
        ("lookups_total{outcome=\"bypass\"}", |s| s.bypassed),
        ("validations_started_total", |s| s.validations),
        ("validations_total{outcome=\"accepted\"}", |s| {
            s.validations_accepted
        }),
        ("validations_total{outcome=\"rejected\"}", |s| {
            s.validations_rejected
        }),
        ("validations_total{outcome=\"unavailable\"}", |s| {
            s.validations_unavailable
        }),
        ("coalesced_requests_total", |s| s.coalesced),
        ("fills_total{outcome=\"stored\"}", |s| s.fills),
        ("revocations_started_total", |s| s.revocations),
        ("redis_connections", |s| s.redis_connections),
        ("local_resets_total", |s| s.local_resets),
        ("invalidations_total", |s| s.invalidations),
        ("lease_held", |s| u64::from(s.lease_age.is_some())),
    ];
    let text = recorder.handle().render();
    let reported = read(&text);
    for (name, of) in expected {
        let (reported, counted) = (reported[&format!("session_cache_{name}")], sum(*of));
        assert_eq!(reported, counted as f64, "{name} in {text}");
        assert!(counted > 0, "{name} has not happened");
    }
    for kind in ["invalidate_token", "revoke_token", "invalidate_user"] {
        let name =
            format!("session_cache_revocations_total{{kind=\"{kind}\",outcome=\"applied\"}}");
        let expected = if kind == "revoke_token" { 2.0 } else { 1.0 };
        assert_eq!(reported[&name], expected, "{text}");
    }
    // A duration is recorded for an outcome that a request has to wait for, and for no other.
    let waited = |outcome: &str| {
        let name = format!("session_cache_lookup_duration_seconds_count{{outcome=\"{outcome}\"}}");
        reported.get(&name).copied().unwrap_or_default()
    };
    assert_eq!(waited("local"), 0.0);
    assert_eq!(waited("bypass"), 1.0);
    assert_eq!(waited("stale"), 1.0);
    assert_eq!(waited("miss") + waited("stale"), sum(|s| s.misses) as f64);
    assert!(reported["session_cache_invalidation_heartbeat_seconds_count"] >= 2.0);
    for private in ["secret", "ada", "example.com", "user-"] {
        assert!(!text.contains(private), "{private} in {text}");
    }

    drop(caches);
    drop((layer_of_all, stale));
    until("all connections to end", || {
        let reported = read(&recorder.handle().render());
        reported["session_cache_redis_connections"] == 0.0
            && reported["session_cache_lease_held"] == 0.0
    })
    .await;
}

#[tokio::test]
async fn open_breaker_and_queued_revocations_appear_in_stats() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let redis = Redis::start();
    let builder = SessionCache::builder().redis(redis.url()).unwrap();
    let cache = with_local_recorder(&recorder, || builder.build().unwrap());
    let reported = |name: &str| read(&recorder.handle().render())[&format!("session_cache_{name}")];
    let _ = cache.invalidate_token(&token("t")).await.unwrap();
    assert_eq!(reported("redis_circuit_open"), 0.0);
    redis.pause();
    soon("the circuit breaker to open", async {
        while !cache.stats().redis_circuit_open {
            let _ = cache.invalidate_token(&token("t")).await;
        }
    })
    .await;
    assert_eq!(reported("redis_circuit_open"), 1.0);
    let stats = cache.stats();
    assert!(stats.queued_revocations > 0 && stats.redis_errors >= 3);
    assert_eq!(
        reported("revocations_queued"),
        stats.queued_revocations as f64
    );
    redis.resume();
    until("the delivery", || cache.stats().queued_revocations == 0).await;
    assert_eq!(reported("revocations_queued"), 0.0);
    until("the circuit breaker to close", || {
        !cache.stats().redis_circuit_open
    })
    .await;
    assert_eq!(reported("redis_circuit_open"), 0.0);
}

#[tokio::test]
async fn server_example_serves_metrics_to_prometheus() {
    let mut server = start(&[]);
    let url = url(&mut server);
    let client = http();
    let answer = client.get(format!("{url}/metrics")).send().await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4"
    );
    let text = answer.text().await.unwrap();
    assert!(text.contains("# TYPE session_cache_lookups_total counter"));
    let before = read(&text)["session_cache_lookups_total{outcome=\"miss\"}"];
    let login = client.post(format!("{url}/api/v1/auth/login"));
    let login = login
        .json(&serde_json::json!({ "email": "demo@example.com", "password": "demo-password" }));
    let login: serde_json::Value = login.send().await.unwrap().json().await.unwrap();
    let token = login["token"].as_str().unwrap();
    for origin in ["validator", "local"] {
        let me = client
            .get(format!("{url}/api/v1/auth/me"))
            .bearer_auth(token);
        let me = me.send().await.unwrap();
        assert_eq!(me.headers()["x-session-origin"], origin);
    }
    let answer = client.get(format!("{url}/metrics")).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let reported = read(&text);
    assert_eq!(
        reported["session_cache_lookups_total{outcome=\"miss\"}"],
        before + 1.0
    );
    assert_eq!(
        reported["session_cache_lookups_total{outcome=\"local\"}"],
        1.0
    );
    assert!(
        text.contains("session_cache_lookup_duration_seconds_bucket"),
        "{text}"
    );
    assert!(!text.contains(token) && !text.contains("demo"), "{text}");
}
