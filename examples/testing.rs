//! Tests of a handler without an identity provider, step by step.
//!
//! `cargo run --example testing`

use axum::{
    Extension, Router,
    body::Body,
    http::{Request, StatusCode, header},
    routing::get,
};
use tower::ServiceExt;
use tower_session_cache::{
    SessionCache, SessionCacheLayer, UserData, ValidationError,
    testing::{self, TestValidator},
};

/// The handler under test.
async fn greet(Extension(user): Extension<UserData>) -> String {
    format!("Hello, {}!", user.name())
}

fn routes() -> Router {
    Router::new().route("/", get(greet))
}

async fn call(app: &Router, token: &str) -> Result<StatusCode, Box<dyn std::error::Error>> {
    let request = Request::get("/")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::empty())?;
    Ok(app.clone().oneshot(request).await?.status())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ada = UserData::builder("u1").name("Ada").build();

    // Most tests need only one session.
    let app = routes().layer(testing::session_for("tok", ada.clone()));
    println!(
        "one session: {} and {}",
        call(&app, "tok").await?,
        call(&app, "other").await?
    );

    // If the provider is down, users with a cached session stay logged in. Requests with other
    // tokens are rejected.
    let provider = TestValidator::new().with_session("tok", ada);
    let sessions = SessionCacheLayer::new(SessionCache::default(), provider.clone());
    let app = routes().layer(sessions);
    println!("before: {}", call(&app, "tok").await?);
    provider.fail(ValidationError::unavailable("down for the test"));
    println!(
        "while it is down: {} and {}",
        call(&app, "tok").await?,
        call(&app, "new").await?
    );
    println!("it was asked {} times", provider.calls());
    Ok(())
}
