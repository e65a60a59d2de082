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
//! With a [local cache](crate::SessionCacheBuilder::local_cache) before Redis the same holds on other
//! nodes within milliseconds, and at the latest one lease after the revocation returned.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    revocation_queue::RevocationRequest,
    revoke::{Revocation, RevokeError},
    store::Store,
    ticket::{Fill, Lookup, Ticket},
    validations::Validations,
};
use crate::{
    model::{Authority, CachedSession, Namespace},
    protocol::{CacheKey, NamespaceContext, TombstoneKind},
    redis::RedisStore,
    telemetry::{LookupOutcome, Stats},
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
    store: Arc<Store>,
    validations: Arc<Validations>,
    space: Arc<NamespaceContext>,
    /// Whether the namespace was chosen for this handle.
    is_named: bool,
    /// Who issues the sessions that do not say so.
    authority: Option<Authority>,
}

impl SessionCache {
    pub(crate) fn new(store: Store, validations: Validations) -> Self {
        Self {
            space: store.key_deriver.space(Namespace::unnamed()),
            is_named: false,
            authority: None,
            store: Arc::new(store),
            validations: Arc::new(validations),
        }
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
        self.space = self.store.key_deriver.space(namespace.into());
        self.is_named = true;
        self
    }

    /// A handle to the records of this validator's layers: its namespace, unless
    /// [another one was chosen](Self::with_namespace), and its authority.
    #[must_use]
    pub fn for_validator(mut self, validator: &impl SessionValidator) -> Self {
        if !self.is_named {
            self.space = self.store.key_deriver.space(validator.namespace());
        }
        self.authority = Some(validator.authority());
        self
    }

    pub(crate) fn space(&self) -> &NamespaceContext {
        &self.space
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.space.namespace()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn validations(&self) -> &Validations {
        &self.validations
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
    /// within its timeout makes a miss.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it only reads.
    pub async fn get(&self, token: &SessionToken) -> Lookup {
        let lookup = self.store.lookup(&self.key(token)).await;
        self.store.record_lookup(match &lookup {
            Lookup::Hit(CachedSession { origin, .. }) => (*origin).into(),
            Lookup::Miss(_) => self.store.miss_outcome(),
            Lookup::Revoked => LookupOutcome::Revoked,
        });
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
        self.store.fill_by_ticket(ticket, &session).await
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
        self.store
            .revoke(RevocationRequest::Token(
                self.key(token),
                TombstoneKind::Invalidate,
            ))
            .await
    }

    /// Refuses a token from now on, even if the identity provider would still accept it: logout.
    ///
    /// It stays refused until the longest session has ended
    /// ([`max_session_lifetime`](crate::SessionCacheBuilder::max_session_lifetime)). Without Redis at most as many
    /// are remembered as the cache has [`capacity`](crate::SessionCacheBuilder::capacity), the latest;
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
        self.store
            .revoke(RevocationRequest::Token(
                self.key(token),
                TombstoneKind::Revoke,
            ))
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
        self.store
            .revoke(RevocationRequest::User(user_id.to_owned()))
            .await
    }

    /// Whether the stores behind the cache answer.
    pub async fn health_check(&self) -> Health {
        let redis = match &self.store.redis {
            None => RedisHealth::Disabled,
            Some(redis) if redis.answers().await => RedisHealth::Up,
            Some(_) => RedisHealth::Down,
        };
        Health { redis }
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Self {
            store, validations, ..
        } = self;
        let (entries, revoked, negative) = store.local.len();
        let status = store.local.lease().map(|lease| lease.status());
        let status = status.unwrap_or_default();
        let redis = store.redis.as_ref().map(RedisStore::metrics);
        Stats {
            listener_connected: status.is_connected,
            lease_age: status.age.map(Duration::from_micros),
            invalidations: status.pushes,
            local_resets: status.epochs,
            local_entries: entries as u64,
            revoked_token_entries: revoked as u64,
            negative_entries: negative as u64,
            validations_in_flight: validations.in_flight.len(),
            queued_revocations: store.queue.len(),
            redis_circuit_open: store
                .redis
                .as_ref()
                .is_some_and(RedisStore::is_circuit_open),
            redis_connections: redis.map_or(0, |redis| redis.connections.get()),
            redis_commands_in_flight: redis.map_or(0, |redis| redis.commands_in_flight.get()),
            redis_errors: redis.map_or(0, |redis| redis.errors.get()),
            ..store.metrics.stats()
        }
    }

    pub(crate) fn key(&self, token: &SessionToken) -> CacheKey {
        self.store.key_deriver.entry(token, &self.space)
    }
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache")
            .field("enabled", &self.store.is_enabled)
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
    /// It answered a PING within its timeout. Of a cluster every slot has a primary, and each of
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
