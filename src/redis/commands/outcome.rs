//! Results of lookups and fills in Redis.

use std::fmt;

use crate::{
    coherence::CacheableRecord,
    model::RecordVersion,
    protocol::{
        CLOCK_SKEW_TOLERANCE, LifetimePolicy, RevocationMark, RevocationState, SharedRejection,
        Timestamp, Tombstone, trust,
    },
    redis::topology::{LookupReply, RunIds},
};

/// Result of a lookup in Redis.
pub(crate) enum LookupResult {
    Record(CacheableRecord),
    Miss(Box<LookupSnapshot>),
    Revoked,
    Unavailable,
}

/// State that a lookup, or the re-check of a fill, read from Redis.
#[derive(Clone)]
pub(crate) struct LookupSnapshot {
    /// The run IDs of the servers that were read.
    pub(crate) run_ids: RunIds,
    pub(crate) fence: Timestamp,
    pub(crate) tombstone: Option<Tombstone>,
    pub(crate) mark: MarkSnapshot,
    /// The stored record of the namespace, whether it could be served or not.
    pub(crate) observed: Option<Vec<u8>>,
    /// Whether a fill may replace only that very record.
    pub(crate) replaces_observed: bool,
    pub(crate) reservation: Reservation,
    /// The last rejection by the provider that nodes share. It may not be in use any more.
    pub(crate) rejection: Option<SharedRejection>,
}

/// Without the record, which contains data of the user.
impl fmt::Debug for LookupSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupSnapshot")
            .field("fence", &self.fence)
            .field("reservation", &self.reservation)
            .finish_non_exhaustive()
    }
}

/// Whether the validation of a token is reserved for one of the nodes. A reservation is no proof of
/// anything, and only a reason for other nodes to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reservation {
    /// For no node, or none was requested.
    None,
    ThisNode,
    OtherNode,
}

#[derive(Clone, Debug)]
pub(crate) enum MarkSnapshot {
    /// The mark was not read, because the user of the token was not known.
    Unread,
    Read {
        name: String,
        mark: Option<RevocationMark>,
    },
}

/// Which stored records a lookup may serve, if they are acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serve {
    Any,
    /// Only one that is newer than this. A fill then replaces only the very record that the lookup
    /// found.
    Newer(RecordVersion),
    Nothing,
}

/// Outcome of a fill in Redis.
pub(crate) enum FillReply {
    Stored,
    /// A newer record is stored, or Redis holds unreadable values.
    Skipped,
    Conflict(Box<LookupSnapshot>),
    Denied(Denial),
    Unavailable,
}

/// Why a validated session must be rejected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Denial {
    /// The token was revoked.
    Revoked,
    /// The session was ended, and with it all of its tokens.
    Ended,
    Banned,
}

impl LookupResult {
    /// Returns the result of a lookup that may not serve anything it read.
    pub(crate) fn unusable(
        reply: LookupReply,
        fence: Timestamp,
        mark_name: Option<String>,
        observed: Option<Vec<u8>>,
        serve: Serve,
    ) -> Self {
        let RevocationState { tombstone, mark } = reply.revocations;
        if tombstone.as_ref().is_some_and(Tombstone::refuses) {
            return Self::Revoked;
        }
        Self::Miss(Box::new(LookupSnapshot {
            run_ids: reply.run_ids,
            fence,
            tombstone,
            mark: match mark_name {
                Some(name) => MarkSnapshot::Read { name, mark },
                None => MarkSnapshot::Unread,
            },
            replaces_observed: observed.is_some() && matches!(serve, Serve::Newer(_)),
            observed,
            reservation: Reservation::None,
            rejection: None,
        }))
    }
}

impl LookupSnapshot {
    /// Returns for how many microseconds Redis keeps a record that was validated after this lookup,
    /// or `None` for its TTL.
    ///
    /// This is the trust in the record, but at least the slack: until then a later lookup needs the
    /// record to learn the user, since a mark that it does not read counts as unseen. The Python
    /// service does not use a record that was validated so soon after a mark.
    pub(crate) fn kept_for(&self, lifetimes: &LifetimePolicy) -> Option<i64> {
        let mark = match &self.mark {
            MarkSnapshot::Read { mark, .. } => mark.as_ref(),
            // The fill stores nothing unless the mark is older than the slack, and every lookup
            // compares the trust again.
            MarkSnapshot::Unread => None,
        };
        let trust = trust(self.fence, mark, self.tombstone.as_ref(), lifetimes)?;
        Some(trust.max(CLOCK_SKEW_TOLERANCE))
    }

    /// Returns a conflict with the state that the re-check of a fill read instead.
    pub(crate) fn conflict(
        &self,
        fence: Timestamp,
        run_ids: RunIds,
        revocations: RevocationState,
        mark_name: String,
    ) -> FillReply {
        let RevocationState { tombstone, mark } = revocations;
        FillReply::Conflict(Box::new(Self {
            run_ids,
            fence,
            tombstone,
            mark: MarkSnapshot::Read {
                name: mark_name,
                mark,
            },
            observed: self.observed.clone(),
            replaces_observed: self.replaces_observed,
            reservation: self.reservation,
            rejection: self.rejection,
        }))
    }
}
