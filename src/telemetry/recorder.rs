//! The `metrics` facade, in the few words that [`super::instruments`] needs.

use std::time::Instant;

use metrics::{Label, Unit};

pub(super) type Labels<'a> = &'a [(&'static str, &'static str)];

pub(super) struct Counter(metrics::Counter);

impl Counter {
    pub(super) fn new(name: &'static str, meaning: &'static str, labels: Labels<'_>) -> Self {
        metrics::describe_counter!(name, meaning);
        Self(metrics::counter!(name, constant(labels)))
    }

    pub(super) fn add(&self) {
        self.0.increment(1);
    }
}

pub(super) struct Gauge(metrics::Gauge);

impl Gauge {
    pub(super) fn new(name: &'static str, meaning: &'static str) -> Self {
        metrics::describe_gauge!(name, meaning);
        Self(metrics::gauge!(name))
    }

    pub(super) fn add(&self, more: f64) {
        self.0.increment(more);
    }
}

pub(super) struct Histogram(metrics::Histogram);

impl Histogram {
    pub(super) fn new(name: &'static str, meaning: &'static str, labels: Labels<'_>) -> Self {
        metrics::describe_histogram!(name, Unit::Seconds, meaning);
        Self(metrics::histogram!(name, constant(labels)))
    }

    pub(super) fn add(&self, since: Stopwatch) {
        self.0.record(since.0.elapsed());
    }
}

pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
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
