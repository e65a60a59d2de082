//! Circuit breaker for one Redis server. It opens after three consecutive failures, so that during
//! an outage a few requests wait for the timeout and the others skip Redis.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
};

use crate::telemetry::{Gauge, REDIS_CIRCUIT_OPEN};

/// Consecutive failures that open the breaker. A single failure may be a lost packet.
const FAILURES: u32 = 3;

/// Access that an operation needs. A server that is full, cannot save or has become a replica still
/// answers reads, so a successful read says nothing about writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Circuit breaker. While closed, it lets calls through and counts consecutive failures. While
/// open, it lets no call through, until the caller that opened it has found that Redis answers
/// again.
pub(crate) struct Breaker {
    reads: AtomicU32,
    writes: AtomicU32,
    is_open: AtomicBool,
    gauge: Gauge,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            reads: AtomicU32::default(),
            writes: AtomicU32::default(),
            is_open: AtomicBool::default(),
            gauge: Gauge::new(REDIS_CIRCUIT_OPEN),
        }
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("is_open", &self.is_open())
            .finish_non_exhaustive()
    }
}

impl Breaker {
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(SeqCst)
    }

    pub(crate) fn succeeded(&self, effect: Access) {
        reset(&self.reads);
        if effect == Access::Write {
            reset(&self.writes);
        }
    }

    /// Records a failure and returns whether it opened the breaker. Only one caller gets `true`,
    /// and it must close the breaker again.
    pub(crate) fn failed(&self, effect: Access) -> bool {
        let failures = match effect {
            Access::Read => &self.reads,
            Access::Write => &self.writes,
        };
        let failures = failures.fetch_add(1, SeqCst).saturating_add(1);
        let opens = failures >= FAILURES && !self.is_open.swap(true, SeqCst);
        if opens {
            self.gauge.set(true);
        }
        opens
    }

    pub(crate) fn close(&self) {
        self.succeeded(Access::Write);
        self.gauge.set(false);
        self.is_open.store(false, SeqCst);
    }
}

/// Resets a counter. It is usually zero already, and skipping the store then avoids contention on
/// its cache line.
fn reset(failures: &AtomicU32) {
    if failures.load(SeqCst) > 0 {
        failures.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Access::{Read, Write},
        *,
    };

    #[test]
    fn three_consecutive_failures_open_the_breaker() {
        let breaker = Breaker::default();
        assert!(!breaker.failed(Read) && !breaker.failed(Read));
        breaker.succeeded(Read);
        assert!(!breaker.failed(Read) && !breaker.failed(Read));
        assert!(!breaker.is_open());
        assert!(breaker.failed(Read) && breaker.is_open());
        assert!(!breaker.failed(Read), "it is open already");
        breaker.succeeded(Write);
        assert!(breaker.is_open(), "a late reply does not close it");
        breaker.close();
        assert!(!breaker.is_open() && !breaker.failed(Read));
    }

    #[test]
    fn successful_reads_do_not_hide_failing_writes() {
        let breaker = Breaker::default();
        for opens in [false, false, true] {
            breaker.succeeded(Read);
            assert_eq!(breaker.failed(Write), opens);
        }
        breaker.close();
        assert!(!breaker.failed(Write) && !breaker.failed(Write));
        breaker.succeeded(Write);
        assert!(!breaker.failed(Write));
    }
}
