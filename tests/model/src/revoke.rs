//! Revocations, and the delivery of those that Redis did not accept immediately:
//! `src/cache/revoke.rs`.
//!
//! The code adds a logged-out token to its list of revoked tokens before it writes to Redis. Here
//! both are one step, since the earlier entry only rejects more. Advancing the stripe and returning
//! are one step here, too, since a later return guarantees less.

use crate::{
    Emit, Model,
    bounds::Kind,
    rules::Rule,
    state::{
        Command, Delivering, FORBIDDEN, RevocationQueue, Revoke, Revoking, State, TOKENS, Version,
        Write,
    },
};

impl Revoke {
    fn is_lift(self) -> bool {
        matches!(self, Self::LiftBan | Self::LiftToken(_))
    }
}

impl Model {
    pub(crate) fn revocations(&self, state: &State, emit: &mut Emit<'_>) {
        for (n, kind) in self.bounds.revocations.iter().enumerate() {
            let is_next = !self.bounds.is_ordered
                || state.revocations[..n]
                    .iter()
                    .all(|earlier| *earlier == Revoking::Done);
            if let Some((node, what)) = kind.and_then(Kind::by_node)
                && is_next
            {
                self.revokes(state, n, node, what, emit);
            }
        }
        for node in 0..self.bounds.nodes.into() {
            self.delivers(state, node, emit);
        }
    }

    /// Even a provider that goes on accepting a logged-out token rejects it once the session has
    /// ended.
    pub(crate) fn is_rejection(&self, state: &State, token: usize) -> bool {
        state.provider.dead[token] || state.time >= self.bounds.ticks.max_session_lifetime
    }

    /// Makes the change at the provider and returns its versions from now on. A version of zero is
    /// unchanged.
    pub(crate) fn tell_provider(&self, state: &mut State, what: Revoke) -> [Version; TOKENS] {
        let mut versions = [0; TOKENS];
        match what {
            Revoke::Token(token, true) => {
                versions[usize::from(token)] = FORBIDDEN;
                state.provider.dead[usize::from(token)] |= !self.bounds.forgives;
            }
            Revoke::Token(token, false) | Revoke::LiftToken(token) => {
                let token = usize::from(token);
                state.provider.versions[token] += 1;
                versions[token] = state.provider.versions[token];
                self.is_late_with(state, token);
            }
            // After a lift everything is validated again.
            Revoke::User | Revoke::LiftBan => {
                for (token, version) in versions
                    .iter_mut()
                    .enumerate()
                    .take(self.bounds.tokens.into())
                {
                    state.provider.versions[token] += 1;
                    *version = state.provider.versions[token];
                    self.is_late_with(state, token);
                }
            }
            // A provider that accepts the tokens of an ended session is the reason why Redis knows
            // of it: `Ghost::ended`.
            Revoke::Session | Revoke::LogOut(_) if self.bounds.forgives => {}
            Revoke::Session | Revoke::LogOut(_) => {
                let session = usize::from(self.bounds.session);
                versions[..session].fill(FORBIDDEN);
                state.provider.dead[..session].fill(true);
            }
            Revoke::Ban => {}
        }
        versions
    }

    /// Whether another revocation of the opposite kind is in progress.
    fn is_opposed(&self, state: &State, n: usize, what: Revoke) -> bool {
        let is_running = |m: usize| {
            let revoking = state.revocations[m];
            m != n && revoking != Revoking::Idle && revoking != Revoking::Done
        };
        self.bounds
            .revocations
            .iter()
            .enumerate()
            .filter(|(m, _)| is_running(*m))
            .filter_map(|(_, kind)| kind.and_then(Kind::by_node))
            .any(|(_, other)| other.is_lift() != what.is_lift())
    }

    /// Updates what requests may rely on when a revocation starts.
    fn starts(&self, state: &mut State, n: usize, what: Revoke) {
        let has_lifts = self
            .bounds
            .revocations
            .iter()
            .filter_map(|kind| kind.and_then(Kind::by_node))
            .any(|(_, what)| what.is_lift());
        if !has_lifts {
            return;
        }
        state.ghost.is_disputed |= self.is_opposed(state, n, what);
        if what.is_lift() {
            self.start_lifting(state, what);
        } else {
            self.stop_relying(state);
        }
    }

