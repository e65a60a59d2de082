//! Stops asking a Redis that does not answer, so that an outage costs a few requests a deadline
//! and the others nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

/// So many failures in a row open it: one may be a lost packet.
const FAILURES: u32 = 3;

/// Closed it lets calls through and counts failures in a row; open it lets none through, until
/// whoever opened it has found that Redis answers again.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: AtomicU32,
    is_open: AtomicBool,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(SeqCst)
    }

    pub(super) fn succeeded(&self) {
        // Mostly zero already, and then no other core needs to hear of it.
        if self.failures.load(SeqCst) > 0 {
            self.failures.store(0, SeqCst);
        }
    }

    /// Whether this failure opened it: one caller is told, and has to close it again.
    pub(super) fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, SeqCst).saturating_add(1);
        failures >= FAILURES && !self.is_open.swap(true, SeqCst)
    }

    pub(super) fn close(&self) {
        self.failures.store(0, SeqCst);
        self.is_open.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_open_it_and_one_caller_closes_it() {
        let breaker = Breaker::default();
        assert!(!breaker.failed() && !breaker.failed());
        breaker.succeeded();
        assert!(!breaker.failed() && !breaker.failed());
        assert!(!breaker.is_open());
        assert!(breaker.failed() && breaker.is_open());
        assert!(!breaker.failed(), "another has been told");
        breaker.succeeded();
        assert!(breaker.is_open(), "a late answer proves little");
        breaker.close();
        assert!(!breaker.is_open() && !breaker.failed());
    }
}
