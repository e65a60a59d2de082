//! Model of events that a provider pushes: `events/receiver.rs` and `events/applied_events.rs`.
//!
//! This separate model has one session, one event with two deliveries in flight, and two nodes, of
//! which the first receives. An event of the provider names the session, which is refused from then on,
//! or only its user, about whom the provider is asked again. The provider may send before it replies
//! otherwise. Redis may not take a write, the receiver may crash, and the sender repeats what was not
//! answered as applied. The guarantee is that what was answered as applied holds on every node, with a
//! local cache one lease later, and that an event refuses nothing but the session that it names. A
//! delivery may be sent at any time, so this covers duplicates and events in the wrong order.

use crate::search::{Event, Label, Next, System};

const NODES: usize = 2;
const DELIVERIES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Guard {
    /// An event is remembered after its revocation is in Redis.
    ActsBeforeItRemembers,
    /// An event whose revocation is only queued is not remembered.
    RemembersOnlyApplied,
    /// An event is answered as applied after its revocation is in Redis.
    AnswersOnceApplied,
    /// A session that is named by its ID is refused, whatever the provider replies.
    RefusesTheSession,
    /// An event that names only a user refuses nothing.
    UserIsAskedAbout,
    /// Trust in an answer grows with its distance from the mark.
    TrustGrows,
}

