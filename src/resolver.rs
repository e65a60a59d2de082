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
};

use tokio::{runtime::Handle, time::Instant};
use tracing::{Instrument, Span};

use crate::{
    cache::{
        Answer, Arrival, Boarding, EntryKey, Fill, Flight, Lookup, Replace, SessionCache,
        Stopwatch, Ticket, Validated, count,
    },
    log::{self, LOOKUP, VALIDATION},
    namespace::Namespace,
    outcome::{Denied, Outcome, Resolved},
    session::{CachedSession, Due, Origin},
    token::SessionToken,
    user::UserData,
    validator::{
        ForbiddenReason, Pause, SessionValidator, ValidatedSession, ValidationError,
        ValidationErrorKind,
    },
};

/// Each turn but the first follows a re-check without an answer, so two are already bad luck.
const TURNS: usize = 4;

/// The next number for the rules of a layer. 0 stands for the identity provider.
static NEXT_RULES: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Resolver<V> {
    cache: SessionCache,
    validator: Arc<V>,
    reachable: Arc<Reachable>,
    pause: Arc<Pause>,
}

impl<V> Clone for Resolver<V> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            validator: Arc::clone(&self.validator),
            reachable: Arc::clone(&self.reachable),
            pause: Arc::clone(&self.pause),
        }
    }
}

impl<V> Resolver<V> {
    pub(crate) fn new(cache: SessionCache, validator: V) -> Self
    where
        V: SessionValidator,
    {
        let rules = NEXT_RULES.fetch_add(1, Relaxed);
        Self {
            pause: Arc::new(Pause::new(cache.clock().clone())),
            cache: cache.for_validator(&validator).with_rules(rules),
            validator: Arc::new(validator),
            reachable: Arc::default(),
        }
    }

    pub(crate) fn cache(&self) -> &SessionCache {
        &self.cache
    }

    pub(crate) fn set_namespace(&mut self, namespace: Namespace) {
        self.cache = self.cache.clone().with_namespace(namespace);
    }
}

/// What can be said without waiting.
pub(crate) enum Near {
    Answer(Outcome),
    /// It takes more; what it takes is found under this key.
    Wait(EntryKey),
}

impl<V: SessionValidator> Resolver<V> {
    /// Whether this layer would have let in the user that another layer has put into the request.
    pub(crate) fn accepts_from_outside(&self, user: &UserData) -> bool {
        user.source()
            .is_some_and(|source| self.cache.space().holds(source))
            && self.validator.accepts(user)
    }

    /// The token as its session is cached.
    #[inline]
    pub(crate) fn canonical(&self, token: SessionToken) -> SessionToken {
        self.validator.canonical(&token).unwrap_or(token)
    }

    #[inline]
    pub(crate) fn near(&self, token: &SessionToken) -> Near {
        if let Some(hit) = self.cache.near(token)
            && self.validator.accepts(&hit.user)
        {
            self.cache.looked_up(hit.origin.into());
            return Near::Answer(Ok(self.serve(hit, token)));
        }
        let key = self.cache.key(token);
        if self.cache.refuses(&key) {
            self.cache.looked_up(Answer::Revoked);
            return Near::Answer(Err(Denied::Revoked));
        }
        Near::Wait(key)
    }

    /// Waits for the answer; dropping the future stops no validation that others wait for.
    pub(crate) async fn resolve(self, token: SessionToken, key: EntryKey) -> Outcome {
        if Handle::try_current().is_err() {
            tracing::error!(
                target: LOOKUP,
                "the session cache must be polled inside of a Tokio runtime"
            );
            return unavailable("no Tokio runtime");
        }
        let (since, span) = (Stopwatch::start(), log::lookup());
        let (answer, outcome) = self.answer(&token, &key).instrument(span.clone()).await;
        self.cache.counters().waited(answer, since);
        let answer = answer.name();
        span.record("outcome", answer);
        tracing::debug!(target: LOOKUP, parent: &span, outcome = answer, "a session was looked up");
        // Last of all, so that it holds for joined, shared and stale sessions as well.
        match outcome {
            Ok(resolved) if !self.validator.accepts(&resolved.user) => {
                Err(ValidationError::forbidden(ForbiddenReason::Other).into())
            }
            outcome => outcome,
        }
    }

    async fn answer(&self, token: &SessionToken, key: &EntryKey) -> (Answer, Outcome) {
        let landings = self.cache.landings();
        match self.look_up(token, key).await {
            Ok(outcome) => {
                let answer = Answer::of(&outcome);
                self.cache.looked_up(answer);
                (answer, outcome)
            }
            Err(ticket) => {
                let missing = self.cache.missing();
                self.cache.looked_up(missing);
                // Boxed, so that a hit need not carry the room for it.
                let answer = Box::pin(self.miss(token, key, ticket, landings));
                let outcome = tokio::time::timeout(self.cache.miss_deadline(), answer)
                    .await
                    .unwrap_or_else(|_| unavailable("no answer within the request deadline"));
                let is_stale = outcome.as_ref().is_ok_and(|resolved| resolved.is_stale);
                (if is_stale { Answer::Stale } else { missing }, outcome)
            }
        }
    }

