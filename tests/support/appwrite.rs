//! Test double of Appwrite: an HTTP server on loopback with users and sessions. Its responses have
//! the format of Appwrite 1.8. The tests use it, and the example uses it as its built-in backend.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the example is a crate of its own and uses only a part"
)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test double that is used wrongly has to fail loudly"
)]

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::{delete, get, post, put},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, TimeDelta, Utc};
use http_body::Frame;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rand::Rng as _;
use serde_json::{Map, Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time,
};
use tower::ServiceExt as _;

const PROJECT: &str = "demo";
const PATIENCE: Duration = Duration::from_secs(20);

const USER: &str = include_str!("../fixtures/appwrite/user.json");
const SESSION: &str = include_str!("../fixtures/appwrite/session.json");
const RECOVERY: &str = include_str!("../fixtures/appwrite/recovery.json");
const ERRORS: &str = include_str!("../fixtures/appwrite/errors.json");

/// Headers that a backend may send. Any other header was forwarded from a client, which a backend
/// must never do.
const EXPECTED_HEADERS: [&str; 13] = [
    "host",
    "accept",
    "accept-encoding",
    "user-agent",
    "content-type",
    "content-length",
    "x-appwrite-project",
    "x-appwrite-session",
    "x-appwrite-response-format",
    "x-appwrite-key",
    "connection",
    "traceparent",
    "tracestate",
];

/// Handle to a running server, which stops when its last handle is dropped.
#[derive(Clone, Debug)]
pub struct Appwrite {
    server: Arc<Server>,
}

/// Call that the crate makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `GET /account`
    Account,
    /// `GET /account/sessions/current`
    Session,
    /// `POST /account/sessions/email`
    Login,
    /// `DELETE /account/sessions/current`
    Logout,
    /// `DELETE /account/sessions`
    LogoutEverywhere,
    /// `PUT /account/recovery`
    Recovery,
}

/// Fault that affects every call of an endpoint until [`Appwrite::clear_faults`].
///
/// With `Delay`, `Oversized` and `HalfBody` the request takes effect and the response is delayed or
/// damaged. With the others the request has no effect.
#[derive(Clone, Debug)]
pub enum Fault {
    Delay(Duration),
    /// Sends no response and keeps the connection open.
    Hang,
    Throttled {
        reset_epoch: Option<u64>,
        retry_after: Option<u64>,
    },
    /// Appwrite's error `general_unknown` with this status.
    Status(u16),
    Typed {
        status: u16,
        kind: &'static str,
    },
    /// HTML page of a proxy in front of Appwrite, with this status.
    Html(u16),
    Raw {
        status: u16,
        body: String,
    },
    Redirect(String),
    /// The correct response with a member of 300 KiB, chunked so that no header contains its size.
    Oversized,
    /// Closes the connection without a response.
    Cut,
    /// Sends the head of the correct response and half of the announced body, then closes the
    /// connection.
    HalfBody,
}

/// Guard that releases the calls that [`Appwrite::hold`] or [`Appwrite::bar`] holds when it is
/// dropped.
#[derive(Debug)]
#[must_use = "dropping it lets the calls go"]
pub struct Gate {
    _open_when_dropped: watch::Sender<()>,
}

impl Gate {
    fn new() -> (Self, watch::Receiver<()>) {
        let (sender, receiver) = watch::channel(());
        let gate = Self {
            _open_when_dropped: sender,
        };
        (gate, receiver)
    }
}

#[derive(Clone, Debug)]
pub struct User {
    pub email: String,
    pub password: String,
    pub name: String,
    pub email_verified: bool,
    pub blocked: bool,
    pub password_reset: bool,
    pub labels: Vec<String>,
    pub prefs: Value,
    created: DateTime<Utc>,
}

impl Appwrite {
    /// Starts a server with the project `demo` and no users.
    pub async fn start() -> Self {
        Self::start_project(PROJECT).await
    }

