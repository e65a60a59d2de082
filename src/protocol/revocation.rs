//! Revocations as stored in Redis: the tombstone of a token and the revocation mark of a user.

use std::time::Duration;

use super::timestamp::Timestamp;

/// Tombstone and mark that apply to a record, as they are in Redis.
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

/// Tombstone of a token: `<time>:<kind>:<nonce>`.
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
            // An unreadable tombstone has no time, so that no foreign record counts as newer.
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

/// Revocation mark of a user. The text is kept because only its bytes are compared with what was
/// seen.
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

/// Whether later results of the identity provider count after a revocation of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TombstoneKind {
    /// A later validation counts.
    Invalidate,
    /// A later validation does not count: the token is rejected, for as long as it could be valid.
    Revoke { ttl: Duration },
    /// A later validation counts, also after a `Revoke`.
    Lift,
}
