//! Each rule is removed on its own, and the model then finds a violation of the guarantee.
//!
//! The traces are printed by
//! `SESSION_CACHE_TRACE=1 cargo test -p session-cache-model --test guards -- --nocapture`.
//! `tests/GUARDS.md` says which test of the crate fails without the rule.

use session_cache_model::{
    Bounds, Model,
    Rule::{self, *},
    System,
    configurations::GROUPS,
};

const GUARDS: &[(Rule, &str)] = &[
    (AcceptsSeenMark, "cluster: a user, two nodes"),
    (VanishedMarkIsChange, "limit: Redis evicts the mark"),
    (AcceptsSeenTomb, "another namespace's record"),
    (VanishedTombIsChange, "limit: Redis evicts the tombstone"),
    (AcceptsNoRefused, "Python writes, a node revokes the token"),
    (LookupRefuses, "Redis unavailable: a logout on another node"),
    (AcceptsRun, "lost data: a token"),
    (AcceptsMarkRun, "cluster: a lost mark"),
    (AcceptsAge, "limit: Python logs out, and its TTL is longer"),
    (TrustGrows, "limit: the provider lags behind a reset"),
    (
        PeerTrustHasSlack,
        "limit: the provider lags behind a reset by Python",
    ),
    (PeerAfterMark, "Python writes, a node invalidates the user"),
    (
        PeerSlackAfterMark,
        "Python writes, a node invalidates the user",
    ),
    (PeerAfterTomb, "Python writes, a node invalidates the token"),
    (
        PeerSlackAfterTomb,
        "Python writes, a node invalidates the token",
    ),
    (PeerAfterFloor, "lost data: the Python service's records"),
    (FloorHasSlack, "lost data: the Python service's records"),
    (PeerAge, "limit: Python writes after its logout"),
    (FillComparesRun, "lost data: a token"),
    (FillComparesMarkRun, "cluster: a lost mark"),
    (FillRefuses, "Python writes, a node revokes the token"),
    (FillComparesTomb, "cluster: a token"),
    (FillComparesMark, "a user is invalidated twice"),
    (FillUnreadMark, "cluster: a user, two nodes"),
    (UnreadMarkHasSlack, "Python resets"),
    (FillAge, "limit: Python logs out"),
    (LateIsUnanswered, "limit: Python logs out"),
    (FillNeedsAnswer, "Redis unavailable: a token"),
    (SecondFillCompares, "a user is invalidated twice"),
    (
        FenceIsLookups,
        "limit: Python logs out, and its TTL is longer",
    ),
    (
        CachedAtHasSlack,
        "Python writes, a node invalidates the user",
    ),
    (ClusterRechecksMark, "cluster: a user, two nodes"),
    (ClosesBeforeRecheck, "cluster: a token"),
    (StaysClosed, "a token is invalidated twice"),
    (LateStartAgain, "Redis unavailable: two nodes and a user"),
    (
        UnansweredTakesNone,
        "Redis unavailable: two nodes and a user",
    ),
    (HitLooksAgain, "in process"),
    (FillComparesStripes, "Redis unavailable: a token"),
    (HitComparesStripes, "Redis unavailable: a token"),
    (MemoryComparesStripes, "in process: a logout"),
    (SeenFirst, "Redis unavailable: a token"),
    (DeniesQueued, "Redis unavailable: a token"),
    (CountsBeforeDelivered, "Redis unavailable: a token"),
    (FullQueueServesNothing, "expiry: a full queue"),
    (FullQueueIsAskedAsOfBegin, "expiry: a full queue"),
    (CountsGivenUp, "expiry: a queue"),
    (DeliversQueued, "Redis unavailable: a token"),
    (ProviderFirst, "cluster: a token"),
    (EvictsAfterWrite, "in process: a logout"),
    (CountsRevocations, "in process: a logout"),
    (MarkChanges, "a user is invalidated twice"),
    (TombIsUnique, "a token is invalidated twice"),
    (KeepsVerdict, "a logout, then an invalidation"),
    (KeepsLongerTtl, "expiry: a logout and an invalidation"),
    (DeletesRecord, "Python writes, a node invalidates the token"),
    (
        TombOutlivesFills,
        "Python writes, a node invalidates the token",
    ),
    (
        MarkOutlivesRecords,
        "Python writes, a node invalidates the user",
    ),
    (FillReadsEnded, "a session of two tokens ends"),
    (FillAddsName, "a session of two tokens ends"),
    (FillReadsBan, "a user is banned"),
    (
        RefusesUnderAnyRun,
        "a session ends before a failover that loses nothing",
    ),
    (KeepsLongerNames, "expiry: the names of a session"),
    (
        NamesOutliveLateFills,
        "cluster: the names of a session expire",
    ),
    (ClusterJoinsFirst, "cluster: a session of two tokens ends"),
    (SecondFillJoins, "cluster: a session of two tokens ends"),
    (SecondFillJoins, "cluster: a user is banned"),
    (ConfirmsUnstored, "a session ends between two invalidations"),
    (
        ConfirmsUnstored,
        "Redis unavailable: a session ends, a full queue",
    ),
    (EndMovesMark, "a session of two tokens ends"),
    (LogOutMovesMark, "Python writes, a logout of another token"),
    (EndReadsNamesLast, "cluster: a session of two tokens ends"),
    (EndKeepsNames, "cluster unavailable: a session ends"),
    (EndedOutlivesTokens, "expiry: a session"),
    (BanMovesMark, "a user is banned"),
    (LiftMovesMark, "a ban and its end overlap"),
    (LiftRenewsTomb, "a revoked token is taken back"),
    (LiftClearsList, "a revoked token is taken back"),
    (LiftQueuesBehind, "Redis unavailable: a ban is lifted"),
    (FillReadsEndedList, "Redis unavailable: a session ends"),
    (FillReadsQueuedBans, "Redis unavailable: a user is banned"),
    (
        ListsBeforeCounting,
        "in process: a session of two tokens ends",
    ),
    (EndCountsUser, "in process: a session of two tokens ends"),
    (RemembersRefusals, "the provider rejects a token"),
    (
        RemembersRefusals,
        "Redis unavailable: the provider rejects a token",
    ),
    (RefusalIsReadFirst, "expiry: a refusal"),
    (RefusalHasSlack, "expiry: a refusal"),
    (RefusalOutlivesRecords, "expiry: a refusal"),
    (
        FullRefusalsRaiseFloor,
        "Redis unavailable: there is no space for a refusal",
    ),
    (HitLooksAgain, "reservations: a token is invalidated"),
    (
        WaiterDecidesAsAlways,
        "reservations: a token is invalidated",
    ),
    (AsksOnceClosed, "reservations: a token is invalidated"),
    (
        RecordBeforeRejection,
        "shared rejections: next to the Python service",
    ),
    (
        RejectionLooksAgain,
        "shared rejections: a node invalidates a user",
    ),
    (
        RejectionYieldsToRecord,
        "shared rejections: a user is invalidated",
    ),
    (
        RejectionComparesTomb,
        "shared rejections: a token is invalidated",
    ),
    (RejectionLastsFromReply, "shared rejections: the first"),
    (FirstRejectionIsShort, "shared rejections: the first"),
    (RejectionCountsOnce, "shared rejections: the first"),
    (
        SuccessEndsRejection,
        "shared rejections: a user is invalidated",
    ),
    (
        InvalidationEndsRejection,
        "shared rejections: a token is invalidated",
    ),
    (
        OwnRevocationEndsRejections,
        "shared rejections: a node invalidates a user",
    ),
];

