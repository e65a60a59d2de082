//! What is not promised, as exactly as the promise: each limit can be met, and none lasts longer
//! than TTL, validation timeout and slack.

use session_cache_model::{
    Model, System,
    configurations::{LIMITS, named},
    search::Until,
};

fn is_met_and_bounded(name: &str) {
    let model = Model::new(*named(LIMITS, name));
    let met = model.search(Until::Limit);
    println!("{name}:\n{met}");
    assert!(met.trace.is_some(), "nothing stale was ever served");
    // What is served after the bound is a violation.
    let report = model.check();
    report.print(name);
    assert!(report.trace.is_none(), "{report}");
}

/// Its plain `DEL` leaves no tombstone for a validation in flight here.
#[test]
fn staleness_after_a_python_logout_is_bounded() {
    is_met_and_bounded("limit: the peer logs out");
    is_met_and_bounded("limit: the peer logs out, and its TTL is longer");
}

/// It writes blindly what it validated before.
#[test]
fn staleness_after_a_late_python_write_is_bounded() {
    is_met_and_bounded("limit: the peer writes after its logout");
}

/// On other nodes than the one that queued it.
#[test]
fn staleness_while_a_revocation_is_queued_is_bounded() {
    is_met_and_bounded("limit: a queued reset, seen from another node");
}

/// The queue is in memory.
#[test]
fn staleness_after_a_crash_with_queued_revocations_is_bounded() {
    is_met_and_bounded("limit: a node crashes with a queue");
}

/// `FLUSHALL` leaves the run as it is, so that nothing tells of the loss.
#[test]
fn staleness_after_a_flush_is_bounded() {
    is_met_and_bounded("limit: Redis is flushed");
}

/// A node that knew the run before distrusts the peer's records up to its floor; a newcomer has
/// no floor.
#[test]
fn staleness_on_a_new_node_after_data_loss_is_bounded() {
    is_met_and_bounded("limit: a node starts after Redis has lost data");
}

/// As an `allkeys-*` or `volatile-*` policy does. A record that saw one is not revived by the
/// eviction of the next, which is a violation if it happens.
#[test]
fn staleness_after_an_eviction_is_bounded() {
    is_met_and_bounded("limit: Redis evicts the mark");
    is_met_and_bounded("limit: Redis evicts the tombstone");
}
