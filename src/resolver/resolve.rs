//! Resolution of a token to a user: a lookup in the cache, then one validation for all requests
//! that wait.
//!
//! The order of a validation is what makes it safe under races. The leader looks the token up, calls
//! the validator, closes to further callers, and only then compares and stores. If a revocation
//! happened in between, the leader validates once more with the new ticket, so that the user is not
//! locked out. If another revocation happens during that, the result goes to the requests that
//! wait, all of which began earlier, and nothing is stored. `tests/model/src/leader.rs` checks this
//! order in every interleaving.

use std::{sync::Arc, time::Duration};

use http::Extensions;
use tokio::{runtime::Handle, time::Instant};
use tracing::{Instrument, Span};

use super::{validation::ValidatorClient, validation_times::ValidationTimes};
use crate::{
    cache::{
        Accepted, Denied, Fill, Lookup, Outcome, Resolved, SessionCache, Store, Ticket,
        ValidationLeader,
    },
    memory::RejectedBy,
    model::{CachedSession, LayerId, Namespace, Origin, RecordVersion, UserData},
    protocol::{CacheKey, LastingCause},
    sync::singleflight::{Closed, Open, Role, Validating, WaitResult},
    telemetry::{LOOKUP, LookupOutcome, Timer, VALIDATION, lookup_span, refresh_span},
    token::SessionToken,
    validator::{
        ForbiddenReason, SessionValidator, ValidatedSession, ValidationError, ValidationErrorKind,
        in_background,
    },
};

/// Maximum number of validations that a request joins. Each one after the first follows a re-check
/// to which Redis did not reply, so even two are unlikely.
const MAX_ATTEMPTS: usize = 4;

pub(crate) struct Resolver<V> {
    cache: SessionCache,
    client: ValidatorClient<V>,
    /// Identifies the rules of this layer's validator, since layers of one namespace may differ.
    id: LayerId,
    times: Arc<ValidationTimes>,
}

impl<V> Clone for Resolver<V> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            client: self.client.clone(),
            id: self.id,
            times: Arc::clone(&self.times),
        }
    }
}

impl<V> Resolver<V> {
    pub(crate) fn new(cache: SessionCache, validator: V) -> Self
    where
        V: SessionValidator,
    {
        let client = ValidatorClient::new(validator, cache.store());
        Self {
            cache: cache.for_validator(client.validator()),
            client,
            id: LayerId::next(),
            times: Arc::default(),
        }
    }

    pub(crate) fn cache(&self) -> &SessionCache {
        &self.cache
    }

    pub(super) fn client(&self) -> &ValidatorClient<V> {
        &self.client
    }

    pub(super) fn times(&self) -> &ValidationTimes {
        &self.times
    }

    pub(super) fn id(&self) -> LayerId {
        self.id
    }

    pub(super) fn store(&self) -> &Store {
        self.cache.store()
    }

    pub(crate) fn set_namespace(&mut self, namespace: Namespace) {
        self.cache = self.cache.clone().with_namespace(namespace);
    }
}

/// Result that is available without waiting.
pub(crate) enum LocalResult {
    Ready(Outcome),
    /// The request must wait. What it needs is found under this key.
    Pending(CacheKey),
}

impl<V: SessionValidator> Resolver<V> {
    /// Whether this layer would accept the user that another layer has put into the request.
    pub(crate) fn accepts_from_outside(&self, user: &UserData) -> bool {
        user.source()
            .is_some_and(|source| self.cache.space().holds(source))
            && self.client.validator().accepts(user)
    }

    /// Returns the token of the user that another layer has put into the request, if this layer
    /// would accept the user.
    pub(crate) fn token_from_outside(&self, extensions: &Extensions) -> Option<SessionToken> {
        let user = extensions.get::<UserData>()?;
        let session = user.session().filter(|_| self.accepts_from_outside(user))?;
        Some(session.token().clone())
    }

    /// Returns the spelling of the token under which its session is cached.
    #[inline]
    pub(crate) fn canonical(&self, token: SessionToken) -> SessionToken {
        self.client.validator().canonical(&token).unwrap_or(token)
    }

