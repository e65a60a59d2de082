//! Handle to the cache, which layers use and through which an application revokes sessions.
//!
//! # Guarantee
//!
//! A request that begins after [`invalidate_token`](SessionCache::invalidate_token),
//! [`revoke_token`](SessionCache::revoke_token) or
//! [`invalidate_user`](SessionCache::invalidate_user) returned `Ok` is never served from the cache
//! with the revoked identity, even if a validation was in flight at that time. The caller must
//! revoke at the identity provider *first*, because a validation that begins after the revocation
//! counts. How long it counts depends on
//! [`provider_lag`](crate::SessionCacheBuilder::provider_lag), since the provider may still reply as
//! before.
//!
//! With a [local cache](crate::SessionCacheBuilder::local_cache), the same holds on other nodes
//! within milliseconds, and at the latest one lease after the revocation returned.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    canary,
    revocation_queue::RevocationRequest,
    revoke::{Revocation, RevokeError},
    store::Store,
    ticket::{Fill, Lookup, Ticket},
    validations::Validations,
};
use crate::{
    coherence::Canary,
    model::{Authority, CachedSession, Namespace},
    protocol::{CacheKey, NamespaceContext, TombstoneKind},
    redis::RedisStore,
    telemetry::{LookupOutcome, Stats},
    token::SessionToken,
    validator::{SessionValidator, ValidatedSession},
};

/// Handle to a cache of sessions. Clones are handles to the same cache.
///
/// A handle reads and writes the records of one [`Namespace`]. A layer gives its handle the
/// namespace of its validator. If a handle was given no namespace, its [`get`](Self::get) and
/// [`set`](Self::set) use one that no validator has, so they do not see what layers store. Use
/// [`for_validator`](Self::for_validator) or [`with_namespace`](Self::with_namespace) to get a
/// handle that does. Revocations apply in all namespaces.
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
    pub(super) store: Arc<Store>,
    validations: Arc<Validations>,
    space: Arc<NamespaceContext>,
    /// Whether the namespace was set for this handle.
    is_named: bool,
    /// Authority of the sessions that name none.
    authority: Option<Authority>,
}

impl SessionCache {
    pub(crate) fn new(store: Store, validations: Validations) -> Self {
        let space = store.key_deriver.space(Namespace::unnamed());
        let store = Arc::new(store);
        canary::watch(&store, &space);
        Self {
            space,
            is_named: false,
            authority: None,
            store,
            validations: Arc::new(validations),
        }
    }

