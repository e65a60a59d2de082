//! An identity provider of which a test knows all.

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

/// A validator that answers from a table, and fails, delays or hangs on command.
///
/// Clones share everything, so a test keeps one and hands another to the layer. A token that is
/// not in the table is [invalid](ValidationError::invalid). All are of one namespace, `test`.
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
    /// One that refuses every token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows a session from now on, in place of what it knew of the token.
    #[must_use]
    pub fn with_session(self, token: &str, session: impl Into<ValidatedSession>) -> Self {
        self.set(token, Ok(session.into()));
        self
    }

    /// Answers an error for a token from now on.
    #[must_use]
    pub fn with_error(self, token: &str, error: ValidationError) -> Self {
        self.set(token, Err(error));
        self
    }

    /// Changes what it knows of a token, as when a session ends.
    pub fn set(&self, token: &str, answer: Result<ValidatedSession, ValidationError>) {
        self.state().answers.insert(token.to_owned(), answer);
    }

    /// Fails every validation until it [recovers](Self::recover).
    pub fn fail(&self, error: ValidationError) {
        self.state().fault = Fault::Fail(error);
    }

    /// Delays every answer by so much, by Tokio's clock, until it [recovers](Self::recover).
    pub fn delay(&self, by: Duration) {
        self.state().fault = Fault::Delay(by);
    }

    /// Answers no more until it [recovers](Self::recover), which frees only later calls.
    pub fn hang(&self) {
        self.state().fault = Fault::Hang;
    }

    /// Answers from the table again.
    pub fn recover(&self) {
        self.state().fault = Fault::None;
    }

    /// How many validations have begun.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().asked.len()
    }

    /// The tokens that it was asked about, in order.
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
