//! Rules for which records may be served. No I/O.
//!
//! *Causality instead of clocks*, wherever this crate wrote both sides: the identity provider
//! revokes first, then mark or tombstone is written. A validation that began after a lookup saw
//! them knows of those revocations. So a native record is valid exactly as long as mark and
//! tombstone are the ones that were seen before its validation began, and the server is the one
//! that has held them all since then. Foreign records carry only a time, so clocks decide about
//! them, with slack for the difference between clocks.
//!
//! The identity provider may still reply as before a change, so a record that was validated soon after
//! a revocation is trusted only for as long as the validation came after it ([`trusted_until`]).
//!
//! `tests/model/src/redis.rs` checks these rules in all interleavings.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{
    lifetime::LifetimePolicy,
    record::{Provenance, Record},
    revocation::{RevocationMark, RevocationState, Tombstone},
    timestamp::Timestamp,
};
use crate::time::wall_micros;

/// Slack for the difference between clocks, fast and slow together, and for the slowest validation
/// of the Python service. In microseconds.
pub(crate) const CLOCK_SKEW_TOLERANCE: i64 = 5_000_000;

/// Time, run ID and trust floor of a read.
#[derive(Clone, Debug)]
pub(crate) struct ReadContext {
    /// By the clock of Redis, or by the node's if Redis was not asked for the time.
    pub(crate) time: Timestamp,
    /// By the node's clock, in microseconds since the Unix epoch. The expiry of a session is
    /// compared with it.
    pub(crate) wall: i64,
    /// Run ID of the server that replied.
    pub(crate) run_id: Arc<str>,
    /// Foreign records from before it are rejected, because Redis may have lost a mark that applies
    /// to them.
    pub(crate) trust_floor: Timestamp,
}

/// Whether the record may be served. `lifetimes` are those of this cache.
pub(crate) fn is_acceptable(
    record: &Record,
    state: &RevocationState,
    context: &ReadContext,
    lifetimes: &LifetimePolicy,
) -> bool {
    if has_ended(record.expires_at, context.wall)
        || state.tombstone.as_ref().is_some_and(Tombstone::refuses)
        || trusted_until(record, state, lifetimes).is_some_and(|until| context.time >= until)
    {
        return false;
    }
    let max_age = i64::try_from(lifetimes.ttl()).unwrap_or(i64::MAX);
    let oldest = context
        .time
        .minus(max_age.saturating_add(CLOCK_SKEW_TOLERANCE));
    match &record.provenance {
        Some(provenance) => {
            provenance.fence >= oldest && is_unchanged(provenance, state, &context.run_id)
        }
        None => {
            let since = record.cached_at;
            since > context.trust_floor
                && since >= oldest
                && since <= context.time.plus(CLOCK_SKEW_TOLERANCE)
                && is_after(since, state.mark.as_ref().map(|mark| mark.time))
                && is_after(
                    since,
                    state.tombstone.as_ref().map(|tombstone| tombstone.time),
                )
        }
    }
}

/// Returns the time at which the trust in a record ends, or `None` if only the TTL limits it.
///
/// No slack is added, because it would exceed the trust in the first seconds. A wrong rejection costs
/// a validation.
pub(crate) fn trusted_until(
    record: &Record,
    state: &RevocationState,
    lifetimes: &LifetimePolicy,
) -> Option<Timestamp> {
    let validated = match &record.provenance {
        Some(provenance) => provenance.fence,
        // `cached_at` is the end of the validation, by another clock.
        None => record.cached_at.minus(CLOCK_SKEW_TOLERANCE),
    };
    let (mark, tombstone) = (state.mark.as_ref(), state.tombstone.as_ref());
    let trust = trust(validated, mark, tombstone, lifetimes)?;
    Some(validated.plus(trust))
}

