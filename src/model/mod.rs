//! Users, sessions and namespaces: the values that requests and validators use.

mod layer_id;
mod namespace;
mod session;
mod user;

pub(crate) use self::{
    layer_id::LayerId,
    namespace::{Branches, RecordKey, Source},
    session::RecordVersion,
    user::UserFields,
};
pub use self::{
    namespace::{Authority, Namespace},
    session::{CachedSession, Origin, SessionInfo},
    user::{UserData, UserDataBuilder},
};
