//! Axum service that authenticates users of Appwrite or of an OAuth 2.0 server, with routes for
//! login, the current user, logout and password reset.
//!
//! `cargo run --example server` needs no setup: it starts a small embedded Appwrite on loopback
//! with one user, prints `curl` commands to paste, and serves a page to try it in a browser at `/`.
//! Prometheus can scrape the metrics at `/metrics`; `grafana.json` next to this file is a dashboard
//! for them. Environment variables configure other servers:
//!
//! - `LISTEN_ADDR`: defaults to `127.0.0.1:3000`; port 0 selects a free port.
//! - `APPWRITE_ENDPOINT` (ends in `/v1`) and `APPWRITE_PROJECT_ID`: a real Appwrite; set both or
//!   neither.
//! - `INTROSPECTION_ENDPOINT`, `https` or `http`: the token introspection endpoint of an OAuth 2.0
//!   server (Keycloak, Ory Hydra, Zitadel), instead of Appwrite. Clients send its access tokens as
//!   `Authorization: Bearer`. There is no login, no password reset and no page.
//! - `INTROSPECTION_CLIENT_ID` and `INTROSPECTION_CLIENT_SECRET`: the client credentials for the
//!   introspection requests, sent by HTTP Basic; set both or neither. Without them no credentials
//!   are sent, as the admin port of Hydra expects. Two services with different clients do not share
//!   cached sessions.
//! - `INTROSPECTION_AUDIENCE`, `INTROSPECTION_ISSUER`: the value that `aud` must contain, and the
//!   value that `iss` must have.
//! - `INTROSPECTION_SCOPE`, such as `orders:read offline`: scopes, separated by spaces; a token
//!   must have all of them.
//! - `INTROSPECTION_SESSION_ID_CLAIM` (`sid`): the claim with the session's ID, such as `ext.sid` with
//!   Hydra.
//! - `REDIS_URL`, such as `redis://redis:6379/2`: the cache that all nodes share. Without it,
//!   sessions are cached only in this process. `SESSION_CACHE_REDIS_DB` (`2`) is the database if
//!   the URL names none, and `SESSION_CACHE_REDIS_TIMEOUT_MS` (`250`) is the timeout.
//! - `REDIS_SENTINEL_URLS`, such as `redis://s1:26379,redis://s2:26379`, and `REDIS_SENTINEL_MASTER`:
//!   the Redis primary that these sentinels name. All parts of `REDIS_URL` except host and port
//!   still apply.
//! - `REDIS_CLUSTER_URLS`, such as `redis://redis-1:6379,redis://redis-2:6379`: some nodes of a Redis
//!   Cluster, instead of `REDIS_URL`.
//! - `REDIS_CA_FILE`, and both or neither of `REDIS_CERT_FILE` and `REDIS_KEY_FILE`: certificates
//!   for `rediss://` URLs.
//! - `REDIS_WAIT_REPLICAS` (`0`): the number of replicas that should have a logout before the
//!   response is sent. The server waits at most 100 milliseconds for them. Not supported with a
//!   cluster.
//! - `SESSION_CACHE_LOCAL_CAPACITY` (`0`, which disables it): the capacity of the local cache in
//!   front of Redis, in sessions.
//! - `APPWRITE_WEBHOOK_URL` and `APPWRITE_WEBHOOK_SECRET`: the URL and the signature key of a webhook
//!   of Appwrite, which ends here what ends there; set both or neither. The route is
//!   `POST /hooks/appwrite`.
//! - `WEBHOOK_SECRET`, such as `whsec_…`: turns on `POST /hooks/standard`, which takes Standard
//!   Webhooks with the body `{"type": …, "data": {"user_id": …}}`.
//! - `OIDC_ISSUER` and `OIDC_CLIENT_IDS`, such as `web,app`: an OpenID provider and the clients that
//!   log users in; set both or neither. The route `POST /hooks/backchannel-logout` ends here what
//!   ends there. `OIDC_JWKS_URL` is the URL of the provider's keys, if its metadata has none.
//! - `SESSION_CACHE_ENABLED` (`true`), `SESSION_CACHE_TTL_SECONDS` (`300`).
//! - `RUST_LOG`: defaults to `info`.
//!
//! `logout` calls the provider, and then logs out of the cache whatever the provider replied. It
//! responds with 503 if the provider's call failed, and with 202 if Redis is unavailable and the
//! logout is delivered later. Introspection has no call that ends a session, so only
//! the cache rejects its tokens then, on all nodes. Other services that use the
//! same OAuth 2.0 server still accept them.

