//! What a layer reports about its identity providers: whether one of them is down, and whether all
//! tokens were rejected.
//!
//! A provider that has rejected every token since the start does not fail, but the service is
//! probably misconfigured.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use crate::{
    cache::Store,
    sync::lock,
    telemetry::{Gauge, GaugeGuard, VALIDATION},
    time::Clock,
    token::SessionToken,
    validator::{
        ErrorChain, FailureScope, ProviderState, ValidatedSession, ValidationError, insert_hash,
    },
};

/// Number of different tokens that must be rejected, and the time in microseconds over which they
/// must be, before the provider is reported to reject all tokens.
const REJECTED_TOKENS: usize = 20;
const REJECTION_TIME: u64 = 60_000_000;

pub(crate) struct ProviderMonitor {
    clock: Clock,
    hasher: RandomState,
    down: Gauge,
    rejecting_all: Gauge,
    /// Whether the provider has accepted a token since the start.
    has_accepted: AtomicBool,
    /// The provider of all failures that belong to no branch.
    provider: ProviderState,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The providers that are down: one for each branch at most.
    down: Vec<(Arc<AtomicBool>, GaugeGuard)>,
    /// Hashes of the tokens that were rejected while none was accepted.
    rejected: Vec<u64>,
    rejected_since: Option<u64>,
    is_rejecting_all: Option<GaugeGuard>,
}

impl ProviderMonitor {
    pub(crate) fn new(store: &Store) -> Self {
        let metrics = store.metrics();
        Self {
            clock: store.clock().clone(),
            hasher: RandomState::new(),
            down: metrics.providers_down.clone(),
            rejecting_all: metrics.providers_rejecting_all.clone(),
            has_accepted: AtomicBool::new(false),
            provider: ProviderState::default(),
            state: Mutex::default(),
        }
    }

    /// Whether one of the providers is down.
    pub(crate) fn is_down(&self) -> bool {
        !lock(&self.state).down.is_empty()
    }

    /// Whether it has been reported that the provider rejects all tokens.
    pub(crate) fn is_rejecting_all(&self) -> bool {
        lock(&self.state).is_rejecting_all.is_some()
    }

    /// Records a decision of the provider: the token is accepted or rejected.
    pub(crate) fn record_decision(
        &self,
        token: &SessionToken,
        result: &Result<Box<ValidatedSession>, ValidationError>,
    ) {
        self.provider.record_decision(token);
        let mut state = lock(&self.state);
        state.down.retain(|(is_down, _)| is_down.load(SeqCst));
        let rejection = match result {
            Err(error) if error.lasting_cause().is_some() => {
                self.record_rejection(&mut state, token, error)
            }
            // A reason to deny access applies to a user whom the provider knows.
            _ => {
                if !self.has_accepted.swap(true, Relaxed) {
                    state.rejected = Vec::new();
                    state.is_rejecting_all = None;
                }
                None
            }
        };
        drop(state);
        if let Some(error) = rejection {
            tracing::warn!(
                target: VALIDATION,
                error = %ErrorChain(error),
                count = REJECTED_TOKENS,
                hint = "check the settings of the validator, and that the provider lets this service \
                        validate the tokens that it issues",
                "all tokens rejected since the start"
            );
        }
    }

    /// Returns the error if it is to be reported that the provider rejects all tokens.
    fn record_rejection<'a>(
        &self,
        state: &mut State,
        token: &SessionToken,
        error: &'a ValidationError,
    ) -> Option<&'a ValidationError> {
        if self.has_accepted.load(Relaxed) || state.is_rejecting_all.is_some() {
            return None;
        }
        let now = self.clock.elapsed();
        let since = *state.rejected_since.get_or_insert(now);
        let token = self.hasher.hash_one(token.expose_secret());
        insert_hash(&mut state.rejected, token, REJECTED_TOKENS);
        let is_reached = state.rejected.len() == REJECTED_TOKENS;
        if !is_reached || now.saturating_sub(since) < REJECTION_TIME {
            return None;
        }
        state.is_rejecting_all = Some(self.rejecting_all.guard());
        Some(error)
    }

    /// Records a failure, unless its branch has done so, and returns what it concerns.
    pub(crate) fn record_failure(
        &self,
        token: &SessionToken,
        error: &ValidationError,
    ) -> FailureScope {
        let (scope, is_down) = match error.branch_failure() {
            Some(branch) => (branch.scope, &branch.is_down),
            None => {
                let scope = self.provider.record_failure(token, error);
                (scope, self.provider.is_down())
            }
        };
        let mut state = lock(&self.state);
        let is_known = state
            .down
            .iter()
            .any(|(known, _)| Arc::ptr_eq(known, is_down));
        // A decision clears the flag before it takes the lock, so no guard outlasts it.
        if is_down.load(SeqCst) && !is_known {
            state.down.push((Arc::clone(is_down), self.down.guard()));
        }
        scope
    }
}
