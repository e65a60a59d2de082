//! How long a reservation lasts: a node that fails must not make others wait for much longer than a
//! validation takes.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use crate::sync::lock;

/// Longest and shortest time for which a validation is reserved. The shortest one covers the pauses of a
/// busy machine.
const LONGEST_RESERVATION: Duration = Duration::from_secs(1);
const SHORTEST_RESERVATION: Duration = Duration::from_millis(50);

const MAX_TIMES: usize = 15;

/// How long the latest validations of a provider took, from the lookup to the fill.
#[derive(Default)]
pub(super) struct ValidationTimes(Mutex<VecDeque<Duration>>);

impl ValidationTimes {
    pub(super) fn record(&self, time: Duration) {
        let mut times = lock(&self.0);
        if times.len() == MAX_TIMES {
            times.pop_front();
        }
        times.push_back(time);
    }

    /// Returns for how long a validation is reserved: twice the median.
    pub(super) fn reservation(&self) -> Duration {
        self.median().map_or(LONGEST_RESERVATION, |median| {
            (median * 2).clamp(SHORTEST_RESERVATION, LONGEST_RESERVATION)
        })
    }

    pub(super) fn median(&self) -> Option<Duration> {
        let mut times = Vec::from_iter(lock(&self.0).iter().copied());
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservation_is_twice_the_median_within_limits() {
        let times = ValidationTimes::default();
        assert_eq!(times.reservation(), LONGEST_RESERVATION, "not known yet");
        for millis in [30, 900, 40] {
            times.record(Duration::from_millis(millis));
        }
        assert_eq!(times.reservation(), Duration::from_millis(80));
        for _ in 0..MAX_TIMES {
            times.record(Duration::from_millis(1));
        }
        assert_eq!(times.reservation(), SHORTEST_RESERVATION);
        for _ in 0..MAX_TIMES {
            times.record(Duration::from_secs(5));
        }
        assert_eq!(times.reservation(), LONGEST_RESERVATION);
        assert_eq!(lock(&times.0).len(), MAX_TIMES);
    }
}
