//! Counters, gauges and histograms. Counters and gauges keep their value for
//! [`Stats`](super::stats::Stats). With the feature `metrics` every change also goes to the
//! `metrics` facade.
//!
//! The facade's handles are looked up when a cache is built, so that a request costs one or two
//! additions and builds no labels. All label values are constants of this crate, so no part of a
//! request can become one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

#[cfg(not(feature = "metrics"))]
use super::noop as recorder;
#[cfg(feature = "metrics")]
use super::recorder;
use recorder::Labels;
pub(crate) use recorder::Timer;

/// The name and the help text of a metric.
#[derive(Clone, Copy)]
pub(crate) struct Metric {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
}

/// What can be registered under the name of a metric.
pub(crate) trait Instrument {
    fn register(metric: Metric, labels: Labels<'_>) -> Self;
}

/// A number that only increases.
pub(crate) struct Counter {
    value: AtomicU64,
    recorder: recorder::Counter,
}

impl Instrument for Counter {
    fn register(Metric { name, help }: Metric, labels: Labels<'_>) -> Self {
        Self {
            value: AtomicU64::new(0),
            recorder: recorder::Counter::new(name, help, labels),
        }
    }
}

impl Counter {
    pub(crate) fn increment(&self) {
        self.value.fetch_add(1, Relaxed);
        self.recorder.increment();
    }

    pub(crate) fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

/// A current number. The values of all caches of a process add up under one name. When a cache is
/// dropped, its value is subtracted.
#[derive(Clone)]
pub(crate) struct Gauge(Arc<GaugeInner>);

struct GaugeInner {
    value: AtomicU64,
    recorder: recorder::Gauge,
}

impl Instrument for Gauge {
    fn register(Metric { name, help }: Metric, labels: Labels<'_>) -> Self {
        Self(Arc::new(GaugeInner {
            value: AtomicU64::new(0),
            recorder: recorder::Gauge::new(name, help, labels),
        }))
    }
}

impl Gauge {
    pub(crate) fn new(metric: Metric) -> Self {
        Self::register(metric, &[])
    }

    pub(crate) fn increment(&self) {
        self.0.value.fetch_add(1, Relaxed);
        self.0.recorder.add(1.0);
    }

    pub(crate) fn decrement(&self) {
        self.0.value.fetch_sub(1, Relaxed);
        self.0.recorder.add(-1.0);
    }

    /// Increments now, and decrements when the guard is dropped.
    pub(crate) fn guard(&self) -> GaugeGuard {
        self.increment();
        GaugeGuard(self.clone())
    }

    /// Sets the gauge to 1 or 0.
    pub(crate) fn set(&self, is_on: bool) {
        self.set_to(u32::from(is_on));
    }

    pub(crate) fn set_to(&self, value: u32) {
        let before = self.0.value.swap(value.into(), Relaxed);
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        if before != value {
            self.0.recorder.add(f64::from(value) - f64::from(before));
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.value.load(Relaxed)
    }
}

impl Drop for GaugeInner {
    fn drop(&mut self) {
        let rest = u32::try_from(*self.value.get_mut()).unwrap_or(u32::MAX);
        self.recorder.add(-f64::from(rest));
    }
}

pub(crate) struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement();
    }
}

/// The time of the latest event, which only the facade receives. If several caches of a process
/// set it, the last one wins.
#[cfg(feature = "events")]
pub(crate) struct TimeGauge(recorder::Gauge);

#[cfg(feature = "events")]
impl Instrument for TimeGauge {
    fn register(Metric { name, help }: Metric, labels: Labels<'_>) -> Self {
        Self(recorder::Gauge::new(name, help, labels))
    }
}

#[cfg(feature = "events")]
impl TimeGauge {
    /// Sets the time, in seconds since the Unix epoch.
    pub(crate) fn set(&self, seconds: f64) {
        self.0.set(seconds);
    }
}

/// Durations, which only the facade receives.
pub(crate) struct Histogram(recorder::Histogram);

impl Instrument for Histogram {
    fn register(Metric { name, help }: Metric, labels: Labels<'_>) -> Self {
        Self(recorder::Histogram::new(name, help, labels))
    }
}

impl Histogram {
    /// Records the time since the timer was started.
    pub(crate) fn record(&self, timer: Timer) {
        self.0.record(timer);
    }

    /// Records a duration that was measured elsewhere.
    pub(crate) fn record_duration(&self, duration: Duration) {
        self.0.record_duration(duration);
    }
}

/// All values of a label, so that a metric with this label is an array of instruments.
pub(crate) trait Label: Sized {
    const NAME: &'static str;

    /// One element for each value.
    type Each<T>;

    fn each<T>(make: impl FnMut(&'static str) -> T) -> Self::Each<T>;

    fn select<T>(self, each: &Self::Each<T>) -> &T;
}

/// One instrument for each value of a label. A metric with two labels is a family of families.
pub(crate) struct Family<L: Label, I>(L::Each<I>);

impl<L: Label, I: Instrument> Instrument for Family<L, I> {
    fn register(metric: Metric, labels: Labels<'_>) -> Self {
        Self(L::each(|value| {
            I::register(metric, &[labels, &[(L::NAME, value)]].concat())
        }))
    }
}

impl<L: Label, I> Family<L, I> {
    #[inline]
    pub(crate) fn with(&self, label: L) -> &I {
        label.select(&self.0)
    }
}

/// An enum of the values of a label: `enum Type: "label" { Variant = "value" }`.
macro_rules! label {
    (
        $(#[$doc:meta])*
        enum $Label:ident: $name:literal { $($Variant:ident = $value:literal),+ $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum $Label {
            $($Variant),+
        }

        impl $Label {
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Variant => $value),+
                }
            }
        }

        impl Label for $Label {
            const NAME: &'static str = $name;

            type Each<T> = [T; [$($value),+].len()];

            fn each<T>(mut make: impl FnMut(&'static str) -> T) -> Self::Each<T> {
                [$(Self::$Variant),+].map(|label| make(label.as_str()))
            }

            #[inline]
            fn select<T>(self, each: &Self::Each<T>) -> &T {
                &each[self as usize]
            }
        }
    };
}
pub(super) use label;

/// A struct of metrics that `Default` registers: `field: Instrument = "name", "help text";`.
macro_rules! metric_set {
    (
        $(#[$doc:meta])*
        struct $Set:ident { $($field:ident: $Instrument:ty = $name:literal, $help:literal;)+ }
    ) => {
        $(#[$doc])*
        pub(crate) struct $Set {
            $(#[doc = $help] pub(crate) $field: $Instrument),+
        }

        impl $Set {
            /// Registers the metrics with labels that all of them have.
            pub(crate) fn labeled(labels: &[(&'static str, &'static str)]) -> Self {
                Self {
                    $($field: Instrument::register(
                        Metric { name: $name, help: $help },
                        labels,
                    )),+
                }
            }
        }

        impl Default for $Set {
            fn default() -> Self {
                Self::labeled(&[])
            }
        }
    };
}
pub(super) use metric_set;
