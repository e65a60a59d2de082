//! The cheap name of a token, for the memory of this process alone.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use siphasher::sip128::{Hash128, Hasher128, SipHasher24};

use crate::token::SessionToken;

/// What a hit in memory finds its session by, at a fraction of a digest's cost: SipHash-2-4 of
/// the token, 128 bits under a random key of its namespace. Who does not know the key, which never leaves
/// this process, can search for no second token of the same name.
///
/// Two words and no `u128`, which would make room around it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalKey([u64; 2]);

impl LocalKey {
    pub(crate) fn new(mut hasher: SipHasher24, token: &SessionToken) -> Self {
        hasher.write(token.as_bytes());
        let Hash128 { h1, h2 } = hasher.finish128();
        Self([h1, h2])
    }
}

impl Hash for LocalKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [half, _] = self.0;
        state.write_u64(half);
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKey(…)")
    }
}

/// A map's hasher for what is a keyed hash already.
#[derive(Clone, Default)]
pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Not called by a `LocalKey`; correct for anything else, and nothing more.
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = self.0.rotate_left(8) ^ hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
