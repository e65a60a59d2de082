//! Operations on Redis: lookup, fill and revocation.

mod cluster_read;
mod fill;
mod identity;
mod lookup;
mod outcome;
mod reservation;
mod revoke;
mod store;
mod warnings;

pub(crate) use self::{
    identity::EndedSession,
    outcome::{Denial, FillReply, LookupResult, LookupSnapshot, Reservation, Serve},
    store::{RedisStore, StoreLimits},
};
