//! What is served after a restart of Redis, with `stale_after_restart`.

use session_cache_model::{
    System,
    bridge::{Bridge, Guard::*},
    search::Until,
};

#[test]
fn bridged_session_respects_revocations_that_node_or_server_know() {
    let report = Bridge::default().check();
    report.print("the bridge");
    assert!(report.trace.is_none(), "{report}");
}

#[test]
fn each_guard_is_necessary() {
    for guard in [
        ComparesGenerations,
        ReadsServer,
        OwnAdvancesCopy,
        CopiesOnConnection,
        RejectionEvicts,
    ] {
        let report = Bridge::default().without(guard).check();
        assert!(report.trace.is_some(), "{guard:?}");
        println!("{guard:?}: {} states", report.states);
        if std::env::var_os("SESSION_CACHE_TRACE").is_some() {
            println!("{report}");
        }
    }
}

/// The price of the setting.
#[test]
fn revocation_that_only_the_old_server_knew_may_not_apply() {
    let met = Bridge::default().search(Until::Limit);
    println!("{met}");
    assert!(met.trace.is_some());
}
