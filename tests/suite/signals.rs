//! Shared Signals: which security events are accepted by push and by poll, and what they change.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::post};
use chrono::Utc;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};
use tower::ServiceExt;
use tower_session_cache::{
    EventIssuer, EventResponseBody, IntrospectionAuth, IntrospectionValidator, JwsAlgorithm,
    Origin, RedisConfig, RevocationReceiver, SessionCache, SessionCacheLayer, SharedSignals,
    testing::TestIssuer,
};

use crate::support::{
    client::ask,
    hook::Hook,
    idp::Tokens,
    keycloak::{self, Keycloak, User},
    log::record,
    node::{Node, issuer_with_keys},
    probe::{self, Probe, session},
    redis::Redis,
    soon, until,
};

type Receiver = RevocationReceiver<SharedSignals>;

const ISSUER: &str = "https://op.example.com";

/// The audience of a stream, as Keycloak makes it.
const STREAM: &str = "signals/0b1f5c9e";

const PREFIX: &str = "https://schemas.openid.net/secevent";

fn issuer() -> TestIssuer {
    TestIssuer::new(ISSUER).unwrap()
}

fn source(issuer: &TestIssuer) -> SharedSignals {
    SharedSignals::new(issuer.event_issuer().unwrap(), ["other", STREAM]).unwrap()
}

fn receiver(cache: &SessionCache, issuer: &TestIssuer) -> Receiver {
    RevocationReceiver::new(cache.clone(), source(issuer))
}

async fn push(receiver: &Receiver, token: &str) -> Response<EventResponseBody> {
    let request = Request::post("/hooks/signals")
        .header(header::CONTENT_TYPE, "application/secevent+jwt")
        .body(token.to_owned());
    let answer = receiver.clone().oneshot(request.unwrap());
    soon("an answer", answer).await.unwrap()
}

fn ada() -> Value {
    json!({ "format": "iss_sub", "iss": ISSUER, "sub": "ada" })
}

/// The claims of a valid event, with these instead; `null` removes a claim.
fn claims(id: &str, others: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER,
        "aud": STREAM,
        "iat": Utc::now().timestamp(),
        "jti": id,
        "sub_id": ada(),
        "events": { format!("{PREFIX}/caep/event-type/credential-change"): {} },
    });
    let members = claims.as_object_mut().unwrap();
    members.extend(others.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
    claims
}

fn sign(issuer: &TestIssuer, claims: &Value) -> String {
    issuer.sign(&json!({ "typ": "secevent+jwt" }), claims)
}

