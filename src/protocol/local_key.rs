//! Cheap name of a token, for the memory of this process only.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use siphasher::sip128::{Hash128, Hasher128, SipHasher24};

use crate::token::SessionToken;

/// Key of a session in memory, at a fraction of the cost of a digest: SipHash-2-4 of the token, 128
/// bits under a random key of its namespace. The key never leaves this process. An attacker who
/// does not know it cannot search for a second token with the same name.
///
/// Two words instead of a `u128`, whose alignment would add padding.
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

/// Hasher of a map whose keys are keyed hashes already.
#[derive(Clone, Default)]
pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, bytes: &[u8]) {
        // A `LocalKey` does not call this. For any other type it is correct, but not fast.
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
