//! Model of what may be served after a restart of Redis that lost its data: `coherence/bridge.rs`
//! and `Store::bridged`.
//!
//! This separate model has one token, whose session is in the local cache when it begins. The
//! guarantee is that a request is not served with it after a revocation that returned before, if
//! the new server holds the revocation, or if this node made or received it. A revocation that only
//! the old server held is not guaranteed to apply. Nor is a request served with it after one that was
//! answered with a rejection by the provider which another node has shared.

use crate::search::{Event, Label, Next, System};

const REVOCATIONS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Guard {
    /// The generations of the entry are compared.
    ComparesGenerations,
    /// Tombstone and mark are read from the new server.
    ReadsServer,
    /// The node's own revocations advance the copy of the generations.
    OwnAdvancesCopy,
    /// The generations are copied when the listener connects to the new server, not when that
    /// server is noticed.
    CopiesOnConnection,
    /// A request that is answered with a shared rejection evicts the entry.
    RejectionEvicts,
}

/// Which rules hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bridge {
    /// The guards that are removed, as bits.
    without: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Server {
    #[default]
    Old,
    New,
}

/// Connection of the listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Link {
    /// To the old server. What it has pushed arrives even after its end.
    #[default]
    Old,
    Down,
    New,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Revoking {
    #[default]
    Idle,
    Written(Server),
    Returned(Server),
}

/// Rejection by the provider that another node shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Rejection {
    #[default]
    None,
    Shared,
    /// A request to this node was answered with it.
    Answered,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Request {
    #[default]
    Unborn,
    /// The entry may be served, as far as the node knows. `must_apply` if a revocation is
    /// guaranteed to apply, and `is_lost` if one had returned that is not.
    Checked {
        must_apply: bool,
        is_lost: bool,
    },
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    server: Server,
    link: Link,
    is_noticed: bool,
    /// How often the stripe of the session was advanced.
    stripe: u8,
    copy: Option<u8>,
    /// The first revocation is the node's own.
    revoking: [Revoking; REVOCATIONS],
    /// Which revocations the node has counted.
    is_known: [bool; REVOCATIONS],
    /// Whether the new server has pushed that the session was stored again.
    has_refilled: bool,
    rejection: Rejection,
    is_evicted: bool,
    request: Request,
}

impl Bridge {
    #[must_use]
    pub fn without(self, guard: Guard) -> Self {
        Self {
            without: self.without | 1 << guard as u32,
        }
    }

    fn holds(self, guard: Guard) -> bool {
        self.without & 1 << guard as u32 == 0
    }

    /// Models `Lease::is_bridged`.
    fn covers(self, state: &State) -> bool {
        let is_current = state.copy.unwrap_or(state.stripe) == 0;
        state.is_noticed
            && !state.is_evicted
            && (is_current || !self.holds(Guard::ComparesGenerations))
    }

