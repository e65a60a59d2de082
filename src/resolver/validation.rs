//! One call of the validator: the limits that it waits for, its timeout, and what its outcome means
//! for the calls that follow.

use std::sync::Arc;

use tokio::time::Instant;

use super::provider_monitor::ProviderMonitor;
use crate::{
    cache::{SessionCache, Store},
    telemetry::{Timer, VALIDATION, ValidationOutcome},
    token::SessionToken,
    validator::{
        AdaptiveLimit, FailureScope, SessionValidator, ValidatedSession, ValidationError,
        ValidationErrorKind, is_background,
    },
};

/// A validator, and the known state of its identity provider. Clones share both.
pub(crate) struct ValidatorClient<V> {
    validator: Arc<V>,
    monitor: Arc<ProviderMonitor>,
    limit: Arc<AdaptiveLimit>,
}

/// Result of one validation.
pub(crate) struct Validation {
    /// Boxed, so that a task that waits for the validator reserves little space for it.
    pub(crate) result: Result<Box<ValidatedSession>, ValidationError>,
    /// Whether the validation failed, or was rejected, for a reason that concerns this token alone
    /// and may be temporary.
    pub(crate) is_failure_of_token: bool,
}

impl<V> Clone for ValidatorClient<V> {
    fn clone(&self) -> Self {
        Self {
            validator: Arc::clone(&self.validator),
            monitor: Arc::clone(&self.monitor),
            limit: Arc::clone(&self.limit),
        }
    }
}

impl<V> ValidatorClient<V> {
    pub(crate) fn new(validator: V, store: &Store) -> Self {
        Self {
            validator: Arc::new(validator),
            monitor: Arc::new(ProviderMonitor::new(store)),
            limit: Arc::new(AdaptiveLimit::new(store.clock().clone())),
        }
    }

    pub(crate) fn validator(&self) -> &V {
        &self.validator
    }

    pub(crate) fn monitor(&self) -> &ProviderMonitor {
        &self.monitor
    }

    /// Whether the identity provider limits the rate at present.
    pub(crate) fn is_rate_limited(&self) -> bool {
        self.limit.is_active()
    }
}

impl<V: SessionValidator> ValidatorClient<V> {
    /// Calls the validator. A validation [in the background](crate::validator::in_background) does
    /// so only if nothing has to be waited for.
    pub(crate) async fn validate(&self, cache: &SessionCache, token: &SessionToken) -> Validation {
        let (validations, metrics) = (cache.validations(), cache.store().metrics());
        let (mut timer, mut called_at) = (None, None);
        let mut validated_at = 0;
        let result = tokio::time::timeout(validations.timeout, async {
            // Wait for the provider first: what waits for a slow one must not use up the permits
            // that validations with other providers need.
            let mut place = self.limit.acquire(token).await?;
            let _permit = match is_background() {
                false => validations.acquire_permit().await,
                true => match validations.try_background_permit() {
                    Some(permit) => Some(permit),
                    None => {
                        let busy = "no permit is free for a validation in the background";
                        return Err(ValidationError::unavailable(busy).not_called());
                    }
                },
            };
            place.start()?;
            timer = Some(Timer::start());
            called_at = Some(Instant::now());
            validated_at = cache.store().clock().wall();
            metrics.validations_started.increment();
            let result = self.validator.validate(token.clone()).await;
            place.finish(&result);
            result.map(Box::new)
        })
        .await
        .unwrap_or_else(|_| {
            let error = ValidationError::unavailable(if called_at.is_some() {
                "the validator did not finish within `validation_timeout`"
            } else {
                "timed out waiting for one of the `max_concurrent_validations` permits"
            });
            // A provider that had no time to respond might have rejected this token.
            let had_time = called_at.is_some_and(|at| at.elapsed() * 2 >= validations.timeout);
            Err(if had_time { error } else { error.not_called() })
        })
        .and_then(|mut session| {
            if session.user.id().is_empty() {
                return Err(ValidationError::unavailable(
                    "the validator returned a user without an ID",
                ));
            }
            cache.attribute(&mut session, validated_at);
            Ok(session)
        });
        if is_background() && called_at.is_none() {
            // It yields to validations that a request waits for, which is no failure.
            return self.record(token, result);
        }
        let outcome = outcome(&result);
        metrics.validations.with(outcome).increment();
        if let Some(timer) = timer {
            metrics.validation_duration.with(outcome).record(timer);
        }
        tracing::debug!(target: VALIDATION, outcome = outcome.as_str(), "session validation finished");
        self.record(token, result)
    }

    fn record(
        &self,
        token: &SessionToken,
        result: Result<Box<ValidatedSession>, ValidationError>,
    ) -> Validation {
        let error = match result {
            Err(error) if !error.is_rejection() => error,
            decision => {
                self.monitor.record_decision(token, &decision);
                return Validation {
                    result: decision,
                    is_failure_of_token: false,
                };
            }
        };
        // Without a call there is nothing to learn about the provider.
        if error.is_not_called() {
            return Validation {
                result: Err(error),
                is_failure_of_token: false,
            };
        }
        let scope = self.monitor.record_failure(token, &error);
        let is_of_token = matches!(scope, FailureScope::Token { .. });
        Validation {
            // The provider's `Retry-After` applies to the token in any case.
            is_failure_of_token: is_of_token || error.retry_after().is_some(),
            result: Err(match scope {
                FailureScope::Token { is_invalid: true } => ValidationError::invalid(),
                _ => error,
            }),
        }
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
