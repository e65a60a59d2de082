//! What lookups and fills in Redis come to.

use crate::{
    coherence::Served,
    protocol::{Beside, Mark, Stamp, Tomb},
    redis::topology::{Looked, Run},
};

/// What a lookup found in Redis.
pub(crate) enum Found {
    Record(Served),
    Nothing(Box<Seen>),
    Refused,
    Unanswered,
}

/// What a lookup saw, or the re-check of a fill.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The run of the servers that were looked at.
    pub(crate) run: Run,
    pub(crate) fence: Stamp,
    pub(crate) tomb: Option<Tomb>,
    pub(crate) mark: SeenMark,
    /// The record of the namespace that stood there, whether it could be served or not.
    pub(crate) standing: Option<Vec<u8>>,
    /// Whether a fill may replace that very record and no other.
    pub(crate) replaces_standing: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum SeenMark {
    /// Nobody knew whose the token is.
    Unread,
    Read {
        name: String,
        mark: Option<Mark>,
    },
}

/// Which standing record the fill after a lookup may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replace {
    /// Any that is not newer.
    Any,
    /// The very one that the lookup found.
    ThatOne,
}

/// What became of a session that was to be stored in Redis.
pub(crate) enum Filled {
    Stored,
    /// A newer record stands there, or Redis holds garbage.
    Skipped,
    Moved(Box<Seen>),
    Refused,
    Unanswered,
}

impl Found {
    /// What a lookup comes to that may serve nothing of what it saw.
    pub(crate) fn unusable(
        looked: Looked,
        fence: Stamp,
        mark_name: Option<String>,
        standing: Option<Vec<u8>>,
        replace: Option<Replace>,
    ) -> Self {
        let Beside { tomb, mark } = looked.beside;
        if tomb.as_ref().is_some_and(Tomb::refuses) {
            return Self::Refused;
        }
        Self::Nothing(Box::new(Seen {
            run: looked.run,
            fence,
            tomb,
            mark: match mark_name {
                Some(name) => SeenMark::Read { name, mark },
                None => SeenMark::Unread,
            },
            replaces_standing: standing.is_some() && replace == Some(Replace::ThatOne),
            standing,
        }))
    }
}

impl Seen {
    /// What the re-check of a fill saw instead.
    pub(crate) fn moved(
        &self,
        fence: Stamp,
        run: Run,
        beside: Beside,
        mark_name: String,
    ) -> Filled {
        let Beside { tomb, mark } = beside;
        Filled::Moved(Box::new(Self {
            run,
            fence,
            tomb,
            mark: SeenMark::Read {
                name: mark_name,
                mark,
            },
            standing: self.standing.clone(),
            replaces_standing: self.replaces_standing,
        }))
    }
}
