//! Tower layer around the calls of a validator, such as timeouts, retries and limits.
//!
//! The layer receives the calls only. The validator's namespace and authority, and its decision
//! about a cached session, do not pass through the layer, so they cannot be lost.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

use super::{
    adapters::{LayeredValidator, ValidatorCall},
    error::{BoxError, ValidationError},
    session::ValidatedSession,
    traits::SessionValidator,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
};

impl<V> Clone for ValidatorCall<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> fmt::Debug for ValidatorCall<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ValidatorCall")
    }
}

impl<V: SessionValidator> Service<SessionToken> for ValidatorCall<V> {
    type Response = ValidatedSession;
    type Error = ValidationError;
    type Future = Pin<Box<dyn Future<Output = Result<ValidatedSession, ValidationError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ValidationError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, token: SessionToken) -> Self::Future {
        let validator = Arc::clone(&self.0);
        Box::pin(async move { validator.validate(token).await })
    }
}

impl<V: SessionValidator, S> LayeredValidator<V, S> {
    pub(super) fn new<L>(validator: V, layer: L) -> Self
    where
        L: Layer<ValidatorCall<V>, Service = S>,
    {
        let validator = Arc::new(validator);
        Self {
            service: Mutex::new(layer.layer(ValidatorCall(Arc::clone(&validator)))),
            validator,
        }
    }
}

impl<V, S> SessionValidator for LayeredValidator<V, S>
where
    V: SessionValidator,
    S: Service<SessionToken, Response = ValidatedSession> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn namespace(&self) -> Namespace {
        self.validator.namespace()
    }

    fn authority(&self) -> Authority {
        self.validator.authority()
    }

    fn validate(
        &self,
        token: SessionToken,
    ) -> impl Future<Output = Result<ValidatedSession, ValidationError>> + Send {
        let service = self.service.lock();
        let mut service = service.unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            poll_fn(|cx| service.poll_ready(cx))
                .await
                .map_err(into_validation_error)?;
            let response = service.call(token);
            response.await.map_err(into_validation_error)
        }
    }

    fn accepts(&self, user: &UserData) -> bool {
        self.validator.accepts(user)
    }

    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        self.validator.canonical(token)
    }
}

/// Converts an error of the layer. A [`ValidationError`] is preserved, even inside a box, as
/// tower's layers pass errors on.
fn into_validation_error(error: impl Into<BoxError>) -> ValidationError {
    match error.into().downcast::<ValidationError>() {
        Ok(error) => *error,
        Err(error) => ValidationError::unavailable(error),
    }
}

impl<V: fmt::Debug, S> fmt::Debug for LayeredValidator<V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LayeredValidator")
            .field(&self.validator)
            .finish()
    }
}
