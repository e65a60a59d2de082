//! Events that identity providers push: which are accepted, what they change on each node, and how
//! their senders are answered.

use std::{
    convert::Infallible,
    fs,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header, request::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_session_cache::{
    AppwriteWebhook, ConfigError, EventResponseBody, EventStats, HeaderSecret, LocalCacheConfig,
    Origin, RedisConfig, Refusal, RefusalKind, RevocationReceiver, RevocationSource, Revoked,
    SessionCache, SessionCacheLayer, StandardWebhook, Stats, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::ask,
    log::record,
    pass_time,
    probe::{Probe, session},
    proxy::Proxy,
    redis::Redis,
    soon, until,
};

const URL: &str = "https://api.example.com/hooks/appwrite";
const APPWRITE_KEY: &str = "5ea9c1d4b7f2";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const HEADER_SECRET: &str = "x5Wd3kFq8Zr1Tt0v";

fn appwrite() -> AppwriteWebhook {
    AppwriteWebhook::new(URL, APPWRITE_KEY).unwrap()
}

/// The user that an event of the form of this test names.
fn user(event: &Value) -> Revoked {
    match event["type"].as_str() {
        Some("user.updated" | "user.deleted") => Revoked::user(event["data"]["user_id"].as_str()),
        _ => Revoked::nothing(),
    }
}

fn standard() -> StandardWebhook {
    StandardWebhook::new(SECRET, user).unwrap()
}

fn header_secret() -> HeaderSecret {
    HeaderSecret::new("x-webhook-secret", HEADER_SECRET, user).unwrap()
}

fn updated(user: &str) -> Value {
    json!({ "type": "user.updated", "data": { "user_id": user } })
}

fn with_header(name: &str, value: &str, event: &Value) -> Request<String> {
    let request = Request::post("/hooks/header").header(name, value);
    request.body(event.to_string()).unwrap()
}

async fn send<S, B>(
    receiver: &RevocationReceiver<S>,
    request: Request<B>,
) -> Response<EventResponseBody>
where
    S: RevocationSource,
    B: Body + Send + 'static,
    B::Data: Send,
{
    let answer = receiver.clone().oneshot(request);
    soon("an answer", answer).await.unwrap()
}

async fn status<S, B>(receiver: &RevocationReceiver<S>, request: Request<B>) -> u16
where
    S: RevocationSource,
    B: Body + Send + 'static,
    B::Data: Send,
{
    send(receiver, request).await.status().as_u16()
}

/// What a source reads from a request at this time.
async fn read<S: RevocationSource>(
    source: &S,
    request: Request<String>,
    now: DateTime<Utc>,
) -> Result<Revoked, RefusalKind> {
    let (head, body) = request.into_parts();
    let read = source.read(&head, body.as_bytes(), now).await;
    read.map_err(|refusal| refusal.kind())
}

/// A node with a local cache. The user of a session is the part of the token before the `-`.
struct Node {
    cache: SessionCache,
    layer: SessionCacheLayer<Probe>,
}

impl Node {
    fn new(redis: &Redis, probe: &Probe) -> Self {
        let patient = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
        let cache = SessionCache::builder()
            .redis(patient)
            .unwrap()
            .local_cache(LocalCacheConfig::new(100))
            .build()
            .unwrap();
        let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
        Self { cache, layer }
    }

    async fn until_served_from_memory(&self, token: &str) {
        soon("a local hit", async {
            while ask(&self.layer, token).await.unwrap().1 != Origin::Local {
                crate::support::pass().await;
            }
        })
        .await;
    }
}

fn probe() -> Probe {
    Probe::answering(|token| Ok(session(token.split('-').next().unwrap())))
}

/// A cache whose Redis may be frozen. The timeout is short, so that the circuit breaker opens.
fn impatient(redis: &Redis) -> SessionCache {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_millis(250));
    SessionCache::builder()
        .redis(redis)
        .unwrap()
        .build()
        .unwrap()
}

