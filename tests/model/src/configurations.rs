//! Configurations of the model. Together they cover everything that the protocol must handle.

use crate::{
    bounds::{
        Bounds,
        Kind::{
            self, BanUser, EndSession, InvalidateToken, InvalidateUser, LiftBan, LiftToken, LogOut,
            PeerLogout, PeerReset, ProviderWavers, RevokeToken,
        },
        Mode, Ticks,
    },
    state::Left,
};

const BASE: Bounds = Bounds::BASE;
const NOTHING: Left = BASE.left;

const FORGET_A: Option<Kind> = Some(InvalidateToken { node: 0, token: 0 });
const FORGET_B: Option<Kind> = Some(InvalidateToken { node: 1, token: 0 });
const LOGOUT_A: Option<Kind> = Some(RevokeToken { node: 0, token: 0 });
const RESET_A: Option<Kind> = Some(InvalidateUser { node: 0 });
const RESET_B: Option<Kind> = Some(InvalidateUser { node: 1 });
const END_A: Option<Kind> = Some(EndSession { node: 0 });
const END_B: Option<Kind> = Some(EndSession { node: 1 });
const LOG_OUT_A: Option<Kind> = Some(LogOut { node: 0, token: 0 });
const LOG_OUT_B: Option<Kind> = Some(LogOut { node: 1, token: 0 });
const BAN_A: Option<Kind> = Some(BanUser { node: 0 });
const BAN_B: Option<Kind> = Some(BanUser { node: 1 });
const LIFT_BAN_A: Option<Kind> = Some(LiftBan { node: 0 });
const LIFT_BAN_B: Option<Kind> = Some(LiftBan { node: 1 });
const LIFT_TOKEN_A: Option<Kind> = Some(LiftToken { node: 0, token: 0 });
const WAVERS: Option<Kind> = Some(ProviderWavers { token: 0 });

/// One session whose tokens the provider goes on accepting after its end. A token that is issued
/// after the end is one whose first request begins after it, and another spelling of a token is
/// another token.
const SESSION: Bounds = Bounds {
    tokens: 2,
    session: 2,
    forgives: true,
    ..BASE
};

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

/// Nodes that validate a token once for all of them.
const FLEET: Bounds = Bounds {
    reserves: true,
    ..BASE
};

const REFRESH: Left = Left {
    refreshes: 1,
    ..NOTHING
};

/// Nodes that share rejections. What is invalidated is so only after the provider accepts the token
/// again.
const SHARING: Bounds = Bounds {
    requests: 2,
    is_ordered: true,
    negative_ttl: 2,
    ..BASE
};