    /// Starts a server with a project of this ID and no users.
    pub async fn start_project(id: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("the socket is bound");
        let shared = Arc::new(Shared {
            world: Mutex::new(World {
                project: id.to_owned(),
                ..World::default()
            }),
            arrivals: watch::Sender::default(),
            calls: watch::Sender::default(),
        });
        let accepting = tokio::spawn(accept(listener, router(Arc::clone(&shared)))).abort_handle();
        Self {
            server: Arc::new(Server {
                address,
                project: id.to_owned(),
                shared,
                accepting,
            }),
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}/v1", self.server.address)
    }

    pub fn project_id(&self) -> &str {
        &self.server.project
    }

    /// Adds a user, or replaces the one with this id.
    pub fn add_user(&self, id: &str, email: &str, password: &str) {
        let user = User {
            email: email.to_owned(),
            password: password.to_owned(),
            name: "Test Person".to_owned(),
            email_verified: false,
            blocked: false,
            password_reset: false,
            labels: Vec::new(),
            prefs: json!({}),
            created: Utc::now(),
        };
        self.world().users.insert(id.to_owned(), user);
    }

    pub fn edit_user(&self, id: &str, edit: impl FnOnce(&mut User)) {
        edit(self.world().user_mut(id));
    }

    /// Creates a session with a lifetime of one year and returns its token.
    pub fn issue(&self, user_id: &str) -> String {
        self.issue_until(user_id, in_a_year())
    }

    pub fn issue_until(&self, user_id: &str, expires: DateTime<Utc>) -> String {
        let mut world = self.world();
        world.user_mut(user_id);
        world.issue(user_id, expires)
    }

    pub fn expire(&self, token: &str) {
        self.world().session_mut(token).expires = Utc::now() - TimeDelta::seconds(1);
    }

    pub fn revoke(&self, token: &str) {
        self.world().sessions.remove(token);
    }

    pub fn revoke_all(&self, user_id: &str) {
        self.world().revoke_all(user_id);
    }

    pub fn require_more_factors(&self, token: &str, yes: bool) {
        self.world().session_mut(token).more_factors = yes;
    }

    /// Returns the secret that Appwrite would mail to a user who forgot the password.
    pub fn recovery_secret(&self, user_id: &str) -> String {
        let secret = hex(256);
        let mut world = self.world();
        world.user_mut(user_id);
        world.recoveries.insert(secret.clone(), user_id.to_owned());
        secret
    }

    /// Sets the fault of an endpoint and replaces its earlier fault.
    pub fn fault(&self, on: Endpoint, fault: Fault) {
        self.world().faults.insert(on, fault);
    }

    pub fn clear_faults(&self) {
        self.world().faults.clear();
    }

    /// Holds the responses to an endpoint's calls until the gate is dropped.
    ///
    /// On arrival, a call is decided, carried out and counted in one step, and only then held.
    /// A revocation after [`wait_for_calls`](Self::wait_for_calls) is therefore later than the
    /// decision, although the caller receives the held response after the revocation.
    pub fn hold(&self, on: Endpoint) -> Gate {
        let (gate, receiver) = Gate::new();
        self.world().gates.push((on, receiver));
        gate
    }

    /// Holds an endpoint's calls before they are decided and have any effect, until the gate is
    /// dropped. They count as arrivals immediately, and as calls only after they are released.
    pub fn bar(&self, on: Endpoint) -> Gate {
        let (gate, receiver) = Gate::new();
        self.world().bars.push((on, receiver));
        gate
    }

    pub fn arrivals(&self, on: Endpoint) -> usize {
        self.server.shared.arrivals.borrow()[on as usize]
    }

    /// Returns once at least `n` calls of the endpoint have arrived since the start.
    pub async fn wait_for_arrivals(&self, on: Endpoint, n: usize) {
        let mut arrivals = self.server.shared.arrivals.subscribe();
        let reached = time::timeout(PATIENCE, arrivals.wait_for(|n_of| n_of[on as usize] >= n))
            .await
            .is_ok();
        assert!(reached, "fewer than {n} calls of {on:?} arrived");
    }

