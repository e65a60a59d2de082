//! The data of a user, which all requests of a session share.

use std::{
    any::{Any, TypeId},
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    decode::{DecodeUserError, decode},
    namespace::Source,
};
use crate::time::isoformat;

/// A user as it is kept in memory, in the size of a pointer.
#[derive(Clone)]
pub(crate) struct SharedUser(Arc<Fields>);

#[derive(Clone)]
struct Fields {
    /// ID, tier, name, e-mail address, session ID and `acr` in one allocation, because there may be
    /// a million of each in memory. The fields that a handler reads first come first.
    texts: Box<str>,
    /// The end of each text except the last.
    ends: [usize; 5],
    email_verified: bool,
    times: SessionTimes,
    created_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    attributes: Map<String, Value>,
    /// Set only where a session is validated or read from Redis.
    source: Option<Arc<Source>>,
    decoded: Decoded,
}

impl Fields {
    fn text(&self, range: Range<usize>) -> &str {
        // The ranges end where texts end, so the fallback is never used.
        self.texts.get(range).unwrap_or_default()
    }
}

/// What is known of a session besides its user and its texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionTimes {
    /// When the validation began, in microseconds since 1970.
    pub(crate) validated_at: i64,
    /// When the user has authenticated, in seconds since 1970.
    pub(crate) authenticated_at: Option<i64>,
    /// Whether the expiry of the session is that of its token, which nothing can prolong.
    pub(crate) ends_with_token: bool,
    /// Whether the token is a key, which no logout ends.
    pub(crate) is_key: bool,
}

/// What the user was decoded as, one type after the other. A program has few such types.
#[derive(Clone, Default)]
struct Decoded(OnceLock<Arc<DecodedAs>>);

struct DecodedAs {
    type_id: TypeId,
    user: Result<Arc<dyn Any + Send + Sync>, DecodeUserError>,
    rest: Decoded,
}

impl SharedUser {
    pub(crate) fn id(&self) -> &str {
        self.0.text(0..self.0.ends[0])
    }

    pub(crate) fn email(&self) -> &str {
        self.0.text(self.0.ends[2]..self.0.ends[3])
    }

    pub(crate) fn name(&self) -> &str {
        self.0.text(self.0.ends[1]..self.0.ends[2])
    }

    pub(crate) fn email_verified(&self) -> bool {
        self.0.email_verified
    }

    pub(crate) fn tier(&self) -> &str {
        self.0.text(self.0.ends[0]..self.0.ends[1])
    }

    pub(crate) fn created_at(&self) -> Option<DateTime<Utc>> {
        self.0.created_at
    }

    pub(crate) fn updated_at(&self) -> Option<DateTime<Utc>> {
        self.0.updated_at
    }

    pub(crate) fn attributes(&self) -> &Map<String, Value> {
        &self.0.attributes
    }

    pub(crate) fn source(&self) -> Option<&Arc<Source>> {
        self.0.source.as_ref()
    }

    /// Returns the identity provider's ID of the session, if it reports one.
    pub(crate) fn session_id(&self) -> Option<&str> {
        let id = self.0.text(self.0.ends[3]..self.0.ends[4]);
        (!id.is_empty()).then_some(id)
    }

    /// Returns the authentication context class, if the identity provider reports one.
    pub(crate) fn acr(&self) -> Option<&str> {
        let acr = self.0.text(self.0.ends[4]..self.0.texts.len());
        (!acr.is_empty()).then_some(acr)
    }

    pub(crate) fn times(&self) -> SessionTimes {
        self.0.times
    }

    /// Returns this user as the user of a session.
    pub(crate) fn in_session(
        &self,
        source: Arc<Source>,
        session_id: Option<&str>,
        acr: Option<&str>,
        times: SessionTimes,
    ) -> Self {
        let fields = &*self.0;
        let [id, tier, name, email, _] = fields.ends;
        let (texts, session_id) = (fields.text(0..email), session_id.unwrap_or_default());
        Self(Arc::new(Fields {
            ends: [id, tier, name, email, email + session_id.len()],
            texts: [texts, session_id, acr.unwrap_or_default()].concat().into(),
            times,
            source: Some(source),
            ..fields.clone()
        }))
    }

    /// Returns this user as another type, which is decoded at the first call.
    pub(crate) fn decode<T>(&self) -> Result<Arc<T>, DecodeUserError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let type_id = TypeId::of::<T>();
        let mut list = &self.0.decoded;
        loop {
            let found = list.0.get_or_init(|| {
                let user = decode::<T>(self.members())
                    .map(|user| Arc::new(user) as Arc<dyn Any + Send + Sync>);
                let rest = Decoded::default();
                Arc::new(DecodedAs {
                    type_id,
                    user,
                    rest,
                })
            });
            if found.type_id == type_id {
                let user = found.user.clone()?;
                return user.downcast().map_err(|_| DecodeUserError::new::<T>(None));
            }
            list = &found.rest;
        }
    }
}

impl SharedUser {
    /// Returns the attributes and the members that `Serialize` of `UserData` writes, which an
    /// attribute of the same name does not replace.
    fn members(&self) -> Map<String, Value> {
        let date = |date: Option<_>| date.map(isoformat).into();
        let mut members = self.attributes().clone();
        members.extend([
            ("id".to_owned(), self.id().into()),
            ("email".to_owned(), self.email().into()),
            ("name".to_owned(), self.name().into()),
            ("email_verified".to_owned(), self.email_verified().into()),
            ("tier".to_owned(), self.tier().into()),
            ("created_at".to_owned(), date(self.created_at())),
            ("updated_at".to_owned(), date(self.updated_at())),
        ]);
        members
    }
}

impl fmt::Debug for SharedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserData")
            .field("id", &self.id())
            .field("tier", &self.tier())
            .finish_non_exhaustive()
    }
}

impl PartialEq for SharedUser {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (&*self.0, &*other.0);
        one.ends[..4] == two.ends[..4]
            && one.text(0..one.ends[3]) == two.text(0..two.ends[3])
            && one.email_verified == two.email_verified
            && (one.created_at, one.updated_at) == (two.created_at, two.updated_at)
            && one.attributes == two.attributes
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
    pub(crate) acr: Option<T>,
    pub(crate) times: SessionTimes,
    pub(crate) source: Option<Arc<Source>>,
}

impl<T: AsRef<str>> UserFields<T> {
    pub(super) fn share(self) -> SharedUser {
        let [id, tier, name, email] =
            [&self.id, &self.tier, &self.name, &self.email].map(AsRef::as_ref);
        let [session_id, acr] =
            [&self.session_id, &self.acr].map(|text| text.as_ref().map_or("", AsRef::as_ref));
        let texts = [id, tier, name, email, session_id, acr];
        let mut end = 0;
        let [id, tier, name, email, session_id, _] = texts.map(|text: &str| {
            end += text.len();
            end
        });
        SharedUser(Arc::new(Fields {
            texts: texts.concat().into(),
            ends: [id, tier, name, email, session_id],
            email_verified: self.email_verified,
            times: self.times,
            created_at: self.created_at,
            updated_at: self.updated_at,
            attributes: self.attributes,
            source: self.source,
            decoded: Decoded::default(),
        }))
    }
}
