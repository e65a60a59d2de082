//! Names of our keys in Redis, and the parser for the names that Redis pushes.

use crate::{model::RecordKey, protocol::CacheKey};

const RECORD: &str = "session_cache:";
const SPACE: &str = "session_space:";
const TOMB: &str = "session_tomb:";
const MARK: &str = "user_invalidated:";
/// Written when a session was ended. A fill that finds it stores nothing.
const ENDED: &str = "session_ended:";
/// Names of the marks of an open session's users, of which it usually has one.
const USERS: &str = "session_users:";
const BAN: &str = "session_ban:";
/// Names the node that validates a token. Neither this nor the next is pushed.
const RESERVATION: &str = "session_reservation:";
const REJECTION: &str = "session_rejection:";
/// Key without content. It is written only because its change is pushed.
const PROBE: &str = "session_listener:";

/// End of the probe key of a node with a canary.
const CANARY: &str = ":canary";

#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    prefix: String,
    has_canary: bool,
}

#[derive(Clone)]
pub(crate) struct SessionKeys {
    pub(crate) record: String,
    /// The key under which the Python service keeps the session. In the namespace of that service
    /// it is equal to `record`.
    pub(crate) python: String,
    pub(crate) tombstone: String,
    /// What the keys of bans start with for users of foreign records. Empty if there are none.
    pub(crate) foreign_bans: String,
}

/// The keys by which the nodes share the validations of a token in one namespace.
pub(crate) struct ValidationKeys {
    pub(crate) rejection: String,
    pub(crate) reservation: String,
}

/// The keys of a session, whatever its tokens are.
pub(crate) struct IdentityKeys {
    pub(crate) ended: String,
    pub(crate) users: String,
}

