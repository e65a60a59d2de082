//! Adaptive limit of the calls to a provider that limits the rate, so that a few rate-limited calls
//! stop neither all users nor add to the provider's load.
//!
//! There is no limit until the provider limits three different tokens within a second, because one
//! limited token may be limited for its user alone. From then on the number of concurrent calls
//! follows additive increase and multiplicative decrease. A limited call occupies its place for up
//! to a second longer, so that a limit of one is also a limit of the rate.
//!
//! A limit belongs to one provider. Each branch of [`or`](crate::SessionValidator::or) has its own,
//! so that a provider that limits the rate does not slow down the other.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify};

use super::{error::ValidationError, session::ValidatedSession};
use crate::{sync::lock, time::Clock, token::SessionToken};

/// Number of different tokens that the provider must limit within [`WINDOW`] before a limit starts.
const TOKENS: usize = 3;
const WINDOW: u64 = SECOND;

/// Time without a limited call after which the limit ends.
const END: u64 = 60 * SECOND;

/// Maximum time for which a limited call occupies its place after its end.
const MAX_HOLD: u64 = SECOND;

/// Maximum number of validations that wait for a place. Others fail immediately.
const MAX_WAITING: usize = 64;

/// How long a validation waits for a place. It must be short: if `validation_timeout` elapsed during
/// the wait of a branch, the wait would look like an outage of the provider.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Interval at which a waiting validation looks for places whose hold has ended.
const MAX_PAUSE: Duration = Duration::from_millis(100);

const SECOND: u64 = 1_000_000;

pub(crate) struct AdaptiveLimit {
    clock: Clock,
    hasher: RandomState,
    state: Mutex<State>,
    /// When the limit ends, for callers that only need to know whether there is one.
    until: AtomicU64,
    freed: Notify,
}

#[derive(Default)]
struct State {
    calls: usize,
    waiting: usize,
    /// The last tokens that were limited, and when.
    limited: [Option<(u64, u64)>; TOKENS],
    /// Mean duration of successful calls, in microseconds. 0 if there was none.
    typical: u64,
    limit: Option<Limit>,
}

struct Limit {
    max: usize,
    successes: usize,
    decreased_at: u64,
    until: u64,
    /// When the places of ended calls become free.
    held: Vec<u64>,
}

/// Place of one call. Dropping it without [`finish`](Self::finish) counts as a call that timed out.
pub(crate) struct Place<'a> {
    limit: &'a AdaptiveLimit,
    token: u64,
    started: u64,
    is_finished: bool,
}

/// How a call ended.
enum End {
    Limited(Duration),
    Success,
    Slow,
    Failure,
}

impl AdaptiveLimit {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            hasher: RandomState::new(),
            state: Mutex::default(),
            until: AtomicU64::new(0),
            freed: Notify::new(),
        }
    }

    /// Whether the provider limits the rate at present.
    pub(crate) fn is_active(&self) -> bool {
        self.until.load(Relaxed) > self.clock.elapsed()
    }

    /// Waits for a place. Safe to drop at any time.
    pub(crate) async fn acquire(&self, token: &SessionToken) -> Result<Place<'_>, ValidationError> {
        if let Some(place) = self.try_acquire(token) {
            return Ok(place);
        }
        let waiting = self.wait().filter(|_| Handle::try_current().is_ok());
        let place = match waiting {
            Some(_waiting) => tokio::time::timeout(MAX_WAIT, self.place(token)).await.ok(),
            None => None,
        };
        place.ok_or_else(|| ValidationError::limited(Duration::from_micros(MAX_HOLD)))
    }

    async fn place(&self, token: &SessionToken) -> Place<'_> {
        loop {
            // A place whose hold has ended sends no notification.
            let _ = tokio::time::timeout(MAX_PAUSE, self.freed.notified()).await;
            if let Some(place) = self.try_acquire(token) {
                return place;
            }
        }
    }

    fn try_acquire(&self, token: &SessionToken) -> Option<Place<'_>> {
        let now = self.clock.elapsed();
        let mut state = lock(&self.state);
        if state.limit.as_ref().is_some_and(|limit| limit.until <= now) {
            state.limit = None;
        }
        if let Some(limit) = &mut state.limit {
            limit.held.retain(|until| *until > now);
            let (held, max) = (limit.held.len(), limit.max);
            if state.calls + held >= max {
                return None;
            }
        }
        state.calls += 1;
        Some(Place {
            limit: self,
            token: self.hasher.hash_one(token.expose_secret()),
            started: now,
            is_finished: false,
        })
    }

    fn wait(&self) -> Option<Waiting<'_>> {
        let mut state = lock(&self.state);
        if state.waiting >= MAX_WAITING {
            return None;
        }
        state.waiting += 1;
        Some(Waiting(self))
    }

    fn end(&self, token: u64, started: u64, end: &End) {
        let now = self.clock.elapsed();
        let mut state = lock(&self.state);
        state.calls = state.calls.saturating_sub(1);
        match end {
            End::Limited(retry_after) => {
                state.record_limited(token, started, now, *retry_after);
                if let Some(limit) = &state.limit {
                    self.until.store(limit.until, Relaxed);
                }
            }
            End::Success => state.record_success(now.saturating_sub(started)),
            End::Slow => {
                if let Some(limit) = &mut state.limit {
                    limit.decrease(started, now);
                }
            }
            End::Failure => {}
        }
        drop(state);
        self.freed.notify_one();
    }

    /// Whether a call took more than three times as long as before the limit, and a tenth of a
    /// second more.
    fn is_slow(&self, duration: u64) -> bool {
        let state = lock(&self.state);
        state.limit.is_some() && duration > state.typical.saturating_mul(3) + SECOND / 10
    }
}

