//! No local hit hides a revocation that was acknowledged one lease before the request began.

use session_cache_model::{
    System,
    tier::{
        Guard::{self, *},
        Tier,
    },
};

const OWN: Tier = Tier {
    is_own: true,
    ..Tier::BASE
};

const GUARDS: &[(Guard, Tier)] = &[
    (HitNeedsLease, Tier::BASE),
    (LeaseFirst, Tier::BASE),
    (HitComparesStripes, Tier::BASE),
    (HitComparesEpoch, Tier::BASE),
    (ConnectedBeginsEpoch, Tier::BASE),
    (EpochIsNotedFirst, Tier::BASE),
    (SeenIsNotedFirst, Tier::BASE),
    (PreviousPing, Tier::BASE),
    (OwnCounts, OWN),
];

/// If one of these is removed, the others are sufficient.
const SPARE: [Guard; 4] = [
    NoteNeedsLease,
    EpochAfterTracking,
    LostEndsLease,
    LostBeginsEpoch,
];

#[test]
fn local_hit_respects_revocations_older_than_a_lease() {
    let mut tiers = vec![("the local cache", Tier::BASE), ("our own revocation", OWN)];
    if std::env::var_os("SESSION_CACHE_FULL").is_some() {
        let (reads, end) = (2, 5);
        tiers.push((
            "two reads",
            Tier {
                reads,
                end,
                ..Tier::BASE
            },
        ));
        let (revocations, losses) = (2, 0);
        tiers.push((
            "two revocations",
            Tier {
                revocations,
                losses,
                ..Tier::BASE
            },
        ));
    }
    for (name, tier) in tiers {
        let report = tier.check();
        report.print(name);
        assert!(report.trace.is_none(), "{report}");
    }
}

#[test]
fn each_guard_is_necessary() {
    for (guard, tier) in GUARDS {
        let report = tier.without(*guard).check();
        assert!(report.trace.is_some(), "{guard:?}");
        println!("{guard:?}: {} states", report.states);
        if std::env::var_os("SESSION_CACHE_TRACE").is_some() {
            println!("{report}");
        }
    }
}

/// A record that is read before Redis tracks it is dropped for two reasons: there is no lease, and
/// its epoch is older.
#[test]
fn either_of_two_redundant_guards_is_sufficient() {
    for guard in SPARE {
        assert!(
            Tier::BASE.without(guard).check().trace.is_none(),
            "{guard:?}"
        );
    }
    for other in [NoteNeedsLease, LostEndsLease] {
        let report = Tier::BASE
            .without(EpochAfterTracking)
            .without(other)
            .check();
        assert!(report.trace.is_some(), "{other:?}");
    }
}
