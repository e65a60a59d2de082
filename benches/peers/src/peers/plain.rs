//! Baselines: the cost of a service without a lookup, and the cost of one lookup in Redis.

use std::{collections::HashMap, error::Error, sync::Arc};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use bb8_redis::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection, cmd};
use tower::util::MapRequestLayer;
use tower_session_cache::UserData;

use super::{Served, TOKENS, User, bearer, bearers, token, user, user_id};

pub fn no_authentication() -> Served {
    let id: Arc<str> = user_id(0).into();
    Served {
        // The handler copies an ID, because the handlers of all other peers do.
        app: Router::new().route("/", get(async move || id.as_ref().to_owned())),
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

/// Does only what any in-process cache must do: find the token and its user. The map removes
/// nothing, has no bound, and compares the token itself.
pub fn bare_map() -> Served {
    let users: HashMap<String, UserData> = (0..TOKENS).map(|n| (token(n), user(n))).collect();
    let users = Arc::new(users);
    let find = move |mut request: Request| {
        let user = bearer(request.headers()).and_then(|token| users.get(token).cloned());
        // Only this token's user is inserted. Without a user, the handler rejects the request.
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        request
    };
    let handler = async |Extension(user): Extension<UserData>| user.id().to_owned();
    Served {
        app: Router::new()
            .route("/", get(handler))
            .layer(MapRequestLayer::new(find)),
        headers: bearers()
            .enumerate()
            .map(|(n, header)| (header, user_id(n)))
            .collect(),
    }
}

/// Reads one value per request and parses nothing. The value begins with the user's ID and is as
/// long as a record.
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
