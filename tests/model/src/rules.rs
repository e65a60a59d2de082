//! Rules of the protocol, each with a switch. A rule is needed if the model fails without it.

macro_rules! rules {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Rule {
            $($(#[doc = $doc])* $name,)*
        }

        impl Rule {
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

rules! {
    // Accept: `protocol/acceptance.rs`.
    /// A native record is served only if the mark is the one that was seen.
    AcceptsSeenMark,
    /// A mark that has vanished is a change.
    VanishedMarkIsChange,
    /// A native record is served only if the tombstone is the one that was seen.
    AcceptsSeenTomb,
    /// A tombstone that has vanished is a change.
    VanishedTombIsChange,
    /// A revoking tombstone rejects, even if it was seen.
    AcceptsNoRefused,
    /// A lookup that finds a revoking tombstone and no acceptable record rejects as well.
    LookupRefuses,
    /// A native record is served only under the run ID of the server that stored it.
    AcceptsRun,
    /// The same holds for the run ID of the cluster's primary that holds the mark.
    AcceptsMarkRun,
    /// A native record that is older than TTL and slack is not served.
    AcceptsAge,
    /// A foreign record must be newer than the mark.
    PeerAfterMark,
    /// A foreign record must be newer than the mark by more than slack.
    PeerSlackAfterMark,
    /// A foreign record must be newer than the tombstone.
    PeerAfterTomb,
    /// A foreign record must be newer than the tombstone by more than slack.
    PeerSlackAfterTomb,
    /// A foreign record must be newer than the trust floor.
    PeerAfterFloor,
    /// The trust floor is the time of the connection plus slack.
    FloorHasSlack,
    /// A foreign record must not be from the future.
    PeerNotFromFuture,
    /// A foreign record that is older than TTL and slack is not served.
    PeerAge,
    /// The lookup by `MGET` accepts native records only.
    HintAcceptsOurs,

    // Fill: `fill.lua`.
    /// A fill stores only under the run ID of its lookup.
    FillComparesRun,
    /// The same holds for the run ID of the cluster's primary that holds the mark, whether or not
    /// the lookup read the mark.
    FillComparesMarkRun,
    /// A fill rejects if it finds a revoking tombstone.
    FillRefuses,
    FillComparesTomb,
    FillComparesMark,
    /// A young mark that the fill reads for the first time does not count as seen.
    FillUnreadMark,
    /// A mark is young until it is older than the fence by more than slack.
    UnreadMarkHasSlack,
    /// A fill that is too late stores nothing.
    FillAge,
    /// The result of such a fill is not served to late joiners.
    LateIsUnanswered,
    FillKeepsNewer,
    /// After a lookup without a reply nothing is stored.
    FillNeedsAnswer,
    /// The fill of the second validation makes the same comparisons.
    SecondFillCompares,
    /// `fence` is the time of the lookup, not of the fill.
    FenceIsLookups,
    /// `cached_at` is earlier than `fence` by slack.
    CachedAtHasSlack,
    /// The second validation uses the snapshot of the re-check.
    AsksAgain,
    /// On a cluster, the fill reads the mark again after the leader has closed.
    ClusterRechecksMark,

    // Joining: `sync/singleflight.rs`, `resolver/resolve.rs`.
    ClosesBeforeRecheck,
    /// The second validation takes no joiners.
    StaysClosed,
    /// Late joiners start again after a re-check without a reply.
    LateStartAgain,
    /// A leader whose lookup had no reply accepts no joiners once it validates.
    UnansweredTakesNone,
    /// The next leader begins with its own lookup.
    NextLooksUp,
    /// A new leader does not use a ticket from before a completion.
    TicketIsFresh,
    /// A leader whose own lookup hits closes and repeats the lookup.
    HitLooksAgain,

    // This process: `coherence/generations.rs`, `memory/store.rs`, `memory/revoked_tokens.rs`.
    /// A fill compares the revocations of this process.
    FillComparesStripes,
    /// A hit in Redis compares the revocations of this process.
    HitComparesStripes,
    /// A hit in memory compares the revocations of this process.
    MemoryComparesStripes,
    /// The sequence is read before the lookup starts.
    SeenFirst,
    /// A lookup checks this process's list of revoked tokens.
    LookupAsksVerdicts,
    /// A fill checks this process's list of revoked tokens.
    FillAsksVerdicts,
    /// Until a queued revocation is in Redis, this node ignores the records that it covers.
    DeniesQueued,
    /// A miss under a denial counts as unavailable.
    DeniedMissIsUnanswered,
    /// The denial begins before the stripes advance.
    DeniesBeforeCounting,
    /// The stripes advance before the denial ends.
    CountsBeforeDelivered,
    /// A revocation that finds the queue full stops this node from serving records from Redis.
    FullQueueServesNothing,
    /// Whether this applies to a lookup is decided as of its start.
    FullQueueIsAskedAsOfBegin,
    /// A revocation that expires in the queue also advances the stripes before its denial ends.
    CountsGivenUp,
    /// Queued revocations are delivered.
    DeliversQueued,

    // Revocation: `revoke_token.lua`, `revoke_user.lua`, `cache/revoke.rs`.
    /// The change is made at the identity provider first.
    ProviderFirst,
    /// The stripes advance after the write to Redis.
    EvictsAfterWrite,
    /// A revocation advances the stripes of this process.
    CountsRevocations,
    /// A mark always changes.
    MarkChanges,
    /// A tombstone is unique.
    TombIsUnique,
    /// A revoking tombstone stays one after a revocation that does not reject the token.
    KeepsVerdict,
    /// The longer TTL of a tombstone is kept.
    KeepsLongerTtl,
    /// The record is deleted when the tombstone is written.
    DeletesRecord,
    /// A tombstone outlives the fills that must see it.
    TombOutlivesFills,
    /// A mark outlives the records that it revokes.
    MarkOutlivesRecords,
}

/// Set of the rules that hold.
#[derive(Clone, Copy, Debug)]
pub struct Rules(u128);

impl Rules {
    pub const fn all() -> Self {
        Self(u128::MAX)
    }

    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self(self.0 & !(1 << rule as u8))
    }

    pub fn hold(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u8) != 0
    }
}

const _: () = assert!(Rule::ALL.len() <= 128);