    #[inline]
    pub(crate) fn try_local(&self, token: &SessionToken) -> LocalResult {
        if let Some(hit) = self
            .store()
            .get_local(|| self.cache.space().local_key(token))
            && self.client.validator().accepts(&hit.user)
        {
            self.store().record_lookup(hit.origin.into());
            return LocalResult::Ready(Ok(self.resolved_from_hit(hit, token)));
        }
        let key = self.cache.key(token);
        if self.store().is_revoked(&key) {
            self.store().record_lookup(LookupOutcome::Revoked);
            return LocalResult::Ready(Err(Denied::Revoked));
        }
        LocalResult::Pending(key)
    }

    pub(super) fn accepts(&self, resolved: &Resolved) -> bool {
        self.client
            .validator()
            .accepts(&resolved.user.clone().into())
    }

    /// Waits for the outcome. Dropping the future does not stop a validation for which other
    /// requests wait.
    pub(crate) async fn resolve(
        self,
        token: SessionToken,
        key: CacheKey,
    ) -> Result<Accepted, Denied> {
        if !has_runtime() {
            return unavailable("no Tokio runtime");
        }
        let (timer, span) = (Timer::start(), lookup_span());
        let (answer, outcome) = self
            .lookup_or_validate(&token, &key)
            .instrument(span.clone())
            .await;
        self.store()
            .metrics()
            .lookup_duration
            .with(answer)
            .record(timer);
        let answer = answer.as_str();
        span.record("outcome", answer);
        tracing::debug!(target: LOOKUP, parent: &span, outcome = answer, "session lookup finished");
        // Call `accepts` last, so that it applies to coalesced, shared and stale sessions as well.
        match outcome {
            Ok(resolved) if !self.accepts(&resolved) => {
                Err(ValidationError::forbidden(ForbiddenReason::Other).into())
            }
            outcome => outcome.map(|resolved| Accepted::first(token, resolved)),
        }
    }

    async fn lookup_or_validate(
        &self,
        token: &SessionToken,
        key: &CacheKey,
    ) -> (LookupOutcome, Outcome) {
        let completions = self.cache.validations().in_flight.completions();
        match self.lookup_for_request(token, key).await {
            Ok(outcome) => {
                let answer = LookupOutcome::from(&outcome);
                self.store().record_lookup(answer);
                (answer, outcome)
            }
            Err(ticket) => {
                let missing = self.store().miss_outcome();
                self.store().record_lookup(missing);
                // Boxed, so that the future of a hit does not reserve space for it.
                let answer = Box::pin(self.bridge_or_validate(token, key, ticket, completions));
                let outcome = tokio::time::timeout(self.cache.validations().miss_timeout, answer)
                    .await
                    .unwrap_or_else(|_| unavailable("no result within `request_timeout`"));
                let is_stale = outcome.as_ref().is_ok_and(|resolved| resolved.is_stale);
                let answer = match is_stale {
                    true => LookupOutcome::Stale,
                    false => missing,
                };
                (answer, outcome)
            }
        }
    }

    /// Returns a session from before a restart of Redis if it may be served meanwhile, and else
    /// waits for a validation.
    async fn bridge_or_validate(
        &self,
        token: &SessionToken,
        key: &CacheKey,
        ticket: Ticket,
        completions: u64,
    ) -> Outcome {
        if ticket.is_answered()
            && let Some(resolved) = self.resolved_stale(Box::pin(self.store().bridged(key)).await)
        {
            if let Some(leader) = self.try_lead_in_background(key) {
                self.spawn_leader(leader, token.clone(), key.clone(), LeaderStart::Bridge);
            }
            return Ok(resolved);
        }
        self.validate_coalesced(token, key, ticket, completions)
            .await
    }

    async fn validate_coalesced(
        &self,
        token: &SessionToken,
        key: &CacheKey,
        mut ticket: Ticket,
        mut completions: u64,
    ) -> Outcome {
        for _ in 0..MAX_ATTEMPTS {
            match self
                .join_validation(token, key, ticket, completions)
                .await?
            {
                WaitResult::Done(outcome) => return outcome,
                WaitResult::Retry => {}
                WaitResult::Abandoned => {
                    return unavailable("the validation ended without a result");
                }
            }
            completions = self.cache.validations().in_flight.completions();
            ticket = match self.lookup_for_request(token, key).await {
                Ok(outcome) => return outcome,
                Err(ticket) => ticket,
            };
        }
        unavailable("Redis answered the lookups but did not confirm a write")
    }