use std::{
    env, error::Error, io::Write, net::SocketAddr, process::ExitCode, str::FromStr, time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, post_service},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tower_http::{csrf::CsrfLayer, timeout::TimeoutLayer, trace::TraceLayer};
use tower_session_cache::{
    AppwriteError, AppwriteErrorKind, AppwriteValidator, AppwriteWebhook, BackChannelLogout,
    ConfigError, ErasedValidator, EventIssuer, IntrospectionAuth, IntrospectionConfigError,
    IntrospectionValidator, LocalCacheConfig, RedisConfig, RedisTls, Rejection, RevocationReceiver,
    Revoked, SessionCache, SessionCacheBuilder, SessionCacheConfig, SessionCacheLayer, SessionInfo,
    SessionToken, StandardWebhook, TokenSource, UserData,
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

#[path = "../tests/support/appwrite.rs"]
mod appwrite;

#[derive(Clone)]
struct App {
    cache: SessionCache,
    provider: Provider,
    metrics: PrometheusHandle,
}

/// Identity provider that the environment variables select.
#[derive(Clone)]
enum Provider {
    Appwrite(AppwriteValidator),
    Introspection(IntrospectionValidator),
}

impl Provider {
    fn validator(&self) -> ErasedValidator {
        match self {
            Self::Appwrite(appwrite) => ErasedValidator::new(appwrite.clone()),
            Self::Introspection(introspection) => ErasedValidator::new(introspection.clone()),
        }
    }

    fn token_source(&self) -> TokenSource {
        match self {
            Self::Appwrite(appwrite) => appwrite.token_source(),
            Self::Introspection(_) => TokenSource::bearer(),
        }
    }

    /// Ends a session at the provider, if the provider supports it.
    async fn log_out(&self, token: &SessionToken) -> Result<(), Problem> {
        match self {
            Self::Appwrite(appwrite) => appwrite.logout(token).await.map_err(|error| {
                tracing::warn!(%error, "Appwrite did not end the session");
                Problem::unavailable(error.retry_after())
            }),
            Self::Introspection(_) => Ok(()),
        }
    }

    /// Returns the routes that only this provider has.
    fn accounts(&self, cache: &SessionCache) -> Router<App> {
        match self {
            Self::Appwrite(appwrite) => Router::new()
                .route("/api/v1/auth/login", post(login))
                .route("/api/v1/auth/reset-password", post(reset_password))
                .with_state(Accounts {
                    cache: cache.clone(),
                    appwrite: appwrite.clone(),
                }),
            Self::Introspection(_) => Router::new(),
        }
    }
}

/// State of the routes that log in and set a password.
#[derive(Clone)]
struct Accounts {
    cache: SessionCache,
    appwrite: AppwriteValidator,
}

fn router(app: App, hooks: Router<App>, demo: Option<Demo>) -> Router {
    let sessions = SessionCacheLayer::new(app.cache.clone(), app.provider.validator())
        .with_token_source(app.provider.token_source())
        .with_rejection_response(Rejection::problem_json);
    // The page contains a user and a password, so it must not be served with a real provider.
    let page = demo.map_or_else(Router::new, |demo| page(demo, sessions.clone()));
    Router::new()
        .route("/api/v1/auth/me", get(me))
        .route("/api/v1/auth/logout", post(logout))
        .route_layer(middleware::from_fn(show_origin))
        // Only the routes above need a session.
        .route_layer(sessions)
        .merge(app.provider.accounts(&app.cache))
        .route("/health", get(health))
        // Do not expose these two routes publicly. A proxy in front should not forward them.
        .route("/metrics", get(metrics))
        .merge(page)
        // A browser also sends the cookie with requests that other sites trigger.
        .layer(CsrfLayer::new())
        // The senders of events have no session and no browser.
        .merge(hooks)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            Duration::from_secs(15),
        ))
        .layer(TraceLayer::new_for_http())
        .with_state(app)
}

