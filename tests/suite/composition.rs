//! The layer combined with other layers: the effect of each order, and ways to add it to an
//! application.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Method, Response, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::{
    compression::CompressionLayer,
    cors::{Any, CorsLayer},
    decompression::DecompressionLayer,
    timeout::TimeoutLayer,
    trace::{DefaultMakeSpan, TraceLayer},
};
use tower_session_cache::{
    Rejection, SessionCache, SessionCacheLayer, SessionInfo, UserData, ValidationError,
    testing::TestValidator,
};
use tracing::Level;

use crate::support::{
    log::record,
    probe::{Probe, session},
    soon,
    wire::layer,
};

async fn who(user: Option<UserData>) -> String {
    user.map_or("-".to_owned(), |user| user.id().to_owned())
}

fn routes() -> Router {
    Router::new().route("/", get(who))
}

fn request(path: &str, token: Option<&str>) -> Request {
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Body::empty()).unwrap()
}

async fn call(app: &Router, path: &str, token: Option<&str>) -> Response<Body> {
    let answer = app.clone().oneshot(request(path, token));
    soon("a response", answer).await.unwrap()
}

async fn status(app: &Router, path: &str, token: Option<&str>) -> StatusCode {
    call(app, path, token).await.status()
}

async fn text<B: http_body::Body<Error: std::fmt::Debug>>(response: Response<B>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn outer_trace_layer_sees_rejections_and_reasons() {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let sees = Arc::clone(&seen);
    let trace = TraceLayer::new_for_http().on_response(
        move |response: &Response<_>, _: Duration, _: &tracing::Span| {
            let rejection = response.extensions().get::<Rejection>();
            let reason = rejection.map(Rejection::reason);
            sees.lock().unwrap().push((response.status(), reason));
        },
    );
    let app = routes().layer(layer()).layer(trace);
    for token in [Some("good"), Some("invalid"), None] {
        let _ = call(&app, "/", token).await;
    }
    let expected = [
        (StatusCode::OK, None),
        (StatusCode::UNAUTHORIZED, Some("invalid_token")),
        (StatusCode::UNAUTHORIZED, Some("missing_token")),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn inner_trace_layer_sees_the_user_but_not_the_token() {
    let log = record();
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let sees = Arc::clone(&seen);
    let trace = TraceLayer::new_for_http().make_span_with(move |request: &Request| {
        let user = request.extensions().get::<UserData>().unwrap();
        sees.lock().unwrap().push(user.id().to_owned());
        tracing::info_span!("request", user = user.id(), headers = ?request.headers())
    });
    let app = routes().layer(trace).layer(layer());
    for token in [Some("good"), Some("invalid"), None] {
        let _ = call(&app, "/", token).await;
    }
    assert_eq!(
        *seen.lock().unwrap(),
        ["ada"],
        "rejected requests are not seen"
    );

    // This one logs all headers. Inside the layer the header of the token is marked as sensitive.
    let trace = || {
        let span = DefaultMakeSpan::new().level(Level::INFO);
        TraceLayer::new_for_http().make_span_with(span.include_headers(true))
    };
    let app = routes().layer(trace()).layer(layer());
    assert_eq!(status(&app, "/", Some("good")).await, 200);
    assert!(log.text().contains(r#""authorization": Sensitive"#));
    assert!(!log.text().contains("Bearer good"));
    // Outside of the layer the token is logged, as the documentation warns.
    let app = routes().layer(layer()).layer(trace());
    assert_eq!(status(&app, "/", Some("good")).await, 200);
    assert!(log.text().contains("Bearer good"));
}

fn preflight() -> Request {
    Request::builder()
        .method(Method::OPTIONS)
        .uri("/")
        .header(header::ORIGIN, "https://app.example.com")
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "GET")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization")
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn outer_cors_layer_answers_preflight_without_a_session() {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_headers([header::AUTHORIZATION]);
    let app = routes().layer(layer()).layer(cors.clone());
    let answer = app.clone().oneshot(preflight()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let allowed = &answer.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS];
    assert_eq!(allowed, "authorization");
    // A web page may read the reason of a rejection.
    let answer = call(&app, "/", None).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");

    // In the wrong order the preflight is rejected; only `optional` lets it pass.
    let app = routes().layer(cors.clone()).layer(layer());
    let answer = app.oneshot(preflight()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let origin = header::ACCESS_CONTROL_ALLOW_ORIGIN;
    assert!(!answer.headers().contains_key(&origin));
    let app = routes().layer(cors).layer(layer().optional());
    let answer = app.oneshot(preflight()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[origin], "*");
}

#[tokio::test(start_paused = true)]
async fn only_an_outer_timeout_includes_the_validation() {
    let second =
        TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1));
    let provider = TestValidator::new().with_session("good", session("ada"));
    let sessions = |cache| SessionCacheLayer::new(cache, provider.clone());
    let app = Router::new()
        .route("/", get(who))
        .route("/slow", get(std::future::pending::<()>));

    provider.delay(Duration::from_millis(1_500));
    let cache = SessionCache::default();
    let outside = app.clone().layer(sessions(cache.clone())).layer(second);
    assert_eq!(status(&outside, "/", Some("good")).await, 504);
    // The validation continued without the request, and the next request uses its result.
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(cache.stats().fills, 1);
    assert_eq!(status(&outside, "/", Some("good")).await, 200);
    assert_eq!(status(&outside, "/slow", Some("good")).await, 504);
    assert_eq!(provider.calls(), 1);

    let inside = app.layer(second).layer(sessions(SessionCache::default()));
    assert_eq!(status(&inside, "/", Some("good")).await, 200);
    assert_eq!(status(&inside, "/slow", Some("good")).await, 504);
    assert_eq!(provider.calls(), 2);
}

#[tokio::test]
async fn only_outer_compression_applies_to_rejections() {
    let sessions = layer().with_rejection_response(Rejection::problem_json);
    let long = "Ada ".repeat(1_000);
    let body = long.clone();
    let app = Router::new().route("/", get(async move || body.clone()));
    let outside = app
        .clone()
        .layer(sessions.clone())
        .layer(CompressionLayer::new());
    let inside = app.layer(CompressionLayer::new()).layer(sessions);
    for (app, refusal_is_compressed) in [(outside, true), (inside, false)] {
        for token in [Some("good"), None] {
            let mut request = request("/", token);
            let gzip = "gzip".parse().unwrap();
            request.headers_mut().insert(header::ACCEPT_ENCODING, gzip);
            let answer = app.clone().oneshot(request).await.unwrap();
            let encoded = answer.headers().contains_key(header::CONTENT_ENCODING);
            assert_eq!(encoded, token.is_some() || refusal_is_compressed);

            // A client that decompresses receives the same text.
            let client = DecompressionLayer::new().layer(app.clone());
            let request = self::request("/", token);
            let answer = client.oneshot(request).await.unwrap();
            let text = answer.into_body().collect().await.unwrap().to_bytes();
            match token {
                Some(_) => assert_eq!(text, long),
                None => assert!(text.starts_with(b"{") && text.ends_with(b"}")),
            }
        }
    }
}

#[tokio::test]
async fn user_of_a_trusted_outer_layer_is_kept() {
    async fn certificate(mut request: Request, next: Next) -> Response<Body> {
        if let Some(name) = request.headers().get("x-client-certificate") {
            let user = UserData::new(name.to_str().unwrap());
            request.extensions_mut().insert(user);
        }
        next.run(request).await
    }
    let app = routes()
        .route("/session", get(async |_: SessionInfo| ()))
        .layer(layer().trust_outer_user())
        .layer(middleware::from_fn(certificate));
    // The token is not read, even if it would be rejected or is malformed.
    for token in [None, Some("good"), Some("invalid"), Some("a,b")] {
        let mut request = request("/", token);
        let name = "machine-7".parse().unwrap();
        request.headers_mut().insert("x-client-certificate", name);
        let answer = app.clone().oneshot(request).await.unwrap();
        assert_eq!(text(answer).await, "machine-7");
    }
    assert_eq!(text(call(&app, "/", Some("good")).await).await, "ada");
    assert_eq!(status(&app, "/", None).await, 401);
    assert_eq!(status(&app, "/session", Some("good")).await, 200);
}

#[tokio::test]
async fn inner_layer_can_decide_by_the_user() {
    async fn paying_only(user: UserData, request: Request, next: Next) -> Response<Body> {
        if user.tier() == "free" {
            return StatusCode::PAYMENT_REQUIRED.into_response();
        }
        next.run(request).await
    }
    let provider = TestValidator::new()
        .with_session("ada", UserData::builder("ada").tier("pro").build())
        .with_session("bob", UserData::new("bob"));
    let app = routes()
        .layer(middleware::from_fn(paying_only))
        .layer(SessionCacheLayer::new(SessionCache::default(), provider));
    assert_eq!(text(call(&app, "/", Some("ada")).await).await, "ada");
    assert_eq!(status(&app, "/", Some("bob")).await, 402);
    assert_eq!(status(&app, "/", None).await, 401);
}

#[tokio::test]
async fn two_optional_layers_and_a_guard_accept_machines_and_people() {
    let machines = Probe::answering(|token| match token {
        "machine" => Ok(session("machine-7")),
        "expired" => Err(ValidationError::invalid()),
        "keys-are-gone" => Err(ValidationError::unavailable("no keys")),
        _ => Err(ValidationError::invalid()),
    });
    let people = Probe::answering(|token| match token {
        "person" | "keys-are-gone" => Ok(session("ada")),
        _ => Err(ValidationError::invalid()),
    });
    let cache = SessionCache::builder().build().unwrap();
    let of = |probe: &Probe, name| {
        SessionCacheLayer::new(cache.clone(), probe.clone())
            .with_namespace(name)
            .optional()
            .trust_outer_user()
    };
    let app = routes()
        // The guard is innermost: by then every user that can be identified is.
        .layer(middleware::from_extractor::<UserData>())
        .layer(of(&people, "people"))
        .layer(of(&machines, "machines"))
        .route("/public", get(who));
    for _ in 0..2 {
        let answer = call(&app, "/", Some("machine")).await;
        assert_eq!(text(answer).await, "machine-7");
        assert_eq!(text(call(&app, "/", Some("person")).await).await, "ada");
        for (token, challenge) in [
            (None, "Bearer"),
            (Some("expired"), r#"Bearer error="invalid_token""#),
        ] {
            let refused = call(&app, "/", token).await;
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], challenge);
        }
    }
    // Each token was validated once by each layer that saw it. A token that the first layer
    // accepted never reached the second.
    assert_eq!((machines.calls(), people.calls()), (3, 2));
    // A token is not passed to the second layer while the first cannot validate it.
    assert_eq!(status(&app, "/", Some("keys-are-gone")).await, 503);
    assert_eq!(people.calls(), 2);
    assert_eq!(
        status(&app, "/public", None).await,
        500,
        "the route was added outside of the layers"
    );
}

#[tokio::test]
async fn layer_works_in_a_service_builder_and_a_boxed_service() {
    type Boxed = BoxCloneSyncService<http::Request<()>, Response<Full<Bytes>>, BoxError>;
    let who = service_fn(async |request: http::Request<()>| {
        let user = request.extensions().get::<UserData>();
        let id = user.map_or("-", UserData::id).to_owned();
        Ok::<_, Infallible>(Response::new(Full::from(id)))
    });
    let inner: Boxed = BoxCloneSyncService::new(who.map_err(BoxError::from));
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(60))
        .concurrency_limit(8)
        .layer(layer())
        .service(inner);
    let boxed = BoxCloneSyncService::new(service);
    for (token, status, body) in [
        ("good", 200, "ada"),
        ("good", 200, "ada"),
        ("down", 503, ""),
    ] {
        let request = http::Request::builder()
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(())
            .unwrap();
        let answer = boxed.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(text(answer).await, body);
    }
}

#[tokio::test]
async fn nested_routers_and_route_layers_protect_their_routes() {
    let guarded = || Router::new().route("/me", get(who));
    let app = Router::new()
        .nest("/layer", guarded().layer(layer()))
        .nest("/route-layer", guarded().route_layer(layer()))
        .nest("/optional", guarded().layer(layer().optional()))
        .route("/health", get(async || "up"));
    for prefix in ["/layer", "/route-layer"] {
        let me = format!("{prefix}/me");
        assert_eq!(text(call(&app, &me, Some("good")).await).await, "ada");
        assert_eq!(status(&app, &me, None).await, 401);
    }
    assert_eq!(text(call(&app, "/optional/me", None).await).await, "-");
    assert_eq!(status(&app, "/health", None).await, 200);
    // The router answers paths that do not exist, except where `layer` is around the outermost one.
    for prefix in ["/layer", "/route-layer"] {
        assert_eq!(status(&app, &format!("{prefix}/nothing"), None).await, 404);
    }
    assert_eq!(
        status(&guarded().layer(layer()), "/nothing", None).await,
        401
    );
    let route_layer = guarded().route_layer(layer());
    assert_eq!(status(&route_layer, "/nothing", None).await, 404);

    // The layer is around everything and once more inside. The inner one does no lookup.
    let probe = Probe::new();
    let cache = SessionCache::builder().build().unwrap();
    let sessions = SessionCacheLayer::new(cache.clone(), probe.clone());
    let inner = guarded().route_layer(sessions.clone());
    let app = Router::new().nest("/api", inner).layer(sessions);
    assert_eq!(text(call(&app, "/api/me", Some("t")).await).await, "ada");
    assert_eq!((probe.calls(), cache.stats().misses), (1, 1));
}