    pub fn calls(&self, on: Endpoint) -> usize {
        self.server.shared.calls.borrow()[on as usize]
    }

    /// Returns once the endpoint was called at least `n` times since the start.
    pub async fn wait_for_calls(&self, on: Endpoint, n: usize) {
        let mut calls = self.server.shared.calls.subscribe();
        let reached = time::timeout(PATIENCE, calls.wait_for(|calls| calls[on as usize] >= n))
            .await
            .is_ok();
        assert!(
            reached,
            "{on:?} was called {} times, not {n}",
            self.calls(on)
        );
    }

    /// Returns what was wrong with the requests so far, whether or not their responses show it.
    pub fn violations(&self) -> Vec<String> {
        self.world().violations.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.server.shared.world()
    }
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    project: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    arrivals: watch::Sender<[usize; 6]>,
    calls: watch::Sender<[usize; 6]>,
}

impl Shared {
    // Ignores poisoning: otherwise the panics of the server's tasks would hide the message of a
    // panic in a test's closure.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Session {
    id: String,
    user_id: String,
    created: DateTime<Utc>,
    expires: DateTime<Utc>,
    more_factors: bool,
    accessed: Option<DateTime<Utc>>,
}

#[derive(Debug, Default)]
struct World {
    project: String,
    users: HashMap<String, User>,
    sessions: HashMap<String, Session>,
    recoveries: HashMap<String, String>,
    faults: HashMap<Endpoint, Fault>,
    gates: Vec<(Endpoint, watch::Receiver<()>)>,
    bars: Vec<(Endpoint, watch::Receiver<()>)>,
    violations: Vec<String>,
}

/// Replaces the server of axum, which cannot close a connection without a response.
async fn accept(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(stream, router.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    // Otherwise a chunked response may wait for a delayed TCP acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let router = router.clone();
        async move {
            let response = router
                .oneshot(request)
                .await
                .unwrap_or_else(|never: Infallible| match never {});
            if response.extensions().get::<Cut>().is_some() {
                return Err(io::Error::other("cut"));
            }
            Ok(response)
        }
    });
    // Fails whenever a client disconnects and with each `Cut` fault.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn router(shared: Arc<Shared>) -> Router {
    async fn no_route(State(shared): State<Arc<Shared>>, request: Request) -> Response {
        let wrong = format!("no such route: {} {}", request.method(), request.uri());
        shared.world().violations.push(wrong);
        Answer::error("general_route_not_found", None).into_response()
    }

    type Shares = State<Arc<Shared>>;
    Router::new()
        .route(
            "/v1/account",
            get(|State(s): Shares, r: Request| answer(s, Endpoint::Account, r)),
        )
        .route(
            "/v1/account/sessions/current",
            get(|State(s): Shares, r: Request| answer(s, Endpoint::Session, r))
                .delete(|State(s): Shares, r: Request| answer(s, Endpoint::Logout, r)),
        )
        .route(
            "/v1/account/sessions",
            delete(|State(s): Shares, r: Request| answer(s, Endpoint::LogoutEverywhere, r)),
        )
        .route(
            "/v1/account/sessions/email",
            post(|State(s): Shares, r: Request| answer(s, Endpoint::Login, r)),
        )
        .route(
            "/v1/account/recovery",
            put(|State(s): Shares, r: Request| answer(s, Endpoint::Recovery, r)),
        )
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .with_state(shared)
}

async fn answer(shared: Arc<Shared>, on: Endpoint, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 * 1024)
        .await
        .unwrap_or_default();

    let bars = closed(&mut shared.world().bars, on);
    shared
        .arrivals
        .send_modify(|arrivals| arrivals[on as usize] += 1);
    opened(bars).await;

    let (answer, gates) = {
        let mut world = shared.world();
        world.inspect(on, &head.headers);
        let answer = world.answer(on, &head.headers, &body);
        let gates = closed(&mut world.gates, on);
        // Counts under the lock, so that a call is decided before a test can read its count.
        shared.calls.send_modify(|calls| calls[on as usize] += 1);
        (answer, gates)
    };

    // Even a sleep of zero would take one tick of the timer.
    if !answer.delay.is_zero() {
        time::sleep(answer.delay).await;
    }
    opened(gates).await;
    if let Shape::Hang = answer.shape {
        std::future::pending::<()>().await;
    }
    answer.into_response()
}

