//! Rules for serving sessions from the memory of this process although Redis is authoritative.

mod admission;
mod bridge;
mod canary;
mod generations;
mod lease;

pub(crate) use self::{
    admission::{Admission, CacheableRecord},
    canary::{Canary, CanarySession},
    generations::{Generation, Generations, Stripes, TokenStripe, UserStripe},
    lease::{Lease, ReadVersion},
};
