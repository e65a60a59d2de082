//! The main use case end to end: an axum service, real HTTP, and Appwrite's HTTP API.

use std::{net::SocketAddr, sync::Arc};

use axum::{Extension, Json, Router, routing::get};
use http::StatusCode;
use reqwest::Client;
use tokio::net::TcpListener;
use tower_http::{csrf::CsrfLayer, trace::TraceLayer};
use tower_session_cache::{
    AppwriteValidator, Rejection, SessionCache, SessionCacheLayer, SessionInfo, SessionToken,
    UserData,
};

use crate::support::{
    appwrite::{Appwrite, Endpoint, Fault},
    client::http,
    log::record,
    soon, until,
};

struct Service {
    idp: Appwrite,
    appwrite: AppwriteValidator,
    cache: SessionCache,
    url: String,
    client: Client,
}

async fn me(Extension(user): Extension<UserData>, _: SessionInfo) -> Json<UserData> {
    Json(user)
}

impl Service {
    async fn start() -> Self {
        let idp = Appwrite::start().await;
        idp.add_user("ada", "ada@example.com", "correct-horse");
        let appwrite = AppwriteValidator::new(idp.endpoint(), idp.project_id()).unwrap();
        // These tests count validations, and must not depend on the time that they take.
        let builder = SessionCache::builder().provider_lag(std::time::Duration::ZERO);
        let cache = builder.build().unwrap();
        let layer = SessionCacheLayer::new(cache.clone(), appwrite.clone())
            .with_token_source(appwrite.token_source())
            .with_rejection_response(Rejection::problem_json);
        let app = Router::new()
            .route("/me", get(me))
            .layer(layer)
            .layer(CsrfLayer::new())
            .layer(TraceLayer::new_for_http());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            idp,
            appwrite,
            cache,
            url: format!("http://{address}/me"),
            client: http(),
        }
    }

    async fn get(&self, header: &str, value: &str) -> reqwest::Response {
        let request = self.client.get(&self.url).header(header, value);
        soon("a response", request.send()).await.unwrap()
    }

    async fn bearer(&self, token: &str) -> reqwest::Response {
        self.get("authorization", &format!("Bearer {token}")).await
    }
}

#[tokio::test]
async fn all_token_sources_share_one_validation() {
    let service = Service::start().await;
    let token = service.idp.issue("ada");
    let encoded = token
        .replace('=', "%3D")
        .replace('+', "%2B")
        .replace('/', "%2F");
    let requests = [
        ("authorization", format!("Bearer {token}")),
        ("authorization", format!("bearer {token}")),
        ("x-appwrite-session", token.clone()),
        ("cookie", format!("theme=dark; a_session_demo={token}")),
        ("cookie", format!("a_session_demo={encoded}")),
        (
            "cookie",
            format!("a_session_demo_legacy={encoded}; theme=dark"),
        ),
    ];
    for (header, value) in requests {
        let answer = service.get(header, &value).await;
        assert_eq!(answer.status(), StatusCode::OK, "{header}");
        let user: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(user["id"], "ada");
        assert_eq!(user["email"], "ada@example.com");
        assert_eq!(user["tier"], "free");
        assert!(user["created_at"].is_string());
    }
    assert_eq!(service.idp.calls(Endpoint::Account), 1);
    assert_eq!(service.idp.calls(Endpoint::Session), 1);
    assert_eq!(service.cache.stats().validations, 1);
}

#[tokio::test]
async fn concurrent_requests_for_one_token_share_one_validation() {
    let service = Arc::new(Service::start().await);
    let token = service.idp.issue("ada");
    let gate = service.idp.hold(Endpoint::Account);
    let answers: Vec<_> = (0..300)
        .map(|_| {
            let (service, token) = (Arc::clone(&service), token.clone());
            tokio::spawn(async move { service.bearer(&token).await.status() })
        })
        .collect();
    until("all requests to wait", || {
        service.cache.stats().misses == 300
    })
    .await;
    drop(gate);
    for answer in answers {
        assert_eq!(soon("a response", answer).await.unwrap(), StatusCode::OK);
    }
    assert_eq!(service.idp.calls(Endpoint::Account), 1);
    assert_eq!(service.idp.calls(Endpoint::Session), 1);
}

