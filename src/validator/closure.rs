//! Validator made from a closure.

use std::{fmt, future::Future, sync::Arc};

use super::{error::ValidationError, session::ValidatedSession, traits::SessionValidator};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

/// Creates a validator from an async closure, mostly for tests and small services.
///
/// The name is both its [namespace](Namespace::named) and its authority, so closures with the same
/// name share cached sessions. The validator has no rules besides the closure and
/// [accepts](SessionValidator::accepts) everything that was cached under its name. Add rules with
/// [`filter`](SessionValidator::filter).
///
/// The closure returns a [`ValidatedSession`], or [`UserData`] for a session without an expiry. A
/// closure that only fails has to name one of them: `Err::<UserData, _>(…)`.
///
/// ```
/// use tower_session_cache::{UserData, ValidatedSession, validator_fn};
///
/// let anyone = validator_fn("anyone", |_token| async { Ok(UserData::new("ada")) });
/// let with_id = validator_fn("with-id", |_token| async {
///     Ok(ValidatedSession::new(UserData::new("ada")).with_session_id("s1"))
/// });
/// # let _ = (anyone, with_id);
/// ```
pub fn validator_fn<F, Fut, S>(name: impl AsRef<str>, f: F) -> ValidatorFn<F>
where
    F: Fn(SessionToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<S, ValidationError>> + Send,
    S: Into<ValidatedSession>,
{
    ValidatorFn {
        name: name.as_ref().into(),
        f,
    }
}

/// A [`SessionValidator`] made from a closure. Created by [`validator_fn`].
#[derive(Clone)]
pub struct ValidatorFn<F> {
    name: Arc<str>,
    f: F,
}

impl<F> fmt::Debug for ValidatorFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValidatorFn").field(&self.name).finish()
    }
}

impl<F, Fut, S> SessionValidator for ValidatorFn<F>
where
    F: Fn(SessionToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<S, ValidationError>> + Send,
    S: Into<ValidatedSession>,
{
    fn namespace(&self) -> Namespace {
        Namespace::named(&*self.name)
    }

    fn authority(&self) -> Authority {
        Authority::new(&*self.name)
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        (self.f)(token).await.map(Into::into)
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}
