//! Users, sessions and namespaces: the values that requests and validators use.

mod namespace;
mod session;
mod user;

pub use self::{
    namespace::{Authority, Namespace},
    session::{CachedSession, Origin, SessionInfo},
    user::{UserData, UserDataBuilder},
};
pub(crate) use self::{
    namespace::{Branches, RecordKey, Source},
    session::RecordVersion,
    user::UserFields,
};
