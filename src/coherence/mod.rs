//! When the memory of this process may answer although Redis is authoritative.

mod admission;
pub(crate) mod generations;
mod lease;

pub(crate) use self::{
    admission::{Keep, Served},
    generations::{Seen, Stripes, TokenStripe, UserStripe},
    lease::{Lease, Noted},
};
