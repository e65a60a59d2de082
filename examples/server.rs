//! An axum service whose users are Appwrite's: login, who am I, logout, password reset.
//!
//! `cargo run --example server` needs nothing: it starts a small Appwrite of its own on loopback,
//! with a user, prints `curl` lines to paste, and has a page to try it in a browser at `/`.
//! Prometheus finds its metrics at `/metrics`; `grafana.json` beside this file is a dashboard over
//! them. The environment points it elsewhere:
//!
//! - `LISTEN_ADDR`: `127.0.0.1:3000` unless set; port 0 takes a free one.
//! - `APPWRITE_ENDPOINT` (ends in `/v1`) and `APPWRITE_PROJECT_ID`: a real Appwrite, both or none.
//! - `REDIS_URL`, such as `redis://redis:6379/2`: the cache that all nodes share; without it
//!   sessions are cached in this process alone. `SESSION_CACHE_REDIS_DB` (`2`) is the database
//!   when the URL names none, and `SESSION_CACHE_REDIS_DEADLINE_MS` (`250`) how long it is waited
//!   for.
//! - `REDIS_SENTINEL_URLS`, such as `redis://s1:26379,redis://s2:26379`, and `REDIS_SENTINEL_MASTER`:
//!   the Redis that these sentinels name; of `REDIS_URL` then all but host and port is used.
//! - `REDIS_CLUSTER_URLS`, such as `redis://redis-1:6379,redis://redis-2:6379`: some nodes of a Redis
//!   Cluster, in place of `REDIS_URL`.
//! - `REDIS_CA_FILE`, and both or none of `REDIS_CERT_FILE` and `REDIS_KEY_FILE`: certificates for
//!   `rediss://` URLs.
//! - `REDIS_WAIT_REPLICAS` (`0`): so many replicas are to have a logout before it is answered, for
//!   which it waits 100 milliseconds at most; not with a cluster.
//! - `SESSION_CACHE_LOCAL_CAPACITY` (`0`, which is off): so many sessions are served from memory
//!   before Redis is asked.
//! - `SESSION_CACHE_ENABLED` (`true`), `SESSION_CACHE_TTL_SECONDS` (`300`).
//! - `RUST_LOG`: `info` unless set.

use std::{
    env, error::Error, io::Write, net::SocketAddr, process::ExitCode, str::FromStr, time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tower_http::{csrf::CsrfLayer, timeout::TimeoutLayer, trace::TraceLayer};
use tower_session_cache::{
    AppwriteError, AppwriteErrorKind, AppwriteValidator, LocalCache, RedisTls, RejectionBody,
    RevokeError, SessionCache, SessionCacheBuilder, SessionCacheConfig, SessionCacheLayer,
    SessionInfo, UserData,
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

#[path = "../tests/support/appwrite.rs"]
mod appwrite;

#[derive(Clone)]
struct App {
    cache: SessionCache,
    appwrite: AppwriteValidator,
    cookie: String,
    metrics: PrometheusHandle,
}

fn router(app: App, has_page: bool) -> Router {
    let sessions = SessionCacheLayer::new(app.cache.clone(), app.appwrite.clone())
        .with_token_source(app.appwrite.token_source())
        .with_rejection_body(RejectionBody::problem_json);
    // It knows a user and a password, and so has no place before a real Appwrite.
    let page = if has_page { page() } else { Router::new() };
    Router::new()
        .route("/api/v1/auth/me", get(me))
        .route("/api/v1/auth/logout", post(logout))
        .route_layer(middleware::from_fn(show_origin))
        // Only the routes above need a session.
        .route_layer(sessions)
        .route("/api/v1/auth/login", post(login))
        .route("/api/v1/auth/reset-password", post(reset_password))
        .route("/health", get(health))
        // Keep these two from the public: a proxy in front should not pass them on.
        .route("/metrics", get(metrics))
        .merge(page)
        // A browser sends the cookie with requests that other sites cause.
        .layer(CsrfLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            Duration::from_secs(15),
        ))
        .layer(TraceLayer::new_for_http())
        .with_state(app)
}

/// Says in the response where the session came from.
async fn show_origin(
    Extension(session): Extension<SessionInfo>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let origin = HeaderValue::from_static(session.origin().as_str());
    let name = HeaderName::from_static("x-session-origin");
    response.headers_mut().insert(name, origin);
    response
}

async fn me(Extension(user): Extension<UserData>) -> Json<UserData> {
    Json(user)
}

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Serialize)]
struct LoggedIn<'a> {
    token: &'a str,
    user_id: &'a str,
    expires_at: Option<String>,
}