fn closed(
    gates: &mut Vec<(Endpoint, watch::Receiver<()>)>,
    on: Endpoint,
) -> Vec<watch::Receiver<()>> {
    gates.retain(|(_, gate)| gate.has_changed().is_ok());
    gates
        .iter()
        .filter(|(held, _)| *held == on)
        .map(|(_, gate)| gate.clone())
        .collect()
}

async fn opened(gates: Vec<watch::Receiver<()>>) {
    for mut gate in gates {
        while gate.changed().await.is_ok() {}
    }
}

impl World {
    fn user_mut(&mut self, id: &str) -> &mut User {
        self.users
            .get_mut(id)
            .unwrap_or_else(|| panic!("no user {id}"))
    }

    fn session_mut(&mut self, token: &str) -> &mut Session {
        self.sessions
            .get_mut(token)
            .unwrap_or_else(|| panic!("no session with this token"))
    }

    fn issue(&mut self, user_id: &str, expires: DateTime<Utc>) -> String {
        let token = BASE64.encode(json!({ "id": user_id, "secret": hex(256) }).to_string());
        let session = Session {
            id: hex(20),
            user_id: user_id.to_owned(),
            created: Utc::now(),
            expires,
            more_factors: false,
            accessed: None,
        };
        self.sessions.insert(token.clone(), session);
        token
    }

    fn revoke_all(&mut self, user_id: &str) {
        self.sessions
            .retain(|_, session| session.user_id != user_id);
    }

    fn inspect(&mut self, on: Endpoint, headers: &HeaderMap) {
        let mut wrong = Vec::new();
        for name in headers.keys() {
            if !EXPECTED_HEADERS.contains(&name.as_str()) {
                wrong.push(format!("foreign header {name}"));
            }
        }
        match project(headers) {
            None => wrong.push("no project".to_owned()),
            Some(project) if project == self.project => {}
            Some(other) => wrong.push(format!("wrong project {other}")),
        }
        let wanted = match on {
            Endpoint::Account
            | Endpoint::Session
            | Endpoint::Logout
            | Endpoint::LogoutEverywhere => 1,
            Endpoint::Login | Endpoint::Recovery => 0,
        };
        let found = credentials(headers, &self.cookie()).len();
        if found != wanted {
            wrong.push(format!("{found} credentials instead of {wanted}"));
        }
        self.violations
            .extend(wrong.into_iter().map(|wrong| format!("{on:?}: {wrong}")));
    }

    fn answer(&mut self, on: Endpoint, headers: &HeaderMap, body: &[u8]) -> Answer {
        match self.faults.get(&on).cloned() {
            None => self.decide(on, headers, body),
            Some(fault) => self.fail(fault, on, headers, body),
        }
    }

