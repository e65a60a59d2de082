//! Validator whose calls a test can hold, count and decide.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tower_session_cache::{
    Authority, Namespace, SessionToken, SessionValidator, UserData, ValidatedSession,
    ValidationError,
};

use super::soon;

type Answer = Result<ValidatedSession, ValidationError>;
type Decide = dyn Fn(&str) -> Answer + Send + Sync;

/// Validator that, like an identity provider, decides when a call arrives. The call returns once
/// the test releases it.
#[derive(Clone)]
pub struct Probe(Arc<Inner>);

struct Inner {
    decide: Mutex<Arc<Decide>>,
    calls: watch::Sender<usize>,
    /// Number of calls, counted from the first, that have been released.
    through: watch::Sender<usize>,
}

impl Probe {
    /// Creates a validator that accepts every token as a session of the user `ada`.
    pub fn new() -> Self {
        Self::answering(|_| Ok(session("ada")))
    }

    pub fn answering(decide: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            decide: Mutex::new(Arc::new(decide)),
            calls: watch::Sender::new(0),
            through: watch::Sender::new(usize::MAX),
        }))
    }

    pub fn answer(&self, decide: impl Fn(&str) -> Answer + Send + Sync + 'static) {
        *self.0.decide.lock().unwrap() = Arc::new(decide);
    }

    pub fn calls(&self) -> usize {
        *self.0.calls.borrow()
    }

    pub async fn wait_for_calls(&self, n: usize) {
        let mut calls = self.0.calls.subscribe();
        soon(
            "a call of the validator",
            calls.wait_for(|calls| *calls >= n),
        )
        .await
        .unwrap();
    }

    /// Holds all calls that arrive from now on.
    pub fn hold(&self) {
        self.0.through.send_replace(self.calls());
    }

    pub fn let_one_go(&self) {
        self.0.through.send_modify(|through| *through += 1);
    }

    pub fn let_go(&self) {
        self.0.through.send_replace(usize::MAX);
    }
}

impl SessionValidator for Probe {
    fn namespace(&self) -> Namespace {
        namespace()
    }

    fn authority(&self) -> Authority {
        authority()
    }

    async fn validate(&self, token: SessionToken) -> Answer {
        let decide = Arc::clone(&self.0.decide.lock().unwrap());
        let answer = decide(token.expose_secret());
        let mut through = self.0.through.subscribe();
        let mut number = 0;
        self.0.calls.send_modify(|calls| {
            *calls += 1;
            number = *calls;
        });
        through
            .wait_for(|through| *through >= number)
            .await
            .unwrap();
        answer
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

/// Returns the project that the Python service uses too, so that all records have the keys that it
/// reads.
pub fn authority() -> Authority {
    Authority::appwrite("https://appwrite.example.com/v1", "demo")
}

pub fn namespace() -> Namespace {
    Namespace::appwrite(authority())
}

pub fn session(user_id: &str) -> ValidatedSession {
    ValidatedSession::new(UserData::new(user_id))
}
