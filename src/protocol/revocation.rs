//! What Redis says of revocations: the tombstone of a token and the mark of a user.

use super::timestamp::Timestamp;

/// What stands beside a record in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RevocationState {
    pub(crate) tombstone: Option<Tombstone>,
    pub(crate) mark: Option<RevocationMark>,
}

impl RevocationState {
    pub(crate) fn parse(tombstone: Option<&[u8]>, mark: Option<&[u8]>) -> Self {
        Self {
            tombstone: tombstone.map(Tombstone::parse),
            mark: mark.map(RevocationMark::parse),
        }
    }
}

/// A tombstone: `<time>:<verdict>:<nonce>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) text: String,
    pub(crate) time: Option<Timestamp>,
    refuses: bool,
}

impl Tombstone {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut parts = text.splitn(3, ':');
        let time = parts
            .next()
            .and_then(|time| Timestamp::parse(time.as_bytes()));
        let verdict = parts.next();
        Self {
            // One that cannot be read is older than nothing.
            time: time.filter(|_| matches!(verdict, Some("forget" | "refuse"))),
            refuses: verdict == Some("refuse"),
            text,
        }
    }

    pub(crate) fn refuses(&self) -> bool {
        self.refuses
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.time.is_some()
    }
}

/// A user's mark, as text since only its bytes are compared with what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevocationMark {
    pub(crate) text: String,
    pub(crate) time: Option<Timestamp>,
}

impl RevocationMark {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            text: String::from_utf8_lossy(bytes).into_owned(),
            time: Timestamp::parse(bytes),
        }
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.time.is_some()
    }

    pub(crate) fn is_before(&self, time: Timestamp) -> bool {
        self.time.is_some_and(|at| at < time)
    }
}

/// What a revocation of a token says about later answers of the identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TombstoneKind {
    /// They count.
    Invalidate,
    /// They do not.
    Revoke,
}
