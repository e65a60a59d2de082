//! Configurations of the model. Together they cover everything that the protocol must handle.

use crate::{
    bounds::{
        Bounds,
        Kind::{InvalidateToken, InvalidateUser, PeerLogout, PeerReset, RevokeToken},
        Mode, Ticks,
    },
    state::Left,
};

const BASE: Bounds = Bounds::BASE;
const NOTHING: Left = BASE.left;

const FORGET_A: Option<crate::bounds::Kind> = Some(InvalidateToken { node: 0, token: 0 });
const FORGET_B: Option<crate::bounds::Kind> = Some(InvalidateToken { node: 1, token: 0 });
const LOGOUT_A: Option<crate::bounds::Kind> = Some(RevokeToken { node: 0, token: 0 });
const RESET_A: Option<crate::bounds::Kind> = Some(InvalidateUser { node: 0 });
const RESET_B: Option<crate::bounds::Kind> = Some(InvalidateUser { node: 1 });

/// A Python service whose clock errors and validations use up all of slack.
const CLOCKS: Ticks = Ticks {
    end: 3,
    ttl: [8, 8],
    deadline: 1,
    slack: 3,
    peer_slow: 1,
    peer_fast: 1,
    peer_takes: 1,
    node_slow: [0, 0],
    tomb_ttl: 20,
    max_session_lifetime: 20,
};

/// Times that are short enough for everything to expire.
const ENDINGS: Ticks = Ticks {
    end: 8,
    ttl: [2, 2],
    deadline: 1,
    slack: 1,
    peer_slow: 0,
    peer_fast: 0,
    peer_takes: 1,
    node_slow: [0, 1],
    tomb_ttl: 5,
    max_session_lifetime: 6,
};

