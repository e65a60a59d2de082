//! The session of the canary in the local cache.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
};

use super::store::Store;
use crate::{
    coherence::{CanarySession, TokenStripe},
    protocol::{LocalKey, NamespaceContext},
    token::SessionToken,
};

struct StoredCanary {
    store: Weak<Store>,
    key: LocalKey,
}

impl CanarySession for StoredCanary {
    fn store(&self, stripe: TokenStripe) {
        if let Some(store) = self.store.upgrade() {
            store.local.insert_canary(self.key, stripe);
        }
    }

    fn is_served(&self) -> bool {
        let store = self.store.upgrade();
        store.is_some_and(|store| store.get_local(|| self.key).is_some())
    }
}

/// Lets the canary measure this store, if it has one.
pub(super) fn watch(store: &Arc<Store>, space: &NamespaceContext) {
    let canary = store.local.lease().and_then(|lease| lease.canary());
    // The token is random, so that no client can send it, and is not kept.
    let random = |n| RandomState::new().hash_one(n);
    let token = [0, 1, 2, 3].map(|n| format!("{:016x}", random(n))).concat();
    if let (Some(canary), Ok(token)) = (canary, SessionToken::parse(token)) {
        canary.watch(Box::new(StoredCanary {
            store: Arc::downgrade(store),
            key: space.local_key(&token),
        }));
    }
}
