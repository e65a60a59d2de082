//! Refusals by the provider: after this node has rejected a token by the provider's word, it serves
//! no older record of it.

use crate::{
    Emit, Model,
    bounds::Kind,
    rules::Rule,
    state::{Revoking, State, TOKENS, Timestamp},
};

impl Model {
    /// The provider rejects a token, and may accept it again later, without a call to a node.
    pub(crate) fn waver(&self, state: &State, n: usize, token: u8, emit: &mut Emit<'_>) {
        let mut next = *state;
        let provider = &mut next.provider;
        let token = usize::from(token);
        let what = match state.revocations[n] {
            Revoking::Idle => {
                provider.versions[token] += 1;
                provider.dead[token] = true;
                if self.bounds.negative_ttl > 0 {
                    let mut versions = [0; TOKENS];
                    versions[token] = provider.versions[token];
                    self.limit(&mut next, versions);
                }
                next.revocations[n] = Revoking::Written(Default::default());
                "rejects the token from now on"
            }
            Revoking::Written(_) => {
                provider.dead[token] = false;
                next.revocations[n] = Revoking::Done;
                "accepts the token again"
            }
            _ => return,
        };
        emit.goes("provider", n, what, next);
    }

    pub(crate) fn wavers(&self, state: &State, emit: &mut Emit<'_>) {
        for (n, kind) in self.bounds.revocations.iter().enumerate() {
            if let Some(Kind::ProviderWavers { token }) = *kind {
                self.waver(state, n, token, emit);
            }
        }
    }

    /// Other configurations need no memory of refusals, and have fewer states without it.
    pub(crate) fn has_waverer(&self) -> bool {
        let is_waver = |kind: &Option<Kind>| matches!(kind, Some(Kind::ProviderWavers { .. }));
        self.bounds.revocations.iter().any(is_waver)
    }

    /// Remembers that the provider has rejected the token, by the clock of the node.
    pub(crate) fn remember_refusal(&self, state: &mut State, at: usize, token: usize) {
        if !self.has_waverer() || !self.holds(Rule::RemembersRefusals) {
            return;
        }
        let now = Timestamp::at(state.time).minus(self.bounds.ticks.node_slow[at]);
        let node = &mut state.nodes[at];
        let has_space = node.refusals.iter().flatten().count() < self.bounds.max_refusals
            || node.refusals[token].is_some();
        if has_space {
            node.refusals[token] = Some(now);
        } else if self.holds(Rule::FullRefusalsRaiseFloor) {
            node.refusal_floor = now.max(node.refusal_floor);
        }
    }

    /// Returns the time up to which a record may be older than a refusal, or zero.
    pub(crate) fn refused(&self, state: &State, node: usize, token: usize) -> Timestamp {
        let slack = if self.holds(Rule::RefusalHasSlack) {
            self.bounds.ticks.slack
        } else {
            0
        };
        let node = &state.nodes[node];
        let refused = node.refusals[token].unwrap_or_default();
        let refused = refused.max(node.refusal_floor);
        if refused == Timestamp::default() {
            return refused;
        }
        refused.plus(slack)
    }

    /// Forgets refusals from before which no record can be usable any more.
    pub(crate) fn forget_refusals(&self, state: &mut State) {
        let ticks = &self.bounds.ticks;
        for (n, node) in state.nodes.iter_mut().enumerate() {
            let kept = if self.holds(Rule::RefusalOutlivesRecords) {
                ticks.ttl[n] + 2 * ticks.slack
            } else {
                0
            };
            let now = Timestamp::at(state.time).minus(ticks.node_slow[n]);
            for refusal in &mut node.refusals {
                *refusal = refusal.filter(|at| now <= at.plus(kept));
            }
            if now > node.refusal_floor.plus(kept) {
                node.refusal_floor = Timestamp::default();
            }
        }
    }
}