/// Redis is available, and keeps its data.
pub const ANSWERED: &[Bounds] = &[
    Bounds {
        name: "one token is invalidated",
        requests: 3,
        revocations: [FORGET_A, None, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "a user is invalidated",
        requests: 3,
        revocations: [RESET_A, None, None],
        is_warm: true,
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "a logout, and the provider accepts the token again",
        requests: 3,
        revocations: [LOGOUT_A, None, None],
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "a token is invalidated twice",
        revocations: [FORGET_A, FORGET_B, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "a user is invalidated twice",
        revocations: [RESET_A, RESET_B, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "a logout, then an invalidation",
        revocations: [LOGOUT_A, FORGET_B, None],
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "two tokens of a user",
        tokens: 2,
        revocations: [RESET_A, FORGET_B, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "another namespace's record",
        nodes: 1,
        asked: 1,
        revocations: [FORGET_A, None, None],
        is_elsewhere: true,
        is_warm: true,
        must_serve: true,
        ..BASE
    },
];

/// Redis is temporarily unavailable to a node.
pub const UNANSWERED: &[Bounds] = &[
    Bounds {
        name: "Redis unavailable: a token",
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [FORGET_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        has_pipe: true,
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: two nodes and a user",
        revocations: [RESET_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        has_pipe: true,
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: two revocations, a queue of one",
        nodes: 1,
        asked: 1,
        revocations: [LOGOUT_A, FORGET_A, None],
        left: Left { cuts: 1, ..NOTHING },
        max_queued: 1,
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: two users' revocations, a queue of two",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [RESET_A, RESET_A, None],
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: a logout on another node",
        asked: 1,
        requests: 1,
        revocations: [Some(RevokeToken { node: 1, token: 0 }), None, None],
        left: Left { cuts: 1, ..NOTHING },
        forgives: true,
        ..BASE
    },
];

/// Redis or a node restarts and loses its data.
pub const LOST: &[Bounds] = &[
    Bounds {
        name: "lost data: a token",
        revocations: [FORGET_A, None, None],
        left: Left {
            losses: 1,
            snapshots: 1,
            ..NOTHING
        },
        ..BASE
    },
    Bounds {
        name: "lost data: a user",
        revocations: [RESET_A, None, None],
        left: Left {
            losses: 1,
            snapshots: 1,
            ..NOTHING
        },
        ..BASE
    },
    Bounds {
        name: "lost data: the Python service's records",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [Some(PeerReset), None, None],
        ticks: Ticks { end: 3, ..CLOCKS },
        peer: 1,
        left: Left {
            losses: 1,
            snapshots: 1,
            ..NOTHING
        },
        ..BASE
    },
    Bounds {
        name: "a node crashes",
        revocations: [FORGET_A, None, None],
        left: Left {
            crashes: 1,
            cuts: 1,
            ..NOTHING
        },
        ..BASE
    },
];

/// The Python service reads, writes and resets.
pub const PEER: &[Bounds] = &[
    Bounds {
        name: "Python writes, a node invalidates the token",
        asked: 1,
        requests: 1,
        revocations: [FORGET_B, None, None],
        ticks: CLOCKS,
        peer: 1,
        has_hints: true,
        ..BASE
    },
    Bounds {
        name: "Python writes, a node invalidates the user",
        asked: 1,
        requests: 1,
        revocations: [RESET_B, None, None],
        ticks: CLOCKS,
        peer: 1,
        ..BASE
    },
    Bounds {
        name: "Python writes, a node revokes the token",
        requests: 1,
        revocations: [LOGOUT_A, None, None],
        ticks: Ticks { end: 4, ..CLOCKS },
        peer: 1,
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "Python resets",
        nodes: 1,
        asked: 1,
        revocations: [Some(PeerReset), None, None],
        ticks: Ticks { end: 2, ..CLOCKS },
        ..BASE
    },
    Bounds {
        name: "Python resets twice",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [Some(PeerReset), Some(PeerReset), None],
        ticks: Ticks { end: 1, ..CLOCKS },
        peer: 1,
        ..BASE
    },
];

/// Everything that can expire does so.
pub const AGES: &[Bounds] = &[
    Bounds {
        name: "expiry: a token",
        asked: 1,
        requests: 2,
        revocations: [FORGET_B, None, None],
        ticks: ENDINGS,
        ..BASE
    },
    Bounds {
        name: "expiry: a user",
        asked: 1,
        requests: 1,
        revocations: [RESET_B, None, None],
        ticks: ENDINGS,
        peer: 1,
        has_hints: true,
        ..BASE
    },
    Bounds {
        name: "expiry: a logout and an invalidation",
        nodes: 2,
        requests: 1,
        revocations: [LOGOUT_A, FORGET_B, None],
        ticks: ENDINGS,
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "expiry: a queue",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [RESET_A, None, None],
        ticks: Ticks {
            end: 4,
            ttl: [1, 1],
            ..ENDINGS
        },
        left: Left { cuts: 1, ..NOTHING },
        max_queued: 1,
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "expiry: a full queue",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [RESET_A, None, None],
        ticks: Ticks {
            end: 4,
            ttl: [1, 1],
            ..ENDINGS
        },
        left: Left { cuts: 1, ..NOTHING },
        max_queued: 0,
        is_warm: true,
        ..BASE
    },
];

/// Record, tombstone and mark are read one by one.
pub const CLUSTER: &[Bounds] = &[
    Bounds {
        name: "cluster: a token",
        mode: Mode::Cluster,
        revocations: [FORGET_A, None, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "cluster: a user, one node",
        mode: Mode::Cluster,
        nodes: 1,
        asked: 1,
        requests: 3,
        revocations: [RESET_A, None, None],
        is_warm: true,
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "cluster: a user, two nodes",
        mode: Mode::Cluster,
        revocations: [RESET_B, None, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "cluster: a lost mark",
        mode: Mode::Cluster,
        asked: 1,
        revocations: [RESET_B, None, None],
        left: Left {
            losses: 1,
            ..NOTHING
        },
        ..BASE
    },
    Bounds {
        name: "cluster: a logout",
        mode: Mode::Cluster,
        revocations: [LOGOUT_A, None, None],
        forgives: true,
        ..BASE
    },
];

/// Without Redis.
pub const IN_PROCESS: &[Bounds] = &[
    Bounds {
        name: "in process",
        mode: Mode::InProcess,
        nodes: 1,
        asked: 1,
        requests: 3,
        revocations: [FORGET_A, RESET_A, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "in process: a logout",
        mode: Mode::InProcess,
        nodes: 1,
        asked: 1,
        requests: 3,
        revocations: [LOGOUT_A, None, None],
        forgives: true,
        ..BASE
    },
];

/// Where the guarantee does not hold, and for how long.
pub const LIMITS: &[Bounds] = &[
    Bounds {
        name: "limit: Python logs out",
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [Some(PeerLogout { token: 0 }), None, None],
        ticks: Ticks { end: 7, ..ENDINGS },
        ..BASE
    },
    Bounds {
        name: "limit: Python logs out, and its TTL is longer",
        requests: 2,
        revocations: [Some(PeerLogout { token: 0 }), None, None],
        ticks: Ticks {
            end: 5,
            ttl: [1, 4],
            ..ENDINGS
        },
        ..BASE
    },
    Bounds {
        name: "limit: Python writes after its logout",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [Some(PeerLogout { token: 0 }), None, None],
        ticks: Ticks {
            end: 6,
            ttl: [1, 5],
            ..ENDINGS
        },
        peer: 1,
        ..BASE
    },
    Bounds {
        name: "limit: a queued reset, seen from another node",
        requests: 1,
        revocations: [RESET_A, None, None],
        ticks: Ticks {
            end: 5,
            ttl: [1, 1],
            ..ENDINGS
        },
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "limit: Redis is flushed",
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [RESET_A, None, None],
        ticks: Ticks {
            end: 5,
            ttl: [1, 1],
            ..ENDINGS
        },
        left: Left {
            losses: 1,
            ..NOTHING
        },
        flushes: true,
        ..BASE
    },
    Bounds {
        name: "limit: a node starts after Redis has lost data",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [Some(PeerReset), None, None],
        ticks: Ticks {
            end: 5,
            ttl: [1, 1],
            ..ENDINGS
        },
        peer: 1,
        left: Left {
            losses: 1,
            snapshots: 1,
            crashes: 1,
            ..NOTHING
        },
        newcomers: true,
        ..BASE
    },
    Bounds {
        name: "limit: a node crashes with a queue",
        requests: 1,
        revocations: [RESET_A, None, None],
        ticks: Ticks {
            end: 5,
            ttl: [1, 1],
            ..ENDINGS
        },
        left: Left {
            cuts: 1,
            crashes: 1,
            ..NOTHING
        },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "limit: Redis evicts the mark",
        asked: 1,
        requests: 2,
        revocations: [RESET_B, RESET_B, None],
        left: Left {
            evictions: 1,
            ..NOTHING
        },
        ..BASE
    },
    Bounds {
        name: "limit: Redis evicts the tombstone",
        asked: 1,
        requests: 2,
        revocations: [FORGET_B, FORGET_B, None],
        is_elsewhere: true,
        left: Left {
            evictions: 1,
            ..NOTHING
        },
        ..BASE
    },
];

/// All configurations, in groups.
pub const GROUPS: [&[Bounds]; 8] = [
    ANSWERED, UNANSWERED, LOST, PEER, AGES, CLUSTER, IN_PROCESS, LIMITS,
];

/// Returns the configuration with a name.
///
/// # Panics
///
/// If there is no configuration with this name.
pub fn named<'a>(configurations: &'a [Bounds], name: &str) -> &'a Bounds {
    configurations
        .iter()
        .find(|bounds| bounds.name == name)
        .unwrap_or_else(|| panic!("no configuration is named {name}"))
}
