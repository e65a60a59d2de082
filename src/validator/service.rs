//! Any tower service as a validator, so that tower's timeout, retry and limits compose around it.

use std::{
    error::Error as StdError,
    fmt,
    future::{Future, poll_fn},
    sync::{Mutex, PoisonError},
};

use tower_service::Service;

use super::{SessionValidator, ValidatedSession, ValidationError};
use crate::token::SessionToken;

/// Makes a validator of a [`Service`] that is asked with the token.
///
/// Each validation calls a clone of its own, when that clone is ready. An error that is a
/// [`ValidationError`], also inside of a box as tower's layers hand it on, stays what it is; any
/// other, such as the timeout of tower's `TimeoutLayer`, means
/// [unavailable](ValidationError::unavailable).
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, service_fn};
/// use tower_session_cache::{SessionToken, UserData, ValidatedSession, ValidationError, validator_service};
///
/// let ask = service_fn(async |_token: SessionToken| {
///     Ok::<_, ValidationError>(ValidatedSession::new(UserData::new("ada")))
/// });
/// let validator = validator_service(
///     ServiceBuilder::new()
///         .concurrency_limit(64)
///         .timeout(Duration::from_secs(1))
///         .service(ask),
/// );
/// # let _ = validator;
/// ```
pub fn validator_service<S>(service: S) -> ValidatorService<S>
where
    S: Service<SessionToken, Response = ValidatedSession> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
{
    ValidatorService(Mutex::new(service))
}

/// A [`SessionValidator`] made of a tower service by [`validator_service`].
pub struct ValidatorService<S>(
    // To be shared by threads, which not every service can be; held for a clone only.
    Mutex<S>,
);

impl<S> SessionValidator for ValidatorService<S>
where
    S: Service<SessionToken, Response = ValidatedSession> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
{
    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        let mut service = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        async move {
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(failed)?;
            let answer = service.call(token);
            answer.await.map_err(failed)
        }
    }
}

fn failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> ValidationError {
    match error.into().downcast::<ValidationError>() {
        Ok(error) => *error,
        Err(error) => ValidationError::unavailable(error),
    }
}

impl<S> fmt::Debug for ValidatorService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ValidatorService")
    }
}
