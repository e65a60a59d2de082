//! Model of the revocation protocol. It is checked in all interleavings.
//!
//! The guarantee is in `src/cache/handle.rs`: a request that begins after a revocation returned
//! `Ok` is never served from a cache, on any node, with what was validated before the change at the
//! identity provider. What the crate does in one script or under one lock is one step here. Between
//! two steps, any step of any other node, request or server may occur. `tests/promise.rs` shows
//! that the guarantee holds, `tests/guards.rs` that it is violated if a rule is removed, and
//! `tests/limits.rs` what is not guaranteed, and for how long.
//!
//! | here | in the crate |
//! | --- | --- |
//! | `redis` | `redis/scripts/*.lua`, `protocol/acceptance.rs` |
//! | `lookup` | `cache/store.rs`, `redis/commands/lookup.rs` |
//! | `leader` | `sync/singleflight.rs`, `resolver/resolve.rs` (`lead`), the fill of `cache/store.rs` |
//! | `request` | `resolver/resolve.rs` (`resolve`) |
//! | `revoke` | `cache/revoke.rs`, `coherence/generations.rs`, `memory/denials.rs` |
//! | `session` | ended sessions and bans: the same scripts, `cache/revoke.rs`, the fill of `cache/store.rs` |
//! | `refusals` | rejections by the provider that Redis does not know: `memory/rejections.rs` |
//! | `fleet` | validations that one node makes for all: `resolver/reservation.rs`, `reject.lua`, `fill.lua` |
//! | `lag` | `protocol/lifetime.rs` (`trust`), `protocol/acceptance.rs` (`trusted_until`) |
//! | `peer` | the Python service |
//! | `tier` | the local cache: `coherence/lease.rs`, `redis/invalidation.rs` |
//! | `events` | what a provider pushes: `events/receiver.rs`, `events/applied_events.rs` |
//! | `reservation` | how many nodes validate, and how long one waits: `reserve.lua`, `resolver/reservation.rs` |
//! | `takeover` | how long a node serves what another node has validated: `Store::lookup_newer` |
//! | `bridge` | what is served after a restart: `coherence/bridge.rs`, `Store::bridged` |

pub mod bounds;
pub mod bridge;
pub mod configurations;
pub mod events;
mod fleet;
mod lag;
mod leader;
mod lookup;
mod peer;
mod redis;
mod refusals;
mod request;
pub mod reservation;
mod revoke;
pub mod rules;
pub mod search;
mod session;
pub mod state;
pub mod takeover;
pub mod tier;
mod world;

pub use self::{
    bounds::Bounds,
    rules::{Rule, Rules},
    search::{Event, Report, System},
};
use self::{
    search::{Label, Next},
    state::{Key, Record, Request, State, Timestamp},
};

#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub bounds: Bounds,
    pub rules: Rules,
}

impl Model {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            rules: Rules::all(),
        }
    }

    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self {
            rules: self.rules.without(rule),
            ..self
        }
    }

    fn holds(&self, rule: Rule) -> bool {
        self.rules.hold(rule)
    }

    fn first_state(&self) -> State {
        let mut state = State {
            left: self.bounds.left,
            ..State::default()
        };
        if self.bounds.is_warm {
            let fence = Timestamp::at(0);
            let record = Record {
                version: 0,
                cached_at: fence.minus(self.bounds.ticks.slack),
                provenance: Some(state::Provenance {
                    fence,
                    seen_tomb: None,
                    seen_mark: None,
                    run: 0,
                    mark_run: 0,
                }),
            };
            state.redis.data.records[0] = Some(Key(record, self.bounds.ticks.ttl[0]));
            if self.bounds.is_in_session(0) {
                self.add_name(&mut state.redis.data, self.bounds.ticks.ttl[0]);
            }
        }
        for node in &mut state.nodes {
            node.known_run = Some(0);
        }
        state
    }

    fn next_states(&self, state: &State, out: &mut Vec<Next<State>>) {
        let mut emit = Emit {
            out,
            bounds: &self.bounds,
        };
        self.requests(state, &mut emit);
        for node in 0..self.bounds.nodes.into() {
            for token in 0..self.bounds.tokens.into() {
                self.lead(state, node, token, &mut emit);
                self.refreshes(state, node, token, &mut emit);
            }
        }
        self.revocations(state, &mut emit);
        self.wavers(state, &mut emit);
        self.peer(state, &mut emit);
        self.world(state, &mut emit);
    }

    fn nobody_waits(&self, state: &State) -> bool {
        state.requests[..self.bounds.requests]
            .iter()
            .all(|request| *request == Request::Answered)
    }
}

pub(crate) struct Emit<'a> {
    out: &'a mut Vec<Next<State>>,
    bounds: &'a Bounds,
}

impl Emit<'_> {
    fn goes(&mut self, who: &'static str, number: usize, what: &'static str, state: State) {
        self.shows(who, number, what, state, Event::None);
    }

    fn shows(
        &mut self,
        who: &'static str,
        number: usize,
        what: &'static str,
        mut state: State,
        event: Event,
    ) {
        // Nothing else refers to a request by its number, so the order of requests is irrelevant.
        state.requests[..self.bounds.requests].sort_unstable();
        state.peer[..self.bounds.peer].sort_unstable();
        let label = Label {
            who,
            number: number as u8,
            what,
        };
        self.out.push(Next {
            time: state.time,
            label,
            state,
            event,
        });
    }
}
