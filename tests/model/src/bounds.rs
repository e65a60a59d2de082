//! What one configuration lets happen. None holds everything at once: each has a part, whole.

use crate::state::{Left, REVOCATIONS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One script sees record, tombstone, mark and time together.
    Standalone,
    /// Each is read by itself, and the fill's transaction holds no mark.
    Cluster,
    /// Without Redis.
    InProcess,
}

/// A revocation that may happen, and by whom.
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

/// Numbers of ticks.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    pub end: u8,
    /// The cache TTL of each node.
    pub ttl: [u8; 2],
    pub deadline: u8,
    pub slack: u8,
    /// How far the peer's clocks are off, slow and fast, and how long its validations take. The
    /// sum is slack.
    pub peer_slow: u8,
    pub peer_fast: u8,
    pub peer_takes: u8,
    /// How much the clock of each node is behind.
    pub node_slow: [u8; 2],
    pub tomb_ttl: u8,
    pub max_session_lifetime: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub name: &'static str,
    pub mode: Mode,
    pub nodes: u8,
    /// How many of them are asked; the others only revoke.
    pub asked: u8,
    pub tokens: u8,
    pub requests: usize,
    pub revocations: [Option<Kind>; REVOCATIONS],
    pub ticks: Ticks,
    pub peer: usize,
    pub left: Left,
    /// Whether a command may be carried out after its caller has stopped waiting.
    pub has_pipe: bool,
    /// Whether the provider goes on accepting a token that was logged out.
    pub forgives: bool,
    /// Whether tokens that are known are looked up by `MGET`.
    pub has_hints: bool,
    pub max_queued: usize,
    /// The record of the first token stands in Redis from the beginning.
    pub is_warm: bool,
    /// Whether revocations are made in another namespace, so that the record stays.
    pub is_elsewhere: bool,
    /// What Redis loses is lost without a change of its run, as by `FLUSHALL`.
    pub flushes: bool,
    /// Whether nodes may start, or start again, after Redis has lost data, so that they know of no
    /// earlier run.
    pub newcomers: bool,
    /// Every answer must be a session: nobody is locked out.
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

    /// After so long this node serves nothing from before a revocation, whatever went wrong.
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
