//! Bounds of one configuration. No configuration covers everything. Each covers one part
//! completely.

use crate::state::{Left, REVOCATIONS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One script reads record, tombstone, mark and time together.
    Standalone,
    /// Each is read separately, and the fill's transaction does not include the mark.
    Cluster,
    /// Without Redis.
    InProcess,
}

/// Revocation that may occur, and the node that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    InvalidateToken {
        node: u8,
        token: u8,
    },
    /// Logout.
    RevokeToken {
        node: u8,
        token: u8,
    },
    /// Reset.
    InvalidateUser {
        node: u8,
    },
    PeerLogout {
        token: u8,
    },
    PeerReset,
}

/// Durations in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    pub end: u8,
    /// The cache TTL of each node.
    pub ttl: [u8; 2],
    pub deadline: u8,
    pub slack: u8,
    /// How far the clocks of the Python service are slow and fast, and how long its validations
    /// take. The sum is slack.
    pub peer_slow: u8,
    pub peer_fast: u8,
    pub peer_takes: u8,
    /// How far the clock of each node is slow.
    pub node_slow: [u8; 2],
    pub tomb_ttl: u8,
    pub max_session_lifetime: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub name: &'static str,
    pub mode: Mode,
    pub nodes: u8,
    /// Number of nodes that receive requests. The others only revoke.
    pub asked: u8,
    pub tokens: u8,
    pub requests: usize,
    pub revocations: [Option<Kind>; REVOCATIONS],
    pub ticks: Ticks,
    pub peer: usize,
    pub left: Left,
    /// Whether Redis may execute a command after its caller has timed out.
    pub has_pipe: bool,
    /// Whether the provider still accepts a token after its logout.
    pub forgives: bool,
    /// Whether known tokens are looked up with `MGET`.
    pub has_hints: bool,
    pub max_queued: usize,
    /// Whether the record of the first token is in Redis from the start.
    pub is_warm: bool,
    /// Whether revocations are made in another namespace, so that the record stays.
    pub is_elsewhere: bool,
    /// Whether Redis loses data without a change of its run ID, as with `FLUSHALL`.
    pub flushes: bool,
    /// Whether nodes may start or restart after Redis has lost data, so that they know no earlier
    /// run ID.
    pub newcomers: bool,
    /// Whether every result must be a session, so that no user is locked out.
    pub must_serve: bool,
}

impl Ticks {
    pub const SHORT: Self = Self {
        end: 0,
        ttl: [4, 4],
        deadline: 1,
        slack: 1,
        peer_slow: 0,
        peer_fast: 0,
        peer_takes: 0,
        node_slow: [0, 0],
        tomb_ttl: 20,
        max_session_lifetime: 20,
    };

    /// Returns the time after a revocation from which this node serves nothing older, whatever
    /// failed.
    pub fn bound(&self, node: usize) -> u8 {
        self.ttl[node] + self.deadline + self.slack
    }
}

impl Bounds {
    pub const BASE: Self = Self {
        name: "base",
        mode: Mode::Standalone,
        nodes: 2,
        asked: 2,
        tokens: 1,
        requests: 2,
        revocations: [None; REVOCATIONS],
        ticks: Ticks::SHORT,
        peer: 0,
        left: Left {
            cuts: 0,
            crashes: 0,
            losses: 0,
            snapshots: 0,
            evictions: 0,
        },
        has_pipe: false,
        forgives: false,
        has_hints: false,
        max_queued: 2,
        is_warm: false,
        is_elsewhere: false,
        flushes: false,
        newcomers: false,
        must_serve: false,
    };
}
