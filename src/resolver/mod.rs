//! Resolution of a token to a user: the cache first, then one validation for all requests that
//! wait.

mod candidates;
mod ended;
mod provider_monitor;
mod recent;
mod requirement;
mod reservation;
mod resolve;
mod validation;
mod validation_times;

pub use self::ended::SessionEnd;
pub(crate) use self::{
    requirement::Requirement,
    resolve::{LocalResult, Resolver},
};