/// Returns for how many microseconds the result of a validation is trusted that began at `validated`,
/// after these revocations. Returns `None` if only the TTL limits it.
///
/// A tombstone counts like a mark: the provider may lag behind the change of a session as it does
/// behind the change of a user. A revocation in the future, and one whose time cannot be read, counts
/// as if it had just been written.
pub(crate) fn trust(
    validated: Timestamp,
    mark: Option<&RevocationMark>,
    tombstone: Option<&Tombstone>,
    lifetimes: &LifetimePolicy,
) -> Option<i64> {
    let times = [
        mark.map(|mark| mark.time),
        tombstone.map(|tombstone| tombstone.time),
    ];
    let last = times.into_iter().flatten();
    let last = last.map(|time| time.unwrap_or(validated)).max()?;
    let distance = validated.0.saturating_sub(last.0);
    let trust = lifetimes.trust(u64::try_from(distance).unwrap_or_default())?;
    Some(i64::try_from(trust).unwrap_or(i64::MAX))
}

pub(crate) fn has_ended(expires_at: Option<DateTime<Utc>>, wall: i64) -> bool {
    expires_at.is_some_and(|at| wall_micros(at) <= wall)
}

/// Whether nothing was revoked since the validation of the session began, however old the session
/// is.
pub(crate) fn is_unrevoked(provenance: &Provenance, state: &RevocationState, run: &str) -> bool {
    !state.tombstone.as_ref().is_some_and(Tombstone::refuses)
        && is_unchanged(provenance, state, run)
}

/// Whether nothing was revoked since the validation of the session began, as far as the server
/// knows that has taken the place of the one that stored it. A mark or tombstone that has vanished
/// is no change here, because the server may have lost it.
pub(crate) fn is_unrevoked_after_restart(
    provenance: &Provenance,
    state: &RevocationState,
    run: &str,
) -> bool {
    let mark = state.mark.as_ref().map(|mark| mark.text.as_str());
    let tombstone = state.tombstone.as_ref();
    let text = tombstone.map(|tombstone| tombstone.text.as_str());
    *provenance.run != *run
        && !tombstone.is_some_and(Tombstone::refuses)
        && (mark.is_none() || mark == provenance.seen_mark.as_deref())
        && (text.is_none() || text == provenance.seen_tomb.as_deref())
}

/// Compares byte for byte. A mark or tombstone that has vanished is a change, too.
fn is_unchanged(provenance: &Provenance, state: &RevocationState, run: &str) -> bool {
    *provenance.run == *run
        && provenance.seen_mark.as_deref() == state.mark.as_ref().map(|mark| mark.text.as_str())
        && provenance.seen_tomb.as_deref()
            == state
                .tombstone
                .as_ref()
                .map(|tombstone| tombstone.text.as_str())
}

