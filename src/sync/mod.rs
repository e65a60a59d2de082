//! Concurrency building blocks, independent of sessions and Redis.

mod background_task;
mod backoff;
mod mutex;
pub(crate) mod singleflight;

pub(crate) use self::{background_task::BackgroundTask, backoff::Backoff, mutex::lock};