/// `printf '%s' "$URL$BODY" | openssl dgst -sha1 -hmac "$KEY" -binary | base64`
#[tokio::test]
async fn appwrite_signature_of_openssl_is_accepted_and_others_are_not() {
    let cache = SessionCache::default();
    let receiver = RevocationReceiver::new(cache.clone(), appwrite());
    let signed = |signature: &str| {
        Request::post("/hooks/appwrite")
            .header("x-appwrite-webhook-signature", signature)
            .body(r#"{"$id":"s1","userId":"ada"}"#.to_owned())
            .unwrap()
    };
    let right = "cIG9y49RDlfb/zEp+6vhPtQYBDg=";
    assert_eq!(status(&receiver, signed(right)).await, 200);
    assert_eq!(cache.stats().user_invalidations.applied, 1);
    let other_case = right.to_lowercase();
    let wrong = [
        "",
        "cIG9",
        "cIG9y49RDlfb/zEp+6vhPtQYBDk=",
        "!",
        other_case.as_str(),
    ];
    for signature in wrong {
        assert_eq!(
            status(&receiver, signed(signature)).await,
            401,
            "{signature}"
        );
    }
    let mut unsigned = signed(right);
    unsigned.headers_mut().clear();
    assert_eq!(status(&receiver, unsigned).await, 401);
    for body in [
        r#"{"$id":"s1","userId":"bea"}"#,
        r#" {"$id":"s1","userId":"ada"}"#,
    ] {
        let altered = signed(right).map(|_| body.to_owned());
        assert_eq!(status(&receiver, altered).await, 401, "{body}");
    }
    assert_eq!(cache.stats().revocations, 1);
}

#[tokio::test]
async fn appwrite_url_counts_as_configured_and_as_decoded() {
    let configured = "https://api.example.com/hooks/%61pp%20write?to=a%2Fb";
    let receiver = RevocationReceiver::new(
        SessionCache::default(),
        AppwriteWebhook::new(configured, APPWRITE_KEY).unwrap(),
    );
    for (url, expected) in [
        (configured, 200),
        ("https://api.example.com/hooks/app write?to=a/b", 200),
        ("https://api.example.com/hooks/app%20write?to=a%2Fb", 401),
        ("https://api.example.com/hooks/", 401),
    ] {
        let sender = AppwriteWebhook::new(url, APPWRITE_KEY).unwrap();
        let event = sender.signed_request(&json!({ "$id": "ada" }));
        assert_eq!(status(&receiver, event).await, expected, "{url}");
    }
}

#[tokio::test]
async fn appwrite_user_is_the_one_that_the_signed_body_names() {
    let probe = probe();
    let cache = SessionCache::default();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    let receiver = RevocationReceiver::new(cache, appwrite());
    for (event, is_of_ada) in [
        (json!({ "$id": "s1", "userId": "ada" }), true),
        (json!({ "$id": "ada", "email": "ada@example.com" }), true),
        (json!({ "$id": "ada", "userId": "" }), true),
        (json!({ "$id": "ada", "userId": 5 }), true),
        (json!({ "$id": "ada", "userId": "bea" }), false),
        (json!({ "userId": ["ada"] }), false),
        (json!({ "name": "ada" }), false),
        (json!(["ada"]), false),
        (json!(null), false),
    ] {
        ask(&layer, "ada-1").await.unwrap();
        let request = appwrite().signed_request(&event);
        assert_eq!(status(&receiver, request).await, 200, "{event}");
        let (_, origin) = ask(&layer, "ada-1").await.unwrap();
        assert_eq!(origin == Origin::Validator, is_of_ada, "{event}");
    }
    let EventStats {
        applied, unmapped, ..
    } = receiver.stats();
    assert_eq!((applied, unmapped), (5, 4));
}

#[tokio::test]
async fn rotated_secrets_are_accepted_until_the_previous_one_is_removed() {
    let cache = SessionCache::default();
    let now = Utc::now();
    let old = AppwriteWebhook::new(URL, "the old signature key").unwrap();
    let event = json!({ "$id": "ada" });
    for (source, expected) in [
        (
            appwrite().previous_secret("the old signature key").unwrap(),
            200,
        ),
        (appwrite(), 401),
    ] {
        let receiver = RevocationReceiver::new(cache.clone(), source);
        assert_eq!(
            status(&receiver, old.signed_request(&event)).await,
            expected
        );
        assert_eq!(
            status(&receiver, appwrite().signed_request(&event)).await,
            200
        );
    }
    let old = StandardWebhook::new(OTHER_SECRET, user).unwrap();
    for (source, expected) in [
        (standard().previous_secret(OTHER_SECRET).unwrap(), true),
        (standard(), false),
    ] {
        let request = old.signed_request("m1", now, &event);
        assert_eq!(read(&source, request, now).await.is_ok(), expected);
        let request = standard().signed_request("m1", now, &event);
        assert!(read(&source, request, now).await.is_ok());
    }
    let rotated = header_secret()
        .previous_secret("the old value of it")
        .unwrap();
    for (source, expected) in [(rotated, true), (header_secret(), false)] {
        let request = with_header("x-webhook-secret", "the old value of it", &event);
        assert_eq!(read(&source, request, now).await.is_ok(), expected);
        let request = with_header("x-webhook-secret", HEADER_SECRET, &event);
        assert!(read(&source, request, now).await.is_ok());
    }
}

#[tokio::test]
async fn session_ended_at_appwrite_is_rejected_on_another_node() {
    let redis = Redis::start();
    let probe = probe();
    let [first, second] = [Node::new(&redis, &probe), Node::new(&redis, &probe)];
    let receiver = RevocationReceiver::new(first.cache.clone(), appwrite());
    for node in [&first, &second] {
        node.until_served_from_memory("ada-1").await;
        node.until_served_from_memory("bea-1").await;
    }
    probe.answer(|_| Err(ValidationError::invalid()));
    let event = appwrite().signed_request(&json!({ "$id": "s1", "userId": "ada" }));
    assert_eq!(status(&receiver, event).await, 200);
    assert_eq!(ask(&first.layer, "ada-1").await.unwrap_err(), 401);
    soon("the other node to reject", async {
        while ask(&second.layer, "ada-1").await.is_ok() {
            crate::support::pass().await;
        }
    })
    .await;
    for node in [&first, &second] {
        assert_eq!(ask(&node.layer, "bea-1").await.unwrap().1, Origin::Local);
    }
}

#[tokio::test]
async fn replayed_event_only_causes_validations() {
    let redis = Redis::start();
    let probe = probe();
    let [first, second] = [Node::new(&redis, &probe), Node::new(&redis, &probe)];
    let receiver = RevocationReceiver::new(first.cache.clone(), header_secret());
    for node in [&first, &second] {
        node.until_served_from_memory("ada-1").await;
    }
    let calls = probe.calls();
    for _ in 0..3 {
        let replayed = with_header("x-webhook-secret", HEADER_SECRET, &updated("ada"));
        assert_eq!(status(&receiver, replayed).await, 204);
        // Nothing identifies a duplicate, so that each one is applied.
        assert_eq!(
            ask(&first.layer, "ada-1").await.unwrap().1,
            Origin::Validator
        );
    }
    second.until_served_from_memory("ada-1").await;
    first.until_served_from_memory("ada-1").await;
    assert!(
        (3..=6).contains(&(probe.calls() - calls)),
        "{}",
        probe.calls()
    );
}

/// The example of the specification's own libraries.
#[tokio::test]
async fn published_vector_of_standard_webhooks_is_accepted() {
    let published = |prefix: &str| {
        Request::post("/")
            .header(format!("{prefix}-id"), "msg_p5jXN8AQM9LWM0D4loKWxJek")
            .header(format!("{prefix}-timestamp"), "1614265330")
            .header(
                format!("{prefix}-signature"),
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            )
            .body(r#"{"test": 2432232314}"#.to_owned())
            .unwrap()
    };
    let at = |seconds: i64| DateTime::from_timestamp(1_614_265_330 + seconds, 0).unwrap();
    for prefix in ["webhook", "svix", "Webhook"] {
        for seconds in [-300, 0, 300] {
            let read = read(&standard(), published(prefix), at(seconds)).await;
            assert!(read.is_ok(), "{prefix} {seconds}");
        }
        for seconds in [-301, 301, 1_000_000_000] {
            let read = read(&standard(), published(prefix), at(seconds)).await;
            assert_eq!(read.unwrap_err(), RefusalKind::OutsideTolerance);
        }
    }
    let unknown = read(&standard(), published("other"), at(0)).await;
    assert_eq!(unknown.unwrap_err(), RefusalKind::AuthenticationFailed);
}

/// Requests that `tests/fixtures/events/standard_webhooks.py` has made with the library of the
/// specification's authors.
#[tokio::test]
async fn requests_of_the_reference_library_are_accepted_and_altered_ones_are_not() {
    let path = "tests/fixtures/events/standard_webhooks.json";
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    let vectors: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(vectors.len(), 10);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        let seconds = vector["timestamp"].as_i64().unwrap();
        let now = DateTime::from_timestamp(seconds, 0).unwrap();
        let request = |id: &str, seconds: i64, signature: &str, body: &str| {
            Request::post("/")
                .header("webhook-id", id)
                .header("webhook-timestamp", seconds)
                .header("webhook-signature", signature)
                .body(body.to_owned())
                .unwrap()
        };
        let (id, signature, body) = (text("id"), text("signature"), text("body"));
        let source = StandardWebhook::new(text("secret"), user).unwrap();
        let bare = text("secret").trim_start_matches("whsec_");
        let bare = StandardWebhook::new(bare, user).unwrap();
        let of_supabase = format!("v1,{}", text("secret"));
        let of_supabase = StandardWebhook::new(of_supabase, user).unwrap();
        for source in [&source, &bare, &of_supabase] {
            let right = read(source, request(id, seconds, signature, body), now).await;
            assert!(right.is_ok(), "{vector}");
        }
        let wrong = "v1,XQP2GFPJCEpq6mgz4Y1c6BH668fu6swn3V4mmNltAAA=";
        for several in [
            format!("{wrong} {signature}"),
            format!("{signature} {wrong}"),
            format!("{wrong}, {signature}"),
            format!(
                "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg== {signature}"
            ),
        ] {
            let read = read(&source, request(id, seconds, &several, body), now).await;
            assert!(read.is_ok(), "{several}");
        }
        let longer = format!("{body} ");
        for altered in [
            request("msg_9", seconds, signature, body),
            request(id, seconds + 1, signature, body),
            request(id, seconds, signature, &longer),
            request(id, seconds, wrong, body),
            request(id, seconds, &signature["v1,".len()..], body),
            request(id, seconds, &signature.replace("v1,", "v2,"), body),
            request(id, seconds, "", body),
        ] {
            let read = read(&source, altered, now).await;
            assert_eq!(read.unwrap_err(), RefusalKind::AuthenticationFailed);
        }
        let mut twice = request(id, seconds, wrong, body);
        let signature = HeaderValue::from_str(signature).unwrap();
        twice.headers_mut().append("webhook-signature", signature);
        assert!(read(&source, twice, now).await.is_ok());
    }
}

#[tokio::test]
async fn headers_that_no_sender_writes_are_refused() {
    let now = Utc::now();
    let signed = standard().signed_request("m1", now, &updated("ada"));
    for (name, value) in [
        ("webhook-timestamp", ""),
        ("webhook-timestamp", "soon"),
        ("webhook-timestamp", "1e9"),
        ("webhook-timestamp", "9223372036854775807"),
        ("webhook-timestamp", "99999999999999999999"),
        ("webhook-timestamp", "-9223372036854775808"),
        ("webhook-signature", "v1,"),
        ("webhook-signature", ","),
        ("webhook-id", ""),
    ] {
        let mut request = signed.clone();
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
        assert!(read(&standard(), request, now).await.is_err(), "{name}");
    }
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let mut request = signed.clone();
        request.headers_mut().remove(name);
        assert!(read(&standard(), request, now).await.is_err(), "{name}");
    }
    // A signature after the eighth is not read.
    let right = signed.headers()["webhook-signature"].to_str().unwrap();
    for (others, is_read) in [(7, true), (8, false)] {
        let mut request = signed.clone();
        let value = "v1,AAAA ".repeat(others) + right;
        let value = HeaderValue::from_str(&value).unwrap();
        request.headers_mut().insert("webhook-signature", value);
        assert_eq!(read(&standard(), request, now).await.is_ok(), is_read);
    }
}

