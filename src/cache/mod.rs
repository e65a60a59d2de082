//! Public cache handle, with the two cache tiers and the revocation queue behind it.

mod builder;
mod canary;
mod close;
mod config;
mod handle;
mod limits;
mod log_out;
mod outcome;
mod refresh_tracker;
mod revocation_queue;
mod revoke;
mod store;
mod ticket;
mod validations;

pub use self::{
    builder::SessionCacheBuilder,
    close::CloseError,
    config::SessionCacheConfig,
    handle::{Health, ProviderHealth, RedisHealth, SessionCache},
    revocation_queue::RevokeErrorKind,
    revoke::{Revocation, RevokeError},
    ticket::{Fill, Lookup, Ticket},
};
pub(crate) use self::{
    outcome::{Accepted, Denied, Outcome, Resolved},
    store::Store,
    validations::ValidationLeader,
};
