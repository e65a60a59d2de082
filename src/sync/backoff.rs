//! Exponential backoff with jitter.

use std::{collections::hash_map::RandomState, hash::BuildHasher, time::Duration};

/// Pauses between attempts, each about twice as long as the one before.
pub(crate) struct Backoff {
    first: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    /// Starts again with the first pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Returns the next pause, at most `longest`. Half of it is random, because nodes that lost the
    /// same server must not all reconnect at the same moment.
    pub(crate) fn pause(&mut self, longest: Duration) -> Duration {
        let pause = self.next.min(longest);
        self.next = pause * 2;
        let random = RandomState::new().hash_one(()) % 1_000;
        pause / 2 + (pause / 2_000) * u32::try_from(random).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);

    #[test]
    fn pauses_double_up_to_the_limit_and_have_jitter() {
        for longest in [2, 30].map(Duration::from_secs) {
            let mut backoff = Backoff::new(FIRST);
            let mut most = FIRST;
            for _ in 0..20 {
                let pause = backoff.pause(longest);
                assert!(most / 2 <= pause && pause < most, "{pause:?} of {most:?}");
                most = (most * 2).min(longest);
            }
            let pauses = [(); 20].map(|()| backoff.pause(longest));
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }

    #[test]
    fn a_shorter_limit_applies_immediately() {
        let mut backoff = Backoff::new(Duration::from_secs(30));
        assert!(backoff.pause(Duration::from_secs(2)) < Duration::from_secs(2));
    }

    #[test]
    fn reset_starts_with_the_first_pause() {
        let mut backoff = Backoff::new(FIRST);
        for _ in 0..5 {
            backoff.pause(Duration::from_secs(2));
        }
        backoff.reset();
        assert!(backoff.pause(Duration::from_secs(2)) < FIRST);
    }
}
