//! The cache behind the layer, and the handle by which an application revokes.
//!
//! # What is promised
//!
//! A request that begins after [`invalidate_token`](SessionCache::invalidate_token),
//! [`revoke_token`](SessionCache::revoke_token) or
//! [`invalidate_user`](SessionCache::invalidate_user) returned `Ok` is never served from the cache
//! with the revoked identity, not even when a validation was in flight meanwhile. The identity
//! provider must have been told *first*: what is validated after the revocation counts.

mod builder;
mod config;
mod flights;
mod key;
mod local;
mod stats;
mod stripes;
mod verdicts;

use std::{error::Error as StdError, fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::{
    builder::{ConfigError, SessionCacheBuilder},
    config::SessionCacheConfig,
    local::{CachedSession, Fill, Lookup, Ticket},
    stats::Stats,
};
use self::{flights::Flights, local::Local};
pub(crate) use self::{
    flights::{Boarding, Flight, Landing},
    key::EntryKey,
    stats::{Counters, count},
};
use crate::{token::SessionToken, validator::ValidatedSession};

/// A cache of sessions; cloning gives another handle to the same one.
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
    namespace: Option<Arc<str>>,
}

struct Shared {
    local: Local,
    enabled: bool,
    flights: Flights,
    slots: Semaphore,
    validation_deadline: Duration,
    counters: Counters,
}

impl SessionCache {
    /// Starts a cache with the default settings.
    pub fn builder() -> SessionCacheBuilder {
        SessionCacheBuilder::new()
    }

    fn from_parts(settings: SessionCacheBuilder, capacity: NonZeroUsize) -> Self {
        let SessionCacheBuilder {
            enabled,
            ttl,
            capacity: _,
            longest_session,
            validation_deadline,
            max_validations,
            clock,
        } = settings;
        Self {
            shared: Arc::new(Shared {
                local: Local::new(capacity, clock, micros(ttl), micros(longest_session)),
                enabled,
                flights: Flights::default(),
                slots: Semaphore::new(max_validations),
                validation_deadline,
                counters: Counters::default(),
            }),
            namespace: None,
        }
    }

    /// A handle whose sessions are kept apart from those of other namespaces.
    ///
    /// Two layers with different validators that share a cache need two namespaces, so that one
    /// never answers for the other. Revocations hold in all of them.
    #[must_use]
    pub fn with_namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into().into());
        self
    }

    /// Looks a token up.
    ///
    /// On a miss the ticket must be taken before the validator is asked: that is what keeps a
    /// validation that a revocation overtakes out of the cache.
    pub async fn get(&self, token: &SessionToken) -> Lookup {
        let lookup = self.lookup(&self.key(token));
        match lookup {
            Lookup::Hit(_) => count(&self.shared.counters.hits),
            Lookup::Miss(_) => count(&self.shared.counters.misses),
            Lookup::Revoked => {}
        }
        lookup
    }

    /// Stores what was validated with the ticket of an earlier [`get`](Self::get).
    pub async fn set(&self, ticket: Ticket, session: &ValidatedSession) -> Fill {
        self.fill(ticket, session)
    }

    /// Forgets a token: the next request asks the identity provider again.
    ///
    /// # Errors
    ///
    /// See [`RevokeError`].
    pub async fn invalidate_token(&self, token: &SessionToken) -> Result<Revocation, RevokeError> {
        count(&self.shared.counters.revocations);
        self.shared.local.invalidate_token(self.key(token));
        Ok(Revocation(()))
    }

    /// Refuses a token from now on, even if the identity provider would still accept it: logout.
    ///
    /// It stays refused until the longest session has ended
    /// ([`longest_session`](SessionCacheBuilder::longest_session)), or until as many later ones
    /// as the cache has [`capacity`](SessionCacheBuilder::capacity) have been revoked; then the
    /// identity provider decides again.
    ///
    /// # Errors
    ///
    /// See [`RevokeError`].
    pub async fn revoke_token(&self, token: &SessionToken) -> Result<Revocation, RevokeError> {
        count(&self.shared.counters.revocations);
        if self.shared.local.revoke_token(self.key(token)) {
            tracing::warn!(
                "a revoked token was forgotten before its time; raise the cache's capacity"
            );
        }
        Ok(Revocation(()))
    }

    /// Makes every cached session of a user unusable: password change, password reset, change of
    /// role. A session that the identity provider still knows is validated once more.
    ///
    /// # Errors
    ///
    /// See [`RevokeError`].
    pub async fn invalidate_user(&self, user_id: &str) -> Result<Revocation, RevokeError> {
        count(&self.shared.counters.revocations);
        self.shared.local.invalidate_user(user_id);
        Ok(Revocation(()))
    }

    /// Whether the stores behind the cache answer.
    pub async fn health_check(&self) -> Health {
        Health {
            redis: RedisHealth::Disabled,
        }
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (entries, verdicts) = self.shared.local.len();
        self.shared.counters.read(
            entries as u64,
            verdicts as u64,
            self.shared.flights.len() as u64,
        )
    }

    pub(crate) fn key(&self, token: &SessionToken) -> EntryKey {
        EntryKey::new(token, self.namespace.clone())
    }

    pub(crate) fn lookup(&self, key: &EntryKey) -> Lookup {
        if self.shared.enabled {
            self.shared.local.lookup(key)
        } else {
            self.shared.local.ask(key)
        }
    }

    /// A lookup by someone who does not like what is stored.
    pub(crate) fn ask(&self, key: &EntryKey) -> Lookup {
        self.shared.local.ask(key)
    }

    pub(crate) fn fill(&self, ticket: Ticket, session: &ValidatedSession) -> Fill {
        let fill = self.shared.local.fill(ticket, session, self.shared.enabled);
        match fill {
            Fill::Stored => count(&self.shared.counters.stored),
            Fill::Overtaken(_) => count(&self.shared.counters.overtaken),
            Fill::Skipped | Fill::Ended | Fill::Revoked => {}
        }
        fill
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

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache")
            .field("enabled", &self.shared.enabled)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// A revocation that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Revocation(());

/// A revocation that does not hold everywhere yet.
///
/// A cache in the process alone never fails to revoke; a cache that other nodes share may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeError {
    kind: RevokeErrorKind,
}

/// How a revocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RevokeErrorKind {
    /// It holds on this node and is delivered to the others as soon as possible.
    Queued,
}

impl RevokeError {
    /// How it failed.
    #[must_use]
    pub fn kind(&self) -> RevokeErrorKind {
        self.kind
    }
}

impl fmt::Display for RevokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RevokeErrorKind::Queued => {
                f.write_str("the revocation holds on this node only and waits for delivery")
            }
        }
    }
}

impl StdError for RevokeError {}

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
}

impl RedisHealth {
    /// `disabled`, as a health endpoint shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
