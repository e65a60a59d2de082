//! Namespaces, which state which validators share cached sessions, and the authorities that issue
//! sessions.
//!
//! An identity provider's response depends on the client that calls it ([RFC 7662, section 2.2]),
//! so a cached session is valid only for validators that would have received the same response. A
//! [`Namespace`] names these validators. An [`Authority`] names the issuer of a session. User IDs
//! and session IDs are unique per authority only.
//!
//! [RFC 7662, section 2.2]: https://www.rfc-editor.org/rfc/rfc7662#section-2.2

use std::{fmt, sync::Arc};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::crypto::hex;

/// Characters that are encoded in the parts of a namespace's text. The space separates the parts,
/// so no part may contain it.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Identifies the validators that share cached sessions: the kind of validator, its endpoint, and
/// its client or project.
///
/// Every record in Redis names its namespace. A record of another namespace is a cache miss. The
/// validators of this crate derive their namespace from their settings. Two services share records
/// if their validators have equal namespaces. To make other validators share records, give both the
/// same [name](Self::named).
///
/// # Security
///
/// If validators share a namespace, each of them must be ready to accept what another one has
/// accepted, except for what [`accepts`](crate::SessionValidator::accepts) checks on every hit.
/// Validators with different clients, projects or providers must not share a namespace.
///
/// A record contains the session as the validator that stored it has derived it from the response,
/// including the tier. Validators that choose tiers with different closures need different names,
/// especially if a [`filter`](crate::SessionValidator::filter) or a handler uses the tier for
/// authorization.
///
/// ```
/// use tower_session_cache::Namespace;
///
/// let database = Namespace::new("sessions-table", ["db.example.com", "shop"]);
/// assert_eq!(database.to_string(), "own sessions-table db.example.com shop");
/// assert_ne!(database, Namespace::named("sessions-table"));
/// ```
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    text: Box<str>,
    key: RecordKey,
}

/// The keys of a namespace's records in Redis.
pub(crate) enum RecordKey {
    /// Under the keys of the Python service, whose own records are accepted there.
    Python(Authority),
    /// Under keys that end in this text.
    Own(Box<str>),
}

impl Namespace {
    /// Creates a namespace with a name that the operator chooses: a single word that is unique on
    /// this Redis.
    ///
    /// All services that use the name share their records, regardless of their validators.
    #[must_use]
    pub fn named(name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        let text = text("named", [name]);
        Self::with_key(text, RecordKey::Own(name.into()))
    }

    /// Creates a namespace from a validator's settings: its kind, everything that decides which
    /// tokens the identity provider accepts from it (such as endpoint and client ID), and
    /// everything that decides how its response becomes a session. It differs from the namespaces
    /// of the validators in this crate.
    ///
    /// Do not pass a secret: the text is stored in Redis and printed in logs.
    #[must_use]
    pub fn new<P: AsRef<str>>(kind: &str, settings: impl IntoIterator<Item = P>) -> Self {
        let kind = utf8_percent_encode(kind, ENCODED).to_string();
        let settings: Vec<_> = settings.into_iter().collect();
        let settings = settings.iter().map(AsRef::as_ref);
        Self::derived("own", [kind.as_str()].into_iter().chain(settings))
    }

    /// Like [`new`](Self::new), but for the validators of this crate.
    pub(crate) fn derived<P: AsRef<str>>(
        kind: &str,
        settings: impl IntoIterator<Item = P>,
    ) -> Self {
        let text = text(kind, settings);
        let digest = Sha256::digest(text.as_bytes());
        // Records contain their full namespace, so a collision could only overwrite a record.
        let suffix = hex(digest.first_chunk::<8>().map_or(&[][..], |first| first));
        Self::with_key(text, RecordKey::Own(suffix.into()))
    }

    /// Creates the namespace of an Appwrite project. The Python service shares its records.
    ///
    /// `authority` is the authority of the project, see [`Authority::appwrite`]. Records without a
    /// namespace were written by the Python service. They are accepted in this namespace and in no
    /// other.
    #[must_use]
    pub fn appwrite(authority: Authority) -> Self {
        let text = text("appwrite", [authority.as_str()]);
        Self::with_key(text, RecordKey::Python(authority))
    }

    /// Creates the namespace of a cache handle that has neither a name nor a validator.
    pub(crate) fn unnamed() -> Self {
        Self::with_key("unnamed".into(), RecordKey::Own("".into()))
    }

    fn with_key(text: Box<str>, key: RecordKey) -> Self {
        Self(Arc::new(Inner { text, key }))
    }