/// What a changed key is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChangedKey<'a> {
    /// The token whose digest this is, in hexadecimal.
    Token(&'a [u8]),
    /// The user whose mark has this name.
    User(&'a str),
}

impl KeySpace {
    pub(crate) fn new(prefix: String) -> Self {
        Self {
            prefix,
            has_canary: false,
        }
    }

    /// Sets whether this node has a canary, which its probe keys show to the others.
    pub(crate) fn with_canary(self, has_canary: bool) -> Self {
        Self { has_canary, ..self }
    }

    /// Returns the keys of a token. The braces are the hash tag that keeps them all in one slot of
    /// a cluster.
    pub(crate) fn keys(&self, key: &CacheKey) -> SessionKeys {
        let prefix = &self.prefix;
        let session = format!("{prefix}{RECORD}{}", key.token.hex());
        SessionKeys {
            tombstone: self.tombstone(&key.token.hex()),
            record: match key.space().namespace().record_key() {
                RecordKey::Python(_) => session.clone(),
                RecordKey::Own(suffix) => format!("{prefix}{SPACE}{{{session}}}:{suffix}"),
            },
            python: session,
            foreign_bans: String::new(),
        }
    }

    /// Returns the keys by which nodes share the validations of a token, in the slot of its record.
    /// Two namespaces may have one key for their records, but never share validations.
    pub(crate) fn validation(&self, key: &CacheKey) -> ValidationKeys {
        let prefix = &self.prefix;
        let session = format!("{{{prefix}{RECORD}{}}}", key.token.hex());
        let namespace = key.space().name();
        ValidationKeys {
            rejection: format!("{prefix}{REJECTION}{session}:{namespace}"),
            reservation: format!("{prefix}{RESERVATION}{session}:{namespace}"),
        }
    }

    /// Returns the tombstone of the token with this name.
    pub(crate) fn tombstone(&self, hex: &str) -> String {
        let prefix = &self.prefix;
        format!("{prefix}{TOMB}{{{prefix}{RECORD}{hex}}}")
    }

    pub(crate) fn mark(&self, name: &str) -> String {
        format!("{}{MARK}{name}", self.prefix)
    }

    /// Returns the keys of the session that has this name. The braces keep both in one slot of a
    /// cluster.
    pub(crate) fn session(&self, name: &str) -> IdentityKeys {
        let prefix = &self.prefix;
        IdentityKeys {
            ended: format!("{prefix}{ENDED}{{{name}}}"),
            users: format!("{prefix}{USERS}{{{name}}}"),
        }
    }

    /// Returns the key that exists while the user with this name is banned.
    pub(crate) fn ban(&self, name: &str) -> String {
        format!("{}{BAN}{name}", self.prefix)
    }

    pub(crate) fn probe(&self, nonce: u64) -> String {
        let end = if self.has_canary { CANARY } else { "" };
        format!("{}{PROBE}{nonce:016x}{end}", self.prefix)
    }

    /// Whether the listener of a node without a canary has written this key.
    pub(crate) fn is_probe_without_canary(&self, key: &[u8]) -> bool {
        let own = key.strip_prefix(self.prefix.as_bytes());
        own.is_some_and(|own| {
            own.starts_with(PROBE.as_bytes()) && !own.ends_with(CANARY.as_bytes())
        })
    }

    /// Returns the key that is written to find out whether the server takes writes.
    pub(crate) fn write_probe(&self) -> String {
        format!("{}session_probe", self.prefix)
    }

    /// Returns the key prefixes that a listener tracks. None is a prefix of another, which Redis
    /// would reject.
    pub(crate) fn tracked(&self, with_records: bool) -> Vec<String> {
        let records: &[&str] = if with_records { &[RECORD, SPACE] } else { &[] };
        [TOMB, MARK, PROBE]
            .iter()
            .chain(records)
            .map(|kind| format!("{}{kind}", self.prefix))
            .collect()
    }

    /// Parses the name of a changed key. Returns `None` if it is none of ours.
    pub(crate) fn read<'a>(&self, key: &'a [u8]) -> Option<ChangedKey<'a>> {
        let prefix = self.prefix.as_bytes();
        let own = key.strip_prefix(prefix)?;
        if let Some(name) = own.strip_prefix(MARK.as_bytes()) {
            // A mark whose name is not UTF-8 belongs to no user of ours.
            return std::str::from_utf8(name).ok().map(ChangedKey::User);
        }
        let session = match own.strip_prefix(RECORD.as_bytes()) {
            Some(hex) => return Some(ChangedKey::Token(hex)),
            None => own
                .strip_prefix(TOMB.as_bytes())
                .or_else(|| own.strip_prefix(SPACE.as_bytes()))?,
        };
        let hex = session
            .strip_prefix(b"{")?
            .strip_prefix(prefix)?
            .strip_prefix(RECORD.as_bytes())?;
        let end = hex.iter().position(|byte| *byte == b'}')?;
        Some(ChangedKey::Token(&hex[..end]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        cache::SessionCache,
        model::{Authority, Namespace},
        token::SessionToken,
    };

    proptest! {
        #[test]
        fn arbitrary_key_does_not_panic(start in 0_usize..5, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let key_space = KeySpace::new(String::new());
            let start = ["", RECORD, TOMB, "session_tomb:{session_cache:", MARK][start];
            let _ = key_space.read(&[start.as_bytes(), &bytes].concat());
        }
    }

    #[test]
    fn every_written_key_is_recognized() {
        let token = SessionToken::parse("t").unwrap();
        for prefix in ["", "shop:", "{", "session_tomb:"] {
            let key_space = KeySpace::new(prefix.to_owned());
            for namespace in [
                Namespace::unnamed(),
                Namespace::named("machines"),
                Namespace::named("}:"),
                Namespace::appwrite(Authority::new("a")),
            ] {
                let cache = SessionCache::builder().build().unwrap();
                let key = cache.with_namespace(namespace).key(&token);
                let keys = key_space.keys(&key);
                let hex = key.token.hex();
                for key in [&keys.record, &keys.tombstone] {
                    let changed = key_space.read(key.as_bytes());
                    assert_eq!(changed, Some(ChangedKey::Token(hex.as_bytes())), "{key}");
                    let kinds = key_space.tracked(true);
                    assert!(kinds.iter().any(|kind| key.starts_with(kind)), "{key}");
                }
            }
            let mark = key_space.mark("ad\u{e1}");
            let changed = key_space.read(mark.as_bytes());
            assert_eq!(changed, Some(ChangedKey::User("ad\u{e1}")));
        }
    }

    #[test]
    fn other_keys_are_ignored() {
        let key_space = KeySpace::new("shop:".to_owned());
        for key in [
            "",
            "shop:",
            "session_cache:00",
            "shop:session_tomb:",
            "shop:session_tomb:{session_cache:00}",
            "shop:session_tomb:{shop:session_cache:00",
            "shop:something:else",
        ] {
            assert_eq!(key_space.read(key.as_bytes()), None, "{key}");
        }
        assert_eq!(key_space.read(key_space.probe(1).as_bytes()), None);
        assert_eq!(key_space.read(b"shop:user_invalidated:\xff"), None);
    }

    #[test]
    fn no_tracked_prefix_is_a_prefix_of_another() {
        let kinds = KeySpace::new(String::new()).tracked(true);
        for (n, kind) in kinds.iter().enumerate() {
            let others = kinds.iter().enumerate().filter(|(other, _)| *other != n);
            assert!(
                others
                    .map(|(_, other)| other)
                    .all(|other| !other.starts_with(kind.as_str()))
            );
        }
    }
}
