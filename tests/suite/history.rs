//! The checker of histories accepts what the guarantee allows, and rejects what it forbids.

use crate::support::history::{History, Verdict};

const SESSION: usize = 7;

/// Checks the history that the test records.
fn judge(record: impl FnOnce(&History)) -> Option<Verdict> {
    let history = History::new();
    record(&history);
    history.check()
}

fn is_rejected(verdict: Option<Verdict>) {
    match verdict {
        Some(Verdict::Violation(text)) => assert!(
            text.starts_with("not linearizable: session 7 on node 1\n"),
            "{text}"
        ),
        Some(Verdict::Linearizable) => panic!("the checker accepted the history"),
        // The reason has been printed.
        None => {}
    }
}

fn is_accepted(verdict: Option<Verdict>) {
    if let Some(verdict) = verdict {
        assert_eq!(verdict, Verdict::Linearizable);
    }
}

#[test]
fn request_may_be_served_until_the_revocation_has_settled() {
    is_accepted(judge(|history| {
        let revoked = history.call();
        // Nodes notice the revocation at different times.
        history.answered(2, SESSION, history.call(), false);
        history.answered(1, SESSION, history.call(), true);
        let overlapping = history.call();
        history.settled(0, SESSION, revoked);
        history.answered(1, SESSION, overlapping, true);
        history.answered(1, SESSION, history.call(), false);
        // Another session is not revoked.
        history.answered(1, SESSION + 1, history.call(), true);
    }));
}

#[test]
fn request_served_after_the_revocation_has_settled_is_a_violation() {
    is_rejected(judge(|history| {
        let revoked = history.call();
        history.settled(0, SESSION, revoked);
        history.answered(1, SESSION, history.call(), true);
    }));
}

#[test]
fn session_served_again_by_a_node_that_rejected_it_is_a_violation() {
    is_rejected(judge(|history| {
        let revoked = history.call();
        history.answered(1, SESSION, history.call(), false);
        history.answered(1, SESSION, history.call(), true);
        history.unsettled(0, SESSION, revoked);
    }));
}

#[test]
fn session_rejected_before_its_revocation_is_a_violation() {
    is_rejected(judge(|history| {
        history.answered(1, SESSION, history.call(), false);
        history.settled(0, SESSION, history.call());
    }));
}