#[test]
fn each_guard_is_necessary() {
    let mut unearned = Vec::new();
    for (rule, name) in GUARDS {
        let report = Model::new(*configuration(name)).without(*rule).check();
        match &report.trace {
            Some((what, trace)) => {
                let (steps, states) = (trace.len(), report.states);
                println!("{rule:?}: {what} after {steps} steps, {states} states: {name}");
                if std::env::var_os("SESSION_CACHE_TRACE").is_some() {
                    println!("{report}");
                }
            }
            None => unearned.push((rule, name)),
        }
    }
    assert!(unearned.is_empty(), "{unearned:?}");
}

/// Rules without which the model finds no violation: each is covered by another test, or saves
/// work. `tests/GUARDS.md` gives the reasons.
const SPARE: &[Rule] = &[
    PeerNotFromFuture,
    HintAcceptsOurs,
    FillKeepsNewer,
    AsksAgain,
    NextLooksUp,
    TicketIsFresh,
    DeniedMissIsUnanswered,
    DeniesBeforeCounting,
    EndedRefusesToken,
    RejectionYieldsToLater,
    FillYieldsToRejection,
];

/// Pairs of rules of which either prevents the same violation.
const PAIRS: &[(Rule, Rule, &str)] = &[(
    LookupAsksVerdicts,
    FillAsksVerdicts,
    "Redis unavailable: two revocations, a queue of one",
)];

#[test]
fn either_rule_of_a_redundant_pair_is_sufficient() {
    for (one, other, name) in PAIRS {
        let model = Model::new(*configuration(name));
        assert!(model.without(*one).check().trace.is_none());
        assert!(model.without(*other).check().trace.is_none());
        let report = model.without(*one).without(*other).check();
        assert!(report.trace.is_some(), "{one:?}, {other:?}");
    }
}

#[test]
fn every_rule_is_in_exactly_one_list() {
    for rule in Rule::ALL {
        let places = usize::from(GUARDS.iter().any(|(guard, _)| guard == rule))
            + usize::from(SPARE.contains(rule))
            + usize::from(PAIRS.iter().any(|(a, b, _)| a == rule || b == rule));
        assert_eq!(places, 1, "{rule:?}");
    }
}

/// Takes minutes, because each configuration is checked once for each spare rule.
#[test]
fn spare_rules_are_unnecessary_in_every_configuration() {
    if std::env::var_os("SESSION_CACHE_FULL").is_none() {
        return;
    }
    for rule in SPARE {
        for bounds in GROUPS.iter().flat_map(|group| group.iter()) {
            let report = Model::new(*bounds).without(*rule).check();
            assert!(
                report.trace.is_none(),
                "{rule:?}, {}: {report}",
                bounds.name
            );
        }
    }
}

fn configuration(name: &str) -> &'static Bounds {
    GROUPS
        .iter()
        .flat_map(|group| group.iter())
        .find(|bounds| bounds.name == name)
        .unwrap_or_else(|| panic!("no configuration is named {name}"))
}
