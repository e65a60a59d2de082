//! The configurations: together they cover all that the protocol must bear.

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

/// A peer whose clocks and validations use up all of slack.
const PEERS: Ticks = Ticks {
    end: 3,
    ttl: [8, 8],
    deadline: 1,
    slack: 3,
    peer_slow: 1,
    peer_fast: 1,
    peer_takes: 1,
    node_slow: [0, 0],
    tomb_ttl: 20,
    longest_session: 20,
};

/// Short enough for everything to end.
const AGES: Ticks = Ticks {
    end: 8,
    ttl: [2, 2],
    deadline: 1,
    slack: 1,
    peer_slow: 0,
    peer_fast: 0,
    peer_takes: 1,
    node_slow: [0, 1],
    tomb_ttl: 5,
    longest_session: 6,
};

/// Where the promise holds whatever happens.
pub const PROMISED: &[Bounds] = &[
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
        name: "a logout that the provider forgives",
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
        is_warm: true,
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
        name: "unanswered: a token",
        nodes: 1,
        requests: 2,
        revocations: [FORGET_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        has_pipe: true,
        ..BASE
    },
    Bounds {
        name: "unanswered: two nodes and a user",
        revocations: [RESET_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        has_pipe: true,
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "unanswered: two revocations, a queue of one",
        nodes: 1,
        revocations: [LOGOUT_A, FORGET_A, None],
        left: Left { cuts: 2, ..NOTHING },
        max_queued: 1,
        ..BASE
    },
    Bounds {
        name: "unanswered: two users' revocations, a queue of two",
        nodes: 1,
        revocations: [RESET_A, RESET_A, None],
        left: Left { cuts: 2, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "lost data: a token",
        revocations: [FORGET_A, None, None],
        left: Left { losses: 1, snapshots: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "lost data: a user",
        revocations: [RESET_A, None, None],
        left: Left { losses: 1, snapshots: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "lost data: the peer's records",
        nodes: 1,
        requests: 1,
        revocations: [Some(PeerReset), None, None],
        ticks: Ticks { end: 4, ..PEERS },
        peer: 1,
        left: Left { losses: 1, snapshots: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "a node crashes",
        revocations: [FORGET_A, None, None],
        left: Left { crashes: 1, cuts: 1, ..NOTHING },
        ..BASE
    },
    Bounds {
        name: "the peer writes, we forget",
        requests: 1,
        revocations: [FORGET_A, None, None],
        ticks: PEERS,
        peer: 1,
        has_hints: true,
        ..BASE
    },
    Bounds {
        name: "the peer writes, we reset",
        requests: 1,
        revocations: [RESET_A, None, None],
        ticks: PEERS,
        peer: 2,
        ..BASE
    },
    Bounds {
        name: "the peer writes, we log out",
        requests: 1,
        revocations: [LOGOUT_A, None, None],
        ticks: Ticks { end: 4, ..PEERS },
        peer: 1,
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "the peer resets twice",
        nodes: 1,
        requests: 2,
        revocations: [Some(PeerReset), Some(PeerReset), None],
        ticks: Ticks { end: 1, ..PEERS },
        peer: 1,
        ..BASE
    },
    Bounds {
        name: "ages: a token",
        nodes: 1,
        requests: 2,
        revocations: [FORGET_A, None, None],
        ticks: AGES,
        ..BASE
    },
    Bounds {
        name: "ages: a user",
        nodes: 2,
        requests: 1,
        revocations: [RESET_A, None, None],
        ticks: AGES,
        peer: 1,
        has_hints: true,
        ..BASE
    },
    Bounds {
        name: "ages: a logout and an invalidation",
        nodes: 2,
        requests: 1,
        revocations: [LOGOUT_A, FORGET_B, None],
        ticks: AGES,
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "ages: a queue",
        nodes: 1,
        requests: 1,
        revocations: [RESET_A, RESET_A, None],
        ticks: AGES,
        left: Left { cuts: 1, ..NOTHING },
        max_queued: 1,
        is_warm: true,
        ..BASE
    },
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
        is_warm: true,
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "cluster: a logout",
        mode: Mode::Cluster,
        revocations: [LOGOUT_A, None, None],
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "in process",
        mode: Mode::InProcess,
        nodes: 1,
        requests: 3,
        revocations: [FORGET_A, RESET_A, None],
        must_serve: true,
        ..BASE
    },
    Bounds {
        name: "in process: a logout",
        mode: Mode::InProcess,
        nodes: 1,
        requests: 3,
        revocations: [LOGOUT_A, None, None],
        forgives: true,
        ..BASE
    },
];

/// Where it does not hold, and for how long.
pub const LIMITS: &[Bounds] = &[
    Bounds {
        name: "the peer logs out",
        nodes: 1,
        requests: 2,
        revocations: [Some(PeerLogout { token: 0 }), None, None],
        ticks: AGES,
        ..BASE
    },
];
