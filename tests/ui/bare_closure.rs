//~ is not a session validator
//~ wrap an async closure: `validator_fn("name", |token| async move { … })`

use tower_session_cache::*;

pub fn layer(cache: SessionCache) {
    let ask = |_: SessionToken| async { Ok(ValidatedSession::new(UserData::new("ada"))) };
    SessionCacheLayer::new(cache, ask);
}
