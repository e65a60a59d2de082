//! Test double of an authorization server's introspection endpoint over real HTTP. It responds as
//! RFC 7662 shows. It is stricter than real servers: it enforces every requirement of the RFC for
//! clients.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::stream;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, yield_now},
};

use super::soon;

/// Client ID that, like the secret, contains characters that must be encoded in a header or a form.
pub const CLIENT_ID: &str = "orders api:1";
pub const CLIENT_SECRET: &str = "Gé%heim+&=:7Fjfp0ZBr1KtDRbnfVdmIw";
pub const BEARER: &str = "23410913-abewfq.123483";

const PATH: &str = "/oauth2/introspect";

/// Headers that a backend may send. Any other header was forwarded from a client.
const EXPECTED_HEADERS: [&str; 7] = [
    "host",
    "accept",
    "accept-encoding",
    "user-agent",
    "content-type",
    "content-length",
    "authorization",
];

/// Authentication that the server requires of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demands {
    Basic,
    Post,
    Bearer,
    Nothing,
}

/// Fault that affects every call until [`Introspection::mend`].
#[derive(Clone, Debug)]
pub enum Fault {
    /// Sends no response and keeps the connection open.
    Hang,
    Raw {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// The correct response with a member of 300 KiB.
    Oversized,
    /// Sends the head of the correct response and half of its body, then closes the connection.
    HalfBody,
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::json(status, &json!({ "error": "server_error" }))
    }

    pub fn html(status: u16) -> Self {
        Self::Raw {
            status,
            headers: vec![("content-type", "text/html".to_owned())],
            body: "<!doctype html><title>Proxy</title><h1>Not today</h1>".to_owned(),
        }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::Raw {
            status,
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.to_string(),
        }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Raw { headers, .. } = &mut self {
            headers.retain(|(known, _)| *known != name);
            headers.push((name, value.to_owned()));
        }
        self
    }
}

/// Running server. It stops when this value is dropped.
pub struct Introspection {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

struct Shared {
    demands: Demands,
    world: Mutex<World>,
    calls: watch::Sender<usize>,
}

#[derive(Default)]
struct World {
    tokens: HashMap<String, Value>,
    fault: Option<Fault>,
    violations: Vec<String>,
}

impl Introspection {
    pub async fn start(demands: Demands) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            demands,
            world: Mutex::default(),
            calls: watch::Sender::new(0),
        });
        let router = Router::new()
            .route(PATH, post(introspect))
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            serving: serving.abort_handle(),
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Makes a token active, or sets another response for it.
    pub fn issue(&self, token: &str, answer: Value) {
        self.world().tokens.insert(token.to_owned(), answer);
    }

    pub fn revoke(&self, token: &str) {
        self.world().tokens.remove(token);
    }

    pub fn fault(&self, fault: Fault) {
        self.world().fault = Some(fault);
    }

    pub fn mend(&self) {
        self.world().fault = None;
    }

    pub fn calls(&self) -> usize {
        *self.shared.calls.borrow()
    }

    pub async fn wait_for_calls(&self, n: usize) {
        let mut calls = self.shared.calls.subscribe();
        soon("an introspection", calls.wait_for(|calls| *calls >= n))
            .await
            .unwrap();
    }

    /// Returns what was wrong with the requests so far, whether or not their responses show it.
    pub fn violations(&self) -> Vec<String> {
        self.world().violations.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }
}

impl Drop for Introspection {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn introspect(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 * 1024)
        .await
        .unwrap_or_default();
    let form = form(&body);
    let (right, fault) = {
        let mut world = shared.world();
        let wrong = inspect(&head.headers, &form);
        world.violations.extend(wrong);
        let right = if !is_admitted(shared.demands, &head.headers, &form) {
            denied(shared.demands)
        } else if let Some(token) = only(&form, "token") {
            let unknown = json!({ "active": false });
            let body = world.tokens.get(token).cloned().unwrap_or(unknown);
            (200, None, body)
        } else {
            (400, None, json!({ "error": "invalid_request" }))
        };
        let fault = world.fault.clone();
        // Counts under the lock, so that a call is decided before a test can read its count.
        shared.calls.send_modify(|calls| *calls += 1);
        (right, fault)
    };
    let (status, challenge, mut body) = right;
    let response = |status: u16| {
        Response::builder()
            .status(StatusCode::from_u16(status).unwrap())
            .header(header::CACHE_CONTROL, "no-store")
    };
    let json = |status| response(status).header(header::CONTENT_TYPE, "application/json");
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Raw {
            status,
            headers,
            body,
        }) => headers
            .into_iter()
            .fold(response(status), |response, (name, value)| {
                response.header(name, value)
            })
            .body(body.into()),
        Some(Fault::Oversized) => {
            body["padding"] = "x".repeat(300 * 1024).into();
            json(status).body(body.to_string().into())
        }
        Some(Fault::HalfBody) => {
            let body = body.to_string();
            let length = body.len();
            json(status)
                .header(header::CONTENT_LENGTH, length)
                .body(torn(Bytes::from(body).slice(..length / 2)))
        }
        None => match challenge {
            Some(challenge) => json(status).header(header::WWW_AUTHENTICATE, challenge),
            None => json(status),
        }
        .body(body.to_string().into()),
    }
    .unwrap()
}

