//! Who a session belongs to and who issued it: the values that a request and a validator see.

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