/// A TTL that is longer than the trust in a record that was validated while the provider lagged.
const LAGGING: Ticks = Ticks {
    end: 5,
    ttl: [7, 7],
    ..Ticks::SHORT
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

/// A session with several tokens ends.
pub const SESSIONS: &[Bounds] = &[
    Bounds {
        name: "a session of two tokens ends",
        requests: 3,
        revocations: [END_A, None, None],
        is_warm: true,
        ..SESSION
    },
    Bounds {
        name: "a logout of a session of two tokens",
        requests: 3,
        revocations: [LOG_OUT_A, None, None],
        ..SESSION
    },
    Bounds {
        name: "a logout that the provider knows",
        requests: 3,
        revocations: [LOG_OUT_A, None, None],
        forgives: false,
        ..SESSION
    },
    Bounds {
        name: "a session ends, and another session of the user does not",
        session: 1,
        revocations: [END_A, None, None],
        must_serve: true,
        ..SESSION
    },
    Bounds {
        name: "a session ends between two invalidations",
        tokens: 1,
        session: 1,
        asked: 1,
        requests: 1,
        revocations: [END_B, FORGET_A, FORGET_A],
        ..SESSION
    },
    Bounds {
        name: "a session ends before a failover that loses nothing",
        tokens: 1,
        session: 1,
        asked: 1,
        revocations: [END_B, None, None],
        left: Left {
            losses: 1,
            ..NOTHING
        },
        keeps_data: true,
        ..SESSION
    },
    Bounds {
        name: "Redis unavailable: a session ends",
        nodes: 1,
        asked: 1,
        revocations: [END_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..SESSION
    },
    Bounds {
        name: "Redis unavailable: a session ends, a full queue",
        tokens: 1,
        session: 1,
        asked: 1,
        requests: 1,
        revocations: [END_B, FORGET_A, None],
        left: Left { cuts: 1, ..NOTHING },
        max_queued: 0,
        ..SESSION
    },
    Bounds {
        name: "expiry: a session",
        asked: 1,
        requests: 1,
        revocations: [END_B, None, None],
        ticks: Ticks {
            ttl: [1, 3],
            ..ENDINGS
        },
        ..SESSION
    },
    Bounds {
        name: "expiry: the names of a session",
        revocations: [END_B, None, None],
        ticks: Ticks {
            end: 2,
            ttl: [3, 1],
            ..ENDINGS
        },
        is_warm: true,
        ..SESSION
    },
    Bounds {
        name: "Python writes, a logout of another token",
        asked: 1,
        requests: 1,
        revocations: [Some(LogOut { node: 1, token: 1 }), None, None],
        ticks: CLOCKS,
        peer: 1,
        forgives: false,
        ..SESSION
    },
    Bounds {
        name: "cluster: a session of two tokens ends",
        mode: Mode::Cluster,
        asked: 1,
        requests: 3,
        revocations: [END_B, None, None],
        ..SESSION
    },
    Bounds {
        name: "cluster: a session ends, two nodes",
        mode: Mode::Cluster,
        tokens: 1,
        session: 1,
        requests: 3,
        revocations: [END_B, None, None],
        is_warm: true,
        ..SESSION
    },
    Bounds {
        name: "cluster: a logout of a session",
        mode: Mode::Cluster,
        asked: 1,
        requests: 3,
        revocations: [LOG_OUT_B, None, None],
        ..SESSION
    },
    Bounds {
        name: "cluster unavailable: a session ends",
        mode: Mode::Cluster,
        nodes: 1,
        tokens: 1,
        session: 1,
        asked: 1,
        requests: 2,
        revocations: [END_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..SESSION
    },
    Bounds {
        name: "cluster: the names of a session expire",
        mode: Mode::Cluster,
        tokens: 1,
        session: 1,
        asked: 1,
        requests: 2,
        revocations: [END_B, None, None],
        ticks: Ticks {
            end: 3,
            ttl: [1, 1],
            ..ENDINGS
        },
        ..SESSION
    },
    Bounds {
        name: "in process: a session of two tokens ends",
        mode: Mode::InProcess,
        nodes: 1,
        asked: 1,
        requests: 3,
        revocations: [END_A, None, None],
        ..SESSION
    },
];

/// A user is banned, and revocations are taken back.
pub const BANS: &[Bounds] = &[
    Bounds {
        name: "a user is banned",
        requests: 3,
        revocations: [BAN_A, None, None],
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "a ban is lifted",
        revocations: [BAN_A, LIFT_BAN_B, None],
        is_ordered: true,
        ..BASE
    },
    Bounds {
        name: "a ban and its end overlap",
        revocations: [BAN_A, LIFT_BAN_B, None],
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: a user is banned",
        nodes: 1,
        asked: 1,
        revocations: [BAN_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: a ban is lifted",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [BAN_A, LIFT_BAN_A, None],
        is_ordered: true,
        left: Left { cuts: 1, ..NOTHING },
        ..BASE
    },
    Bounds {
        name: "cluster: a user is banned",
        mode: Mode::Cluster,
        asked: 1,
        requests: 3,
        revocations: [BAN_B, None, None],
        ..BASE
    },
    Bounds {
        name: "a revoked token is taken back",
        asked: 2,
        revocations: [LOGOUT_A, LIFT_TOKEN_A, None],
        is_ordered: true,
        forgives: true,
        ..BASE
    },
    Bounds {
        name: "a token of an ended session is taken back",
        tokens: 1,
        session: 1,
        requests: 1,
        revocations: [LOG_OUT_A, LIFT_TOKEN_A, None],
        is_ordered: true,
        ..SESSION
    },
];

/// The provider rejects a token, which Redis does not know.
pub const REFUSALS: &[Bounds] = &[
    Bounds {
        name: "the provider rejects a token",
        requests: 3,
        revocations: [WAVERS, None, None],
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: the provider rejects a token",
        requests: 3,
        revocations: [WAVERS, None, None],
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "Redis unavailable: there is no space for a refusal",
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [WAVERS, None, None],
        left: Left { cuts: 1, ..NOTHING },
        max_refusals: 0,
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "expiry: a refusal",
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [WAVERS, None, None],
        ticks: Ticks {
            end: 6,
            node_slow: [1, 1],
            ..ENDINGS
        },
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..BASE
    },
    Bounds {
        name: "Python writes, the provider rejects the token",
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [WAVERS, None, None],
        ticks: CLOCKS,
        peer: 1,
        ..BASE
    },
];

/// Nodes reserve validations, and refresh sessions before their records end.
pub const RESERVATIONS: &[Bounds] = &[
    Bounds {
        name: "reservations: a token is invalidated",
        revocations: [FORGET_A, None, None],
        left: REFRESH,
        must_serve: true,
        ..FLEET
    },
    Bounds {
        name: "reservations: a user is invalidated",
        revocations: [RESET_A, None, None],
        left: REFRESH,
        is_warm: true,
        must_serve: true,
        ..FLEET
    },
    Bounds {
        name: "reservations: a logout",
        requests: 3,
        revocations: [LOGOUT_A, None, None],
        forgives: true,
        ..FLEET
    },
    Bounds {
        name: "reservations: Redis unavailable",
        revocations: [RESET_A, None, None],
        left: Left { cuts: 1, ..NOTHING },
        is_warm: true,
        ..FLEET
    },
    Bounds {
        name: "reservations: lost data, or a node crashes",
        revocations: [FORGET_A, None, None],
        left: Left {
            losses: 1,
            crashes: 1,
            ..NOTHING
        },
        ..FLEET
    },
    Bounds {
        name: "reservations: expiry",
        asked: 1,
        revocations: [FORGET_B, None, None],
        ticks: ENDINGS,
        ..FLEET
    },
    Bounds {
        name: "reservations: a session ends",
        tokens: 1,
        session: 1,
        revocations: [END_A, None, None],
        left: REFRESH,
        forgives: true,
        ..FLEET
    },
    Bounds {
        name: "reservations: cluster",
        mode: Mode::Cluster,
        asked: 1,
        revocations: [RESET_B, None, None],
        left: REFRESH,
        must_serve: true,
        ..FLEET
    },
];

/// The provider rejects a token, accepts it again, and nodes share the rejection.
pub const REJECTIONS: &[Bounds] = &[
    Bounds {
        name: "shared rejections: a user is invalidated",
        asked: 1,
        revocations: [WAVERS, RESET_B, None],
        left: REFRESH,
        ..SHARING
    },
    Bounds {
        name: "shared rejections: a token is invalidated",
        revocations: [WAVERS, FORGET_B, None],
        ..SHARING
    },
    Bounds {
        name: "shared rejections: a node invalidates a user",
        nodes: 1,
        asked: 1,
        revocations: [WAVERS, RESET_A, None],
        left: REFRESH,
        ..SHARING
    },
    Bounds {
        name: "shared rejections: a logout",
        revocations: [WAVERS, LOGOUT_A, None],
        forgives: true,
        ..SHARING
    },
    Bounds {
        name: "shared rejections: the first",
        requests: 3,
        revocations: [WAVERS, None, None],
        ticks: Ticks {
            end: 1,
            ..Ticks::SHORT
        },
        ..SHARING
    },
    Bounds {
        name: "shared rejections: the second",
        nodes: 1,
        asked: 1,
        requests: 3,
        revocations: [WAVERS, None, None],
        ticks: Ticks {
            end: 3,
            ..Ticks::SHORT
        },
        ..SHARING
    },
    Bounds {
        name: "shared rejections: lost data",
        revocations: [WAVERS, None, None],
        ticks: Ticks {
            end: 1,
            ..Ticks::SHORT
        },
        left: Left {
            losses: 1,
            snapshots: 1,
            ..NOTHING
        },
        ..SHARING
    },
    Bounds {
        name: "shared rejections: Redis unavailable",
        revocations: [WAVERS, None, None],
        ticks: Ticks {
            end: 1,
            ..Ticks::SHORT
        },
        left: Left { cuts: 1, ..NOTHING },
        ..SHARING
    },
    Bounds {
        name: "shared rejections: next to the Python service",
        revocations: [WAVERS, None, None],
        ticks: Ticks { end: 1, ..CLOCKS },
        peer: 1,
        ..SHARING
    },
];

/// Where the guarantee does not hold, and for how long.
pub const LIMITS: &[Bounds] = &[
    Bounds {
        name: "limit: the provider lags behind a reset",
        nodes: 2,
        asked: 1,
        requests: 2,
        revocations: [RESET_B, None, None],
        ticks: Ticks {
            end: 6,
            node_slow: [1, 0],
            ..LAGGING
        },
        lag: 1,
        has_hints: true,
        ..BASE
    },
    Bounds {
        name: "limit: the provider lags behind the change of a session",
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [FORGET_A, None, None],
        ticks: LAGGING,
        lag: 1,
        ..BASE
    },
    Bounds {
        name: "limit: the provider lags behind a reset, on a cluster",
        mode: Mode::Cluster,
        nodes: 1,
        asked: 1,
        requests: 2,
        revocations: [RESET_A, None, None],
        ticks: LAGGING,
        lag: 1,
        ..BASE
    },
    Bounds {
        name: "limit: the provider lags behind a reset by Python",
        nodes: 1,
        asked: 1,
        requests: 1,
        revocations: [Some(PeerReset), None, None],
        ticks: Ticks {
            end: 7,
            ttl: [9, 9],
            ..CLOCKS
        },
        lag: 2,
        peer: 1,
        ..BASE
    },
    Bounds {
        name: "limit: the provider lags behind a reset, and nodes share validations",
        asked: 1,
        requests: 1,
        revocations: [RESET_B, None, None],
        ticks: Ticks { end: 4, ..LAGGING },
        left: REFRESH,
        lag: 1,
        ..FLEET
    },
    Bounds {
        name: "limit: the provider ends a session, and its rejection is shared",
        revocations: [WAVERS, None, None],
        ticks: Ticks {
            end: 4,
            ttl: [1, 1],
            ..Ticks::SHORT
        },
        is_warm: true,
        ..SHARING
    },
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
    Bounds {
        name: "limit: Redis loses the names of a session",
        asked: 1,
        requests: 2,
        session: 1,
        revocations: [END_B, None, None],
        ticks: Ticks {
            end: 5,
            ttl: [1, 1],
            ..ENDINGS
        },
        left: Left {
            evictions: 1,
            ..NOTHING
        },
        is_warm: true,
        ..BASE
    },
];

/// All configurations, in groups.
pub const GROUPS: [&[Bounds]; 13] = [
    ANSWERED,
    UNANSWERED,
    LOST,
    PEER,
    AGES,
    CLUSTER,
    IN_PROCESS,
    SESSIONS,
    BANS,
    REFUSALS,
    RESERVATIONS,
    REJECTIONS,
    LIMITS,
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