    fn fail(&mut self, fault: Fault, on: Endpoint, headers: &HeaderMap, body: &[u8]) -> Answer {
        let email = credentials(headers, &self.cookie())
            .pop()
            .and_then(|credential| self.email_of(&credential));
        match fault {
            Fault::Delay(delay) => Answer {
                delay,
                ..self.decide(on, headers, body)
            },
            Fault::Hang => Answer::shaped(Shape::Hang),
            Fault::Cut => Answer::shaped(Shape::Cut),
            Fault::Throttled {
                reset_epoch,
                retry_after,
            } => {
                let mut answer = Answer::error("general_rate_limit_exceeded", email.as_deref())
                    .with("x-ratelimit-limit", "100")
                    .with("x-ratelimit-remaining", "0");
                if let Some(epoch) = reset_epoch {
                    answer = answer.with("x-ratelimit-reset", &epoch.to_string());
                }
                if let Some(seconds) = retry_after {
                    answer = answer.with("retry-after", &seconds.to_string());
                }
                answer
            }
            Fault::Status(status) => {
                Answer::error_with_status("general_unknown", Some(status), email.as_deref())
            }
            Fault::Typed { status, kind } => {
                Answer::error_with_status(kind, Some(status), email.as_deref())
            }
            Fault::Html(status) => Answer {
                content_type: "text/html",
                ..Answer::text(
                    status,
                    "<!doctype html><html><title>Proxy</title><h1>Not today</h1></html>".to_owned(),
                )
            },
            Fault::Raw { status, body } => Answer::text(status, body),
            Fault::Redirect(location) => {
                Answer::text(302, String::new()).with("location", &location)
            }
            Fault::Oversized => {
                let mut answer = self.decide(on, headers, body);
                let mut object: Map<String, Value> =
                    serde_json::from_str(&answer.body).unwrap_or_default();
                object.insert("padding".to_owned(), "x".repeat(300 * 1024).into());
                answer.body = Value::Object(object).to_string();
                answer.shape = Shape::Chunked;
                if answer.status == 204 {
                    answer.status = 200;
                }
                answer
            }
            Fault::HalfBody => {
                let answer = self.decide(on, headers, body);
                let shape = if answer.body.is_empty() {
                    Shape::Cut
                } else {
                    Shape::Half
                };
                Answer { shape, ..answer }
            }
        }
    }

    fn decide(&mut self, on: Endpoint, headers: &HeaderMap, body: &[u8]) -> Answer {
        let mut credentials = credentials(headers, &self.cookie());
        match project(headers) {
            // Without this header, Appwrite uses the project of its console, which has none of
            // these users.
            None => {
                return match on {
                    Endpoint::Login => Answer::error("user_invalid_credentials", None),
                    Endpoint::Recovery => Answer::error("user_not_found", None),
                    Endpoint::Account
                    | Endpoint::Session
                    | Endpoint::Logout
                    | Endpoint::LogoutEverywhere => Answer::guest(None),
                };
            }
            Some(project) if project == self.project => {}
            Some(_) => return Answer::error("project_not_found", None),
        }
        // Stricter than Appwrite, which rejects a second credential only in addition to a JWT.
        if credentials.len() > 1 {
            return Answer::error("user_jwt_and_cookie_set", None);
        }
        match on {
            Endpoint::Login => self.login(headers, body),
            Endpoint::Recovery => self.recover(body),
            Endpoint::Account
            | Endpoint::Session
            | Endpoint::Logout
            | Endpoint::LogoutEverywhere => match self.admit(credentials.pop()) {
                Err(refusal) => refusal,
                Ok(token) => self.serve(on, &token),
            },
        }
    }

    fn admit(&self, credential: Option<Credential>) -> Result<String, Answer> {
        let email = credential.as_ref().and_then(|one| self.email_of(one));
        let email = email.as_deref();
        let token = match credential {
            Some(Credential::Session(token)) => token,
            Some(Credential::Jwt) => return Err(Answer::error("user_jwt_invalid", email)),
            Some(Credential::Foreign) | None => return Err(Answer::guest(email)),
        };
        let Some(session) = self.sessions.get(&token) else {
            return Err(Answer::guest(email));
        };
        if session.expires <= Utc::now() {
            return Err(Answer::guest(email));
        }
        let Some(user) = self.users.get(&session.user_id) else {
            return Err(Answer::guest(email));
        };
        if user.blocked {
            return Err(Answer::error("user_blocked", email));
        }
        if user.password_reset {
            return Err(Answer::error("user_password_reset_required", email));
        }
        if session.more_factors {
            return Err(Answer::error("user_more_factors_required", email));
        }
        Ok(token)
    }