    async fn miss(
        &self,
        token: &SessionToken,
        key: &EntryKey,
        mut ticket: Ticket,
        mut landings: u64,
    ) -> Outcome {
        for _ in 0..TURNS {
            match self.wait(token, key, ticket, landings).await? {
                Arrival::Outcome(outcome) => return outcome,
                Arrival::TooLate => {}
                Arrival::Crashed => {
                    return unavailable("the validation ended without an answer");
                }
            }
            landings = self.cache.landings();
            ticket = match self.look_up(token, key).await {
                Ok(outcome) => return outcome,
                Err(ticket) => ticket,
            };
        }
        unavailable("Redis answers lookups, but not what follows them")
    }

    /// One flight, a new one or somebody else's.
    async fn wait(
        &self,
        token: &SessionToken,
        key: &EntryKey,
        ticket: Ticket,
        landings: u64,
    ) -> Result<Arrival, Denied> {
        let landing = if self.cache.is_enabled() {
            match self.cache.board(key, landings) {
                Boarding::Begin {
                    flight,
                    landing,
                    is_fresh,
                } => {
                    let start = if is_fresh {
                        Start::Seen(ticket)
                    } else {
                        Start::LookUp
                    };
                    self.begin(flight, token.clone(), key.clone(), start);
                    landing
                }
                Boarding::Join(landing) => {
                    count(&self.cache.counters().joined);
                    Span::current().record("joined", true);
                    landing
                }
                Boarding::Full => {
                    let full = "too many sessions are being validated at once";
                    return Err(ValidationError::unavailable(full).into());
                }
            }
        } else {
            let (flight, landing) = self.cache.fly_alone();
            self.begin(flight, token.clone(), key.clone(), Start::Seen(ticket));
            landing
        };
        Ok(landing.arrival().await)
    }

    /// A session from the cache; if it is time, it is validated again behind the request's back.
    #[inline]
    fn serve(&self, hit: CachedSession, token: &SessionToken) -> Resolved {
        if let Some(due) = hit.due {
            self.refresh(token, due);
        }
        Resolved {
            user: hit.user,
            expires_at: hit.expires_at,
            origin: hit.origin,
            is_stale: false,
        }
    }

    fn refresh(&self, token: &SessionToken, due: Due) {
        // Before the token's digest is made, which a hit does without.
        if self.pause.left().is_some() {
            return;
        }
        let key = self.cache.key(token);
        if let Some(flight) = self.cache.refresh(&key, due) {
            count(&self.cache.counters().refreshes);
            self.begin(flight, token.clone(), key, Start::Refresh);
        }
    }

    fn begin(&self, flight: Flight, token: SessionToken, key: EntryKey, start: Start) {
        // Without a runtime a session is not refreshed, and goes on to its end.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let resolver = self.clone();
        runtime.spawn(async move {
            let (mut flight, mut start) = (flight, start);
            loop {
                let mut is_checked = true;
                let outcome = resolver
                    .fly(&flight, &token, &key, start, &mut is_checked)
                    .instrument(flight.span())
                    .await;
                match flight.land(outcome, is_checked) {
                    Some(next) => (flight, start) = (next, Start::LookUp),
                    None => break,
                }
            }
        });
    }

    async fn fly(
        &self,
        flight: &Flight,
        token: &SessionToken,
        key: &EntryKey,
        start: Start,
        is_checked: &mut bool,
    ) -> Outcome {
        let ticket = match start {
            Start::Seen(ticket) => ticket,
            Start::Refresh => match self.cache.ask(key, Replace::ThatOne).await {
                Lookup::Miss(ticket) => ticket,
                Lookup::Hit(_) | Lookup::Revoked => return Err(Denied::Revoked),
            },
            Start::LookUp => match self.look_up(token, key).await {
                Err(ticket) => ticket,
                // An earlier flight landed after the request's own lookup. What is served to
                // those who have joined must be looked up after the last of them did.
                Ok(_) => {
                    flight.close();
                    match self.look_up(token, key).await {
                        Err(ticket) => ticket,
                        Ok(outcome) => return outcome,
                    }
                }
            },
        };
        flight.take_off(ticket.is_answered());
        let answer = self.ask(token, &ticket).await;
        flight.close();
        let session = match answer {
            // It is no outage if this node did not ask: the provider might have refused this token.
            Err(error)
                if error.kind() == ValidationErrorKind::Unavailable && !error.is_not_asked() =>
            {
                return Box::pin(self.stale(key, error)).await;
            }
            answer => answer?,
        };
        // Boxed, so that who waits for the validator need not carry the room for it.
        let fill = |ticket, session| Box::pin(self.cache.fill(ticket, session));
        let ticket = match fill(ticket, &session).await {
            Fill::Overtaken(ticket) => ticket,
            fill => {
                *is_checked = !matches!(fill, Fill::Unanswered);
                return served(&fill, session);
            }
        };
        let session = self.ask(token, &ticket).await?;
        served(&fill(ticket, &session).await, session)
    }

