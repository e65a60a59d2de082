//! The examples as a new user runs them: the server is started without settings, and the commands
//! that it prints are pasted into a shell.

use std::{
    io::{BufRead, BufReader, Read},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Json, Router, http::HeaderMap, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::Utc;
use reqwest::{Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_session_cache::{AppwriteWebhook, Revoked, StandardWebhook};

use crate::support::{
    appwrite::{self, Appwrite, Endpoint},
    client::http,
    cluster::Cluster,
    example::{said_by, start, url},
    introspection::{CLIENT_ID, CLIENT_SECRET, Demands, Introspection, jdoe, jdoe_with},
    keycloak::{self, Keycloak, User},
    peer::tomb_key,
    process::Running,
    redis::Redis,
    sentinel::{NAME, Sentinel},
    soon,
    tls::{Authority, TlsRedis, is_spoken},
};

/// Runs the printed commands in a shell; returns the statuses and the whole output.
fn paste(server: &mut Running) -> (Vec<String>, String) {
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(
        first.starts_with("listening on http://127.0.0.1:"),
        "{first}"
    );
    let mut script = String::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        if line.starts_with("TOKEN=") || line.starts_with("curl ") {
            script += &line;
            // Not every body ends with a newline, so one is added.
            script += "; echo\n";
        }
        if line.contains("/health") {
            break;
        }
    }
    let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let statuses = text
        .lines()
        .filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    (
        statuses.map(|status| status[..3].to_owned()).collect(),
        text,
    )
}

#[test]
fn printed_commands_work_when_pasted() {
    let (statuses, text) = paste(&mut start(&[]));
    assert_eq!(statuses, ["200", "204", "401", "204", "200"], "{text}");
    assert!(text.contains(r#""email":"demo@example.com""#), "{text}");
    assert!(
        text.contains(r#"{"redis":"disabled","status":"ok"}"#),
        "{text}"
    );
}

const WEBHOOK_URL: &str = "https://api.example.com/hooks/appwrite";
const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Two processes of the server, the first of which receives events.
struct Pushing {
    appwrite: Appwrite,
    settings: Vec<(&'static str, String)>,
    nodes: [Running; 2],
    urls: [String; 2],
    client: reqwest::Client,
}

impl Pushing {
    async fn start(redis: &Redis, timeout: &str) -> Self {
        let appwrite = Appwrite::start().await;
        appwrite.add_user("ada", "ada@example.com", "ada's password");
        let settings = vec![
            ("APPWRITE_ENDPOINT", appwrite.endpoint()),
            ("APPWRITE_PROJECT_ID", appwrite.project_id().to_owned()),
            ("APPWRITE_WEBHOOK_URL", WEBHOOK_URL.to_owned()),
            ("APPWRITE_WEBHOOK_SECRET", "signature key".to_owned()),
            ("WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
            ("REDIS_URL", redis.url()),
            ("SESSION_CACHE_REDIS_TIMEOUT_MS", timeout.to_owned()),
            // Nothing reads their logs.
            ("RUST_LOG", "off".to_owned()),
        ];
        let mut nodes = [Self::node(&settings), Self::node(&settings)];
        let urls = nodes.each_mut().map(url);
        Self {
            appwrite,
            settings,
            nodes,
            urls,
            client: http(),
        }
    }

    fn node(settings: &[(&str, String)]) -> Running {
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        start(&settings)
    }

    fn restart_first(&mut self) {
        self.nodes[0].0.kill().unwrap();
        self.nodes[0] = Self::node(&self.settings);
        self.urls[0] = url(&mut self.nodes[0]);
    }

    /// Returns a token that has ended at Appwrite, and is still served from Redis on both nodes.
    async fn ended_session(&self) -> String {
        let token = self.appwrite.issue("ada");
        for url in &self.urls {
            soon("a hit in Redis", async {
                while origin(url, &token).await.unwrap() != "redis" {}
            })
            .await;
        }
        self.appwrite.revoke(&token);
        token
    }

    fn hook(&self, path: &str, event: &http::Request<String>) -> reqwest::RequestBuilder {
        let hook = self.client.post(format!("{}{path}", self.urls[0]));
        hook.headers(event.headers().clone())
            .body(event.body().clone())
    }

    async fn assert_rejected(&self, token: &str) {
        for url in &self.urls {
            assert_eq!(me(url, token).await.status(), 401);
        }
    }
}

fn standard_event(id: &str) -> http::Request<String> {
    let webhook = StandardWebhook::new(WEBHOOK_SECRET, |_| Revoked::nothing()).unwrap();
    let event = json!({ "type": "user.updated", "data": { "user_id": "ada" } });
    webhook.signed_request(id, Utc::now(), &event)
}

#[tokio::test]
async fn pushed_event_ends_the_session_on_another_node() {
    let from_appwrite = AppwriteWebhook::new(WEBHOOK_URL, "signature key").unwrap();
    let from_appwrite = from_appwrite.signed_request(&json!({ "$id": "s1", "userId": "ada" }));
    for (path, event, expected) in [
        ("/hooks/appwrite", from_appwrite, 200),
        ("/hooks/standard", standard_event("m1"), 204),
    ] {
        // Soon after an event a session is validated again, so each event has servers of its own.
        let redis = Redis::start();
        let nodes = Pushing::start(&redis, "20000").await;
        let token = nodes.ended_session().await;
        let mut unsigned = event.clone();
        unsigned.headers_mut().clear();
        let refused = nodes.hook(path, &unsigned).send().await.unwrap();
        assert_eq!(refused.status(), 401, "{path}");
        assert_eq!(me(&nodes.urls[1], &token).await.status(), 200, "cached");
        let answer = nodes.hook(path, &event).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{path}");
        nodes.assert_rejected(&token).await;
    }
}

/// The process, or Redis, is killed at many points between the arrival of an event and its answer. The
/// sender repeats the event until it is answered as applied.
#[tokio::test]
async fn event_that_a_crash_interrupts_is_applied_when_it_is_repeated() {
    let rounds = match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 200,
        None => 12,
    };
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut nodes = Pushing::start(&redis, "1000").await;
    let mut longest = Duration::ZERO;
    for round in 0..5 {
        let began = Instant::now();
        let event = standard_event(&format!("before {round}"));
        let answer = nodes.hook("/hooks/standard", &event).send().await.unwrap();
        assert_eq!(answer.status(), 204);
        // The first one opens a connection.
        if round > 0 {
            longest = longest.max(began.elapsed());
        }
    }
    let mut interrupted = 0;
    for round in 0..rounds {
        let token = nodes.ended_session().await;
        let event = standard_event(&format!("m{round}"));
        let hook = nodes.hook("/hooks/standard", &event);
        let delivery = tokio::spawn(async { hook.send().await.map(|answer| answer.status()) });
        // There is no event to wait for: each round crashes at another point. The points are closer
        // than a timer distinguishes.
        let (began, point) = (Instant::now(), longest * (round / 2) / (rounds / 2));
        while began.elapsed() < point {
            tokio::task::yield_now().await;
        }
        if round % 2 == 0 {
            nodes.restart_first();
        } else {
            redis.kill();
            redis.restart();
        }
        let answer = soon("an answer, or none", delivery).await.unwrap();
        interrupted += usize::from(!answer.is_ok_and(|status| status == 204));
        soon("the event to be applied", async {
            loop {
                let answer = nodes.hook("/hooks/standard", &event).send().await.unwrap();
                if answer.status() == 204 {
                    break;
                }
                assert_eq!(answer.status(), 503);
                crate::support::pass().await;
            }
        })
        .await;
        nodes.assert_rejected(&token).await;
    }
    println!(
        "{rounds} crashes within {longest:?} after an event was sent, {interrupted} of them before \
         the event was answered as applied; {rounds} sessions rejected after it was repeated"
    );
}

#[test]
fn printed_commands_work_with_redis_and_queue_if_it_is_frozen() {
    let redis = Redis::start();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("SESSION_CACHE_REDIS_DB", "2"),
        ("SESSION_CACHE_LOCAL_CAPACITY", "1000"),
    ];
    let mut server = start(&settings);
    let (statuses, text) = paste(&mut server);
    assert_eq!(statuses, ["200", "204", "401", "204", "200"], "{text}");
    assert!(text.contains(r#"{"redis":"up","status":"ok"}"#), "{text}");
    assert_eq!(
        redis.listeners().len(),
        1,
        "the local cache has one listener"
    );
    drop(server);
    let keys = redis.keys();
    assert!(
        keys.iter().any(|key| key.starts_with("session_tomb:")),
        "{keys:?}"
    );
    assert!(
        keys.contains(&"user_invalidated:demo-user".to_owned()),
        "{keys:?}"
    );

    redis.pause();
    let (statuses, text) = paste(&mut start(&settings));
    assert_eq!(statuses, ["200", "202", "401", "202", "200"], "{text}");
    assert!(text.contains(r#"{"redis":"down","status":"ok"}"#), "{text}");
}

#[tokio::test]
async fn sentinels_and_certificates_are_configurable() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, &authority.issue("127.0.0.1"), true, &[]);
    let monitor = format!("sentinel monitor {NAME} 127.0.0.1 {} 1", redis.port);
    let sentinel = Sentinel::start(&[monitor]);
    let sentinels = format!("redis://127.0.0.1:1, redis://127.0.0.1:{}", sentinel.port());
    let folder = tempfile::tempdir().unwrap();
    let own = authority.issue("a client");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut server = start(&[
        ("REDIS_URL", "rediss://the-primary"),
        ("REDIS_SENTINEL_URLS", &sentinels),
        ("REDIS_SENTINEL_MASTER", NAME),
        ("REDIS_CA_FILE", &file("ca.pem", authority.pem())),
        ("REDIS_CERT_FILE", &file("own.pem", &own.certificate)),
        ("REDIS_KEY_FILE", &file("own.key", &own.key)),
        ("REDIS_WAIT_REPLICAS", "1"),
    ]);
    let health = format!("{}/health", url(&mut server));
    soon("Redis to be reached", async {
        let up = r#""redis":"up""#;
        while !http()
            .get(&health)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains(up)
        {}
    })
    .await;
}

#[test]
fn printed_commands_work_with_a_redis_cluster() {
    let cluster = Cluster::start();
    let urls = cluster.urls()[..2].join(", ");
    let settings = [("REDIS_CLUSTER_URLS", urls.as_str())];
    // A slow machine may need longer to discover all primaries than the timeout of a revocation.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (statuses, text) = paste(&mut start(&settings));
        let is_up = text.contains(r#"{"redis":"up","status":"ok"}"#);
        if is_up && statuses == ["200", "204", "401", "204", "200"] {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
    assert!(cluster.get("user_invalidated:demo-user").is_some());
}

async fn me(url: &str, token: &str) -> Response {
    let request = http().get(format!("{url}/api/v1/auth/me"));
    let answer = request.bearer_auth(token).send();
    soon("a response", answer).await.unwrap()
}

/// The origin of a session, or the status of a rejection.
async fn origin(url: &str, token: &str) -> Result<String, StatusCode> {
    let answer = me(url, token).await;
    if answer.status() != StatusCode::OK {
        return Err(answer.status());
    }
    let origin = answer.headers()["x-session-origin"].to_str().unwrap();
    Ok(origin.to_owned())
}

async fn posted(url: &str, path: &str, token: &str) -> StatusCode {
    let request = http().post(format!("{url}{path}")).bearer_auth(token);
    let answer = soon("a response", request.send()).await.unwrap();
    answer.status()
}

#[tokio::test]
async fn logout_ends_the_session_when_the_provider_throttles() {
    let idp = Appwrite::start().await;
    idp.add_user("ada", "ada@example.com", "correct-horse");
    let token = idp.issue("ada");
    let (endpoint, project) = (idp.endpoint(), idp.project_id().to_owned());
    let mut server = start(&[
        ("APPWRITE_ENDPOINT", endpoint.as_str()),
        ("APPWRITE_PROJECT_ID", project.as_str()),
    ]);
    let url = url(&mut server);
    assert_eq!(origin(&url, &token).await.unwrap(), "validator");
    let throttled = appwrite::Fault::Throttled {
        reset_epoch: None,
        retry_after: Some(3600),
    };
    idp.fault(Endpoint::Logout, throttled);
    assert_eq!(posted(&url, "/api/v1/auth/logout", &token).await, 503);
    // The session is still valid at Appwrite, but no further validation is made.
    assert_eq!(me(&url, &token).await.status(), 401);
    assert_eq!(idp.calls(Endpoint::Account), 1);
}

/// A rolling restart while Redis is frozen: a logout that was queued is in Redis when the old process
/// has ended, and the new process rejects the session.
#[tokio::test]
async fn queued_logout_survives_a_rolling_restart() {
    let rounds = match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 100,
        None => 5,
    };
    let (redis, idp) = (Redis::start(), Introspection::start(Demands::Basic).await);
    let (redis_url, endpoint) = (redis.url(), idp.endpoint());
    let settings = [
        ("INTROSPECTION_ENDPOINT", endpoint.as_str()),
        ("INTROSPECTION_CLIENT_ID", CLIENT_ID),
        ("INTROSPECTION_CLIENT_SECRET", CLIENT_SECRET),
        ("REDIS_URL", redis_url.as_str()),
    ];
    let mut server = start(&settings);
    let mut at = url(&mut server);
    for round in 0..rounds {
        let token = format!("token-{round}");
        idp.issue(&token, jdoe());
        assert_eq!(me(&at, &token).await.status(), 200);
        redis.pause();
        assert_eq!(posted(&at, "/api/v1/auth/logout", &token).await, 202);
        let pid = Pid::from_child(&server.0);
        kill_process(pid, Signal::TERM).unwrap();
        let mut next = start(&settings);
        let next_at = url(&mut next);
        // There is no event to wait for: the old process must still be running after this time.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(server.0.try_wait().unwrap().is_none(), "it still delivers");
        redis.resume();
        let status = tokio::task::spawn_blocking(move || server.0.wait()).await;
        assert!(status.unwrap().unwrap().success(), "round {round}");
        assert!(redis.get(&tomb_key(&token)).is_some(), "round {round}");
        assert_eq!(me(&next_at, &token).await.status(), 401, "round {round}");
        (server, at) = (next, next_at);
    }
    kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || server.0.wait()).await;
    assert!(status.unwrap().unwrap().success(), "nothing is queued");
}

#[tokio::test]
async fn server_example_works_with_introspection() {
    let idp = Introspection::start(Demands::Basic).await;
    idp.issue("good", jdoe());
    idp.issue("unscoped", jdoe_with("scope", "read"));
    idp.issue("foreign", jdoe_with("aud", "https://elsewhere.example.net"));
    let endpoint = idp.endpoint();
    let mut server = start(&[
        ("INTROSPECTION_ENDPOINT", endpoint.as_str()),
        ("INTROSPECTION_CLIENT_ID", CLIENT_ID),
        ("INTROSPECTION_CLIENT_SECRET", CLIENT_SECRET),
        (
            "INTROSPECTION_AUDIENCE",
            "https://protected.example.net/resource",
        ),
        ("INTROSPECTION_ISSUER", "https://server.example.com/"),
        ("INTROSPECTION_SCOPE", "write  dolphin"),
    ]);
    let url = url(&mut server);
    let user: Value = me(&url, "good").await.json().await.unwrap();
    assert_eq!(user["id"], "Z5O3upPC88QrAjx00dis");
    assert_eq!(origin(&url, "good").await.unwrap(), "local");
    assert_eq!(me(&url, "unknown").await.status(), 401);
    assert_eq!(me(&url, "foreign").await.status(), 401);
    let unscoped = me(&url, "unscoped").await;
    assert_eq!(unscoped.status(), 403);
    let problem: Value = unscoped.json().await.unwrap();
    assert_eq!(problem["reason"], "insufficient_scope");

    let there = |path| http().get(format!("{url}{path}")).send();
    assert_eq!(there("/health").await.unwrap().status(), 200);
    assert_eq!(there("/").await.unwrap().status(), 404);
    for path in ["/api/v1/auth/login", "/api/v1/auth/reset-password"] {
        assert_eq!(posted(&url, path, "good").await, 404, "{path}");
    }
    // RFC 7662 has no call that ends a session, so only the cache rejects the token.
    assert_eq!(posted(&url, "/api/v1/auth/logout", "good").await, 204);
    assert_eq!(me(&url, "good").await.status(), 401);
    assert_eq!(idp.violations(), Vec::<String>::new());
}

/// An introspection server whose response depends on the client, as Keycloak's does: the token
/// `for-orders` is active for the client `orders` and inactive for every other one.
struct Realm {
    endpoint: String,
    /// The clients that have sent a request; an empty name for a request without credentials.
    clients: Arc<Mutex<Vec<String>>>,
}

impl Realm {
    async fn start() -> Self {
        let clients = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&clients);
        let introspect = async move |headers: HeaderMap, form: String| {
            let client = client(&headers);
            let is_active = form.contains(&format!("token=for-{client}&"));
            // Credentials must not be sent in the form either.
            assert!(!form.contains("client_"), "{form}");
            seen.lock().unwrap().push(client);
            Json(json!({ "active": is_active, "sub": "ada" }))
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}/introspect", listener.local_addr().unwrap());
        let router = Router::new().route("/introspect", post(introspect));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, clients }
    }

    /// Starts the server example with the credentials of this client, or without credentials if the
    /// name is empty.
    fn service(&self, client: &str, redis: &str) -> (Running, String) {
        let mut settings = vec![
            ("INTROSPECTION_ENDPOINT", self.endpoint.as_str()),
            ("REDIS_URL", redis),
        ];
        if !client.is_empty() {
            settings.push(("INTROSPECTION_CLIENT_ID", client));
            settings.push(("INTROSPECTION_CLIENT_SECRET", "s3cr3t"));
        }
        let mut server = start(&settings);
        let url = url(&mut server);
        (server, url)
    }
}

fn client(headers: &HeaderMap) -> String {
    let Some(value) = headers.get("authorization") else {
        return String::new();
    };
    let pair = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
    let pair = String::from_utf8(BASE64_STANDARD.decode(pair).unwrap()).unwrap();
    pair.split_once(':').unwrap().0.to_owned()
}

#[tokio::test]
async fn introspection_without_client_id_sends_no_credentials() {
    let realm = Realm::start().await;
    let (_server, url) = realm.service("", "");
    assert_eq!(origin(&url, "for-").await.unwrap(), "validator");
    assert_eq!(*realm.clients.lock().unwrap(), [""]);
}

#[tokio::test]
async fn services_with_different_clients_share_no_records() {
    let realm = Realm::start().await;
    let redis = Redis::start();
    let (_orders, orders) = realm.service("orders", &redis.url());
    let (_stock, stock) = realm.service("stock", &redis.url());
    let (_anonymous, anonymous) = realm.service("", &redis.url());
    let (_replica, replica) = realm.service("orders", &redis.url());
    let from = |origin: &str| Ok(origin.to_owned());

    assert_eq!(origin(&orders, "for-orders").await, from("validator"));
    // The record is in Redis, and a second node of the service uses it.
    assert_eq!(origin(&replica, "for-orders").await, from("redis"));
    for other in [&stock, &anonymous] {
        assert_eq!(me(other, "for-orders").await.status(), 401);
    }
    assert_eq!(origin(&stock, "for-stock").await, from("validator"));
    for other in [&orders, &replica, &anonymous] {
        assert_eq!(me(other, "for-stock").await.status(), 401);
    }
    // Rejections by the other services evicted nothing, and a revocation applies to all.
    assert_eq!(origin(&orders, "for-orders").await, from("redis"));
    assert_eq!(origin(&stock, "for-stock").await, from("redis"));
    assert_eq!(
        posted(&stock, "/api/v1/auth/logout", "for-stock").await,
        204
    );
    assert_eq!(me(&stock, "for-stock").await.status(), 401);
}

/// The error output of a server that does not start.
fn complaint(settings: &[(&str, &str)]) -> String {
    let mut server = start(settings);
    let mut text = String::new();
    let mut stderr = server.0.stderr.take().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    assert!(!server.0.wait().unwrap().success());
    text
}

#[test]
fn invalid_setting_is_named_in_the_error() {
    for (name, value) in [
        ("LISTEN_ADDR", "everywhere"),
        ("SESSION_CACHE_ENABLED", "perhaps"),
        ("SESSION_CACHE_TTL_SECONDS", "0"),
        ("SESSION_CACHE_REDIS_DB", "two"),
        ("SESSION_CACHE_LOCAL_CAPACITY", "many"),
        ("REDIS_URL", "localhost"),
        ("REDIS_SENTINEL_URLS", "redis://localhost"),
        ("REDIS_SENTINEL_MASTER", "mymaster"),
        ("REDIS_CA_FILE", "/nowhere"),
        ("REDIS_CERT_FILE", "/nowhere"),
        ("REDIS_WAIT_REPLICAS", "-1"),
        ("REDIS_CLUSTER_URLS", "redis://localhost:6379,localhost"),
        ("APPWRITE_ENDPOINT", "http://127.0.0.1/v1"),
        ("INTROSPECTION_ENDPOINT", "keycloak"),
        ("OIDC_ISSUER", "https://op.example.com"),
        ("OIDC_CLIENT_IDS", "web"),
        ("RUST_LOG", "a=b=c"),
    ] {
        let text = complaint(&[(name, value)]);
        let named = text
            .to_uppercase()
            .contains(name.trim_start_matches("SESSION_CACHE_"));
        assert!(text.starts_with("error: ") && named, "{name}: {text}");
    }
}

#[test]
fn conflicting_introspection_settings_give_a_one_line_error() {
    let endpoint = ("INTROSPECTION_ENDPOINT", "http://127.0.0.1/introspect");
    for (settings, named) in [
        (
            vec![endpoint, ("APPWRITE_ENDPOINT", "http://127.0.0.1/v1")],
            "INTROSPECTION_ENDPOINT or APPWRITE_ENDPOINT",
        ),
        (
            vec![endpoint, ("APPWRITE_PROJECT_ID", "demo")],
            "INTROSPECTION_ENDPOINT or APPWRITE_ENDPOINT",
        ),
        (
            vec![endpoint, ("INTROSPECTION_CLIENT_ID", "orders")],
            "INTROSPECTION_CLIENT_SECRET",
        ),
        (
            vec![endpoint, ("INTROSPECTION_CLIENT_SECRET", "s3cr3t")],
            "INTROSPECTION_CLIENT_ID",
        ),
        (
            vec![endpoint, ("INTROSPECTION_SCOPE", "a\"b")],
            "INTROSPECTION_SCOPE",
        ),
        (
            vec![("INTROSPECTION_SCOPE", "read")],
            "INTROSPECTION_ENDPOINT",
        ),
    ] {
        let text = complaint(&settings);
        assert!(text.starts_with("error: "), "{settings:?}: {text}");
        assert!(text.contains(named), "{settings:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}

#[tokio::test]
async fn logout_at_keycloak_ends_the_session_here() {
    const REALM: &str = "example";
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    keycloak.create_realm(REALM).await;
    let api = keycloak::Client::new("api", "the secret of api");
    let (issuer, endpoint) = (
        keycloak.issuer(REALM),
        keycloak.introspection_endpoint(REALM),
    );
    let mut server = start(&[
        ("INTROSPECTION_ENDPOINT", &*endpoint),
        ("INTROSPECTION_ISSUER", &*issuer),
        ("INTROSPECTION_CLIENT_ID", &*api.id),
        ("INTROSPECTION_CLIENT_SECRET", &*api.secret),
        ("OIDC_ISSUER", &*issuer),
        ("OIDC_CLIENT_IDS", "web, shop"),
        ("RUST_LOG", "off"),
    ]);
    let url = url(&mut server);
    let hook = format!("{url}/hooks/backchannel-logout");
    let shop = keycloak::Client::new("shop", "the secret of shop")
        .audience("api")
        .attribute("backchannel.logout.url", &hook)
        .attribute("backchannel.logout.session.required", "true");
    for client in [&shop, &api] {
        keycloak.create_client(REALM, client).await;
    }
    let (name, password) = ("ada", "the password of ada");
    let ada = User {
        name,
        password,
        email: "ada@example.com",
        is_email_verified: true,
    };
    keycloak.create_user(REALM, ada).await;
    let session = keycloak.login(REALM, &shop, name, password).await;
    soon("a local hit", async {
        while origin(&url, &session.access).await.unwrap() == "validator" {}
    })
    .await;
    let forged = http().post(&hook).body("logout_token=e30.e30.").send();
    assert_eq!(forged.await.unwrap().status(), 400);
    assert_eq!(me(&url, &session.access).await.status(), 200);
    keycloak.logout(REALM, &shop, &session.refresh).await;
    assert_eq!(me(&url, &session.access).await.status(), 401);
}

#[tokio::test]
async fn grpc_example_prints_each_kind_of_call() {
    let expected = [
        "with a session: Good day, Ada!",
        "without one: Unauthenticated, a session token is required",
        "a probe: SERVING",
        "without the role: PermissionDenied, access denied",
        "a stream from the server: A d a",
        "in both directions: Hello, Ada! Good bye, Ada!",
        "a logout: Good bye",
        "after the logout: Unauthenticated, the session is invalid or has expired",
    ];
    assert_eq!(said_by("grpc").await, expected);
}

#[tokio::test]
async fn service_example_prints_each_kind_of_request() {
    let metadata = "/.well-known/oauth-protected-resource";
    let challenge = |error| {
        format!(
            "    www-authenticate: Bearer {error}resource_metadata=\"https://api.example.com{metadata}\""
        )
    };
    let invalid = challenge("error=\"invalid_token\", ");
    let old = challenge("error=\"insufficient_user_authentication\", max_age=\"300\", ");
    let scope = challenge("error=\"insufficient_scope\", scope=\"orders:write\", ");
    let expected = [
        "a probe: GET /livez: 200 OK, passed",
        &format!("a probe: GET {metadata}: 200 OK, passed"),
        "a stranger: GET /me: 401 Unauthorized, missing_token",
        &challenge(""),
        "a browser: GET /me: 303 See Other, missing_token",
        "    location: /login",
        "a machine: GET /me: 200 OK, passed",
        "a wrong key: GET /me: 401 Unauthorized, invalid_token",
        "ada: GET /admin: 200 OK, passed",
        "ada: POST /cancel: 200 OK, passed",
        "bob: GET /admin: 403 Forbidden, admins_only",
        "bob: POST /cancel: 403 Forbidden, insufficient_scope",
        &scope,
        "ada: DELETE /account: 204 No Content, passed",
        "bob: DELETE /account: 401 Unauthorized, insufficient_authentication",
        &old,
        "bob: POST /password: 204 No Content, passed",
        "bob: POST /password: 401 Unauthorized, invalid_token",
        &invalid,
        "ada: POST /demo.Greeter/Hello: grpc-status 0, passed",
        "a stranger: POST /demo.Greeter/Hello: grpc-status 16, missing_token",
        &challenge(""),
        r#"a page: b"data: ada\n\n""#,
        "ada: POST /logout: 204 No Content, passed",
        r#"a page: b"" to the end"#,
        "ada: GET /me: 401 Unauthorized, revoked_token",
        &invalid,
    ];
    assert_eq!(said_by("service").await, expected);
}

#[tokio::test]
async fn hyper_example_serves_http1_and_http2() {
    let expected = [
        r#"HTTP/1.1 tok: 200 OK "Hello, Ada!""#,
        r#"HTTP/1.1 other: 401 Unauthorized """#,
        r#"HTTP/2.0 tok: 200 OK "Hello, Ada!""#,
        r#"HTTP/2.0 other: 401 Unauthorized """#,
    ];
    assert_eq!(said_by("hyper").await, expected);
}

#[tokio::test]
async fn compose_example_distinguishes_machines_people_and_anonymous() {
    let expected = [
        r#"a machine: GET /: 200 OK "Hello, machine-7!""#,
        r#"a person: GET /: 200 OK "Hello, ada!""#,
        r#"an expired one: GET /: 200 OK "Hello, stranger!""#,
        r#"a machine: GET /me: 200 OK "machine-7""#,
        r#"a person: GET /me: 200 OK "ada""#,
        r#"an expired one: GET /me: 401 Unauthorized """#,
        r#"a preflight: OPTIONS /me: 200 OK """#,
    ];
    assert_eq!(said_by("compose").await, expected);
}

#[tokio::test]
async fn testing_example_shows_an_outage() {
    let expected = [
        "one session: 200 OK and 401 Unauthorized",
        "before: 200 OK",
        "while it is down: 200 OK and 503 Service Unavailable",
        "it was asked 2 times",
    ];
    assert_eq!(said_by("testing").await, expected);
}
