//! From a token to a user: the cache first, then one validation for all who ask.
//!
//! Everything that must not be wrong under a race happens in one order. A flight looks the token
//! up, asks the validator, closes to joiners, and only then re-checks and stores. When a
//! revocation came between, it asks once more with what it then knows, so that nobody is locked
//! out; when another one comes, the answer goes to those who wait (they all began earlier), and
//! nothing is stored. `tests/model/src/flight.rs` walks this order through all interleavings.

use std::{
    error::Error as StdError,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    cache::{
        Arrival, Boarding, CachedSession, EntryKey, Fill, Flight, Lookup, SessionCache, Ticket,
        count,
    },
    outcome::{Denied, Outcome, Resolved},
    session::Origin,
    token::SessionToken,
    validator::{SessionValidator, ValidatedSession, ValidationError, ValidationErrorKind},
};

/// Each turn but the first follows a re-check without an answer, so two are already bad luck.
const TURNS: usize = 4;

/// However long a provider wants to be left alone, it is asked again after a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct Resolver<V> {
    cache: SessionCache,
    validator: Arc<V>,
    reachable: Arc<Reachable>,
    /// Until when the identity provider wants to be left alone, by the cache's clock.
    pause_until: Arc<AtomicU64>,
}

impl<V> Clone for Resolver<V> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            validator: Arc::clone(&self.validator),
            reachable: Arc::clone(&self.reachable),
            pause_until: Arc::clone(&self.pause_until),
        }
    }
}

impl<V> Resolver<V> {
    pub(crate) fn new(cache: SessionCache, validator: V) -> Self {
        Self {
            cache,
            validator: Arc::new(validator),
            reachable: Arc::default(),
            pause_until: Arc::default(),
        }
    }

    pub(crate) fn cache(&self) -> &SessionCache {
        &self.cache
    }

    pub(crate) fn set_namespace(&mut self, name: String) {
        self.cache = self.cache.clone().with_namespace(name);
    }

    pub(crate) fn key(&self, token: &SessionToken) -> EntryKey {
        self.cache.key(token)
    }
}

impl<V: SessionValidator> Resolver<V> {
    /// What can be answered without waiting.
    pub(crate) fn near(&self, key: &EntryKey) -> Option<Outcome> {
        match self.cache.near(key)? {
            Lookup::Hit(hit) if self.validator.accepts(&hit.user) => {
                count(&self.cache.counters().hits);
                Some(Ok(served_by(hit)))
            }
            Lookup::Revoked => Some(Err(Denied::Revoked)),
            Lookup::Hit(_) | Lookup::Miss(_) => None,
        }
    }

    /// Waits for the answer; dropping the future stops no validation that others wait for.
    pub(crate) async fn resolve(self, token: SessionToken, key: EntryKey) -> Outcome {
        let mut counted = false;
        for _ in 0..TURNS {
            let landings = self.cache.landings();
            let ticket = match self.look_up(&key).await {
                Ok(outcome) => {
                    if outcome.is_ok() && !counted {
                        count(&self.cache.counters().hits);
                    }
                    return outcome;
                }
                Err(ticket) => ticket,
            };
            if !std::mem::replace(&mut counted, true) {
                count(&self.cache.counters().misses);
            }
            let landing = if self.cache.is_enabled() {
                match self.cache.board(&key, landings) {
                    Boarding::Begin {
                        flight,
                        landing,
                        is_fresh,
                    } => {
                        let ticket = is_fresh.then_some(ticket);
                        self.begin(flight, token.clone(), key.clone(), ticket)?;
                        landing
                    }
                    Boarding::Join(landing) => {
                        count(&self.cache.counters().joined);
                        landing
                    }
                    Boarding::Full => {
                        return Err(ValidationError::unavailable(
                            "too many sessions are being validated at once",
                        )
                        .into());
                    }
                }
            } else {
                let (flight, landing) = self.cache.fly_alone();
                self.begin(flight, token.clone(), key.clone(), Some(ticket))?;
                landing
            };
            match landing.arrival().await {
                Arrival::Outcome(outcome) => return outcome,
                Arrival::TooLate => {}
                Arrival::Crashed => {
                    return Err(ValidationError::unavailable(
                        "the validation ended without an answer",
                    )
                    .into());
                }
            }
        }
        Err(ValidationError::unavailable("Redis answers lookups, but not what follows them").into())
    }

    fn begin(
        &self,
        flight: Flight,
        token: SessionToken,
        key: EntryKey,
        ticket: Option<Ticket>,
    ) -> Result<(), Denied> {
        let Ok(runtime) = Handle::try_current() else {
            tracing::error!("the session cache must be polled inside of a Tokio runtime");
            return Err(ValidationError::unavailable("no Tokio runtime").into());
        };
        let resolver = self.clone();
        runtime.spawn(async move {
            let (mut flight, mut ticket) = (flight, ticket);
            loop {
                let mut is_checked = true;
                let outcome = resolver
                    .fly(&flight, &token, &key, ticket, &mut is_checked)
                    .await;
                match flight.land(outcome, is_checked) {
                    Some(next) => (flight, ticket) = (next, None),
                    None => break,
                }
            }
        });
        Ok(())
    }

