//! Guards on any stack: as a layer, as an argument of axum's handlers, and in tonic.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use futures_util::stream;
use http::{HeaderName, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use tonic::{
    Code, Status, Streaming,
    service::LayerExt,
    transport::{Server, server::TcpIncoming},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_session_cache::{
    Challenge, ForbiddenReason, Guard, Permission, Permitted, Rejection, SessionCache,
    SessionCacheLayer, TokenSource, UserData, ValidationError,
};

use crate::support::{
    greeter::{Greeter, GreeterClient, GreeterServer, HealthServer, Replies},
    log::record,
    probe::Probe,
    soon,
};

fn user(id: &str) -> UserData {
    let user = UserData::builder(id);
    match id {
        "admin" => user.attribute("roles", serde_json::json!(["admin", "staff"])),
        "clerk" => user.attribute("scope", "orders:read orders:write"),
        "tenant" => user.attribute("org", serde_json::json!({ "name": "acme", "ids": [1, 7] })),
        "owner" => user.tier("owner"),
        _ => user,
    }
    .build()
}

/// A token is the name of its user.
fn sessions() -> SessionCacheLayer<Probe> {
    sessions_in(SessionCache::builder().build().unwrap())
}

fn sessions_in(cache: SessionCache) -> SessionCacheLayer<Probe> {
    let probe = Probe::answering(|token| match token {
        "stale" => Err(ValidationError::invalid()),
        "blocked" => Err(ValidationError::forbidden(ForbiddenReason::Blocked)),
        name => Ok(user(name).into()),
    });
    SessionCacheLayer::new(cache, probe)
}

const ORDERS: &str = r#"Bearer error="insufficient_scope", scope="orders:write""#;

#[test]
fn guard_decides_by_tier_scope_and_attributes() {
    let other = Err(ForbiddenReason::Other);
    let scope = Err(ForbiddenReason::InsufficientScope);
    let named = ForbiddenReason::Custom("staff_only");
    let write = || Guard::scope("orders:write");
    let admin = || Guard::role("admin");
    for (guard, id, expected) in [
        (Guard::signed_in(), "ada", Ok(())),
        (admin(), "admin", Ok(())),
        (Guard::role("staff"), "admin", Ok(())),
        (admin(), "ada", other),
        (Guard::role("owner"), "owner", Ok(())),
        (Guard::role("free"), "ada", Ok(())),
        (write(), "clerk", Ok(())),
        (Guard::scope("orders:write orders:read"), "clerk", Ok(())),
        (Guard::scope("orders:write orders"), "clerk", scope),
        (Guard::scope("orders"), "clerk", scope),
        (write(), "ada", scope),
        (Guard::attribute("org.name", "acme"), "tenant", Ok(())),
        (Guard::attribute("org.ids", 7), "tenant", Ok(())),
        (Guard::attribute("org.ids", 8), "tenant", other),
        (Guard::attribute("org.name.first", "acme"), "tenant", other),
        (Guard::attribute("org", "acme"), "ada", other),
        (Guard::new(|user| user.id() == "ada"), "ada", Ok(())),
        (admin().and(write()), "admin", scope),
        (admin().and(write()), "clerk", other),
        (admin().or(write()), "clerk", Ok(())),
        (admin().or(write()), "ada", other),
        (write().or(admin()), "ada", scope),
        (admin().with_reason(named), "ada", Err(named)),
        (admin().or(write()).with_reason(named), "ada", Err(named)),
        (admin().only_if(|_| false), "ada", other),
    ] {
        assert_eq!(guard.check(&user(id)), expected, "{guard:?} {id}");
    }
}

#[test]
fn debug_of_a_guard_shows_no_attribute_value() {
    let guard = Guard::attribute("key", "s3cr3t").or(Guard::role("admin"));
    let shown = format!("{guard:?}");
    assert!(shown.contains("key") && shown.contains("admin") && !shown.contains("s3cr3t"));
}

struct Answer {
    status: StatusCode,
    challenge: Option<String>,
    reason: Option<&'static str>,
    body: String,
}

async fn call(app: &Router, path: &str, headers: &[(HeaderName, &str)]) -> Answer {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let challenge = response.headers().get(header::WWW_AUTHENTICATE);
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
    let reason = response.extensions().get().map(Rejection::reason);
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answer {
        status,
        challenge,
        reason,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

struct WriteOrders;

impl Permission for WriteOrders {
    fn guard() -> Guard {
        Guard::scope("orders:write").or(Guard::role("admin"))
    }
}

fn routes() -> Router {
    Router::new()
        .route("/layer", get(async || "passed"))
        .route_layer(WriteOrders::guard())
        .route(
            "/argument",
            get(async |user: Permitted<WriteOrders>| user.id().replace("admin", "passed")),
        )
}

#[tokio::test]
async fn layer_and_argument_reject_alike() {
    let source = TokenSource::bearer().or(TokenSource::cookie("s"));
    let app = routes().layer(sessions().with_token_source(source).optional());
    let bearer = |value| vec![(header::AUTHORIZATION, value)];
    for path in ["/layer", "/argument"] {
        for (headers, status, reason, challenge) in [
            (bearer("Bearer admin"), 200, None, None),
            (
                bearer("Bearer ada"),
                403,
                Some("insufficient_scope"),
                Some(ORDERS),
            ),
            (
                vec![(header::COOKIE, "s=ada")],
                403,
                Some("insufficient_scope"),
                None,
            ),
            (vec![], 401, Some("missing_token"), Some("Bearer")),
            (
                bearer("Bearer stale"),
                401,
                Some("invalid_token"),
                Some(r#"Bearer error="invalid_token""#),
            ),
            (bearer("Bearer blocked"), 403, Some("user_blocked"), None),
        ] {
            let answer = call(&app, path, &headers).await;
            assert_eq!(answer.status, status, "{path} {headers:?}");
            assert_eq!(answer.reason, reason, "{path} {headers:?}");
            assert_eq!(answer.challenge.as_deref(), challenge, "{path} {headers:?}");
            let body = if status == 200 { "passed" } else { "" };
            assert_eq!(answer.body, body, "{path} {headers:?}");
        }
    }
}

#[tokio::test]
async fn hook_and_challenge_of_the_layer_apply_to_guards_and_extractors() {
    let sessions = sessions()
        .optional()
        .with_challenge(Challenge::new().realm("shop").scope("all"))
        .with_rejection_response(|rejection, head| {
            let mut response = rejection.response(head);
            *response.body_mut() = format!("{} {}", head.uri(), rejection.reason()).into();
            response
        });
    let app = routes()
        .route("/user", get(async |user: UserData| user.id().to_owned()))
        .layer(sessions);
    let ada = [(header::AUTHORIZATION, "Bearer ada")];
    for path in ["/layer", "/argument"] {
        let answer = call(&app, path, &ada).await;
        assert_eq!(answer.status, 403);
        assert_eq!(answer.body, format!("{path} insufficient_scope"));
        assert_eq!(
            answer.challenge.as_deref(),
            Some(r#"Bearer realm="shop", error="insufficient_scope", scope="orders:write""#)
        );
    }
    for path in ["/layer", "/argument", "/user"] {
        let answer = call(&app, path, &[]).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.body, format!("{path} missing_token"));
        let challenge = Some(r#"Bearer realm="shop", scope="all""#);
        assert_eq!(answer.challenge.as_deref(), challenge);
    }
}

#[tokio::test]
async fn guard_obeys_http_only_of_the_layer() {
    let call = || {
        let call = Request::post("/layer").version(Version::HTTP_2);
        let call = call.header(header::CONTENT_TYPE, "application/grpc");
        call.header(header::AUTHORIZATION, "Bearer ada")
            .body(Body::empty())
            .unwrap()
    };
    let app = Router::new()
        .route("/layer", post(async || "passed"))
        .route_layer(WriteOrders::guard());
    for (layer, status, grpc_status) in [
        (sessions(), StatusCode::OK, Some("7")),
        (sessions().http_only(), StatusCode::FORBIDDEN, None),
    ] {
        let app = app.clone().layer(layer);
        let response = app.oneshot(call()).await.unwrap();
        assert_eq!(response.status(), status);
        let found = response.headers().get("grpc-status");
        assert_eq!(found.map(|value| value.to_str().unwrap()), grpc_status);
    }
}

#[tokio::test]
async fn guard_without_a_session_layer_rejects_and_logs_the_fix() {
    let log = record();
    let answer = call(&routes(), "/layer", &[]).await;
    assert_eq!(answer.status, 401);
    assert!(log.text().contains("guard found no session layer"));
    assert!(log.text().contains("inside of `SessionCacheLayer`"));
}

#[tokio::test]
async fn guard_with_a_condition_passes_other_requests_without_a_user() {
    let guard = Guard::signed_in().only_if(|head| head.uri().path() != "/open");
    let both = Guard::role("admin")
        .only_if(|head| head.uri().path() == "/admin")
        .and(guard);
    let inner =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let service = sessions().optional().layer(both.layer(inner));
    for (path, token, status) in [
        ("/open", None, 200),
        ("/open", Some("stale"), 200),
        ("/mine", None, 401),
        ("/mine", Some("ada"), 200),
        ("/admin", None, 401),
        ("/admin", Some("ada"), 403),
        ("/admin", Some("admin"), 200),
    ] {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path} {token:?}");
    }
}

struct Who(SessionCache);

fn status(rejection: Rejection) -> Status {
    Status::new(rejection.grpc_code().into(), rejection.to_string())
}

impl Greeter for Who {
    async fn hello(
        &self,
        request: tonic::Request<String>,
    ) -> Result<tonic::Response<String>, Status> {
        let user = Guard::signed_in().authorize(request.extensions());
        Ok(tonic::Response::new(user.map_err(status)?.id().to_owned()))
    }

    async fn letters(
        &self,
        request: tonic::Request<String>,
    ) -> Result<tonic::Response<Replies>, Status> {
        let guard = Guard::role("admin");
        guard.authorize(request.extensions()).map_err(status)?;
        Ok(tonic::Response::new(Box::pin(stream::empty())))
    }

    async fn chat(
        &self,
        _: tonic::Request<Streaming<String>>,
    ) -> Result<tonic::Response<Replies>, Status> {
        Ok(tonic::Response::new(Box::pin(stream::empty())))
    }

    async fn log_out(
        &self,
        request: tonic::Request<String>,
    ) -> Result<tonic::Response<String>, Status> {
        let user = request.extensions().get::<UserData>().unwrap();
        let session = user.session().unwrap();
        let _ = self.0.log_out(session).await.unwrap();
        Ok(tonic::Response::new(String::new()))
    }
}

/// The health service is exempt, and `Chat` needs a scope.
async fn serve() -> SocketAddr {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = incoming.local_addr().unwrap();
    let cache = SessionCache::builder().build().unwrap();
    let sessions = sessions_in(cache.clone())
        .exempt(|head| head.uri().path().starts_with("/grpc.health.v1.Health/"));
    let chat = Guard::scope("orders:write").only_if(|head| head.uri().path().ends_with("/Chat"));
    let server = Server::builder()
        .layer(sessions)
        .add_service(HealthServer)
        .add_service(chat.named_layer(GreeterServer::new(Who(cache))));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

fn with_token<T>(message: T, token: Option<&str>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

#[tokio::test]
async fn grpc_call_without_permission_gets_permission_denied() {
    let address = serve().await;
    let connect = GreeterClient::connect(address);
    let mut client = soon("a connection", connect).await.unwrap();
    let hello = client.hello(with_token(String::new(), Some("ada"))).await;
    assert_eq!(hello.unwrap().into_inner(), "ada");
    let hello = client.hello(with_token(String::new(), None)).await;
    assert_eq!(hello.unwrap_err().code(), Code::Unauthenticated);
    for (token, expected) in [("ada", Some(Code::PermissionDenied)), ("admin", None)] {
        let letters = client.letters(with_token(String::new(), Some(token))).await;
        assert_eq!(letters.err().map(|status| status.code()), expected);
    }
    for (token, expected) in [("ada", Some(Code::PermissionDenied)), ("clerk", None)] {
        let chat = client.chat(with_token(stream::empty(), Some(token))).await;
        assert_eq!(chat.err().map(|status| status.code()), expected);
    }
}

#[tokio::test]
async fn exempt_grpc_method_is_served_without_a_token() {
    let connect = GreeterClient::connect(serve().await);
    let mut client = soon("a connection", connect).await.unwrap();
    let health = soon("a response", client.health()).await.unwrap();
    assert_eq!(health.get_ref(), "SERVING");
}

#[tokio::test]
async fn grpc_logout_ends_the_session() {
    let connect = GreeterClient::connect(serve().await);
    let mut client = soon("a connection", connect).await.unwrap();
    for (token, code) in [(Some("ada"), None), (None, Some(Code::Unauthenticated))] {
        let logout = client.log_out(with_token(String::new(), token)).await;
        assert_eq!(logout.err().map(|status| status.code()), code);
    }
    let hello = client.hello(with_token(String::new(), Some("ada"))).await;
    assert_eq!(hello.unwrap_err().code(), Code::Unauthenticated);
}
