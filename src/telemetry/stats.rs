//! What [`SessionCache::stats`](crate::SessionCache::stats) tells an operator.

use std::time::Duration;

/// What a cache has done since it was built, and what it holds. All counts start at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests answered from the cache.
    pub hits: u64,
    /// Those of them that were answered from the memory of this process.
    pub local_hits: u64,
    /// Validations that nobody could decide, and that were answered by a session in memory whose
    /// cache time was over.
    pub stale: u64,
    /// Lookups that found nothing usable.
    pub misses: u64,
    /// Requests refused since the identity provider had refused their token a moment ago.
    pub negative: u64,
    /// Requests refused since their token was revoked.
    pub revoked: u64,
    /// Requests that were validated since the cache is turned off.
    pub bypassed: u64,
    /// Validations begun.
    pub validations: u64,
    /// Sessions in use that were to be validated again ahead of their end in the cache.
    pub refreshes: u64,
    /// Requests that waited for a validation which another one had begun.
    pub joined: u64,
    /// Validations that the identity provider accepted.
    pub accepted: u64,
    /// Validations that the identity provider refused.
    pub refused: u64,
    /// Validations that nobody could decide.
    pub unavailable: u64,
    /// Validations whose answer was stored.
    pub stored: u64,
    /// Validations that a revocation overtook, so that the provider was asked again.
    pub overtaken: u64,
    /// Calls of `invalidate_token`, `revoke_token` and `invalidate_user`.
    pub revocations: u64,
    /// How those of `invalidate_token` ended.
    pub invalidated_tokens: Revocations,
    /// How those of `revoke_token` ended.
    pub revoked_tokens: Revocations,
    /// How those of `invalidate_user` ended.
    pub invalidated_users: Revocations,
    /// Sessions in memory now, some of them perhaps ended.
    pub entries: u64,
    /// Revoked tokens remembered now.
    pub verdicts: u64,
    /// Refused tokens remembered now.
    pub refusals: u64,
    /// Validations in flight now.
    pub in_flight: u64,
    /// Revocations that hold here and wait for Redis to answer.
    pub undelivered: u64,
    /// Whether Redis is left alone now, since it did not answer three times in a row. Of a cluster
    /// all primaries are.
    pub redis_skipped: bool,
    /// Connections to Redis that are open now, without the listener's.
    pub redis_connections: u64,
    /// Commands that wait for Redis now.
    pub redis_in_use: u64,
    /// Commands that Redis did not answer in time, or not as it should.
    pub redis_unanswered: u64,
    /// Whether Redis is connected that tells the local cache of changes.
    pub listening: bool,
    /// How long ago everything that had changed in Redis was known here; nothing while sessions
    /// are not served from the local cache, but looked up in Redis.
    pub lease_age: Option<Duration>,
    /// Changes that Redis has told of.
    pub pushes: u64,
    /// How many times the local cache has begun anew, since it might have missed a change.
    pub epochs: u64,
}

/// How revocations of one kind have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revocations {
    /// They held on every node when they returned.
    pub delivered: u64,
    /// They hold on this node, and wait for Redis.
    pub queued: u64,
    /// They hold on this node only, since too many wait already.
    pub not_queued: u64,
}
