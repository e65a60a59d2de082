//! The rules of the protocol, each with a switch: a guard earns its place when the model fails
//! without it.

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
    /// A record of ours is served only beside the mark that was seen.
    AcceptsSeenMark,
    /// A mark that has vanished is a change.
    VanishedMarkIsChange,
    /// And beside the tombstone that was seen.
    AcceptsSeenTomb,
    /// A tombstone that has vanished is a change.
    VanishedTombIsChange,
    /// A refusing verdict refuses, seen or not.
    AcceptsNoRefused,
    /// And a lookup that finds nothing else refuses as well.
    LookupRefuses,
    /// On the run of the server that stored it.
    AcceptsRun,
    /// And in that of the cluster's primary that holds the mark.
    AcceptsMarkRun,
    /// No older than TTL and slack.
    AcceptsAge,
    /// The peer's: later than the mark, at all.
    PeerAfterMark,
    /// The peer's: later than the mark by more than slack.
    PeerSlackAfterMark,
    /// The peer's: later than the tombstone, at all.
    PeerAfterTomb,
    /// The peer's: later than the tombstone by more than slack.
    PeerSlackAfterTomb,
    /// The peer's: later than the floor.
    PeerAfterFloor,
    /// The floor lies beyond the time of the connection by slack.
    FloorHasSlack,
    /// The peer's: not from the future.
    PeerNotFromFuture,
    /// The peer's: no older than TTL and slack.
    PeerAge,
    /// The shortcut by MGET accepts records of our own only.
    HintAcceptsOurs,

    // Fill: `fill.lua`.
    /// On the run of its lookup only.
    FillComparesRun,
    /// And in that of the cluster's primary that holds the mark, read by then or not.
    FillComparesMarkRun,
    /// A refusing verdict refuses.
    FillRefuses,
    FillComparesTomb,
    FillComparesMark,
    /// A young mark at first sight does not count as seen.
    FillUnreadMark,
    /// It is young until it is older than the fence by slack.
    UnreadMarkHasSlack,
    /// Not after too long.
    FillAge,
    /// And then the answer is not for late joiners.
    LateIsUnanswered,
    FillKeepsNewer,
    /// Not after a lookup without an answer.
    FillNeedsAnswer,
    /// The second validation's fill compares as well.
    SecondFillCompares,
    /// `fence` is the time of the lookup, not of the fill.
    FenceIsLookups,
    /// `cached_at` is slack before `fence`.
    CachedAtHasSlack,
    /// The second validation goes by what the re-check saw.
    AsksAgain,
    /// The cluster's fill looks at the mark once it has closed.
    ClusterRechecksMark,

    // Joining: `sync/singleflight.rs`, `resolver/resolve.rs`.
    ClosesBeforeRecheck,
    /// The second validation takes no joiners.
    StaysClosed,
    /// Late joiners start again after a re-check without an answer.
    LateStartAgain,
    /// A leader without an answer takes nobody once it validates.
    UnansweredTakesNone,
    /// The next leader begins with a lookup of its own.
    NextLooksUp,
    /// A ticket from before a completion does not count for a new leader.
    TicketIsFresh,
    /// A leader whose own lookup hits closes and looks again.
    HitLooksAgain,

    // This process: `coherence/generations.rs`, `memory/store.rs`, `memory/revoked_tokens.rs`.
    /// A fill compares this process's revocations.
    FillComparesStripes,
    /// A hit in Redis compares them.
    HitComparesStripes,
    /// A hit in memory compares them.
    MemoryComparesStripes,
    /// The sequence is noted before anything is looked up.
    SeenFirst,
    /// A lookup asks for this process's verdicts.
    LookupAsksVerdicts,
    /// A fill asks for them.
    FillAsksVerdicts,
    /// What Redis does not have yet is denied here.
    DeniesQueued,
    /// A miss under a denial has no answer.
    DeniedMissIsUnanswered,
    /// The denial stands before the stripes move.
    DeniesBeforeCounting,
    /// The stripes move before the denial ends.
    CountsBeforeDelivered,
    /// What finds the queue full makes this node serve nothing from Redis.
    FullQueueServesNothing,
    /// Whether it does is asked as of the begin of a lookup.
    FullQueueIsAskedAsOfBegin,
    /// What is given up moves the stripes, too, before its denial ends.
    CountsGivenUp,
    /// What is queued is delivered.
    DeliversQueued,

    // Revocation: `revoke_token.lua`, `revoke_user.lua`, `cache/revoke.rs`.
    /// The provider is told first.
    ProviderFirst,
    /// The stripes move after Redis is written.
    EvictsAfterWrite,
    /// A revocation moves this process's stripes at all.
    CountsRevocations,
    /// A mark always changes.
    MarkChanges,
    /// A tombstone is unique.
    TombIsUnique,
    /// A refusing verdict outlives a forgetting revocation.
    KeepsVerdict,
    /// And the longer TTL is kept.
    KeepsLongerTtl,
    /// The record is deleted.
    DeletesRecord,
    /// A tombstone outlives the fills that must see it.
    TombOutlivesFills,
    /// A mark outlives the records that it revokes.
    MarkOutlivesRecords,
}

/// Which rules hold.
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
