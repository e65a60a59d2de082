//! axum-login on tower-sessions. Its middleware loads the session and requests the user from the
//! application, which holds the users in memory here.

use std::{collections::HashMap, convert::Infallible, error::Error, sync::Arc};

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    routing::{get, post},
};
use axum_login::{AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend};
use tower_sessions::SessionManagerLayer;

use super::{Served, TOKENS, User, sessions, user_id};

#[derive(Clone)]
struct Users(Arc<HashMap<String, Arc<User>>>);

#[derive(Clone, Debug)]
struct Known(Arc<User>);

impl AuthUser for Known {
    type Id = String;

    fn id(&self) -> String {
        self.0.id.clone()
    }

    fn session_auth_hash(&self) -> &[u8] {
        self.0.email.as_bytes()
    }
}

impl AuthnBackend for Users {
    type User = Known;
    type Credentials = String;
    type Error = Infallible;

    async fn authenticate(&self, id: String) -> Result<Option<Known>, Infallible> {
        self.get_user(&id).await
    }

    async fn get_user(&self, id: &String) -> Result<Option<Known>, Infallible> {
        Ok(self.0.get(id).cloned().map(Known))
    }
}

pub async fn redis(redis: &str) -> Result<Served, Box<dyn Error>> {
    let users = (0..TOKENS).map(|n| (user_id(n), Arc::new(User::nth(n))));
    let users = Users(Arc::new(users.collect()));
    let sessions = SessionManagerLayer::new(sessions::store(redis).await?).with_secure(false);
    let app = Router::new()
        .route("/", get(who))
        .route("/login/{n}", post(log_in))
        .layer(AuthManagerLayerBuilder::new(users, sessions).build());
    let headers = sessions::cookies(&app).await?;
    Ok(Served { app, headers })
}

async fn who(session: AuthSession<Users>) -> Result<String, StatusCode> {
    let user = session.user.ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(user.0.id.clone())
}

async fn log_in(mut session: AuthSession<Users>, Path(n): Path<usize>) -> StatusCode {
    if let Ok(Some(user)) = session.authenticate(user_id(n)).await
        && session.login(&user).await.is_ok()
    {
        return StatusCode::OK;
    }
    StatusCode::UNAUTHORIZED
}
