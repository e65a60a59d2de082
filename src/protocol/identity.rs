//! Digests of session IDs and user IDs together with their authority. An ended session and a banned
//! user are known by these names in every namespace.
//!
//! An authority may be any text and an ID is unique per authority only, so a name is made of both.
//! Names in Redis are keyed if records are sealed or tokens have a pepper, because a reader of Redis
//! could otherwise guess IDs.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    crypto::{SecretKey, hex, keyed},
    model::{Authority, UserData},
};

/// Digest of a session or a user of one authority.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct IdentityDigest([u8; 32]);

impl IdentityDigest {
    pub(crate) fn session(authority: &Authority, id: &str) -> Self {
        Self::new(b"session", authority, id)
    }

    pub(crate) fn user(authority: &Authority, id: &str) -> Self {
        Self::new(b"user", authority, id)
    }

    /// Returns the session of a validated user, if the provider reports its ID.
    pub(crate) fn session_of(user: &UserData) -> Option<Self> {
        Some(Self::session(user.authority()?, user.session_id()?))
    }

    /// Returns the user as it is banned. A user without an authority cannot be banned.
    pub(crate) fn user_of(user: &UserData) -> Option<Self> {
        Some(Self::user(user.authority()?, user.id()))
    }

    fn new(kind: &[u8], authority: &Authority, id: &str) -> Self {
        let authority = authority.as_str().as_bytes();
        // The length separates authority and ID, whatever bytes they contain.
        let digest = Sha256::new()
            .chain_update(kind)
            .chain_update((authority.len() as u64).to_le_bytes())
            .chain_update(authority)
            .chain_update(id.as_bytes());
        Self(digest.finalize().into())
    }

    /// Returns which of `count` stripes the session or user belongs to.
    pub(crate) fn stripe(&self, count: usize) -> usize {
        let [a, b, c, d, ..] = self.0;
        u32::from_le_bytes([a, b, c, d]) as usize % count
    }
}

impl fmt::Debug for IdentityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityDigest(…)")
    }
}

/// Derives the names of sessions and users in Redis.
pub(crate) enum IdentityNames {
    Plain,
    Keyed {
        current: Zeroizing<[u8; 32]>,
        /// Revocations are still written under its names.
        previous: Option<Zeroizing<[u8; 32]>>,
    },
}

impl IdentityNames {
    pub(crate) fn new(current: Option<&SecretKey>, previous: Option<&SecretKey>) -> Self {
        match current {
            None => Self::Plain,
            Some(current) => Self::Keyed {
                current: current.derive("identities"),
                previous: previous.map(|previous| previous.derive("identities")),
            },
        }
    }

    /// Returns the name of a session under which this node reads.
    pub(crate) fn session(&self, session: &IdentityDigest) -> String {
        match self {
            Self::Plain => name(&session.0),
            Self::Keyed { current, .. } => name(&keyed(&**current, &session.0)),
        }
    }

    /// Returns the current name of a session, and the name that nodes with the previous key may
    /// still read.
    pub(crate) fn sessions(&self, session: &IdentityDigest) -> impl Iterator<Item = String> {
        [Some(self.session(session)), self.previous(session)]
            .into_iter()
            .flatten()
    }

    /// Returns the name of a user under which this node reads.
    pub(crate) fn user(&self, authority: &Authority, id: &str) -> String {
        match self {
            Self::Plain => format!("{}{id}", Self::plain_users(authority)),
            Self::Keyed { .. } => self.session(&IdentityDigest::user(authority, id)),
        }
    }

    /// Returns the current name of a user, and the name that nodes with the previous key may still
    /// read.
    pub(crate) fn users(&self, authority: &Authority, id: &str) -> impl Iterator<Item = String> {
        let previous = self.previous(&IdentityDigest::user(authority, id));
        [Some(self.user(authority, id)), previous]
            .into_iter()
            .flatten()
    }

    /// Returns what the names of an authority's users start with where they are not keyed. A script
    /// completes it with the user of a record of the Python service.
    pub(crate) fn plain_users(authority: &Authority) -> String {
        format!("{}:", name(&Sha256::digest(authority.as_str()).into()))
    }

    fn previous(&self, digest: &IdentityDigest) -> Option<String> {
        match self {
            Self::Keyed {
                previous: Some(previous),
                ..
            } => Some(name(&keyed(&**previous, &digest.0))),
            Self::Plain | Self::Keyed { previous: None, .. } => None,
        }
    }
}

/// Returns 128 bits in hexadecimal, too many to search for a second identity with the same name.
fn name(digest: &[u8; 32]) -> String {
    hex(&digest[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_differs_by_kind_authority_and_id() {
        let (a, ab) = (Authority::new("a"), Authority::new("ab"));
        let all = [
            IdentityDigest::session(&a, "bc"),
            IdentityDigest::session(&ab, "c"),
            IdentityDigest::session(&a, "b"),
            IdentityDigest::user(&a, "bc"),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all[n + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    fn names_follow_the_keys() {
        let (one, two) = ([1; 32], [2; 32]);
        let (one, two) = (SecretKey::from_bytes(one), SecretKey::from_bytes(two));
        let (one, two) = (one.unwrap(), two.unwrap());
        let session = IdentityDigest::session(&Authority::new("a"), "s");
        let all = |names: &IdentityNames| names.sessions(&session).collect::<Vec<_>>();
        let plain = IdentityNames::new(None, None);
        let old = IdentityNames::new(Some(&one), None);
        let new = IdentityNames::new(Some(&two), Some(&one));
        assert_eq!(all(&plain).len(), 1);
        assert_ne!(all(&plain), all(&old));
        assert_eq!(all(&new), [new.session(&session), old.session(&session)]);
    }
}
