//! What stands in Redis and when it may be used: keys, records, revocations and the rules about
//! them, free of any I/O.

mod acceptance;
mod key;
mod lifetime;
mod local_key;
mod record;
mod revocation;
mod sealing;
mod space;
mod timestamp;

pub(crate) use self::{
    acceptance::{Moment, SLACK, has_ended, is_acceptable, is_unrevoked},
    key::{EntryKey, Naming, TokenKey, stripe_of_hex},
    lifetime::Lifetimes,
    local_key::{Hashed, NearKey},
    record::{Cause, MAX_RECORD, Parsed, Record, encode_prefix, encode_suffix},
    revocation::{Beside, Mark, Tomb, Verdict},
    sealing::{Opened, Sealing, is_sealed},
    space::Space,
    timestamp::Stamp,
};
