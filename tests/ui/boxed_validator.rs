//~ `Box<dyn
//~ is not a session validator
//~ `ErasedValidator::new`

use tower_session_cache::*;

pub fn layer(cache: SessionCache, chosen: Box<dyn SessionValidator>) {
    SessionCacheLayer::new(cache, chosen);
}