#[tokio::test]
async fn appwrite_receives_one_credential_and_no_client_headers() {
    let service = Service::start().await;
    let token = service.idp.issue("ada");
    let request = service
        .client
        .get(&service.url)
        .header("authorization", format!("Bearer {token}"))
        .header("cookie", format!("a_session_demo={token}; theme=dark"))
        .header("x-appwrite-jwt", "a.b.c")
        .header("x-forwarded-for", "192.0.2.1")
        .header("x-fallback-cookies", "{}")
        .header("referer", "https://example.com/");
    assert_eq!(
        soon("a response", request.send()).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(service.idp.violations(), [""; 0]);
    assert_eq!(service.idp.calls(Endpoint::Account), 1);
}

#[tokio::test]
async fn tier_in_user_preferences_is_ignored() {
    let service = Service::start().await;
    service.idp.edit_user("ada", |user| {
        user.prefs = serde_json::json!({ "tier": "admin", "labels": ["admin"], "plan": "pro" });
    });
    let answer = service.bearer(&service.idp.issue("ada")).await;
    let user: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(user["tier"], "free");
    service
        .idp
        .edit_user("ada", |user| user.labels = vec!["pro".into()]);
    let answer = service.bearer(&service.idp.issue("ada")).await;
    let user: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(
        user["tier"], "pro",
        "labels are set by the server, not by the user"
    );
}

#[tokio::test]
async fn logout_and_password_reset_take_effect_immediately() {
    let service = Service::start().await;
    let login = service
        .appwrite
        .login("ada@example.com", "correct-horse")
        .await
        .unwrap();
    let token = login.token.clone();
    let other = service.idp.issue("ada");
    for token in [token.expose_secret(), &other] {
        assert_eq!(service.bearer(token).await.status(), StatusCode::OK);
    }

    service.appwrite.logout(&token).await.unwrap();
    let _ = service.cache.revoke_token(&token).await.unwrap();
    let refused = service.bearer(token.expose_secret()).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        refused.headers()["www-authenticate"],
        r#"Bearer error="invalid_token""#
    );
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(problem["reason"], "revoked_token");

    let secret = service.idp.recovery_secret("ada");
    let id = service
        .appwrite
        .recover("ada", &secret, "battery-staple")
        .await
        .unwrap();
    let _ = service.cache.invalidate_user(&id).await.unwrap();
    assert_eq!(
        service.bearer(&other).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let login = service
        .appwrite
        .login("ada@example.com", "battery-staple")
        .await
        .unwrap();
    let calls = service.idp.calls(Endpoint::Account);
    for _ in 0..3 {
        let token = login.token.expose_secret();
        assert_eq!(
            service.bearer(token).await.status(),
            StatusCode::OK,
            "a new login is not rejected"
        );
    }
    assert_eq!(service.idp.calls(Endpoint::Account), calls + 1);
}

#[tokio::test]
async fn appwrite_outage_keeps_cached_sessions_valid() {
    let service = Service::start().await;
    let token = service.idp.issue("ada");
    assert_eq!(service.bearer(&token).await.status(), StatusCode::OK);
    service.idp.fault(Endpoint::Account, Fault::Cut);
    service.idp.fault(Endpoint::Session, Fault::Status(500));
    assert_eq!(service.bearer(&token).await.status(), StatusCode::OK);
    let unknown = service.bearer(&service.idp.issue("ada")).await;
    assert_eq!(unknown.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(unknown.headers().contains_key("retry-after"));
    service.idp.clear_faults();
    assert_eq!(
        service.bearer(&service.idp.issue("ada")).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn no_secret_or_email_address_is_logged_even_at_trace() {
    let log = record();
    let service = Service::start().await;
    let token = service.idp.issue("ada");
    let login = service
        .appwrite
        .login("ada@example.com", "correct-horse")
        .await
        .unwrap();
    assert!(
        service
            .appwrite
            .login("ada@example.com", "wrong-password")
            .await
            .is_err()
    );
    let secret = service.idp.recovery_secret("ada");
    for _ in 0..2 {
        assert_eq!(service.bearer(&token).await.status(), 200);
        assert_eq!(
            service
                .get("cookie", &format!("a_session_demo={token}"))
                .await
                .status(),
            200
        );
    }
    service.idp.edit_user("ada", |user| user.blocked = true);
    let blocked = service.idp.issue("ada");
    assert_eq!(service.bearer(&blocked).await.status(), 403);
    service.idp.edit_user("ada", |user| user.blocked = false);
    for fault in [
        Fault::Cut,
        Fault::HalfBody,
        Fault::Html(401),
        Fault::Status(500),
    ] {
        service.idp.fault(Endpoint::Account, fault);
        assert_eq!(service.bearer(&blocked).await.status(), 503);
        service.idp.clear_faults();
    }
    assert_eq!(service.bearer("for,ged").await.status(), 400);
    assert_eq!(service.bearer("forged-token").await.status(), 401);
    service
        .appwrite
        .recover("ada", &secret, "battery-staple")
        .await
        .unwrap();
    service.appwrite.logout(&login.token).await.unwrap();
    let _ = service.cache.revoke_token(&login.token).await.unwrap();
    let _ = service
        .cache
        .invalidate_token(&SessionToken::parse(token.clone()).unwrap())
        .await;

    let log = log.text();
    assert!(
        log.contains("TRACE") && log.contains("tower_session_cache"),
        "nothing was recorded"
    );
    let inside = |token: &str| token[40..80].to_owned();
    for kept in [
        inside(&token),
        inside(&blocked),
        inside(login.token.expose_secret()),
        secret,
        "ada@example.com".to_owned(),
        "forged-token".to_owned(),
        "correct-horse".to_owned(),
        "battery-staple".to_owned(),
        "wrong-password".to_owned(),
    ] {
        assert!(!log.contains(&kept), "the log contains {kept}");
    }
}
