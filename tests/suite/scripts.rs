//! The fill script alone: cases that no request can reach without waiting.

use bb8_redis::redis::cmd;

use crate::support::redis::Redis;

const FILL: &str = concat!(
    include_str!("../../src/redis/scripts/common.lua"),
    include_str!("../../src/redis/scripts/fill.lua"),
);

/// Returns the outcome of a fill whose lookup was at `fence` seconds.
fn fill(redis: &Redis, fence: f64, run: &str) -> String {
    fill_over(redis, fence, run, "")
}

/// Returns the outcome of a fill that may replace only the record `over`.
fn fill_over(redis: &Redis, fence: f64, run: &str, over: &str) -> String {
    let fence = format!("{:.0}", fence * 1e6);
    let mut eval = cmd("EVAL");
    eval.arg(FILL).arg(3).arg(&["record", "tomb", "mark"]);
    eval.arg(&["", "", &fence, "10000000", "5000000", "300000"]);
    eval.arg(&[
        "{\"session_cache\":{\"seen_mark\":",
        "r1",
        "",
        over,
        "ada",
        "400",
        "3",
        run,
    ]);
    let reply: Vec<String> = redis.run(&eval);
    reply.into_iter().next().unwrap()
}

#[test]
fn fill_with_an_old_fence_is_rejected() {
    let redis = Redis::start();
    let now = redis.time();
    assert_eq!(fill(&redis, now - 60.0, "r1"), "late");
    assert_eq!(redis.get("record"), None);
    assert_eq!(fill(&redis, now - 1.0, "r1"), "stored");
    assert_eq!(
        redis.get("record").unwrap(),
        r#"{"session_cache":{"seen_mark":null,"run":"r1"}}"#
    );
}

#[test]
fn fill_keeps_a_newer_record_of_any_writer() {
    let redis = Redis::start();
    let now = redis.time();
    for newer in [
        format!(r#"{{"fence":"{now:.6}"}}"#),
        format!(r#"{{"cached_at": {now:.6}}}"#),
        format!("sealed1:00:00:{now:.6}:x"),
    ] {
        redis.set("record", &newer);
        assert_eq!(fill(&redis, now - 1.0, "r1"), "newer", "{newer}");
        assert_eq!(redis.get("record").as_ref(), Some(&newer));
        assert_eq!(fill(&redis, now + 1.0, "r1"), "stored", "{newer}");
    }
    redis.set("record", "garbage");
    assert_eq!(fill(&redis, now, "r1"), "stored");
}

#[test]
fn fill_for_another_run_id_is_rejected() {
    let redis = Redis::start();
    assert_eq!(fill(&redis, redis.time(), "r2"), "other_run");
    assert_eq!(redis.get("record"), None);
}

#[test]
fn refresh_fill_replaces_only_the_expected_record() {
    let redis = Redis::start();
    let now = redis.time();
    assert_eq!(
        fill_over(&redis, now, "r1", "old"),
        "other_record",
        "the record is gone"
    );
    assert_eq!(redis.get("record"), None);
    redis.set("record", "another");
    assert_eq!(fill_over(&redis, now, "r1", "old"), "other_record");
    redis.set("record", "old");
    assert_eq!(fill_over(&redis, now, "r1", "old"), "stored");
    assert!((200_000..=300_000).contains(&redis.run(cmd("PTTL").arg("record"))));
}

/// A lookup on a cluster reads no value of another type, and one that is too long as it is. Neither is
/// the record of another node, for which it would have to wait.
#[test]
fn value_that_is_no_record_does_not_hinder_a_reservation() {
    const RESERVE: &str = concat!(
        include_str!("../../src/redis/scripts/common.lua"),
        include_str!("../../src/redis/scripts/reserve.lua"),
    );
    let redis = Redis::start();
    let reserve = |observed: &str| {
        let mut eval = cmd("EVAL");
        eval.arg(RESERVE).arg(2).arg(&["record", "tomb"]);
        eval.arg(&[observed, "rejection", "reservation", "node", "1000"]);
        let (_, outcome): (Option<String>, String) = redis.run(&eval);
        outcome
    };
    redis.run::<()>(cmd("LPUSH").arg("record").arg("x"));
    assert_eq!(reserve(""), "held");
    let long = "x".repeat(100_000);
    redis.set("record", &long);
    assert_eq!(reserve(&long), "held");
    redis.set("record", "another");
    assert_eq!(reserve("observed"), "other");
}