#[tokio::test]
async fn events_about_a_user_cause_a_validation_and_others_are_acknowledged() {
    let issuer = issuer();
    let probe = Probe::answering(|token| Ok(session(token.split('-').next().unwrap())));
    let cache = SessionCache::default();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    let receiver = RevocationReceiver::new(
        cache,
        source(&issuer).map_subject(|subject| {
            let email = subject["email"].as_str()?;
            email.strip_suffix("@example.com").map(str::to_owned)
        }),
    );
    let complex = |user: Value| {
        let session = json!({ "format": "opaque", "id": "s1" });
        json!({ "format": "complex", "user": user, "session": session })
    };
    let opaque = json!({ "format": "opaque", "id": "ada" });
    let email = json!({ "format": "email", "email": "ada@example.com" });
    let ended = "caep/event-type/session-revoked";
    for (event, subject, is_about_ada) in [
        (ended, ada(), true),
        (ended, complex(ada()), true),
        (ended, complex(email.clone()), true),
        (ended, email, true),
        (ended, complex(opaque.clone()), false),
        (ended, opaque, false),
        (
            ended,
            json!({ "format": "email", "email": "ada@other.example" }),
            false,
        ),
        (ended, json!(null), false),
        ("caep/event-type/credential-change", ada(), true),
        ("caep/event-type/token-claims-change", ada(), true),
        ("risc/event-type/account-disabled", ada(), true),
        ("risc/event-type/account-purged", ada(), true),
        ("risc/event-type/sessions-revoked", ada(), true),
        (
            "risc/event-type/account-credential-change-required",
            ada(),
            true,
        ),
        (
            "ssf/event-type/verification",
            json!({ "format": "opaque", "id": "x" }),
            false,
        ),
        (
            "ssf/event-type/stream-updated",
            json!({ "format": "opaque", "id": "x" }),
            false,
        ),
        ("caep/event-type/session-established", ada(), false),
        ("unknown", ada(), false),
    ] {
        ask(&layer, "ada-1").await.unwrap();
        let event = format!("{PREFIX}/{event}");
        let token = issuer.security_event(STREAM, &event, &subject);
        let answer = push(&receiver, &token).await;
        assert_eq!(answer.status(), 202, "{event} {subject}");
        assert!(
            answer
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
        let (_, origin) = ask(&layer, "ada-1").await.unwrap();
        assert_eq!(
            origin == Origin::Validator,
            is_about_ada,
            "{event} {subject}"
        );
    }
    // The subject of earlier drafts is part of the event.
    let subject = json!({ "subject_type": "iss-sub", "iss": ISSUER, "sub": "ada" });
    let events =
        json!({ format!("{PREFIX}/risc/event-type/sessions-revoked"): { "subject": subject } });
    let token = sign(
        &issuer,
        &claims("draft", &json!({ "sub_id": null, "events": events })),
    );
    assert_eq!(push(&receiver, &token).await.status(), 202);
    assert_eq!(ask(&layer, "ada-1").await.unwrap().1, Origin::Validator);
    let stats = receiver.stats();
    assert_eq!((stats.unmapped, stats.ignored), (3, 4));
}

#[tokio::test]
async fn session_revoked_ends_the_session_of_its_subject_and_no_other_event_does() {
    let issuer = issuer();
    // The provider goes on to call the session active.
    let probe = Probe::answering(|token| Ok(session("ada").with_session_id(token)));
    let cache = SessionCache::default();
    let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
    let event_issuer = EventIssuer::builder(ISSUER)
        .algorithms([JwsAlgorithm::Es256])
        .jwks(issuer.jwks())
        .authority(probe::authority());
    let source = SharedSignals::new(event_issuer.build().unwrap(), [STREAM]).unwrap();
    let receiver = RevocationReceiver::new(cache, source);
    let subject = |id: &str, user: Option<Value>| {
        let session = json!({ "format": "opaque", "id": id });
        let mut subject = json!({ "format": "complex", "session": session });
        if let Some(user) = user {
            subject["user"] = user;
        }
        subject
    };
    for token in ["s1", "s2", "s3"] {
        ask(&layer, token).await.unwrap();
    }
    for (event, subject) in [
        ("session-revoked", subject("s1", Some(ada()))),
        ("session-revoked", subject("s2", None)),
        ("credential-change", subject("s3", Some(ada()))),
    ] {
        let event = format!("{PREFIX}/caep/event-type/{event}");
        let token = issuer.security_event(STREAM, &event, &subject);
        assert_eq!(push(&receiver, &token).await.status(), 202);
    }
    assert_eq!(ask(&layer, "s1").await.unwrap_err(), 401);
    assert_eq!(ask(&layer, "s2").await.unwrap_err(), 401);
    assert_eq!(ask(&layer, "s3").await.unwrap().1, Origin::Validator);
}

#[tokio::test]
async fn invalid_events_are_answered_with_the_codes_of_rfc_8935() {
    let (issuer, cache) = (issuer(), SessionCache::default());
    let receiver = receiver(&cache, &issuer);
    let now = Utc::now().timestamp();
    let mut tokens = vec![
        ("not a token".to_owned(), "invalid_request"),
        (String::new(), "invalid_request"),
        (
            sign(&self::issuer(), &claims("a", &json!({}))),
            "authentication_failed",
        ),
    ];
    for (others, code) in [
        (
            json!({ "iss": "https://op.example.com/" }),
            "invalid_issuer",
        ),
        (json!({ "aud": "signals" }), "invalid_audience"),
        (json!({ "aud": null }), "invalid_audience"),
        (json!({ "iat": null }), "invalid_request"),
        (json!({ "iat": now + 65 }), "invalid_request"),
        (json!({ "jti": null }), "invalid_request"),
        (json!({ "events": null }), "invalid_request"),
        (json!({ "events": {} }), "invalid_request"),
        (json!({ "events": [] }), "invalid_request"),
    ] {
        tokens.push((sign(&issuer, &claims("a", &others)), code));
    }
    for (header, code) in [
        (json!({}), "invalid_request"),
        (json!({ "typ": "JWT" }), "invalid_request"),
        (json!({ "typ": "logout+jwt" }), "invalid_request"),
        (
            json!({ "typ": "secevent+jwt", "kid": "other" }),
            "invalid_key",
        ),
        (
            json!({ "typ": "secevent+jwt", "alg": "none" }),
            "invalid_key",
        ),
        (
            json!({ "typ": "secevent+jwt", "crit": ["x"] }),
            "invalid_request",
        ),
    ] {
        tokens.push((issuer.sign(&header, &claims("a", &json!({}))), code));
    }
    for (token, code) in tokens {
        let answer = push(&receiver, &token).await;
        assert_eq!(answer.status(), 400, "{code}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["err"], code);
        assert!(!body["description"].as_str().unwrap().is_empty());
    }
    assert_eq!(cache.stats().revocations, 0);

    // Events are delivered after an outage as well. The audience may be a list.
    let old = json!({ "iat": now - 86_400, "aud": [STREAM], "exp": 5 });
    let token = sign(&issuer, &claims("a", &old));
    assert_eq!(push(&receiver, &format!("{token}\n")).await.status(), 202);
    assert_eq!(push(&receiver, &token).await.status(), 202);
    assert_eq!(cache.stats().user_invalidations.applied, 1);
}

#[tokio::test]
async fn configured_authorization_is_required() {
    let (issuer, cache) = (issuer(), SessionCache::default());
    let secret = "Bearer x5Wd3kFq8Zr1Tt0v";
    let source = source(&issuer).authorization(secret).unwrap();
    let receiver = RevocationReceiver::new(cache, source);
    let token = sign(&issuer, &claims("a", &json!({})));
    for (value, expected) in [
        (Some(secret), 202),
        (Some("Bearer x5Wd3kFq8Zr1Tt0w"), 400),
        (Some("x5Wd3kFq8Zr1Tt0v"), 400),
        (Some(""), 400),
        (None, 400),
    ] {
        let mut request = Request::post("/hooks/signals");
        if let Some(value) = value {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(token.clone()).unwrap();
        let answer = receiver.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), expected, "{value:?}");
    }
    assert!(self::source(&issuer).authorization("short").is_err());
    assert!(SharedSignals::new(issuer.event_issuer().unwrap(), [""; 0]).is_err());
    assert!(SharedSignals::new(issuer.event_issuer().unwrap(), [""]).is_err());
}

/// Transmitter whose stream a test fills. It delivers an event until it is answered.
struct Transmitter {
    url: String,
    stream: Arc<Stream>,
}

#[derive(Default)]
struct Stream {
    state: Mutex<StreamState>,
    changed: Notify,
}

#[derive(Default)]
struct StreamState {
    pending: BTreeMap<String, String>,
    acknowledged: Vec<String>,
    errors: BTreeMap<String, Value>,
    polls: usize,
    is_failing: bool,
    /// How many access tokens have expired, which is the number in the valid one.
    expired_tokens: usize,
}

fn access_token(number: usize) -> String {
    format!("access token {number}")
}

impl Transmitter {
    async fn start() -> Self {
        let stream = Arc::new(Stream::default());
        let app = Router::new()
            .route("/poll", post(poll))
            .with_state(Arc::clone(&stream));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/poll", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, stream }
    }

    fn deliver(&self, id: &str, token: String) {
        let mut state = self.stream.state.lock().unwrap();
        state.pending.insert(id.to_owned(), token);
        drop(state);
        self.stream.changed.notify_waiters();
    }

    fn with<T>(&self, read: impl FnOnce(&mut StreamState) -> T) -> T {
        read(&mut self.stream.state.lock().unwrap())
    }
}

async fn poll(
    State(stream): State<Arc<Stream>>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    let valid = access_token(stream.state.lock().unwrap().expired_tokens);
    if headers[header::AUTHORIZATION] != format!("Bearer {valid}") {
        return Err(StatusCode::UNAUTHORIZED);
    }
    assert_eq!(request["returnImmediately"], false);
    let most = request["maxEvents"].as_u64().unwrap();
    {
        let mut state = stream.state.lock().unwrap();
        state.polls += 1;
        if state.is_failing {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        for id in request["ack"].as_array().unwrap() {
            let id = id.as_str().unwrap().to_owned();
            state.pending.remove(&id);
            state.acknowledged.push(id);
        }
        for (id, error) in request["setErrs"].as_object().unwrap() {
            state.pending.remove(id);
            state.errors.insert(id.clone(), error.clone());
        }
    }
    // Holds the poll until there is an event.
    loop {
        let changed = stream.changed.notified();
        let pending = stream.state.lock().unwrap().pending.clone();
        if !pending.is_empty() {
            let has_more = pending.len() > most as usize;
            let sets: BTreeMap<_, _> = pending.into_iter().take(most as usize).collect();
            return Ok(Json(json!({ "sets": sets, "moreAvailable": has_more })));
        }
        changed.await;
    }
}

#[tokio::test]
async fn polled_events_are_applied_and_answered_until_the_owner_ends() {
    let (issuer, cache) = (issuer(), SessionCache::default());
    let transmitter = Transmitter::start().await;
    let polling = source(&issuer);
    let token = || async { Ok(access_token(0)) };
    let polling = polling.poll(cache.clone(), &transmitter.url, token);
    let polling = polling.unwrap();

    for number in 0..120 {
        let id = format!("e{number}");
        transmitter.deliver(&id, sign(&issuer, &claims(&id, &json!({}))));
    }
    let attacker = self::issuer();
    transmitter.deliver("forged", sign(&attacker, &claims("forged", &json!({}))));
    let verification = format!("{PREFIX}/ssf/event-type/verification");
    transmitter.deliver(
        "v",
        issuer.security_event(STREAM, &verification, &json!({})),
    );
    until("all events to be answered", || {
        transmitter.with(|state| state.pending.is_empty())
    })
    .await;
    let mut acknowledged = transmitter.with(|state| state.acknowledged.clone());
    acknowledged.sort();
    acknowledged.dedup();
    assert_eq!(acknowledged.len(), 121);
    let errors = transmitter.with(|state| state.errors.clone());
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["forged"]);
    assert_eq!(errors["forged"]["err"], "authentication_failed");
    let stats = polling.stats();
    assert_eq!((stats.applied, stats.ignored, stats.rejected), (120, 1, 1));
    assert_eq!(cache.stats().user_invalidations.applied, 120);

    // The transmitter fails for a while.
    transmitter.with(|state| state.is_failing = true);
    transmitter.deliver("late", sign(&issuer, &claims("late", &json!({}))));
    let polls = transmitter.with(|state| state.polls);
    until("a failed poll", || {
        transmitter.with(|state| state.polls > polls + 1)
    })
    .await;
    transmitter.with(|state| state.is_failing = false);
    let is_answered = || transmitter.with(|state| state.acknowledged.contains(&"late".to_owned()));
    until("the event after the failure", is_answered).await;

    drop(polling);
}

#[tokio::test]
async fn polled_event_is_acknowledged_only_once_it_is_applied() {
    let redis = Redis::start();
    let issuer = issuer();
    let cache = SessionCache::builder()
        .redis(RedisConfig::single(redis.url()).timeout(Duration::from_millis(250)))
        .unwrap();
    let cache = cache.build().unwrap();
    let transmitter = Transmitter::start().await;
    redis.pause();
    let token = || async { Ok(access_token(0)) };
    let polling = source(&issuer).poll(cache.clone(), &transmitter.url, token);
    let polling = polling.unwrap();
    transmitter.deliver("e", sign(&issuer, &claims("e", &json!({}))));
    until("the event to be queued", || polling.stats().queued > 0).await;
    let polls = transmitter.with(|state| state.polls);
    until("another poll", || {
        transmitter.with(|state| state.polls > polls)
    })
    .await;
    assert!(transmitter.with(|state| state.acknowledged.is_empty()));
    redis.resume();
    until("the acknowledgement", || {
        transmitter.with(|state| !state.acknowledged.is_empty())
    })
    .await;
    assert!(polling.stats().applied > 0);
}

const ADA: User<'_> = User {
    name: "ada",
    password: "the password of ada",
    email: "ada@example.com",
    is_email_verified: true,
};