    fn serve(&mut self, on: Endpoint, token: &str) -> Answer {
        match on {
            Endpoint::Account => {
                let session = self.session_mut(token);
                // The first response, which sets the date, has it in the format of the database.
                let accessed = match session.accessed {
                    Some(accessed) => iso(accessed),
                    None => {
                        let now = Utc::now();
                        session.accessed = Some(now);
                        now.format("%Y-%m-%d %H:%M:%S%.3f").to_string()
                    }
                };
                let id = session.user_id.clone();
                let mut body = user_body(&id, self.user_mut(&id));
                body.insert("accessedAt".to_owned(), accessed.into());
                Answer::json(200, body)
            }
            Endpoint::Session => Answer::json(200, self.session_body(token)),
            Endpoint::Logout => {
                self.sessions.remove(token);
                Answer::text(204, String::new())
            }
            Endpoint::LogoutEverywhere => {
                let id = self.sessions[token].user_id.clone();
                self.sessions.retain(|_, session| session.user_id != id);
                Answer::text(204, String::new())
            }
            Endpoint::Login | Endpoint::Recovery => unreachable!("{on:?} needs no session"),
        }
    }

    /// Returns the name of the session's cookie, which Appwrite writes in lower case.
    fn cookie(&self) -> String {
        format!("a_session_{}", self.project).to_ascii_lowercase()
    }

    fn login(&mut self, headers: &HeaderMap, body: &[u8]) -> Answer {
        let Some([email, password]) = arguments(body, ["email", "password"]) else {
            return Answer::error("general_argument_invalid", None);
        };
        let found = self
            .users
            .iter()
            .find(|(_, user)| user.email.eq_ignore_ascii_case(&email));
        let known = found.map(|(_, user)| user.email.as_str());
        if !is_email(&email) || !is_password(&password) {
            return Answer::error("general_argument_invalid", known);
        }
        let Some((id, user)) = found.filter(|(_, user)| user.password == password) else {
            return Answer::error("user_invalid_credentials", known);
        };
        if user.blocked {
            return Answer::error("user_blocked", known);
        }

        let (id, expires) = (id.clone(), in_a_year());
        let token = self.issue(&id, expires);
        let mut body = self.session_body(&token);
        if headers
            .get("x-appwrite-key")
            .is_some_and(|key| !key.is_empty())
        {
            body.insert("secret".to_owned(), token.as_str().into());
        }
        let value = utf8_percent_encode(&token, NON_ALPHANUMERIC);
        let until = expires.format("%a, %d %b %Y %H:%M:%S GMT");
        let cookie = self.cookie();
        Answer::json(201, body)
            .with(
                "set-cookie",
                &format!("{cookie}_legacy={value}; expires={until}; path=/; httponly"),
            )
            .with(
                "set-cookie",
                &format!("{cookie}={value}; expires={until}; path=/; httponly; samesite=none"),
            )
    }

    fn recover(&mut self, body: &[u8]) -> Answer {
        let Some([id, secret, password]) = arguments(body, ["userId", "secret", "password"]) else {
            return Answer::error("general_argument_invalid", None);
        };
        let email = self.users.get(&id).map(|user| user.email.clone());
        let email = email.as_deref();
        if !is_password(&password) {
            return Answer::error("general_argument_invalid", email);
        }
        let Some(user) = self.users.get_mut(&id) else {
            return Answer::error("user_not_found", None);
        };
        if self.recoveries.get(&secret) != Some(&id) {
            return Answer::error("user_invalid_token", email);
        }
        self.recoveries.remove(&secret);
        user.password = password;
        user.password_reset = false;
        self.revoke_all(&id);

        let mut body = fixture(RECOVERY);
        set(
            &mut body,
            [
                ("$id", hex(20)),
                ("$createdAt", iso(Utc::now())),
                ("userId", id),
                ("expire", iso(Utc::now() + TimeDelta::hours(1))),
            ],
        );
        Answer::json(200, body)
    }

