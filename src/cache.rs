//! The cache behind the layer, and the handle by which an application revokes.
//!
//! # What is promised
//!
//! A request that begins after [`invalidate_token`](SessionCache::invalidate_token),
//! [`revoke_token`](SessionCache::revoke_token) or
//! [`invalidate_user`](SessionCache::invalidate_user) returned `Ok` is never served from the cache
//! with the revoked identity, not even when a validation was in flight meanwhile. The identity
//! provider must have been told *first*: what is validated after the revocation counts.
//!
//! With a [local cache](SessionCacheBuilder::local_cache) before Redis the same holds on other
//! nodes within milliseconds, and at the latest one lease after the revocation returned.

mod accept;
mod admission;
mod builder;
mod config;
mod flights;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod key;
mod lease;
mod life;
mod local;
mod meter;
mod record;
mod redis;
mod refresh;
mod refusals;
mod revocation;
mod revoke;
mod seal;
mod space;
mod stamp;
mod stats;
mod stripes;
mod ticket;
mod tier;
mod verdicts;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, SemaphorePermit};

#[cfg(feature = "tls")]
pub use self::redis::RedisTls;
pub use self::{
    builder::{ConfigError, SessionCacheBuilder},
    config::SessionCacheConfig,
    revoke::{Revocation, RevokeError, RevokeErrorKind},
    stats::{Revocations, Stats},
    ticket::{Fill, Lookup, Ticket},
    tier::LocalCache,
};
use self::{
    flights::Flights,
    key::Naming,
    local::{Check, Local},
    redis::{Filled, Found, Redis},
    refresh::Refreshes,
    revocation::Verdict,
    revoke::{Revoke, Undelivered},
    space::Space,
    stripes::Seen,
    ticket::Far,
};
pub(crate) use self::{
    flights::{Arrival, Boarding, Flight},
    key::EntryKey,
    meter::Stopwatch,
    redis::Replace,
    stats::{Answer, Counters, Validated, count},
};
use crate::{
    clock::Clock,
    namespace::{Authority, Namespace},
    session::{CachedSession, Origin},
    token::SessionToken,
    validator::{SessionValidator, ValidatedSession},
};

/// A cache of sessions; cloning gives another handle to the same one.
///
/// A handle reads and writes the records of one [`Namespace`]. A layer gives its handle the
/// namespace of its validator. [`get`](Self::get) and [`set`](Self::set) of a handle that was not
/// given one use a namespace that no validator has, so they do not see what layers store:
/// [`for_validator`](Self::for_validator) and [`with_namespace`](Self::with_namespace) give a
/// handle to that. Revocations hold in all namespaces.
///
/// ```
/// # use tower_session_cache::*;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = SessionCache::builder().build()?;
/// let token = SessionToken::parse("s3cr3t")?;
///
/// // What the layer does for every request:
/// let Lookup::Miss(ticket) = cache.get(&token).await else { panic!("nothing stored yet") };
/// let session = ValidatedSession::new(UserData::new("ada")); // asked after the ticket was taken
/// assert!(matches!(cache.set(ticket, &session).await, Fill::Stored));
/// assert!(matches!(cache.get(&token).await, Lookup::Hit(_)));
///
/// // Logout:
/// let _ = cache.revoke_token(&token).await?;
/// assert!(matches!(cache.get(&token).await, Lookup::Revoked));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionCache {
    shared: Arc<Shared>,
    space: Arc<Space>,
    /// Whether the namespace was chosen for this handle.
    is_named: bool,
    /// Who issues the sessions that do not say so.
    authority: Option<Authority>,
    /// The layer that uses this handle, since layers of one namespace may have different rules; 0
    /// for none.
    rules: u64,
}

struct Shared {
    local: Local,
    redis: Option<Redis>,
    naming: Naming,
    undelivered: Undelivered,
    clock: Clock,
    enabled: bool,
    flights: Flights,
    refreshes: Refreshes,
    slots: Semaphore,
    validation_deadline: Duration,
    /// For all that comes after a first lookup that was a miss.
    miss_deadline: Duration,
    /// After so many microseconds no record from before can be usable any more.
    gives_up_after: u64,
    /// How long a revoked token stays refused, in microseconds.
    verdict_ttl: u64,
    counters: Counters,
}

