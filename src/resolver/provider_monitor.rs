//! State of an identity provider, derived from the results of validations. It distinguishes a
//! provider that fails from a single token that it cannot handle, so that a client with a broken
//! token neither triggers an alarm nor hides an outage.
//!
//! The provider is down if a failure concerns all tokens, or after failures for three different
//! tokens without a decision in between. A provider that has rejected every token since the start
//! does not fail, but the service is probably misconfigured, so this is reported as well.

use std::{
    error::Error as StdError,
    fmt,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::{
    cache::Store,
    sync::lock,
    telemetry::{Gauge, GaugeGuard, VALIDATION},
    time::Clock,
    token::SessionToken,
    validator::{ValidatedSession, ValidationError, ValidationErrorKind},
};

/// Number of different tokens whose validation must fail before the provider counts as down.
const FAILED_TOKENS: usize = 3;

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    status: Status,
    /// Hashes of the last two tokens about which the provider has decided since it was last down.
    decided: [Option<u64>; 2],
    /// Hashes of the tokens that have failed since the last decision.
    failed: Vec<u64>,
    is_down: Option<GaugeGuard>,
    /// Hashes of the tokens that were rejected while none was accepted.
    rejected: Vec<u64>,
    rejected_since: Option<u64>,
    is_rejecting_all: Option<GaugeGuard>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Up,
    Unavailable,
    Misconfigured,
}

/// What the failure of a validation concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureScope {
    /// The token, because the provider decides about others. `is_invalid` is set if its response
    /// names the token as the reason.
    Token { is_invalid: bool },
    /// The token or the provider.
    Unknown,
    /// The provider.
    Provider,
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
            state: Mutex::default(),
        }
    }

    /// Records a decision of the provider: the token is accepted or rejected.
    pub(crate) fn record_decision(
        &self,
        token: &SessionToken,
        result: &Result<ValidatedSession, ValidationError>,
    ) {
        let hash = self.hash(token);
        let mut state = lock(&self.state);
        state.decided = [
            Some(hash),
            state.decided[0]
                .filter(|last| *last != hash)
                .or(state.decided[1]),
        ];
        state.failed.clear();
        state.is_down = None;
        let was_down = mem::take(&mut state.status) != Status::Up;
        let rejection = match result {
            Err(error) if error.is_lasting() => self.record_rejection(&mut state, hash, error),
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
        if was_down {
            tracing::info!(target: VALIDATION, "identity provider available again");
        }
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
        token: u64,
        error: &'a ValidationError,
    ) -> Option<&'a ValidationError> {
        if self.has_accepted.load(Relaxed) || state.is_rejecting_all.is_some() {
            return None;
        }
        let now = self.clock.elapsed();
        let since = *state.rejected_since.get_or_insert(now);
        insert(&mut state.rejected, token, REJECTED_TOKENS);
        let is_reached = state.rejected.len() == REJECTED_TOKENS;
        if !is_reached || now.saturating_sub(since) < REJECTION_TIME {
            return None;
        }
        state.is_rejecting_all = Some(self.rejecting_all.guard());
        Some(error)
    }

    /// Records a failure, and returns what it concerns.
    pub(crate) fn record_failure(
        &self,
        token: &SessionToken,
        error: &ValidationError,
    ) -> FailureScope {
        let hash = self.hash(token);
        let mut state = lock(&self.state);
        insert(&mut state.failed, hash, FAILED_TOKENS);
        let is_of_token = !error.is_for_all_tokens() && state.failed.len() < FAILED_TOKENS;
        if is_of_token && state.status == Status::Up {
            let decides_others = state.decided.iter().flatten().any(|other| *other != hash);
            drop(state);
            tracing::debug!(
                target: VALIDATION,
                error = %ErrorChain(error),
                "identity provider failed for one token"
            );
            return match decides_others {
                true => FailureScope::Token {
                    is_invalid: error.blames_token(),
                },
                false => FailureScope::Unknown,
            };
        }
        let status = match error.kind() {
            ValidationErrorKind::Misconfigured => Status::Misconfigured,
            _ => Status::Unavailable,
        };
        state.decided = [None; 2];
        state.is_down.get_or_insert_with(|| self.down.guard());
        let last = mem::replace(&mut state.status, status);
        drop(state);
        if last != status {
            report(status, error);
        }
        FailureScope::Provider
    }

    fn hash(&self, token: &SessionToken) -> u64 {
        self.hasher.hash_one(token.expose_secret())
    }
}

fn insert(tokens: &mut Vec<u64>, token: u64, max: usize) {
    if tokens.len() < max && !tokens.contains(&token) {
        tokens.push(token);
    }
}

fn report(status: Status, error: &ValidationError) {
    match status {
        Status::Misconfigured => tracing::error!(
            target: VALIDATION,
            error = %ErrorChain(error),
            "validator misconfigured, no session can be validated"
        ),
        Status::Unavailable => tracing::warn!(
            target: VALIDATION,
            error = %ErrorChain(error),
            "identity provider unavailable, serving cached sessions"
        ),
        Status::Up => {}
    }
}

/// An error and its causes on one line.
struct ErrorChain<'a>(&'a ValidationError);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