/// Adds the origin of the session to the response.
async fn show_origin(session: SessionInfo, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let origin = HeaderValue::from_static(session.origin().as_str());
    let name = HeaderName::from_static("x-session-origin");
    response.headers_mut().insert(name, origin);
    response
}

async fn me(Extension(user): Extension<UserData>) -> impl IntoResponse {
    // The response depends on a cookie or a header, so no intermediate cache may store it.
    ([(header::CACHE_CONTROL, "no-store")], Json(user))
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
    State(accounts): State<Accounts>,
    Json(credentials): Json<Credentials>,
) -> Result<Response, Problem> {
    let login = accounts
        .appwrite
        .login(&credentials.email, &credentials.password)
        .await?;
    let body = LoggedIn {
        token: login.token.expose_secret(),
        user_id: &login.user_id,
        expires_at: login.expires_at.map(|at| at.to_rfc3339()),
    };
    let mut response = Json(&body).into_response();
    let cookie = cookie(&accounts.appwrite, body.token, "")?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// Returns the cookie from which [`AppwriteValidator::token_source`] reads a token.
fn cookie(appwrite: &AppwriteValidator, token: &str, more: &str) -> Result<HeaderValue, Problem> {
    let project = appwrite.project_id();
    // Add `Secure` if you use HTTPS. This service uses plain HTTP on loopback.
    let cookie = format!("a_session_{project}={token}; Path=/; HttpOnly; SameSite=Lax{more}");
    let mut cookie = HeaderValue::try_from(cookie).map_err(|_| Problem::unavailable(None))?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

/// Ends the session at the provider first, then in the cache. A validation after the revocation is
/// accepted again, so in the reverse order the session could be cached again.
///
/// The user is logged out of the cache even if the provider's call failed. Appwrite accepts 100
/// logouts an hour from one host. One attacker could otherwise use them up and thereby keep the
/// sessions of all other users cached.
async fn logout(State(app): State<App>, session: SessionInfo) -> Result<Response, Problem> {
    let at_provider = app.provider.log_out(session.token()).await;
    // Once Appwrite has ended a session, nothing prolongs it, so Redis need not remember it for long.
    let in_cache = match (&at_provider, &app.provider) {
        (Ok(_), Provider::Appwrite(_)) => app.cache.log_out_confirmed(&session).await,
        _ => app.cache.log_out(&session).await,
    };
    at_provider?;
    let mut response = match in_cache {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            tracing::warn!(%error, "logout not delivered to Redis yet");
            error.into_response()
        }
    };
    if let Provider::Appwrite(appwrite) = &app.provider {
        let cookie = cookie(appwrite, "", "; Max-Age=0")?;
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

#[derive(Deserialize)]
struct NewPassword {
    user_id: String,
    secret: String,
    password: String,
}

async fn reset_password(
    State(accounts): State<Accounts>,
    Json(new): Json<NewPassword>,
) -> Result<Response, Problem> {
    let user_id = accounts
        .appwrite
        .recover(&new.user_id, &new.secret, &new.password)
        .await?;
    // A queued revocation applies on this node, and is delivered without another request.
    Ok(match accounts.cache.invalidate_user(&user_id).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.into_response(),
    })
}

async fn health(State(app): State<App>) -> Json<serde_json::Value> {
    let health = app.cache.health_check().await;
    Json(json!({ "status": "ok", "redis": health.redis.as_str() }))
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    // Samples recorded since the last upkeep are still in separate buckets.
    app.metrics.run_upkeep();
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (content_type, app.metrics.render())
}

/// Returns the routes on which identity providers push their events.
fn hooks(cache: &SessionCache, demo: Option<&Demo>) -> Result<Router<App>, Box<dyn Error>> {
    let mut hooks = Router::new();
    let url = setting("APPWRITE_WEBHOOK_URL", String::new())?;
    let secret = setting("APPWRITE_WEBHOOK_SECRET", String::new())?;
    let webhook = match (url.is_empty(), secret.is_empty()) {
        (false, false) => {
            let webhook = AppwriteWebhook::new(url, secret);
            Some(webhook.map_err(|error| format!("APPWRITE_WEBHOOK_*: {error}"))?)
        }
        (true, true) => demo.map(Demo::webhook).transpose()?,
        _ => {
            let text = "set both APPWRITE_WEBHOOK_URL and APPWRITE_WEBHOOK_SECRET, or neither";
            return Err(text.into());
        }
    };
    if let Some(webhook) = webhook {
        let events = RevocationReceiver::new(cache.clone(), webhook);
        hooks = hooks.route("/hooks/appwrite", post_service(events));
    }
    let secret = setting("WEBHOOK_SECRET", String::new())?;
    if !secret.is_empty() {
        let webhook = StandardWebhook::new(secret, |event| {
            Revoked::user(event["data"]["user_id"].as_str())
        });
        let webhook = webhook.map_err(|error| format!("WEBHOOK_SECRET: {error}"))?;
        let events = RevocationReceiver::new(cache.clone(), webhook);
        hooks = hooks.route("/hooks/standard", post_service(events));
    }
    if let Some(logouts) = back_channel_logout()? {
        let events = RevocationReceiver::new(cache.clone(), logouts);
        hooks = hooks.route("/hooks/backchannel-logout", post_service(events));
    }
    Ok(hooks)
}

/// Returns the source of logout tokens, if an OpenID provider is configured.
fn back_channel_logout() -> Result<Option<BackChannelLogout>, Box<dyn Error>> {
    let issuer = setting("OIDC_ISSUER", String::new())?;
    let client_ids = setting("OIDC_CLIENT_IDS", String::new())?;
    let keys = setting("OIDC_JWKS_URL", String::new())?;
    match (issuer.is_empty(), client_ids.is_empty()) {
        (false, false) => {}
        (true, true) if keys.is_empty() => return Ok(None),
        _ => return Err("set both OIDC_ISSUER and OIDC_CLIENT_IDS, or no setting OIDC_*".into()),
    }
    let mut issuer = EventIssuer::builder(issuer).allow_http();
    if !keys.is_empty() {
        issuer = issuer.jwks_uri(keys);
    }
    let issuer = issuer.build().map_err(|error| format!("OIDC_*: {error}"))?;
    let logouts = BackChannelLogout::new(issuer, client_ids.split(',').map(str::trim));
    Ok(Some(
        logouts.map_err(|error| format!("OIDC_CLIENT_IDS: {error}"))?,
    ))
}

/// Ends the session at the embedded Appwrite as its console would, and sends the webhook.
async fn end_at_appwrite(
    State(demo): State<Demo>,
    session: SessionInfo,
    Extension(user): Extension<UserData>,
) -> Result<StatusCode, Problem> {
    demo.server.revoke(session.token().expose_secret());
    let webhook = demo.webhook().map_err(|_| Problem::unavailable(None))?;
    let event = json!({ "$id": session.session_id(), "userId": user.id() });
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(webhook.signed_request(&event)).await;
    match response {
        Ok(response) if response.status().is_success() => Ok(StatusCode::NO_CONTENT),
        _ => Err(Problem::unavailable(None)),
    }
}

/// Returns the routes of a page for trying the service: three files, which may load only each
/// other, and a button of Appwrite's console.
fn page(demo: Demo, sessions: SessionCacheLayer<ErasedValidator>) -> Router<App> {
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
        .merge(
            Router::new()
                .route("/api/v1/auth/end-at-appwrite", post(end_at_appwrite))
                .route_layer(sessions)
                .with_state(demo),
        )
}

/// Response of a handler that cannot do what was requested.
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
            AppwriteErrorKind::Unauthorized => Self {
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
                tracing::warn!(%error, "Appwrite request failed");
                Self::unavailable(error.retry_after())
            }
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

/// Reads a setting from the environment, or returns its default.
fn setting<T: FromStr>(name: &str, default: T) -> Result<T, Box<dyn Error>> {
    match env::var(name) {
        Err(env::VarError::NotPresent) => Ok(default),
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name} has a value that makes no sense: {text:?}").into()),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

/// Returns the configuration of Redis, if one is set, and the name of its variable for errors.
fn servers() -> Result<Option<(&'static str, RedisConfig)>, Box<dyn Error>> {
    let url = setting("REDIS_URL", String::new())?;
    let sentinels = setting("REDIS_SENTINEL_URLS", String::new())?;
    let name = setting("REDIS_SENTINEL_MASTER", String::new())?;
    let nodes = setting("REDIS_CLUSTER_URLS", String::new())?;
    if sentinels.is_empty() != name.is_empty() {
        return Err("set both REDIS_SENTINEL_URLS and REDIS_SENTINEL_MASTER, or neither".into());
    }
    if !nodes.is_empty() {
        if !url.is_empty() || !sentinels.is_empty() {
            return Err("set REDIS_CLUSTER_URLS, or REDIS_URL and REDIS_SENTINEL_URLS".into());
        }
        let nodes = RedisConfig::cluster(nodes.split(',').map(str::trim));
        return Ok(Some(("REDIS_CLUSTER_URLS", nodes)));
    }
    if !sentinels.is_empty() {
        let mut redis = RedisConfig::sentinel(sentinels.split(',').map(str::trim), name);
        if !url.is_empty() {
            redis = redis.credentials_from(url);
        }
        return Ok(Some(("REDIS_SENTINEL_URLS, REDIS_URL", redis)));
    }
    Ok((!url.is_empty()).then(|| ("REDIS_URL", RedisConfig::single(url))))
}

fn redis(cache: SessionCacheBuilder) -> Result<SessionCacheBuilder, Box<dyn Error>> {
    let timeout = setting("SESSION_CACHE_REDIS_TIMEOUT_MS", 250)?;
    let replicas = setting("REDIS_WAIT_REPLICAS", 0)?;
    let certificates = certificates()?;
    let Some((name, mut redis)) = servers()? else {
        return Ok(cache);
    };
    redis = redis.timeout(Duration::from_millis(timeout));
    if let Some(tls) = certificates {
        redis = redis.tls(tls);
    }
    if replicas > 0 {
        redis = redis.wait_for_replicas(replicas, Duration::from_millis(100));
    }
    cache
        .redis(redis)
        .map_err(|error| format!("{name}: {error}").into())
}

/// Reads the certificate files that the environment variables name.
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

/// Returns the identity provider: a real one, or an embedded Appwrite with a demo user.
async fn provider(address: SocketAddr) -> Result<(Provider, Option<Demo>), Box<dyn Error>> {
    let endpoint = setting("APPWRITE_ENDPOINT", String::new())?;
    let project = setting("APPWRITE_PROJECT_ID", String::new())?;
    match (introspection()?, endpoint.is_empty(), project.is_empty()) {
        (Some(introspection), true, true) => Ok((Provider::Introspection(introspection), None)),
        (Some(_), _, _) => {
            Err("set either INTROSPECTION_ENDPOINT or APPWRITE_ENDPOINT, not both".into())
        }
        (None, false, false) => {
            let appwrite = AppwriteValidator::new(&endpoint, project)?;
            Ok((Provider::Appwrite(appwrite), None))
        }
        (None, true, true) => {
            let demo = appwrite::Appwrite::start().await;
            demo.add_user("demo-user", "demo@example.com", "demo-password");
            let validator = AppwriteValidator::new(demo.endpoint(), demo.project_id())?;
            let secret = demo.recovery_secret("demo-user");
            let demo = Demo {
                address,
                secret,
                server: demo,
            };
            Ok((Provider::Appwrite(validator), Some(demo)))
        }
        _ => Err("set both APPWRITE_ENDPOINT and APPWRITE_PROJECT_ID, or neither".into()),
    }
}

/// Returns the validator for an OAuth 2.0 server, if one is configured.
fn introspection() -> Result<Option<IntrospectionValidator>, Box<dyn Error>> {
    let endpoint = setting("INTROSPECTION_ENDPOINT", String::new())?;
    let id = setting("INTROSPECTION_CLIENT_ID", String::new())?;
    let secret = setting("INTROSPECTION_CLIENT_SECRET", String::new())?;
    let audience = setting("INTROSPECTION_AUDIENCE", String::new())?;
    let issuer = setting("INTROSPECTION_ISSUER", String::new())?;
    let scope = setting("INTROSPECTION_SCOPE", String::new())?;
    let session_id = setting("INTROSPECTION_SESSION_ID_CLAIM", String::new())?;
    if endpoint.is_empty() {
        let is_unused = [id, secret, audience, issuer, scope, session_id]
            .iter()
            .all(String::is_empty);
        return if is_unused {
            Ok(None)
        } else {
            Err("set INTROSPECTION_ENDPOINT as well, or no setting INTROSPECTION_*".into())
        };
    }
    let auth = match (id.is_empty(), secret.is_empty()) {
        (false, false) => IntrospectionAuth::basic(id, secret),
        (true, true) => IntrospectionAuth::none(),
        (true, false) => return Err("set INTROSPECTION_CLIENT_ID as well".into()),
        (false, true) => return Err("set INTROSPECTION_CLIENT_SECRET as well".into()),
    };
    let mut builder = IntrospectionValidator::builder(endpoint, auth).allow_http();
    if !audience.is_empty() {
        builder = builder.audience(audience);
    }
    if !issuer.is_empty() {
        builder = builder.issuer(issuer);
    }
    if !session_id.is_empty() {
        builder = builder.session_id_claim(session_id);
    }
    for scope in scope.split_whitespace() {
        builder = builder.require_scope(scope);
    }
    let introspection = builder.build().map_err(|error| match error {
        IntrospectionConfigError::InvalidScope => format!("INTROSPECTION_SCOPE: {error}"),
        _ => format!("INTROSPECTION_ENDPOINT: {error}"),
    })?;
    Ok(Some(introspection))
}

/// Embedded Appwrite, which runs as long as this value exists.
#[derive(Clone)]
struct Demo {
    /// Address of this service, to which Appwrite sends its webhook.
    address: SocketAddr,
    secret: String,
    server: appwrite::Appwrite,
}

impl Demo {
    /// Returns the webhook that is configured at Appwrite.
    fn webhook(&self) -> Result<AppwriteWebhook, ConfigError> {
        let url = format!("http://{}/hooks/appwrite", self.address);
        AppwriteWebhook::new(url, &self.secret)
    }

    fn lines(&self) -> String {
        let address = self.address;
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

/// How long queued revocations may take to be delivered before the process ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

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

    // Install the recorder before the cache is built, because the cache looks up its metrics once.
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
    cache = redis(cache)?;
    let local = setting("SESSION_CACHE_LOCAL_CAPACITY", 0)?;
    if local > 0 {
        cache = cache.local_cache(LocalCacheConfig::new(local));
    }
    let cache = cache.build()?;
    let address = setting("LISTEN_ADDR", SocketAddr::from(([127, 0, 0, 1], 3000)))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("LISTEN_ADDR={address}: {error}"))?;
    let address = listener.local_addr()?;
    let (provider, demo) = provider(address).await?;
    let hooks = hooks(&cache, demo.as_ref())?;
    let app = App {
        cache,
        provider,
        metrics,
    };
    let mut greeting = format!("listening on http://{address}\n");
    if let Some(demo) = &demo {
        greeting += &demo.lines();
    }
    // A reader that needs only the first line closes the pipe. The server continues in that case.
    let _ = std::io::stdout().write_all(greeting.as_bytes());

    let cache = app.cache.clone();
    axum::serve(listener, router(app, hooks, demo))
        .with_graceful_shutdown(shutdown())
        .await?;
    // A logout that Redis does not have yet would be lost with the process.
    Ok(cache.close(SHUTDOWN_TIMEOUT).await?)
}

/// Waits for Ctrl+C, or for the signal with which container runtimes stop a process.
async fn shutdown() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