    fn session_body(&mut self, token: &str) -> Map<String, Value> {
        let session = self.session_mut(token);
        let mut body = fixture(SESSION);
        set(
            &mut body,
            [
                ("$id", session.id.clone()),
                ("$createdAt", iso(session.created)),
                ("$updatedAt", iso(session.created)),
                ("userId", session.user_id.clone()),
                ("expire", iso(session.expires)),
            ],
        );
        let id = session.user_id.clone();
        let email = self.user_mut(&id).email.clone();
        set(&mut body, [("providerUid", email)]);
        body
    }

    /// Returns the email even if the session has ended, because a token contains the user's ID.
    fn email_of(&self, credential: &Credential) -> Option<String> {
        let Credential::Session(token) = credential else {
            return None;
        };
        let claims: Value = serde_json::from_slice(&BASE64.decode(token).ok()?).ok()?;
        let user = self.users.get(claims["id"].as_str()?)?;
        Some(user.email.clone())
    }
}

#[derive(Debug)]
enum Credential {
    Session(String),
    Jwt,
    /// Credential that this project ignores, but that a backend should not send.
    Foreign,
}

fn project(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-appwrite-project")?.to_str().ok()
}

fn credentials(headers: &HeaderMap, cookie: &str) -> Vec<Credential> {
    let values = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .filter(|value| !value.is_empty())
            .collect()
    };
    let named = |name: &str, value: &str| {
        if name == cookie || name.strip_suffix("_legacy") == Some(cookie) {
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            Credential::Session(value)
        } else {
            Credential::Foreign
        }
    };

    let mut found = Vec::new();
    for line in values("cookie") {
        for cookie in line.split(';') {
            if let Some((name, value)) = cookie.trim().split_once('=')
                && name.starts_with("a_session_")
            {
                found.push(named(name, value));
            }
        }
    }
    found.extend(
        values("x-appwrite-session")
            .into_iter()
            .map(Credential::Session),
    );
    for line in values("x-fallback-cookies") {
        let cookies: Map<String, Value> = serde_json::from_str(&line).unwrap_or_default();
        if cookies.is_empty() {
            found.push(Credential::Foreign);
        }
        for (name, value) in &cookies {
            found.push(named(name, value.as_str().unwrap_or_default()));
        }
    }
    found.extend(
        values("x-appwrite-jwt")
            .into_iter()
            .map(|_| Credential::Jwt),
    );
    found.extend(
        values("authorization")
            .into_iter()
            .map(|_| Credential::Foreign),
    );
    found
}

fn arguments<const N: usize>(body: &[u8], names: [&str; N]) -> Option<[String; N]> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let found: Option<Vec<String>> = names
        .iter()
        .map(|name| body[*name].as_str().map(str::to_owned))
        .collect();
    found?.try_into().ok()
}

fn is_email(email: &str) -> bool {
    email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && domain.contains('.') && !domain.contains('@') && !email.contains(' ')
    })
}

fn is_password(password: &str) -> bool {
    (8..=256).contains(&password.chars().count())
}

fn user_body(id: &str, user: &User) -> Map<String, Value> {
    let mut body = fixture(USER);
    let created = iso(user.created);
    if let Some(Value::Object(target)) = body["targets"].get_mut(0) {
        set(
            target,
            [
                ("$createdAt", created.clone()),
                ("$updatedAt", created.clone()),
                ("userId", id.to_owned()),
                ("identifier", user.email.clone()),
            ],
        );
    }
    if user.email.is_empty() {
        body["targets"] = json!([]);
    }
    set(
        &mut body,
        [
            ("$id", id.to_owned()),
            ("$createdAt", created.clone()),
            ("$updatedAt", created.clone()),
            ("registration", created),
            ("name", user.name.clone()),
            ("email", user.email.clone()),
        ],
    );
    body["status"] = (!user.blocked).into();
    body["emailVerification"] = user.email_verified.into();
    body["labels"] = user.labels.clone().into();
    body["prefs"] = user.prefs.clone();
    body
}

fn fixture(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("fixtures are JSON objects")
}

fn set<const N: usize>(body: &mut Map<String, Value>, values: [(&str, String); N]) {
    for (name, value) in values {
        body.insert(name.to_owned(), value.into());
    }
}

