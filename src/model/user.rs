//! The user of a session, which is what a handler needs from this crate.
//!
//! [`UserData`] is shared, so that a hit copies no strings, and opaque, so that adding fields is
//! not a breaking change.

use std::{fmt, ops::Range, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::{Map, Value};

use super::namespace::{Authority, Source};
use crate::time::isoformat;

/// The authenticated user. The layer inserts it into the request's extensions.
///
/// Cloning shares the data. `Serialize` writes exactly the members `id`, `email`, `name`,
/// `email_verified`, `tier`, `created_at` and `updated_at`, with dates as Python's
/// `datetime.isoformat()` writes them. It omits [`attributes`](Self::attributes), so that a
/// response does not accidentally show a client what a validator added.
///
/// `Debug` shows the ID and the tier only, because e-mail addresses and names must not be logged.
///
/// # Security
///
/// IDs are unique per [authority](Self::authority) only. `==` compares the data of the user (ID,
/// texts, dates, attributes) and not the authority. A service that accepts sessions of several
/// authorities must compare both.
///
/// ```
/// use tower_session_cache::UserData;
///
/// let user = UserData::builder("u1").email("ada@example.com").tier("pro").build();
/// assert_eq!(user.id(), "u1");
/// assert_eq!(user.tier(), "pro");
/// assert!(!format!("{user:?}").contains("ada@"));
/// ```
#[derive(Clone)]
pub struct UserData(Arc<Fields>);

#[derive(Clone)]
struct Fields {
    /// ID, tier, name, e-mail address and session ID in one allocation, because there may be a
    /// million of each in memory. The fields that a handler reads first come first.
    texts: Box<str>,
    /// The end of each text except the last.
    ends: [usize; 4],
    email_verified: bool,
    ends_with_token: bool,
    created_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    attributes: Map<String, Value>,
    /// Set only where a session is validated or read from Redis.
    source: Option<Arc<Source>>,
}

impl Fields {
    fn text(&self, range: Range<usize>) -> &str {
        // The ranges end where texts end, so the fallback is never used.
        self.texts.get(range).unwrap_or_default()
    }
}

/// The fields of a user before their texts are joined.
#[derive(Clone)]
pub(crate) struct UserFields<T> {
    pub(crate) id: T,
    pub(crate) email: T,
    pub(crate) name: T,
    pub(crate) email_verified: bool,
    pub(crate) tier: T,
    pub(crate) created_at: Option<DateTime<Utc>>,
    pub(crate) updated_at: Option<DateTime<Utc>>,
    pub(crate) attributes: Map<String, Value>,
    pub(crate) session_id: Option<T>,
    pub(crate) ends_with_token: bool,
    pub(crate) source: Option<Arc<Source>>,
}

impl<T: AsRef<str>> UserFields<T> {
    pub(crate) fn build(self) -> UserData {
        let [id, tier, name, email] =
            [&self.id, &self.tier, &self.name, &self.email].map(AsRef::as_ref);
        let session_id = self.session_id.as_ref().map_or("", AsRef::as_ref);
        let texts = [id, tier, name, email, session_id];
        let mut end = 0;
        let [id, tier, name, email, _] = texts.map(|text: &str| {
            end += text.len();
            end
        });
        UserData(Arc::new(Fields {
            texts: texts.concat().into(),
            ends: [id, tier, name, email],
            email_verified: self.email_verified,
            ends_with_token: self.ends_with_token,
            created_at: self.created_at,
            updated_at: self.updated_at,
            attributes: self.attributes,
            source: self.source,
        }))
    }
}

impl UserData {
    /// Creates a user of whom only the ID is known. The tier is `free`.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self::builder(id).build()
    }

    /// Creates a builder with every field except the ID at its default: empty texts,
    /// `email_verified` false, tier `free`, no dates, no attributes.
    pub fn builder(id: impl Into<String>) -> UserDataBuilder {
        UserDataBuilder(UserFields {
            id: id.into(),
            email: String::new(),
            name: String::new(),
            email_verified: false,
            tier: "free".into(),
            created_at: None,
            updated_at: None,
            attributes: Map::new(),
            session_id: None,
            ends_with_token: false,
            source: None,
        })
    }

    /// Returns the identity provider's ID of the user. It is never empty in a request that passed
    /// the layer.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.text(0..self.0.ends[0])
    }

    /// Returns the e-mail address. Empty if the user has none.
    #[must_use]
    pub fn email(&self) -> &str {
        self.0.text(self.0.ends[2]..self.0.ends[3])
    }

    /// Returns the display name, which may be empty.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.text(self.0.ends[1]..self.0.ends[2])
    }

    /// Returns `true` if the identity provider has verified the e-mail address.
    #[must_use]
    pub fn email_verified(&self) -> bool {
        self.0.email_verified
    }

    /// Returns the plan or role. It is `free` unless the validator sets another.
    ///
    /// A record written by another service that shares the cache contains the tier which *that*
    /// service chose. If that service must not choose tiers, give the validator its own namespace.
    #[must_use]
    pub fn tier(&self) -> &str {
        self.0.text(self.0.ends[0]..self.0.ends[1])
    }

    /// Returns the time at which the account was created, if the identity provider reports it.
    #[must_use]
    pub fn created_at(&self) -> Option<DateTime<Utc>> {
        self.0.created_at
    }

    /// Returns the time at which the account was last changed, if the identity provider reports it.
    #[must_use]
    pub fn updated_at(&self) -> Option<DateTime<Utc>> {
        self.0.updated_at
    }

    /// Returns the issuer of this user's session. Returns `None` for a user without a session,
    /// which the application built or a validator has just returned.
    ///
    /// [`id`](Self::id) is unique per authority.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.source().map(|source| &source.authority)
    }

    pub(crate) fn source(&self) -> Option<&Arc<Source>> {
        self.0.source.as_ref()
    }

    /// Returns the identity provider's ID of the session, if it reports one.
    pub(crate) fn session_id(&self) -> Option<&str> {
        let id = self.0.text(self.0.ends[3]..self.0.texts.len());
        (!id.is_empty()).then_some(id)
    }

    /// Whether the expiry of the session is that of its token, which nothing can prolong.
    pub(crate) fn ends_with_token(&self) -> bool {
        self.0.ends_with_token
    }

    /// Returns this user as the user of a session.
    pub(crate) fn in_session(
        &self,
        source: Arc<Source>,
        session_id: Option<&str>,
        ends_with_token: bool,
    ) -> Self {
        let fields = &*self.0;
        let texts = fields.text(0..fields.ends[3]);
        Self(Arc::new(Fields {
            texts: [texts, session_id.unwrap_or_default()].concat().into(),
            ends_with_token,
            source: Some(source),
            ..fields.clone()
        }))
    }

    /// Returns the attributes that the validator added, and members of a shared record that this
    /// crate does not know.
    #[must_use]
    pub fn attributes(&self) -> &Map<String, Value> {
        &self.0.attributes
    }

    /// Returns a builder that starts from this user.
    pub fn to_builder(&self) -> UserDataBuilder {
        UserDataBuilder(UserFields {
            id: self.id().to_owned(),
            email: self.email().to_owned(),
            name: self.name().to_owned(),
            email_verified: self.email_verified(),
            tier: self.tier().to_owned(),
            created_at: self.created_at(),
            updated_at: self.updated_at(),
            attributes: self.attributes().clone(),
            session_id: None,
            ends_with_token: false,
            source: None,
        })
    }
}

