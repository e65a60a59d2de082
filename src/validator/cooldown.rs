//! Cooldown of a provider that has sent `Retry-After`, during which it must not be called.
//!
//! A cooldown belongs to one provider. Each branch of [`or`](crate::SessionValidator::or) has its
//! own, so that a provider that limits the rate does not block the others.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::error::ValidationError;
use crate::time::Clock;

/// Maximum cooldown. A provider that requests a longer one is called again after a minute.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Cooldown {
    clock: Clock,
    until: AtomicU64,
}

impl Cooldown {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            until: AtomicU64::new(0),
        }
    }

    /// Returns the time that remains until the provider may be called.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let now = self.clock.elapsed();
        let remaining = self.until.load(Relaxed).checked_sub(now)?;
        (remaining > 0).then(|| Duration::from_micros(remaining))
    }

    /// Returns an error while the provider must not be called.
    pub(crate) fn check(&self) -> Result<(), ValidationError> {
        self.remaining().map_or(Ok(()), |remaining| {
            Err(ValidationError::cooling_down(remaining))
        })
    }

    /// Starts a cooldown if the provider requests one.
    pub(crate) fn observe(&self, error: &ValidationError) {
        if let Some(after) = error.provider_retry_after() {
            let after = after.min(MAX_RETRY_AFTER).as_micros();
            let until = u64::try_from(after).unwrap_or(u64::MAX);
            let until = self.clock.elapsed().saturating_add(until);
            self.until.fetch_max(until, Relaxed);
        }
    }
}
