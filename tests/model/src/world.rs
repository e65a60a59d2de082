//! Events outside the nodes: time passes, Redis becomes unavailable or loses data, a node crashes.
//!
//! A paused node needs no separate step, because any other step may come before its next one.

use crate::{
    Emit, Model,
    bounds::{Kind, Mode},
    state::{Delivering, Node, Refusal, Request, Revoking, State},
};

impl Model {
    pub(crate) fn world(&self, state: &State, emit: &mut Emit<'_>) {
        if state.time < self.bounds.ticks.end {
            let mut next = *state;
            next.time += 1;
            next.redis.data.expire(next.time);
            self.forget_refusals(&mut next);
            if let Some(data) = &mut next.redis.snapshot {
                data.expire(next.time);
            }
            emit.goes("time", 0, "passes", next);
        }
        for node in 0..self.bounds.nodes.into() {
            self.cut(state, node, emit);
            if state.left.crashes > 0 {
                emit.goes("node", node, "crashes", self.crash(state, node));
            }
        }
        if let Some(command) = state.redis.pipe {
            let mut next = *state;
            next.redis.pipe = None;
            self.carry_out(&mut next, command);
            emit.goes(
                "Redis",
                0,
                "executes a command whose caller timed out",
                next,
            );
        }
        if state.left.snapshots > 0 {
            let mut next = *state;
            next.left.snapshots -= 1;
            next.redis.snapshot = Some(next.redis.data);
            emit.goes("Redis", 0, "saves a snapshot", next);
        }
        if state.left.losses > 0 {
            let (what, next) = match self.bounds.mode {
                Mode::Cluster => ("loses the mark", self.lose_mark(state)),
                _ => ("loses data", self.lose(state)),
            };
            emit.goes("Redis", 0, what, next);
        }
        if state.left.evictions > 0 {
            self.evict(state, emit);
        }
    }

    fn cut(&self, state: &State, node: usize, emit: &mut Emit<'_>) {
        let mut next = *state;
        if state.nodes[node].is_cut {
            next.nodes[node].is_cut = false;
            emit.goes("node", node, "reconnects to Redis", next);
        } else if state.left.cuts > 0 {
            next.left.cuts -= 1;
            next.nodes[node].is_cut = true;
            emit.goes("node", node, "loses contact with Redis", next);
        }
    }

    fn crash(&self, state: &State, node: usize) -> State {
        let mut next = *state;
        next.left.crashes -= 1;
        next.nodes[node] = Node {
            is_cut: state.nodes[node].is_cut,
            ..Node::default()
        };
        for request in &mut next.requests {
            if matches!(request, Request::Asks { node: at, .. } if usize::from(*at) == node) {
                *request = Request::Answered;
            }
        }
        for (n, kind) in self.bounds.revocations.iter().enumerate() {
            let Some((at, _)) = kind.and_then(Kind::by_node) else {
                continue;
            };
            // The revocation never returned to its caller, so it guarantees nothing.
            if at == node && next.revocations[n] != Revoking::Idle {
                next.revocations[n] = Revoking::Done;
            }
        }
        next
    }

    /// Models a restart with an old snapshot or none, or a failover to a lagging replica.
    fn lose(&self, state: &State) -> State {
        let mut next = *state;
        next.left.losses -= 1;
        for wavering in &mut next.ghost.wavering {
            wavering.is_stored = false;
        }
        if !self.bounds.keeps_data {
            next.redis.data = state.redis.snapshot.unwrap_or_default();
        }
        if self.bounds.flushes {
            self.demote(&mut next);
            return next;
        }
        if self.bounds.newcomers {
            self.demote(&mut next);
        } else {
            self.limit(&mut next, state.ghost.everywhere);
        }
        next.redis.run += 1;
        next.redis.pipe = None;
        next
    }

    /// Models a failover of the cluster's primary that holds the mark, to a lagging replica.
    fn lose_mark(&self, state: &State) -> State {
        let mut next = *state;
        next.left.losses -= 1;
        next.redis.data.mark = None;
        next.redis.mark_run += 1;
        self.limit(&mut next, state.ghost.everywhere);
        next
    }

    /// Everything guaranteed until now holds only after TTL, deadline and slack.
    fn demote(&self, state: &mut State) {
        self.limit(state, state.ghost.everywhere);
        state.ghost.everywhere = Default::default();
        (state.ghost.ended, state.ghost.banned) = (false, false);
        for node in &mut state.nodes {
            node.here = Default::default();
        }
        for request in &mut state.requests {
            if let Request::Asks { floor, .. } = request {
                floor.strict = 0;
                (floor.ended, floor.banned) = (Refusal::None, Refusal::None);
            }
        }
        // Revocations that were written but have not returned yet are lost as well.
        for n in 0..state.revocations.len() {
            if let Revoking::Written(versions)
            | Revoking::Counted { versions, .. }
            | Revoking::Returns { versions, .. } = &mut state.revocations[n]
            {
                let lost = std::mem::take(versions);
                self.limit(state, lost);
            }
        }
        for n in 0..state.nodes.len() {
            let node = &mut state.nodes[n];
            if node.delivering != Delivering::Next
                && let Some(first) = &mut node.queue[0]
            {
                let lost = std::mem::take(&mut first.versions);
                self.limit(state, lost);
            }
        }
    }

    fn evict(&self, state: &State, emit: &mut Emit<'_>) {
        let mut next = *state;
        next.left.evictions -= 1;
        self.demote(&mut next);
        if state.redis.data.mark.is_some() {
            next.redis.data.mark = None;
            emit.goes("Redis", 0, "evicts the mark", next);
        }
        next.redis.data.mark = state.redis.data.mark;
        if state.redis.data.names.is_some() {
            next.redis.data.names = None;
            next.ghost.has_lost_names = true;
            emit.goes("Redis", 0, "evicts the names of the session", next);
        }
        next.redis.data.names = state.redis.data.names;
        next.ghost.has_lost_names = state.ghost.has_lost_names;
        if state.redis.data.tombs[0].is_some() {
            next.redis.data.tombs[0] = None;
            emit.goes("Redis", 0, "evicts the tombstone", next);
        }
    }
}