/// A realm of a real Keycloak that sends security events about one user, and two nodes.
struct Realm {
    keycloak: Arc<Keycloak>,
    name: &'static str,
    shop: keycloak::Client,
    signals: keycloak::Client,
    ada: String,
    nodes: [Node; 2],
    _redis: Redis,
}

impl Realm {
    async fn new(name: &'static str, push_url: &str) -> Option<Self> {
        let keycloak = Keycloak::shared().await?;
        let shop = keycloak::Client::new("shop", "the secret of shop").audience("api");
        let api = keycloak::Client::new("api", "the secret of api");
        let signals = keycloak::Client::new("signals", "the secret of signals");
        // An access token expires while the test polls.
        let signals = signals
            .signals(push_url)
            .attribute("access.token.lifespan", "10");
        keycloak.create_realm(name).await;
        keycloak.enable_signals(name).await;
        for client in [&shop, &api, &signals] {
            keycloak.create_client(name, client).await;
        }
        let ada = keycloak.create_user(name, ADA).await;
        let redis = Redis::start();
        let node = || {
            let auth = IntrospectionAuth::basic(api.id.as_str(), api.secret.as_str());
            let endpoint = keycloak.introspection_endpoint(name);
            let validator = IntrospectionValidator::builder(endpoint, auth);
            Node::new(&redis, validator.issuer(keycloak.issuer(name)))
        };
        Some(Self {
            nodes: [node(), node()],
            name,
            shop,
            signals,
            ada,
            _redis: redis,
            keycloak,
        })
    }

