//! Typical handwritten middleware: a bb8 pool with default settings, one `GET` for the session and
//! one for the revocation mark of its user.

use std::{error::Error, fmt::Write, sync::Arc};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::get,
};
use bb8_redis::{RedisConnectionManager, bb8::Pool, redis::cmd};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Served, User, bearer, bearers, token};

#[derive(Serialize, Deserialize)]
struct Session {
    user: User,
    cached_at: f64,
}

type Connections = Pool<RedisConnectionManager>;

pub async fn redis(redis: &str) -> Result<Served, Box<dyn Error>> {
    let pool = Pool::builder()
        .build(RedisConnectionManager::new(redis)?)
        .await?;
    let mut headers = Vec::new();
    for (n, header) in bearers().enumerate() {
        let user = User::nth(n);
        headers.push((header, user.id.clone()));
        let record = serde_json::to_string(&Session {
            user,
            cached_at: 1.0e9,
        })?;
        let set = cmd("SET").arg(key(&token(n))).arg(record).to_owned();
        let () = set.query_async(&mut *pool.get().await?).await?;
    }
    let handler = async |Extension(user): Extension<Arc<User>>| user.id.clone();
    let layer = from_fn_with_state(pool, authenticate);
    Ok(Served {
        app: Router::new().route("/", get(handler)).layer(layer),
        headers,
    })
}

fn key(token: &str) -> String {
    let mut key = String::from("hand:");
    for byte in &Sha256::digest(token)[..16] {
        let _ = write!(key, "{byte:02x}");
    }
    key
}

async fn authenticate(
    State(pool): State<Connections>,
    mut request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    let token = bearer(request.headers()).ok_or(StatusCode::UNAUTHORIZED)?;
    let user = look_up(&pool, token)
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?
        .ok_or(StatusCode::UNAUTHORIZED)?;
    request.extensions_mut().insert(Arc::new(user));
    Ok(next.run(request).await)
}

async fn look_up(
    pool: &Connections,
    token: &str,
) -> Result<Option<User>, Box<dyn Error + Send + Sync>> {
    let mut connection = pool.get().await?;
    let get = cmd("GET").arg(key(token)).to_owned();
    let Some(record) = get.query_async::<Option<String>>(&mut *connection).await? else {
        return Ok(None);
    };
    let session: Session = serde_json::from_str(&record)?;
    let mark = format!("hand_mark:{}", session.user.id);
    let get = cmd("GET").arg(mark).to_owned();
    let mark: Option<f64> = get.query_async(&mut *connection).await?;
    let is_revoked = mark.is_some_and(|mark| mark >= session.cached_at);
    Ok((!is_revoked).then_some(session.user))
}
