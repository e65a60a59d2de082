//! The guarantee holds, whatever happens between two steps, no user is locked out, and no
//! request waits forever.

use session_cache_model::{Bounds, Model, System, configurations::*};

fn holds(configurations: &[Bounds]) {
    for bounds in configurations {
        let mut bounds = *bounds;
        // One more request takes minutes instead of seconds, and too long if this is `false`.
        let bears_more = bounds.ticks.end == 0
            && bounds.tokens == 1
            && (bounds.left.cuts == 0 || bounds.asked == 1);
        if bears_more && std::env::var_os("SESSION_CACHE_FULL").is_some() {
            bounds.requests = (bounds.requests + 1).min(3);
        }
        let report = Model::new(bounds).check();
        report.print(bounds.name);
        assert!(report.trace.is_none(), "{}: {report}", bounds.name);
    }
}

#[test]
fn guarantee_holds_while_redis_answers() {
    holds(ANSWERED);
}

#[test]
fn guarantee_holds_while_redis_is_unavailable() {
    holds(UNANSWERED);
}

#[test]
fn guarantee_holds_after_data_loss_or_a_crash() {
    holds(LOST);
}

#[test]
fn guarantee_holds_next_to_the_python_service() {
    holds(PEER);
}

#[test]
fn guarantee_holds_when_records_marks_and_tombstones_expire() {
    holds(AGES);
}

#[test]
fn guarantee_holds_on_a_cluster() {
    holds(CLUSTER);
}

#[test]
fn guarantee_holds_without_redis() {
    holds(IN_PROCESS);
}

#[test]
fn ended_session_is_refused_under_all_its_tokens() {
    holds(SESSIONS);
}

#[test]
fn banned_user_is_refused_until_the_ban_is_lifted() {
    holds(BANS);
}

#[test]
fn node_serves_nothing_older_than_a_refusal() {
    holds(REFUSALS);
}

/// Reservations do not matter for the guarantee: in the model they may do anything.
#[test]
fn guarantee_holds_whatever_happens_to_reservations() {
    holds(RESERVATIONS);
    // Takes minutes.
    if std::env::var_os("SESSION_CACHE_FULL").is_some() {
        let others = [
            ANSWERED, UNANSWERED, LOST, PEER, AGES, CLUSTER, SESSIONS, BANS, REFUSALS,
        ];
        for bounds in others.concat() {
            let reserves = true;
            let report = Model::new(Bounds { reserves, ..bounds }).check();
            report.print(bounds.name);
            assert!(report.trace.is_none(), "{}: {report}", bounds.name);
        }
    }
}

#[test]
fn shared_rejection_hides_no_later_success() {
    holds(REJECTIONS);
}

/// A user who resets a password and logs in again is served immediately, as `must_serve` has shown
/// above, and from the cache while the mark is still recent.
#[test]
fn user_is_served_again_right_after_a_reset() {
    for (name, bounds) in [
        ("a user is invalidated", ANSWERED),
        ("a user is invalidated twice", ANSWERED),
        ("two tokens of a user", ANSWERED),
        ("lost data: a user", LOST),
        ("cluster: a user, two nodes", CLUSTER),
    ] {
        let bounds = named(bounds, name);
        assert!(Model::new(*bounds).check().soon_again > 0, "{name}");
    }
}
