//! Ended sessions and banned users: `session_ended`, `session_users` and `session_ban` in Redis,
//! and what a fill does with them.
//!
//! A request does not know the session of its token, so a hit compares only the mark. A fill
//! registers the name of the mark with the session, so that the end of the session finds and moves
//! it, and a fill after the end is refused.

use crate::{
    Model,
    bounds::Mode,
    redis::standing,
    rules::Rule,
    state::{
        ClusterFill, Data, FORBIDDEN, Floor, Key, Outcome, Refusal, Request, Revoke, State,
        Version, Write,
    },
};

impl Model {
    /// Whether Redis says that the session of the token has ended, or that its user is banned.
    pub(crate) fn is_refused(&self, state: &State, token: usize) -> bool {
        self.has_ended(state, token) || self.is_banned(state)
    }

    pub(crate) fn has_ended(&self, state: &State, token: usize) -> bool {
        self.holds(Rule::FillReadsEnded)
            && self.bounds.is_in_session(token)
            && standing(state.redis.data.ended).is_some()
    }

    pub(crate) fn is_banned(&self, state: &State) -> bool {
        self.holds(Rule::FillReadsBan) && standing(state.redis.data.ban).is_some()
    }

    /// Registers the user's mark with the session, until a record that ends at `end` has ended.
    pub(crate) fn add_name(&self, data: &mut Data, end: u8) {
        if !self.holds(Rule::FillAddsName) {
            return;
        }
        let standing = data
            .names
            .filter(|_| self.holds(Rule::KeepsLongerNames))
            .map_or(0, |key| key.1);
        data.names = Some(Key((), end.max(standing)));
    }

    /// Makes the next write of a revocation. Returns the write after it, if there is one.
    pub(crate) fn write(&self, state: &mut State, what: Revoke, at: Write) -> Option<Write> {
        let then = |has_name| {
            Some(Write {
                number: at.number + 1,
                has_name,
            })
        };
        match what {
            Revoke::Token(token, refuses) => self.write_token(state, token.into(), refuses),
            Revoke::User => self.write_mark(state),
            Revoke::LiftToken(token) => self.lift_token(state, token.into()),
            Revoke::Ban if at.number == 0 => {
                let end = state.time + self.bounds.ticks.max_session_lifetime;
                state.redis.data.ban = Some(Key((), end));
                return then(true);
            }
            Revoke::LiftBan if at.number == 0 => {
                state.redis.data.ban = None;
                return then(true);
            }
            Revoke::Ban if !self.holds(Rule::BanMovesMark) => {}
            Revoke::LiftBan if !self.holds(Rule::LiftMovesMark) => {}
            Revoke::Ban | Revoke::LiftBan => self.write_mark(state),
            Revoke::LogOut(token) if at.number == 0 => {
                self.write_token(state, token.into(), true);
                return then(true);
            }
            Revoke::LogOut(_) => {
                let knows_user = self.holds(Rule::LogOutMovesMark);
                return self.end(state, at, at.number - 1, knows_user);
            }
            Revoke::Session => return self.end(state, at, at.number, false),
        }
        None
    }

    /// Ends the session: one script on one server. On a cluster the session and the mark are on
    /// different primaries. A logout knows the user and moves the mark even without its name.
    fn end(&self, state: &mut State, at: Write, number: u8, knows_user: bool) -> Option<Write> {
        let ends = |state: &mut State| {
            let ttl = if self.holds(Rule::EndedOutlivesTokens) {
                self.bounds.ticks.max_session_lifetime
            } else {
                1
            };
            state.redis.data.ended = Some(Key((), state.time + ttl));
        };
        let reads = |state: &mut State| {
            let has_name = knows_user || standing(state.redis.data.names).is_some();
            if !self.holds(Rule::EndKeepsNames) {
                state.redis.data.names = None;
            }
            has_name
        };
        let moves = |state: &mut State, has_name: bool| {
            if has_name && self.holds(Rule::EndMovesMark) {
                self.write_mark(state);
            }
        };
        let then = |has_name| {
            Some(Write {
                number: at.number + 1,
                has_name,
            })
        };
        if self.bounds.mode != Mode::Cluster {
            ends(state);
            let has_name = reads(state);
            moves(state, has_name);
            return None;
        }
        let is_last = self.holds(Rule::EndReadsNamesLast);
        match number {
            0 if is_last => {
                ends(state);
                then(reads(state))
            }
            0 => then(reads(state)),
            1 if !is_last => {
                ends(state);
                then(at.has_name)
            }
            _ => {
                moves(state, at.has_name);
                None
            }
        }
    }

    /// Makes the next step of a fill on a cluster before the mark is read again, if there is one:
    /// joins the session, or reads the ban. Returns `None` if the session must be refused.
    pub(crate) fn prepare(
        &self,
        state: &mut State,
        token: usize,
        ttl: u8,
        fill: ClusterFill,
    ) -> Option<(&'static str, ClusterFill)> {
        if self.joins_now(token, fill) {
            if self.has_ended(state, token) {
                return None;
            }
            let ticks = &self.bounds.ticks;
            let late = if self.holds(Rule::NamesOutliveLateFills) {
                ticks.deadline + ticks.slack
            } else {
                0
            };
            let end = state.time + ttl + late;
            self.add_name(&mut state.redis.data, end);
            let has_joined = true;
            return Some(("joins the session", ClusterFill { has_joined, ..fill }));
        }
        if self.is_banned(state) {
            return None;
        }
        let has_read_ban = true;
        Some((
            "reads the ban",
            ClusterFill {
                has_read_ban,
                ..fill
            },
        ))
    }

