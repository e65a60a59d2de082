//! Report of the rounds: a table of ratios, each computed within one round.

use std::fmt::Write;

use crate::{load::Measured, peers::Peer};

/// If the rounds of one server differ by more than this ratio, other load disturbed them.
const QUIET: f64 = 1.3;

/// Results of all rounds. Each round has one result for every peer.
pub struct Report {
    pub rounds: Vec<Vec<(Peer, Measured)>>,
}

/// Median, minimum and maximum over all rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => (values.get(middle.checked_sub(1)?)? + values[middle]) / 2.0,
        };
        Some(Self {
            median,
            min: *values.first()?,
            max: *values.last()?,
        })
    }
}

impl Report {
    /// Returns the throughput of one peer as a ratio to another's.
    pub fn ratio(&self, peer: Peer, to: Peer) -> Option<Spread> {
        self.spread(|round| Some(find(round, peer)?.rate() / find(round, to)?.rate()))
    }

    /// Returns the ratio to no authentication by the server's CPU time alone, which load on the
    /// machine distorts much less.
    fn cheapness(&self, peer: Peer) -> Option<Spread> {
        let none = Peer::NoAuthentication;
        self.spread(|round| Some(find(round, none)?.cpu()? / find(round, peer)?.cpu()?))
    }

    /// Describes the run: whether its ratios can be trusted, and which targets they reach.
    pub fn verdicts(&self) -> String {
        let mut text = String::new();
        let none = Peer::NoAuthentication;
        if let Some(limit) = self.ratio(Peer::Nothing, none) {
            let limit = limit.median;
            let _ = writeln!(text, "The load could do {limit:.1} times as much.");
        }
        if let Some(rate) = self.spread(|round| Some(find(round, none)?.rate()))
            && rate.max > QUIET * rate.min
        {
            let _ = writeln!(
                text,
                "NOT A QUIET MACHINE: no authentication had {:.0} to {:.0} requests per second.",
                rate.min, rate.max
            );
        }
        let targets = [
            (Peer::OursLocal, none, 0.95),
            (Peer::OursTier, none, 0.95),
            (Peer::OursRedis, Peer::RawGet, 0.90),
        ];
        for (peer, to, target) in targets {
            if let Some(Spread { median, .. }) = self.ratio(peer, to) {
                let verdict = if median >= target {
                    "reached"
                } else {
                    "MISSED"
                };
                let (peer, to) = (peer.title(), to.title());
                let _ = writeln!(
                    text,
                    "{verdict}: {peer}, {median:.2} of {to}; target {target}"
                );
            }
        }
        if let Some(Spread { median, .. }) = self.ratio(Peer::OursLocal, Peer::BareMap) {
            let _ = writeln!(
                text,
                "In the process this crate does {median:.2} of what a bare map does, the limit of any."
            );
        }
        text
    }

    fn spread(&self, of: impl Fn(&[(Peer, Measured)]) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| of(round)).collect())
    }

    /// Returns the table in Markdown.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| a request finds its user by | of no authentication | of one raw `GET` | requests per second | server's CPU, and as a ratio |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for peer in Peer::ALL.into_iter().filter(|peer| *peer != Peer::Nothing) {
            let title = peer.title();
            let title = if peer.is_ours() {
                format!("**{title}**")
            } else {
                title.to_owned()
            };
            let none = self.ratio(peer, Peer::NoAuthentication);
            let raw = self.ratio(peer, Peer::RawGet);
            let rate = self.spread(|round| Some(find(round, peer)?.rate()));
            let cpu = self
                .spread(|round| find(round, peer)?.cpu())
                .zip(self.cheapness(peer));
            let _ = writeln!(
                table,
                "| {title} | {} | {} | {} | {} |",
                show(none),
                show(raw),
                rate.map_or_else(String::new, |rate| format!("{:.0}", rate.median)),
                cpu.map_or_else(String::new, |(cpu, ratio)| {
                    format!("{:.1} µs ({:.2})", cpu.median * 1e6, ratio.median)
                }),
            );
        }
        table
    }
}

fn show(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |Spread { median, min, max }| {
        format!("{median:.2} ({min:.2} to {max:.2})")
    })
}

fn find(round: &[(Peer, Measured)], peer: Peer) -> Option<Measured> {
    round
        .iter()
        .find(|(of, _)| *of == peer)
        .map(|(_, round)| *round)
}
