//! Model of reservations: how many nodes validate a token that is requested on all of them, and how
//! long a node waits: `reserve.lua`, `fill.lua` and `Resolver::await_other_node`.
//!
//! This separate model has one token without a record. The guarantee is one validation, and one more
//! for each fault: a node that ends or fails, one that takes longer than its reservation lasts, and a
//! reservation that is lost or stolen. Every node ends, whatever happens to the reservation. That
//! reservations are irrelevant for revocations is shown in `fleet`.

use crate::search::{Event, Label, Next, System};

const NODES: usize = 3;
/// How long a reservation lasts, in ticks.
const LASTS: u8 = 1;
/// How long a node waits at most.
const LONGEST_WAIT: u8 = 3;
/// Last tick in which a node begins, and the end of time.
const LAST_BEGIN: u8 = 2;
const END: u8 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Guard {
    /// One script finds that there is no record and reserves.
    ReadsAndReservesAtOnce,
    /// The record is stored no later than the reservation is deleted.
    StoresBeforeItReleases,
    /// A node deletes only a reservation of its own.
    DeletesOnlyItsOwn,
    /// A reservation ends by itself.
    EndsByItself,
    /// A node validates without a reservation after the longest wait.
    WaitEnds,
}

/// What may occur, and which rules hold.
#[derive(Clone, Copy, Debug)]
pub struct Reservations {
    /// Number of faults that may occur.
    pub faults: u8,
    /// Whether a reservation may be replaced by that of no node, which stays.
    pub is_blocked: bool,
    /// The guards that are removed, as bits.
    pub without: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Node {
    #[default]
    Unborn,
    /// With a guard off: the node has found no record, and reserves next.
    Read,
    Waits {
        since: u8,
    },
    Validates {
        since: u8,
    },
    /// With a guard off: the reservation is deleted, and the record is stored next.
    Released,
    Done,
}

/// Holder of the reservation, and the tick in which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reservation {
    holder: Option<u8>,
    end: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    time: u8,
    is_stored: bool,
    reservation: Option<Reservation>,
    nodes: [Node; NODES],
    validations: u8,
    faults: u8,
    is_blocked: bool,
}

impl Reservations {
    pub const BASE: Self = Self {
        faults: 0,
        is_blocked: false,
        without: 0,
    };

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

    fn reserve(&self, state: &mut State, n: usize, since: Option<u8>) {
        let own = Some(n as u8);
        let is_held = match state.reservation {
            None => {
                let end = match self.holds(Guard::EndsByItself) {
                    true => state.time + LASTS,
                    false => u8::MAX,
                };
                state.reservation = Some(Reservation { holder: own, end });
                true
            }
            Some(reservation) => reservation.holder == own,
        };
        if is_held {
            self.validate(state, n);
        } else {
            let since = since.unwrap_or(state.time);
            state.nodes[n] = Node::Waits { since };
        }
    }

    fn validate(&self, state: &mut State, n: usize) {
        state.validations += 1;
        state.nodes[n] = Node::Validates { since: state.time };
    }

    fn release(&self, state: &mut State, n: usize) {
        let is_own = state
            .reservation
            .is_some_and(|reservation| reservation.holder == Some(n as u8));
        if is_own || !self.holds(Guard::DeletesOnlyItsOwn) {
            state.reservation = None;
        }
    }