impl PartialEq for UserData {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (&*self.0, &*other.0);
        one.ends == two.ends
            && one.text(0..one.ends[3]) == two.text(0..two.ends[3])
            && one.email_verified == two.email_verified
            && (one.created_at, one.updated_at) == (two.created_at, two.updated_at)
            && one.attributes == two.attributes
    }
}

impl Eq for UserData {}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserData")
            .field("id", &self.id())
            .field("tier", &self.tier())
            .finish_non_exhaustive()
    }
}

impl Serialize for UserData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut user = serializer.serialize_struct("UserData", 7)?;
        user.serialize_field("id", self.id())?;
        user.serialize_field("email", self.email())?;
        user.serialize_field("name", self.name())?;
        user.serialize_field("email_verified", &self.email_verified())?;
        user.serialize_field("tier", self.tier())?;
        user.serialize_field("created_at", &self.created_at().map(isoformat))?;
        user.serialize_field("updated_at", &self.updated_at().map(isoformat))?;
        user.end()
    }
}

/// Builder for [`UserData`], created by [`UserData::builder`].
#[derive(Clone)]
#[must_use]
pub struct UserDataBuilder(UserFields<String>);

impl UserDataBuilder {
    /// Sets the e-mail address. Defaults to the empty string.
    pub fn email(mut self, email: impl Into<String>) -> Self {
        self.0.email = email.into();
        self
    }

    /// Sets the display name. Defaults to the empty string.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    /// Sets whether the e-mail address is verified. Defaults to `false`.
    pub fn email_verified(mut self, verified: bool) -> Self {
        self.0.email_verified = verified;
        self
    }

    /// Sets the plan or role. Defaults to `free`.
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.0.tier = tier.into();
        self
    }

    /// Sets the time at which the account was created. Defaults to `None`.
    pub fn created_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.0.created_at = at.into();
        self
    }

    /// Sets the time at which the account was last changed. Defaults to `None`.
    pub fn updated_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.0.updated_at = at.into();
        self
    }

    /// Adds an attribute, or replaces the attribute of that name.
    ///
    /// Attributes are stored in a separate part of the cached record, so any name can be used.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.attributes.insert(name.into(), value.into());
        self
    }

    /// Builds the user.
    #[must_use]
    pub fn build(self) -> UserData {
        self.0.build()
    }
}

impl fmt::Debug for UserDataBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserDataBuilder")
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}
