//! Users, sessions and namespaces: the values that requests and validators use.

mod cached_session;
mod decode;
mod layer_id;
mod namespace;
mod session;
mod shared_user;
mod user;

pub use self::{
    cached_session::CachedSession,
    decode::DecodeUserError,
    namespace::{Authority, Namespace},
    session::{Origin, SessionInfo},
    user::{UserData, UserDataBuilder},
};
pub(crate) use self::{
    layer_id::LayerId,
    namespace::{Branches, RecordKey, Source},
    session::RecordVersion,
    shared_user::{SessionTimes, SharedUser, UserFields},
};