proptest! {
    #[test]
    fn no_bytes_without_the_key_act(
        id in "[ -~]{0,20}",
        signatures in "(v1,|v1a,|, | |[A-Za-z0-9+/=]{0,44}){0,6}",
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let now = Utc::now();
        let (mut head, ()) = Request::new(()).into_parts();
        let timestamp = now.timestamp().to_string();
        for (name, value) in [
            ("webhook-id", &id),
            ("webhook-timestamp", &timestamp),
            ("webhook-signature", &signatures),
            ("x-appwrite-webhook-signature", &signatures),
            ("x-webhook-secret", &signatures),
        ] {
            let value = HeaderValue::from_str(value).unwrap();
            head.headers.insert(name, value);
        }
        let refused = |read: Option<Result<Revoked, Refusal>>| read.unwrap().unwrap_err().kind();
        let failed = RefusalKind::AuthenticationFailed;
        let (appwrite, standard, header) = (appwrite(), standard(), header_secret());
        let read = appwrite.read(&head, &body, now).now_or_never();
        prop_assert_eq!(refused(read), failed);
        let read = standard.read(&head, &body, now).now_or_never();
        prop_assert_eq!(refused(read), failed);
        let read = header.read(&head, &body, now).now_or_never();
        prop_assert_eq!(refused(read), failed);
    }
}