/// What may occur, and which rules hold.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    /// Whether the event names the session, and not only its user.
    pub names_session: bool,
    /// Last tick after the event was sent in which the provider may reply as before.
    pub lag: u8,
    /// Length of the lease in ticks. Zero if there is no local cache.
    pub lease: u8,
    pub end: u8,
    /// How often the event is in flight at the same time.
    pub deliveries: usize,
    /// Whether the sender repeats an event whose revocation is only queued.
    pub repeats: bool,
    /// How often Redis may not take a write, and how often the receiver may crash.
    pub cuts: u8,
    pub crashes: u8,
    /// The guards that are removed, as bits.
    pub without: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Delivery {
    #[default]
    Unsent,
    Received,
    /// With a guard off: the event is answered or remembered, and its revocation is not in Redis yet.
    Acts {
        is_answered: bool,
    },
    Applied,
    /// Answered as applied. Anything else is sent again.
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    /// Whether it is from an answer as before the event.
    is_old: bool,
    /// Time of the lookup before the validation, and the mark that it saw.
    since: u8,
    mark: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Request {
    #[default]
    None,
    /// `relies` if the guarantee applied when the request began.
    Validates {
        relies: bool,
        since: u8,
        mark: u8,
    },
    Validated {
        relies: bool,
        record: Record,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    entry: Option<Record>,
    request: Request,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    time: u8,
    sent_at: Option<u8>,
    deliveries: [Delivery; DELIVERIES],
    is_remembered: bool,
    is_queued: bool,
    is_ended: bool,
    /// Number of marks so far, and the time of the last one.
    mark: u8,
    marked_at: u8,
    record: Option<Record>,
    nodes: [Node; NODES],
    /// When the event was first answered as applied, and the time of the mark by then.
    answered: Option<(u8, u8)>,
    /// A crash has lost a queued revocation that the sender does not repeat.
    is_lost: bool,
    cuts: u8,
    crashes: u8,
}

impl Push {
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

    /// Whether a request that begins now must not be served with an answer from before the event.
    fn relies(&self, state: &State) -> bool {
        let is_due = |(at, marked_at): (u8, u8)| {
            let is_settled = state.time >= at + self.lease;
            let is_known =
                self.names_session || self.lag == 0 || state.time > marked_at + 2 * self.lag;
            is_settled && is_known
        };
        state.answered.is_some_and(is_due)
    }

    fn is_trusted(&self, state: &State, record: Record) -> bool {
        let distance = record.since.saturating_sub(state.marked_at).max(1);
        state.mark == 0
            || self.lag == 0
            || state.time < record.since + distance
            || !self.holds(Guard::TrustGrows)
    }

    fn is_acceptable(&self, state: &State, record: Record) -> bool {
        record.mark == state.mark && self.is_trusted(state, record)
    }

    /// Writes the revocation. What it does on this node is done at the same time.
    fn revoke(&self, state: &mut State) {
        let refuses = match self.names_session {
            true => self.holds(Guard::RefusesTheSession),
            false => !self.holds(Guard::UserIsAskedAbout),
        };
        state.is_ended |= refuses;
        state.mark += 1;
        state.marked_at = state.time;
        state.nodes[0].entry = None;
    }

    fn answer(state: &mut State, n: usize) {
        state.deliveries[n] = Delivery::Answered;
        let now = (state.time, state.marked_at);
        state.answered.get_or_insert(now);
    }

    fn delivers(&self, state: &State, n: usize, goes: &mut dyn FnMut(&'static str, State)) {
        let mut next = *state;
        let acts_first = self.holds(Guard::ActsBeforeItRemembers);
        match state.deliveries[n] {
            Delivery::Unsent => {
                next.deliveries[n] = Delivery::Received;
                next.sent_at.get_or_insert(state.time);
                goes("the provider sends the event", next);
            }
            Delivery::Received if state.is_remembered => {
                Self::answer(&mut next, n);
                goes("a duplicate is answered as applied", next);
            }
            Delivery::Received if !acts_first => {
                next.is_remembered = true;
                next.deliveries[n] = Delivery::Acts { is_answered: false };
                goes("the event is remembered", next);
            }
            Delivery::Received if !self.holds(Guard::AnswersOnceApplied) => {
                Self::answer(&mut next, n);
                next.deliveries[n] = Delivery::Acts { is_answered: true };
                goes("the event is answered as applied", next);
            }
            Delivery::Received | Delivery::Acts { .. } => {
                let is_answered = state.deliveries[n] == Delivery::Acts { is_answered: true };
                self.revoke(&mut next);
                next.deliveries[n] = match is_answered {
                    true => Delivery::Answered,
                    false => Delivery::Applied,
                };
                goes("the revocation is in Redis", next);
                if state.cuts > 0 {
                    let mut next = *state;
                    next.cuts -= 1;
                    next.is_queued = true;
                    next.is_remembered |= !self.holds(Guard::RemembersOnlyApplied);
                    next.deliveries[n] = match self.repeats && !is_answered {
                        true => Delivery::Unsent,
                        false => Delivery::Answered,
                    };
                    goes("the revocation is queued", next);
                }
            }
            Delivery::Applied => {
                next.is_remembered = true;
                Self::answer(&mut next, n);
                goes("the event is remembered and answered as applied", next);
            }
            Delivery::Answered => {}
        }
    }

    fn crash(&self, state: &State) -> State {
        let mut next = *state;
        next.crashes -= 1;
        next.is_lost |= state.is_queued && !self.repeats;
        (next.is_remembered, next.is_queued) = (false, false);
        next.nodes[0] = Node::default();
        for delivery in &mut next.deliveries {
            *delivery = match *delivery {
                Delivery::Answered | Delivery::Acts { is_answered: true } => Delivery::Answered,
                _ => Delivery::Unsent,
            };
        }
        next
    }

    /// Serves a request, or rejects it if there is no record.
    fn serve(&self, state: &State, relies: bool, record: Option<Record>) -> Event {
        match record {
            Some(record) if relies && record.is_old => {
                Event::Violation("an answer from before the event was served")
            }
            Some(record) if state.is_lost && record.is_old => Event::Limit,
            None if !self.names_session => Event::Violation("a valid session was rejected"),
            _ => Event::None,
        }
    }

    fn requests(&self, state: &State, n: usize, goes: &mut dyn FnMut(&'static str, State, Event)) {
        let mut next = *state;
        let node = &mut next.nodes[n];
        match state.nodes[n].request {
            Request::None => {
                let relies = self.relies(state);
                // The push of a mark arrives within a lease.
                let is_unheard = |record: Record| {
                    record.mark == state.mark || state.time < state.marked_at + self.lease
                };
                if let Some(record) = state.nodes[n].entry
                    && self.is_trusted(state, record)
                    && is_unheard(record)
                {
                    let event = self.serve(state, relies, Some(record));
                    goes("a request is served from memory", *state, event);
                }
                let found = state.record;
                if let Some(record) = found.filter(|found| self.is_acceptable(state, *found)) {
                    node.entry = (self.lease > 0).then_some(record);
                    let event = self.serve(state, relies, Some(record));
                    goes("a request is served from Redis", next, event);
                } else {
                    node.request = Request::Validates {
                        relies,
                        since: state.time,
                        mark: state.mark,
                    };
                    goes("a request finds nothing usable", next, Event::None);
                }
            }
            Request::Validates {
                relies,
                since,
                mark,
            } => {
                let may_be_old = state
                    .sent_at
                    .is_none_or(|at| self.lag > 0 && state.time <= at + self.lag);
                let answers = [(true, may_be_old), (false, state.sent_at.is_some())];
                for (is_old, _) in answers.into_iter().filter(|(_, may_be)| *may_be) {
                    let mut next = *state;
                    // The provider does not accept a session that has ended.
                    if !is_old && self.names_session {
                        next.nodes[n].request = Request::None;
                        let event = self.serve(state, relies, None);
                        goes("the provider rejects the session", next, event);
                        continue;
                    }
                    let record = Record {
                        is_old,
                        since,
                        mark,
                    };
                    next.nodes[n].request = Request::Validated { relies, record };
                    goes("the provider accepts the session", next, Event::None);
                }
            }
            Request::Validated { relies, record } => {
                node.request = Request::None;
                if state.is_ended {
                    let event = self.serve(state, relies, None);
                    goes("the fill finds an ended session", next, event);
                } else if record.mark != state.mark {
                    node.request = Request::Validates {
                        relies,
                        since: state.time,
                        mark: state.mark,
                    };
                    goes("the fill conflicts", next, Event::None);
                } else {
                    next.record = Some(record);
                    let event = self.serve(state, relies, Some(record));
                    goes("the session is stored and served", next, event);
                }
            }
        }
    }
}

impl System for Push {
    type State = State;

    fn first(&self) -> State {
        State {
            cuts: self.cuts,
            crashes: self.crashes,
            ..State::default()
        }
    }

    fn next(&self, state: &State, out: &mut Vec<Next<State>>) {
        let mut shows = |who, number, what, mut state: State, event| {
            // Nothing refers to a delivery by its number.
            state.deliveries[..self.deliveries].sort_unstable();
            let label = Label { who, number, what };
            out.push(Next {
                time: state.time,
                label,
                state,
                event,
            });
        };
        for n in 0..NODES {
            self.requests(state, n, &mut |what, next, event| {
                shows("node", n as u8, what, next, event);
            });
        }
        for n in 0..self.deliveries {
            self.delivers(state, n, &mut |what, next| {
                shows("delivery", n as u8, what, next, Event::None);
            });
        }
        if state.is_queued {
            let mut next = *state;
            next.is_queued = false;
            self.revoke(&mut next);
            shows("queue", 0, "is delivered", next, Event::None);
        }
        if state.crashes > 0 {
            let next = self.crash(state);
            shows("receiver", 0, "crashes", next, Event::None);
        }
        if state.time < self.end {
            let mut next = *state;
            next.time += 1;
            shows("time", 0, "passes", next, Event::None);
        }
    }

    fn is_at_rest(&self, _: &State) -> bool {
        true
    }
}
