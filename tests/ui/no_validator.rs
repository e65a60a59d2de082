//~ `Directory` is not a session validator
//~ this cannot validate session tokens
//~ implement `SessionValidator` for it
//~ `validator_fn("name", |token| async move { … })`
//~ `SessionValidator::layer`
//~ `ErasedValidator::new`

use tower_session_cache::*;

pub struct Directory;

pub fn layer(cache: SessionCache) -> SessionCacheLayer<Directory> {
    SessionCacheLayer::new(cache, Directory)
}
