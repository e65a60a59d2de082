//~ Handler<_, _>` is not satisfied
//~ `#[axum::debug_handler]`

use axum::{Router, routing::get};
use tower_session_cache::*;

async fn me(user: &UserData) -> String {
    user.id().to_owned()
}

pub fn app() -> Router {
    Router::new().route("/me", get(me))
}
