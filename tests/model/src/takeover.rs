//! Model of a refresh that looks first: a node whose local entry is due takes over a record that
//! another node has validated since: `Store::lookup_newer`, `memory/store.rs`.
//!
//! This separate model has one token, two nodes with local caches, and time. The provider changes its
//! answer once, with a revocation mark or without one, and may reply as before for a while. The
//! guarantee is that the old answer is not served for longer than the documentation says: after a mark
//! until twice the lag and one tick, without a mark until the TTL has passed.

use crate::search::{Event, Label, Next, System};

const NODES: usize = 2;
/// How long a validation takes at most.
const TIMEOUT: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Guard {
    /// The life of an entry is counted from the validation of its record, whichever node made it, and
    /// not from its arrival in memory.
    CountsFromValidation,
}

/// What may occur, and which rules hold.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// Whether the change comes with a mark.
    pub has_mark: bool,
    /// Last tick after the change in which the provider may reply as before.
    pub lag: u8,
    pub ttl: u8,
    pub end: u8,
    /// Number of validations that may begin.
    pub validations: u8,
    /// The guards that are removed, as bits.
    pub without: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    is_old: bool,
    /// Time of the lookup before its validation.
    since: u8,
    has_seen_mark: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    record: Record,
    ends: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Task {
    #[default]
    Idle,
    Validates {
        since: u8,
        has_seen_mark: bool,
    },
    Validated(Record),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    entry: Option<Entry>,
    task: Task,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    time: u8,
    changed_at: Option<u8>,
    record: Option<Record>,
    nodes: [Node; NODES],
    validations: u8,
}

impl Takeover {
    #[must_use]
    pub fn without(self, guard: Guard) -> Self {
        Self {
            without: self.without | 1 << guard as u32,
            ..self
        }
    }

    fn holds(&self, guard: Guard) -> bool {
        self.without & 1 << guard as u32 == 0
    }

    /// Returns the time at which a record that was validated at `since` ends.
    fn life(&self, state: &State, since: u8) -> u8 {
        match state.changed_at {
            Some(mark) if self.has_mark => since.saturating_sub(mark).clamp(1, self.ttl),
            _ => self.ttl,
        }
    }

    fn is_acceptable(&self, state: &State, record: Record) -> bool {
        let is_marked = self.has_mark && state.changed_at.is_some();
        record.has_seen_mark == is_marked
            && state.time < record.since + self.life(state, record.since)
    }

    /// Returns the time after the change from which the old answer is not served.
    fn bound(&self) -> u8 {
        match self.has_mark {
            true => 2 * self.lag + 1,
            false => self.ttl + self.lag,
        }
    }

    fn steps_of(&self, state: &State, n: usize, goes: &mut dyn FnMut(&'static str, State, Event)) {
        let mut next = *state;
        let node = &mut next.nodes[n];
        if let Some(entry) = state.nodes[n].entry {
            if state.time < entry.ends {
                let is_late = state
                    .changed_at
                    .is_some_and(|at| state.time >= at + self.bound());
                let event = match entry.record.is_old && is_late {
                    true => Event::Violation("the old answer was served for too long"),
                    false => Event::None,
                };
                goes("a request is served from memory", *state, event);
            } else {
                node.entry = None;
                goes("an entry ends", next, Event::None);
            }
        }
        // A refresh may take over what is newer than its entry, and a miss anything.
        let newest = state.nodes[n].entry.map(|entry| entry.record.since);
        if let Some(record) = state.record
            && newest.is_none_or(|since| record.since > since)
            && self.is_acceptable(state, record)
        {
            let mut next = *state;
            let begins = match self.holds(Guard::CountsFromValidation) {
                true => record.since,
                false => state.time,
            };
            let ends = begins + self.life(state, record.since);
            next.nodes[n].entry = Some(Entry { record, ends });
            goes("takes a record over", next, Event::None);
        }
        let mut next = *state;
        match state.nodes[n].task {
            Task::Idle if state.validations == self.validations => {}
            Task::Idle => {
                next.validations += 1;
                next.nodes[n].task = Task::Validates {
                    since: state.time,
                    has_seen_mark: self.has_mark && state.changed_at.is_some(),
                };
                goes("starts a validation", next, Event::None);
            }
            Task::Validates {
                since,
                has_seen_mark,
            } => {
                let may_be_old = state
                    .changed_at
                    .is_none_or(|at| self.lag > 0 && state.time <= at + self.lag);
                for is_old in [true, false] {
                    if is_old != state.changed_at.is_none() && !(is_old && may_be_old) {
                        continue;
                    }
                    let mut next = *state;
                    next.nodes[n].task = Task::Validated(Record {
                        is_old,
                        since,
                        has_seen_mark,
                    });
                    goes("receives the answer", next, Event::None);
                }
            }
            Task::Validated(record) => {
                let is_marked = self.has_mark && state.changed_at.is_some();
                let is_newer = state
                    .record
                    .is_none_or(|standing| standing.since <= record.since);
                let may_store = record.has_seen_mark == is_marked
                    && is_newer
                    && state.time <= record.since + TIMEOUT;
                next.nodes[n].task = Task::Idle;
                if may_store {
                    next.record = Some(record);
                }
                goes("ends a validation", next, Event::None);
            }
        }
    }
}

impl System for Takeover {
    type State = State;

    fn first(&self) -> State {
        State::default()
    }

    fn next(&self, state: &State, out: &mut Vec<Next<State>>) {
        let mut shows = |who, number, what, state: State, event| {
            let label = Label { who, number, what };
            out.push(Next {
                time: state.time,
                label,
                state,
                event,
            });
        };
        for n in 0..NODES {
            self.steps_of(state, n, &mut |what, next, event| {
                shows("node", n as u8, what, next, event);
            });
        }
        let mut next = *state;
        if state.changed_at.is_none() {
            next.changed_at = Some(state.time);
            if self.has_mark {
                // The push ends the entries. How late it may be is the subject of `tier`.
                for node in &mut next.nodes {
                    node.entry = None;
                }
            }
            shows("provider", 0, "changes its answer", next, Event::None);
        }
        if state.time < self.end {
            let mut next = *state;
            next.time += 1;
            // Redis keeps a record for its life.
            next.record = state
                .record
                .filter(|record| next.time < record.since + self.life(&next, record.since));
            shows("time", 0, "passes", next, Event::None);
        }
    }

    fn is_at_rest(&self, _: &State) -> bool {
        true
    }
}
