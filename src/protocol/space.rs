//! A namespace as one cache uses it. Holds what is computed once per namespace and not once per
//! request.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use sha2::{Digest, Sha256};
use siphasher::sip128::SipHasher24;

use super::local_key::LocalKey;
use crate::{
    crypto::hex,
    model::{Authority, Branches, Namespace, RecordKey, Source},
    token::SessionToken,
};

/// Maximum number of shared sources. A namespace has a source for each pair of authority and
/// branch. Further ones are not shared between sessions, so that a client with write access to
/// Redis cannot fill the table.
const MAX_SOURCES: usize = 64;

pub(crate) struct NamespaceContext {
    hasher: SipHasher24,
    namespace: Namespace,
    /// Name of the namespace in keys that records do not have: a hash of its text.
    name: String,
    cache: u64,
    sources: RwLock<Vec<Arc<Source>>>,
}

impl NamespaceContext {
    pub(crate) fn new(hasher: SipHasher24, namespace: Namespace, cache: u64) -> Self {
        Self {
            hasher,
            name: hex(&Sha256::digest(namespace.as_str().as_bytes())[..8]),
            namespace,
            cache,
            sources: RwLock::default(),
        }
    }

    #[inline]
    pub(crate) fn local_key(&self, token: &SessionToken) -> LocalKey {
        LocalKey::new(self.hasher, token)
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a session with this source belongs to this namespace in this cache.
    pub(crate) fn holds(&self, source: &Source) -> bool {
        source.cache == self.cache && source.namespace == self.namespace
    }

    /// Returns the source of a session that a validator of this namespace accepted.
    pub(crate) fn native(&self, authority: &str, branches: &Branches) -> Arc<Source> {
        self.source(authority, branches, true)
    }

    /// Returns the source of a record that was read from Redis. Records with equal values share it.
    pub(crate) fn source(
        &self,
        authority: &str,
        branches: &Branches,
        is_native: bool,
    ) -> Arc<Source> {
        let find = |sources: &[Arc<Source>]| {
            let mut sources = sources.iter();
            sources
                .find(|source| {
                    source.authority.as_str() == authority
                        && source.branches == *branches
                        && source.is_native == is_native
                })
                .cloned()
        };
        // No code under this lock panics halfway through a change.
        let (known, is_full) = {
            let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
            (find(&sources), sources.len() >= MAX_SOURCES)
        };
        if let Some(source) = known {
            return source;
        }
        let source = Arc::new(Source {
            namespace: self.namespace.clone(),
            authority: Authority::new(authority),
            branches: branches.clone(),
            is_native,
            cache: self.cache,
        });
        if is_full {
            return source;
        }
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have added it meanwhile.
        if let Some(source) = find(&sources) {
            return source;
        }
        if sources.len() < MAX_SOURCES {
            sources.push(Arc::clone(&source));
        }
        source
    }

    /// Returns the source of the Python service's records, or `None` if this namespace does not
    /// accept them.
    pub(crate) fn foreign(&self) -> Option<Arc<Source>> {
        match self.namespace.record_key() {
            RecordKey::Python(authority) => {
                Some(self.source(authority.as_str(), &Branches::default(), false))
            }
            RecordKey::Own(_) => None,
        }
    }
}

impl fmt::Debug for NamespaceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamespaceContext")
            .field(&self.namespace)
            .finish()
    }
}
