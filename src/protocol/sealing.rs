//! Sealed records, which Redis can neither read nor forge nor move to another key.
//!
//! A sealed record is `sealed1:<key id>:<user>:<fence>:` followed by nonce and ciphertext. Only
//! what the scripts need stays readable: a keyed hash of the user's ID, which names the mark, and
//! the fence, so that an older record does not replace a newer one. Both are inside the ciphertext
//! as well, where they count. The cipher is XChaCha20-Poly1305, whose nonces are long enough to be
//! random. The associated data is everything before the nonce, and the record's key with prefix and
//! namespace.

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, Generate, KeyInit, Payload},
};

use super::timestamp::Timestamp;
use crate::crypto::{SecretKey, hex, keyed};

const MARKER: &str = "sealed1:";
const NONCE: usize = 24;

/// Sealing keys: the current one, which seals, and the previous one, whose records are still
/// opened.
pub(crate) struct Sealing {
    current: SealingKeys,
    previous: Option<SealingKeys>,
}

struct SealingKeys {
    cipher: XChaCha20Poly1305,
    /// Distinguishes the keys, and reveals nothing about them.
    id: String,
    users: zeroize::Zeroizing<[u8; 32]>,
    rejections: zeroize::Zeroizing<[u8; 32]>,
}

/// Result of opening the value of a session key.
pub(crate) enum Opened {
    /// The record, and the name of its user's mark.
    Record {
        json: Vec<u8>,
        user: String,
    },
    NotSealed,
    /// Sealed with a key that this node does not have.
    UnknownKey,
    Forged,
}

impl Sealing {
    pub(crate) fn new(current: &SecretKey, previous: Option<&SecretKey>) -> Self {
        Self {
            current: SealingKeys::new(current),
            previous: previous.map(SealingKeys::new),
        }
    }

    /// Returns the current name of a user's mark.
    pub(crate) fn user(&self, id: &str) -> String {
        self.current.user(id)
    }

    /// Returns the name of a user's mark from before the key was changed.
    pub(crate) fn previous_user(&self, id: &str) -> Option<String> {
        self.previous.as_ref().map(|sealer| sealer.user(id))
    }

    /// Returns the proof that a rejection was written by a node with the sealing key.
    pub(crate) fn prove(&self, message: &[u8]) -> String {
        self.current.prove(message)
    }

    /// Whether a proof was made with the current or the previous key.
    pub(crate) fn is_proof(&self, message: &[u8], proof: &str) -> bool {
        let sealers = [Some(&self.current), self.previous.as_ref()];
        sealers.into_iter().flatten().any(|sealer| {
            // Compare hashes, so that the time that it takes reveals nothing about the right proof.
            let hash = |proof: &str| keyed(&*sealer.rejections, proof.as_bytes());
            hash(proof) == hash(&sealer.prove(message))
        })
    }

    /// Seals a record. Returns `None` if the system has no randomness.
    pub(crate) fn seal(
        &self,
        key: &str,
        user_id: &str,
        fence: Timestamp,
        json: &[u8],
    ) -> Option<Vec<u8>> {
        let SealingKeys { cipher, id, .. } = &self.current;
        let head = format!("{MARKER}{id}:{}:{fence}:", self.user(user_id));
        let nonce = XNonce::try_generate().ok()?;
        let sealed = cipher
            .encrypt(
                &nonce,
                Payload {
                    msg: json,
                    aad: &associated(&head, key),
                },
            )
            .ok()?;
        Some([head.as_bytes(), &nonce[..], &sealed].concat())
    }

    pub(crate) fn open(&self, key: &str, value: &[u8]) -> Opened {
        if !is_sealed(value) {
            return Opened::NotSealed;
        }
        let Some((id, user, head, nonce, sealed)) = split(value) else {
            return Opened::Forged;
        };
        let sealers = [Some(&self.current), self.previous.as_ref()];
        let Some(sealer) = sealers.into_iter().flatten().find(|sealer| sealer.id == id) else {
            return Opened::UnknownKey;
        };
        let opened = sealer.cipher.decrypt(
            &XNonce::from(nonce),
            Payload {
                msg: sealed,
                aad: &associated(head, key),
            },
        );
        match opened {
            Ok(json) => Opened::Record {
                json,
                user: user.to_owned(),
            },
            Err(_) => Opened::Forged,
        }
    }
}