    fn revokes(&self, state: &State, n: usize, node: usize, what: Revoke, emit: &mut Emit<'_>) {
        let mut next = *state;
        let mut goes = |what, mut next: State, step| {
            next.revocations[n] = step;
            emit.goes("revocation", n, what, next);
        };
        match state.revocations[n] {
            Revoking::Idle => {
                self.starts(&mut next, n, what);
                let versions = if self.holds(Rule::ProviderFirst) {
                    self.tell_provider(&mut next, what)
                } else {
                    [0; TOKENS]
                };
                if !self.holds(Rule::EvictsAfterWrite) {
                    let number = self.count(&mut next, node);
                    self.apply(&mut next, node, what, number);
                }
                goes(
                    "revokes at the provider",
                    next,
                    Revoking::Notified {
                        versions,
                        write: Write::default(),
                    },
                );
            }
            Revoking::Notified { versions, write } => {
                self.refuse(&mut next, node, what);
                if self.holds(Rule::ListsBeforeCounting) {
                    self.list(&mut next, node, what);
                }
                if self.is_behind(&next, node, what) {
                    return goes("must queue", next, Revoking::Unanswered(versions));
                }
                if !next.nodes[node].is_cut {
                    self.meet(&mut next, node);
                    let step = match self.write(&mut next, what, write) {
                        Some(write) => Revoking::Notified { versions, write },
                        None => Revoking::Written(versions),
                    };
                    goes("writes to Redis", next, step);
                    return;
                }
                goes("receives no reply", next, Revoking::Unanswered(versions));
                let can_linger = next.nodes[node].known_run == Some(next.redis.run);
                if self.bounds.has_pipe && next.redis.pipe.is_none() && can_linger {
                    next.redis.pipe = Some(Command::Revoke(what));
                    goes(
                        "times out while Redis still holds the command",
                        next,
                        Revoking::Unanswered(versions),
                    );
                }
            }
            Revoking::Written(versions) => {
                let is_queued = false;
                if !self.holds(Rule::EvictsAfterWrite) || !self.holds(Rule::CountsRevocations) {
                    let returns = Revoking::Returns {
                        versions,
                        is_queued,
                    };
                    return goes("skips the sequence", next, returns);
                }
                let number = self.count(&mut next, node);
                let counted = Revoking::Counted {
                    versions,
                    number,
                    is_queued,
                };
                goes("advances the sequence", next, counted);
            }
            Revoking::Unanswered(versions) => {
                if self.holds(Rule::DeniesBeforeCounting) {
                    self.queue(&mut next, node, what, versions);
                    goes("enters the queue", next, Revoking::Queued(versions));
                } else {
                    let number = self.count(&mut next, node);
                    let counted = Revoking::Counted {
                        versions,
                        number,
                        is_queued: true,
                    };
                    goes("advances the sequence", next, counted);
                }
            }
            Revoking::Queued(versions) => {
                let number = self.count(&mut next, node);
                let counted = Revoking::Counted {
                    versions,
                    number,
                    is_queued: true,
                };
                goes("advances the sequence", next, counted);
            }
            Revoking::Counted {
                versions,
                number,
                is_queued,
            } => {
                self.apply(&mut next, node, what, number);
                if is_queued && !self.holds(Rule::DeniesBeforeCounting) {
                    let returns = Revoking::Returns {
                        versions,
                        is_queued,
                    };
                    return goes("advances the stripe", next, returns);
                }
                self.returns(&mut next, node, what, versions, is_queued);
                goes("returns", next, Revoking::Done);
            }
            Revoking::Returns {
                versions,
                is_queued,
            } => {
                if is_queued {
                    self.queue(&mut next, node, what, versions);
                }
                self.returns(&mut next, node, what, versions, is_queued);
                goes("returns", next, Revoking::Done);
            }
            Revoking::Done => {}
        }
    }