/// Returns a body that sends this half and then fails. It is pending in between, because hyper then
/// flushes the half, which it would drop if the body failed immediately.
fn torn(half: Bytes) -> Body {
    let pieces = stream::unfold(Some(half), |half| async move {
        match half {
            Some(half) if !half.is_empty() => Some((Ok(half), Some(Bytes::new()))),
            Some(_) => {
                yield_now().await;
                Some((Err(io::Error::other("torn")), None))
            }
            None => None,
        }
    });
    Body::from_stream(pieces)
}

fn denied(demands: Demands) -> (u16, Option<&'static str>, Value) {
    match demands {
        // Response to an invalid bearer token, RFC 6750, section 3.1.
        Demands::Bearer => (
            401,
            Some(r#"Bearer error="invalid_token""#),
            json!({ "error": "invalid_token" }),
        ),
        // Response to an unknown client, RFC 6749, section 5.2. It contains the client's ID.
        _ => (
            401,
            Some(r#"Basic realm="introspection""#),
            json!({ "error": "invalid_client", "error_description": format!("no {CLIENT_ID}") }),
        ),
    }
}

fn is_admitted(demands: Demands, headers: &HeaderMap, form: &[(String, String)]) -> bool {
    let authorization = headers.get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok());
    match demands {
        Demands::Basic => authorization
            .and_then(|value| value.strip_prefix("Basic "))
            .and_then(|pair| String::from_utf8(BASE64.decode(pair).ok()?).ok())
            .and_then(|pair| {
                let (id, secret) = pair.split_once(':')?;
                Some((decoded(id), decoded(secret)))
            })
            .is_some_and(|(id, secret)| id == CLIENT_ID && secret == CLIENT_SECRET),
        Demands::Post => {
            only(form, "client_id") == Some(CLIENT_ID)
                && only(form, "client_secret") == Some(CLIENT_SECRET)
        }
        Demands::Bearer => authorization == Some(&format!("Bearer {BEARER}")),
        Demands::Nothing => true,
    }
}

fn inspect(headers: &HeaderMap, form: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in headers.keys() {
        if !EXPECTED_HEADERS.contains(&name.as_str()) {
            wrong.push(format!("foreign header {name}"));
        }
    }
    for (name, wanted) in [
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "identity"),
        (header::CONTENT_TYPE, "application/x-www-form-urlencoded"),
    ] {
        let values: Vec<_> = headers.get_all(&name).iter().collect();
        if values != [wanted] {
            wrong.push(format!("{name} is {values:?}"));
        }
    }
    if only(form, "token_type_hint") != Some("access_token") {
        wrong.push("no hint".to_owned());
    }
    if only(form, "token").is_none() {
        wrong.push("not one token".to_owned());
    }
    let in_form = form.iter().any(|(name, _)| name == "client_secret");
    if in_form && headers.contains_key(header::AUTHORIZATION) {
        wrong.push("two credentials".to_owned());
    }
    wrong
}

fn form(body: &[u8]) -> Vec<(String, String)> {
    let body = String::from_utf8_lossy(body);
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn only<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = form.iter().filter(|(known, _)| known == name);
    let first = values.next()?;
    values.next().is_none().then_some(first.1.as_str())
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text)
        .decode_utf8()
        .unwrap()
        .into_owned()
}

/// Returns the active token of RFC 7662, section 2.2, with an expiry in the future.
pub fn jdoe() -> Value {
    json!({
        "active": true,
        "client_id": "l238j323ds-23ij4",
        "username": "jdoe",
        "scope": "read write dolphin",
        "sub": "Z5O3upPC88QrAjx00dis",
        "aud": "https://protected.example.net/resource",
        "iss": "https://server.example.com/",
        "exp": 32_503_680_000_i64,
        "iat": 1_419_350_238,
        "extension_field": "twenty-seven",
    })
}

/// Returns the same token with one member set, or removed if the value is `null`.
pub fn jdoe_with(name: &str, value: impl Into<Value>) -> Value {
    let mut answer = jdoe();
    match value.into() {
        Value::Null => drop(answer.as_object_mut().unwrap().remove(name)),
        value => answer[name] = value,
    }
    answer
}
