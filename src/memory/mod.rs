//! The local cache (L1): sessions, and what is rejected, in the memory of this process.

mod config;
mod denials;
mod negative_cache;
mod rejections;
mod store;

pub use self::config::LocalCacheConfig;
pub(crate) use self::{
    config::DEFAULT_LEASE,
    negative_cache::RejectedBy,
    rejections::Rejections,
    store::{FillCheck, LocalStore, Ttls, Watermark},
};