    fn returns(
        &self,
        state: &mut State,
        node: usize,
        what: Revoke,
        mut versions: [Version; TOKENS],
        is_queued: bool,
    ) {
        if !self.holds(Rule::ProviderFirst) {
            versions = self.tell_provider(state, what);
        }
        self.list(state, node, what);
        self.calls_for_an_answer(state, node, what, is_queued);
        let here = &mut state.nodes[node];
        match what {
            Revoke::Session | Revoke::LogOut(_) => here.ended_here |= self.bounds.forgives,
            Revoke::Ban => here.banned_here = is_queued && !state.ghost.is_disputed,
            _ => {}
        }
        if is_queued {
            for (token, version) in versions.into_iter().enumerate() {
                let here = &mut state.nodes[node].here[token];
                *here = version.max(*here);
            }
            // If a logout never reaches Redis, only the provider can reject the token.
            if !(self.bounds.forgives && versions.contains(&FORBIDDEN)) {
                self.limit(state, versions);
            }
        } else {
            self.promise_of(state, what, versions);
        }
    }

    /// Records what a revocation guarantees once it is in Redis.
    fn promise_of(&self, state: &mut State, what: Revoke, mut versions: [Version; TOKENS]) {
        let is_final = !state.ghost.is_disputed && !self.is_opposed(state, usize::MAX, what);
        match what {
            Revoke::Session if state.ghost.has_lost_names => return self.limit(state, versions),
            Revoke::Session | Revoke::LogOut(_) => state.ghost.ended |= self.bounds.forgives,
            Revoke::Ban => state.ghost.banned = is_final,
            Revoke::LiftBan | Revoke::LiftToken(_) => {
                state.ghost.is_lifted = is_final && self.bounds.session == 0;
            }
            Revoke::Token(token, true) if !is_final => versions[usize::from(token)] = 0,
            _ => {}
        }
        self.promise(state, versions);
    }

    pub(crate) fn promise(&self, state: &mut State, versions: [Version; TOKENS]) {
        if self.bounds.lag > 0 {
            return self.limit(state, versions);
        }
        for (token, version) in versions.into_iter().enumerate() {
            let floor = &mut state.ghost.everywhere[token];
            *floor = version.max(*floor);
        }
    }

    /// Records versions that are guaranteed only after TTL, deadline and slack.
    pub(crate) fn limit(&self, state: &mut State, versions: [Version; TOKENS]) {
        for (token, version) in versions.into_iter().enumerate() {
            let limit = &mut state.ghost.limits[token];
            if version > limit.0 {
                *limit = (version, state.time);
            }
        }
    }

    /// Models `LocalStore::insert_revoked_token`.
    fn refuse(&self, state: &mut State, node: usize, what: Revoke) {
        if let Revoke::Token(token, true) | Revoke::LogOut(token) = what {
            state.nodes[node].verdicts[usize::from(token)] = true;
        }
    }

    /// Adds the session to this process's list of ended sessions.
    fn list(&self, state: &mut State, node: usize, what: Revoke) {
        if let Revoke::Session | Revoke::LogOut(_) = what {
            state.nodes[node].ended = true;
        }
    }

    /// Whether the revocation takes back one that is in the queue of this node.
    fn is_behind(&self, state: &State, node: usize, what: Revoke) -> bool {
        self.holds(Rule::LiftQueuesBehind)
            && what.is_lift()
            && state.nodes[node]
                .queue
                .iter()
                .flatten()
                .any(|waiting| !waiting.what.is_lift())
    }

    /// Models the first step of `Generations::advance`.
    fn count(&self, state: &mut State, node: usize) -> u8 {
        let sequence = &mut state.nodes[node].sequence;
        *sequence += 1;
        *sequence
    }

    /// Models the second step of `Generations::advance`.
    fn apply(&self, state: &mut State, node: usize, what: Revoke, number: u8) {
        self.lift_here(state, node, what);
        let time = state.time;
        let node = &mut state.nodes[node];
        if let Revoke::Token(token, _) | Revoke::LogOut(token) | Revoke::LiftToken(token) = what {
            let token = usize::from(token);
            node.entries[token] = None;
            node.token_stripes[token] = number.max(node.token_stripes[token]);
        }
        let counts_user = match what {
            Revoke::Token(..) | Revoke::LiftToken(_) => false,
            Revoke::User | Revoke::Ban | Revoke::LiftBan => true,
            Revoke::Session | Revoke::LogOut(_) => self.holds(Rule::EndCountsUser),
        };
        if counts_user && self.bounds.negative_ttl > 0 {
            node.revoked_user_at = Some(time);
        }
        if counts_user {
            node.user_stripe = number.max(node.user_stripe);
        }
    }

