//! Back-channel logout: which logout tokens are accepted, what they change on each node, and how the
//! keys of their issuer are fetched.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use chrono::Utc;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_session_cache::{
    BackChannelLogout, EventIssuer, EventResponseBody, IntrospectionAuth, IntrospectionValidator,
    JwsAlgorithm, Origin, RedisConfig, RevocationReceiver, SessionCache, SessionCacheLayer,
    ValidationError, testing::TestIssuer,
};

use crate::support::{
    client::ask,
    hook::Hook,
    hydra::{self, Hydra},
    keycloak::{self, Keycloak, User},
    log::record,
    node::{Node, issuer_with_keys},
    oidc_provider::{self, OidcProvider},
    pass, pass_time,
    probe::{self, Probe, session},
    redis::Redis,
    soon,
};

type Receiver = RevocationReceiver<BackChannelLogout>;

const ISSUER: &str = "https://op.example.com";

fn issuer() -> TestIssuer {
    TestIssuer::new(ISSUER).unwrap()
}

/// A receiver for the clients `web` and `app` of an issuer.
fn receiver(cache: &SessionCache, issuer: &TestIssuer) -> Receiver {
    receiver_of(cache, issuer.event_issuer().unwrap())
}

fn receiver_of(cache: &SessionCache, issuer: EventIssuer) -> Receiver {
    let source = BackChannelLogout::new(issuer, ["web", "app"]).unwrap();
    RevocationReceiver::new(cache.clone(), source)
}

fn form(token: &str) -> String {
    format!("logout_token={token}")
}

async fn send(receiver: &Receiver, body: String) -> Response<EventResponseBody> {
    let request = Request::post("/hooks/backchannel-logout").body(body);
    let answer = receiver.clone().oneshot(request.unwrap());
    soon("an answer", answer).await.unwrap()
}

async fn status(receiver: &Receiver, token: &str) -> StatusCode {
    send(receiver, form(token)).await.status()
}

