//! The limits: what a service costs without a lookup, and what one lookup in Redis costs.

use std::error::Error;

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use bb8_redis::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection, cmd};
use tower_session_cache::UserData;

use super::{Served, User, bearer, bearers, token, user_id};

pub fn no_authentication() -> Served {
    Served {
        app: Router::new().route("/", get(async || user_id(0))),
        headers: bearers().map(|header| (header, user_id(0))).collect(),
    }
}

pub fn constant_user() -> Served {
    let user = UserData::builder(user_id(0)).name("Ada Lovelace").build();
    let handler = async |Extension(user): Extension<UserData>| user.id().to_owned();
    Served {
        app: Router::new()
            .route("/", get(handler))
            .layer(Extension(user)),
        headers: bearers().map(|header| (header, user_id(0))).collect(),
    }
}

/// Nothing is parsed: the value begins with the user's id, and is otherwise as long as a record.
pub async fn raw_get(redis: &str) -> Result<Served, Box<dyn Error>> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = Client::open(redis)?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut headers = Vec::new();
    for (n, header) in bearers().enumerate() {
        let key = format!("raw:{}", token(n));
        let value = user_id(n) + &serde_json::to_string(&User::nth(n))? + &" ".repeat(160);
        let set = cmd("SET").arg(key).arg(value).to_owned();
        let () = set.query_async(&mut connection).await?;
        headers.push((header, user_id(n)));
    }
    Ok(Served {
        app: Router::new().route("/", get(answer)).with_state(connection),
        headers,
    })
}

async fn answer(
    State(mut connection): State<MultiplexedConnection>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let token = bearer(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    let mut value: String = cmd("GET")
        .arg(["raw:", token].concat())
        .query_async(&mut connection)
        .await
        .map_err(|_| StatusCode::UNAUTHORIZED)?;
    value.truncate("user-000000".len());
    Ok(value)
}