impl SealingKeys {
    fn new(secret: &SecretKey) -> Self {
        Self {
            cipher: XChaCha20Poly1305::new((&*secret.derive("records")).into()),
            id: hex(&secret.derive("id")[..4]),
            users: secret.derive("users"),
            rejections: secret.derive("rejections"),
        }
    }

    fn prove(&self, message: &[u8]) -> String {
        hex(&keyed(&*self.rejections, message))
    }

    fn user(&self, id: &str) -> String {
        hex(&keyed(&*self.users, id.as_bytes()))
    }
}

pub(crate) fn is_sealed(value: &[u8]) -> bool {
    value.starts_with(MARKER.as_bytes())
}

/// Returns the associated data. The head ends with a colon, so that no key can be mistaken for a
/// part of it.
fn associated(head: &str, key: &str) -> Vec<u8> {
    [head, key].concat().into_bytes()
}

type Parts<'a> = (&'a str, &'a str, &'a str, [u8; NONCE], &'a [u8]);

fn split(value: &[u8]) -> Option<Parts<'_>> {
    let colons = value.iter().enumerate().filter(|(_, byte)| **byte == b':');
    let end = colons.map(|(at, _)| at).nth(3)? + 1;
    let head = std::str::from_utf8(&value[..end]).ok()?;
    let mut parts = head.split(':').skip(1);
    let (id, user) = (parts.next()?, parts.next()?);
    let (nonce, sealed) = value[end..].split_at_checked(NONCE)?;
    Some((id, user, head, nonce.try_into().ok()?, sealed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(letter: char) -> SecretKey {
        SecretKey::from_bytes(letter.to_string().repeat(32)).unwrap()
    }

    fn opens(sealing: &Sealing, key: &str, value: &[u8]) -> bool {
        matches!(sealing.open(key, value), Opened::Record { .. })
    }

    #[test]
    fn only_the_unchanged_value_under_its_key_opens() {
        let sealing = Sealing::new(&secret('a'), None);
        let fence = Timestamp(1_732_444_800_000_000);
        let value = sealing
            .seal("session_cache:1", "ada", fence, b"{}")
            .unwrap();
        assert!(!value.windows(3).any(|three| three == b"ada"));
        assert!(opens(&sealing, "session_cache:1", &value));
        assert!(!opens(&sealing, "session_cache:2", &value));
        for at in 0..value.len() {
            let mut forged = value.clone();
            forged[at] ^= 1;
            assert!(!opens(&sealing, "session_cache:1", &forged), "byte {at}");
            assert!(
                !opens(&sealing, "session_cache:1", &value[..at]),
                "cut at {at}"
            );
        }
        let again = sealing
            .seal("session_cache:1", "ada", fence, b"{}")
            .unwrap();
        assert_ne!(value, again, "a nonce is used once");
    }

    #[test]
    fn only_current_and_previous_keys_open_a_value() {
        let old = Sealing::new(&secret('a'), None);
        let value = old.seal("k", "ada", Timestamp(0), b"{}").unwrap();
        let both = Sealing::new(&secret('b'), Some(&secret('a')));
        assert!(opens(&both, "k", &value));
        assert_eq!(both.previous_user("ada"), Some(old.user("ada")));
        assert_ne!(both.user("ada"), old.user("ada"));
        let new = Sealing::new(&secret('b'), None);
        assert!(matches!(new.open("k", &value), Opened::UnknownKey));
        assert!(matches!(new.open("k", b"{}"), Opened::NotSealed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_neither_panic_nor_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let sealing = Sealing::new(&secret('a'), Some(&secret('b')));
            prop_assert!(!opens(&sealing, "k", &bytes));
            let marked = [MARKER.as_bytes(), &bytes].concat();
            prop_assert!(!opens(&sealing, "k", &marked));
        }
    }
}
