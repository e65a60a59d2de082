//! Requests: `Resolver::resolve`, and what it guarantees to them.

use crate::{
    Emit, Event, Model,
    lookup::Progress,
    state::{Ask, FORBIDDEN, Floor, Lookup, Outcome, Request, State, Timestamp},
};

impl Model {
    pub(crate) fn requests(&self, state: &State, emit: &mut Emit<'_>) {
        let mut last = None;
        for n in 0..self.bounds.requests {
            let request = state.requests[n];
            // Requests are kept sorted. Of two equal ones, only one needs to take a step.
            if last.replace(request) == Some(request) {
                continue;
            }
            match request {
                Request::Unborn => self.is_born(state, n, emit),
                Request::Asks {
                    node,
                    token,
                    floor,
                    ask,
                } => self.goes_on(state, n, (node, token, floor), ask, emit),
                Request::Answered => {}
            }
        }
    }

    fn is_born(&self, state: &State, n: usize, emit: &mut Emit<'_>) {
        for node in 0..self.bounds.asked {
            for token in 0..self.bounds.tokens {
                let floor = self.floor(state, Some(node.into()), token.into());
                let mut next = *state;
                let event = self.looks(&mut next, n, (node, token, floor));
                emit.shows("request to node", node.into(), "begins", next, event);
            }
        }
    }

    /// Returns what a request that begins now may rely on.
    pub(crate) fn floor(&self, state: &State, node: Option<usize>, token: usize) -> Floor {
        let everywhere = state.ghost.everywhere[token];
        let (version, since) = state.ghost.limits[token];
        let strict = match node {
            Some(node) => everywhere.max(state.nodes[node].here[token]),
            None => everywhere,
        };
        let mut floor = Floor {
            strict,
            limit: version,
            must_ask: self.must_ask(state, node, token),
            ..self.refusals_of(state, node, token)
        };
        if state.time > since + self.limit_of(node.unwrap_or_default()) {
            floor.strict = floor.strict.max(floor.limit);
        }
        floor.limit = floor.limit.max(floor.strict);
        floor
    }

    fn looks(&self, state: &mut State, n: usize, who: (u8, u8, Floor)) -> Event {
        let (node, token, _) = who;
        let progress = self.start_look(state, node.into(), token.into(), true);
        self.progress(state, n, who, progress, true)
    }

    fn progress(
        &self,
        state: &mut State,
        n: usize,
        (node, token, mut floor): (u8, u8, Floor),
        progress: Progress,
        is_fresh: bool,
    ) -> Event {
        let asks = |ask| Request::Asks {
            node,
            token,
            floor,
            ask,
        };
        let (request, event) = match progress {
            Progress::Goes(look) => (asks(Ask::Looks { look, is_fresh }), Event::None),
            Progress::Ends(Lookup::Miss(ticket)) => {
                if !ticket.is_answered()
                    && floor.strict == FORBIDDEN
                    && !self.knows(state, node, token)
                {
                    // Without Redis, only the provider knows of a logout on another node.
                    floor = Floor::default();
                }
                let ask = Ask::HasTicket { ticket, is_fresh };
                (
                    Request::Asks {
                        node,
                        token,
                        floor,
                        ask,
                    },
                    Event::None,
                )
            }
            Progress::Ends(Lookup::Hit(record)) => {
                let event = self.serve(state, token.into(), floor, Outcome::Cached(record));
                (Request::Answered, event)
            }
            Progress::Ends(Lookup::Revoked) => {
                let event = self.serve(state, token.into(), floor, Outcome::Denied);
                (Request::Answered, event)
            }
            Progress::Ends(Lookup::Rejected) => {
                let event = self.serve(state, token.into(), floor, Outcome::Shared);
                (Request::Answered, event)
            }
        };
        state.requests[n] = request;
        event
    }

    /// Whether the node itself remembers the logout.
    fn knows(&self, state: &State, node: u8, token: u8) -> bool {
        state.nodes[usize::from(node)].here[usize::from(token)] == FORBIDDEN
    }

    fn goes_on(
        &self,
        state: &State,
        n: usize,
        (node, token, floor): (u8, u8, Floor),
        ask: Ask,
        emit: &mut Emit<'_>,
    ) {
        let who = "request to node";
        match ask {
            Ask::Looks { look, is_fresh } => self.go_on_looking(
                state,
                node.into(),
                token.into(),
                look,
                |what, mut next, progress| {
                    let event =
                        self.progress(&mut next, n, (node, token, floor), progress, is_fresh);
                    emit.shows(who, node.into(), what, next, event);
                },
            ),
            Ask::HasTicket { ticket, is_fresh } => {
                let mut next = *state;
                let ask = self.join(&mut next, node.into(), token.into(), ticket, is_fresh);
                next.requests[n] = Request::Asks {
                    node,
                    token,
                    floor,
                    ask,
                };
                emit.goes(who, node.into(), "joins or starts a validation", next);
            }
            Ask::Waits { .. } => {}
            Ask::StartsAgain => {
                let mut next = *state;
                let event = self.looks(&mut next, n, (node, token, floor));
                emit.shows(who, node.into(), "repeats the lookup", next, event);
            }
        }
    }

    /// Checks the guarantee: no request is served with what was validated before a change if the
    /// revocation for that change had returned when the request began.
    pub(crate) fn serve(
        &self,
        state: &State,
        token: usize,
        floor: Floor,
        outcome: Outcome,
    ) -> Event {
        if self.ignores_refusal(state, floor, outcome) {
            return Event::Violation("an ended session or a banned user was served");
        }
        let must_serve = self.bounds.must_serve && !self.bounds.is_in_session(token);
        let (version, record) = match outcome {
            Outcome::Served(version) | Outcome::Unchecked(version) => (version, None),
            Outcome::Cached(record) => (record.version, Some(record)),
            Outcome::Shared if floor.must_ask => {
                return Event::Violation("a rejection was repeated for too long");
            }
            _ if must_serve => return Event::Violation("a valid session was rejected"),
            _ if floor.is_lifted => {
                return Event::Violation("a refusal that was taken back was repeated");
            }
            _ => return Event::None,
        };
        let provenance = record.and_then(|record| record.provenance);
        if version < floor.strict {
            return Event::Violation("a revoked session was served");
        }
        if version < floor.limit {
            // A record that saw a mark or a tombstone must not be served again because a later one
            // was evicted.
            let has_seen = provenance.is_some_and(|provenance| {
                (provenance.seen_mark, provenance.seen_tomb) != (None, None)
            });
            if has_seen && self.bounds.left.evictions > 0 {
                return Event::Violation("an eviction made a revoked session valid again");
            }
            return Event::Limit;
        }
        let is_young =
            |mark: Timestamp| mark.plus(self.bounds.ticks.slack) >= Timestamp::at(state.time);
        match provenance.and_then(|provenance| provenance.seen_mark) {
            Some(mark) if is_young(mark) => Event::SoonAgain,
            _ => Event::None,
        }
    }
}