fn iso(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

fn in_a_year() -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(365)
}

fn hex(digits: usize) -> String {
    let mut rng = rand::rng();
    (0..digits)
        .map(|_| char::from(b"0123456789abcdef"[rng.random_range(0..16)]))
        .collect()
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Whole,
    Chunked,
    Half,
    Cut,
    Hang,
}

#[derive(Clone, Copy, Debug)]
struct Cut;

#[derive(Debug)]
struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
    shape: Shape,
    delay: Duration,
}

impl Answer {
    fn text(status: u16, body: String) -> Self {
        Self {
            status,
            content_type: "application/json; charset=UTF-8",
            headers: Vec::new(),
            body,
            shape: Shape::Whole,
            delay: Duration::ZERO,
        }
    }

    fn json(status: u16, body: Map<String, Value>) -> Self {
        Self::text(status, Value::Object(body).to_string())
    }

    fn shaped(shape: Shape) -> Self {
        Self {
            shape,
            ..Self::text(200, String::new())
        }
    }

    fn guest(email: Option<&str>) -> Self {
        Self::error("general_unauthorized_scope", email)
    }

    fn error(kind: &str, email: Option<&str>) -> Self {
        Self::error_with_status(kind, None, email)
    }

    /// Includes the user's email in the message, as Appwrite may, so that a test can detect it in a
    /// log.
    fn error_with_status(kind: &str, status: Option<u16>, email: Option<&str>) -> Self {
        let errors: Vec<Value> = serde_json::from_str(ERRORS).expect("fixtures are JSON");
        let mut body = errors
            .into_iter()
            .find(|error| error["type"] == kind)
            .unwrap_or_else(
                || json!({ "message": "No.", "code": 500, "type": kind, "version": "1.8.1" }),
            );
        if let Some(status) = status {
            body["code"] = status.into();
        }
        if let (Some(email), Some(message)) = (email, body["message"].as_str()) {
            body["message"] = format!("{message} ({email})").into();
        }
        let status = body["code"].as_u64().and_then(|code| code.try_into().ok());
        Self::text(status.expect("a code is a status"), body.to_string())
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn into_response(self) -> Response {
        let length = self.body.len();
        let body = Bytes::from(self.body);
        let mut response = Response::builder()
            .status(StatusCode::from_u16(self.status).expect("a fault's status is one of HTTP"));
        if !body.is_empty() {
            response = response.header(header::CONTENT_TYPE, self.content_type);
        }
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let body = match self.shape {
            Shape::Whole | Shape::Hang => Body::from(body),
            Shape::Chunked => Body::new(Pieces::of(&body, 16 * 1024)),
            Shape::Half => {
                response = response.header(header::CONTENT_LENGTH, length);
                Body::new(Pieces::torn(body.slice(..length / 2)))
            }
            Shape::Cut => {
                response = response.extension(Cut);
                Body::empty()
            }
        };
        response.body(body).expect("a fault's headers are headers")
    }
}

/// Body without a known size, which may end in an error.
#[derive(Debug)]
struct Pieces {
    left: VecDeque<Bytes>,
    tear: Tear,
}

#[derive(Debug)]
enum Tear {
    Never,
    AfterFlush,
    Now,
}

impl Pieces {
    fn of(body: &Bytes, size: usize) -> Self {
        Self {
            left: body
                .chunks(size)
                .map(|chunk| body.slice_ref(chunk))
                .collect(),
            tear: Tear::Never,
        }
    }

    fn torn(half: Bytes) -> Self {
        Self {
            left: VecDeque::from([half]),
            tear: Tear::AfterFlush,
        }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(piece) = self.left.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.tear {
            Tear::Never => Poll::Ready(None),
            // Hyper drops buffered data if the body fails, and flushes it if the body is pending.
            Tear::AfterFlush => {
                self.tear = Tear::Now;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Tear::Now => Poll::Ready(Some(Err(io::Error::other("torn")))),
        }
    }
}
