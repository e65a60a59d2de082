//! What was answered as applied holds on every node, and an event refuses only the session that it
//! names.

use session_cache_model::{
    System,
    events::{
        Guard::{self, *},
        Push,
    },
    search::Until,
};

/// An event that names a user, and a provider that replies otherwise once it has sent it.
const USER: Push = Push {
    names_session: false,
    lag: 0,
    lease: 0,
    end: 0,
    deliveries: 2,
    repeats: true,
    cuts: 1,
    crashes: 1,
    without: 0,
};

/// An event that names a session, and a provider that commits its end later.
const SESSION: Push = Push {
    names_session: true,
    lag: 1,
    end: 1,
    ..USER
};

const LOCAL: Push = Push {
    lease: 1,
    end: 2,
    cuts: 0,
    ..SESSION
};

const LATE: Push = Push {
    lag: 1,
    lease: 1,
    end: 3,
    deliveries: 1,
    cuts: 0,
    crashes: 0,
    ..USER
};

const GUARDS: &[(Guard, Push)] = &[
    (ActsBeforeItRemembers, USER),
    (ActsBeforeItRemembers, SESSION),
    (RemembersOnlyApplied, USER),
    (AnswersOnceApplied, USER),
    (RefusesTheSession, SESSION),
    (UserIsAskedAbout, USER),
    (TrustGrows, LATE),
];

#[test]
fn applied_event_holds_on_every_node() {
    for (name, push) in [
        ("an event about a user", USER),
        ("an event that names a session", SESSION),
        ("an event that names a session, and a local cache", LOCAL),
        ("an event of a late provider", LATE),
    ] {
        let mut push = push;
        if std::env::var_os("SESSION_CACHE_FULL").is_some() {
            push.deliveries = 2;
            push.end += 1;
        }
        let report = push.check();
        report.print(name);
        assert!(report.trace.is_none(), "{name}: {report}");
    }
}

/// Appwrite repeats no event, so one whose revocation is only queued is lost with the process.
#[test]
fn queued_event_that_is_not_repeated_may_be_lost_in_a_crash() {
    let unrepeated = Push {
        repeats: false,
        deliveries: 1,
        ..USER
    };
    let met = unrepeated.search(Until::Limit);
    println!("{met}");
    assert!(met.trace.is_some());
    let report = unrepeated.check();
    assert!(report.trace.is_none(), "{report}");
}

#[test]
fn each_guard_is_necessary() {
    for (guard, push) in GUARDS {
        let report = push.without(*guard).check();
        assert!(report.trace.is_some(), "{guard:?}");
        println!("{guard:?}: {} states", report.states);
        if std::env::var_os("SESSION_CACHE_TRACE").is_some() {
            println!("{report}");
        }
    }
}
