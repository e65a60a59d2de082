//! The extractors and responses of the feature `axum`, and the layer in axum's own server.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_session_cache::{
    ExtractError, ForbiddenReason, RedisConfig, RevokeErrorKind, Session, SessionCache,
    SessionCacheLayer, SessionInfo, SessionValidator, UserData, ValidationError,
    testing::session_info, validator_fn,
};

use crate::support::{
    client::token,
    log::record,
    probe::{Probe, session},
    redis::{Redis, free_port},
    until,
    wire::{self, Version, the_cases},
};

fn layer() -> SessionCacheLayer<Probe> {
    let probe = Probe::answering(|token| match token {
        "blocked" => Err(ValidationError::forbidden(ForbiddenReason::Blocked)),
        "invalid" => Err(ValidationError::invalid()),
        _ => Ok(session("ada")),
    });
    SessionCacheLayer::new(SessionCache::builder().build().unwrap(), probe)
}

fn routes() -> Router {
    Router::new()
        .route("/user", get(async |user: UserData| user.id().to_owned()))
        .route(
            "/session",
            get(async |info: SessionInfo| info.origin().as_str()),
        )
        .route(
            "/perhaps",
            get(async |user: Option<UserData>| format!("{user:?}")),
        )
        .route(
            "/both",
            get(async |_: UserData, info: Option<SessionInfo>| format!("{}", info.is_some())),
        )
        .route(
            "/profile",
            get(async |profile: Session<Profile>| {
                let session = profile.info().map(|session| session.origin().as_str());
                format!("{} of {} {session:?}", profile.user().id(), profile.tenant)
            }),
        )
        .route(
            "/perhaps-profile",
            get(async |profile: Option<Session<Profile>>| format!("{}", profile.is_some())),
        )
}

#[derive(Deserialize)]
struct Profile {
    tenant: String,
}