    fn steps_of(&self, state: &State, n: usize, goes: &mut dyn FnMut(&'static str, State)) {
        let mut next = *state;
        match state.nodes[n] {
            Node::Unborn if state.is_stored => {
                next.nodes[n] = Node::Done;
                goes("finds the record", next);
            }
            Node::Unborn if !self.holds(Guard::ReadsAndReservesAtOnce) => {
                next.nodes[n] = Node::Read;
                goes("finds no record", next);
            }
            Node::Unborn | Node::Read => {
                self.reserve(&mut next, n, None);
                goes("reserves, or finds a reservation", next);
            }
            Node::Waits { .. } if state.is_stored => {
                next.nodes[n] = Node::Done;
                goes("finds the record", next);
            }
            Node::Waits { since } => {
                let is_over = state.time >= since + LONGEST_WAIT;
                if is_over && self.holds(Guard::WaitEnds) {
                    self.validate(&mut next, n);
                    goes("does not wait any longer", next);
                } else if state.reservation.is_none() {
                    self.reserve(&mut next, n, Some(since));
                    goes("reserves after the end of a reservation", next);
                }
            }
            Node::Validates { since } => {
                // One that takes longer than the reservation lasts has been counted as a fault.
                let is_slow = state.time >= since + LASTS;
                if self.holds(Guard::StoresBeforeItReleases) {
                    next.is_stored = true;
                    self.release(&mut next, n);
                    next.nodes[n] = Node::Done;
                    goes("stores the record and releases", next);
                } else {
                    self.release(&mut next, n);
                    next.nodes[n] = Node::Released;
                    goes("releases", next);
                }
                if state.faults > 0 || is_slow {
                    let mut next = *state;
                    next.faults -= u8::from(!is_slow);
                    next.nodes[n] = Node::Done;
                    goes("ends without a trace", next);
                    self.release(&mut next, n);
                    goes("fails and releases", next);
                }
            }
            Node::Released => {
                next.is_stored = true;
                next.nodes[n] = Node::Done;
                goes("stores the record", next);
            }
            Node::Done => {}
        }
    }

    /// Whether time may pass: a waiting node looks again within a tick, and a validation that takes
    /// longer than its reservation lasts is a fault.
    fn passes(&self, state: &State) -> Option<State> {
        let mut next = *state;
        next.time += 1;
        for n in 0..NODES {
            match state.nodes[n] {
                Node::Waits { since } => {
                    let is_over = state.time >= since + LONGEST_WAIT && self.holds(Guard::WaitEnds);
                    if state.is_stored || state.reservation.is_none() || is_over {
                        return None;
                    }
                }
                Node::Validates { since } if next.time == since + LASTS => {
                    next.faults = next.faults.checked_sub(1)?;
                }
                Node::Unborn if state.time >= LAST_BEGIN => return None,
                Node::Read | Node::Released => return None,
                _ => {}
            }
        }
        next.reservation = state
            .reservation
            .filter(|reservation| next.time < reservation.end);
        (state.time < END).then_some(next)
    }
}

impl System for Reservations {
    type State = State;

    fn first(&self) -> State {
        State {
            faults: self.faults,
            is_blocked: self.is_blocked,
            ..State::default()
        }
    }

    fn next(&self, state: &State, out: &mut Vec<Next<State>>) {
        let mut goes = |who, number, what, state: State| {
            let used = self.faults - state.faults;
            let event = match state.validations > 1 + used && !self.is_blocked {
                true => Event::Violation("the token was validated once more than necessary"),
                false => Event::None,
            };
            let label = Label { who, number, what };
            out.push(Next {
                time: state.time,
                label,
                state,
                event,
            });
        };
        for n in 0..NODES {
            self.steps_of(state, n, &mut |what, next| {
                goes("node", n as u8, what, next)
            });
        }
        if let Some(next) = self.passes(state) {
            goes("time", 0, "passes", next);
        }
        if state.reservation.is_some() && state.faults > 0 {
            let mut next = *state;
            next.faults -= 1;
            next.reservation = None;
            goes("Redis", 0, "loses the reservation", next);
        }
        if state.is_blocked {
            let mut next = *state;
            next.is_blocked = false;
            next.reservation = Some(Reservation {
                holder: None,
                end: u8::MAX,
            });
            goes("Redis", 0, "gets the reservation of no node", next);
        }
    }

    fn is_at_rest(&self, state: &State) -> bool {
        state.nodes.iter().all(|node| *node == Node::Done)
    }
}
