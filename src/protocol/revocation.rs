//! What Redis says of revocations: the tombstone of a token and the mark of a user.

use super::timestamp::Stamp;

/// What stands beside a record in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) tomb: Option<Tomb>,
    pub(crate) mark: Option<Mark>,
}

impl Beside {
    pub(crate) fn parse(tomb: Option<&[u8]>, mark: Option<&[u8]>) -> Self {
        Self {
            tomb: tomb.map(Tomb::parse),
            mark: mark.map(Mark::parse),
        }
    }
}

/// A tombstone: `<time>:<verdict>:<nonce>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tomb {
    pub(crate) text: String,
    pub(crate) time: Option<Stamp>,
    refuses: bool,
}

impl Tomb {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut parts = text.splitn(3, ':');
        let time = parts.next().and_then(|time| Stamp::parse(time.as_bytes()));
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
pub(crate) struct Mark {
    pub(crate) text: String,
    pub(crate) time: Option<Stamp>,
}

impl Mark {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            text: String::from_utf8_lossy(bytes).into_owned(),
            time: Stamp::parse(bytes),
        }
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.time.is_some()
    }

    pub(crate) fn is_before(&self, time: Stamp) -> bool {
        self.time.is_some_and(|at| at < time)
    }
}

/// What a revocation of a token says about later answers of the identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They count.
    Forget,
    /// They do not.
    Refuse,
}
