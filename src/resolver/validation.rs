//! One call of the validator: its permit, its timeout, and what its outcome means for the calls
//! that follow.

use std::{
    error::Error as StdError,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use crate::{
    cache::SessionCache,
    telemetry::{Timer, VALIDATION, ValidationOutcome},
    token::SessionToken,
    validator::{
        Cooldown, SessionValidator, ValidatedSession, ValidationError, ValidationErrorKind,
    },
};

/// A validator, and the known state of its identity provider. Clones share both.
pub(crate) struct ValidatorClient<V> {
    validator: Arc<V>,
    health: Arc<ProviderHealth>,
    cooldown: Arc<Cooldown>,
}

impl<V> Clone for ValidatorClient<V> {
    fn clone(&self) -> Self {
        Self {
            validator: Arc::clone(&self.validator),
            health: Arc::clone(&self.health),
            cooldown: Arc::clone(&self.cooldown),
        }
    }
}

impl<V> ValidatorClient<V> {
    pub(crate) fn new(validator: V, cooldown: Cooldown) -> Self {
        Self {
            validator: Arc::new(validator),
            health: Arc::default(),
            cooldown: Arc::new(cooldown),
        }
    }

    pub(crate) fn validator(&self) -> &V {
        &self.validator
    }

    /// Whether the identity provider has asked not to be called for now.
    pub(crate) fn is_cooling_down(&self) -> bool {
        self.cooldown.remaining().is_some()
    }
}

impl<V: SessionValidator> ValidatorClient<V> {
    pub(crate) async fn validate(
        &self,
        cache: &SessionCache,
        token: &SessionToken,
    ) -> Result<ValidatedSession, ValidationError> {
        self.cooldown.check()?;
        let (validations, metrics) = (cache.validations(), cache.store().metrics());
        let (mut timer, mut asked_at) = (None, None);
        let result = tokio::time::timeout(validations.timeout, async {
            let _permit = validations.acquire_permit().await;
            timer = Some(Timer::start());
            asked_at = Some(Instant::now());
            metrics.validations_started.increment();
            self.validator.validate(token.clone()).await
        })
        .await
        .unwrap_or_else(|_| {
            let error = ValidationError::unavailable(if asked_at.is_some() {
                "the validator did not finish within `validation_timeout`"
            } else {
                "timed out waiting for one of the `max_concurrent_validations` permits"
            });
            // A provider that had no time to respond might have rejected this token.
            let had_time = asked_at.is_some_and(|at| at.elapsed() * 2 >= validations.timeout);
            Err(if had_time { error } else { error.not_called() })
        })
        .and_then(|mut session| {
            if session.user.id().is_empty() {
                return Err(ValidationError::unavailable(
                    "the validator returned a user without an ID",
                ));
            }
            cache.attribute(&mut session);
            Ok(session)
        });
        let outcome = outcome(&result);
        metrics.validations.with(outcome).increment();
        if let Some(timer) = timer {
            metrics.validation_duration.with(outcome).record(timer);
        }
        tracing::debug!(target: VALIDATION, outcome = outcome.as_str(), "session validation finished");
        if let Err(error) = &result
            && !error.is_rejection()
        {
            self.cooldown.observe(error);
        }
        self.health.observe(result.as_ref().err());
        result
    }
}

fn outcome<T>(result: &Result<T, ValidationError>) -> ValidationOutcome {
    match result {
        Ok(_) => ValidationOutcome::Accepted,
        Err(error) => match error.kind() {
            ValidationErrorKind::Invalid | ValidationErrorKind::Forbidden(_) => {
                ValidationOutcome::Rejected
            }
            ValidationErrorKind::Unavailable | ValidationErrorKind::Misconfigured => {
                ValidationOutcome::Unavailable
            }
        },
    }
}

/// State of the identity provider, so that a change is logged once and not per request.
#[derive(Default)]
struct ProviderHealth(AtomicU8);

impl ProviderHealth {
    const ANSWERS: u8 = 0;
    const UNAVAILABLE: u8 = 1;
    const MISCONFIGURED: u8 = 2;

    fn observe(&self, error: Option<&ValidationError>) {
        let state = match error.map(ValidationError::kind) {
            None | Some(ValidationErrorKind::Invalid | ValidationErrorKind::Forbidden(_)) => {
                Self::ANSWERS
            }
            Some(ValidationErrorKind::Unavailable) => Self::UNAVAILABLE,
            Some(ValidationErrorKind::Misconfigured) => Self::MISCONFIGURED,
        };
        if self.0.load(Relaxed) == state || self.0.swap(state, Relaxed) == state {
            return;
        }
        match (state, error) {
            (Self::MISCONFIGURED, Some(error)) => {
                tracing::error!(
                    target: VALIDATION,
                    error = %ErrorChain(error),
                    "validator misconfigured, no session can be validated"
                );
            }
            (Self::UNAVAILABLE, Some(error)) => tracing::warn!(
                target: VALIDATION,
                error = %ErrorChain(error),
                "identity provider unavailable, serving cached sessions"
            ),
            _ => tracing::info!(target: VALIDATION, "identity provider available again"),
        }
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
