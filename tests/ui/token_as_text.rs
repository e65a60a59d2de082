//~ expected `&SessionToken`, found `&str`

use tower_session_cache::*;

pub async fn logout(cache: SessionCache, token: &str) {
    let _ = cache.revoke_token(token).await;
}