    async fn stream(&self, delivery: Value) -> keycloak::Stream {
        self.keycloak
            .create_stream(self.name, &self.signals, delivery, &self.ada)
            .await
    }

    async fn source(&self, stream: &keycloak::Stream) -> SharedSignals {
        let issuer = issuer_with_keys(self.keycloak.issuer(self.name)).await;
        SharedSignals::new(issuer, [stream.audience.as_str()]).unwrap()
    }

    async fn login(&self) -> Tokens {
        let tokens = self
            .keycloak
            .login(self.name, &self.shop, ADA.name, ADA.password);
        let tokens = tokens.await;
        for node in &self.nodes {
            node.caches(&tokens.access).await;
        }
        tokens
    }

    /// Ends one session and then all of a user, and waits for both nodes to reject them. `applied`
    /// waits for an event, of which there are three.
    async fn end_sessions(&self, mut applied: impl AsyncFnMut()) {
        let [ended, other, another] = [self.login().await, self.login().await, self.login().await];
        // Keycloak sends no event for one session that an administrator ends.
        let deleted = self.login().await;
        self.keycloak.end_session(self.name, &deleted.sid()).await;
        let logout = self.keycloak.logout(self.name, &self.shop, &ended.refresh);
        logout.await;
        applied().await;
        for node in &self.nodes {
            node.rejects(&ended.access).await;
            // The other sessions of the user are validated again.
            node.rejects(&deleted.access).await;
            node.caches(&other.access).await;
        }
        // Keycloak names the session `ALL`, so the user counts.
        self.keycloak.log_out_user(self.name, &self.ada).await;
        applied().await;
        for node in &self.nodes {
            node.rejects(&other.access).await;
            node.rejects(&another.access).await;
        }
        // The session stays active, and is validated again.
        let kept = self.login().await;
        let password = "another password of ada";
        self.keycloak
            .reset_password(self.name, &self.ada, password)
            .await;
        applied().await;
        let (_, origin) = ask(&self.nodes[0].layer, &kept.access).await.unwrap();
        assert_eq!(origin, Origin::Validator);
    }
}