    /// What was cached, in place of an answer that nobody gives; the error if there is nothing.
    async fn stale(&self, key: &EntryKey, error: ValidationError) -> Outcome {
        match self.cache.stale(key).await {
            Some(hit) if self.validator.accepts(&hit.user) => {
                self.cache.looked_up(Answer::Stale);
                Ok(Resolved {
                    user: hit.user,
                    expires_at: hit.expires_at,
                    origin: hit.origin,
                    is_stale: true,
                })
            }
            _ => Err(error.into()),
        }
    }

    /// The cache's answer, or the ticket for the validation that it takes.
    async fn look_up(&self, token: &SessionToken, key: &EntryKey) -> Result<Outcome, Ticket> {
        let lookup = match self.cache.lookup(key).await {
            Lookup::Hit(hit) if !self.validator.accepts(&hit.user) => {
                self.cache.ask(key, Replace::Any).await
            }
            lookup => lookup,
        };
        match lookup {
            Lookup::Hit(hit) => Ok(Ok(self.serve(hit, token))),
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
        self.pause.check()?;
        let (mut since, mut asked_at) = (None, None);
        let deadline = self.cache.validation_deadline();
        let answer = tokio::time::timeout(deadline, async {
            let _slot = self.cache.slot().await;
            since = Some(Stopwatch::start());
            asked_at = Some(Instant::now());
            count(&self.cache.counters().validations);
            self.validator.validate(token.clone()).await
        })
        .await;
        let answer = answer
            .unwrap_or_else(|_| {
                let error = ValidationError::unavailable(if asked_at.is_some() {
                    "the validator did not answer within the validation deadline"
                } else {
                    "as many validations as may run at once took all of the validation deadline"
                });
                // A provider that had no time to answer might have refused this token.
                let had_time = asked_at.is_some_and(|at| at.elapsed() * 2 >= deadline);
                Err(if had_time { error } else { error.not_asked() })
            })
            .and_then(|mut session| {
                if session.user.id().is_empty() {
                    return Err(ValidationError::unavailable(
                        "the validator answered with a user that has no id",
                    ));
                }
                self.cache.attribute(&mut session);
                Ok(session)
            });
        let end = Validated::from(&answer);
        self.cache.counters().validated(end, since);
        tracing::debug!(target: VALIDATION, outcome = end.name(), "a session was validated");
        match &answer {
            Err(error) if error.is_refused() => {
                let is_own_rule = error.is_own_rule();
                // What other layers of the namespace have cached is still the provider's word.
                if !is_own_rule {
                    Box::pin(self.cache.evict(ticket)).await;
                }
                if error.kind() == ValidationErrorKind::Invalid {
                    self.cache.remember_refusal(ticket, is_own_rule);
                }
            }
            Err(error) => self.pause.observe(error),
            Ok(_) => {}
        }
        self.reachable.observe(answer.as_ref().err());
        answer
    }
}

/// What a flight begins with.
enum Start {
    /// What the request's own lookup saw.
    Seen(Ticket),
    /// A lookup of its own, which may find that there is nothing to ask.
    LookUp,
    /// A lookup of its own for a session that is cached, but not for long.
    Refresh,
}

fn unavailable(why: &'static str) -> Outcome {
    Err(ValidationError::unavailable(why).into())
}

fn served(fill: &Fill, session: ValidatedSession) -> Outcome {
    match fill {
        // Overtaken a second time: everyone who waits began before that revocation returned.
        Fill::Stored | Fill::Skipped | Fill::Unanswered | Fill::Overtaken(_) => Ok(Resolved {
            user: session.user,
            expires_at: session.expires_at,
            origin: Origin::Validator,
            is_stale: false,
        }),
        Fill::Ended => Err(ValidationError::invalid().into()),
        Fill::Revoked => Err(Denied::Revoked),
    }
}

/// Whether the identity provider answers, so that a change is logged once and not per request.
#[derive(Default)]
struct Reachable(AtomicU8);

impl Reachable {
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
                tracing::error!(target: VALIDATION, error = %Chain(error), "no session can be validated");
            }
            (Self::UNAVAILABLE, Some(error)) => tracing::warn!(
                target: VALIDATION,
                error = %Chain(error),
                "sessions cannot be validated now; cached ones go on being served"
            ),
            _ => tracing::info!(target: VALIDATION, "sessions can be validated again"),
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