    /// Waits for one validation, led by this request or an earlier one.
    pub(super) async fn join_validation(
        &self,
        token: &SessionToken,
        key: &CacheKey,
        ticket: Ticket,
        completions: u64,
    ) -> Result<WaitResult<Outcome>, Denied> {
        if self.cache.validations().is_closed() {
            return Err(ValidationError::unavailable("the cache is closed").into());
        }
        let in_flight = &self.cache.validations().in_flight;
        let waiter = if self.store().is_enabled() {
            match in_flight.join((key.clone(), self.id), completions) {
                Role::Leader {
                    leader,
                    waiter,
                    is_fresh,
                } => {
                    let start = if is_fresh {
                        LeaderStart::Ticket(ticket)
                    } else {
                        LeaderStart::Lookup
                    };
                    self.spawn_leader(leader, token.clone(), key.clone(), start);
                    waiter
                }
                Role::Waiter(waiter) => {
                    self.store().metrics().coalesced.increment();
                    Span::current().record("coalesced", true);
                    waiter
                }
                Role::Rejected => {
                    let full = "too many tokens are being validated concurrently";
                    return Err(ValidationError::unavailable(full).into());
                }
            }
        } else {
            let (leader, waiter) = in_flight.lead_detached();
            let start = LeaderStart::Ticket(ticket);
            self.spawn_leader(leader, token.clone(), key.clone(), start);
            waiter
        };
        Ok(waiter.wait().await)
    }

    /// Converts a cached session. If the session is due, it is validated again in the background.
    #[inline]
    fn resolved_from_hit(&self, hit: CachedSession, token: &SessionToken) -> Resolved {
        if let Some(due) = hit.due {
            self.refresh(token, due);
        }
        Resolved {
            user: hit.user.into_shared(),
            expires_at: hit.expires_at,
            origin: hit.origin,
            is_stale: false,
        }
    }

    /// Validates a session in use again before its cache entry expires, so that no active user
    /// waits for the identity provider. Does nothing if this was done for the record before, the
    /// token is being validated already, no permit is free, or the provider limits the rate. The
    /// same conditions end it before its call: it never waits for anything that a validation for a
    /// request may need.
    fn refresh(&self, token: &SessionToken, record: RecordVersion) {
        // Check this before the digest of the token is computed, which a hit does not need.
        if self.client.is_rate_limited() {
            return;
        }
        let refreshes = &self.cache.validations().refreshes;
        let key = self.cache.key(token);
        if !refreshes.is_started(&key, record)
            && let Some(leader) = self.try_lead_in_background(&key)
        {
            refreshes.start(key.clone(), record);
            self.spawn_leader(leader, token.clone(), key, LeaderStart::Refresh(record));
        }
    }

    /// Starts a validation that no request waits for, unless it would have to wait itself.
    fn try_lead_in_background(&self, key: &CacheKey) -> Option<ValidationLeader<Open>> {
        let validations = self.cache.validations();
        if validations.is_closed()
            || self.client.is_rate_limited()
            || !validations.has_background_permit()
        {
            return None;
        }
        let _span = refresh_span().entered();
        validations.in_flight.try_lead((key.clone(), self.id))
    }

    fn spawn_leader(
        &self,
        leader: ValidationLeader<Open>,
        token: SessionToken,
        key: CacheKey,
        start: LeaderStart,
    ) {
        // Without a runtime the session is not refreshed, and is served until its cache entry
        // expires.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let resolver = self.clone();
        runtime.spawn(async move {
            let _report = PanicReport;
            let mut next = Some((leader, start));
            while let Some((leader, start)) = next {
                let span = leader.span();
                let successor = resolver.lead(leader, &token, &key, start);
                let successor = successor.instrument(span).await;
                next = successor.map(|leader| (leader, LeaderStart::Lookup));
            }
        });
    }

