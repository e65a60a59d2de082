//! State of the model: Redis, the provider, two nodes with their leaders, and the requests.
//!
//! Names are those of the crate. All types are small and `Copy`, because millions of states
//! are created. Time counts in ticks, and a tick has [`MICROS`] microseconds, so that one timestamp
//! can be later than another within a tick.

pub const NODES: usize = 2;
pub const TOKENS: usize = 2;
pub const REQUESTS: usize = 3;
pub const REVOCATIONS: usize = 3;
pub const MICROS: u16 = 16;

/// Version of a token that no validation reaches. The token must not be served at all.
pub const FORBIDDEN: u8 = u8::MAX;

/// Number of changes that the provider has made to the session of a token. A request must not miss
/// a change.
pub type Version = u8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u16);

impl Timestamp {
    pub fn at(tick: u8) -> Self {
        // Far from zero, so that subtracting slack does not underflow.
        Self((u16::from(tick) + 64) * MICROS)
    }

    pub fn plus(self, ticks: u8) -> Self {
        Self(self.0 + u16::from(ticks) * MICROS)
    }

    pub fn minus(self, ticks: u8) -> Self {
        Self(self.0 - u16::from(ticks) * MICROS)
    }
}

/// Tombstone `<time>:<kind>:<nonce>`. Two are equal only if all parts are.
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
    /// Run ID of the cluster's primary that holds the mark.
    pub mark_run: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// Version that was validated. No node can read it.
    pub version: Version,
    pub cached_at: Timestamp,
    /// Present only in native records.
    pub provenance: Option<Provenance>,
}

/// Rejection by the provider that nodes share. Its key outlasts its use, because the next one is used
/// for twice as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rejection {
    /// Time of the lookup before the validation.
    pub fence: Timestamp,
    /// First tick in which it is not used any more.
    pub until: u8,
    pub wait: u8,
}

/// Value, and the tick at which its key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<T>(pub T, pub u8);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data {
    pub records: [Option<Key<Record>>; TOKENS],
    pub tombs: [Option<Key<Tombstone>>; TOKENS],
    pub mark: Option<Key<Mark>>,
    /// Set when the session has ended. It is the session of the first [`Bounds::session`] tokens.
    ///
    /// [`Bounds::session`]: crate::Bounds::session
    pub ended: Option<Key<()>>,
    /// Set if the name of the user's mark is in the set of the session. All tokens have one user.
    pub names: Option<Key<()>>,
    pub ban: Option<Key<()>>,
    pub rejections: [Option<Key<Rejection>>; TOKENS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    pub data: Data,
    /// Counts restarts, failovers and other events that lose data.
    pub run: u8,
    /// The same count for the cluster's primary that holds the mark. The keys of the token are on
    /// another primary.
    pub mark_run: u8,
    pub nonces: u8,
    /// Data that is restored after a crash.
    pub snapshot: Option<Data>,
    /// Command whose caller has timed out.
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
    /// Last tick in which it may reply as before the last change of a token.
    pub late_until: [u8; TOKENS],
    /// Tokens that were logged out and that the provider rejects, too.
    pub dead: [bool; TOKENS],
}

/// Sequence number of the revocations in this process, as read when a lookup began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MarkSnapshot {
    Unread,
    Read(Option<Mark>),
}

/// What a lookup, or the re-check of a fill, read in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupSnapshot {
    pub run: u8,
    pub fence: Timestamp,
    pub tomb: Option<Tombstone>,
    pub mark: MarkSnapshot,
    /// Run ID of the primary that sent the mark. If the lookup read no mark, the run ID at the
    /// start of the lookup.
    pub mark_run: u8,
    /// How long the last shared rejection was used. Zero if there was none.
    pub last_wait: u8,
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

/// Replies that a lookup on a cluster waits for, each read at a different time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replies {
    pub record: Option<Option<Record>>,
    pub tomb: Option<Option<Tombstone>>,
    /// Includes the run ID of the primary that sent it.
    pub mark: Option<(Option<Mark>, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Found {
    Record(Record),
    Nothing(LookupSnapshot),
    Refused,
    /// Nothing usable, but the provider has just rejected the token on some node.
    Rejected,
    Unanswered,
}

/// Lookup in progress (`Store::lookup`, or `Store::take_ticket` if it does not serve).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Look {
    Sent {
        seen: Generation,
        /// By the clock of this process.
        began: u8,
        serve: bool,
        refused: Timestamp,
        /// Run ID of the primary of the mark when the lookup began.
        turn: u8,
        replies: Replies,
    },
    Heard {
        seen: Generation,
        began: u8,
        /// Records up to this time are older than a refusal. Zero if the provider has refused
        /// nothing.
        refused: Timestamp,
        found: Found,
    },
    /// The denials were checked. The stripes are compared next.
    Undenied { seen: Generation, record: Record },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    Hit(Record),
    Miss(Ticket),
    Revoked,
    /// Another node knows that the provider has just rejected the token.
    Rejected,
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
    /// Served from a validation, while Redis did not reply.
    Unchecked(Version),
    /// Served from a record rather than from a validation.
    Cached(Record),
    Denied,
    /// Rejected by the provider, at this version.
    Rejected(Version),
    /// Rejected because the provider has rejected the token on some node.
    Shared,
}

