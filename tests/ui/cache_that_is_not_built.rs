//~ expected `SessionCache`, found `SessionCacheBuilder`

use tower_session_cache::*;

pub fn layer<V: SessionValidator>(validator: V) -> SessionCacheLayer<V> {
    SessionCacheLayer::new(SessionCache::builder(), validator)
}