impl State {
    fn record_limited(&mut self, token: u64, started: u64, now: u64, retry_after: Duration) {
        if let Some(limit) = &mut self.limit {
            limit.decrease(started, now);
            limit.until = now.saturating_add(END);
            let hold = u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX);
            if limit.held.len() < limit.max {
                limit.held.push(now.saturating_add(hold.min(MAX_HOLD)));
            }
            return;
        }
        let is_recent = |at: u64| now.saturating_sub(at) < WINDOW;
        for entry in &mut self.limited {
            *entry = entry.filter(|(other, at)| *other != token && is_recent(*at));
        }
        if let Some(free) = self.limited.iter_mut().find(|entry| entry.is_none()) {
            *free = Some((token, now));
        }
        if self.limited.iter().all(Option::is_some) {
            self.limited = Default::default();
            self.limit = Some(Limit {
                max: (self.calls / 2).max(1),
                successes: 0,
                decreased_at: now,
                until: now.saturating_add(END),
                held: Vec::new(),
            });
        }
    }

    fn record_success(&mut self, duration: u64) {
        let Some(limit) = &mut self.limit else {
            self.typical = match self.typical {
                0 => duration,
                typical => typical - typical / 8 + duration / 8,
            };
            return;
        };
        limit.successes += 1;
        if limit.successes >= limit.max {
            limit.successes = 0;
            limit.max = limit.max.saturating_add(1);
        }
    }
}

impl Limit {
    /// Halves the limit, once for all calls that ran at the same time.
    fn decrease(&mut self, started: u64, now: u64) {
        if started >= self.decreased_at {
            self.max = (self.max / 2).max(1);
            self.successes = 0;
            self.decreased_at = now;
        }
    }
}

impl Place<'_> {
    /// Restarts the measurement of the duration, if the call did not start immediately.
    pub(crate) fn start(&mut self) {
        self.started = self.limit.clock.elapsed();
    }

    pub(crate) fn finish(mut self, result: &Result<ValidatedSession, ValidationError>) {
        let duration = self.limit.clock.elapsed().saturating_sub(self.started);
        let end = match result {
            Err(error) if !error.is_rejection() => match error.provider_retry_after() {
                Some(retry_after) => End::Limited(retry_after),
                None => End::Failure,
            },
            _ if self.limit.is_slow(duration) => End::Slow,
            _ => End::Success,
        };
        self.is_finished = true;
        self.limit.end(self.token, self.started, &end);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.limit.end(self.token, self.started, &End::Slow);
        }
    }
}

struct Waiting<'a>(&'a AdaptiveLimit);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.waiting = state.waiting.saturating_sub(1);
    }
}
