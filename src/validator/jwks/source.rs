//! Cached keys of an issuer, and when they are fetched again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{sync::watch, time::Instant};

use super::fetcher::KeyFetcher;
use crate::{
    crypto::{Jws, JwsError, KeySet},
    sync::{Backoff, lock},
    telemetry::EVENTS,
    validator::ErrorChain,
};

/// Pause after a fetch that succeeded.
const MIN_INTERVAL: Duration = Duration::from_secs(30);

/// First pause after a fetch that failed. Later ones are up to [`MIN_INTERVAL`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Age at which keys are fetched again, so that a key that the issuer has withdrawn is not used for
/// ever.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Verifies tokens of one issuer. Clones share the keys.
#[derive(Clone)]
pub(crate) enum KeySource {
    /// Keys that never change.
    Fixed(Arc<KeySet>),
    Fetched(Arc<FetchedKeys>),
}

pub(crate) struct FetchedKeys {
    fetcher: KeyFetcher,
    state: Mutex<State>,
}

struct State {
    keys: Option<(Arc<KeySet>, Instant)>,
    not_before: Option<Instant>,
    backoff: Backoff,
    /// The fetch that is running.
    running: Option<watch::Receiver<Option<FetchResult>>>,
}

type FetchResult = Result<Arc<KeySet>, KeysUnavailable>;

/// The keys could not be fetched, or may not be fetched yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeysUnavailable;

/// Why a token is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerificationError {
    /// The token is invalid.
    Invalid(JwsError),
    /// The key of the token is unknown and cannot be fetched now, so that the token may be valid.
    Unavailable,
}

impl KeySource {
    pub(crate) fn fixed(keys: KeySet) -> Self {
        Self::Fixed(Arc::new(keys))
    }

    pub(crate) fn fetched(fetcher: KeyFetcher) -> Self {
        let state = State {
            keys: None,
            not_before: None,
            backoff: Backoff::new(FIRST_RETRY),
            running: None,
        };
        Self::Fetched(Arc::new(FetchedKeys {
            fetcher,
            state: Mutex::new(state),
        }))
    }

    /// Fetches the keys unless there are some.
    pub(crate) async fn load(&self) -> Result<(), VerificationError> {
        if let Self::Fetched(source) = self {
            source.current().await?;
        }
        Ok(())
    }

    /// Verifies the signature of a token and returns its claims.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time. A fetch that has begun runs to its end.
    pub(crate) async fn claims(
        &self,
        token: &Jws<'_>,
    ) -> Result<Map<String, Value>, VerificationError> {
        let source = match self {
            Self::Fixed(keys) => return token.claims(keys).map_err(VerificationError::Invalid),
            Self::Fetched(source) => source,
        };
        let keys = source.current().await?;
        match token.claims(&keys) {
            Err(JwsError::UnknownKey) => {
                let keys = source.newer(Some(&keys)).await?;
                token.claims(&keys).map_err(VerificationError::Invalid)
            }
            result => result.map_err(VerificationError::Invalid),
        }
    }
}

impl FetchedKeys {
    /// Returns the cached keys, unless there are none or they are old and others can be fetched.
    async fn current(self: &Arc<Self>) -> FetchResult {
        let cached = lock(&self.state).keys.clone();
        match cached {
            Some((keys, at)) if at.elapsed() < MAX_AGE => Ok(keys),
            Some((keys, _)) => Ok(self.newer(Some(&keys)).await.unwrap_or(keys)),
            None => self.newer(None).await,
        }
    }

    /// Returns the keys of a fetch later than the one that returned `seen`.
    async fn newer(self: &Arc<Self>, seen: Option<&Arc<KeySet>>) -> FetchResult {
        let mut running = {
            let mut state = lock(&self.state);
            if let Some((keys, _)) = &state.keys
                && seen.is_none_or(|seen| !Arc::ptr_eq(seen, keys))
            {
                return Ok(Arc::clone(keys));
            }
            // The sender of a task that has been aborted with its runtime is gone.
            let running = state.running.clone();
            match running.filter(|running| running.has_changed().is_ok()) {
                Some(running) => running,
                None if state.not_before.is_some_and(|at| Instant::now() < at) => {
                    return Err(KeysUnavailable);
                }
                None => {
                    let (done, running) = watch::channel(None);
                    state.running = Some(running.clone());
                    tokio::spawn(Arc::clone(self).run(done));
                    running
                }
            }
        };
        match running.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(KeysUnavailable),
        }
    }

    /// Fetches once, and passes the result to all that wait.
    async fn run(self: Arc<Self>, done: watch::Sender<Option<FetchResult>>) {
        let fetched = self.fetcher.fetch().await;
        let now = Instant::now();
        let mut state = lock(&self.state);
        let pause = match &fetched {
            Ok(_) => {
                state.backoff.reset();
                MIN_INTERVAL
            }
            Err(_) => state.backoff.pause(MIN_INTERVAL),
        };
        state.not_before = Some(now + pause);
        state.running = None;
        let result = match fetched {
            Ok(keys) => {
                let keys = Arc::new(keys);
                state.keys = Some((Arc::clone(&keys), now));
                Ok(keys)
            }
            Err(failure) => {
                let has_keys = state.keys.is_some();
                let error = ErrorChain(&failure);
                tracing::warn!(target: EVENTS, %error, has_keys, "signing keys not fetched");
                Err(KeysUnavailable)
            }
        };
        drop(state);
        // The receivers may have given up.
        let _ = done.send(Some(result));
    }
}

impl From<KeysUnavailable> for VerificationError {
    fn from(_: KeysUnavailable) -> Self {
        Self::Unavailable
    }
}
