//! The user of a session, which is what a handler needs from this crate.
//!
//! [`UserData`] is shared, so that a hit copies no strings, and opaque, so that adding fields is
//! not a breaking change.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer, de::DeserializeOwned, ser::SerializeStruct};
use serde_json::{Map, Value};

use super::{
    decode::DecodeUserError,
    namespace::{Authority, Source},
    session::SessionInfo,
    shared_user::{SessionTimes, SharedUser, UserFields},
};
use crate::time::isoformat;

/// The authenticated user. The layer inserts it into the request's extensions.
///
/// It leads to everything else that is known of the request: its [session](Self::session), and the
/// user [as a type of the application](Self::decode).
///
/// Cloning shares the data, except the token of the session, which is copied. `Serialize` writes exactly the members `id`, `email`, `name`,
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
pub struct UserData(Repr);

#[derive(Clone)]
enum Repr {
    Alone(SharedUser),
    /// The user of a request, with the session that the request belongs to. So one value in the
    /// request's extensions leads to both.
    InSession(SessionInfo),
}

impl<T: AsRef<str>> UserFields<T> {
    pub(crate) fn build(self) -> UserData {
        self.share().into()
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
            acr: None,
            times: SessionTimes::default(),
            source: None,
        })
    }

    /// Returns the identity provider's ID of the user. It is never empty in a request that passed
    /// the layer.
    #[must_use]
    pub fn id(&self) -> &str {
        self.shared().id()
    }

    /// Returns the e-mail address. Empty if the user has none.
    #[must_use]
    pub fn email(&self) -> &str {
        self.shared().email()
    }

    /// Returns the display name, which may be empty.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared().name()
    }

    /// Returns `true` if the identity provider has verified the e-mail address.
    #[must_use]
    pub fn email_verified(&self) -> bool {
        self.shared().email_verified()
    }

    /// Returns the plan or role. It is `free` unless the validator sets another.
    ///
    /// A record written by another service that shares the cache contains the tier which *that*
    /// service chose. If that service must not choose tiers, give the validator its own namespace.
    #[must_use]
    pub fn tier(&self) -> &str {
        self.shared().tier()
    }

    /// Returns the time at which the account was created, if the identity provider reports it.
    #[must_use]
    pub fn created_at(&self) -> Option<DateTime<Utc>> {
        self.shared().created_at()
    }

    /// Returns the time at which the account was last changed, if the identity provider reports it.
    #[must_use]
    pub fn updated_at(&self) -> Option<DateTime<Utc>> {
        self.shared().updated_at()
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
        self.shared().source()
    }

    /// Returns the identity provider's ID of the session, if it reports one.
    pub(crate) fn session_id(&self) -> Option<&str> {
        self.shared().session_id()
    }

    pub(crate) fn acr(&self) -> Option<&str> {
        self.shared().acr()
    }

    pub(crate) fn times(&self) -> SessionTimes {
        self.shared().times()
    }

    /// Returns this user as the user of a session.
    pub(crate) fn in_session(
        &self,
        source: Arc<Source>,
        session_id: Option<&str>,
        acr: Option<&str>,
        times: SessionTimes,
    ) -> Self {
        let user = self.shared().in_session(source, session_id, acr, times);
        user.into()
    }

    pub(crate) fn shared(&self) -> &SharedUser {
        match &self.0 {
            Repr::Alone(user) => user,
            Repr::InSession(session) => &session.user,
        }
    }

    pub(crate) fn into_shared(self) -> SharedUser {
        match self.0 {
            Repr::Alone(user) => user,
            Repr::InSession(session) => session.user,
        }
    }

    /// Returns the attributes that the validator added, and members of a shared record that this
    /// crate does not know.
    #[must_use]
    pub fn attributes(&self) -> &Map<String, Value> {
        self.shared().attributes()
    }

    /// Returns the session of the request that this user made. Returns `None` for a user who was not
    /// taken from a request behind the layer, and for one that another layer has inserted.
    #[inline]
    #[must_use]
    pub fn session(&self) -> Option<&SessionInfo> {
        match &self.0 {
            Repr::Alone(_) => None,
            Repr::InSession(session) => Some(session),
        }
    }

    /// Returns the user as a type of the application, for example with roles, tenant and
    /// permissions. A user is decoded once for each entry of the cache and each type, and all
    /// requests of the session share the result.
    ///
    /// The type is decoded from the members that `Serialize` writes and from the
    /// [attributes](Self::attributes). An attribute with the name of such a member is not decoded.
    ///
    /// With [`SessionValidator::decodes`](crate::SessionValidator::decodes) the layer accepts only
    /// users that can be decoded, so that this cannot fail in a handler. With the feature `axum`,
    /// `Session<T>` is an extractor for it.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tower_session_cache::UserData;
    ///
    /// #[derive(Deserialize, Serialize)]
    /// struct Profile {
    ///     tenant: String,
    ///     roles: Vec<String>,
    /// }
    ///
    /// let profile = Profile { tenant: "acme".into(), roles: vec!["admin".into()] };
    /// let user = UserData::builder("ada").attributes_of(&profile)?.build();
    /// assert_eq!(user.decode::<Profile>()?.roles, ["admin"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if a field is missing, or if a member has another type or value than the
    /// field. The error is kept as well.
    pub fn decode<T>(&self) -> Result<Arc<T>, DecodeUserError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        self.shared().decode()
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
            acr: None,
            times: SessionTimes::default(),
            source: None,
        })
    }
}

impl From<SharedUser> for UserData {
    #[inline]
    fn from(user: SharedUser) -> Self {
        Self(Repr::Alone(user))
    }
}

/// The user of a session, who leads back to the session.
impl From<SessionInfo> for UserData {
    #[inline]
    fn from(session: SessionInfo) -> Self {
        Self(Repr::InSession(session))
    }
}

impl SessionInfo {
    /// Returns the user of the session.
    #[must_use]
    pub fn user(&self) -> UserData {
        self.clone().into()
    }
}

impl PartialEq for UserData {
    fn eq(&self, other: &Self) -> bool {
        self.shared() == other.shared()
    }
}

impl Eq for UserData {}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared().fmt(f)
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
#[must_use = "it does nothing until `build` is called"]
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

    /// Adds each member of a value as an attribute, so that the user can be
    /// [decoded](UserData::decode) as a type with the same members.
    ///
    /// # Errors
    ///
    /// Returns an error if the value cannot be serialized, or is not a structure or a map with texts
    /// as keys.
    pub fn attributes_of(mut self, value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let members: Map<String, Value> = serde_json::from_value(serde_json::to_value(value)?)?;
        self.0.attributes.extend(members);
        Ok(self)
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
