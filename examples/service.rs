//! Service with what is needed around a session: a user type of its own, public paths, roles and
//! scopes, fresh validations, machines and people, a login page, server-sent events that end with
//! their session, metadata for clients of the Model Context Protocol, a logout, and a gRPC method on
//! the same port.
//!
//! `cargo run --example service`

use std::{convert::Infallible, error::Error, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderName, Method, Response, StatusCode, Version, header, request::Builder},
    response::sse::{Event, Sse},
    routing::{delete, get, post},
};
use chrono::{TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tonic::{Status, Streaming};
use tower::ServiceExt;
use tower_session_cache::{
    Challenge, ForbiddenReason, Guard, Permission, Permitted, Rejection, RequestHead, Session,
    SessionCache, SessionCacheLayer, SessionInfo, SessionValidator, TokenSource, UserData,
    ValidatedSession, ValidationError, testing::TestValidator,
};

// The code that tonic's build script generates from a `.proto` file.
#[allow(dead_code, reason = "the example calls no client and one method")]
#[path = "../tests/support/greeter.rs"]
mod greeter;
use greeter::{Greeter, GreeterServer, Replies};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const METADATA: &str = "/.well-known/oauth-protected-resource";

/// The user as this service needs it. It is decoded once for each entry of the cache.
#[derive(Deserialize, Serialize)]
struct Profile {
    tenant: String,
    #[serde(default)]
    roles: Vec<String>,
}

async fn me(profile: Session<Profile>) -> String {
    let (id, tenant, roles) = (profile.user().id(), &profile.tenant, &profile.roles);
    format!("{id} of {tenant} {roles:?}")
}

/// Requirement of a handler, as a type.
struct WriteOrders;

impl Permission for WriteOrders {
    fn guard() -> Guard {
        Guard::scope("orders:write")
    }
}

async fn cancel(user: Permitted<WriteOrders>) -> String {
    format!("cancelled by {}", user.id())
}

/// Sends browsers to the login page, and problem details to other clients.
fn to_login(rejection: &Rejection, head: &RequestHead<'_>) -> Response<Bytes> {
    let accept = head.headers().get(header::ACCEPT);
    let is_page = head.method() == Method::GET
        && accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
    let redirect = Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, "/login");
    match redirect.body(Bytes::new()) {
        Ok(redirect) if is_page && rejection.status() == StatusCode::UNAUTHORIZED => redirect,
        _ => rejection.problem_json(head),
    }
}

struct Polite;

impl Greeter for Polite {
    async fn hello(
        &self,
        request: tonic::Request<String>,
    ) -> Result<tonic::Response<String>, Status> {
        let user = Guard::signed_in().authorize(request.extensions());
        let user = user.map_err(|rejection| {
            Status::new(rejection.grpc_code().into(), rejection.to_string())
        })?;
        Ok(tonic::Response::new(format!("Hello, {}!", user.id())))
    }

    async fn letters(&self, _: tonic::Request<String>) -> Result<tonic::Response<Replies>, Status> {
        Err(Status::unimplemented("see the example `grpc`"))
    }

    async fn chat(
        &self,
        _: tonic::Request<Streaming<String>>,
    ) -> Result<tonic::Response<Replies>, Status> {
        Err(Status::unimplemented("see the example `grpc`"))
    }
}

fn app(
    keys: impl SessionValidator,
    people: impl SessionValidator,
) -> Result<Router, Box<dyn Error>> {
    let cache = SessionCache::builder().build()?;
    // Machines send a key, which no logout revokes, people a token in `Authorization`, and pages
    // one in the query.
    let machines = SessionCacheLayer::new(cache.clone(), keys.keys().decodes::<Profile>())
        .with_token_source(TokenSource::header(API_KEY))
        .optional();
    let in_query =
        TokenSource::query("access_token").only_if(|head| head.uri().path() == "/events");
    let people = SessionCacheLayer::new(cache.clone(), people.decodes::<Profile>())
        .with_token_source(TokenSource::bearer().or(in_query))
        .with_challenge(
            Challenge::new().resource_metadata(format!("https://api.example.com{METADATA}")),
        )
        .with_rejection_response(to_login)
        // One layer covers the whole service, so the public paths are named.
        .exempt(|head| matches!(head.uri().path(), "/livez" | "/login" | METADATA));
    let metadata = Json(json!({
        "resource": "https://api.example.com",
        "authorization_servers": ["https://login.example.com"],
    }));
    // While Redis is unavailable, the response is 202, and the logout is delivered later.
    let log_out = async move |session: SessionInfo| {
        let revocation = cache.log_out(&session).await;
        revocation.map(|_| StatusCode::NO_CONTENT)
    };
    let watched = people.clone();
    let events = async move |session: SessionInfo| {
        let ended = watched.session_ended(&session, Duration::from_secs(30));
        let first = Event::default().data(session.user().id());
        let events = stream::iter([Ok::<_, Infallible>(first)]).chain(stream::pending());
        Sse::new(events.take_until(ended))
    };
    let admins = Guard::role("admin").with_reason(ForbiddenReason::Custom("admins_only"));
    let polite = GreeterServer::new(Polite)
        .map_request(|request: Request| request.map(tonic::body::Body::new));

    // A machine has no session, so these routes are under the people's layer only.
    let of_people = Router::new()
        .route("/logout", post(log_out))
        .route("/events", get(events))
        .layer(people.clone());
    let changed = async || StatusCode::NO_CONTENT;
    let password = Router::new()
        .route("/password", post(changed))
        .layer(people.clone().fresh());
    let minutes = Duration::from_secs(300);
    let account = Router::new()
        .route("/account", delete(changed))
        .layer(people.clone().max_authentication_age(minutes));
    let shared = Router::new()
        .route("/admin", get(async || "secret"))
        .route_layer(admins)
        .route("/me", get(me))
        .route("/cancel", post(cancel))
        .route_service("/demo.Greeter/{*method}", polite)
        .route("/livez", get(async || "ok"))
        .route("/login", get(async || "the provider's page"))
        .route(METADATA, get(async move || metadata.clone()))
        // The layer that is added last runs first.
        .layer(people.trust_outer_user())
        .layer(machines);
    Ok(shared.merge(of_people).merge(password).merge(account))
}

