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
    pub stale_hits: u64,
    /// Lookups that found nothing usable.
    pub misses: u64,
    /// Requests refused since the identity provider had refused their token a moment ago.
    pub negative_hits: u64,
    /// Requests refused since their token was revoked.
    pub revoked_hits: u64,
    /// Requests that were validated since the cache is turned off.
    pub bypassed: u64,
    /// Validations begun.
    pub validations: u64,
    /// Sessions in use that were to be validated again ahead of their end in the cache.
    pub refreshes: u64,
    /// Requests that waited for a validation which another one had begun.
    pub coalesced: u64,
    /// Validations that the identity provider accepted.
    pub validations_accepted: u64,
    /// Validations that the identity provider refused.
    pub validations_rejected: u64,
    /// Validations that nobody could decide.
    pub validations_unavailable: u64,
    /// Validations whose answer was stored.
    pub fills: u64,
    /// Validations that a revocation overtook, so that the provider was asked again.
    pub fill_conflicts: u64,
    /// Calls of `invalidate_token`, `revoke_token` and `invalidate_user`.
    pub revocations: u64,
    /// How those of `invalidate_token` ended.
    pub token_invalidations: RevocationCounts,
    /// How those of `revoke_token` ended.
    pub token_revocations: RevocationCounts,
    /// How those of `invalidate_user` ended.
    pub user_invalidations: RevocationCounts,
    /// Sessions in memory now, some of them perhaps ended.
    pub local_entries: u64,
    /// Revoked tokens remembered now.
    pub revoked_token_entries: u64,
    /// Refused tokens remembered now.
    pub negative_entries: u64,
    /// Validations in flight now.
    pub validations_in_flight: u64,
    /// RevocationCounts that hold here and wait for Redis to answer.
    pub queued_revocations: u64,
    /// Whether Redis is left alone now, since it did not answer three times in a row. Of a cluster
    /// all primaries are.
    pub redis_circuit_open: bool,
    /// Connections to Redis that are open now, without the listener's.
    pub redis_connections: u64,
    /// Commands that wait for Redis now.
    pub redis_commands_in_flight: u64,
    /// Commands that Redis did not answer in time, or not as it should.
    pub redis_errors: u64,
    /// Whether Redis is connected that tells the local cache of changes.
    pub listener_connected: bool,
    /// How long ago everything that had changed in Redis was known here; nothing while sessions
    /// are not served from the local cache, but looked up in Redis.
    pub lease_age: Option<Duration>,
    /// Changes that Redis has told of.
    pub invalidations: u64,
    /// How many times the local cache has begun anew, since it might have missed a change.
    pub local_resets: u64,
}

/// How revocations of one kind have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RevocationCounts {
    /// They held on every node when they returned.
    pub applied: u64,
    /// They hold on this node, and wait for Redis.
    pub queued: u64,
    /// They hold on this node only, since too many wait already.
    pub queue_full: u64,
}
