//! What is not guaranteed, as exactly as the guarantee: each limit can be reached, and none lasts
//! longer than TTL + validation timeout + slack, or than twice the lag of the provider + 1 s.

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
    // A stale session that is served after the bound is a violation.
    let report = model.check();
    report.print(name);
    assert!(report.trace.is_none(), "{report}");
}

/// The validations of the Python service and the marks that it writes are subject to the lag, too.
#[test]
fn staleness_after_a_late_reply_of_the_provider_is_bounded() {
    is_met_and_bounded("limit: the provider lags behind a reset");
    is_met_and_bounded("limit: the provider lags behind the change of a session");
    is_met_and_bounded("limit: the provider lags behind a reset, on a cluster");
    is_met_and_bounded("limit: the provider lags behind a reset by Python");
    if std::env::var_os("SESSION_CACHE_FULL").is_some() {
        is_met_and_bounded("limit: the provider lags behind a reset, and nodes share validations");
    }
}

/// A shared rejection ends no record that another node has stored.
#[test]
fn staleness_after_a_shared_rejection_is_bounded() {
    is_met_and_bounded("limit: the provider ends a session, and its rejection is shared");
}

/// The plain `DEL` of the Python service leaves no tombstone for an in-flight validation of this
/// crate.
#[test]
fn staleness_after_a_python_logout_is_bounded() {
    is_met_and_bounded("limit: Python logs out");
    is_met_and_bounded("limit: Python logs out, and its TTL is longer");
}

/// The Python service writes without a check what it validated before.
#[test]
fn staleness_after_a_late_python_write_is_bounded() {
    is_met_and_bounded("limit: Python writes after its logout");
}

/// Applies to other nodes than the one that queued the revocation.
#[test]
fn staleness_while_a_revocation_is_queued_is_bounded() {
    is_met_and_bounded("limit: a queued reset, seen from another node");
}

/// The queue is in memory, so a crash loses it.
#[test]
fn staleness_after_a_crash_with_queued_revocations_is_bounded() {
    is_met_and_bounded("limit: a node crashes with a queue");
}

/// `FLUSHALL` does not change the run ID, so that nothing shows the loss.
#[test]
fn staleness_after_a_flush_is_bounded() {
    is_met_and_bounded("limit: Redis is flushed");
}

/// A node that knew the previous run ID ignores foreign records from before its trust floor. A new
/// node has no floor.
#[test]
fn staleness_on_a_new_node_after_data_loss_is_bounded() {
    is_met_and_bounded("limit: a node starts after Redis has lost data");
}

/// An eviction, or a failover of the primary that holds the session, loses the names of the marks
/// that the end of the session would move. A logout moves the mark of its user regardless.
#[test]
fn staleness_after_the_loss_of_a_sessions_names_is_bounded() {
    is_met_and_bounded("limit: Redis loses the names of a session");
}

/// Redis evicts them under an `allkeys-*` or `volatile-*` policy. A record that saw one mark or
/// tombstone must not become valid again by the eviction of the next one: that is a violation.
#[test]
fn staleness_after_an_eviction_is_bounded() {
    is_met_and_bounded("limit: Redis evicts the mark");
    is_met_and_bounded("limit: Redis evicts the tombstone");
}