async fn login(
    State(app): State<App>,
    Json(credentials): Json<Credentials>,
) -> Result<Response, Problem> {
    let login = app
        .appwrite
        .login(&credentials.email, &credentials.password)
        .await?;
    let body = LoggedIn {
        token: login.token.expose_secret(),
        user_id: &login.user_id,
        expires_at: login.expires_at.map(|at| at.to_rfc3339()),
    };
    let mut response = Json(&body).into_response();
    // Over HTTPS add `Secure`; this service speaks plain HTTP on loopback.
    let cookie = format!(
        "{}={}; Path=/; HttpOnly; SameSite=Lax",
        app.cookie, body.token
    );
    let mut cookie = HeaderValue::try_from(cookie).map_err(|_| Problem::unavailable(None))?;
    cookie.set_sensitive(true);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// Appwrite first, then the cache: what is validated after the revocation counts again.
async fn logout(
    State(app): State<App>,
    Extension(session): Extension<SessionInfo>,
) -> Result<Response, Problem> {
    app.appwrite.logout(session.token()).await?;
    let _ = app.cache.revoke_token(session.token()).await?;
    let cookie = format!("{}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0", app.cookie);
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

#[derive(Deserialize)]
struct NewPassword {
    user_id: String,
    secret: String,
    password: String,
}

async fn reset_password(
    State(app): State<App>,
    Json(new): Json<NewPassword>,
) -> Result<StatusCode, Problem> {
    let user_id = app
        .appwrite
        .recover(&new.user_id, &new.secret, &new.password)
        .await?;
    let _ = app.cache.invalidate_user(&user_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn health(State(app): State<App>) -> Json<serde_json::Value> {
    let health = app.cache.health_check().await;
    Json(json!({ "status": "ok", "redis": health.redis.as_str() }))
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    // What came in since the last time is still in buckets of its own.
    app.metrics.run_upkeep();
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (content_type, app.metrics.render())
}

/// A page to try it out: three files, which may load nothing but each other.
fn page() -> Router<App> {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
        connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let file = |content_type: &'static str, text: &'static str| {
        let headers = [
            (header::CONTENT_TYPE, content_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        get(async move || (headers, text))
    };
    let html = file("text/html; charset=utf-8", include_str!("page/index.html"));
    let css = file("text/css; charset=utf-8", include_str!("page/page.css"));
    let script = "text/javascript; charset=utf-8";
    let script = file(script, include_str!("page/page.js"));
    Router::new()
        .route("/", html)
        .route("/page.css", css)
        .route("/page.js", script)
}

/// What a handler answers when it cannot do what it was asked.
struct Problem {
    status: StatusCode,
    detail: &'static str,
    retry_after: Option<Duration>,
}

impl Problem {
    fn unavailable(retry_after: Option<Duration>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            detail: "the identity provider cannot be asked now",
            retry_after: Some(retry_after.unwrap_or(Duration::from_secs(2))),
        }
    }
}

impl From<AppwriteError> for Problem {
    fn from(error: AppwriteError) -> Self {
        match error.kind() {
            AppwriteErrorKind::Refused => Self {
                status: StatusCode::UNAUTHORIZED,
                detail: "wrong credentials",
                retry_after: None,
            },
            AppwriteErrorKind::InvalidArgument => Self {
                status: StatusCode::BAD_REQUEST,
                detail: "not a valid e-mail address, secret or password",
                retry_after: None,
            },
            _ => {
                tracing::warn!(%error, "Appwrite did not answer as it should");
                Self::unavailable(error.retry_after())
            }
        }
    }
}

impl From<RevokeError> for Problem {
    fn from(error: RevokeError) -> Self {
        tracing::warn!(%error, "a revocation is not yet delivered");
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            detail: "the session ends as soon as all nodes can be told",
            retry_after: None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let problem = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, body.to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs().max(1).into();
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// A setting from the environment, or its default.
fn setting<T: FromStr>(name: &str, default: T) -> Result<T, Box<dyn Error>> {
    match env::var(name) {
        Err(env::VarError::NotPresent) => Ok(default),
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name} has a value that makes no sense: {text:?}").into()),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

fn sentinels(cache: SessionCacheBuilder) -> Result<SessionCacheBuilder, Box<dyn Error>> {
    let urls = setting("REDIS_SENTINEL_URLS", String::new())?;
    let name = setting("REDIS_SENTINEL_MASTER", String::new())?;
    match (urls.is_empty(), name.is_empty()) {
        (true, true) => Ok(cache),
        (false, false) => cache
            .redis_sentinel(urls.split(',').map(str::trim), name)
            .map_err(|error| format!("REDIS_SENTINEL_URLS: {error}").into()),
        _ => Err("set both REDIS_SENTINEL_URLS and REDIS_SENTINEL_MASTER, or neither".into()),
    }
}

fn nodes(cache: SessionCacheBuilder) -> Result<SessionCacheBuilder, Box<dyn Error>> {
    let urls = setting("REDIS_CLUSTER_URLS", String::new())?;
    if urls.is_empty() {
        return Ok(cache);
    }
    cache
        .redis_cluster(urls.split(',').map(str::trim))
        .map_err(|error| format!("REDIS_CLUSTER_URLS: {error}").into())
}

/// What the files hold that are named.
fn certificates() -> Result<Option<RedisTls>, Box<dyn Error>> {
    let read = |name: &str| -> Result<Option<Vec<u8>>, Box<dyn Error>> {
        let path = setting(name, String::new())?;
        if path.is_empty() {
            return Ok(None);
        }
        let file = std::fs::read(&path).map_err(|error| format!("{name}={path}: {error}"))?;
        Ok(Some(file))
    };
    let ca = read("REDIS_CA_FILE")?;
    let client = match (read("REDIS_CERT_FILE")?, read("REDIS_KEY_FILE")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("set both REDIS_CERT_FILE and REDIS_KEY_FILE, or neither".into()),
    };
    if ca.is_none() && client.is_none() {
        return Ok(None);
    }
    let mut tls = RedisTls::new();
    if let Some(ca) = ca {
        tls = tls.root_certificates(ca);
    }
    if let Some((certificate, key)) = client {
        tls = tls.client_certificate(certificate, key);
    }
    Ok(Some(tls))
}

/// The Appwrite to ask: a real one, or one of our own with a user to try things out.
async fn provider() -> Result<(AppwriteValidator, Option<Demo>), Box<dyn Error>> {
    let endpoint = setting("APPWRITE_ENDPOINT", String::new())?;
    let project = setting("APPWRITE_PROJECT_ID", String::new())?;
    match (endpoint.is_empty(), project.is_empty()) {
        (false, false) => Ok((AppwriteValidator::new(&endpoint, project)?, None)),
        (true, true) => {
            let demo = appwrite::Appwrite::start().await;
            demo.add_user("demo-user", "demo@example.com", "demo-password");
            let validator = AppwriteValidator::new(demo.endpoint(), demo.project_id())?;
            let secret = demo.recovery_secret("demo-user");
            Ok((
                validator,
                Some(Demo {
                    secret,
                    _server: demo,
                }),
            ))
        }
        _ => Err("set both APPWRITE_ENDPOINT and APPWRITE_PROJECT_ID, or neither".into()),
    }
}

/// The embedded Appwrite, which lives as long as this value.
struct Demo {
    secret: String,
    _server: appwrite::Appwrite,
}

impl Demo {
    fn lines(&self, address: SocketAddr) -> String {
        let url = format!("http://{address}/api/v1/auth");
        let json = "-H 'content-type: application/json'";
        let me = format!(r#"curl -si {url}/me -H "authorization: Bearer $TOKEN""#);
        format!(
            r#"
An Appwrite of our own runs with the user demo@example.com. Open http://{address}/ in a browser, or try:

TOKEN=$(curl -s {url}/login {json} -d '{{"email":"demo@example.com","password":"demo-password"}}' | sed 's/.*"token":"\([^"]*\)".*/\1/')
{me}
curl -si -X POST {url}/logout -H "authorization: Bearer $TOKEN"
{me}
curl -si {url}/reset-password {json} -d '{{"user_id":"demo-user","secret":"{}","password":"new-password"}}'
curl -si http://{address}/health
"#,
            self.secret
        )
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .map_err(|error| format!("RUST_LOG: {error}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    // Before the cache is built, which looks its metrics up once.
    let buckets = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        5.0,
    ];
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &buckets)?
        .install_recorder()?;
    let mut config = SessionCacheConfig::default();
    config.enabled = setting("SESSION_CACHE_ENABLED", config.enabled)?;
    config.ttl_seconds = setting("SESSION_CACHE_TTL_SECONDS", config.ttl_seconds)?;
    config.redis_db = setting("SESSION_CACHE_REDIS_DB", config.redis_db)?;
    let mut cache = SessionCache::builder().config(&config);
    let redis = setting("REDIS_URL", String::new())?;
    if !redis.is_empty() {
        cache = cache
            .redis(redis)
            .map_err(|error| format!("REDIS_URL: {error}"))?;
    }
    let deadline = setting("SESSION_CACHE_REDIS_DEADLINE_MS", 250)?;
    cache = cache.redis_deadline(Duration::from_millis(deadline));
    cache = sentinels(cache)?;
    cache = nodes(cache)?;
    if let Some(tls) = certificates()? {
        cache = cache.redis_tls(tls);
    }
    let replicas = setting("REDIS_WAIT_REPLICAS", 0)?;
    if replicas > 0 {
        cache = cache.wait_for_replicas(replicas, Duration::from_millis(100));
    }
    let local = setting("SESSION_CACHE_LOCAL_CAPACITY", 0)?;
    if local > 0 {
        cache = cache.local_cache(LocalCache::new(local));
    }
    let cache = cache.build()?;
    let (appwrite, demo) = provider().await?;
    let cookie = format!("a_session_{}", appwrite.project_id());
    let app = App {
        cache,
        appwrite,
        cookie,
        metrics,
    };

    let address = setting("LISTEN_ADDR", SocketAddr::from(([127, 0, 0, 1], 3000)))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("LISTEN_ADDR={address}: {error}"))?;
    let address = listener.local_addr()?;
    let mut greeting = format!("listening on http://{address}\n");
    if let Some(demo) = &demo {
        greeting += &demo.lines(address);
    }
    // Whoever reads only the first line closes the pipe, which is no reason to stop.
    let _ = std::io::stdout().write_all(greeting.as_bytes());

    axum::serve(listener, router(app, demo.is_some()))
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}
