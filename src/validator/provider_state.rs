//! State of an identity provider, derived from the results of validations. It distinguishes a
//! provider that fails from a single token that it cannot handle, so that a client with a broken
//! token neither triggers an alarm nor hides an outage.
//!
//! The provider is down if a failure concerns all tokens, or after failures for three different
//! tokens without a decision in between. Each branch of [`or`](crate::SessionValidator::or) has a
//! state of its own, because the decisions of one provider show nothing about the other.

use std::{
    error::Error as StdError,
    fmt,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use super::error::{FailureScope, ValidationError, ValidationErrorKind};
use crate::{sync::lock, telemetry::VALIDATION, token::SessionToken};

/// Number of different tokens whose validation must fail before the provider counts as down.
const FAILED_TOKENS: usize = 3;

#[derive(Default)]
pub(crate) struct ProviderState {
    hasher: RandomState,
    is_down: Arc<AtomicBool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    status: Status,
    /// Hashes of the last two tokens about which the provider has decided since it was last down.
    decided: [Option<u64>; 2],
    /// Hashes of the tokens that have failed since the last decision.
    failed: Vec<u64>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Up,
    Unavailable,
    Misconfigured,
}

impl ProviderState {
    /// Whether the provider is down. Shared, so that a copy shows the current state.
    pub(crate) fn is_down(&self) -> &Arc<AtomicBool> {
        &self.is_down
    }

    /// Records a decision of the provider: the token is accepted or rejected.
    pub(crate) fn record_decision(&self, token: &SessionToken) {
        let hash = self.hash(token);
        let mut state = lock(&self.state);
        state.decided = [
            Some(hash),
            state.decided[0]
                .filter(|last| *last != hash)
                .or(state.decided[1]),
        ];
        state.failed.clear();
        let was_down = mem::take(&mut state.status) != Status::Up;
        self.is_down.store(false, SeqCst);
        drop(state);
        if was_down {
            tracing::info!(target: VALIDATION, "identity provider available again");
        }
    }

    /// Records a failure, and returns what it concerns.
    pub(crate) fn record_failure(
        &self,
        token: &SessionToken,
        error: &ValidationError,
    ) -> FailureScope {
        let hash = self.hash(token);
        let mut state = lock(&self.state);
        insert_hash(&mut state.failed, hash, FAILED_TOKENS);
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
        let last = mem::replace(&mut state.status, status);
        self.is_down.store(true, SeqCst);
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

/// Adds the hash of a token, unless there are `max` already.
pub(crate) fn insert_hash(tokens: &mut Vec<u64>, token: u64, max: usize) {
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
pub(crate) struct ErrorChain<'a>(pub(crate) &'a (dyn StdError + 'static));

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
