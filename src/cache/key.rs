//! Names for tokens. Past this file nobody sees a raw token, the validator excepted.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::token::SessionToken;

/// The SHA-256 digest of a token. Revocations speak of this: they hold in every namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenKey([u8; 32]);

impl TokenKey {
    pub(super) fn of(token: &SessionToken) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The first half in hexadecimal, as the Python service names its sessions: 128 bits, which
    /// nobody can search for a second token of the same name.
    pub(super) fn short_hex(&self) -> String {
        use std::fmt::Write;

        self.0[..16]
            .iter()
            .fold(String::with_capacity(32), |mut hex, byte| {
                // Writing to a string does not fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            })
    }

    /// Which of `count` stripes the token belongs to.
    pub(super) fn stripe(&self, count: usize) -> usize {
        let [a, b, c, d, ..] = self.0;
        u32::from_le_bytes([a, b, c, d]) as usize % count
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// The name of a cached session: a token as one namespace's validator understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryKey {
    pub(super) token: TokenKey,
    namespace: Option<Arc<str>>,
}

impl EntryKey {
    pub(super) fn new(token: &SessionToken, namespace: Option<Arc<str>>) -> Self {
        Self {
            token: TokenKey::of(token),
            namespace,
        }
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Few tokens are seen in two namespaces, so the digest alone spreads well enough.
        self.token.hash(state);
    }
}