    /// Takes the ticket for a validation. Returns the successor instead if the leader has completed
    /// without one.
    async fn begin(
        &self,
        leader: ValidationLeader<Open>,
        token: &SessionToken,
        key: &CacheKey,
        start: LeaderStart,
    ) -> Result<(LeaderPhase, Ticket), Option<ValidationLeader<Open>>> {
        let is_background = start.is_background();
        let mut found = match start {
            LeaderStart::Ticket(ticket) => Err(ticket),
            LeaderStart::Refresh(record) => self.lookup_newer(token, key, record).await,
            LeaderStart::Lookup | LeaderStart::Bridge => self.lookup(token, key).await,
        };
        if is_elsewhere(&found) && !is_background {
            found = self.await_other_node(token, key).await;
        }
        let leader = match found {
            Err(_) if is_elsewhere(&found) && is_background => {
                let leader = leader.close();
                if !leader.is_awaited() {
                    let elsewhere =
                        ValidationError::unavailable("another node validates the session");
                    let denied = elsewhere.not_called().into();
                    return Err(leader.complete(Err(denied), true));
                }
                found = self.await_other_node(token, key).await;
                leader
            }
            Err(ticket) if ticket.is_answered() => {
                let leader = LeaderPhase::Validating(leader.start_validation());
                return Ok((leader, ticket));
            }
            // There is nothing to re-check the result by.
            Err(ticket) => return Ok((LeaderPhase::Closed(leader.close()), ticket)),
            // Another validation completed after the request's own lookup, and the new lookup has an
            // outcome. Close the leader and look up again: what is served to the callers that joined
            // must be looked up after the last of them joined. So must a rejection, which may have
            // ended since.
            Ok(_) => {
                let leader = leader.close();
                if !is_background || leader.is_awaited() {
                    found = self.lookup(token, key).await;
                }
                leader
            }
        };
        match found {
            Err(ticket) => Ok((LeaderPhase::Closed(leader), ticket)),
            Ok(outcome) => Err(leader.complete(outcome, true)),
        }
    }

    /// Validates a token for all requests that wait. Returns the successor if requests wait for it.
    async fn lead(
        &self,
        leader: ValidationLeader<Open>,
        token: &SessionToken,
        key: &CacheKey,
        start: LeaderStart,
    ) -> Option<ValidationLeader<Open>> {
        let is_bridge = matches!(start, LeaderStart::Bridge);
        let is_refresh = matches!(start, LeaderStart::Refresh(_));
        let is_background = start.is_background();
        // Boxed, so that a task that waits for the validator reserves no space for it.
        let (leader, ticket) = match Box::pin(self.begin(leader, token, key, start)).await {
            Ok(begun) => begun,
            Err(successor) => return successor,
        };
        if is_refresh {
            self.store().metrics().refreshes.increment();
        }
        let began = Instant::now();
        let (result, mut shared) = self.validate(token, &ticket, is_background).await;
        let leader = leader.close();
        let result = match result {
            Err(error) if is_background && error.is_not_called() => {
                self.cache.validations().refreshes.forget(key);
                match leader.is_awaited() {
                    // Requests have joined, so it may wait now.
                    true => {
                        let result;
                        (result, shared) = Box::pin(self.validate(token, &ticket, false)).await;
                        result
                    }
                    false => Err(error),
                }
            }
            result => result,
        };
        if is_bridge && matches!(&result, Err(error) if error.is_rejection()) {
            // A rejection by this layer's own rules evicts nothing otherwise.
            self.store().end_bridge(key);
        }
        let mut unfinished = None;
        let (outcome, is_rechecked) = match result {
            Ok(session) => {
                // Boxed, so that a task that waits for the validator reserves no space for it.
                let is_background = is_background && !leader.is_awaited();
                let filled =
                    self.fill_or_revalidate(&leader, token, ticket, session, is_background);
                let filled = Box::pin(filled).await;
                self.times.record(began.elapsed());
                filled
            }
            // If this node did not call the provider, it is not an outage: the provider might have
            // rejected this token.
            Err(error)
                if error.kind() == ValidationErrorKind::Unavailable && !error.is_not_called() =>
            {
                let stale = Box::pin(self.stale(&leader, key, error)).await;
                unfinished = Some(ticket);
                (stale, true)
            }
            Err(error) => {
                unfinished = Some(ticket);
                (Err(error.into()), true)
            }
        };
        if let Some(ticket) = unfinished {
            Box::pin(self.store().end_validation(&ticket, shared)).await;
        }
        leader.complete(outcome, is_rechecked)
    }

