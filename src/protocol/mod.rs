//! Keys, records and revocations as stored in Redis, and the rules for when they may be used. No
//! I/O.

mod acceptance;
mod identity;
mod key;
mod lifetime;
mod local_key;
mod record;
mod rejection;
mod revocation;
mod sealing;
mod space;
mod timestamp;

pub(crate) use self::{
    acceptance::{
        CLOCK_SKEW_TOLERANCE, ReadContext, has_ended, is_acceptable, is_unrevoked,
        is_unrevoked_after_restart, trust, trusted_until,
    },
    identity::{IdentityDigest, IdentityNames},
    key::{CacheKey, KeyDeriver, TokenDigest, stripe_of_hex},
    lifetime::LifetimePolicy,
    local_key::{IdentityHasher, LocalKey},
    record::{
        MAX_RECORD, Parsed, Provenance, RECORD_VERSION, Record, encode_prefix, encode_suffix,
    },
    rejection::{LastingCause, SharedRejection},
    revocation::{RevocationMark, RevocationState, Tombstone, TombstoneKind},
    sealing::{Opened, Sealing, is_sealed},
    space::NamespaceContext,
    timestamp::Timestamp,
};
