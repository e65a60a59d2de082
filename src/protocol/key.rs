//! Names of tokens. Above this file, only the validator reads the raw token.
//!
//! A token has two names: one on which all services that share a Redis agree, and a cheap one for
//! hits in the memory of this process.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use sha2::{Digest, Sha256};
use siphasher::sip128::{Hash128, Hasher128, SipHasher24};
use zeroize::Zeroizing;

use super::{local_key::LocalKey, space::NamespaceContext};
use crate::{
    crypto::{SecretKey, hex, keyed},
    model::Namespace,
    token::SessionToken,
};

/// Derives the names of sessions.
pub(crate) struct KeyDeriver {
    /// Hasher for names that are used only in this process and only while it runs.
    local: SipHasher24,
    /// Identifies the cache in this process.
    cache: u64,
    shared: TokenHasher,
}

static NEXT_CACHE: AtomicU64 = AtomicU64::new(0);

/// How the shared names of tokens are derived: by SHA-256, or by HMAC-SHA-256 under a pepper.
enum TokenHasher {
    Plain,
    Peppered {
        pepper: Pepper,
        /// Its names are still read, and revocations are still written under them.
        previous: Option<Pepper>,
    },
}

type Pepper = Zeroizing<[u8; 32]>;

impl KeyDeriver {
    pub(crate) fn new(pepper: Option<&SecretKey>, previous: Option<&SecretKey>) -> Self {
        let random = RandomState::new();
        Self {
            local: SipHasher24::new_with_keys(random.hash_one(1), random.hash_one(2)),
            cache: NEXT_CACHE.fetch_add(1, Relaxed),
            shared: match pepper {
                None => TokenHasher::Plain,
                Some(pepper) => TokenHasher::Peppered {
                    pepper: pepper.derive("tokens"),
                    previous: previous.map(|pepper| pepper.derive("tokens")),
                },
            },
        }
    }

    /// Each namespace hashes tokens under a separate key, so that a hit need not hash the namespace.
    pub(crate) fn space(&self, namespace: Namespace) -> Arc<NamespaceContext> {
        let mut hasher = self.local;
        hasher.write(namespace.as_str().as_bytes());
        let Hash128 { h1, h2 } = hasher.finish128();
        let hasher = SipHasher24::new_with_keys(h1, h2);
        Arc::new(NamespaceContext::new(hasher, namespace, self.cache))
    }

    pub(crate) fn entry(&self, token: &SessionToken, space: &Arc<NamespaceContext>) -> CacheKey {
        let (digest, previous) = match &self.shared {
            TokenHasher::Plain => (TokenDigest::plain(token), None),
            TokenHasher::Peppered { pepper, previous } => (
                TokenDigest::peppered(token, pepper),
                previous
                    .as_ref()
                    .map(|pepper| Box::new(TokenDigest::peppered(token, pepper))),
            ),
        };
        CacheKey {
            local: space.local_key(token),
            token: digest,
            previous,
            space: Arc::clone(space),
        }
    }
}

/// Digest of a token. Revocations refer to it, because they apply in every namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenDigest {
    digest: [u8; 32],
    is_peppered: bool,
}

impl TokenDigest {
    pub(crate) fn plain(token: &SessionToken) -> Self {
        Self {
            digest: Sha256::digest(token.as_bytes()).into(),
            is_peppered: false,
        }
    }

    fn peppered(token: &SessionToken, pepper: &Pepper) -> Self {
        Self {
            digest: keyed(&**pepper, token.as_bytes()),
            is_peppered: true,
        }
    }

    /// Returns the name in Redis. Without a pepper it is the first half of the digest, as in the
    /// Python service. These are 128 bits, too many to search for a second token with the same
    /// name.
    pub(crate) fn hex(&self) -> String {
        hex(&self.digest[..if self.is_peppered { 32 } else { 16 }])
    }

