//! Stops asking a Redis that does not answer, so that an outage costs a few requests a timeout
//! and the others nothing.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
};

use crate::telemetry::{Gauge, REDIS_CIRCUIT_OPEN};

/// So many failures in a row open it: one may be a lost packet.
const FAILURES: u32 = 3;

/// What an operation is to do. A server that is full, cannot save, or has become a replica goes on
/// answering reads, so their success says nothing about writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Closed it lets calls through and counts failures in a row; open it lets none through, until
/// whoever opened it has found that Redis answers again.
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

    /// Whether this failure opened it: one caller is told, and has to close it again.
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

/// Mostly zero already, and then no other core needs to hear of it.
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
    fn three_failures_in_a_row_open_it_and_one_caller_closes_it() {
        let breaker = Breaker::default();
        assert!(!breaker.failed(Read) && !breaker.failed(Read));
        breaker.succeeded(Read);
        assert!(!breaker.failed(Read) && !breaker.failed(Read));
        assert!(!breaker.is_open());
        assert!(breaker.failed(Read) && breaker.is_open());
        assert!(!breaker.failed(Read), "another has been told");
        breaker.succeeded(Write);
        assert!(breaker.is_open(), "a late answer proves little");
        breaker.close();
        assert!(!breaker.is_open() && !breaker.failed(Read));
    }

    #[test]
    fn reads_that_succeed_do_not_hide_writes_that_fail() {
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
