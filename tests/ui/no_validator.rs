//~ `Directory` is not a session validator
//~ nobody knows how to ask this what a token stands for
//~ implement `SessionValidator` for it
//~ `validator_fn(|token| async move { … })`
//~ `validator_service`
//~ `ErasedValidator::new`

use tower_session_cache::*;

pub struct Directory;

pub fn layer(cache: SessionCache) -> SessionCacheLayer<Directory> {
    SessionCacheLayer::new(cache, Directory)
}