async fn call(app: &Router, path: &str, token: Option<&str>) -> Response<Body> {
    let mut request = Request::builder().uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    app.clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn extractors_provide_user_and_session() {
    let app = routes().layer(layer());
    assert_eq!(text(call(&app, "/user", Some("t")).await).await, "ada");
    assert_eq!(text(call(&app, "/session", Some("t")).await).await, "local");
    assert!(
        text(call(&app, "/perhaps", Some("t")).await)
            .await
            .contains("Some")
    );
    assert_eq!(text(call(&app, "/both", Some("t")).await).await, "true");
}

#[tokio::test]
async fn session_extractor_provides_the_user_as_a_type_of_the_application() {
    let profile = validator_fn("people", |token| async move {
        let user = UserData::builder("ada");
        Ok(match token.expose_secret() {
            "t" => user.attribute("tenant", "acme").build(),
            _ => user.build(),
        })
    });
    let app = routes().layer(SessionCacheLayer::new(SessionCache::default(), profile).optional());
    for _ in 0..2 {
        let served = text(call(&app, "/profile", Some("t")).await).await;
        assert!(served.starts_with("ada of acme Some("), "{served}");
    }
    assert_eq!(
        text(call(&app, "/perhaps-profile", Some("t")).await).await,
        "true"
    );
    let stranger = call(&app, "/profile", None).await;
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        text(call(&app, "/perhaps-profile", None).await).await,
        "false"
    );
    // The validator sets no tenant, which only a change of the program can repair.
    let log = record();
    for path in ["/profile", "/perhaps-profile"] {
        let refused = call(&app, path, Some("other")).await;
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(log.text().matches("`tenant` is missing").count(), 2);
}

#[tokio::test]
async fn extractor_rejects_with_the_reason_of_the_optional_layer() {
    let app = routes().layer(layer().optional());
    for (token, status, challenge) in [
        (None, 401, Some("Bearer")),
        (
            Some("invalid"),
            401,
            Some(r#"Bearer error="invalid_token""#),
        ),
        (Some("blocked"), 403, None),
    ] {
        for path in ["/user", "/session"] {
            let refused = call(&app, path, token).await;
            assert_eq!(refused.status(), status);
            let found = refused.headers().get(header::WWW_AUTHENTICATE);
            assert_eq!(found.map(|value| value.to_str().unwrap()), challenge);
        }
        assert_eq!(text(call(&app, "/perhaps", token).await).await, "None");
    }
}

#[tokio::test]
async fn extractor_without_the_layer_returns_500_and_logs_the_fix() {
    let log = record();
    for path in ["/user", "/session", "/perhaps"] {
        let refused = call(&routes(), path, Some("t")).await;
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(text(refused).await, "");
    }
    assert_eq!(
        log.text()
            .matches("SessionCacheLayer::new(cache, validator)")
            .count(),
        3
    );
    assert!(ExtractError::MissingLayer.to_string().contains(".layer("));
}

#[tokio::test]
async fn user_of_an_outer_layer_has_no_session_info() {
    let app = routes()
        .layer(layer().trust_outer_user())
        .layer(axum::Extension(UserData::new("machine")));
    assert_eq!(text(call(&app, "/user", None).await).await, "machine");
    assert_eq!(text(call(&app, "/both", None).await).await, "false");
    assert_eq!(
        call(&app, "/session", None).await.status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn queued_revocation_becomes_202_and_one_that_is_not_queued_503() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let cache = SessionCache::builder().redis(url).unwrap().build().unwrap();
    for (n, expected) in [(0, 202), (10_000, 503)] {
        // A full queue delivers nothing more.
        for user in 0..n {
            let _ = cache.invalidate_user(&user.to_string()).now_or_never();
        }
        let queued = u64::try_from(n).unwrap();
        until("the queue to be full", || {
            cache.stats().queued_revocations >= queued
        })
        .await;
        let error = cache.revoke_token(&token("t")).await.unwrap_err();
        let is_queued = error.kind() == RevokeErrorKind::Queued;
        assert_eq!(is_queued, expected == 202, "{error}");
        let response = error.into_response();
        assert_eq!(response.status().as_u16(), expected);
        let headers = response.headers();
        assert_eq!(headers.contains_key(header::RETRY_AFTER), !is_queued);
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    }
}

/// People and machines in one service, whose logout route a machine calls.
#[tokio::test]
async fn logout_of_a_key_is_refused_and_touches_nothing() {
    let redis = Redis::start();
    let config = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    for builder in [
        SessionCache::builder(),
        SessionCache::builder().redis(config).unwrap(),
    ] {
        let cache = builder.build().unwrap();
        let machines = Probe::answering(|_| Ok(session("robot").with_session_id("key-1")));
        let people = Probe::new().or_if("machines", machines.clone().keys(), |token| {
            token.expose_secret().starts_with("key_")
        });
        let handle = cache.clone();
        let logout = async move |session: SessionInfo| match handle.log_out(&session).await {
            Ok(_) => StatusCode::NO_CONTENT.into_response(),
            Err(error) => error.into_response(),
        };
        let app = Router::new()
            .route("/logout", get(logout))
            .merge(routes())
            .layer(SessionCacheLayer::new(cache.clone(), people));
        // From the validator, and from the cache.
        for _ in 0..3 {
            let refused = call(&app, "/logout", Some("key_1")).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN);
            assert_eq!(
                text(call(&app, "/user", Some("key_1")).await).await,
                "robot"
            );
        }
        assert_eq!(machines.calls(), 1);
        let keys = redis.keys();
        let revoked = |key: &String| key.contains("tomb") || key.contains("ended");
        assert!(!keys.iter().any(revoked), "{keys:?}");
        let logged_out = call(&app, "/logout", Some("t")).await;
        assert_eq!(logged_out.status(), StatusCode::NO_CONTENT);
        assert_eq!(call(&app, "/user", Some("t")).await.status(), 401);
        // All variants refuse it.
        let info = session_info("key_1", session("robot").as_key()).unwrap();
        for refused in [
            cache.log_out_confirmed(&info).await,
            cache.log_out_everywhere(&info).await,
            cache.log_out_elsewhere(&info).await,
        ] {
            assert_eq!(refused.unwrap_err().kind(), RevokeErrorKind::NotASession);
        }
        let _ = cache.revoke_token(info.token()).await.unwrap();
        assert_eq!(call(&app, "/user", Some("key_1")).await.status(), 401);
    }
}

async fn serve(layer: SessionCacheLayer<Probe>) -> SocketAddr {
    let who =
        async |user: Option<UserData>| user.map_or("-".to_owned(), |user| user.id().to_owned());
    let app = Router::new().route("/", get(who)).layer(layer);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn axum_server_passes_the_shared_http_cases() {
    let required = serve(wire::layer()).await;
    let optional = serve(wire::layer().optional()).await;
    the_cases(required, optional, Version::Http1).await;
}
