//! Validations that one node makes for all: reservations, refreshes that look first, and rejections
//! by the provider that nodes share.
//!
//! Reservations have no state here. A leader that has found nothing usable may wait for another node
//! or go on, in any order and as often as it likes, so this covers a reservation that is lost, late or
//! stolen, or that outlives its node.
//!
//! A rejection is shared for one tick after the provider's reply at first, and for twice as long the
//! next time. It ends when a session of the token is stored or the token is invalidated, and on the
//! node that invalidates a user.

use crate::{
    Emit, Model,
    bounds::Mode,
    leader::{completes, own_lookup, second_lookup},
    redis::standing,
    rules::Rule,
    state::{
        Ask, Key, Leader, LookupSnapshot, Outcome, Phase, Rejection, Request, Revoke, State, Step,
        Ticket, Timestamp, Version,
    },
};

type Goes<'a> = &'a mut dyn FnMut(&'static str, &State, Phase, Step);

impl Model {
    /// A session in use is validated again. Its refresh takes over a record that is newer by now, or
    /// needs a ticket.
    pub(crate) fn refreshes(&self, state: &State, node: usize, token: usize, emit: &mut Emit<'_>) {
        let is_led = state.nodes[node].leaders[token].is_some();
        if is_led || state.left.refreshes == 0 || self.bounds.mode == Mode::InProcess {
            return;
        }
        for (what, serve) in [
            ("starts a refresh that may find a newer record", true),
            ("starts a refresh that finds no newer record", false),
        ] {
            let mut next = *state;
            next.left.refreshes -= 1;
            next.nodes[node].leaders[token] = Some(Leader {
                phase: Phase::Open,
                step: own_lookup(self.start_look(state, node, token, serve)),
                next: None,
                is_refresh: true,
            });
            emit.goes("leader", node, what, next);
        }
    }

    /// Models `Resolver::await_other_node`, and a refresh that is left to another node.
    pub(crate) fn waits_or_gives_up(
        &self,
        state: &State,
        node: usize,
        token: usize,
        leader: Leader,
        ticket: Ticket,
        goes: Goes<'_>,
    ) {
        // A closed leader has waited before, or must not wait.
        if !self.bounds.reserves || leader.phase != Phase::Open || !ticket.is_answered() {
            return;
        }
        let phase = leader.phase;
        if leader.is_refresh {
            if self.holds(Rule::AsksOnceClosed) {
                goes(
                    "finds that another node validates, and closes",
                    state,
                    Phase::Closed,
                    Step::GivesUp(ticket),
                );
            } else if !is_awaited(state, node, token) {
                let step = completes(Outcome::Denied);
                goes("leaves the refresh to another node", state, phase, step);
            }
            return;
        }
        if self.holds(Rule::WaiterDecidesAsAlways) {
            let progress = self.start_look(state, node, token, true);
            let step = own_lookup(progress);
            goes("waits for another node and looks again", state, phase, step);
        } else if let Some(record) = standing(state.redis.data.records[token]) {
            let step = completes(Outcome::Cached(record));
            goes("takes what another node has stored", state, phase, step);
        }
    }

    pub(crate) fn gives_up(
        &self,
        state: &State,
        node: usize,
        token: usize,
        ticket: Ticket,
        goes: Goes<'_>,
    ) {
        let phase = Phase::Closed;
        if !is_awaited(state, node, token) {
            let step = completes(Outcome::Denied);
            return goes("leaves the refresh to another node", state, phase, step);
        }
        let again = false;
        let step = Step::Validates { ticket, again };
        goes("starts the validation", state, phase, step);
        let step = second_lookup(self.start_look(state, node, token, true));
        goes("waits for another node and looks again", state, phase, step);
    }

    /// Models `reject.lua`. The provider replied at tick `at`.
    pub(crate) fn reject(&self, state: &mut State, token: usize, seen: &LookupSnapshot, at: u8) {
        let time = state.time;
        let data = &mut state.redis.data;
        let last = standing(data.rejections[token]);
        let is_overtaken = (self.holds(Rule::RejectionYieldsToRecord)
            && data.records[token].is_some())
            || (self.holds(Rule::RejectionComparesTomb)
                && standing(data.tombs[token]) != seen.tomb)
            || (self.holds(Rule::RejectionYieldsToLater)
                && last.is_some_and(|last| last.fence > seen.fence));
        if is_overtaken {
            return;
        }
        let last_wait = if self.holds(Rule::RejectionCountsOnce) {
            seen.last_wait
        } else {
            last.map_or(0, |last| last.wait)
        };
        let wait = match last_wait {
            0 if self.holds(Rule::FirstRejectionIsShort) => 1,
            0 => self.bounds.negative_ttl,
            last => (2 * last).min(self.bounds.negative_ttl),
        };
        let begins = if self.holds(Rule::RejectionLastsFromReply) {
            at
        } else {
            time
        };
        let rejection = Rejection {
            fence: seen.fence,
            until: begins + wait,
            wait,
        };
        let end = rejection.until + self.bounds.negative_ttl;
        if time < end {
            data.rejections[token] = Some(Key(rejection, end));
        }
    }

    /// Whether a lookup that finds nothing usable answers with a shared rejection.
    pub(crate) fn is_rejected(&self, state: &State, asked: Option<(usize, usize)>) -> bool {
        let Some((node, token)) = asked else {
            return false;
        };
        let rejection = standing(state.redis.data.rejections[token]);
        let revoked_at = state.nodes[node].revoked_user_at;
        rejection.is_some_and(|rejection| {
            let at = rejection.until - rejection.wait;
            let is_renewed = self.holds(Rule::OwnRevocationEndsRejections)
                && revoked_at.is_some_and(|revoked| revoked >= at);
            state.time < rejection.until && !is_renewed
        })
    }

    /// A fill ends the shared rejection, unless a later validation was rejected. Returns whether it
    /// may store.
    pub(crate) fn ends_rejection(&self, state: &mut State, token: usize, fence: Timestamp) -> bool {
        let rejection = &mut state.redis.data.rejections[token];
        let is_later = standing(*rejection).is_some_and(|rejection| rejection.fence > fence);
        if is_later && self.holds(Rule::FillYieldsToRejection) {
            return false;
        }
        if self.holds(Rule::SuccessEndsRejection) {
            *rejection = None;
        }
        true
    }

    /// The provider has rejected the token. It is asked only after the time of a rejection that the
    /// lookup saw.
    pub(crate) fn counts_rejection(&self, state: &mut State, token: usize, seen: &LookupSnapshot) {
        let wavering = &mut state.ghost.wavering[token];
        wavering.rejected_at = Some(state.time);
        wavering.is_repeated |= seen.last_wait > 0;
        for request in &mut state.requests {
            if let Request::Asks {
                token: of, floor, ..
            } = request
                && usize::from(*of) == token
            {
                floor.must_ask = false;
            }
        }
    }

    /// A session was stored.
    pub(crate) fn has_stored(&self, state: &mut State, token: usize, version: Version) {
        let is_current = version == state.provider.versions[token];
        if is_current && self.accepts_again(state, token) {
            state.ghost.wavering[token].is_stored = true;
        }
    }

    /// Whether the provider accepts a token that it has rejected before.
    fn accepts_again(&self, state: &State, token: usize) -> bool {
        self.bounds.negative_ttl > 0
            && !state.provider.dead[token]
            && state.provider.versions[token] > 0
    }

    /// A revocation that has returned calls for another answer of the provider: one of the token on
    /// all nodes, one of a user on its node.
    pub(crate) fn calls_for_an_answer(
        &self,
        state: &mut State,
        node: usize,
        what: Revoke,
        is_queued: bool,
    ) {
        match what {
            Revoke::Token(token, _) if !is_queued && self.accepts_again(state, token.into()) => {
                state.ghost.wavering[usize::from(token)].is_renewed = true;
            }
            Revoke::User if self.accepts_again(state, 0) => state.nodes[node].must_ask = true,
            _ => {}
        }
    }

    /// Whether a request that begins now must not get a rejection from before.
    pub(crate) fn must_ask(&self, state: &State, node: Option<usize>, token: usize) -> bool {
        let wavering = &state.ghost.wavering[token];
        let longest = if wavering.is_repeated {
            self.bounds.negative_ttl
        } else {
            1
        };
        let is_over = |at| state.time >= at + longest;
        wavering.is_stored
            || wavering.is_renewed
            || wavering.rejected_at.is_some_and(is_over)
            || node.is_some_and(|node| state.nodes[node].must_ask)
    }
}

/// Models `Leader::is_awaited`.
fn is_awaited(state: &State, at: usize, of: usize) -> bool {
    state.requests.iter().any(|request| {
        matches!(
            *request,
            Request::Asks {
                node,
                token,
                ask: Ask::Waits {
                    for_next: false,
                    ..
                },
                ..
            } if (usize::from(node), usize::from(token)) == (at, of)
        )
    })
}

/// Returns how long the last shared rejection was used, which makes the next one longer.
pub(crate) fn last_wait(state: &State, token: usize) -> u8 {
    standing(state.redis.data.rejections[token]).map_or(0, |rejection| rejection.wait)
}
