//! What the model remembers: Redis, the provider, two nodes with their leaders, and who waits.
//!
//! Names are those of the crate. Everything is small and `Copy`-like, since millions of states
//! are made. Time counts in ticks, and a tick has [`MICROS`] microseconds, so that a stamp can be
//! later than another within a tick.

pub const NODES: usize = 2;
pub const TOKENS: usize = 2;
pub const REQUESTS: usize = 3;
pub const REVOCATIONS: usize = 3;
pub const MICROS: u16 = 16;

/// The version of a token that no validation reaches: it may not be served at all.
pub const FORBIDDEN: u8 = u8::MAX;

/// How often the provider has changed what a token stands for: what a request must not miss.
pub type Version = u8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u16);

impl Timestamp {
    pub fn at(tick: u8) -> Self {
        // Far from zero, so that subtracting slack loses nothing.
        Self((u16::from(tick) + 64) * MICROS)
    }

    pub fn plus(self, ticks: u8) -> Self {
        Self(self.0 + u16::from(ticks) * MICROS)
    }

    pub fn minus(self, ticks: u8) -> Self {
        Self(self.0 - u16::from(ticks) * MICROS)
    }
}

/// `<time>:<verdict>:<nonce>`; equal if all of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tombstone {
    pub time: Timestamp,
    pub refuses: bool,
    pub nonce: u8,
}

pub type Mark = Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Provenance {
    pub fence: Timestamp,
    pub seen_tomb: Option<Tombstone>,
    pub seen_mark: Option<Mark>,
    pub run: u8,
    /// Of the cluster's primary that holds the mark.
    pub mark_run: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// What was validated; no node can see it.
    pub version: Version,
    pub cached_at: Timestamp,
    /// Only in records of ours.
    pub provenance: Option<Provenance>,
}

/// A value and the tick at which its key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<T>(pub T, pub u8);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data {
    pub records: [Option<Key<Record>>; TOKENS],
    pub tombs: [Option<Key<Tombstone>>; TOKENS],
    pub mark: Option<Key<Mark>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    pub data: Data,
    /// Counts restarts, failovers and whatever else loses data.
    pub run: u8,
    /// The same of the cluster's primary that holds the mark; what is the token's is on another.
    pub mark_run: u8,
    pub nonces: u8,
    /// What a crash brings back.
    pub snapshot: Option<Data>,
    /// A command whose caller has stopped waiting for it.
    pub pipe: Option<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Revoke(Revoke),
    Fill {
        token: u8,
        seen: LookupSnapshot,
        version: Version,
        ttl: u8,
        run: u8,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Provider {
    pub versions: [Version; TOKENS],
    /// Logged out, and refused by the provider, too.
    pub dead: [bool; TOKENS],
}

/// What had been revoked in this process when a lookup began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MarkSnapshot {
    Unread,
    Read(Option<Mark>),
}

