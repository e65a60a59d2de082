//! The numbers that [`SessionCache::stats`](crate::SessionCache::stats) returns.

use std::time::Duration;

/// What a cache has done since it was built, and what it holds now. All counts start at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Number of lookups that found a session in the local cache or in Redis.
    pub hits: u64,
    /// Number of those that found it in the local cache.
    pub local_hits: u64,
    /// Number of validations for which the identity provider was unavailable and an expired entry
    /// of the local cache was served instead.
    pub stale_hits: u64,
    /// Number of lookups that found nothing usable.
    pub misses: u64,
    /// Number of lookups rejected because the identity provider had rejected the token shortly
    /// before.
    pub negative_hits: u64,
    /// Number of lookups rejected because the token was revoked.
    pub revoked_hits: u64,
    /// Number of lookups that went to the identity provider because the cache is disabled.
    pub bypassed: u64,
    /// Number of validator calls that were started.
    pub validations: u64,
    /// Number of sessions in use whose validation was started before their cache entry expired.
    pub refreshes: u64,
    /// Number of requests that waited for a validation which another request had started.
    pub coalesced: u64,
    /// Number of times that this node waited for a validation by another node and used its result.
    pub shared_validations: u64,
    /// Number of times that this node waited for a validation by another node, and then validated the
    /// token itself.
    pub lapsed_reservations: u64,
    /// Number of validations that accepted the token.
    pub validations_accepted: u64,
    /// Number of validations that rejected the token.
    pub validations_rejected: u64,
    /// Number of validations without a result, because the identity provider was unavailable.
    pub validations_unavailable: u64,
    /// Number of validated sessions that were stored.
    pub fills: u64,
    /// Number of validated sessions that were not stored because a revocation came first.
    pub fill_conflicts: u64,
    /// Number of calls of `invalidate_token`, `revoke_token` and `invalidate_user`.
    pub revocations: u64,
    /// Outcomes of `invalidate_token`.
    pub token_invalidations: RevocationCounts,
    /// Outcomes of `revoke_token`.
    pub token_revocations: RevocationCounts,
    /// Outcomes of `invalidate_user`.
    pub user_invalidations: RevocationCounts,
    /// Outcomes of ending a session: of `end_session`, and of `log_out` if the session has an ID.
    pub session_ends: RevocationCounts,
    /// Outcomes of `ban_user`.
    pub user_bans: RevocationCounts,
    /// Outcomes of `lift_token`.
    pub lifted_tokens: RevocationCounts,
    /// Outcomes of `lift_ban`.
    pub lifted_bans: RevocationCounts,
    /// Current number of sessions in the local cache. Some of them may have expired.
    pub local_entries: u64,
    /// Current number of revoked tokens in the memory of this process.
    pub revoked_token_entries: u64,
    /// Current number of tokens that are rejected because the identity provider rejected them.
    pub negative_entries: u64,
    /// Current number of tokens that are being validated.
    pub validations_in_flight: u64,
    /// Current number of revocations that apply on this node only and wait for Redis.
    pub queued_revocations: u64,
    /// Whether the Redis circuit breaker is open. It opens after three consecutive failures. On a
    /// cluster this is `true` if the circuit breakers of all primaries are open.
    pub redis_circuit_open: bool,
    /// Current number of connections to Redis, without those of the invalidation listener.
    pub redis_connections: u64,
    /// Current number of commands that wait for a reply of Redis.
    pub redis_commands_in_flight: u64,
    /// Number of commands that timed out or failed.
    pub redis_errors: u64,
    /// Whether the invalidation listener of the local cache is connected.
    pub listener_connected: bool,
    /// How long ago the lease was confirmed. All changes made in Redis before then have been
    /// received. `None` while there is no lease, so that sessions are looked up in Redis.
    pub lease_age: Option<Duration>,
    /// Number of invalidations received from Redis.
    pub invalidations: u64,
    /// Number of times the local cache was discarded because an invalidation may have been missed.
    pub local_resets: u64,
    /// What the canary has found. All zero without [`canary`](crate::SessionCacheBuilder::canary).
    pub canary: CanaryStats,
}

/// What the [canary](crate::SessionCacheBuilder::canary) of a node has found since the cache was
/// built. All counts start at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CanaryStats {
    /// Number of revocations of the canary that this node has received.
    pub rounds: u64,
    /// Time for which this node would have served the canary after its last revocation that it
    /// could measure. `None` if there was none.
    pub latency: Option<Duration>,
    /// Number of times that this node began to receive no revocations, while it could write them or
    /// while Redis was unavailable.
    pub not_received: u64,
    /// Number of revocations of the canary that were deleted in Redis before their time.
    pub deleted: u64,
    /// Number of times that the clocks of this node and of Redis began to differ by more than 5
    /// seconds.
    pub clock_skew: u64,
    /// Number of times that a listener connected whose node has no canary: one of an older version,
    /// or without the setting.
    pub nodes_without_canary: u64,
}

/// Number of revocations of one kind, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RevocationCounts {
    /// Number of revocations that applied on all nodes when the call returned.
    pub applied: u64,
    /// Number of revocations that applied on this node only and were queued for Redis.
    pub queued: u64,
    /// Number of revocations that apply on this node only, because the queue was full.
    pub queue_full: u64,
}

/// What a [`RevocationReceiver`](crate::RevocationReceiver) has done since it was created. All counts
/// start at zero.
#[cfg(feature = "events")]
#[cfg_attr(docsrs, doc(cfg(feature = "events")))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventStats {
    /// Number of events whose revocation applied on all nodes when they were answered.
    pub applied: u64,
    /// Number of events whose revocation was queued for Redis.
    pub queued: u64,
    /// Number of events whose revocation applies on this node only, because the queue was full.
    pub queue_full: u64,
    /// Number of events that had been applied before, and were not applied again.
    pub duplicates: u64,
    /// Number of authentic events that change no session.
    pub ignored: u64,
    /// Number of authentic events that name no user.
    pub unmapped: u64,
    /// Number of requests that were not an authentic event.
    pub rejected: u64,
    /// Number of events that could not be verified.
    pub unavailable: u64,
    /// Number of requests with a body of more than 256 KiB.
    pub too_large: u64,
    /// Number of requests whose body did not arrive within 5 seconds.
    pub too_slow: u64,
    /// How long ago the latest authentic event arrived.
    pub since_last: Option<Duration>,
}
