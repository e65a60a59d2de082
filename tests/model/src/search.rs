//! Breadth-first search over all interleavings, so that the first trace found is a shortest one.
//!
//! A visited state is stored as a 64-bit hash, together with the hash of its predecessor. If two
//! states collide, one of them is not searched. Among ten million states the chance is one in
//! 400,000.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
};

use crate::{Model, State};

/// State machine to search.
pub trait System {
    type State: Copy + Hash;

    fn first(&self) -> Self::State;

    /// Collects every possible next step.
    fn next(&self, state: &Self::State, out: &mut Vec<Next<Self::State>>);

    /// Whether no request would wait forever if no further step occurred.
    fn is_at_rest(&self, state: &Self::State) -> bool;

    /// Searches until the guarantee is violated, or through all states.
    fn check(&self) -> Report {
        search(self, Until::Violation)
    }

    fn search(&self, until: Until) -> Report {
        search(self, until)
    }
}

type CameFrom = HashMap<u64, u64, BuildHasherDefault<Identity>>;

/// What a step shows, in addition to the next state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    None,
    /// The guarantee is violated.
    Violation(&'static str),
    /// Something that is not guaranteed has occurred.
    Limit,
    /// Served from a cache with what is still valid after a revocation whose mark is young.
    SoonAgain,
}

pub struct Next<S> {
    /// Time after the step.
    pub time: u8,
    pub label: Label,
    pub state: S,
    pub event: Event,
}

/// Actor of a step, and its action.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    pub who: &'static str,
    pub number: u8,
    pub what: &'static str,
}

#[derive(Debug, Default)]
pub struct Report {
    pub states: usize,
    pub steps: usize,
    pub depth: usize,
    pub limits: usize,
    pub soon_again: usize,
    /// Shortest trace to the event that the search was for.
    pub trace: Option<(&'static str, Vec<String>)>,
}

impl Report {
    pub fn print(&self, name: &str) {
        let Self {
            states,
            steps,
            depth,
            ..
        } = self;
        println!("{states:>9} states, {steps:>9} steps, {depth:>3} deep: {name}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trace {
            Some((what, lines)) => {
                writeln!(f, "{what}")?;
                lines.iter().try_for_each(|line| writeln!(f, "{line}"))
            }
            None => writeln!(f, "no violation in {} states", self.states),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Violation,
    Limit,
}

impl System for Model {
    type State = State;

    fn first(&self) -> State {
        self.first_state()
    }

    fn next(&self, state: &State, out: &mut Vec<Next<State>>) {
        self.next_states(state, out);
    }

    fn is_at_rest(&self, state: &State) -> bool {
        self.nobody_waits(state)
    }
}

fn search<M: System + ?Sized>(system: &M, until: Until) -> Report {
    let first = system.first();
    let mut report = Report::default();
    let mut came_from = CameFrom::default();
    came_from.insert(hash(&first), 0);
    let mut level = vec![(hash(&first), first)];
    let mut nexts = Vec::new();
    while !level.is_empty() {
        report.depth += 1;
        let mut following = Vec::new();
        for (here, state) in &level {
            let here = *here;
            nexts.clear();
            system.next(state, &mut nexts);
            if nexts.is_empty() && !system.is_at_rest(state) {
                let trace = trace(system, &came_from, here, None);
                report.trace = Some(("deadlock: a request never completes", trace));
                report.states = came_from.len();
                return report;
            }
            for next in &nexts {
                report.steps += 1;
                let found = match next.event {
                    Event::Violation(what) => Some(what),
                    Event::Limit => {
                        report.limits += 1;
                        (until == Until::Limit).then_some("a documented limit was reached")
                    }
                    Event::SoonAgain => {
                        report.soon_again += 1;
                        None
                    }
                    Event::None => None,
                };
                if let Some(what) = found {
                    report.trace = Some((what, trace(system, &came_from, here, Some(next))));
                    report.states = came_from.len();
                    return report;
                }
                let there = hash(&next.state);
                if let Entry::Vacant(place) = came_from.entry(there) {
                    place.insert(here);
                    following.push((there, next.state));
                }
            }
        }
        level = following;
    }
    report.states = came_from.len();
    report
}

fn trace<M: System + ?Sized>(
    system: &M,
    came_from: &CameFrom,
    end: u64,
    last: Option<&Next<M::State>>,
) -> Vec<String> {
    let mut way = vec![end];
    while let Some(&before) = way.last().and_then(|at| came_from.get(at))
        && before != 0
    {
        way.push(before);
    }
    let mut state = system.first();
    let mut lines = Vec::new();
    for at in way.iter().rev().skip(1) {
        let mut nexts = Vec::new();
        system.next(&state, &mut nexts);
        if let Some(next) = nexts.iter().find(|next| hash(&next.state) == *at) {
            lines.push(next.line());
            state = next.state;
        }
    }
    lines.extend(last.map(Next::line));
    lines
}

impl<S> Next<S> {
    fn line(&self) -> String {
        let Label { who, number, what } = self.label;
        format!("{:>3}  {who} {number}: {what}", self.time)
    }
}

fn hash(state: &impl Hash) -> u64 {
    let mut mixer = Mixer(0x9e37_79b9_7f4a_7c15);
    state.hash(&mut mixer);
    mixer.finish()
}

/// Folded multiplication: fast on many small integers, and every bit affects the result.
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, value: u64) {
        let product =
            u128::from(self.0 ^ value.wrapping_add(0x2d35_8dcc_aa6c_78a5)) * 0x8bb8_4b93_962e_acc9;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {
        unreachable!("the map hashes only `u64` keys");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