async fn tell(app: &Router, who: &str, request: Builder) -> Result<(), Box<dyn Error>> {
    let request = request.body(Body::from(&b"\0\0\0\0\x02hi"[..]))?;
    let asked = format!("{who}: {} {}", request.method(), request.uri());
    let answer = app.clone().oneshot(request).await?;
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?;
    let in_trailers = body
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status"));
    let status = parts.headers.get("grpc-status").or(in_trailers);
    let status = match status {
        Some(status) => format!("grpc-status {}", status.to_str()?),
        None => parts.status.to_string(),
    };
    let reason = parts.extensions.get().map_or("passed", Rejection::reason);
    println!("{asked}: {status}, {reason}");
    for name in [header::WWW_AUTHENTICATE, header::LOCATION] {
        if let Some(value) = parts.headers.get(&name) {
            println!("    {name}: {}", value.to_str()?);
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Replace with your identity provider: `IntrospectionValidator`, or your own `SessionValidator`.
    let of_acme = |id: &str| UserData::builder(id).attribute("tenant", "acme");
    let ada = of_acme("ada").attribute("scope", "orders:write");
    let ada = ada.attribute("roles", json!(["admin"])).build();
    let bob = ValidatedSession::new(of_acme("bob").build());
    let people = TestValidator::new()
        .with_session(
            "s3cr3t",
            ValidatedSession::new(ada).with_authenticated_at(Utc::now()),
        )
        .with_session(
            "other",
            bob.with_authenticated_at(Utc::now() - TimeDelta::hours(1)),
        );
    let keys = TestValidator::new().with_session("key-7", of_acme("machine-7").build());
    let app = app(keys, people.clone())?;

    let get = |path: &str| Request::get(path);
    let ada = (header::AUTHORIZATION, "Bearer s3cr3t");
    let bob = (header::AUTHORIZATION, "Bearer other");
    let with = |request: Builder, (name, value): (HeaderName, &str)| request.header(name, value);
    for path in ["/livez", METADATA] {
        tell(&app, "a probe", get(path)).await?;
    }
    tell(&app, "a stranger", get("/me")).await?;
    tell(
        &app,
        "a browser",
        with(get("/me"), (header::ACCEPT, "text/html")),
    )
    .await?;
    tell(&app, "a machine", with(get("/me"), (API_KEY, "key-7"))).await?;
    tell(&app, "a wrong key", with(get("/me"), (API_KEY, "key-8"))).await?;
    for (name, user) in [("ada", &ada), ("bob", &bob)] {
        tell(&app, name, with(get("/admin"), user.clone())).await?;
        tell(&app, name, with(Request::post("/cancel"), user.clone())).await?;
    }
    for (name, user) in [("ada", &ada), ("bob", &bob)] {
        tell(&app, name, with(Request::delete("/account"), user.clone())).await?;
    }
    tell(&app, "bob", with(Request::post("/password"), bob.clone())).await?;
    // Bob's session ends at the provider. His next change of the password notices it.
    people.set("other", Err(ValidationError::invalid()));
    tell(&app, "bob", with(Request::post("/password"), bob)).await?;
    let call = || {
        Request::post("/demo.Greeter/Hello")
            .version(Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
    };
    tell(&app, "ada", with(call(), ada.clone())).await?;
    tell(&app, "a stranger", call()).await?;
    let page = get("/events?access_token=s3cr3t").body(Body::empty())?;
    let mut page = app.clone().oneshot(page).await?.into_body();
    let first = page.frame().await.ok_or("no event")??;
    println!("a page: {:?}", first.into_data().map_err(|_| "no data")?);
    tell(&app, "ada", with(Request::post("/logout"), ada.clone())).await?;
    println!("a page: {:?} to the end", page.collect().await?.to_bytes());
    tell(&app, "ada", with(get("/me"), ada)).await?;
    Ok(())
}
