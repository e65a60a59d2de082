//! Instruments that forward to the `metrics` facade.

use std::time::{Duration, Instant};

use metrics::{Label, Unit};

pub(crate) type Labels<'a> = &'a [(&'static str, &'static str)];

pub(super) struct Counter(metrics::Counter);

impl Counter {
    pub(super) fn new(name: &'static str, help: &'static str, labels: Labels<'_>) -> Self {
        metrics::describe_counter!(name, help);
        Self(metrics::counter!(name, constant(labels)))
    }

    pub(super) fn increment(&self) {
        self.0.increment(1);
    }
}

pub(super) struct Gauge(metrics::Gauge);

impl Gauge {
    pub(super) fn new(name: &'static str, help: &'static str, labels: Labels<'_>) -> Self {
        metrics::describe_gauge!(name, help);
        Self(metrics::gauge!(name, constant(labels)))
    }

    pub(super) fn add(&self, difference: f64) {
        self.0.increment(difference);
    }

    #[cfg(feature = "events")]
    pub(super) fn set(&self, value: f64) {
        self.0.set(value);
    }
}

pub(super) struct Histogram(metrics::Histogram);

impl Histogram {
    pub(super) fn new(name: &'static str, help: &'static str, labels: Labels<'_>) -> Self {
        metrics::describe_histogram!(name, Unit::Seconds, help);
        Self(metrics::histogram!(name, constant(labels)))
    }

    pub(super) fn record(&self, timer: Timer) {
        self.0.record(timer.0.elapsed());
    }

    pub(super) fn record_duration(&self, duration: Duration) {
        self.0.record(duration);
    }
}

pub(crate) struct Timer(Instant);

impl Timer {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

fn constant(labels: Labels<'_>) -> Vec<Label> {
    let labels = labels.iter();
    labels
        .map(|&(name, value)| Label::from_static_parts(name, value))
        .collect()
}