#[tokio::test]
async fn secret_in_a_header_is_compared_as_a_whole() {
    let receiver = RevocationReceiver::new(SessionCache::default(), header_secret());
    let longer = format!("{HEADER_SECRET}v");
    for (name, value, expected) in [
        ("x-webhook-secret", HEADER_SECRET, 204),
        ("X-Webhook-Secret", HEADER_SECRET, 204),
        ("x-webhook-secret", "", 401),
        (
            "x-webhook-secret",
            &HEADER_SECRET[..HEADER_SECRET.len() - 1],
            401,
        ),
        ("x-webhook-secret", &longer, 401),
        ("x-webhook-secret", &HEADER_SECRET.to_lowercase(), 401),
        ("authorization", HEADER_SECRET, 401),
    ] {
        let request = with_header(name, value, &updated("ada"));
        assert_eq!(
            status(&receiver, request).await,
            expected,
            "{name}: {value}"
        );
    }
    for (event, expected) in [(json!({ "type": "other" }), 204), (json!(null), 204)] {
        let request = with_header("x-webhook-secret", HEADER_SECRET, &event);
        assert_eq!(status(&receiver, request).await, expected);
    }
    let without_json = with_header("x-webhook-secret", HEADER_SECRET, &json!(null));
    let without_json = without_json.map(|_| "not JSON".to_owned());
    assert_eq!(status(&receiver, without_json).await, 204);
    let nameless = with_header("x-webhook-secret", HEADER_SECRET, &updated(""));
    assert_eq!(status(&receiver, nameless).await, 204);
    let EventStats {
        applied,
        ignored,
        unmapped,
        rejected,
        ..
    } = receiver.stats();
    assert_eq!((applied, ignored, unmapped, rejected), (2, 2, 2, 5));
}