    /// Returns a number that differs between tokens, and for one token between salts.
    pub(crate) fn jitter(&self, salt: u64) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.digest;
        // Multiplying by an odd constant near the golden ratio carries every bit to the top.
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Returns which of `count` stripes the token belongs to.
    pub(crate) fn stripe(&self, count: usize) -> usize {
        let [a, b, c, d, ..] = self.digest;
        u32::from_le_bytes([a, b, c, d]) as usize % count
    }
}

/// Returns the stripe of the token that has this name in Redis, or `None` if this is not the name
/// of a token.
pub(crate) fn stripe_of_hex(name: &[u8], count: usize) -> Option<usize> {
    let four = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; 4];
    for (byte, pair) in bytes.iter_mut().zip(name.get(..8)?.chunks(2)) {
        *byte = u8::try_from(four(pair[0])? << 4 | four(pair[1])?).ok()?;
    }
    Some(u32::from_le_bytes(bytes) as usize % count)
}

impl Hash for TokenDigest {
    /// Hashes half of the digest. An attacker cannot find two tokens that share it, and every map
    /// is seeded.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let half = self.digest.first_chunk();
        state.write_u128(half.map_or(0, |half| u128::from_le_bytes(*half)));
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(…)")
    }
}

/// Name of a cached session: a token as the validators of one namespace understand it.
#[derive(Clone, Debug)]
pub(crate) struct CacheKey {
    /// Its name in this process.
    pub(crate) local: LocalKey,
    pub(crate) token: TokenDigest,
    /// Boxed because it is rare.
    previous: Option<Box<TokenDigest>>,
    space: Arc<NamespaceContext>,
}

impl CacheKey {
    pub(crate) fn space(&self) -> &NamespaceContext {
        &self.space
    }

    /// Returns the name that the entry had before the pepper was changed.
    pub(crate) fn previous(&self) -> Option<Self> {
        Some(Self {
            local: self.local,
            token: **self.previous.as_ref()?,
            previous: None,
            space: Arc::clone(&self.space),
        })
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.space.namespace() == other.space.namespace()
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Few tokens are used in two namespaces, so the digest alone distributes well enough.
        self.token.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_key_is_unique_per_token_namespace_and_process() {
        let key_deriver = KeyDeriver::new(None, None);
        let token = |text: &str| SessionToken::parse(text.to_owned()).unwrap();
        let space =
            |key_deriver: &KeyDeriver, name: &str| key_deriver.space(Namespace::named(name));
        let pairs = [
            ("ab", "c"),
            ("a", "c"),
            ("ab", ""),
            ("a", "bc"),
            ("abc", ""),
        ];
        let key = |(text, name)| space(&key_deriver, name).local_key(&token(text));
        for (n, pair) in pairs.iter().enumerate() {
            assert_eq!(key(*pair), key(*pair));
            let others = pairs.iter().skip(n + 1);
            assert!(others.clone().all(|other| key(*other) != key(*pair)));
            let entry = key_deriver.entry(&token(pair.0), &space(&key_deriver, pair.1));
            assert_eq!(entry.local, key(*pair), "both return the same key");
        }
        let elsewhere = space(&KeyDeriver::new(None, None), "c");
        assert_ne!(elsewhere.local_key(&token("ab")), key(pairs[0]));
    }

    #[test]
    fn redis_key_name_maps_to_the_stripe_of_its_token() {
        let secret = SecretKey::from_bytes("x".repeat(32)).unwrap();
        for pepper in [None, Some(&secret)] {
            let key_deriver = KeyDeriver::new(pepper, None);
            for n in 0..100 {
                let token = SessionToken::parse(format!("token-{n}")).unwrap();
                let key = key_deriver
                    .entry(&token, &key_deriver.space(Namespace::unnamed()))
                    .token;
                let named = stripe_of_hex(key.hex().as_bytes(), 16_384);
                assert_eq!(named, Some(key.stripe(16_384)));
            }
        }
        for no_name in [
            "",
            "0123456",
            "xx345678",
            "é345678",
            "+1234567",
            "\u{1f680}1234",
        ] {
            assert_eq!(stripe_of_hex(no_name.as_bytes(), 16_384), None, "{no_name}");
        }
    }
}