    pub(crate) fn must_prepare(&self, token: usize, fill: ClusterFill) -> bool {
        self.joins_now(token, fill) || (self.bounds.has_bans() && !fill.has_read_ban)
    }

    fn joins_now(&self, token: usize, fill: ClusterFill) -> bool {
        let is_time = fill.is_stored || self.holds(Rule::ClusterJoinsFirst);
        self.bounds.is_in_session(token) && !fill.has_joined && is_time
    }

    /// Whether a result that is not stored must be confirmed by Redis.
    pub(crate) fn is_confirmed(&self, token: usize) -> bool {
        self.holds(Rule::ConfirmsUnstored)
            && self.bounds.mode != Mode::InProcess
            && (self.bounds.is_in_session(token) || self.bounds.has_bans())
    }

    /// Whether this process knows that a validated session must be refused.
    pub(crate) fn is_refused_here(&self, state: &State, node: usize, token: usize) -> bool {
        let node = &state.nodes[node];
        let is_banned = node
            .queue
            .iter()
            .flatten()
            .any(|waiting| waiting.what == Revoke::Ban);
        (self.holds(Rule::FillReadsEndedList) && self.bounds.is_in_session(token) && node.ended)
            || (self.holds(Rule::FillReadsQueuedBans) && is_banned)
    }

    /// Adds what a request to this node may rely on.
    pub(crate) fn refusals_of(&self, state: &State, node: Option<usize>, token: usize) -> Floor {
        let here = node.map(|node| &state.nodes[node]);
        let refusal = |is_here, is_in_redis| match (is_here, is_in_redis) {
            (true, _) => Refusal::Here,
            (false, true) => Refusal::InRedis,
            (false, false) => Refusal::None,
        };
        let ended = refusal(here.is_some_and(|node| node.ended_here), state.ghost.ended);
        Floor {
            ended: match self.bounds.is_in_session(token) {
                true => ended,
                false => Refusal::None,
            },
            banned: refusal(
                here.is_some_and(|node| node.banned_here),
                state.ghost.banned,
            ),
            is_lifted: state.ghost.is_lifted,
            ..Floor::default()
        }
    }

    /// Whether the outcome contradicts a refusal, although the provider accepts the token. A request
    /// that waits for longer than a session lasts has timed out.
    pub(crate) fn ignores_refusal(&self, state: &State, floor: Floor, outcome: Outcome) -> bool {
        if state.time >= self.bounds.ticks.max_session_lifetime {
            return false;
        }
        let refusal = floor.ended.max(floor.banned);
        match outcome {
            Outcome::Served(_) | Outcome::Cached(_) => refusal != Refusal::None,
            Outcome::Unchecked(_) => refusal == Refusal::Here,
            Outcome::Denied | Outcome::Rejected(_) | Outcome::Shared => false,
        }
    }

    /// Forgets what a ban or a revoked token has guaranteed, because it is being taken back.
    pub(crate) fn start_lifting(&self, state: &mut State, what: Revoke) {
        let lowers = |versions: &mut Version| {
            if *versions == FORBIDDEN {
                *versions = 0;
            }
        };
        match what {
            Revoke::LiftBan => {
                state.ghost.banned = false;
                for node in &mut state.nodes {
                    node.banned_here = false;
                }
                self.each_floor(state, |_, floor| floor.banned = Refusal::None);
            }
            Revoke::LiftToken(token) => {
                let token = usize::from(token);
                lowers(&mut state.ghost.everywhere[token]);
                lowers(&mut state.ghost.limits[token].0);
                for node in &mut state.nodes {
                    lowers(&mut node.here[token]);
                }
                self.each_floor(state, |_, floor| {
                    lowers(&mut floor.strict);
                    lowers(&mut floor.limit);
                });
            }
            _ => {}
        }
    }

    /// A request that began before a refusal does not rely on being served.
    pub(crate) fn stop_relying(&self, state: &mut State) {
        state.ghost.is_lifted = false;
        self.each_floor(state, |_, floor| floor.is_lifted = false);
    }

    /// A ban that has left the queue is known to Redis only.
    pub(crate) fn hand_over_ban(&self, state: &mut State, at: usize) {
        state.nodes[at].banned_here = false;
        self.each_floor(state, |node, floor| {
            if node == at {
                floor.banned = floor.banned.min(Refusal::InRedis);
            }
        });
    }

    fn each_floor(&self, state: &mut State, mut change: impl FnMut(usize, &mut Floor)) {
        for request in &mut state.requests {
            if let Request::Asks { node, floor, .. } = request {
                change((*node).into(), floor);
            }
        }
    }

    /// Models the local half of a lift.
    pub(crate) fn lift_here(&self, state: &mut State, node: usize, what: Revoke) {
        if let Revoke::LiftToken(token) = what
            && self.holds(Rule::LiftClearsList)
        {
            state.nodes[node].verdicts[usize::from(token)] = false;
        }
    }
}