    async fn fly(
        &self,
        flight: &Flight,
        token: &SessionToken,
        key: &EntryKey,
        ticket: Option<Ticket>,
        is_checked: &mut bool,
    ) -> Outcome {
        let ticket = match ticket {
            Some(ticket) => ticket,
            None => match self.look_up(key).await {
                Err(ticket) => ticket,
                // An earlier flight landed after the request's own lookup. What is served to
                // those who have joined must be looked up after the last of them did.
                Ok(_) => {
                    flight.close();
                    match self.look_up(key).await {
                        Err(ticket) => ticket,
                        Ok(outcome) => return outcome,
                    }
                }
            },
        };
        flight.take_off(ticket.is_answered());
        let session = self.ask(token, &ticket).await?;
        flight.close();
        let ticket = match self.cache.fill(ticket, &session).await {
            Fill::Overtaken(ticket) => ticket,
            fill => {
                *is_checked = !matches!(fill, Fill::Unanswered);
                return served(&fill, session);
            }
        };
        let session = self.ask(token, &ticket).await?;
        served(&self.cache.fill(ticket, &session).await, session)
    }

    /// The cache's answer, or the ticket for the validation that it takes.
    async fn look_up(&self, key: &EntryKey) -> Result<Outcome, Ticket> {
        let lookup = match self.cache.lookup(key).await {
            Lookup::Hit(hit) if !self.validator.accepts(&hit.user) => self.cache.ask(key).await,
            lookup => lookup,
        };
        match lookup {
            Lookup::Hit(hit) => Ok(Ok(served_by(hit))),
            Lookup::Miss(_) if self.cache.was_refused(key) => {
                Ok(Err(ValidationError::invalid().into()))
            }
            Lookup::Miss(ticket) => Err(ticket),
            Lookup::Revoked => Ok(Err(Denied::Revoked)),
        }
    }

    /// One call of the validator, within its deadline and its share of the calls at once.
    async fn ask(
        &self,
        token: &SessionToken,
        ticket: &Ticket,
    ) -> Result<ValidatedSession, ValidationError> {
        if let Some(left) = self.pause() {
            let paused = "the identity provider asked to be left alone for a while";
            return Err(ValidationError::unavailable(paused).with_retry_after(left));
        }
        let answer = tokio::time::timeout(self.cache.validation_deadline(), async {
            let _slot = self.cache.slot().await;
            count(&self.cache.counters().validations);
            self.validator.validate(token.clone()).await
        })
        .await
        .unwrap_or_else(|_| {
            Err(ValidationError::unavailable(
                "the validator did not answer within the validation deadline",
            ))
        })
        .and_then(|session| {
            if session.user.id().is_empty() {
                Err(ValidationError::unavailable(
                    "the validator answered with a user that has no id",
                ))
            } else {
                Ok(session)
            }
        });
        match &answer {
            Err(error) if error.is_refused() => {
                count(&self.cache.counters().refused);
                if error.kind() == ValidationErrorKind::Invalid {
                    self.cache.remember_refusal(ticket);
                }
            }
            Err(error) => {
                count(&self.cache.counters().unavailable);
                self.back_off(error);
            }
            Ok(_) => {}
        }
        self.reachable.observe(answer.as_ref().err());
        answer
    }
}

impl<V> Resolver<V> {
    /// How much longer nothing is validated.
    fn pause(&self) -> Option<Duration> {
        let now = self.cache.clock().elapsed();
        let left = self.pause_until.load(Relaxed).checked_sub(now)?;
        (left > 0).then(|| Duration::from_micros(left))
    }

    fn back_off(&self, error: &ValidationError) {
        if let Some(after) = error.retry_after() {
            let after = after.min(LONGEST_PAUSE).as_micros();
            let until = u64::try_from(after).unwrap_or(u64::MAX);
            let until = self.cache.clock().elapsed().saturating_add(until);
            self.pause_until.fetch_max(until, Relaxed);
        }
    }
}

fn served_by(hit: CachedSession) -> Resolved {
    Resolved {
        user: hit.user,
        expires_at: hit.expires_at,
        origin: hit.origin,
    }
}

fn served(fill: &Fill, session: ValidatedSession) -> Outcome {
    match fill {
        // Overtaken a second time: everyone who waits began before that revocation returned.
        Fill::Stored | Fill::Skipped | Fill::Unanswered | Fill::Overtaken(_) => Ok(Resolved {
            user: session.user,
            expires_at: session.expires_at,
            origin: Origin::Validator,
        }),
        Fill::Ended => Err(ValidationError::invalid().into()),
        Fill::Revoked => Err(Denied::Revoked),
    }
}

/// Whether the identity provider answers, so that a change is logged once and not per request.
#[derive(Default)]
struct Reachable(AtomicU8);

impl Reachable {
    fn observe(&self, error: Option<&ValidationError>) {
        const ANSWERS: u8 = 0;
        const UNAVAILABLE: u8 = 1;
        const MISCONFIGURED: u8 = 2;

        let state = match error.map(ValidationError::kind) {
            None | Some(ValidationErrorKind::Invalid | ValidationErrorKind::Forbidden(_)) => {
                ANSWERS
            }
            Some(ValidationErrorKind::Unavailable) => UNAVAILABLE,
            Some(ValidationErrorKind::Misconfigured) => MISCONFIGURED,
        };
        if self.0.load(Relaxed) == state || self.0.swap(state, Relaxed) == state {
            return;
        }
        match (state, error) {
            (MISCONFIGURED, Some(error)) => {
                tracing::error!(error = %Chain(error), "no session can be validated");
            }
            (UNAVAILABLE, Some(error)) => tracing::warn!(
                error = %Chain(error),
                "sessions cannot be validated now; cached ones go on being served"
            ),
            _ => tracing::info!("sessions can be validated again"),
        }
    }
}

/// An error and its causes on one line.
struct Chain<'a>(&'a ValidationError);

impl fmt::Display for Chain<'_> {
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
