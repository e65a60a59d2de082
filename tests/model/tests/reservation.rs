//! Nodes validate a token once, and once more for each fault, and none waits for ever.

use session_cache_model::{
    System,
    reservation::{
        Guard::{self, *},
        Reservations,
    },
};

const FAULTS: Reservations = Reservations {
    faults: 2,
    ..Reservations::BASE
};

const BLOCKED: Reservations = Reservations {
    is_blocked: true,
    ..Reservations::BASE
};

const GUARDS: &[(Guard, Reservations)] = &[
    (ReadsAndReservesAtOnce, Reservations::BASE),
    (StoresBeforeItReleases, Reservations::BASE),
    (DeletesOnlyItsOwn, FAULTS),
    (EndsByItself, FAULTS),
    (WaitEnds, BLOCKED),
];

#[test]
fn token_is_validated_once_and_once_more_for_each_fault() {
    for (name, system) in [
        ("no fault", Reservations::BASE),
        ("two faults", FAULTS),
        ("the reservation of no node", BLOCKED),
    ] {
        let report = system.check();
        report.print(name);
        assert!(report.trace.is_none(), "{name}: {report}");
    }
}

#[test]
fn each_guard_is_necessary() {
    for (guard, system) in GUARDS {
        let report = system.without(*guard).check();
        assert!(report.trace.is_some(), "{guard:?}");
        println!("{guard:?}: {} states", report.states);
        if std::env::var_os("SESSION_CACHE_TRACE").is_some() {
            println!("{report}");
        }
    }
}