/// What a lookup saw in Redis, or the re-check of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupSnapshot {
    pub run: u8,
    pub fence: Timestamp,
    pub tomb: Option<Tombstone>,
    pub mark: MarkSnapshot,
    /// Of the primary that told the mark; as it was when the lookup began that read none.
    pub mark_run: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RedisSnapshot {
    Disabled,
    Unavailable,
    Taken(LookupSnapshot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    pub seen: Generation,
    pub snapshot: RedisSnapshot,
}

/// The replies that the cluster's lookup waits for, each of a moment of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replies {
    pub record: Option<Option<Record>>,
    pub tomb: Option<Option<Tombstone>>,
    /// With the run of the primary that told it.
    pub mark: Option<(Option<Mark>, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Found {
    Record(Record),
    Nothing(LookupSnapshot),
    Refused,
    Unanswered,
}

/// A lookup on its way (`SessionCache::lookup`, and `ask` if it does not serve).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Look {
    Sent {
        seen: Generation,
        /// By this process's clock.
        began: u8,
        serve: bool,
        /// The run of the mark's primary when it began.
        turn: u8,
        replies: Replies,
    },
    Heard {
        seen: Generation,
        began: u8,
        found: Found,
    },
    /// The denials were asked; the stripes are next.
    Undenied { seen: Generation, record: Record },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    Hit(Record),
    Miss(Ticket),
    Revoked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Open,
    Validating,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Served(Version),
    /// From a record rather than from a validation.
    Cached(Record),
    Denied,
}

/// Where the task of a leader is (`Resolver::lead`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next leader's own lookup has yet to begin.
    Begins,
    OwnLookup(Look),
    Hit(Outcome),
    Closing,
    LooksAgain(Look),
    HasTicket(Ticket),
    Validates {
        ticket: Ticket,
        again: bool,
    },
    Validated {
        ticket: Ticket,
        version: Version,
        again: bool,
    },
    Checks {
        ticket: Ticket,
        version: Version,
        again: bool,
    },
    /// This process's revocations said that it was overtaken.
    Asks {
        look: Look,
        version: Version,
        again: bool,
    },
    Fills {
        ticket: Ticket,
        /// The sequence as it stood at the local check.
        now: Generation,
        version: Version,
        again: bool,
        /// The cluster's re-check of the mark has found this.
        mark: Option<(Option<Mark>, u8)>,
    },
    Completes {
        outcome: Outcome,
        is_checked: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    pub phase: Phase,
    pub step: Step,
    /// Somebody waits for the next one; with the guard off, the ticket of who came first.
    pub next: Option<Ticket>,
}

/// What a request may rely on, noted when it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Floor {
    /// Nothing older may be served.
    pub strict: Version,
    /// Something older is a limit that is met, not a broken promise.
    pub limit: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    /// It noted a leader's completion or not, as `completions` tells.
    Looks {
        look: Look,
        is_fresh: bool,
    },
    HasTicket {
        ticket: Ticket,
        is_fresh: bool,
    },
    Waits {
        is_early: bool,
        for_next: bool,
    },
    StartsAgain,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    #[default]
    Unborn,
    Asks {
        node: u8,
        token: u8,
        floor: Floor,
        ask: Ask,
    },
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revoke {
    /// A token, and whether it is refused from now on.
    Token(u8, bool),
    User,
}

/// A revocation on its way (`cache/revoke.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Revoking {
    #[default]
    Idle,
    /// The provider knows; this is what it will say from now on.
    Told([Version; TOKENS]),
    /// Redis knows.
    Written([Version; TOKENS]),
    Unanswered([Version; TOKENS]),
    /// The denial stands.
    Queued([Version; TOKENS]),
    /// The sequence counts it, the stripe does not yet.
    Counted {
        versions: [Version; TOKENS],
        number: u8,
        is_queued: bool,
    },
    Returns {
        versions: [Version; TOKENS],
        is_queued: bool,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RevocationQueue {
    pub what: Revoke,
    pub versions: [Version; TOKENS],
    pub until: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Delivering {
    #[default]
    Next,
    Written {
        given_up: bool,
    },
    Counted {
        number: u8,
        given_up: bool,
    },
    Applied {
        given_up: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub version: Version,
    pub seen: Generation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    pub sequence: u8,
    pub token_stripes: [u8; TOKENS],
    pub user_stripe: u8,
    pub verdicts: [bool; TOKENS],
    pub queue: [Option<RevocationQueue>; 2],
    pub delivering: Delivering,
    pub nothing_until: u8,
    pub leaders: [Option<Leader>; TOKENS],
    /// Of a cache without Redis.
    pub entries: [Option<Entry>; TOKENS],
    pub known_run: Option<u8>,
    pub floor: Timestamp,
    /// Redis does not answer this node.
    pub is_cut: bool,
    /// What requests to this node may rely on, beyond what holds everywhere.
    pub here: [Version; TOKENS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerRequest {
    #[default]
    Unborn,
    /// It has the record, and asks for the mark.
    Read {
        record: Record,
        floor: Floor,
        at: u8,
    },
    Validates,
    Validated {
        version: Version,
        at: u8,
    },
    Stamped {
        version: Version,
        cached_at: Timestamp,
    },
    Answered,
}

/// What revocations have promised so far; nobody in the system can see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    pub everywhere: [Version; TOKENS],
    /// Promised only after a while, and the tick from which that while counts.
    pub limits: [(Version, u8); TOKENS],
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    pub cuts: u8,
    pub crashes: u8,
    pub losses: u8,
    pub snapshots: u8,
    pub evictions: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub time: u8,
    pub redis: Redis,
    pub provider: Provider,
    pub nodes: [Node; NODES],
    pub requests: [Request; REQUESTS],
    pub revocations: [Revoking; REVOCATIONS],
    pub peer: [PeerRequest; 2],
    pub ghost: Ghost,
    pub left: Left,
}
