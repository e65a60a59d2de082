//! tower-sessions. Its middleware reads the cookie, and loads the session when a handler needs it.

use std::error::Error;

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode, header},
    routing::{get, post},
};
use tower::ServiceExt;
use tower_sessions::{CachingSessionStore, Session, SessionManagerLayer, SessionStore};
use tower_sessions_moka_store::MokaStore;
use tower_sessions_redis_store::{
    RedisStore,
    fred::prelude::{ClientLike, Config, Pool},
};

use super::{Served, TOKENS, User, user_id};

/// Key of the user in a session.
const USER: &str = "user";

pub async fn redis(redis: &str) -> Result<Served, Box<dyn Error>> {
    serve(store(redis).await?).await
}

pub async fn moka(redis: &str) -> Result<Served, Box<dyn Error>> {
    let moka = MokaStore::new(Some(100_000));
    serve(CachingSessionStore::new(moka, store(redis).await?)).await
}

/// Opens the store with as many connections as its documentation uses.
pub async fn store(redis: &str) -> Result<RedisStore<Pool>, Box<dyn Error>> {
    let pool = Pool::new(Config::from_url(redis)?, None, None, None, 6)?;
    pool.init().await?;
    Ok(RedisStore::new(pool))
}

async fn serve<S: SessionStore + Clone>(store: S) -> Result<Served, Box<dyn Error>> {
    let app = Router::new()
        .route("/", get(who))
        .route("/login/{n}", post(log_in))
        .layer(SessionManagerLayer::new(store).with_secure(false));
    let headers = cookies(&app).await?;
    Ok(Served { app, headers })
}

async fn who(session: Session) -> Result<String, StatusCode> {
    match session.get::<User>(USER).await {
        Ok(Some(user)) => Ok(user.id),
        _ => Err(StatusCode::UNAUTHORIZED),
    }
}

async fn log_in(session: Session, Path(n): Path<usize>) -> Result<(), StatusCode> {
    let stored = session.insert(USER, User::nth(n)).await;
    stored.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// Logs in all users and returns their cookies and IDs.
pub async fn cookies(app: &Router) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let mut headers = Vec::new();
    for n in 0..TOKENS {
        let request = Request::post(format!("/login/{n}")).body(Body::empty())?;
        let response = app.clone().oneshot(request).await?;
        let cookie = response.headers().get(header::SET_COOKIE);
        let cookie = cookie.ok_or("a login without a cookie")?.to_str()?;
        let (cookie, _) = cookie
            .split_once(';')
            .ok_or("a cookie without attributes")?;
        headers.push((format!("cookie: {cookie}"), user_id(n)));
    }
    Ok(headers)
}
