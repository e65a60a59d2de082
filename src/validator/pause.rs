//! For how long an identity provider has asked to be left alone.
//!
//! A pause belongs to one provider: the branches of [`or`](crate::SessionValidator::or) have one
//! each, so that one that is throttled does not stop the others.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::error::ValidationError;
use crate::time::Clock;

/// However long a provider wants to be left alone, it is asked again after a minute.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Pause {
    clock: Clock,
    until: AtomicU64,
}

impl Pause {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            until: AtomicU64::new(0),
        }
    }

    /// How much longer the provider is not asked.
    pub(crate) fn left(&self) -> Option<Duration> {
        let now = self.clock.elapsed();
        let left = self.until.load(Relaxed).checked_sub(now)?;
        (left > 0).then(|| Duration::from_micros(left))
    }

    /// An error while the provider is not asked.
    pub(crate) fn check(&self) -> Result<(), ValidationError> {
        self.left()
            .map_or(Ok(()), |left| Err(ValidationError::paused(left)))
    }

    /// Begins a pause if the provider asks for one.
    pub(crate) fn observe(&self, error: &ValidationError) {
        if let Some(after) = error.pause() {
            let after = after.min(LONGEST).as_micros();
            let until = u64::try_from(after).unwrap_or(u64::MAX);
            let until = self.clock.elapsed().saturating_add(until);
            self.until.fetch_max(until, Relaxed);
        }
    }
}