    /// Stores a session, and validates once more if a revocation happened in between. Also returns
    /// whether the outcome holds for callers that joined after the validation started.
    pub(super) async fn fill_or_revalidate(
        &self,
        leader: &ValidationLeader<Closed>,
        token: &SessionToken,
        ticket: Ticket,
        session: Box<ValidatedSession>,
        is_background: bool,
    ) -> (Outcome, bool) {
        let ticket = match self.store().fill(leader, ticket, &session, self.id).await {
            Fill::Conflict(ticket) => ticket,
            fill => {
                let is_rechecked = !matches!(fill, Fill::Unavailable);
                return (served(&fill, *session), is_rechecked);
            }
        };
        let (result, shared) = self.validate(token, &ticket, is_background).await;
        let outcome = match result {
            Ok(session) => {
                let fill = self.store().fill(leader, ticket, &session, self.id).await;
                served(&fill, *session)
            }
            Err(error) => {
                Box::pin(self.store().end_validation(&ticket, shared)).await;
                Err(error.into())
            }
        };
        (outcome, true)
    }

    /// Validates a token. A rejection by the provider evicts what is cached. A token that has just
    /// failed fails again without a call. In the background it fails instead of waiting for a
    /// permit. Also returns the cause of a rejection that nodes share, and how long it is remembered, in
    /// microseconds.
    pub(super) async fn validate(
        &self,
        token: &SessionToken,
        ticket: &Ticket,
        is_background: bool,
    ) -> (
        Result<Box<ValidatedSession>, ValidationError>,
        Option<(LastingCause, u64)>,
    ) {
        if let Some(failure) = self.store().failure(ticket, self.id) {
            return (Err(failure), None);
        }
        let mut shared = None;
        let validation = match is_background {
            // Boxed, so that a task for which a request waits reserves no space for it.
            true => {
                let validation = self.client.validate(&self.cache, token);
                Box::pin(in_background(validation)).await
            }
            false => self.client.validate(&self.cache, token).await,
        };
        if let Err(error) = &validation.result {
            if validation.is_failure_of_token {
                self.store().cache_failure(ticket, self.id, error.clone());
            } else if error.is_rejection() {
                let is_own_rule = error.is_own_rule();
                // A rejection by this layer's own rules evicts nothing, because the provider still
                // accepts what other layers of the namespace have cached.
                if !is_own_rule {
                    Box::pin(self.store().evict(ticket)).await;
                }
                if let Some(cause) = error.lasting_cause() {
                    let by = match is_own_rule {
                        true => RejectedBy::Layer(self.id),
                        false => RejectedBy::Provider,
                    };
                    let wait = self.store().cache_negative(ticket, by, error.clone());
                    let is_shared = !is_own_rule && !self.client.monitor().is_rejecting_all();
                    shared = is_shared.then_some((cause, wait));
                }
            }
        }
        (validation.result, shared)
    }

    /// Returns a stale session because the provider is unavailable, or the error if there is none.
    async fn stale(
        &self,
        leader: &ValidationLeader<Closed>,
        key: &CacheKey,
        error: ValidationError,
    ) -> Outcome {
        let stale = self.resolved_stale(self.store().stale(leader, key).await);
        stale.ok_or_else(|| error.into())
    }

    fn resolved_stale(&self, hit: Option<CachedSession>) -> Option<Resolved> {
        let hit = hit.filter(|hit| self.client.validator().accepts(&hit.user))?;
        self.store().record_lookup(LookupOutcome::Stale);
        Some(Resolved {
            user: hit.user.into_shared(),
            expires_at: hit.expires_at,
            origin: hit.origin,
            is_stale: true,
        })
    }

    /// Does the same as [`Self::lookup`] for a request, which may be served by the bridge. Then a leader
    /// in the background reserves the validation.
    async fn lookup_for_request(
        &self,
        token: &SessionToken,
        key: &CacheKey,
    ) -> Result<Outcome, Ticket> {
        self.cache.start_delivery();
        let reserve = || match self.store().is_bridged(key) {
            true => None,
            false => self.reservation(key),
        };
        let lookup = self.store().lookup(key, reserve).await;
        self.found(token, key, lookup, reserve).await
    }