    /// Models `RevocationQueue::push`.
    fn queue(&self, state: &mut State, node: usize, what: Revoke, versions: [Version; TOKENS]) {
        let ticks = &self.bounds.ticks;
        let records_end = state.time + ticks.bound(node);
        let until = match what {
            Revoke::Token(_, true) | Revoke::Session | Revoke::LogOut(_) | Revoke::Ban => {
                state.time + ticks.max_session_lifetime
            }
            _ => records_end,
        };
        let node = &mut state.nodes[node];
        let place = node.queue[..self.bounds.max_queued]
            .iter_mut()
            .find(|place| place.is_none());
        match place {
            Some(place) => {
                *place = Some(RevocationQueue {
                    what,
                    versions,
                    until,
                });
            }
            None if self.holds(Rule::FullQueueServesNothing) => node.nothing_until = records_end,
            None => {}
        }
    }

    /// Models `Store::has_queued_revocation`. The user is known only if there is a record.
    pub(crate) fn is_denied(
        &self,
        state: &State,
        node: usize,
        token: usize,
        user: bool,
        began: u8,
    ) -> bool {
        let node = &state.nodes[node];
        node.nothing_until > began
            || node
                .queue
                .iter()
                .flatten()
                .any(|waiting| match waiting.what {
                    Revoke::Token(of, _) | Revoke::LiftToken(of) => usize::from(of) == token,
                    Revoke::User | Revoke::Ban | Revoke::LiftBan => user,
                    Revoke::Session => user && self.bounds.is_in_session(token),
                    Revoke::LogOut(of) => user || usize::from(of) == token,
                })
    }

    /// Models `deliver_queued`.
    fn delivers(&self, state: &State, node: usize, emit: &mut Emit<'_>) {
        let Some(first) = state.nodes[node].queue[0] else {
            return;
        };
        let mut next = *state;
        let mut goes = |what, mut next: State, step| {
            next.nodes[node].delivering = step;
            emit.goes("delivery of node", node, what, next);
        };
        match state.nodes[node].delivering {
            Delivering::Next if state.time >= first.until => {
                if self.holds(Rule::CountsGivenUp) {
                    goes(
                        "expires in the queue",
                        next,
                        Delivering::Written { given_up: true },
                    );
                } else {
                    pop(&mut next, node);
                    goes("expires in the queue", next, Delivering::Next);
                }
            }
            Delivering::Writes(_) if state.nodes[node].is_cut => {
                goes("must start again", next, Delivering::Next);
            }
            Delivering::Next | Delivering::Writes(_) => {
                if state.nodes[node].is_cut {
                    return;
                }
                let write = match state.nodes[node].delivering {
                    Delivering::Writes(write) => write,
                    _ => {
                        self.start_lifting(&mut next, first.what);
                        Write::default()
                    }
                };
                self.meet(&mut next, node);
                if self.holds(Rule::DeliversQueued)
                    && let Some(write) = self.write(&mut next, first.what, write)
                {
                    return goes("writes to Redis", next, Delivering::Writes(write));
                }
                if self.holds(Rule::CountsBeforeDelivered) {
                    goes(
                        "writes to Redis",
                        next,
                        Delivering::Written { given_up: false },
                    );
                } else {
                    pop(&mut next, node);
                    self.promise_of(&mut next, first.what, first.versions);
                    goes("completes the delivery", next, Delivering::Next);
                }
            }
            Delivering::Written { given_up } => {
                let number = self.count(&mut next, node);
                goes(
                    "advances the sequence",
                    next,
                    Delivering::Counted { number, given_up },
                );
            }
            Delivering::Counted { number, given_up } => {
                self.apply(&mut next, node, first.what, number);
                goes(
                    "advances the stripe",
                    next,
                    Delivering::Applied { given_up },
                );
            }
            Delivering::Applied { given_up } => {
                pop(&mut next, node);
                if !given_up {
                    self.promise_of(&mut next, first.what, first.versions);
                }
                if first.what == Revoke::Ban {
                    self.hand_over_ban(&mut next, node);
                }
                goes("leaves the queue", next, Delivering::Next);
            }
        }
    }
}

fn pop(state: &mut State, node: usize) {
    let queue = &mut state.nodes[node].queue;
    queue.rotate_left(1);
    queue[1] = None;
}
