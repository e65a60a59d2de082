//! What is counted and measured, each in one call: kept here for [`Stats`](super::stats::Stats), and told
//! to the `metrics` facade where its feature is on.
//!
//! The facade's handles are looked up when a cache is built, so that a request makes an addition
//! or two, and no labels. All labels are words of this crate: nothing of a request can become one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

#[cfg(not(feature = "metrics"))]
use super::noop as facade;
#[cfg(feature = "metrics")]
use super::recorder as facade;
use facade::Labels;
pub(crate) use facade::Stopwatch;

/// A name, and what it means.
#[derive(Clone, Copy)]
pub(crate) struct Metric(pub(crate) &'static str, pub(crate) &'static str);

/// What only goes up.
pub(crate) struct Counter {
    count: AtomicU64,
    told: facade::Counter,
}

impl Counter {
    pub(crate) fn new(metric: Metric, labels: Labels<'_>) -> Self {
        Self {
            count: AtomicU64::new(0),
            told: facade::Counter::new(metric.0, metric.1, labels),
        }
    }

    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Relaxed);
        self.told.add();
    }

    pub(crate) fn read(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

/// How many there are now. The caches of a process add up under one name, and one that is dropped
/// takes its part away.
#[derive(Clone)]
pub(crate) struct Level(Arc<Height>);

struct Height {
    now: AtomicU64,
    told: facade::Gauge,
}

impl Level {
    pub(crate) fn new(metric: Metric) -> Self {
        Self(Arc::new(Height {
            now: AtomicU64::new(0),
            told: facade::Gauge::new(metric.0, metric.1),
        }))
    }

    pub(crate) fn up(&self) {
        self.0.now.fetch_add(1, Relaxed);
        self.0.told.add(1.0);
    }

    pub(crate) fn down(&self) {
        self.0.now.fetch_sub(1, Relaxed);
        self.0.told.add(-1.0);
    }

    /// Up until the value is dropped.
    pub(crate) fn hold(&self) -> Held {
        self.up();
        Held(self.clone())
    }

    /// One, or none.
    pub(crate) fn set(&self, is_up: bool) {
        let was_up = self.0.now.swap(u64::from(is_up), Relaxed) > 0;
        if was_up != is_up {
            self.0.told.add(if is_up { 1.0 } else { -1.0 });
        }
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.now.load(Relaxed)
    }
}

impl Drop for Height {
    fn drop(&mut self) {
        let rest = u32::try_from(*self.now.get_mut()).unwrap_or(u32::MAX);
        self.told.add(-f64::from(rest));
    }
}

pub(crate) struct Held(Level);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.down();
    }
}

/// How long things took, for the facade alone.
pub(crate) struct Latency(facade::Histogram);

impl Latency {
    pub(crate) fn new(metric: Metric, labels: Labels<'_>) -> Self {
        Self(facade::Histogram::new(metric.0, metric.1, labels))
    }

    pub(crate) fn add(&self, since: Stopwatch) {
        self.0.add(since);
    }
}