/// The claims of a valid logout token, with these instead; `null` removes a claim.
fn claims(id: &str, others: &Value) -> Value {
    let now = Utc::now().timestamp();
    let mut claims = json!({
        "iss": ISSUER,
        "aud": "web",
        "iat": now,
        "exp": now + 120,
        "jti": id,
        "sub": "ada",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    let members = claims.as_object_mut().unwrap();
    for (name, value) in others.as_object().unwrap() {
        members.insert(name.clone(), value.clone());
    }
    // A test may need the value, which is not the same as a missing claim.
    members.retain(|_, value| *value != json!("(missing)"));
    claims
}

const MISSING: &str = "(missing)";

#[tokio::test]
async fn logout_tokens_of_real_providers_are_accepted() {
    let (issuer, cache) = (issuer(), SessionCache::default());
    let receiver = receiver(&cache, &issuer);
    let now = Utc::now().timestamp();
    let logout = json!({ "typ": "logout+jwt" });
    let tokens = [
        // As Keycloak, Hydra and node-oidc-provider make them.
        (
            logout.clone(),
            json!({ "sid": "s1", "typ": "Logout", "exp": now + 120 }),
        ),
        (
            json!({ "typ": "JWT" }),
            json!({ "aud": ["shop", "web"], "sid": "s1", "sub": MISSING, "exp": MISSING }),
        ),
        (json!({}), json!({ "aud": ["app"] })),
        (json!({ "typ": "application/logout+JWT" }), json!({})),
        (logout.clone(), json!({ "iat": now - 359, "exp": MISSING })),
        (
            logout.clone(),
            json!({ "iat": now - 86_400, "exp": now - 55 }),
        ),
        (logout.clone(), json!({ "iat": now + 55 })),
        (logout.clone(), json!({ "iat": now as f64 + 0.25 })),
        (
            logout,
            json!({
                "events": {
                    "http://schemas.openid.net/event/backchannel-logout": { "more": 1 },
                    "https://op.example.com/other": 1,
                },
                "unknown": [1],
            }),
        ),
    ];
    for (number, (header, others)) in tokens.iter().enumerate() {
        let token = issuer.sign(header, &claims(&number.to_string(), others));
        let answer = send(&receiver, form(&token)).await;
        assert_eq!(answer.status(), 200, "{header} {others}");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
        assert!(
            answer
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
    }
}

#[tokio::test]
async fn tokens_that_are_no_valid_logout_tokens_are_refused() {
    let (issuer, cache) = (issuer(), SessionCache::default());
    let receiver = receiver(&cache, &issuer);
    let now = Utc::now().timestamp();
    let event = |value: Value| json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": value } });
    let logout = json!({ "typ": "logout+jwt" });
    let mut tokens = Vec::new();
    for others in [
        json!({ "iat": MISSING }),
        json!({ "iat": MISSING, "exp": MISSING }),
        json!({ "iat": "now" }),
        json!({ "iat": now + 65 }),
        json!({ "iat": 4e18 }),
        json!({ "iat": now - 365, "exp": MISSING }),
        json!({ "exp": now - 65 }),
        json!({ "exp": now + 2 * 86_400 }),
        json!({ "exp": 1e300 }),
        json!({ "exp": 8_210_266_876_799_i64 }),
        json!({ "iat": 8_210_266_876_799_i64, "exp": MISSING }),
        json!({ "exp": null }),
        json!({ "jti": MISSING }),
        json!({ "jti": "" }),
        json!({ "jti": 7 }),
        json!({ "iss": "https://op.example.com/" }),
        json!({ "iss": "https://other.example.com" }),
        json!({ "iss": MISSING }),
        json!({ "iss": [ISSUER] }),
        json!({ "aud": "other" }),
        json!({ "aud": ["other", ["web"]] }),
        json!({ "aud": MISSING }),
        json!({ "aud": "WEB" }),
        json!({ "sub": MISSING }),
        json!({ "sub": "" }),
        json!({ "sub": 5 }),
        json!({ "sid": null }),
        json!({ "nonce": "n" }),
        json!({ "nonce": null }),
        json!({ "events": MISSING }),
        json!({ "events": {} }),
        json!({ "events": "http://schemas.openid.net/event/backchannel-logout" }),
        json!({ "events": ["http://schemas.openid.net/event/backchannel-logout"] }),
        event(json!(null)),
        event(json!("x")),
        event(json!([])),
    ] {
        let claims = claims("a", &others);
        tokens.push((issuer.sign(&logout, &claims), claims.to_string()));
    }
    // An ID token, an access token and a security event token of the same issuer.
    for (typ, others) in [
        (
            "JWT",
            json!({ "events": MISSING, "nonce": "n", "sid": "s1" }),
        ),
        ("JWT", json!({ "events": MISSING, "sid": "s1" })),
        ("at+jwt", json!({})),
        ("secevent+jwt", json!({})),
    ] {
        let token = issuer.sign(&json!({ "typ": typ }), &claims("a", &others));
        tokens.push((token, typ.to_owned()));
    }
    let valid = claims("a", &json!({}));
    let attacker = self::issuer();
    tokens.push((attacker.sign(&logout, &valid), "another key".to_owned()));
    for header in [
        json!({ "alg": "none" }),
        json!({ "alg": "HS256" }),
        json!({ "kid": "other" }),
        json!({ "crit": ["x"], "x": 1 }),
    ] {
        tokens.push((issuer.sign(&header, &valid), header.to_string()));
    }
    let unsigned = issuer.sign(&logout, &valid);
    let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
    tokens.push((unsigned, "no signature".to_owned()));
    tokens.push((String::new(), "no token".to_owned()));

    for (token, what) in tokens {
        let answer = send(&receiver, form(&token)).await;
        assert_eq!(answer.status(), 400, "{what}");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"], "invalid_request", "{what}");
        assert!(!body["error_description"].as_str().unwrap().is_empty());
    }
    assert_eq!(cache.stats().revocations, 0);
    assert_eq!(status(&receiver, &issuer.sign(&logout, &valid)).await, 200);
}

#[tokio::test]
async fn body_must_be_a_form_with_one_logout_token() {
    let (issuer, cache) = (issuer(), SessionCache::default());
    let receiver = receiver(&cache, &issuer);
    let token = || issuer.logout_token("web", Some("ada"), None);
    let (first, second) = (token(), token());
    for body in [
        format!("logout_token={first}&logout_token={second}"),
        format!("logout_token={first}&logout%5Ftoken={first}"),
        format!("logout_token={first}&logout_token="),
        format!("token={first}"),
        first.clone(),
        json!({ "logout_token": first }).to_string(),
        String::new(),
        "logout_token=%ff".to_owned(),
        format!("logout_token={}", "a".repeat(300_000)),
    ] {
        assert_eq!(send(&receiver, body).await.status(), 400);
    }
    assert_eq!(cache.stats().revocations, 0);
    let body = format!("state=1&logout_token={first}&x");
    assert_eq!(send(&receiver, body).await.status(), 200);
}

#[tokio::test]
async fn duplicate_is_acknowledged_and_equal_ids_of_two_issuers_are_two_events() {
    let cache = SessionCache::default();
    let applied = || cache.stats().user_invalidations.applied;
    let logout = json!({ "typ": "logout+jwt" });
    let mut receivers = Vec::new();
    for url in [ISSUER, "https://other.example.com"] {
        let issuer = TestIssuer::new(url).unwrap();
        let receiver = receiver(&cache, &issuer);
        let before = applied();
        for _ in 0..3 {
            // A repetition may be signed again.
            let token = issuer.sign(&logout, &claims("the same ID", &json!({ "iss": url })));
            assert_eq!(status(&receiver, &token).await, 200);
        }
        assert_eq!(applied(), before + 1, "{url}");
        receivers.push(receiver);
    }
}

#[tokio::test]
async fn logout_that_is_only_queued_is_answered_with_503_and_applied_when_it_is_repeated() {
    let redis = Redis::start();
    let (issuer, url) = (issuer(), redis.url());
    let cache = SessionCache::builder()
        .redis(RedisConfig::single(url).timeout(Duration::from_millis(250)))
        .unwrap();
    let cache = cache.build().unwrap();
    let receiver = receiver(&cache, &issuer);
    let token = issuer.logout_token("web", Some("ada"), None);
    redis.pause();
    let answer = send(&receiver, form(&token)).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    redis.resume();
    soon("the repetition to be applied", async {
        while status(&receiver, &token).await != 200 {
            pass().await;
        }
    })
    .await;
    // From now on it is a duplicate.
    let applied = cache.stats().user_invalidations.applied;
    assert_eq!(status(&receiver, &token).await, 200);
    assert_eq!(cache.stats().user_invalidations.applied, applied);
}

/// Server with an issuer's metadata and keys, which a test can change.
struct Provider {
    url: String,
    state: Arc<ProviderState>,
}

#[derive(Default)]
struct ProviderState {
    /// The issuer in the metadata, and the keys. The server fails without them.
    answer: Mutex<Option<(String, String)>>,
    url: Mutex<String>,
    metadata: AtomicUsize,
    keys: AtomicUsize,
}

impl Provider {
    async fn start() -> Self {
        let state = Arc::new(ProviderState::default());
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/keys", get(keys))
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (*state.url.lock().unwrap()).clone_from(&url);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, state }
    }

    fn publishes(&self, issuer: &TestIssuer) {
        *self.state.answer.lock().unwrap() = Some((self.url.clone(), issuer.jwks()));
    }

    fn fails(&self) {
        *self.state.answer.lock().unwrap() = None;
    }

    fn fetches(&self) -> (usize, usize) {
        (
            self.state.metadata.load(Relaxed),
            self.state.keys.load(Relaxed),
        )
    }

    fn receiver(&self, cache: &SessionCache) -> Receiver {
        let issuer = EventIssuer::builder(&self.url);
        let issuer = issuer
            .algorithms([JwsAlgorithm::Es256])
            .timeout(Duration::from_secs(20));
        receiver_of(cache, issuer.build().unwrap())
    }
}

async fn metadata(State(state): State<Arc<ProviderState>>) -> Result<String, StatusCode> {
    state.metadata.fetch_add(1, Relaxed);
    let answer = state.answer.lock().unwrap().clone();
    let (issuer, _) = answer.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let url = state.url.lock().unwrap().clone();
    Ok(json!({ "issuer": issuer, "jwks_uri": format!("{url}/keys") }).to_string())
}

async fn keys(State(state): State<Arc<ProviderState>>) -> Result<String, StatusCode> {
    state.keys.fetch_add(1, Relaxed);
    let answer = state.answer.lock().unwrap().clone();
    answer
        .map(|(_, keys)| keys)
        .ok_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A logout token with a key ID of its own, so that the issuer's other keys are not tried.
fn token_with_key(issuer: &TestIssuer, url: &str, key: &str, id: &str) -> String {
    let header = json!({ "typ": "logout+jwt", "kid": key });
    issuer.sign(&header, &claims(id, &json!({ "iss": url })))
}

#[tokio::test]
async fn keys_are_discovered_once_and_fetched_again_for_an_unknown_key() {
    let (provider, cache) = (Provider::start().await, SessionCache::default());
    let (old, new) = (
        TestIssuer::new(&provider.url).unwrap(),
        TestIssuer::with_key_id(&provider.url, "new").unwrap(),
    );
    provider.publishes(&old);
    let receiver = provider.receiver(&cache);
    let token = |issuer: &TestIssuer| issuer.logout_token("web", Some("ada"), None);

    let first = join_all((0..50).map(|_| async { status(&receiver, &token(&old)).await })).await;
    assert!(first.iter().all(|status| *status == 200), "{first:?}");
    assert_eq!(provider.fetches(), (1, 1));

    // The issuer replaces its key. All events that wait share one fetch.
    provider.publishes(&new);
    pass_time(Duration::from_secs(31)).await;
    let rotated = join_all((0..50).map(|_| async { status(&receiver, &token(&new)).await })).await;
    assert!(rotated.iter().all(|status| *status == 200), "{rotated:?}");
    assert_eq!(provider.fetches(), (2, 2));
    assert_eq!(status(&receiver, &token(&old)).await, 503);

    // A flood of forged tokens causes one fetch per 30 seconds, and none with a known key.
    for round in 0..3 {
        for number in 0..100 {
            let unknown = token_with_key(&old, &provider.url, &format!("k{number}"), "a");
            let status = status(&receiver, &unknown).await;
            // The fetch has shown that the key of the first one does not exist.
            let expected = if round > 0 && number == 0 { 400 } else { 503 };
            assert_eq!(status, expected);
            let forged = token_with_key(&old, &provider.url, "new", "a");
            assert_eq!(self::status(&receiver, &forged).await, 400);
            let garbage = send(&receiver, form("e30.e30.")).await;
            assert_eq!(garbage.status(), 400);
        }
        assert_eq!(provider.fetches(), (2 + round, 2 + round));
        pass_time(Duration::from_secs(31)).await;
    }
    assert_eq!(status(&receiver, &token(&new)).await, 200);
}

#[tokio::test]
async fn failed_fetch_refuses_no_event_and_known_keys_stay_usable() {
    let (provider, cache) = (Provider::start().await, SessionCache::default());
    let issuer = TestIssuer::new(&provider.url).unwrap();
    let receiver = provider.receiver(&cache);
    let token = || issuer.logout_token("web", Some("ada"), None);

    // Whether the event is authentic is unknown, so it must be repeated.
    for _ in 0..20 {
        let answer = send(&receiver, form(&token())).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
    }
    assert_eq!(provider.fetches(), (1, 0));

    provider.publishes(&issuer);
    pass_time(Duration::from_secs(2)).await;
    assert_eq!(status(&receiver, &token()).await, 200);
    assert_eq!(provider.fetches(), (2, 1));

    // The keys are used for longer than their age allows, since they cannot be fetched again.
    provider.fails();
    pass_time(Duration::from_secs(3601)).await;
    assert_eq!(status(&receiver, &token()).await, 200);
    assert_eq!(provider.fetches(), (3, 1));
    let unknown = token_with_key(&issuer, &provider.url, "unknown", "a");
    assert_eq!(status(&receiver, &unknown).await, 503);
    assert_eq!(status(&receiver, &token()).await, 200);
    assert_eq!(provider.fetches(), (3, 1));

    // A key that the issuer has withdrawn is no longer used.
    provider.publishes(&TestIssuer::with_key_id(&provider.url, "new").unwrap());
    pass_time(Duration::from_secs(31)).await;
    assert_eq!(status(&receiver, &token()).await, 503);
    assert_eq!(provider.fetches(), (4, 2));
}

#[tokio::test]
async fn metadata_of_another_issuer_is_not_used() {
    let (provider, cache) = (Provider::start().await, SessionCache::default());
    let issuer = TestIssuer::new(&provider.url).unwrap();
    let other = format!("{}/", provider.url);
    *provider.state.answer.lock().unwrap() = Some((other, issuer.jwks()));
    let receiver = provider.receiver(&cache);
    let token = issuer.logout_token("web", Some("ada"), None);
    assert_eq!(status(&receiver, &token).await, 503);
    assert_eq!(provider.fetches(), (1, 0));

    let configured = EventIssuer::builder(&provider.url)
        .algorithms([JwsAlgorithm::Es256])
        .jwks_uri(format!("{}/keys", provider.url));
    let receiver = receiver_of(&cache, configured.build().unwrap());
    assert_eq!(status(&receiver, &token).await, 200);
    assert_eq!(provider.fetches(), (1, 1));
}

#[tokio::test]
async fn log_shows_nothing_of_a_logout_token() {
    let log = record();
    let (issuer, cache) = (issuer(), SessionCache::default());
    let receiver = receiver(&cache, &issuer);
    let logout = json!({ "typ": "logout+jwt" });
    let private = |others: Value| {
        let mut claims = claims("private-id", &others);
        claims["sub"] = json!("private-user");
        claims["sid"] = json!("private-session");
        claims["email"] = json!("private@example.com");
        claims
    };
    let (valid, foreign) = (
        private(json!({})),
        private(json!({ "aud": "private-client" })),
    );
    let attacker = self::issuer();
    let tokens = [
        (issuer.sign(&logout, &valid), 200),
        (issuer.sign(&logout, &valid), 200),
        (issuer.sign(&logout, &foreign), 400),
        (attacker.sign(&logout, &valid), 400),
        (issuer.sign(&json!({ "kid": "private-key" }), &valid), 400),
        ("private".to_owned(), 400),
    ];
    for (token, expected) in &tokens {
        assert_eq!(status(&receiver, token).await, *expected);
    }
    // The keys of this issuer cannot be fetched.
    let (provider, issuer) = (Provider::start().await, self::issuer());
    let token = issuer.sign(&logout, &private(json!({ "iss": provider.url })));
    assert_eq!(status(&provider.receiver(&cache), &token).await, 503);
    let text = log.text();
    assert!(text.contains("pushed event finished") && text.contains("pushed event refused"));
    // A token is private as well, of which each part is as long as this.
    let parts = tokens.iter().flat_map(|(token, _)| token.split('.'));
    for private in parts.chain(token.split('.')).chain(["private"]) {
        assert!(!text.contains(private), "{private} in {text}");
    }
}

#[test]
fn settings_of_an_issuer_are_checked() {
    let issuer = || EventIssuer::builder(ISSUER);
    assert!(issuer().build().is_ok());
    assert!(EventIssuer::new("http://localhost:8080/realms/shop").is_ok());
    let exposed = || EventIssuer::builder("http://keycloak:8080/realms/shop");
    assert!(exposed().allow_http().build().is_ok());
    for (builder, says) in [
        (EventIssuer::builder(""), "absolute"),
        (EventIssuer::builder("keycloak"), "absolute"),
        (EventIssuer::builder("ftp://op.example.com"), "https://"),
        (
            EventIssuer::builder("https://u:p@op.example.com"),
            "password",
        ),
        (EventIssuer::builder("https://op.example.com?a=1"), "query"),
        (EventIssuer::builder("https://op.example.com#a"), "fragment"),
        (exposed(), "allow_http"),
        (issuer().jwks_uri("http://keycloak:8080/keys"), "allow_http"),
        (issuer().jwks_uri("/keys"), "absolute"),
        (issuer().jwks("{}"), "jwks_uri"),
        (issuer().jwks(r#"{"keys":[]}"#), "jwks_uri"),
        (issuer().algorithms([]), "RS256"),
        (issuer().timeout(Duration::ZERO), "timeout"),
        (issuer().root_certificates("x"), "BEGIN CERTIFICATE"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let issuer = issuer().build().unwrap();
    assert!(BackChannelLogout::new(issuer.clone(), [""; 0]).is_err());
    assert!(BackChannelLogout::new(issuer, ["web", ""]).is_err());
}

const ADA: User<'_> = User {
    name: "ada",
    password: "the password of ada",
    email: "ada@example.com",
    is_email_verified: true,
};

#[tokio::test]
async fn keycloak_logout_ends_the_session_on_every_node() {
    const REALM: &str = "backchannel";
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    let hook = Hook::bind().await;
    let shop = keycloak::Client::new("shop", "the secret of shop")
        .audience("api")
        .attribute("backchannel.logout.url", &hook.url)
        .attribute("backchannel.logout.session.required", "true");
    let api = keycloak::Client::new("api", "the secret of api");
    keycloak.create_realm(REALM).await;
    for client in [&shop, &api] {
        keycloak.create_client(REALM, client).await;
    }
    let ada = keycloak.create_user(REALM, ADA).await;
    let redis = Redis::start();
    let node = || {
        let auth = IntrospectionAuth::basic(api.id.as_str(), api.secret.as_str());
        let endpoint = keycloak.introspection_endpoint(REALM);
        let validator = IntrospectionValidator::builder(endpoint, auth);
        Node::new(&redis, validator.issuer(keycloak.issuer(REALM)))
    };
    let nodes = [node(), node()];
    let [first, second] = &nodes;
    let issuer = issuer_with_keys(keycloak.issuer(REALM)).await;
    let source = BackChannelLogout::new(issuer, ["web", "shop"]).unwrap();
    let receiver = RevocationReceiver::new(first.cache.clone(), source);
    // While Keycloak waits for the answer, it still reports the session as active.
    let token: Arc<Mutex<Option<String>>> = Arc::default();
    let asked = Arc::clone(&token);
    let layer = first.layer.clone();
    let mut answers = hook.serve_with(&receiver, move || {
        let (layer, token) = (layer.clone(), asked.lock().unwrap().take());
        Box::pin(async move {
            if let Some(token) = token {
                assert_eq!(ask(&layer, &token).await.unwrap_err(), 401);
            }
        })
    });

    let login = async || keycloak.login(REALM, &shop, ADA.name, ADA.password).await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(login().await);
    }
    let (ended, deleted, remaining) = (&sessions[0], &sessions[1], &sessions[2..]);
    let other = &remaining[0];
    for node in &nodes {
        for session in &sessions {
            node.caches(&session.access).await;
        }
    }

    // The user logs out of one client.
    *token.lock().unwrap() = Some(ended.access.clone());
    keycloak.logout(REALM, &shop, &ended.refresh).await;
    assert_eq!(answers.next().await, 200);
    assert!(token.lock().unwrap().is_none(), "not asked");
    assert_eq!(ask(&first.layer, &ended.access).await.unwrap_err(), 401);
    second.rejects(&ended.access).await;
    // The other sessions of the user are validated again.
    let (_, origin) = ask(&first.layer, &other.access).await.unwrap();
    assert_eq!(origin, Origin::Validator);

    // An administrator ends one session, and then all of the user's.
    keycloak.end_session(REALM, &deleted.sid()).await;
    assert_eq!(answers.next().await, 200);
    for node in &nodes {
        node.rejects(&deleted.access).await;
        node.caches(&other.access).await;
    }
    keycloak.log_out_user(REALM, &ada).await;
    for _ in remaining {
        assert_eq!(answers.next().await, 200);
    }
    for node in &nodes {
        for session in remaining {
            node.rejects(&session.access).await;
        }
    }
    let stats = receiver.stats();
    assert_eq!((stats.applied, stats.rejected), (5, 0));
}

/// Keycloak sends the logout token before it ends the session, and waits for the answer.
#[tokio::test]
async fn session_is_rejected_while_keycloak_still_reports_it_as_active() {
    const REALM: &str = "early";
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    let hook = Hook::bind().await;
    let shop = keycloak::Client::new("shop", "the secret of shop")
        .audience("api")
        .attribute("backchannel.logout.url", &hook.url)
        .attribute("backchannel.logout.session.required", "true");
    let api = keycloak::Client::new("api", "the secret of api");
    keycloak.create_realm(REALM).await;
    for client in [&shop, &api] {
        keycloak.create_client(REALM, client).await;
    }
    keycloak.create_user(REALM, ADA).await;
    let redis = Redis::start();
    let node = || {
        let auth = IntrospectionAuth::basic(api.id.as_str(), api.secret.as_str());
        let endpoint = keycloak.introspection_endpoint(REALM);
        let validator = IntrospectionValidator::builder(endpoint, auth);
        Node::new(&redis, validator.issuer(keycloak.issuer(REALM)))
    };
    let (first, second) = (node(), node());
    let issuer = issuer_with_keys(keycloak.issuer(REALM)).await;
    let source = BackChannelLogout::new(issuer, ["shop"]).unwrap();
    let receiver = RevocationReceiver::new(first.cache.clone(), source);
    let token: Arc<Mutex<String>> = Arc::default();
    let (results, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let asked = Arc::clone(&token);
    let layers = [first.layer.clone(), second.layer.clone()];
    let (provider, client) = (Arc::clone(&keycloak), api.clone());
    let mut answers = hook.serve_with(&receiver, move || {
        let (token, layers) = (asked.lock().unwrap().clone(), layers.clone());
        let (results, provider) = (results.clone(), Arc::clone(&provider));
        let client = client.clone();
        Box::pin(async move {
            assert_eq!(ask(&layers[0], &token).await.unwrap_err(), 401);
            while ask(&layers[1], &token).await.is_ok() {
                pass().await;
            }
            let answer = provider.introspect(REALM, &client, &token).await;
            results.send(answer["active"] == true).unwrap();
        })
    });
    for _ in 0..10 {
        let session = keycloak.login(REALM, &shop, ADA.name, ADA.password).await;
        for node in [&first, &second] {
            node.caches(&session.access).await;
        }
        (*token.lock().unwrap()).clone_from(&session.access);
        keycloak.logout(REALM, &shop, &session.refresh).await;
        assert_eq!(answers.next().await, 200);
        let is_active = seen.recv().await.unwrap();
        assert!(
            is_active,
            "Keycloak ended the session before it sent the token"
        );
        for node in [&first, &second] {
            assert_eq!(ask(&node.layer, &session.access).await.unwrap_err(), 401);
        }
    }
}

#[tokio::test]
async fn hydra_logout_ends_a_session_whose_tokens_stay_active() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    let hook = Hook::bind().await;
    let shop = hydra::Client::new("shop", "the secret of shop")
        .setting("backchannel_logout_uri", json!(hook.url))
        .setting("backchannel_logout_session_required", json!(true));
    hydra.create_client(&shop).await;
    let redis = Redis::start();
    let node = || {
        let auth = IntrospectionAuth::none();
        let validator = IntrospectionValidator::builder(hydra.introspection_endpoint(), auth)
            .session_id_claim("ext.sid")
            .issuer(hydra.issuer());
        Node::new(&redis, validator)
    };
    let nodes = [node(), node()];
    let issuer = issuer_with_keys(hydra.issuer()).await;
    let source = BackChannelLogout::new(issuer, ["shop"]).unwrap();
    let receiver = RevocationReceiver::new(nodes[0].cache.clone(), source);
    let mut answers = hook.serve(&receiver);

    let (ended, other) = (
        hydra.login_with_sid(&shop, "ada", "").await,
        hydra.login_with_sid(&shop, "ada", "").await,
    );
    for node in &nodes {
        node.caches(&ended.access).await;
        node.caches(&other.access).await;
    }
    hydra.logout(&ended).await;
    assert_eq!(answers.next().await, 200);
    assert_eq!(hydra.introspect(&ended.access).await["active"], true);
    for node in &nodes {
        node.rejects(&ended.access).await;
        ask(&node.layer, &other.access).await.unwrap();
    }
    // A token that is issued later for the session is rejected as well.
    let refreshed = hydra.refresh(&shop, &ended.refresh).await;
    assert_eq!(hydra.introspect(&refreshed.access).await["active"], true);
    for node in &nodes {
        assert_eq!(ask(&node.layer, &refreshed.access).await.unwrap_err(), 401);
    }
    assert_eq!(receiver.stats().applied, 1);
}

/// A user with five sessions, of which four end in any order, each by a token with `sid` or by one
/// with `sub` alone.
#[tokio::test]
async fn sessions_of_one_user_end_in_any_order() {
    let issuer = issuer();
    let sessions = ["s0", "s1", "s2", "s3", "s4"];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [4, 0, 3, 1], [2, 4, 1, 3]] {
        for ends_by_sub in [false, true] {
            let redis = Redis::start();
            let ended: Arc<Mutex<Vec<String>>> = Arc::default();
            let gone = Arc::clone(&ended);
            let probe = Probe::answering(move |token| {
                if gone.lock().unwrap().iter().any(|ended| ended == token) {
                    return Err(ValidationError::invalid());
                }
                Ok(session("ada").with_session_id(token))
            });
            let node = || {
                let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
                let cache = SessionCache::builder()
                    .redis(redis)
                    .unwrap()
                    .build()
                    .unwrap();
                SessionCacheLayer::new(cache.clone(), probe.clone())
            };
            let (first, second) = (node(), node());
            let event_issuer = EventIssuer::builder(ISSUER)
                .algorithms([JwsAlgorithm::Es256])
                .jwks(issuer.jwks())
                .authority(probe::authority());
            let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
            let cache = SessionCache::builder()
                .redis(redis)
                .unwrap()
                .build()
                .unwrap();
            let receiver = receiver_of(&cache, event_issuer.build().unwrap());
            for token in sessions {
                ask(&first, token).await.unwrap();
                ask(&second, token).await.unwrap();
            }
            for (count, number) in order.into_iter().enumerate() {
                let name = sessions[number];
                let token = if ends_by_sub {
                    // The provider reports the truth, and names only the user.
                    ended.lock().unwrap().push(name.to_owned());
                    issuer.logout_token("web", Some("ada"), None)
                } else {
                    // The provider goes on to call the session active.
                    issuer.logout_token("web", None, Some(name))
                };
                assert_eq!(status(&receiver, &token).await, 200);
                for layer in [&first, &second] {
                    let mut served = 0;
                    for token in sessions {
                        served += usize::from(ask(layer, token).await.is_ok());
                    }
                    assert_eq!(ask(layer, name).await.unwrap_err(), 401);
                    assert_eq!(served, 4 - count, "{order:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn oidc_provider_logout_ends_the_session_on_every_node() {
    let hook = Hook::bind().await;
    let shop = oidc_provider::Client::new("shop", "the secret of shop").logout_uri(&hook.url);
    let api = oidc_provider::Client::new("api", "the secret of api");
    let Some(server) = OidcProvider::start(&[&shop, &api]).await else {
        return;
    };
    let redis = Redis::start();
    let node = || {
        let auth = IntrospectionAuth::basic(api.id.as_str(), api.secret.as_str());
        let validator = IntrospectionValidator::builder(server.introspection_endpoint(), auth);
        Node::new(&redis, validator.issuer(server.issuer()))
    };
    let nodes = [node(), node()];
    let issuer = issuer_with_keys(server.issuer()).await;
    let source = BackChannelLogout::new(issuer, ["shop"]).unwrap();
    let receiver = RevocationReceiver::new(nodes[0].cache.clone(), source);
    let mut answers = hook.serve(&receiver);

    let (ended, other) = (
        server.login(&shop, "ada", "").await,
        server.login(&shop, "bea", "").await,
    );
    for node in &nodes {
        node.caches(&ended.access).await;
        node.caches(&other.access).await;
    }
    server.logout(&ended).await;
    assert_eq!(answers.next().await, 200);
    for node in &nodes {
        node.rejects(&ended.access).await;
        let (_, origin) = ask(&node.layer, &other.access).await.unwrap();
        assert_eq!(origin, Origin::Local);
    }
}
