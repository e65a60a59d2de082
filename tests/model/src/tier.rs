//! Model of the local cache, to which Redis sends invalidations: `coherence/lease.rs`,
//! `memory/store.rs` and `redis/invalidation.rs`.
//!
//! This separate model has one token. Redis holds its version, and a revocation makes a new one.
//! The guarantee is that no local hit hides a revocation that was acknowledged at least one lease
//! before the request began. No local hit hides a revocation by this node itself.

use crate::search::{Event, Label, Next, System};

/// Length of the lease in ticks.
const LEASE: u8 = 2;
const READS: usize = 2;
const REVOCATIONS: usize = 2;
const QUEUE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Guard {
    /// A hit needs a lease.
    HitNeedsLease,
    /// The result of a read without a lease is not kept.
    NoteNeedsLease,
    /// The lease is checked before the stripes and the epoch are compared.
    LeaseFirst,
    /// A hit compares the stripes.
    HitComparesStripes,
    /// A hit compares the epoch.
    HitComparesEpoch,
    /// A lost connection begins an epoch.
    LostBeginsEpoch,
    /// A new connection begins an epoch.
    ConnectedBeginsEpoch,
    /// A new connection begins its epoch when tracking is on, not before.
    EpochAfterTracking,
    /// The epoch is read before the read is sent.
    EpochIsNotedFirst,
    /// The sequence is read before the read is sent.
    SeenIsNotedFirst,
    /// A PONG proves that all changes from before the PING before its own was sent have been
    /// received.
    PreviousPing,
    /// A lost connection ends the lease.
    LostEndsLease,
    /// The node's own revocations count as changes, too.
    OwnCounts,
}

