//! Alternating rounds. The compared calls take turns, so that other load on the machine affects all
//! of them alike. The result is the median of the rounds.

use std::time::{Duration, Instant};

/// Minimum, median and maximum of several rounds.
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

    /// Returns the spread of the ratios `over / under`, computed round by round.
    pub fn of_ratios(over: &[f64], under: &[f64]) -> Self {
        Self::of(
            over.iter()
                .zip(under)
                .map(|(over, under)| over / under)
                .collect(),
        )
    }
}

/// Returns the nanoseconds per call, averaged over `calls` calls.
pub fn nanos(calls: usize, mut call: impl FnMut(usize)) -> f64 {
    let since = Instant::now();
    for n in 0..calls {
        call(n);
    }
    since.elapsed().as_nanos() as f64 / calls as f64
}

/// Prints whether a target is reached. The output is for people and not for an automated check,
/// because machines differ and may be busy.
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
