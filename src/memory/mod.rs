//! The local cache (L1): sessions, revoked tokens and rejected tokens in the memory of this process.

mod config;
mod negative_cache;
mod revoked_tokens;
mod store;

pub use self::config::LocalCacheConfig;
pub(crate) use self::{
    negative_cache::RejectedBy,
    store::{FillCheck, LocalStore, Ttls},
};
