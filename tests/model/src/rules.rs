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
    /// A record is trusted for as long as it was validated after the last revocation.
    TrustGrows,
    /// The validation of a foreign record is older than the record by up to slack.
    PeerTrustHasSlack,
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

    // Sessions and bans: `fill.lua`, `end_session.lua`.
    /// A fill is refused if the session has ended.
    FillReadsEnded,
    /// A fill adds the name of the user's mark to the session's set.
    FillAddsName,
    /// A fill is refused if the user is banned.
    FillReadsBan,
    /// A fill is refused for these reasons under any run ID.
    RefusesUnderAnyRun,
    /// A fill that is refused because the session has ended refuses the token.
    EndedRefusesToken,
    /// The longer TTL of a session's set is kept.
    KeepsLongerNames,
    /// On a cluster the set outlives a record that is stored as late as a fill may be.
    NamesOutliveLateFills,
    /// On a cluster the fill joins the session before it reads the mark again and stores.
    ClusterJoinsFirst,
    /// On a cluster the fill of the second validation joins the session and reads the ban as well.
    SecondFillJoins,
    /// A result that is not stored is served only after Redis was asked about session and user.
    ConfirmsUnstored,
    /// The end of a session moves the marks in its set.
    EndMovesMark,
    /// A logout moves the mark of its user, whether or not it is in the set.
    LogOutMovesMark,
    /// The end of a session reads the set after it has set the end.
    EndReadsNamesLast,
    /// The end of a session leaves the set as it is.
    EndKeepsNames,
    /// The end of a session is kept as long as a token of it may be valid.
    EndedOutlivesTokens,
    /// A ban moves the mark of the user.
    BanMovesMark,
    /// The end of a ban moves the mark of the user.
    LiftMovesMark,
    /// To take a revocation back writes a new tombstone.
    LiftRenewsTomb,
    /// To take a revocation back removes the token from this process's list.
    LiftClearsList,
    /// To take back what is queued on this node enters the queue behind it.
    LiftQueuesBehind,

    // Refusals: `memory/rejections.rs`.
    /// A node that has rejected a token by the provider's word ignores older records.
    RemembersRefusals,
    /// The refusals are read before the lookup starts.
    RefusalIsReadFirst,
    /// A record is older than a refusal unless it is newer by more than slack.
    RefusalHasSlack,
    /// A refusal is remembered until no older record can be usable.
    RefusalOutlivesRecords,
    /// A refusal for which there is no space counts for all tokens.
    FullRefusalsRaiseFloor,

    // One validation for all nodes: `resolver/resolve.rs`, `lookup.lua`, `reject.lua`, `fill.lua`.
    /// A node that has waited for another one decides by the rules of acceptance.
    WaiterDecidesAsAlways,
    /// A refresh is left to another node only if no request waits for it once it is closed.
    AsksOnceClosed,
    /// A leader whose own lookup finds a shared rejection closes and repeats the lookup.
    RejectionLooksAgain,
    /// A shared rejection is used only if there is no acceptable record.
    RecordBeforeRejection,
    /// A rejection is not shared if there is a record by then.
    RejectionYieldsToRecord,
    /// A rejection is shared only if the tombstone is the one that was seen before the validation.
    RejectionComparesTomb,
    /// A rejection is not shared over one whose validation began later.
    RejectionYieldsToLater,
    /// A shared rejection is used for a time that begins with the provider's reply.
    RejectionLastsFromReply,
    /// The first rejection of a token is used for the shortest time.
    FirstRejectionIsShort,
    /// A rejection is the next one only if its lookup saw the one before.
    RejectionCountsOnce,
    /// A success ends the shared rejection.
    SuccessEndsRejection,
    /// A fill stores nothing if a later validation was rejected.
    FillYieldsToRejection,
    /// The invalidation of a token ends its shared rejection.
    InvalidationEndsRejection,
    /// A process that has revoked a user uses no shared rejection from before.
    OwnRevocationEndsRejections,

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
    /// A fill checks this process's list of ended sessions.
    FillReadsEndedList,
    /// A fill checks the bans in this process's queue.
    FillReadsQueuedBans,
    /// An ended session is added to the list before the stripes advance.
    ListsBeforeCounting,
    /// The end of a session advances the stripe of its user in this process.
    EndCountsUser,
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