    /// Returns the namespace as it is stored in records.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub(crate) fn record_key(&self) -> &RecordKey {
        &self.0.key
    }

    fn suffix(&self) -> &str {
        match self.record_key() {
            RecordKey::Own(suffix) => suffix,
            RecordKey::Python(_) => "",
        }
    }
}

fn text<P: AsRef<str>>(kind: &str, settings: impl IntoIterator<Item = P>) -> Box<str> {
    let mut text = utf8_percent_encode(kind, ENCODED).to_string();
    for setting in settings {
        text.push(' ');
        text.extend(utf8_percent_encode(setting.as_ref(), ENCODED));
    }
    text.into()
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for Namespace {}

impl From<&str> for Namespace {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl From<String> for Namespace {
    fn from(name: String) -> Self {
        Self::named(name)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.as_str()).finish()
    }
}

/// Identifies the issuer of a session: the issuer URL of an OAuth 2.0 server, or the endpoint and
/// project of an Appwrite server.
///
/// User IDs are unique per authority only. A service that accepts sessions of several authorities
/// must compare both.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authority(Arc<str>);

impl Authority {
    /// Creates an authority with this text.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }

    /// Creates the authority of an Appwrite project. A trailing `/` of the endpoint is ignored.
    #[must_use]
    pub fn appwrite(endpoint: impl AsRef<str>, project_id: impl AsRef<str>) -> Self {
        let endpoint = endpoint.as_ref().trim_end_matches('/');
        // An endpoint has no fragment, so different pairs of endpoint and project have different
        // texts.
        Self::new(format!("{endpoint}#{}", project_id.as_ref()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Authority {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Authority {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authority").field(&self.as_str()).finish()
    }
}

/// Where a session was validated and issued. Sessions share it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) namespace: Namespace,
    pub(crate) authority: Authority,
    pub(crate) branches: Branches,
    /// Whether this crate validated the session, as opposed to the Python service.
    pub(crate) is_native: bool,
    /// The cache that contains the session. Caches differ in what has been revoked, in the clients
    /// that can write to them and in what they serve stale.
    pub(crate) cache: u64,
}

/// The branches of [`or`](crate::SessionValidator::or) that accepted a token, from the outermost to
/// the innermost. Empty for a validator without branches.
///
/// Each branch identifies its `or` by the key of that `or`'s namespace. An `or` therefore finds its
/// own branch however deeply it is nested and whatever wraps it. An `or` cannot contain itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Branches(Vec<(Box<str>, Box<str>)>);

impl Branches {
    /// Returns these branches as part of a branch of another `or`.
    pub(crate) fn inside(mut self, or: &Namespace, name: &str) -> Self {
        self.0.insert(0, (or.suffix().into(), name.into()));
        self
    }

    /// Returns the name of the branch of this `or`.
    pub(crate) fn of(&self, or: &Namespace) -> Option<&str> {
        let mut branches = self.0.iter();
        let (_, name) = branches.find(|(id, _)| **id == *or.suffix())?;
        Some(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, name)| &**name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn namespaces_with_different_settings_differ() {
        let all = [
            Namespace::named("a"),
            Namespace::named("a b"),
            Namespace::new("a", ["b"]),
            Namespace::new("a", ["b", ""]),
            Namespace::new("a", ["b", "c"]),
            Namespace::new("a", ["b c"]),
            Namespace::new("a", ["b%20c"]),
            Namespace::new("a b", ["c"]),
            Namespace::appwrite(Authority::appwrite("https://a/v1", "p")),
            Namespace::appwrite(Authority::appwrite("https://a/v1", "q")),
            Namespace::unnamed(),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all.iter().skip(n + 1).all(|other| other != one), "{one}");
            let suffix = |namespace: &Namespace| match namespace.record_key() {
                RecordKey::Own(suffix) => Some(suffix.clone()),
                RecordKey::Python(_) => None,
            };
            let mut others = all.iter().skip(n + 1).filter_map(suffix);
            assert!(others.all(|other| Some(other) != suffix(one)), "{one}");
        }
        assert_eq!(
            Authority::appwrite("https://a/v1/", "p"),
            Authority::appwrite("https://a/v1", "p")
        );
    }

    proptest! {
        #[test]
        fn namespace_text_is_unique_per_list_of_settings(
            one in proptest::collection::vec("[a% 2]{0,4}", 0..4),
            other in proptest::collection::vec("[a% 2]{0,4}", 0..4),
        ) {
            prop_assert_eq!(text("k", &one) == text("k", &other), one == other);
        }
    }
}