    /// Returns a handle to the records of this namespace: a [named](Namespace::named) one, or that
    /// of a validator ([`SessionValidator::namespace`](crate::SessionValidator::namespace)).
    ///
    /// A layer that is given this handle uses this namespace instead of its validator's.
    ///
    /// # Security
    ///
    /// Validators that share a namespace accept each other's sessions. See [`Namespace`].
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        self.space = self.store.key_deriver.space(namespace.into());
        self.is_named = true;
        self
    }

    /// Returns a handle to the records of this validator's layers. It has the validator's
    /// namespace, unless [another one was set](Self::with_namespace), and the validator's
    /// authority.
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

    pub(super) fn max_session_lifetime(&self) -> Duration {
        Duration::from_micros(self.store.revoked_token_ttl)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn validations(&self) -> &Validations {
        &self.validations
    }

    /// Records in a session which validator accepted it, in a validation that began at
    /// `validated_at`, and which authority issued it.
    pub(crate) fn attribute(&self, session: &mut ValidatedSession, validated_at: i64) {
        let authority = session.authority.as_ref().or(self.authority.as_ref());
        let authority = authority.map_or(self.namespace().as_str(), Authority::as_str);
        let source = self.space.native(authority, &session.branches);
        session.user = session.user_in(source, validated_at);
    }

    /// Looks up a token in the namespace of this handle.
    ///
    /// A hit is a session that some validator of the namespace accepted. A handle does not check
    /// whether your validator does: call its [`accepts`](SessionValidator::accepts).
    ///
    /// On a miss, the ticket must be taken before the validator is called. This keeps a validation
    /// that a revocation overtakes out of the cache. If Redis does not reply within its timeout,
    /// the result is a miss.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time, because it only reads.
    pub async fn get(&self, token: &SessionToken) -> Lookup {
        let lookup = self.store.lookup(&self.key(token), || None).await;
        self.store.record_lookup(match &lookup {
            Lookup::Hit(CachedSession { origin, .. }) => (*origin).into(),
            Lookup::Miss(_) => self.store.miss_outcome(),
            Lookup::Revoked => LookupOutcome::Revoked,
        });
        lookup
    }

    /// Stores a validated session with the ticket of an earlier [`get`](Self::get), in the
    /// namespace of this handle.
    ///
    /// Its authority is the one [of the session](ValidatedSession::with_authority), or else that of
    /// the handle's [validator](Self::for_validator), or else the text of the namespace. Returns
    /// [`Fill::Skipped`] for a ticket of another namespace.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the session may or may not have been stored.
    pub async fn set(&self, ticket: Ticket, session: &ValidatedSession) -> Fill {
        if ticket.key.space().namespace() != self.namespace() {
            return Fill::Skipped;
        }
        let mut session = session.clone();
        let clock = self.store.clock();
        let age = clock.elapsed().saturating_sub(ticket.taken_at);
        let validated_at = clock.wall().saturating_sub_unsigned(age);
        self.attribute(&mut session, validated_at);
        self.store.fill_by_ticket(ticket, &session).await
    }

    /// Invalidates the cached sessions of a token. The next request validates the token with the
    /// identity provider again.
    ///
    /// # Errors
    ///
    /// Returns a [`RevokeError`] if Redis is unavailable. The revocation then applies on this node
    /// only.
    ///
    /// # Cancel safety
    ///
    /// The revocation runs in its own task. Dropping the future after the first poll does not
    /// cancel it.
    pub async fn invalidate_token(&self, token: &SessionToken) -> Result<Revocation, RevokeError> {
        let kind = TombstoneKind::Invalidate;
        let what = RevocationRequest::Token(self.key(token), kind);
        self.store.revoke(vec![what]).await
    }

    /// Revokes a token, as at a logout. The token is rejected from now on, even if the identity
    /// provider would still accept it.
    ///
    /// The token is rejected until the longest session has expired
    /// ([`max_session_lifetime`](crate::SessionCacheBuilder::max_session_lifetime)). Without Redis,
    /// only as many tokens as the cache has [`capacity`](crate::SessionCacheBuilder::capacity) are
    /// remembered, the latest ones. Older ones are validated with the identity provider again.
    ///
    /// # Errors
    ///
    /// Returns a [`RevokeError`] if Redis is unavailable. The revocation then applies on this node
    /// only.
    ///
    /// # Cancel safety
    ///
    /// The revocation runs in its own task. Dropping the future after the first poll does not
    /// cancel it.
    pub async fn revoke_token(&self, token: &SessionToken) -> Result<Revocation, RevokeError> {
        let kind = TombstoneKind::Revoke {
            ttl: self.max_session_lifetime(),
        };
        let what = RevocationRequest::Token(self.key(token), kind);
        self.store.revoke(vec![what]).await
    }

    /// Invalidates all cached sessions of a user, as after a password change, a password reset or a
    /// change of role. A session that is still valid at the identity provider is validated again, at
    /// growing intervals: see [`provider_lag`](crate::SessionCacheBuilder::provider_lag).
    ///
    /// # Errors
    ///
    /// Returns a [`RevokeError`] if Redis is unavailable. The revocation then applies on this node
    /// only.
    ///
    /// # Cancel safety
    ///
    /// The revocation runs in its own task. Dropping the future after the first poll does not
    /// cancel it.
    pub async fn invalidate_user(&self, user_id: &str) -> Result<Revocation, RevokeError> {
        let what = RevocationRequest::User(user_id.to_owned());
        self.store.revoke(vec![what]).await
    }

    /// Checks whether Redis replies, and returns the known state of the identity providers.
    pub async fn health_check(&self) -> Health {
        let redis = match &self.store.redis {
            None => RedisHealth::Disabled,
            Some(redis) if redis.answers().await => RedisHealth::Up,
            Some(_) => RedisHealth::Down,
        };
        let metrics = self.store.metrics();
        let provider = if metrics.providers_down.get() > 0 {
            ProviderHealth::Down
        } else if metrics.providers_rejecting_all.get() > 0 {
            ProviderHealth::RejectsAll
        } else {
            ProviderHealth::Up
        };
        Health { redis, provider }
    }

    /// Returns what the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Self {
            store, validations, ..
        } = self;
        let (entries, revoked, negative) = store.local.len();
        let status = store.local.lease().map(|lease| lease.status());
        let status = status.unwrap_or_default();
        let canary = store.local.lease().and_then(|lease| lease.canary());
        let redis = store.redis.as_ref().map(RedisStore::metrics);
        Stats {
            listener_connected: status.is_connected,
            lease_age: status.age.map(Duration::from_micros),
            invalidations: status.pushes,
            local_resets: status.epochs,
            canary: canary.map(Canary::stats).unwrap_or_default(),
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

    /// Starts the delivery of queued revocations unless it is running.
    pub(crate) fn start_delivery(&self) {
        self.store.start_delivery();
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

/// Result of [`SessionCache::health_check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The state of Redis.
    pub redis: RedisHealth,
    /// The state of the identity providers of this cache's layers. It follows from the last
    /// validations, and no provider is called for it.
    pub provider: ProviderHealth,
}

/// State of the identity providers of a cache's layers, the worst if they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProviderHealth {
    /// No layer has seen its provider fail, or a decision has followed the failures.
    Up,
    /// A layer has rejected every token since the start: at least 20 different tokens over at least
    /// one minute. A setting of the validator is probably wrong, or the service is not permitted to
    /// validate the tokens that it receives. The log names what to check.
    RejectsAll,
    /// A provider is unavailable, or rejects the configuration of this service.
    Down,
}

impl ProviderHealth {
    /// Returns `up`, `rejects_all` or `down`, for a health endpoint.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::RejectsAll => "rejects_all",
            Self::Down => "down",
        }
    }
}

/// State of the Redis that a cache uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RedisHealth {
    /// The cache has no Redis and is in the memory of this process only.
    Disabled,
    /// Redis replied to a `PING` within its timeout. On a cluster, every slot has a primary, and
    /// each primary replied.
    Up,
    /// Redis failed this check. Sessions are validated without it.
    Down,
}

impl RedisHealth {
    /// Returns `up`, `down` or `disabled`, for a health endpoint.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}