/// Progress of a leader's task (`Resolver::lead`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next leader has not started its own lookup yet.
    Begins,
    OwnLookup(Look),
    Hit(Outcome),
    Closing,
    LooksAgain(Look),
    HasTicket(Ticket),
    /// A refresh that another node has reserved. The leader is closed, and asks next whether a
    /// request waits.
    GivesUp(Ticket),
    /// The provider has rejected the token. This is shared next.
    Shares {
        seen: LookupSnapshot,
        /// When the provider replied.
        at: u8,
        outcome: Outcome,
    },
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
    /// The stripes have changed since the validation's lookup, so Redis is read again.
    Asks {
        look: Look,
        version: Version,
        again: bool,
    },
    Fills {
        ticket: Ticket,
        /// The sequence at the time of the local check.
        now: Generation,
        version: Version,
        again: bool,
        cluster: ClusterFill,
    },
    /// The result is not stored, so Redis is only asked whether it may be served.
    Confirms {
        version: Version,
    },
    Completes {
        outcome: Outcome,
        is_checked: bool,
    },
}

/// Steps of a fill on a cluster that are done before its transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClusterFill {
    /// The name of the mark is in the set of the session, which has not ended.
    pub has_joined: bool,
    /// The user was not banned.
    pub has_read_ban: bool,
    /// Result of the re-check of the mark.
    pub mark: Option<(Option<Mark>, u8)>,
    /// The record is stored. The fill joins only now if a guard is off.
    pub is_stored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    pub phase: Phase,
    pub step: Step,
    /// Set if a request waits for the next leader. With the guard off, the next leader uses this
    /// ticket, which is that of the first such request.
    pub next: Option<Ticket>,
    /// Whether it was started without a request.
    pub is_refresh: bool,
}

/// Whether a request must be refused because of its session or its user, although the provider
/// accepts the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    #[default]
    None,
    /// Redis knows of it. While Redis does not reply, only the provider can refuse.
    InRedis,
    /// This node knows of it.
    Here,
}

/// What a request may rely on, recorded when it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Floor {
    /// Serving an older version violates the guarantee.
    pub strict: Version,
    /// Serving an older version reaches a limit, but does not violate the guarantee.
    pub limit: Version,
    pub ended: Refusal,
    pub banned: Refusal,
    /// Whether a ban or a revocation was taken back, so that the request must be served.
    pub is_lifted: bool,
    /// Whether a rejection from before the request must not be its outcome.
    pub must_ask: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    /// `is_fresh` is `false` if a leader has completed since the lookup began.
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
    /// Token, and whether it is rejected from now on.
    Token(u8, bool),
    User,
    /// Ends the session.
    Session,
    /// Refuses the token, ends its session and invalidates the user.
    LogOut(u8),
    Ban,
    LiftBan,
    LiftToken(u8),
}

/// Revocation in progress (`cache/revoke.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Revoking {
    #[default]
    Idle,
    /// The provider has made the change. These are its versions from now on. The next write to
    /// Redis is `write`.
    Notified {
        versions: [Version; TOKENS],
        write: Write,
    },
    /// Redis has the revocation.
    Written([Version; TOKENS]),
    Unanswered([Version; TOKENS]),
    /// The denial is in force.
    Queued([Version; TOKENS]),
    /// The sequence includes the revocation, the stripe does not yet.
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

/// Write to Redis of a revocation that takes several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Write {
    pub number: u8,
    /// Whether the session's set contained the name of the mark.
    pub has_name: bool,
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
    /// The first writes of several are in Redis.
    Writes(Write),
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
    /// Entries of a cache without Redis.
    pub entries: [Option<Entry>; TOKENS],
    pub known_run: Option<u8>,
    pub floor: Timestamp,
    /// Redis is unavailable to this node.
    pub is_cut: bool,
    /// What requests to this node may rely on, in addition to what holds on all nodes.
    pub here: [Version; TOKENS],
    pub ended_here: bool,
    pub banned_here: bool,
    /// This process's list of ended sessions contains the session.
    pub ended: bool,
    /// Times at which the provider has rejected a token that may still have a record.
    pub refusals: [Option<Timestamp>; TOKENS],
    /// The latest refusal for which there was no space.
    pub refusal_floor: Timestamp,
    /// When this process has last revoked a user.
    pub revoked_user_at: Option<u8>,
    /// This node has revoked a user since the provider accepts the token again.
    pub must_ask: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerRequest {
    #[default]
    Unborn,
    /// The Python service has read the record, and reads the mark next.
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

/// What ends the shared rejection of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wavering {
    /// When the provider has last rejected the token.
    pub rejected_at: Option<u8>,
    /// It has done so again, after the time of a rejection had passed.
    pub is_repeated: bool,
    /// The provider accepts the token again, and its session was stored.
    pub is_stored: bool,
    /// The token was invalidated since then, and the call has returned.
    pub is_renewed: bool,
}

/// What revocations have guaranteed so far. No part of the modeled system can read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    pub everywhere: [Version; TOKENS],
    /// Versions that are guaranteed only after a delay (`Ticks::bound`), and the tick at which the
    /// delay starts.
    pub limits: [(Version, u8); TOKENS],
    /// The session has ended, although the provider accepts its tokens.
    pub ended: bool,
    pub banned: bool,
    pub is_lifted: bool,
    /// A revocation overlapped with the one that takes it back, so that their order is unknown.
    pub is_disputed: bool,
    /// Redis has lost the names of a session.
    pub has_lost_names: bool,
    pub wavering: [Wavering; TOKENS],
}

/// Number of faults that may still occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    pub cuts: u8,
    pub crashes: u8,
    pub losses: u8,
    pub snapshots: u8,
    pub evictions: u8,
    /// Refreshes of a session, which no request waits for.
    pub refreshes: u8,
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
