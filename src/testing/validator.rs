//! Validator whose sessions and failures a test controls.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
    validator::{SessionValidator, ValidatedSession, ValidationError},
};

/// A validator that returns results from a table, and fails, delays or hangs on command.
///
/// Clones share everything, so a test keeps one and passes another to the layer. A token that is
/// not in the table is [invalid](ValidationError::invalid). All of these validators have the
/// namespace `test`.
///
/// ```
/// use tower_session_cache::{SessionCache, SessionCacheLayer, UserData, ValidationError, testing::TestValidator};
///
/// let validator = TestValidator::new().with_session("tok", UserData::new("ada"));
/// let layer = SessionCacheLayer::new(SessionCache::builder().build()?, validator.clone());
/// // … requests …
/// assert_eq!(validator.calls(), 0);
/// validator.fail(ValidationError::unavailable("down for a test"));
/// // … requests for new tokens get 503 …
/// validator.recover();
/// # let _ = layer;
/// # Ok::<(), tower_session_cache::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct TestValidator(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    answers: HashMap<String, Result<ValidatedSession, ValidationError>>,
    fault: Fault,
    asked: Vec<SessionToken>,
}

#[derive(Clone, Default)]
enum Fault {
    #[default]
    None,
    Fail(ValidationError),
    Delay(Duration),
    Hang,
}

impl TestValidator {
    /// Creates a validator that rejects every token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a session, replacing the previous result for the token.
    #[must_use]
    pub fn with_session(self, token: &str, session: impl Into<ValidatedSession>) -> Self {
        self.set(token, Ok(session.into()));
        self
    }

    /// Adds an error, replacing the previous result for the token.
    #[must_use]
    pub fn with_error(self, token: &str, error: ValidationError) -> Self {
        self.set(token, Err(error));
        self
    }

    /// Replaces the result for a token, for example to end a session.
    pub fn set(&self, token: &str, answer: Result<ValidatedSession, ValidationError>) {
        self.state().answers.insert(token.to_owned(), answer);
    }

    /// Fails every validation until it [recovers](Self::recover).
    pub fn fail(&self, error: ValidationError) {
        self.state().fault = Fault::Fail(error);
    }

    /// Delays every result by this duration of Tokio's clock, until it [recovers](Self::recover).
    pub fn delay(&self, by: Duration) {
        self.state().fault = Fault::Delay(by);
    }

    /// Lets every validation hang until it [recovers](Self::recover). Recovery affects later calls
    /// only.
    pub fn hang(&self) {
        self.state().fault = Fault::Hang;
    }

    /// Returns results from the table again.
    pub fn recover(&self) {
        self.state().fault = Fault::None;
    }

    /// Returns the number of validations that have started.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().asked.len()
    }

    /// Returns the tokens that the validator was called with, in order.
    #[must_use]
    pub fn received_tokens(&self) -> Vec<SessionToken> {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionValidator for TestValidator {
    fn namespace(&self) -> Namespace {
        Namespace::named("test")
    }

    fn authority(&self) -> Authority {
        "test".into()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let (answer, fault) = {
            let mut state = self.state();
            let answer = state.answers.get(token.expose_secret()).cloned();
            state.asked.push(token);
            (answer, state.fault.clone())
        };
        match fault {
            Fault::None => {}
            Fault::Fail(error) => return Err(error),
            Fault::Delay(by) => tokio::time::sleep(by).await,
            Fault::Hang => std::future::pending().await,
        }
        answer.unwrap_or_else(|| Err(ValidationError::invalid()))
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

impl fmt::Debug for TestValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("TestValidator")
            .field("sessions", &state.answers.len())
            .field("calls", &state.asked.len())
            .finish_non_exhaustive()
    }
}
