//! Public keys of an issuer: fetched from its JWKS URL, cached, and fetched again when a token names
//! a key that is not among them.
//!
//! 1. All callers share one fetch. A fetch runs in a task of its own, so that a caller that gives up
//!    does not end it for the others.
//! 2. At least 30 seconds pass between two fetches, and 1 to 30 seconds after one that failed. So a
//!    flood of forged tokens causes no other calls.
//! 3. Keys are used for as long as no fetch has returned others. If a fetch fails, the keys from
//!    before stay.
//! 4. While a key cannot be looked up, a token is neither valid nor invalid: its sender should
//!    repeat it.

mod fetcher;
mod source;

pub(crate) use self::{
    fetcher::{KeyFetcher, KeyLocation},
    source::{KeySource, VerificationError},
};
