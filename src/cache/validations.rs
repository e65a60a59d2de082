//! State that the layers of one cache share while they validate, so that they validate a token
//! once.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{outcome::Outcome, refresh_tracker::RefreshTracker};
use crate::{
    model::LayerId,
    protocol::CacheKey,
    sync::singleflight::{Group, Leader},
    telemetry::{Gauge, VALIDATIONS_IN_FLIGHT},
};

/// Maximum number of tokens that are validated at the same time. Requests for further tokens are
/// rejected with 503.
const MAX_IN_FLIGHT: usize = 16_384;

/// The session that is validated, and the layer by whose rules it is validated. A result under the
/// rules of one layer must not be served by a layer with other rules.
pub(crate) type ValidationKey = (CacheKey, LayerId);

/// The leader of a validation, in one of its phases.
pub(crate) type ValidationLeader<P> = Leader<ValidationKey, Outcome, P>;

/// Permit to call a validator.
pub(crate) struct Permit<'a> {
    _permit: SemaphorePermit<'a>,
    _background: Option<SemaphorePermit<'a>>,
}

pub(crate) struct Validations {
    pub(crate) in_flight: Group<ValidationKey, Outcome>,
    pub(crate) refreshes: RefreshTracker,
    permits: Semaphore,
    /// Half of the permits, for validations that no request waits for. The other half stays free
    /// for those that a request waits for.
    background_permits: Semaphore,
    is_closed: AtomicBool,
    /// Timeout of one call of the validator, including the wait for a permit.
    pub(crate) timeout: Duration,
    /// Timeout of everything that follows a first lookup that was a miss.
    pub(crate) miss_timeout: Duration,
}

impl Validations {
    pub(crate) fn new(max_concurrent: usize, timeout: Duration, miss_timeout: Duration) -> Self {
        Self {
            in_flight: Group::new(MAX_IN_FLIGHT, Gauge::new(VALIDATIONS_IN_FLIGHT)),
            refreshes: RefreshTracker::new(),
            permits: Semaphore::new(max_concurrent),
            background_permits: Semaphore::new((max_concurrent / 2).max(1)),
            is_closed: AtomicBool::new(false),
            timeout,
            miss_timeout,
        }
    }

    /// Waits for one of the permits to call a validator.
    pub(crate) async fn acquire_permit(&self) -> Option<Permit<'_>> {
        // The semaphore is never closed, so this is never `None`.
        let permit = self.permits.acquire().await.ok()?;
        Some(Permit {
            _permit: permit,
            _background: None,
        })
    }

    /// Takes a permit for a validation that no request waits for, unless it would have to wait. A
    /// permit that becomes free while validations wait for one is given to the first of them, so
    /// this never takes it.
    pub(crate) fn try_background_permit(&self) -> Option<Permit<'_>> {
        let background = self.background_permits.try_acquire().ok()?;
        Some(Permit {
            _permit: self.permits.try_acquire().ok()?,
            _background: Some(background),
        })
    }

    /// Starts no validation from now on.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    pub(crate) fn has_background_permit(&self) -> bool {
        self.background_permits.available_permits() > 0 && self.permits.available_permits() > 0
    }
}