    /// Returns the outcome from the cache, or the ticket for the validation that is required.
    pub(super) async fn lookup(
        &self,
        token: &SessionToken,
        key: &CacheKey,
    ) -> Result<Outcome, Ticket> {
        self.cache.start_delivery();
        let reserve = || self.reservation(key);
        let lookup = self.store().lookup(key, reserve).await;
        self.found(token, key, lookup, reserve).await
    }

    /// Does the same as [`Self::lookup`] for a refresh, for which only a newer record is a hit.
    async fn lookup_newer(
        &self,
        token: &SessionToken,
        key: &CacheKey,
        than: RecordVersion,
    ) -> Result<Outcome, Ticket> {
        let reserve = || self.reservation(key);
        let lookup = self.store().lookup_newer(key, than, reserve).await;
        self.found(token, key, lookup, reserve).await
    }

    async fn found(
        &self,
        token: &SessionToken,
        key: &CacheKey,
        lookup: Lookup,
        reserve: impl Fn() -> Option<Duration>,
    ) -> Result<Outcome, Ticket> {
        let lookup = match lookup {
            Lookup::Hit(hit) if !self.client.validator().accepts(&hit.user) => {
                // Boxed, so that the future of a hit does not reserve space for it.
                Box::pin(self.store().take_ticket(key, reserve())).await
            }
            lookup => lookup,
        };
        match lookup {
            Lookup::Hit(hit) => Ok(Ok(self.resolved_from_hit(hit, token))),
            Lookup::Miss(ticket) => match self.store().rejection(&ticket, self.id) {
                Some(error) => Ok(Err(error.into())),
                None => Err(ticket),
            },
            Lookup::Revoked => Ok(Err(Denied::Revoked)),
        }
    }
}

/// What a leader starts with.
enum LeaderStart {
    /// The ticket of the request's own lookup.
    Ticket(Ticket),
    /// A separate lookup, which may find that there is nothing to validate.
    Lookup,
    /// A separate lookup, for a session whose cache entry expires soon, that was made from this
    /// record.
    Refresh(RecordVersion),
    /// A separate lookup, for a session that is served meanwhile although Redis was restarted.
    Bridge,
}

impl LeaderStart {
    /// Whether no request waits for it at first.
    fn is_background(&self) -> bool {
        matches!(self, Self::Refresh(_) | Self::Bridge)
    }
}

/// A leader while its validator is called.
enum LeaderPhase {
    Validating(ValidationLeader<Validating>),
    /// A leader that was closed before stays closed.
    Closed(ValidationLeader<Closed>),
}

impl LeaderPhase {
    fn close(self) -> ValidationLeader<Closed> {
        match self {
            Self::Validating(leader) => leader.close(),
            Self::Closed(leader) => leader,
        }
    }
}

/// Logs the panic of a validator, which drops its leader.
struct PanicReport;

impl Drop for PanicReport {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                target: VALIDATION,
                status = 503_u16,
                "validator panicked"
            );
        }
    }
}

/// Returns whether the future is polled inside of a runtime, and logs an error if not.
pub(super) fn has_runtime() -> bool {
    let has_runtime = Handle::try_current().is_ok();
    if !has_runtime {
        tracing::error!(
            target: LOOKUP,
            hint = "poll the service inside of a Tokio runtime",
            "no Tokio runtime, session not looked up"
        );
    }
    has_runtime
}

pub(super) fn unavailable<T>(why: &'static str) -> Result<T, Denied> {
    Err(ValidationError::unavailable(why).into())
}

/// Whether another node validates the token.
fn is_elsewhere(found: &Result<Outcome, Ticket>) -> bool {
    matches!(found, Err(ticket) if ticket.is_reserved_elsewhere())
}

fn served(fill: &Fill, session: ValidatedSession) -> Outcome {
    match fill {
        // A session whose fill conflicts a second time is served: all requests that wait began
        // before that revocation returned.
        Fill::Stored | Fill::Skipped | Fill::Unavailable | Fill::Conflict(_) => Ok(Resolved {
            user: session.user.into_shared(),
            expires_at: session.expires_at,
            origin: Origin::Validator,
            is_stale: false,
        }),
        Fill::Expired => Err(ValidationError::invalid().into()),
        Fill::Revoked => Err(Denied::Revoked),
        Fill::Banned => Err(ValidationError::forbidden(ForbiddenReason::Blocked).into()),
    }
}