fn is_after(since: Timestamp, revoked: Option<Option<Timestamp>>) -> bool {
    match revoked {
        None => true,
        Some(Some(at)) => since > at.plus(CLOCK_SKEW_TOLERANCE),
        Some(None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserData;
    use crate::protocol::revocation::RevocationMark;

    const NOW: Timestamp = Timestamp(1_732_444_800_000_000);
    const TTL: i64 = 300_000_000;

    /// Trusts every result for the whole TTL.
    fn lifetimes() -> LifetimePolicy {
        lifetimes_with_lag(0)
    }

    fn lifetimes_with_lag(lag: u64) -> LifetimePolicy {
        LifetimePolicy::new(TTL.unsigned_abs(), 100, lag)
    }

    fn context() -> ReadContext {
        ReadContext {
            time: NOW,
            wall: NOW.0,
            run_id: "r1".into(),
            trust_floor: Timestamp(0),
        }
    }

    fn record(cached_at: Timestamp, provenance: Option<Provenance>) -> Record {
        Record {
            user: UserData::new("ada"),
            expires_at: None,
            cached_at,
            provenance,
        }
    }

    fn ours(fence: Timestamp, mark: Option<&str>, tombstone: Option<&str>) -> Record {
        let provenance = Provenance {
            fence,
            seen_tomb: tombstone.map(str::to_owned),
            seen_mark: mark.map(str::to_owned),
            run: "r1".to_owned(),
        };
        record(fence.minus(CLOCK_SKEW_TOLERANCE), Some(provenance))
    }

    fn revocations(mark: Option<&str>, tombstone: Option<&str>) -> RevocationState {
        RevocationState {
            tombstone: tombstone.map(|text| Tombstone::parse(text.as_bytes())),
            mark: mark.map(|text| RevocationMark::parse(text.as_bytes())),
        }
    }

    fn served(record: &Record, state: &RevocationState) -> bool {
        is_acceptable(record, state, &context(), &lifetimes())
    }

    #[test]
    fn native_record_is_served_while_mark_and_tombstone_match() {
        let (mark, tombstone) = ("1732444799.999999", "1732444799.999999:forget:1");
        for (seen_mark, seen_tomb) in [
            (None, None),
            (Some(mark), None),
            (None, Some(tombstone)),
            (Some(mark), Some(tombstone)),
        ] {
            let record = ours(NOW, seen_mark, seen_tomb);
            assert!(served(&record, &revocations(seen_mark, seen_tomb)));
            for (mark, tombstone) in [
                (Some("1732444799.99999"), seen_tomb),
                (seen_mark, Some("1732444799.999999:forget:2")),
                (Some("garbage"), seen_tomb),
                (seen_mark, Some("garbage")),
            ] {
                assert!(!served(&record, &revocations(mark, tombstone)));
            }
            assert_eq!(
                served(&record, &revocations(None, seen_tomb)),
                seen_mark.is_none(),
                "vanished"
            );
            assert_eq!(
                served(&record, &revocations(seen_mark, None)),
                seen_tomb.is_none(),
                "vanished"
            );
        }
    }

    #[test]
    fn revoking_tombstone_rejects_even_if_it_was_seen() {
        let tombstone = Some("1732444700.000000:refuse:1");
        assert!(!served(
            &ours(NOW, None, tombstone),
            &revocations(None, tombstone)
        ));
        assert!(
            Tombstone::parse(b"garbage:refuse:1").refuses(),
            "in doubt, reject"
        );
    }

    #[test]
    fn age_and_expiry_limit_every_record() {
        let oldest = NOW.minus(TTL + CLOCK_SKEW_TOLERANCE);
        for record_of in [|at| ours(at, None, None), |at| record(at, None)] {
            let none = RevocationState::default();
            assert!(served(&record_of(oldest), &none));
            assert!(!served(&record_of(oldest.minus(1)), &none));
            let mut ends = record_of(NOW);
            ends.expires_at = DateTime::from_timestamp_micros(NOW.0 + 1);
            assert!(served(&ends, &none));
            ends.expires_at = DateTime::from_timestamp_micros(NOW.0);
            assert!(!served(&ends, &none));
        }
    }

    #[test]
    fn other_run_id_and_trust_floor_reject_older_records() {
        let none = RevocationState::default();
        let other = ReadContext {
            run_id: "r2".into(),
            ..context()
        };
        assert!(!is_acceptable(
            &ours(NOW, None, None),
            &none,
            &other,
            &lifetimes()
        ));
        let trust_floor = ReadContext {
            trust_floor: NOW.minus(10),
            ..context()
        };
        let theirs = |at| record(at, None);
        assert!(!is_acceptable(
            &theirs(NOW.minus(10)),
            &none,
            &trust_floor,
            &lifetimes()
        ));
        assert!(is_acceptable(
            &theirs(NOW.minus(9)),
            &none,
            &trust_floor,
            &lifetimes()
        ));
    }

    #[test]
    fn server_after_a_restart_may_have_lost_revocations_but_know_no_new_ones() {
        let (mark, tombstone) = ("1732444799.999999", "1732444799.999999:forget:1");
        let bridged = |seen: (Option<&str>, Option<&str>), now: (Option<&str>, Option<&str>)| {
            let provenance = ours(NOW, seen.0, seen.1).provenance.unwrap();
            let state = revocations(now.0, now.1);
            assert!(!is_unrevoked_after_restart(&provenance, &state, "r1"));
            is_unrevoked_after_restart(&provenance, &state, "r2")
        };
        let none = (None, None);
        for seen in [none, (Some(mark), None), (None, Some(tombstone))] {
            assert!(bridged(seen, seen), "unchanged");
            assert!(bridged(seen, none), "lost");
            for now in [
                (Some("1732444799.99999"), None),
                (Some("garbage"), None),
                (None, Some("1732444799.999999:forget:2")),
                (None, Some("1732444799.999999:refuse:1")),
                (None, Some("garbage")),
            ] {
                assert!(!bridged(seen, now), "{seen:?} {now:?}");
            }
        }
        let refused = (None, Some("1732444799.999999:refuse:1"));
        assert!(!bridged(refused, refused));
    }

    #[test]
    fn foreign_record_must_be_newer_than_mark_and_tombstone() {
        let (mark, tombstone) = (
            Some("1732444790.000000"),
            Some("1732444790.000000:forget:1"),
        );
        let edge = Timestamp(1_732_444_795_000_000);
        for revocations in [revocations(mark, None), revocations(None, tombstone)] {
            assert!(
                !served(&record(edge, None), &revocations),
                "equality rejects"
            );
            assert!(served(&record(edge.plus(1), None), &revocations));
        }
        assert!(!served(&record(NOW, None), &revocations(Some("nan"), None)));
        assert!(!served(
            &record(NOW, None),
            &revocations(None, Some("garbage"))
        ));
        assert!(!served(
            &record(NOW, None),
            &revocations(None, Some("1.0:perhaps:1"))
        ));
        assert!(served(
            &record(NOW.plus(CLOCK_SKEW_TOLERANCE), None),
            &RevocationState::default()
        ));
        assert!(
            !served(
                &record(NOW.plus(CLOCK_SKEW_TOLERANCE + 1), None),
                &RevocationState::default()
            ),
            "from the future"
        );
    }

    #[test]
    fn young_record_is_trusted_for_its_distance_from_the_revocation() {
        const SECOND: i64 = 1_000_000;
        let lifetimes = lifetimes_with_lag(TTL.unsigned_abs());
        let acceptable = |record: &Record, state: &RevocationState, at: Timestamp| {
            let context = ReadContext {
                time: at,
                ..context()
            };
            is_acceptable(record, state, &context, &lifetimes)
        };
        let none = RevocationState::default();
        assert_eq!(
            trusted_until(&ours(NOW, None, None), &none, &lifetimes),
            None
        );
        // Seconds between the revocation and the validation, and for how many the result is trusted.
        for (distance, trust) in [(0, 1), (1, 1), (2, 2), (60, 60), (299, 299), (-3, 1)] {
            let time = NOW.minus(distance * SECOND).to_string();
            let tombstone = format!("{time}:forget:1");
            for (mark, tombstone) in [(Some(&*time), None), (None, Some(&*tombstone))] {
                let state = revocations(mark, tombstone);
                let record = ours(NOW, mark, tombstone);
                let until = NOW.plus(trust * SECOND);
                assert!(acceptable(&record, &state, until.minus(1)), "{distance} s");
                assert!(!acceptable(&record, &state, until), "{distance} s");
            }
            if distance > 0 {
                // Its validation began up to 5 seconds before it was stored.
                let state = revocations(Some(&time), None);
                let record = record(NOW.plus(CLOCK_SKEW_TOLERANCE), None);
                let until = NOW.plus(trust * SECOND);
                let is_served = acceptable(&record, &state, until.minus(1));
                // It must not be from the future either.
                assert!(is_served, "{distance} s");
                assert!(!acceptable(&record, &state, until), "{distance} s");
            }
        }
        // The later one of two revocations counts.
        let times = [300, 2].map(|age| NOW.minus(age * SECOND).to_string());
        let tombstone = format!("{}:forget:1", times[1]);
        let state = revocations(Some(&times[0]), Some(&tombstone));
        let record = ours(NOW, Some(&times[0]), Some(&tombstone));
        let trusted = trusted_until(&record, &state, &lifetimes);
        assert_eq!(trusted, Some(NOW.plus(2 * SECOND)));
        // In doubt, the revocation was just written.
        let state = revocations(Some("garbage"), None);
        let record = ours(NOW, Some("garbage"), None);
        let trusted = trusted_until(&record, &state, &lifetimes);
        assert_eq!(trusted, Some(NOW.plus(SECOND)));
        // Beyond the lag, only the TTL limits a record.
        let old = NOW.minus(TTL).to_string();
        let state = revocations(Some(&old), None);
        let record = ours(NOW, Some(&old), None);
        assert_eq!(trusted_until(&record, &state, &lifetimes), None);
    }
}