impl Shared {
    fn serves_from_memory(&self) -> bool {
        self.enabled && (self.redis.is_none() || self.local.lease().is_some())
    }
}

impl SessionCache {
    /// Starts a cache with the default settings.
    pub fn builder() -> SessionCacheBuilder {
        SessionCacheBuilder::new()
    }

    /// A handle to the records of this namespace: a [name](Namespace::named), or that of a
    /// validator ([`SessionValidator::namespace`](crate::SessionValidator::namespace)).
    ///
    /// A layer that is given this handle uses this namespace in place of its validator's.
    ///
    /// # Security
    ///
    /// Whatever validators share a namespace accept each other's sessions: see [`Namespace`].
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        self.space = self.shared.naming.space(namespace.into());
        self.is_named = true;
        self
    }

    /// A handle to the records of this validator's layers: its namespace, unless
    /// [another one was chosen](Self::with_namespace), and its authority.
    #[must_use]
    pub fn for_validator(mut self, validator: &impl SessionValidator) -> Self {
        if !self.is_named {
            self.space = self.shared.naming.space(validator.namespace());
        }
        self.authority = Some(validator.authority());
        self
    }

    /// The handle of a layer. The number identifies the rules of its validator.
    pub(crate) fn with_rules(mut self, rules: u64) -> Self {
        self.rules = rules;
        self
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.space.namespace()
    }

    /// Says in a session by whom it was validated and who issued it.
    pub(crate) fn attribute(&self, session: &mut ValidatedSession) {
        let authority = session.authority.as_ref().or(self.authority.as_ref());
        let authority = authority.map_or(self.namespace().as_str(), Authority::as_str);
        let source = self.space.native(authority, &session.branches);
        session.user = session
            .user
            .in_session(source, session.session_id.as_deref());
    }

    /// Looks a token up in the namespace of this handle.
    ///
    /// A hit is a session that some validator of the namespace let in. Whether yours does is what
    /// its [`accepts`](SessionValidator::accepts) says, which a handle does not ask.
    ///
    /// On a miss the ticket must be taken before the validator is asked: that is what keeps a
    /// validation that a revocation overtakes out of the cache. A Redis that does not answer
    /// within its deadline makes a miss.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it only reads.
    pub async fn get(&self, token: &SessionToken) -> Lookup {
        let lookup = self.lookup(&self.key(token)).await;
        match &lookup {
            Lookup::Hit(CachedSession { origin, .. }) => self.looked_up((*origin).into()),
            Lookup::Miss(_) => self.looked_up(self.missing()),
            Lookup::Revoked => self.looked_up(Answer::Revoked),
        }
        lookup
    }

    /// Stores what was validated with the ticket of an earlier [`get`](Self::get), in the
    /// namespace of this handle.
    ///
    /// Its authority is the one [of the session](ValidatedSession::with_authority), or else that
    /// of the handle's [validator](Self::for_validator), or else the text of the namespace.
    /// [`Fill::Skipped`] for a ticket of another namespace.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has stored the session or not.
    pub async fn set(&self, ticket: Ticket, session: &ValidatedSession) -> Fill {
        if ticket.key.space().namespace() != self.namespace() {
            return Fill::Skipped;
        }
        let mut session = session.clone();
        self.attribute(&mut session);
        self.fill(ticket, &session).await
    }

    /// Forgets a token: the next request asks the identity provider again.
    ///
    /// # Errors
    ///
    /// [`RevokeError`] when Redis does not answer: it then holds on this node only.
    ///
    /// # Cancel safety
    ///
    /// Once polled it runs to its end, also when the future is dropped.
    pub async fn invalidate_token(&self, token: &SessionToken) -> Result<Revocation, RevokeError> {
        self.revoke(Revoke::Token(self.key(token), Verdict::Forget))
            .await
    }

    /// Refuses a token from now on, even if the identity provider would still accept it: logout.
    ///
    /// It stays refused until the longest session has ended
    /// ([`longest_session`](SessionCacheBuilder::longest_session)). Without Redis at most as many
    /// are remembered as the cache has [`capacity`](SessionCacheBuilder::capacity), the latest;
    /// for older ones the identity provider decides again.
    ///
    /// # Errors
    ///
    /// [`RevokeError`] when Redis does not answer: it then holds on this node only.
    ///
    /// # Cancel safety
    ///
    /// Once polled it runs to its end, also when the future is dropped.
    pub async fn revoke_token(&self, token: &SessionToken) -> Result<Revocation, RevokeError> {
        self.revoke(Revoke::Token(self.key(token), Verdict::Refuse))
            .await
    }

    /// Makes every cached session of a user unusable: password change, password reset, change of
    /// role. A session that the identity provider still knows is validated once more.
    ///
    /// # Errors
    ///
    /// [`RevokeError`] when Redis does not answer: it then holds on this node only.
    ///
    /// # Cancel safety
    ///
    /// Once polled it runs to its end, also when the future is dropped.
    pub async fn invalidate_user(&self, user_id: &str) -> Result<Revocation, RevokeError> {
        self.revoke(Revoke::User(user_id.to_owned())).await
    }

    /// Whether the stores behind the cache answer.
    pub async fn health_check(&self) -> Health {
        let redis = match &self.shared.redis {
            None => RedisHealth::Disabled,
            Some(redis) if redis.answers().await => RedisHealth::Up,
            Some(_) => RedisHealth::Down,
        };
        Health { redis }
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let (entries, verdicts, refusals) = shared.local.len();
        let hearing = shared.local.lease().map(|lease| lease.hearing());
        let hearing = hearing.unwrap_or_default();
        let redis = shared.redis.as_ref().map(Redis::meter);
        Stats {
            listening: hearing.is_connected,
            lease_age: hearing.age.map(Duration::from_micros),
            pushes: hearing.pushes,
            epochs: hearing.epochs,
            entries: entries as u64,
            verdicts: verdicts as u64,
            refusals: refusals as u64,
            in_flight: shared.flights.len(),
            undelivered: shared.undelivered.len(),
            redis_skipped: shared.redis.as_ref().is_some_and(Redis::is_skipped),
            redis_connections: redis.map_or(0, |redis| redis.connections.read()),
            redis_in_use: redis.map_or(0, |redis| redis.in_use.read()),
            redis_unanswered: redis.map_or(0, |redis| redis.unanswered.read()),
            ..shared.counters.read()
        }
    }

    pub(crate) fn key(&self, token: &SessionToken) -> EntryKey {
        self.shared.naming.entry(token, &self.space)
    }

    /// What can be served without waiting, if anything can.
    #[inline]
    pub(crate) fn near(&self, token: &SessionToken) -> Option<CachedSession> {
        let shared = &*self.shared;
        if !shared.serves_from_memory() {
            return None;
        }
        shared.local.hit(self.space.near(token))
    }

    /// Whether this process knows that the token was revoked. A hit never hides that it was.
    pub(crate) fn refuses(&self, key: &EntryKey) -> bool {
        self.shared.local.refuses(key)
    }

    pub(crate) async fn lookup(&self, key: &EntryKey) -> Lookup {
        let shared = &*self.shared;
        // First of all, so that what is revoked from here on is seen as a change.
        let seen = shared.local.seen();
        if shared.serves_from_memory()
            && let Some(session) = shared.local.hit(key.near)
        {
            return Lookup::Hit(session);
        }
        if self.refuses(key) {
            return Lookup::Revoked;
        }
        // Nor is a change missed that comes while the read is on its way.
        let noted = shared.local.lease().and_then(|lease| lease.note());
        let began = shared.clock.elapsed();
        let far = match &shared.redis {
            Some(redis) if shared.enabled => redis.lookup(key).await,
            _ => return self.ask(key, Replace::Any).await,
        };
        match far {
            Found::Record(served) => {
                let user = &served.record.user;
                // In this order: a denial ends only after the change that replaces it.
                if self.is_denied(key, Some(user.id()), began) {
                    return Lookup::Miss(self.ticket(key, seen, Far::Unanswered));
                }
                if !shared.local.is_unchanged(key, seen, user.id()) {
                    return self.ask(key, Replace::Any).await;
                }
                if let Some(noted) = noted {
                    shared.local.keep(key, noted, &served);
                }
                Lookup::Hit(CachedSession {
                    due: served.due(),
                    user: served.record.user.clone(),
                    expires_at: served.record.expires_at,
                    origin: Origin::Redis,
                })
            }
            found => self.missed(key, seen, began, found),
        }
    }

    /// A lookup by someone who does not like what is stored, or wants it validated again.
    pub(crate) async fn ask(&self, key: &EntryKey, replace: Replace) -> Lookup {
        let shared = &*self.shared;
        let seen = shared.local.seen();
        if shared.local.refuses(key) {
            return Lookup::Revoked;
        }
        let Some(redis) = &shared.redis else {
            return Lookup::Miss(self.ticket(key, seen, Far::Absent));
        };
        let began = shared.clock.elapsed();
        let found = redis.ask(key, replace).await;
        match found {
            // A cache that is off still refuses what another node has revoked, and nothing else.
            Found::Refused => Lookup::Revoked,
            _ if !shared.enabled => Lookup::Miss(self.ticket(key, seen, Far::Absent)),
            found => self.missed(key, seen, began, found),
        }
    }

    /// A session whose time in the cache is over, for when the identity provider cannot be asked:
    /// only if nothing that was revoked since makes it unusable. To be called once nobody joins
    /// any more whom this is to answer.
    pub(crate) async fn stale(&self, key: &EntryKey) -> Option<CachedSession> {
        let shared = &*self.shared;
        let seen = shared.local.seen();
        if !shared.enabled || shared.local.refuses(key) {
            return None;
        }
        let aged = shared.local.aged(key)?;
        let (id, seen) = match &shared.redis {
            None => (aged.user.id(), aged.seen),
            Some(redis) => {
                let cause = aged.after.cause.as_ref()?;
                let id = aged.user.id();
                let began = shared.clock.elapsed();
                if !redis.vouches(key, id, cause).await || self.is_denied(key, Some(id), began) {
                    return None;
                }
                (id, seen)
            }
        };
        let holds = shared.local.is_unchanged(key, seen, id);
        holds.then_some(CachedSession {
            user: aged.user,
            expires_at: aged.expires_at,
            origin: Origin::Local,
            due: None,
        })
    }

    fn missed(&self, key: &EntryKey, seen: Seen, began: u64, found: Found) -> Lookup {
        let far = match found {
            Found::Refused => return Lookup::Revoked,
            Found::Nothing(far) if !self.is_denied(key, None, began) => Far::Seen(far),
            Found::Nothing(_) | Found::Record(..) | Found::Unanswered => Far::Unanswered,
        };
        Lookup::Miss(self.ticket(key, seen, far))
    }

    /// Whether the identity provider refused the token a moment ago, or this layer did by its own
    /// rules; to be asked after a lookup.
    pub(crate) fn was_refused(&self, key: &EntryKey) -> bool {
        self.shared.enabled
            && [0, self.rules]
                .into_iter()
                .any(|rules| self.shared.local.was_refused(key, rules))
    }

    /// The token was refused in a validation that this ticket was taken for: by the identity
    /// provider, which counts for all layers of the namespace, or by this layer's own rules.
    pub(crate) fn remember_refusal(&self, ticket: &Ticket, is_own_rule: bool) {
        if self.shared.enabled {
            let rules = if is_own_rule { self.rules } else { 0 };
            let Ticket { key, seen, .. } = ticket;
            self.shared.local.remember_refusal(key, rules, *seen);
        }
    }

    /// The same, and what is cached ends with it.
    pub(crate) async fn evict(&self, ticket: &Ticket) {
        self.shared.local.evict(&ticket.key);
        if let (Some(redis), Far::Seen(seen)) = (&self.shared.redis, &ticket.far) {
            redis.evict(&ticket.key, seen).await;
        }
    }

    pub(crate) async fn fill(&self, ticket: Ticket, session: &ValidatedSession) -> Fill {
        let fill = self.try_fill(ticket, session).await;
        match fill {
            Fill::Stored => count(&self.shared.counters.stored),
            Fill::Overtaken(_) => count(&self.shared.counters.overtaken),
            Fill::Skipped | Fill::Ended | Fill::Revoked | Fill::Unanswered => {}
        }
        fill
    }

    async fn try_fill(&self, ticket: Ticket, session: &ValidatedSession) -> Fill {
        let shared = &*self.shared;
        let Ticket { key, seen, far } = ticket;
        // What is revoked from here on is seen by the next fill, if this one is overtaken.
        let now = shared.local.seen();
        match shared.local.check(&key, seen, session) {
            Check::Fine => shared.local.forget_refusal(&key, self.rules),
            Check::Refused => return Fill::Revoked,
            Check::Ended => return Fill::Ended,
            Check::Moved => {
                return match self.ask(&key, Replace::Any).await {
                    Lookup::Miss(ticket) => Fill::Overtaken(ticket),
                    Lookup::Hit(_) | Lookup::Revoked => Fill::Revoked,
                };
            }
        }
        if !shared.enabled {
            return Fill::Skipped;
        }
        let Some(redis) = &shared.redis else {
            shared.local.store(&key, seen, session);
            return Fill::Stored;
        };
        match far {
            Far::Seen(far) => match redis.fill(&key, &far, session).await {
                Filled::Stored => {
                    // Of what this node has just learned it need not be told.
                    shared.local.evict(&key);
                    Fill::Stored
                }
                Filled::Skipped => Fill::Skipped,
                Filled::Refused => Fill::Revoked,
                Filled::Unanswered => Fill::Unanswered,
                Filled::Moved(far) => Fill::Overtaken(self.ticket(&key, now, Far::Seen(far))),
            },
            Far::Unanswered | Far::Absent => Fill::Skipped,
        }
    }

    fn ticket(&self, key: &EntryKey, seen: Seen, far: Far) -> Ticket {
        Ticket {
            key: key.clone(),
            seen,
            far,
        }
    }

    /// Whether a revocation that Redis does not have yet makes its records unusable here.
    fn is_denied(&self, key: &EntryKey, user_id: Option<&str>, began: u64) -> bool {
        let undelivered = &self.shared.undelivered;
        undelivered.denies_token(key, began)
            || user_id.is_some_and(|id| undelivered.denies_user(id))
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.shared.enabled
    }

    /// A share of the validations that may run at once.
    pub(crate) async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so never nothing.
        self.shared.slots.acquire().await.ok()
    }

    pub(crate) fn validation_deadline(&self) -> Duration {
        self.shared.validation_deadline
    }

    pub(crate) fn miss_deadline(&self) -> Duration {
        self.shared.miss_deadline
    }

    #[inline]
    pub(crate) fn looked_up(&self, answer: Answer) {
        self.shared.counters.looked_up(answer);
    }

    /// What a request is that finds nothing.
    pub(crate) fn missing(&self) -> Answer {
        if self.shared.enabled {
            Answer::Miss
        } else {
            Answer::Bypass
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache")
            .field("enabled", &self.shared.enabled)
            .field("namespace", self.namespace())
            .finish_non_exhaustive()
    }
}

/// What [`SessionCache::health_check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The state of Redis.
    pub redis: RedisHealth,
}

/// The state of the Redis behind a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RedisHealth {
    /// The cache lives in this process alone.
    Disabled,
    /// It answered a PING within its deadline. Of a cluster every slot has a primary, and each of
    /// these did.
    Up,
    /// It did not. Sessions are validated without it.
    Down,
}

impl RedisHealth {
    /// `up`, `down` or `disabled`, as a health endpoint shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}
