//! Bounds of one configuration. No configuration covers everything. Each covers one part
//! completely.

use crate::state::{Left, REVOCATIONS, Revoke};

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
    EndSession {
        node: u8,
    },
    /// Logout of the session that the token belongs to.
    LogOut {
        node: u8,
        token: u8,
    },
    BanUser {
        node: u8,
    },
    LiftBan {
        node: u8,
    },
    LiftToken {
        node: u8,
        token: u8,
    },
    /// The provider rejects the token and later accepts it again, without a call to the crate.
    ProviderWavers {
        token: u8,
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
    /// How many of the tokens, from the first, belong to one session. The others belong to none.
    pub session: u8,
    pub requests: usize,
    pub revocations: [Option<Kind>; REVOCATIONS],
    /// Whether each revocation starts only after the one before it has returned.
    pub is_ordered: bool,
    pub ticks: Ticks,
    pub peer: usize,
    pub left: Left,
    /// Whether Redis may execute a command after its caller has timed out.
    pub has_pipe: bool,
    /// How long the provider may go on replying as before after a change, in ticks. Zero also turns
    /// the rules off that this takes, as `provider_lag` does.
    pub lag: u8,
    /// Whether the provider still accepts a token after its logout.
    pub forgives: bool,
    /// Whether known tokens are looked up with `MGET`.
    pub has_hints: bool,
    pub max_queued: usize,
    /// How many rejected tokens a node remembers one by one.
    pub max_refusals: usize,
    /// Whether the record of the first token is in Redis from the start.
    pub is_warm: bool,
    /// Whether revocations are made in another namespace, so that the record stays.
    pub is_elsewhere: bool,
    /// Whether Redis loses data without a change of its run ID, as with `FLUSHALL`.
    pub flushes: bool,
    /// Whether a change of the run ID loses nothing, as with a failover to a replica that has all
    /// data.
    pub keeps_data: bool,
    /// Whether nodes may start or restart after Redis has lost data, so that they know no earlier
    /// run ID.
    pub newcomers: bool,
    /// Whether every result must be a session, so that no user is locked out. Tokens of a session
    /// that ends are exempt.
    pub must_serve: bool,
    /// Whether nodes reserve validations. The reservations may be lost, late, stolen, or outlive
    /// their node: a leader that has found nothing may always wait for another node, or go on.
    pub reserves: bool,
    /// How long a rejection by the provider is shared at most, in ticks. Zero if it is not.
    pub negative_ttl: u8,
}

impl Kind {
    /// Returns the node that makes the revocation, and the revocation.
    pub(crate) fn by_node(self) -> Option<(usize, Revoke)> {
        let (node, what) = match self {
            Self::InvalidateToken { node, token } => (node, Revoke::Token(token, false)),
            Self::RevokeToken { node, token } => (node, Revoke::Token(token, true)),
            Self::InvalidateUser { node } => (node, Revoke::User),
            Self::EndSession { node } => (node, Revoke::Session),
            Self::LogOut { node, token } => (node, Revoke::LogOut(token)),
            Self::BanUser { node } => (node, Revoke::Ban),
            Self::LiftBan { node } => (node, Revoke::LiftBan),
            Self::LiftToken { node, token } => (node, Revoke::LiftToken(token)),
            Self::ProviderWavers { .. } | Self::PeerLogout { .. } | Self::PeerReset => return None,
        };
        Some((node.into(), what))
    }
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
    pub(crate) fn is_in_session(&self, token: usize) -> bool {
        token < self.session.into()
    }

    pub(crate) fn has_bans(&self) -> bool {
        let is_ban = |kind: &Option<Kind>| matches!(kind, Some(Kind::BanUser { .. }));
        self.revocations.iter().any(is_ban)
    }

    pub const BASE: Self = Self {
        name: "base",
        mode: Mode::Standalone,
        nodes: 2,
        asked: 2,
        tokens: 1,
        session: 0,
        requests: 2,
        revocations: [None; REVOCATIONS],
        is_ordered: false,
        ticks: Ticks::SHORT,
        peer: 0,
        left: Left {
            cuts: 0,
            crashes: 0,
            losses: 0,
            snapshots: 0,
            evictions: 0,
            refreshes: 0,
        },
        has_pipe: false,
        lag: 0,
        forgives: false,
        has_hints: false,
        max_queued: 2,
        max_refusals: 2,
        is_warm: false,
        is_elsewhere: false,
        flushes: false,
        keeps_data: false,
        newcomers: false,
        must_serve: false,
        reserves: false,
        negative_ttl: 0,
    };
}
