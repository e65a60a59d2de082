//! Replacement for `recorder.rs` without the feature `metrics`. It does nothing, at no cost.

pub(crate) type Labels<'a> = &'a [(&'static str, &'static str)];

pub(super) struct Counter;

impl Counter {
    pub(super) fn new(_: &'static str, _: &'static str, _: Labels<'_>) -> Self {
        Self
    }

    pub(super) fn increment(&self) {}
}

pub(super) struct Gauge;

impl Gauge {
    pub(super) fn new(_: &'static str, _: &'static str, _: Labels<'_>) -> Self {
        Self
    }

    pub(super) fn add(&self, _: f64) {}

    #[cfg(feature = "events")]
    pub(super) fn set(&self, _: f64) {}
}

pub(super) struct Histogram;

impl Histogram {
    pub(super) fn new(_: &'static str, _: &'static str, _: Labels<'_>) -> Self {
        Self
    }

    pub(super) fn record(&self, _: Timer) {}

    pub(super) fn record_duration(&self, _: std::time::Duration) {}
}

pub(crate) struct Timer;

impl Timer {
    pub(crate) fn start() -> Self {
        Self
    }
}