    fn revokes(self, state: &State, n: usize, goes: &mut dyn FnMut(&'static str, State)) {
        let mut next = *state;
        let is_own = n == 0;
        match state.revoking[n] {
            Revoking::Idle => {
                next.revoking[n] = Revoking::Written(state.server);
                goes("a revocation is written to Redis", next);
            }
            Revoking::Written(server) if is_own && !state.is_known[n] => {
                next.is_known[n] = true;
                next.stripe += 1;
                if self.holds(Guard::OwnAdvancesCopy) {
                    next.copy = next.copy.map(|stripe| stripe + 1);
                }
                next.revoking[n] = Revoking::Returned(server);
                goes("a revocation by this node is counted and returns", next);
            }
            Revoking::Written(server) => {
                next.revoking[n] = Revoking::Returned(server);
                goes("a revocation returns", next);
            }
            Revoking::Returned(_) => {}
        }
        let is_pushed = match state.revoking[n] {
            Revoking::Idle => false,
            Revoking::Written(server) | Revoking::Returned(server) => {
                (server, state.link) == (Server::Old, Link::Old)
                    || (server, state.link) == (Server::New, Link::New)
            }
        };
        if is_pushed && !is_own && !state.is_known[n] {
            let mut next = *state;
            next.is_known[n] = true;
            next.stripe += 1;
            goes("the push of a revocation arrives", next);
        }
    }

    fn listens(self, state: &State, goes: &mut dyn FnMut(&'static str, State)) {
        let copies_on_connection = self.holds(Guard::CopiesOnConnection);
        let mut next = *state;
        if state.server == Server::Old {
            next.server = Server::New;
            goes("Redis restarts without its data", next);
            return;
        }
        if !state.is_noticed {
            next.is_noticed = true;
            if !copies_on_connection {
                next.copy = Some(state.stripe);
            }
            goes("the node notices the new server", next);
        }
        let mut next = *state;
        match state.link {
            Link::Old => {
                next.link = Link::Down;
                goes("the listener detects the lost connection", next);
            }
            Link::Down => {
                next.link = Link::New;
                if copies_on_connection && state.is_noticed {
                    next.copy = Some(state.stripe);
                }
                goes("the listener connects to the new server", next);
            }
            Link::New if !state.has_refilled => {
                next.has_refilled = true;
                next.stripe += 1;
                goes("the push of a session that was stored arrives", next);
            }
            Link::New => {}
        }
    }

    fn rejects(self, state: &State, goes: &mut dyn FnMut(&'static str, State)) {
        let mut next = *state;
        match state.rejection {
            Rejection::None if state.server == Server::New => {
                next.rejection = Rejection::Shared;
                goes("another node shares a rejection by the provider", next);
            }
            Rejection::Shared => {
                next.rejection = Rejection::Answered;
                next.is_evicted = self.holds(Guard::RejectionEvicts);
                goes("a request is answered with the shared rejection", next);
            }
            Rejection::None | Rejection::Answered => {}
        }
    }

    /// Models `Store::bridged`, called by a request that may begin at any time.
    fn requests(self, state: &State) -> Option<(&'static str, State, Event)> {
        let mut next = *state;
        match state.request {
            Request::Unborn => {
                let mut must_apply = state.rejection == Rejection::Answered;
                let mut is_lost = false;
                for (n, revoking) in state.revoking.iter().enumerate() {
                    if let Revoking::Returned(server) = *revoking {
                        let applies = n == 0 || server == Server::New || state.is_known[n];
                        must_apply |= applies;
                        is_lost |= !applies;
                    }
                }
                next.request = match self.covers(state) {
                    true => Request::Checked {
                        must_apply,
                        is_lost,
                    },
                    false => Request::Done,
                };
                Some(("a request compares the generations", next, Event::None))
            }
            Request::Checked {
                must_apply,
                is_lost,
            } => {
                let holds = |revoking: &Revoking| {
                    *revoking == Revoking::Written(Server::New)
                        || *revoking == Revoking::Returned(Server::New)
                };
                let is_revoked = state.revoking.iter().any(holds);
                let is_served = !is_revoked || !self.holds(Guard::ReadsServer);
                let event = match is_served {
                    true if must_apply => Event::Violation("a revoked session was served"),
                    true if is_lost => Event::Limit,
                    _ => Event::None,
                };
                next.request = Request::Done;
                Some(("a request reads the new server", next, event))
            }
            Request::Done => None,
        }
    }
}

impl System for Bridge {
    type State = State;

    fn first(&self) -> State {
        State::default()
    }

    fn next(&self, state: &State, out: &mut Vec<Next<State>>) {
        let mut shows = |what, state, event| {
            let label = Label {
                who: "bridge",
                number: 0,
                what,
            };
            out.push(Next {
                time: 0,
                label,
                state,
                event,
            });
        };
        if let Some((what, next, event)) = self.requests(state) {
            shows(what, next, event);
        }
        let mut goes = |what, next| shows(what, next, Event::None);
        for n in 0..REVOCATIONS {
            self.revokes(state, n, &mut goes);
        }
        self.listens(state, &mut goes);
        self.rejects(state, &mut goes);
    }

    fn is_at_rest(&self, _: &State) -> bool {
        true
    }
}
