//! Who a session belongs to: the one thing a handler wants from this crate.
//!
//! [`UserData`] is shared, so that a hit hands it to a request without copying a string, and
//! opaque, so that fields can be added without breaking anyone.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::{Map, Value};

use crate::time;

/// The authenticated user, found in a request's extensions behind the layer.
///
/// Cloning shares the data. `Serialize` writes exactly the members `id`, `email`, `name`,
/// `email_verified`, `tier`, `created_at` and `updated_at`, dates as Python's
/// `datetime.isoformat()` writes them; [`attributes`](Self::attributes) stay out of it, so that
/// what a validator adds is never shown to a client by accident.
///
/// `Debug` shows the id and the tier only: e-mail address and name have no place in a log.
///
/// ```
/// use tower_session_cache::UserData;
///
/// let user = UserData::builder("u1").email("ada@example.com").tier("pro").build();
/// assert_eq!(user.id(), "u1");
/// assert_eq!(user.tier(), "pro");
/// assert!(!format!("{user:?}").contains("ada@"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(Arc<Fields>);

#[derive(Clone, PartialEq, Eq)]
struct Fields {
    // Boxed texts take no spare room, and there may be a million of each in memory.
    id: Box<str>,
    email: Box<str>,
    name: Box<str>,
    email_verified: bool,
    tier: Box<str>,
    created_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    attributes: Map<String, Value>,
}

impl UserData {
    /// A user of whom nothing but the id is known. The tier is `free`.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self::builder(id).build()
    }

    /// Starts a user with every member but the id at its default: texts empty, `email_verified`
    /// false, tier `free`, no dates, no attributes.
    pub fn builder(id: impl Into<String>) -> UserDataBuilder {
        UserDataBuilder(Fields {
            id: boxed(id),
            email: Box::default(),
            name: Box::default(),
            email_verified: false,
            tier: "free".into(),
            created_at: None,
            updated_at: None,
            attributes: Map::new(),
        })
    }

    /// The identity provider's id of the user; never empty behind the layer.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The e-mail address, empty when the user has none.
    #[must_use]
    pub fn email(&self) -> &str {
        &self.0.email
    }

    /// The display name, which may be empty.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the identity provider has verified the e-mail address.
    #[must_use]
    pub fn email_verified(&self) -> bool {
        self.0.email_verified
    }

    /// The plan or role, `free` unless the validator says otherwise.
    ///
    /// A record written by another service that shares the cache carries the tier which *that*
    /// service chose; give the layer a namespace if it is not to be trusted with that.
    #[must_use]
    pub fn tier(&self) -> &str {
        &self.0.tier
    }

    /// When the account was made, if the identity provider tells.
    #[must_use]
    pub fn created_at(&self) -> Option<DateTime<Utc>> {
        self.0.created_at
    }

    /// When the account was last changed, if the identity provider tells.
    #[must_use]
    pub fn updated_at(&self) -> Option<DateTime<Utc>> {
        self.0.updated_at
    }

    /// What the validator added, and members of a shared record that this crate does not know.
    #[must_use]
    pub fn attributes(&self) -> &Map<String, Value> {
        &self.0.attributes
    }

    /// A builder that starts from this user.
    pub fn to_builder(&self) -> UserDataBuilder {
        UserDataBuilder((*self.0).clone())
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserData")
            .field("id", &self.0.id)
            .field("tier", &self.0.tier)
            .finish_non_exhaustive()
    }
}

impl Serialize for UserData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut user = serializer.serialize_struct("UserData", 7)?;
        user.serialize_field("id", &self.0.id)?;
        user.serialize_field("email", &self.0.email)?;
        user.serialize_field("name", &self.0.name)?;
        user.serialize_field("email_verified", &self.0.email_verified)?;
        user.serialize_field("tier", &self.0.tier)?;
        user.serialize_field("created_at", &self.0.created_at.map(time::isoformat))?;
        user.serialize_field("updated_at", &self.0.updated_at.map(time::isoformat))?;
        user.end()
    }
}

fn boxed(text: impl Into<String>) -> Box<str> {
    text.into().into_boxed_str()
}

/// Builds a [`UserData`]; made by [`UserData::builder`].
#[derive(Clone)]
#[must_use]
pub struct UserDataBuilder(Fields);

impl UserDataBuilder {
    /// Sets the e-mail address. Defaults to the empty text.
    pub fn email(mut self, email: impl Into<String>) -> Self {
        self.0.email = boxed(email);
        self
    }

    /// Sets the display name. Defaults to the empty text.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = boxed(name);
        self
    }

    /// Says whether the e-mail address is verified. Defaults to false.
    pub fn email_verified(mut self, verified: bool) -> Self {
        self.0.email_verified = verified;
        self
    }

    /// Sets the plan or role. Defaults to `free`.
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.0.tier = boxed(tier);
        self
    }

    /// Sets when the account was made. Defaults to not known.
    pub fn created_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.0.created_at = at.into();
        self
    }

    /// Sets when the account was last changed. Defaults to not known.
    pub fn updated_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.0.updated_at = at.into();
        self
    }

    /// Adds one attribute, replacing an earlier one of that name.
    ///
    /// Attributes travel in the cached record beside the members of the shared format, so a name
    /// that the format uses (`user_id`, `tier`, …) is not stored.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.attributes.insert(name.into(), value.into());
        self
    }

    /// The finished user.
    #[must_use]
    pub fn build(self) -> UserData {
        UserData(Arc::new(self.0))
    }
}

impl fmt::Debug for UserDataBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserDataBuilder")
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}
