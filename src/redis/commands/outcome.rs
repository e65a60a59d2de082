//! What lookups and fills in Redis come to.

use crate::{
    coherence::CacheableRecord,
    protocol::{RevocationMark, RevocationState, Timestamp, Tombstone},
    redis::topology::{LookupReply, RunIds},
};

/// What a lookup found in Redis.
pub(crate) enum LookupResult {
    Record(CacheableRecord),
    Miss(Box<LookupSnapshot>),
    Revoked,
    Unavailable,
}

/// What a lookup saw, or the re-check of a fill.
#[derive(Clone, Debug)]
pub(crate) struct LookupSnapshot {
    /// The run IDs of the servers that were read.
    pub(crate) run_ids: RunIds,
    pub(crate) fence: Timestamp,
    pub(crate) tombstone: Option<Tombstone>,
    pub(crate) mark: MarkSnapshot,
    /// The record of the namespace that stood there, whether it could be served or not.
    pub(crate) observed: Option<Vec<u8>>,
    /// Whether a fill may replace that very record and no other.
    pub(crate) replaces_observed: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum MarkSnapshot {
    /// Nobody knew whose the token is.
    Unread,
    Read {
        name: String,
        mark: Option<RevocationMark>,
    },
}

/// Which standing record the fill after a lookup may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplacePolicy {
    /// Any that is not newer.
    AnyOlder,
    /// The very one that the lookup found.
    Observed,
}

/// What became of a session that was to be stored in Redis.
pub(crate) enum FillReply {
    Stored,
    /// A newer record stands there, or Redis holds garbage.
    Skipped,
    Conflict(Box<LookupSnapshot>),
    Revoked,
    Unavailable,
}

impl LookupResult {
    /// What a lookup comes to that may serve nothing of what it saw.
    pub(crate) fn unusable(
        reply: LookupReply,
        fence: Timestamp,
        mark_name: Option<String>,
        observed: Option<Vec<u8>>,
        replace: Option<ReplacePolicy>,
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
            replaces_observed: observed.is_some() && replace == Some(ReplacePolicy::Observed),
            observed,
        }))
    }
}

impl LookupSnapshot {
    /// What the re-check of a fill saw instead.
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
        }))
    }
}