#[tokio::test]
async fn event_that_keycloak_pushes_ends_the_session_on_every_node() {
    let hook = Hook::bind().await;
    let Some(realm) = Realm::new("push", &hook.url).await else {
        return;
    };
    let authorization = "Bearer x5Wd3kFq8Zr1Tt0v";
    let delivery = json!({
        "method": "urn:ietf:rfc:8935",
        "endpoint_url": hook.url,
        "authorization_header": authorization,
    });
    let stream = realm.stream(delivery).await;
    let source = realm.source(&stream).await.authorization(authorization);
    let receiver = RevocationReceiver::new(realm.nodes[0].cache.clone(), source.unwrap());
    let mut answers = hook.serve(&receiver);
    realm
        .end_sessions(async || assert_eq!(answers.next().await, 202))
        .await;
    let stats = receiver.stats();
    assert_eq!((stats.applied, stats.rejected), (3, 0));
}

#[tokio::test]
async fn event_that_is_polled_at_keycloak_ends_the_session_on_every_node() {
    let Some(realm) = Realm::new("poll", "http://127.0.0.1/unused").await else {
        return;
    };
    let stream = realm.stream(json!({ "method": "urn:ietf:rfc:8936" })).await;
    let tokens = Arc::new(AtomicUsize::new(0));
    let (keycloak, client) = (Arc::clone(&realm.keycloak), realm.signals.clone());
    let (name, requested) = (realm.name, Arc::clone(&tokens));
    let token = move || {
        requested.fetch_add(1, SeqCst);
        let (keycloak, client) = (Arc::clone(&keycloak), client.clone());
        async move { Ok(keycloak.signals_token(name, &client).await) }
    };
    let cache = realm.nodes[0].cache.clone();
    let source = realm.source(&stream).await;
    let polling = source.poll(cache, &stream.endpoint, token).unwrap();
    let mut applied = 0;
    realm
        .end_sessions(async || {
            applied += 1;
            until("an event to be applied", || {
                polling.stats().applied >= applied
            })
            .await;
        })
        .await;
    until("the next access token", || tokens.load(SeqCst) > 1).await;
    let stats = polling.stats();
    assert_eq!((stats.applied, stats.rejected), (3, 0));
}