#[test]
fn invalid_settings_are_errors_that_show_no_secret() {
    let errors: [ConfigError; 9] = [
        AppwriteWebhook::new("api.example.com", APPWRITE_KEY).unwrap_err(),
        AppwriteWebhook::new(URL, "t0pkey").unwrap_err(),
        appwrite().previous_secret("t0pkey").unwrap_err(),
        StandardWebhook::new("whsec_t0pkey", user).unwrap_err(),
        StandardWebhook::new("whsec_t0pkey!!", user).unwrap_err(),
        standard().previous_secret("").unwrap_err(),
        HeaderSecret::new("x secret", HEADER_SECRET, user).unwrap_err(),
        HeaderSecret::new("x-secret", "t0pkey", user).unwrap_err(),
        header_secret()
            .previous_secret("t0pkey t0pkey\nt0pkey")
            .unwrap_err(),
    ];
    for error in errors {
        let error = error.to_string();
        assert!(!error.contains("t0pkey") && !error.contains("api.example.com/"));
        assert!(error.contains("must"), "{error}");
    }
    for shown in [
        format!("{:?}", appwrite()),
        format!("{:?}", standard().named("clerk")),
        format!("{:?}", header_secret()),
        format!("{:?}", Revoked::user("ada")),
        format!(
            "{:?}",
            RevocationReceiver::new(SessionCache::default(), appwrite())
        ),
    ] {
        for secret in [APPWRITE_KEY, SECRET, HEADER_SECRET, "ada"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[tokio::test]
async fn duplicate_of_an_applied_event_is_answered_alike_without_a_command() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let cache = SessionCache::builder()
        .redis(RedisConfig::single(proxy.url()).timeout(Duration::from_secs(20)))
        .unwrap()
        .build()
        .unwrap();
    let receiver = RevocationReceiver::new(cache.clone(), standard());
    let at = Utc::now();
    let event = |id: &str| standard().signed_request(id, at, &updated("ada"));
    assert_eq!(status(&receiver, event("m1")).await, 204);
    proxy.commands();
    for seconds in [0, 1, 2] {
        let at = at + TimeDelta::seconds(seconds);
        let again = standard().signed_request("m1", at, &updated("ada"));
        assert_eq!(status(&receiver, again).await, 204);
    }
    // A forged request with a known ID is no duplicate.
    let forged = event("m1").map(|body| body + " ");
    assert_eq!(status(&receiver, forged).await, 401);
    assert_eq!(proxy.commands(), Vec::<String>::new());
    assert_eq!(cache.stats().revocations, 1);
    // A sender that gives one ID to two events loses none of them.
    let other = standard().signed_request("m1", at, &updated("bea"));
    assert_eq!(status(&receiver, other).await, 204);
    assert_eq!(status(&receiver, event("m2")).await, 204);
    assert_eq!(cache.stats().user_invalidations.applied, 3);
    let EventStats {
        applied,
        duplicates,
        rejected,
        ..
    } = receiver.stats();
    assert_eq!((applied, duplicates, rejected), (3, 3, 1));
}

#[tokio::test]
async fn event_is_forgotten_when_its_signature_has_expired() {
    let clock = ManualClock::new();
    let cache = SessionCache::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let receiver = RevocationReceiver::new(cache.clone(), standard());
    // The sender's clock is 5 minutes ahead, so the signature is accepted for 10 minutes.
    let event =
        standard().signed_request("m1", clock.now() + TimeDelta::seconds(300), &updated("ada"));
    assert_eq!(status(&receiver, event.clone()).await, 204);
    clock.advance(Duration::from_secs(599));
    assert_eq!(status(&receiver, event.clone()).await, 204);
    assert_eq!(receiver.stats().duplicates, 1);
    clock.advance(Duration::from_secs(2));
    assert_eq!(status(&receiver, event).await, 401);
    let later = standard().signed_request("m1", clock.now(), &updated("ada"));
    assert_eq!(status(&receiver, later).await, 204);
    assert_eq!(cache.stats().revocations, 2);
}

/// Freezes Redis, so that no revocation is applied on other nodes.
#[tokio::test]
async fn senders_are_answered_as_they_need_it_while_redis_is_frozen() {
    let redis = Redis::start();
    let cache = impatient(&redis);
    let other = impatient(&redis);
    let probe = probe();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    let other_layer = SessionCacheLayer::new(other.clone(), probe.clone());
    for user in ["ada", "bea", "cleo"] {
        soon("a stored session", async {
            while ask(&other_layer, &format!("{user}-1")).await.unwrap().1 != Origin::Redis {}
        })
        .await;
    }
    let appwrite_events = RevocationReceiver::new(cache.clone(), appwrite());
    let standard_events = RevocationReceiver::new(cache.clone(), standard());
    let header_events = RevocationReceiver::new(cache.clone(), header_secret());
    redis.pause();
    let request = appwrite().signed_request(&json!({ "$id": "ada" }));
    // Appwrite does not repeat an event, and counts failures.
    assert_eq!(status(&appwrite_events, request).await, 200);
    let event = standard().signed_request("m1", Utc::now(), &updated("bea"));
    let by_header = with_header("x-webhook-secret", HEADER_SECRET, &updated("cleo"));
    for answer in [
        send(&standard_events, event.clone()).await,
        send(&header_events, by_header).await,
    ] {
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
    }
    // Nothing to revoke needs no Redis.
    let nothing = json!({ "type": "other" });
    let nothing = standard().signed_request("m2", Utc::now(), &nothing);
    assert_eq!(status(&standard_events, nothing).await, 204);
    for stats in [
        appwrite_events.stats(),
        standard_events.stats(),
        header_events.stats(),
    ] {
        assert_eq!((stats.queued, stats.applied), (1, 0));
    }
    probe.answer(|_| Err(ValidationError::invalid()));
    for user in ["ada", "bea", "cleo"] {
        let answer = ask(&layer, &format!("{user}-1")).await;
        assert_eq!(answer.unwrap_err(), 401, "{user} on this node");
    }
    redis.resume();
    until("the delivery", || cache.stats().queued_revocations == 0).await;
    for user in ["ada", "bea", "cleo"] {
        soon("the other node to reject", async {
            while ask(&other_layer, &format!("{user}-1")).await.is_ok() {
                crate::support::pass().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn event_that_was_only_queued_is_applied_when_it_is_repeated() {
    let redis = Redis::start();
    let cache = impatient(&redis);
    let receiver = RevocationReceiver::new(cache.clone(), standard());
    let event = standard().signed_request("m1", Utc::now(), &updated("ada"));
    redis.pause();
    for _ in 0..2 {
        assert_eq!(status(&receiver, event.clone()).await, 503);
    }
    redis.resume();
    until("the delivery", || {
        let stats = cache.stats();
        stats.queued_revocations == 0 && !stats.redis_circuit_open
    })
    .await;
    let before = cache.stats().user_invalidations;
    assert_eq!((before.applied, before.queued), (0, 2));
    assert_eq!(status(&receiver, event.clone()).await, 204);
    assert_eq!(cache.stats().user_invalidations.applied, 1, "applied again");
    assert_eq!(status(&receiver, event).await, 204);
    assert_eq!(cache.stats().user_invalidations.applied, 1, "remembered");
    let stats = receiver.stats();
    assert_eq!((stats.queued, stats.applied, stats.duplicates), (2, 1, 1));
}

#[tokio::test]
async fn flood_of_unsigned_requests_sends_no_command() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port()).await;
    let cache = SessionCache::builder()
        .redis(RedisConfig::single(proxy.url()))
        .unwrap()
        .build()
        .unwrap();
    let [appwrite_events, standard_events, header_events] = [0; 3].map(|_| cache.clone());
    let appwrite_events = RevocationReceiver::new(appwrite_events, appwrite());
    let standard_events = RevocationReceiver::new(standard_events, standard());
    let header_events = RevocationReceiver::new(header_events, header_secret());
    let other = StandardWebhook::new(OTHER_SECRET, user).unwrap();
    for number in 0..1_000 {
        let event = updated(&format!("user-{number}"));
        let unsigned = || Request::post("/").body(event.to_string()).unwrap();
        assert_eq!(status(&appwrite_events, unsigned()).await, 401);
        let signed = other.signed_request("m1", Utc::now(), &event);
        assert_eq!(status(&standard_events, signed).await, 401);
        assert_eq!(status(&header_events, unsigned()).await, 401);
    }
    assert_eq!(proxy.commands(), Vec::<String>::new());
    assert_eq!(cache.stats().revocations, 0);
    assert_eq!(cache.stats().redis_connections, 0);
}

#[tokio::test(start_paused = true)]
async fn body_is_bounded_in_length_and_time() {
    let receiver = RevocationReceiver::new(SessionCache::default(), standard());
    let signed = |length: usize| {
        let text = "x".repeat(length);
        standard().signed_request("m1", Utc::now(), &json!(text))
    };
    let limit = 256 * 1024;
    // Two quotation marks belong to the JSON.
    for (length, expected) in [(limit - 2, 204), (limit - 1, 413)] {
        assert_eq!(status(&receiver, signed(length)).await, expected);
        // The same without an announced length, in frames and with trailers.
        let in_frames = signed(length).map(|body| {
            let chunks: Vec<_> = body
                .as_bytes()
                .chunks(1_000)
                .map(Bytes::copy_from_slice)
                .collect();
            let chunks = stream::iter(chunks).map(Frame::data);
            let trailers = stream::iter([Frame::trailers(HeaderMap::new())]);
            StreamBody::new(chunks.chain(trailers).map(Ok::<_, Infallible>))
        });
        assert_eq!(status(&receiver, in_frames).await, expected);
    }
    // A body that announces too much is not read.
    let announced = Full::new(Bytes::from(vec![b' '; limit + 1]));
    let announced = Request::post("/").body(announced).unwrap();
    assert_eq!(status(&receiver, announced).await, 413);
    let start = tokio::time::Instant::now();
    let endless = stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let endless = Request::post("/").body(StreamBody::new(endless)).unwrap();
    assert_eq!(status(&receiver, endless).await, 408);
    assert_eq!(start.elapsed().as_secs(), 5);
    let trickle = stream::unfold((), async |()| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let byte = Frame::data(Bytes::from_static(b" "));
        Some((Ok::<_, Infallible>(byte), ()))
    });
    let trickle = Request::post("/").body(StreamBody::new(Box::pin(trickle)));
    assert_eq!(status(&receiver, trickle.unwrap()).await, 408);
    let broken = stream::iter([Err::<Frame<Bytes>, _>("the connection is lost")]);
    let broken = Request::post("/").body(StreamBody::new(broken)).unwrap();
    assert_eq!(status(&receiver, broken).await, 400);
    let stats = receiver.stats();
    assert_eq!((stats.too_large, stats.too_slow, stats.rejected), (3, 2, 1));
}

#[tokio::test]
async fn only_post_is_read() {
    let receiver = RevocationReceiver::new(SessionCache::default(), appwrite());
    for method in ["GET", "PUT", "OPTIONS", "HEAD", "DELETE"] {
        let mut request = appwrite().signed_request(&json!({ "$id": "ada" }));
        *request.method_mut() = method.parse().unwrap();
        let answer = send(&receiver, request).await;
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()[header::ALLOW], "POST");
    }
    assert_eq!(receiver.stats().applied, 0);
}

/// A source of an application, whose body is a list of IDs.
struct List;

impl RevocationSource for List {
    fn name(&self) -> &'static str {
        "list"
    }

    async fn read(&self, _: &Parts, body: &[u8], now: DateTime<Utc>) -> Result<Revoked, Refusal> {
        match body {
            b"hang" => pending().await,
            b"odd" => Err(Refusal::new(RefusalKind::InvalidIssuer, "an odd issuer")),
            _ => {
                let ids = std::str::from_utf8(body).unwrap();
                Ok(Revoked::users(ids.split_whitespace()).occurred_at(now))
            }
        }
    }
}

fn list(ids: &str) -> Request<String> {
    Request::post("/").body(ids.to_owned()).unwrap()
}

#[tokio::test]
async fn event_of_several_users_concerns_all_of_them() {
    let redis = Redis::start();
    let probe = probe();
    let node = Node::new(&redis, &probe);
    let receiver = RevocationReceiver::new(node.cache.clone(), List);
    let users: Vec<_> = (0..200).map(|number| format!("user{number}")).collect();
    for user in &users {
        ask(&node.layer, &format!("{user}-1")).await.unwrap();
    }
    probe.answer(|_| Err(ValidationError::invalid()));
    assert_eq!(status(&receiver, list(&users.join(" "))).await, 204);
    for user in &users {
        let answer = ask(&node.layer, &format!("{user}-1")).await;
        assert_eq!(answer.unwrap_err(), 401, "{user}");
    }
    assert_eq!(node.cache.stats().user_invalidations.applied, 200);
    assert_eq!(receiver.stats().applied, 1);
    assert_eq!(status(&receiver, list("")).await, 204);
    assert_eq!(receiver.stats().ignored, 1);
}

/// A source of an application with several issuers. The body is the issuer, the ID and the user.
struct Issuers;

impl RevocationSource for Issuers {
    fn name(&self) -> &'static str {
        "issuers"
    }

    async fn read(&self, _: &Parts, body: &[u8], _: DateTime<Utc>) -> Result<Revoked, Refusal> {
        let parts: Vec<_> = std::str::from_utf8(body).unwrap().split(' ').collect();
        Ok(Revoked::user(parts[2]).with_event_id(parts[0], parts[1]))
    }
}

#[tokio::test]
async fn equal_ids_of_two_issuers_are_two_events_of_one_receiver() {
    let receiver = RevocationReceiver::new(SessionCache::default(), Issuers);
    for (event, is_new) in [
        ("one 1 ada", true),
        ("other 1 ada", true),
        // The same text, if it is not known where the ID begins.
        ("on e1 ada", true),
        ("one 1 ada", false),
        ("other 1 ada", false),
    ] {
        let before = receiver.stats();
        assert_eq!(status(&receiver, list(event)).await, 204);
        let after = receiver.stats();
        assert_eq!(after.applied - before.applied, u64::from(is_new), "{event}");
        let duplicates = after.duplicates - before.duplicates;
        assert_eq!(duplicates, u64::from(!is_new), "{event}");
    }
}

/// A sender may close the connection before it is answered.
#[tokio::test]
async fn event_is_applied_when_its_sender_no_longer_waits() {
    let redis = Redis::start();
    let node = Node::new(&redis, &probe());
    let receiver = RevocationReceiver::new(node.cache.clone(), List);
    let ids: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let mut request = Box::pin(receiver.clone().oneshot(list(&ids.join(" "))));
    assert!((&mut request).now_or_never().is_none());
    drop(request);
    until("all revocations", || {
        node.cache.stats().user_invalidations.applied == 200
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn source_of_an_application_is_bounded_in_time() {
    let receiver = RevocationReceiver::new(SessionCache::default(), List);
    let start = tokio::time::Instant::now();
    let answer = send(&receiver, list("hang")).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
    assert_eq!(start.elapsed().as_secs(), 5);
    let answer = send(&receiver, list("odd")).await;
    assert_eq!(answer.status(), 401);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(body.is_empty());
    let stats = receiver.stats();
    assert_eq!((stats.unavailable, stats.rejected), (1, 1));
}

#[tokio::test]
async fn source_that_falls_silent_is_reported_once() {
    let log = record();
    let clock = ManualClock::new();
    let cache = SessionCache::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let receiver = RevocationReceiver::new(cache, standard().named("clerk"));
    assert_eq!(receiver.stats().since_last, None);
    for number in 0..6 {
        clock.advance(Duration::from_secs(1_200));
        let id = format!("m{number}");
        let event = standard().signed_request(&id, clock.now(), &updated("ada"));
        assert_eq!(status(&receiver, event).await, 204);
    }
    let warnings = || log.text().matches("no pushed events").count();
    // An unsigned request is no sign of the sender.
    for minutes in [199, 1, 100] {
        clock.advance(Duration::from_secs(minutes * 60));
        assert_eq!(status(&receiver, list("")).await, 401);
        pass_time(Duration::from_secs(61)).await;
        crate::support::pass().await;
        assert_eq!(warnings(), usize::from(minutes != 199), "{minutes}");
    }
    let silence = receiver.stats().since_last.unwrap();
    assert_eq!(silence, Duration::from_secs(300 * 60));
    assert!(log.text().contains("clerk"), "{}", log.text());
}

#[tokio::test]
async fn check_for_silence_ends_with_its_receiver() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let receiver = RevocationReceiver::new(SessionCache::default(), List);
    assert_eq!(status(&receiver, list("")).await, 204);
    assert_eq!(metrics.num_alive_tasks(), before + 1);
    drop(receiver);
    until("the task to end", || metrics.num_alive_tasks() == before).await;
}

#[tokio::test]
async fn log_shows_nothing_of_an_event() {
    let log = record();
    let cache = SessionCache::default();
    let appwrite_events = RevocationReceiver::new(cache.clone(), appwrite());
    let event =
        json!({ "$id": "private-user", "email": "private@example.com", "secret": "private" });
    let signed = appwrite().signed_request(&event);
    let unsigned = Request::post("/?private").body(event.to_string()).unwrap();
    assert_eq!(status(&appwrite_events, signed).await, 200);
    for _ in 0..10 {
        assert_eq!(status(&appwrite_events, unsigned.clone()).await, 401);
    }
    let standard_events = RevocationReceiver::new(cache.clone(), standard());
    let signed = standard().signed_request("private-id", Utc::now(), &updated("private-user"));
    assert_eq!(status(&standard_events, signed).await, 204);
    let header_events = RevocationReceiver::new(cache, header_secret());
    for (value, expected) in [(HEADER_SECRET, 204), ("private-secret", 401)] {
        let request = with_header("x-webhook-secret", value, &updated("private-user"));
        assert_eq!(status(&header_events, request).await, expected);
    }
    let text = log.text();
    assert!(text.contains("pushed event finished") && text.contains("applied"));
    // Ten refused requests are logged when their number has doubled.
    assert_eq!(text.matches("pushed event refused").count(), 4 + 1);
    for private in [
        "private",
        APPWRITE_KEY,
        SECRET,
        HEADER_SECRET,
        "api.example.com",
    ] {
        assert!(!text.contains(private), "{private} in {text}");
    }
}

const CLIENTS: usize = 4;
const USERS: usize = 8;

/// From when a node must reject the tokens of a user whose number is lower than this one.
#[derive(Default)]
struct Bounds(Mutex<Vec<(Instant, usize)>>);

impl Bounds {
    fn add(&self, from: Instant, number: usize) {
        self.0.lock().unwrap().push((from, number));
    }

    fn at(&self, time: Instant) -> usize {
        let mut bounds = self.0.lock().unwrap();
        let reached = bounds.iter().filter(|(from, _)| *from <= time);
        let highest = reached.map(|(_, number)| *number).max().unwrap_or_default();
        bounds.retain(|(_, number)| *number >= highest);
        highest
    }
}

/// Which tokens of a user the provider rejects, those with a lower number, and which each node must
/// reject.
#[derive(Default)]
struct Ledger {
    provider: [AtomicUsize; USERS],
    nodes: [[Bounds; USERS]; 2],
    requests: AtomicUsize,
    applied: AtomicUsize,
    queued: AtomicUsize,
    has_ended: AtomicBool,
    violations: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Client {
    ledger: Arc<Ledger>,
    /// How long after its answer a revocation may reach the local cache of the other node.
    lease: Duration,
    caches: [SessionCache; 2],
    layers: [SessionCacheLayer<Probe>; 2],
    receivers: [RevocationReceiver<StandardWebhook>; 2],
}

impl Client {
    async fn request(&self, node: usize, user: usize, age: usize) {
        let bound = self.ledger.nodes[node][user].at(Instant::now());
        let newest = self.ledger.provider[user].load(SeqCst);
        let number = newest.saturating_sub(age);
        let answer = ask(&self.layers[node], &format!("{user}-{number}")).await;
        if let Ok((_, origin)) = answer
            && number < bound
        {
            let seen = format!("{origin:?} on node {node}: {user}-{number} instead of {bound}");
            self.ledger.violations.lock().unwrap().push(seen);
        }
    }

    /// Ends the sessions at the provider, and then here. Only one client does this for a user.
    async fn revoke(&self, node: usize, user: usize, by_event: bool) {
        let ledger = &self.ledger;
        let number = ledger.provider[user].fetch_add(1, SeqCst) + 1;
        let is_applied = if by_event {
            let id = format!("{user}-{number}");
            let event = updated(&user.to_string());
            let event = standard().signed_request(&id, Utc::now(), &event);
            status(&self.receivers[node], event).await == 204
        } else {
            let id = user.to_string();
            self.caches[node].invalidate_user(&id).await.is_ok()
        };
        // A queued revocation holds on the node that has it.
        let now = Instant::now();
        ledger.nodes[node][user].add(now, number);
        if is_applied {
            ledger.nodes[1 - node][user].add(now + self.lease, number);
            ledger.applied.fetch_add(1, SeqCst);
        } else {
            ledger.queued.fetch_add(1, SeqCst);
        }
    }

    async fn run(&self, index: usize, requests: usize, mut random: StdRng) {
        let ledger = &self.ledger;
        while ledger.requests.fetch_add(1, SeqCst) < requests || !ledger.has_ended.load(SeqCst) {
            let node = random.random_range(0..2);
            if random.random_ratio(1, 50) {
                let own = random.random_range(0..USERS / CLIENTS) * CLIENTS + index;
                self.revoke(node, own, random.random()).await;
                for node in 0..2 {
                    self.request(node, own, 1).await;
                }
            } else {
                let user = random.random_range(0..USERS);
                self.request(node, user, random.random_range(0..2)).await;
            }
        }
    }
}

/// Requests to two nodes, while users are revoked by pushed events and by the application, and Redis
/// freezes and restarts with its data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_hold_while_redis_freezes_and_restarts() {
    events_hold(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_hold_with_a_local_cache_while_redis_freezes_and_restarts() {
    events_hold(Some(Duration::from_millis(250))).await;
}

async fn events_hold(lease: Option<Duration>) {
    let requests = match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 50_000,
        None => 5_000,
    };
    let seed: u64 = rand::random();
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let ledger = Arc::new(Ledger::default());
    let provider = Arc::clone(&ledger);
    let probe = Probe::answering(move |token| {
        let (user, number) = token.split_once('-').unwrap();
        let [index, number] = [user, number].map(|text| text.parse::<usize>().unwrap());
        if number < provider.provider[index].load(SeqCst) {
            return Err(ValidationError::invalid());
        }
        Ok(session(user))
    });
    let node = || {
        let redis = RedisConfig::single(redis.url()).timeout(Duration::from_millis(250));
        let mut builder = SessionCache::builder().redis(redis).unwrap();
        if let Some(lease) = lease {
            builder = builder.local_cache(LocalCacheConfig::new(100).lease(lease));
        }
        builder.build().unwrap()
    };
    let caches = [node(), node()];
    let client = Client {
        ledger: Arc::clone(&ledger),
        lease: lease.unwrap_or_default(),
        layers: caches
            .each_ref()
            .map(|cache| SessionCacheLayer::new(cache.clone(), probe.clone())),
        receivers: caches
            .each_ref()
            .map(|cache| RevocationReceiver::new(cache.clone(), standard())),
        caches: caches.clone(),
    };
    let mut clients = JoinSet::new();
    for index in 0..CLIENTS {
        let client = client.clone();
        let random = StdRng::seed_from_u64(seed.wrapping_add(index as u64));
        clients.spawn(async move { client.run(index, requests, random).await });
    }
    let sum = |of: fn(&Stats) -> u64| caches.iter().map(|cache| of(&cache.stats())).sum::<u64>();
    // With a local cache, the hits in it.
    let hits = || match lease {
        Some(_) => sum(|stats| stats.local_hits),
        None => sum(|stats| stats.hits),
    };
    let count = |count: &AtomicUsize| count.load(SeqCst);
    let mut random = StdRng::seed_from_u64(!seed);
    let mut faults = 0;
    while faults < requests / 500 || count(&ledger.queued) == 0 {
        // Each fault finds sessions in the caches.
        let (before, made) = (hits(), count(&ledger.requests));
        until("hits", || {
            hits() >= before + 20 && count(&ledger.requests) >= made + 100
        })
        .await;
        faults += 1;
        if random.random() {
            redis.pause();
            // There is no event to wait for: the freezes end before and after leases and timeouts.
            tokio::time::sleep(Duration::from_millis(random.random_range(10..800))).await;
            redis.resume();
        } else {
            redis.kill();
            redis.restart();
        }
    }
    ledger.has_ended.store(true, SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let [requests, applied, queued] =
        [&ledger.requests, &ledger.applied, &ledger.queued].map(count);
    let seen = format!(
        "seed {seed}: {requests} requests, {applied} applied, {queued} queued, {} hits, of them {} \
         from memory, {faults} freezes and restarts",
        hits(),
        caches
            .iter()
            .map(|cache| cache.stats().local_hits)
            .sum::<u64>(),
    );
    println!("{seen}");
    let violations = ledger.violations.lock().unwrap().clone();
    assert!(violations.is_empty(), "{violations:?}, {seen}");
    assert!(applied > 0, "{seen}");
    // What was queued is delivered, and then holds on both nodes.
    until("the deliveries", || {
        let mut caches = caches.iter();
        caches.all(|cache| cache.stats().queued_revocations == 0)
    })
    .await;
    tokio::time::sleep(client.lease).await;
    for user in 0..USERS {
        let newest = ledger.provider[user].load(SeqCst);
        for layer in &client.layers {
            let answer = ask(layer, &format!("{user}-{}", newest.max(1) - 1)).await;
            assert_eq!(answer.is_err(), newest > 0, "{user}, {seen}");
        }
    }
}