/// What may occur, and which rules hold.
#[derive(Clone, Copy, Debug)]
pub struct Tier {
    pub end: u8,
    pub reads: usize,
    pub revocations: usize,
    /// Whether the first revocation is this node's own.
    pub is_own: bool,
    pub losses: u8,
    /// The guards that are removed, as bits.
    pub without: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Item {
    #[default]
    Nothing,
    Push,
    Pong,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Link {
    /// There is no connection.
    #[default]
    Down,
    /// Nothing is tracked yet.
    Greeted,
    /// Redis tracks, and the node has not received the reply yet.
    Tracked,
    Up,
    /// The connection is lost, and the node has not detected it yet.
    Cut,
    /// The node has detected the loss. The epoch has begun, and the lease has not ended yet.
    Losing,
}

/// Connection on which Redis sends invalidations, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Listener {
    link: Link,
    queue: [Item; QUEUE],
    /// Number of executed writes whose invalidation has not been sent yet.
    /// `is_overtaken` is set if a PONG was sent before them, which Redis with I/O threads may do.
    pending: u8,
    is_overtaken: bool,
    /// Time at which the PING was sent whose PONG has not arrived yet.
    ping: Option<u8>,
    is_answered: bool,
    previous: Option<u8>,
    /// A push that has been counted in the sequence, but not in its stripe yet.
    counted: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Noted {
    epoch: u8,
    seen: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Read {
    #[default]
    Unborn,
    Sent(Option<Noted>),
    Carried(Option<Noted>, u8),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    version: u8,
    noted: Noted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Hit {
    #[default]
    Unborn,
    /// One of the two checks has passed. With the order changed, it was the check of this entry.
    Half {
        began: u8,
        entry: Option<Entry>,
    },
    Answered,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Revoking {
    #[default]
    Idle,
    Written(u8),
    /// A revocation by this node that has been counted.
    Counted(u8, u8),
    Acknowledged(u8, u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    time: u8,
    version: u8,
    listener: Listener,
    sequence: u8,
    stripe: u8,
    epoch: u8,
    until: u8,
    entry: Option<Entry>,
    reads: [Read; READS],
    hit: Hit,
    revoking: [Revoking; REVOCATIONS],
    losses: u8,
}

impl Tier {
    pub const BASE: Self = Self {
        end: 3,
        reads: 1,
        revocations: 1,
        is_own: false,
        losses: 1,
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

    /// Models `Lease::read_version`.
    fn note(&self, state: &State) -> Option<Noted> {
        let is_alive = state.time < state.until || !self.holds(Guard::NoteNeedsLease);
        is_alive.then_some(Noted {
            epoch: state.epoch,
            seen: state.sequence,
        })
    }

    fn is_alive(&self, state: &State) -> bool {
        state.time < state.until || !self.holds(Guard::HitNeedsLease)
    }

    /// Models `Lease::is_unchanged`.
    fn is_unchanged(&self, state: &State, noted: Noted) -> bool {
        (state.epoch == noted.epoch || !self.holds(Guard::HitComparesEpoch))
            && (state.stripe <= noted.seen || !self.holds(Guard::HitComparesStripes))
    }

    fn reads(&self, state: &State, goes: &mut dyn FnMut(&'static str, State)) {
        for n in 0..self.reads {
            let mut next = *state;
            let what = match state.reads[n] {
                Read::Unborn => {
                    next.reads[n] = Read::Sent(self.note(state));
                    "a read records its version and is sent"
                }
                Read::Sent(noted) => {
                    next.reads[n] = Read::Carried(noted, state.version);
                    "Redis executes a read"
                }
                Read::Carried(noted, version) => {
                    if let Some(mut noted) = noted {
                        if !self.holds(Guard::EpochIsNotedFirst) {
                            noted.epoch = state.epoch;
                        }
                        if !self.holds(Guard::SeenIsNotedFirst) {
                            noted.seen = state.sequence;
                        }
                        next.entry = Some(Entry { version, noted });
                    }
                    next.reads[n] = Read::Done;
                    "the reply to a read is stored"
                }
                Read::Done => continue,
            };
            goes(what, next);
        }
    }

    /// Models `LocalStore::get`, called by a request that may begin at any time. One request is
    /// enough, because a hit changes no shared state.
    fn hits(&self, state: &State) -> Option<(&'static str, State, Event)> {
        let mut next = *state;
        let is_lease_first = self.holds(Guard::LeaseFirst);
        match state.hit {
            Hit::Unborn => {
                let (is_fine, entry) = if is_lease_first {
                    (self.is_alive(state), None)
                } else {
                    let entry = state.entry?;
                    (self.is_unchanged(state, entry.noted), Some(entry))
                };
                next.hit = if is_fine {
                    let began = state.time;
                    Hit::Half { began, entry }
                } else {
                    Hit::Answered
                };
                Some(("a local lookup starts", next, Event::None))
            }
            Hit::Half { began, entry } => {
                next.hit = Hit::Answered;
                let entry = entry.or(state.entry);
                let served = entry.filter(|entry| {
                    if is_lease_first {
                        self.is_unchanged(state, entry.noted)
                    } else {
                        self.is_alive(state)
                    }
                });
                let is_stale = served.is_some_and(|entry| self.hides(state, entry, began));
                let event = if is_stale {
                    Event::Violation("the local cache served a revoked session")
                } else {
                    Event::None
                };
                Some(("a local lookup completes", next, event))
            }
            Hit::Answered => None,
        }
    }

    /// Whether the entry is older than a revocation that the request may rely on.
    fn hides(&self, state: &State, entry: Entry, began: u8) -> bool {
        state.revoking.iter().enumerate().any(|(n, revoking)| {
            let Revoking::Acknowledged(version, at) = *revoking else {
                return false;
            };
            let is_own = self.is_own && n == 0;
            // Within the tick of the acknowledgement, the order of the two is unknown.
            let is_due = if is_own {
                began > at
            } else {
                began >= at + LEASE
            };
            entry.version < version && is_due
        })
    }

    fn revokes(&self, state: &State, goes: &mut dyn FnMut(&'static str, State)) {
        for n in 0..self.revocations {
            let mut next = *state;
            let what = match state.revoking[n] {
                Revoking::Idle => {
                    next.version += 1;
                    next.revoking[n] = Revoking::Written(next.version);
                    if matches!(state.listener.link, Link::Tracked | Link::Up) {
                        next.listener.pending += 1;
                    }
                    "a revocation is written to Redis"
                }
                Revoking::Written(version)
                    if self.is_own && n == 0 && self.holds(Guard::OwnCounts) =>
                {
                    next.sequence += 1;
                    next.revoking[n] = Revoking::Counted(version, next.sequence);
                    "a revocation by this node advances the sequence"
                }
                Revoking::Counted(version, number) => {
                    next.stripe = next.stripe.max(number);
                    next.revoking[n] = Revoking::Acknowledged(version, state.time);
                    "a revocation by this node returns"
                }
                Revoking::Written(version) => {
                    next.revoking[n] = Revoking::Acknowledged(version, state.time);
                    "a revocation returns"
                }
                Revoking::Acknowledged(..) => continue,
            };
            goes(what, next);
        }
    }

    /// Emits the steps of Redis on the listener's connection.
    fn pushes(&self, state: &State, goes: &mut dyn FnMut(&'static str, State)) {
        let listener = &state.listener;
        if listener.pending > 0 {
            let mut next = *state;
            if next.listener.send(Item::Push) {
                next.listener.pending -= 1;
                next.listener.is_overtaken &= next.listener.pending > 0;
                goes("Redis sends an invalidation", next);
            }
        }
        let may_answer = !(listener.is_overtaken && listener.pending > 0);
        if listener.link == Link::Up
            && listener.ping.is_some()
            && !listener.is_answered
            && may_answer
        {
            let mut next = *state;
            if next.listener.send(Item::Pong) {
                next.listener.is_answered = true;
                next.listener.is_overtaken = next.listener.pending > 0;
                goes("Redis replies to a PING", next);
            }
        }
    }

    /// Emits the steps of the node, which model the listener in `redis/invalidation.rs`.
    fn listens(&self, state: &State, goes: &mut dyn FnMut(&'static str, State)) {
        let mut next = *state;
        let listener = &mut next.listener;
        match state.listener.link {
            Link::Down => {
                listener.link = Link::Greeted;
                if !self.holds(Guard::EpochAfterTracking) && self.holds(Guard::ConnectedBeginsEpoch)
                {
                    next.epoch += 1;
                }
                goes("the listener connects", next);
            }
            Link::Greeted => {
                listener.link = Link::Tracked;
                goes("Redis enables tracking", next);
            }
            Link::Tracked => {
                listener.link = Link::Up;
                if self.holds(Guard::EpochAfterTracking) && self.holds(Guard::ConnectedBeginsEpoch)
                {
                    next.epoch += 1;
                }
                goes("the listener receives the confirmation of tracking", next);
            }
            Link::Up => self.hears(state, goes),
            Link::Cut if listener.counted.is_some() => {
                let number = listener.counted.take().unwrap_or_default();
                next.stripe = next.stripe.max(number);
                goes("the invalidation advances the stripe", next);
            }
            Link::Cut => {
                next.listener = Listener {
                    link: Link::Losing,
                    ..Listener::default()
                };
                if self.holds(Guard::LostBeginsEpoch) {
                    next.epoch += 1;
                }
                goes("the listener detects the lost connection", next);
            }
            Link::Losing => {
                listener.link = Link::Down;
                if self.holds(Guard::LostEndsLease) {
                    next.until = 0;
                }
                goes("the listener releases the lease", next);
            }
        }
        if matches!(state.listener.link, Link::Tracked | Link::Up) && state.losses > 0 {
            let mut next = *state;
            next.losses -= 1;
            // A push that is being counted has arrived.
            next.listener = Listener {
                link: Link::Cut,
                counted: state.listener.counted,
                ..Listener::default()
            };
            goes("the connection is lost", next);
        }
    }

    fn hears(&self, state: &State, goes: &mut dyn FnMut(&'static str, State)) {
        let mut next = *state;
        let listener = &mut next.listener;
        // A second PING in flight would add no new behavior.
        if listener.ping.is_none() {
            listener.ping = Some(state.time);
            goes("the listener sends a PING", next);
        }
        let mut next = *state;
        let listener = &mut next.listener;
        if let Some(number) = listener.counted.take() {
            next.stripe = next.stripe.max(number);
            return goes("the invalidation advances the stripe", next);
        }
        match listener.receive() {
            Item::Nothing => {}
            Item::Push => {
                next.sequence += 1;
                next.listener.counted = Some(next.sequence);
                goes("the invalidation advances the sequence", next);
            }
            Item::Pong => {
                let sent = listener.ping.take();
                let previous = std::mem::replace(&mut listener.previous, sent);
                listener.is_answered = false;
                let proven = if self.holds(Guard::PreviousPing) {
                    previous
                } else {
                    sent
                };
                if let Some(proven) = proven {
                    next.until = next.until.max(proven + LEASE);
                }
                goes("a PONG extends the lease", next);
            }
        }
    }
}

impl Listener {
    /// Returns whether the queue has room. If it is full, the sender retries later.
    fn send(&mut self, item: Item) -> bool {
        let place = self.queue.iter_mut().find(|place| **place == Item::Nothing);
        place.map(|place| *place = item).is_some()
    }

    fn receive(&mut self) -> Item {
        let first = self.queue[0];
        self.queue.rotate_left(1);
        self.queue[QUEUE - 1] = Item::Nothing;
        first
    }
}

impl System for Tier {
    type State = State;

    fn first(&self) -> State {
        State {
            losses: self.losses,
            ..State::default()
        }
    }

    fn next(&self, state: &State, out: &mut Vec<Next<State>>) {
        let mut shows = |what, mut state: State, event| {
            state.reads[..self.reads].sort_unstable();
            out.push(Next {
                time: state.time,
                label: Label {
                    who: "tier",
                    number: 0,
                    what,
                },
                state,
                event,
            });
        };
        if let Some((what, next, event)) = self.hits(state) {
            shows(what, next, event);
        }
        let mut goes = |what, next| shows(what, next, Event::None);
        self.reads(state, &mut goes);
        self.revokes(state, &mut goes);
        self.pushes(state, &mut goes);
        self.listens(state, &mut goes);
        if state.time < self.end {
            let mut next = *state;
            next.time += 1;
            goes("time passes", next);
        }
    }

    fn is_at_rest(&self, _: &State) -> bool {
        true
    }
}