/// An access token lives for minutes, and a poll goes on for as long as the service.
#[tokio::test]
async fn poll_goes_on_with_the_next_access_token_when_one_has_expired() {
    let log = record();
    let (issuer, cache) = (issuer(), SessionCache::default());
    let transmitter = Transmitter::start().await;
    let requested = Arc::new(AtomicUsize::new(0));
    let number = Arc::clone(&requested);
    let token = move || {
        let number = number.fetch_add(1, SeqCst);
        async move {
            match number {
                0 => Err("the token endpoint is down".into()),
                number => Ok(access_token(number)),
            }
        }
    };
    transmitter.with(|state| state.expired_tokens = 1);
    let polling = source(&issuer).poll(cache.clone(), &transmitter.url, token);
    let polling = polling.unwrap();
    for number in 1..4_u64 {
        let id = format!("e{number}");
        transmitter.deliver(&id, sign(&issuer, &claims(&id, &json!({}))));
        until("the event to be acknowledged", || {
            transmitter.with(|state| state.acknowledged.contains(&id))
        })
        .await;
        assert_eq!(polling.stats().applied, number);
        // The poll that waits for the next event is answered before its token expires.
        transmitter.with(|state| state.expired_tokens += 1);
    }
    assert_eq!(requested.load(SeqCst), 4);
    let text = log.text();
    assert!(text.contains("the token endpoint is down"), "{text}");
    assert_eq!(text.matches("polling for events failed").count(), 1);
    assert!(!text.contains("access token "), "{text}");
}

#[tokio::test]
async fn settings_of_a_poll_are_checked() {
    let issuer = issuer();
    let poll = |url: &str| {
        let token = || async { Ok(access_token(0)) };
        source(&issuer).poll(SessionCache::default(), url, token)
    };
    assert!(poll("https://op.example.com/poll").is_ok());
    for url in ["op.example.com", "ftp://op.example.com"] {
        assert!(poll(url).is_err(), "{url}");
    }
}
