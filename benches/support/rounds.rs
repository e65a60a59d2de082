//! Alternating rounds: what is compared takes turns, so that whatever else the machine does meets
//! all of it alike, and of the rounds the middle counts.

use std::time::{Duration, Instant};

/// The least, the middle and the most of some rounds.
#[derive(Clone, Copy)]
pub struct Spread {
    pub least: f64,
    pub middle: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        Self {
            least: rounds[0],
            middle: rounds[rounds.len() / 2],
            most: rounds[rounds.len() - 1],
        }
    }

    /// Of the rounds of one thing by those of another, pair by pair.
    pub fn of_ratios(over: &[f64], under: &[f64]) -> Self {
        Self::of(
            over.iter()
                .zip(under)
                .map(|(over, under)| over / under)
                .collect(),
        )
    }
}

/// Nanoseconds of one call, over `calls` of them.
pub fn nanos(calls: usize, mut call: impl FnMut(usize)) -> f64 {
    let since = Instant::now();
    for n in 0..calls {
        call(n);
    }
    since.elapsed().as_nanos() as f64 / calls as f64
}

/// Whether a target is reached, for people and not for a check: machines differ, and are busy.
pub fn verdict(what: &str, ratio: Spread, limit: f64, at_least: bool) {
    let Spread {
        least,
        middle,
        most,
    } = ratio;
    let (word, reached) = match at_least {
        true => ("at least", middle >= limit),
        false => ("at most", middle <= limit),
    };
    let verdict = if reached { "reached" } else { "NOT reached" };
    println!("{what}: {middle:.2} ({least:.2} to {most:.2}); target {word} {limit}: {verdict}");
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
