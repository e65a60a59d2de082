//! Metrics and log lines of one receiver, and the warning when its source falls silent.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::outcome::EventOutcome;
use crate::{
    sync::{BackgroundTask, lock},
    telemetry::{EVENTS, EventLabel, EventMetrics, EventStats},
    time::Clock,
};

/// Gaps between events after which the usual one is known.
const MIN_GAPS: u32 = 3;

/// A gap of this many usual ones is a silence.
const SILENT_GAPS: u64 = 10;

/// Minimum length of a silence, in microseconds. Bursts make the usual gap short.
const MIN_SILENCE: u64 = Duration::from_secs(3600).as_micros() as u64;

/// How often the silence is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Monitor {
    shared: Arc<Shared>,
    check: BackgroundTask,
}

struct Shared {
    source: &'static str,
    clock: Clock,
    metrics: EventMetrics,
    rhythm: Mutex<Rhythm>,
}

impl Monitor {
    pub(super) fn new(source: &'static str, clock: Clock) -> Self {
        let shared = Shared {
            source,
            clock,
            metrics: EventMetrics::labeled(&[("source", source)]),
            rhythm: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            check: BackgroundTask::default(),
        }
    }

    /// Records an authentic event, whatever becomes of it.
    pub(super) fn event_arrived(&self, occurred_at: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        let shared = &self.shared;
        shared.metrics.last.set(now.timestamp_millis() as f64 / 1e3);
        if let Some(at) = occurred_at {
            // The clocks of two hosts differ, so that an event may seem to lie in the future.
            let age = (now - at).to_std().unwrap_or_default();
            shared.metrics.age.record_duration(age);
        }
        lock(&shared.rhythm).beat(shared.clock.elapsed());
        self.check.start(|| check(Arc::downgrade(shared)));
    }

    pub(super) fn stats(&self) -> EventStats {
        let Shared {
            metrics,
            rhythm,
            clock,
            ..
        } = &*self.shared;
        let now = clock.elapsed();
        let last = lock(rhythm).last;
        EventStats {
            since_last: last.map(|last| Duration::from_micros(now.saturating_sub(last))),
            ..metrics.stats()
        }
    }

    pub(super) fn duplicate(&self) {
        self.count(EventLabel::Duplicate);
    }

    pub(super) fn finished(&self, outcome: EventOutcome) {
        let label = outcome.label();
        let count = self.count(label);
        let EventOutcome::Refused(refusal) = outcome else {
            return;
        };
        // Any client can cause this, so it is logged when the number has doubled.
        if count.is_power_of_two() {
            tracing::warn!(
                target: EVENTS,
                source = self.shared.source,
                reason = refusal.reason(),
                count,
                hint = "compare the URL, the secret or the keys with the sender's settings, \
                        unless the request is an attack",
                "pushed event refused"
            );
        }
    }

    fn count(&self, label: EventLabel) -> u64 {
        let counter = self.shared.metrics.events.with(label);
        let source = self.shared.source;
        let outcome = label.as_str();
        tracing::debug!(target: EVENTS, source, outcome, "pushed event finished");
        counter.increment();
        counter.get()
    }
}

/// Warns once if the source falls silent. Ends with the receiver.
async fn check(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let silence = lock(&shared.rhythm).new_silence(shared.clock.elapsed());
        if let Some(silence) = silence {
            tracing::warn!(
                target: EVENTS,
                source = shared.source,
                silent_seconds = silence / 1_000_000,
                hint = "check whether the sender has switched the webhook off after failures",
                "no pushed events for ten times the usual gap"
            );
        }
    }
}

/// How often events arrive.
#[derive(Default)]
struct Rhythm {
    last: Option<u64>,
    /// Moving average of the gaps, in microseconds.
    usual_gap: u64,
    gaps: u32,
    is_silent: bool,
}

impl Rhythm {
    fn beat(&mut self, now: u64) {
        if let Some(last) = self.last {
            let gap = now.saturating_sub(last);
            self.usual_gap = if self.gaps == 0 {
                gap
            } else {
                self.usual_gap - self.usual_gap / 8 + gap / 8
            };
            self.gaps = self.gaps.saturating_add(1);
        }
        self.last = Some(now);
        self.is_silent = false;
    }

    /// Returns the length of a silence that has not been returned before.
    fn new_silence(&mut self, now: u64) -> Option<u64> {
        let silence = now.saturating_sub(self.last?);
        let limit = self.usual_gap.saturating_mul(SILENT_GAPS).max(MIN_SILENCE);
        if self.is_silent || self.gaps < MIN_GAPS || silence < limit {
            return None;
        }
        self.is_silent = true;
        Some(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;

    fn rhythm(gap: u64) -> (Rhythm, u64) {
        let mut rhythm = Rhythm::default();
        for event in 0..=10 {
            rhythm.beat(event * gap);
        }
        (rhythm, 10 * gap)
    }

    #[test]
    fn silence_is_ten_usual_gaps_and_reported_once() {
        let (mut rhythm, last) = rhythm(20 * MINUTE);
        assert_eq!(rhythm.new_silence(last + 199 * MINUTE), None);
        assert_eq!(rhythm.new_silence(last + 200 * MINUTE), Some(200 * MINUTE));
        assert_eq!(rhythm.new_silence(last + 300 * MINUTE), None);
        rhythm.beat(last + 300 * MINUTE);
        assert_eq!(rhythm.new_silence(last + 301 * MINUTE), None);
    }

    #[test]
    fn silence_lasts_at_least_an_hour() {
        let (mut rhythm, last) = rhythm(MINUTE);
        assert_eq!(rhythm.new_silence(last + 59 * MINUTE), None);
        assert_eq!(rhythm.new_silence(last + 60 * MINUTE), Some(60 * MINUTE));
    }

    #[test]
    fn source_that_has_hardly_sent_anything_is_not_silent() {
        let mut rhythm = Rhythm::default();
        assert_eq!(rhythm.new_silence(u64::MAX), None);
        rhythm.beat(0);
        rhythm.beat(MINUTE);
        assert_eq!(rhythm.new_silence(u64::MAX), None);
    }
}
