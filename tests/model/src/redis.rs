//! The scripts of `src/redis/scripts/`, and the commands of the Python service. Each is one step.

use crate::{
    Model,
    rules::Rule,
    state::{
        Command, Data, Key, LookupSnapshot, Mark, MarkSnapshot, Provenance, Record, RedisSnapshot,
        Replies, State, Ticket, Timestamp, Tombstone, Version, Write,
    },
};

/// Reply of the fill script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillReply {
    Stored,
    Skipped,
    Revoked,
    /// The session has ended, or the user is banned.
    Refused,
    Unavailable,
    Conflict(LookupSnapshot),
}

pub(crate) fn standing<T: Copy>(key: Option<Key<T>>) -> Option<T> {
    key.map(|key| key.0)
}

impl Data {
    /// Removes expired keys, by the clock of Redis.
    pub(crate) fn expire(&mut self, time: u8) {
        for token in 0..self.records.len() {
            self.records[token] = self.records[token].filter(|key| time < key.1);
            self.tombs[token] = self.tombs[token].filter(|key| time < key.1);
        }
        self.mark = self.mark.filter(|key| time < key.1);
        for rejection in &mut self.rejections {
            *rejection = rejection.filter(|key| time < key.1);
        }
        for key in [&mut self.ended, &mut self.names, &mut self.ban] {
            *key = key.filter(|key| time < key.1);
        }
    }
}

impl Model {
    /// Models `ServerRegistry::register`: a connection detects another run ID before it is used.
    pub(crate) fn meet(&self, state: &mut State, node: usize) -> u8 {
        let run = state.redis.run;
        let node = &mut state.nodes[node];
        if node.known_run.is_some_and(|known| known != run) {
            let slack = if self.holds(Rule::FloorHasSlack) {
                self.bounds.ticks.slack
            } else {
                0
            };
            node.floor = Timestamp::at(state.time).plus(slack).max(node.floor);
        }
        node.known_run = Some(run);
        run
    }

    /// Models `lookup.lua`.
    pub(crate) fn look(&self, state: &State, token: usize) -> Replies {
        let data = &state.redis.data;
        Replies {
            record: Some(standing(data.records[token])),
            tomb: Some(standing(data.tombs[token])),
            mark: Some((standing(data.mark), state.redis.mark_run)),
        }
    }

    /// Models `fill.lua`, called by the node whose cache TTL is `ttl`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn fill(
        &self,
        state: &mut State,
        token: usize,
        seen: &LookupSnapshot,
        version: Version,
        ttl: u8,
        run: u8,
        again: bool,
    ) -> FillReply {
        let slack = self.bounds.ticks.slack;
        let is_cluster = self.bounds.mode == crate::bounds::Mode::Cluster;
        let is_other_run = self.holds(Rule::FillComparesRun) && run != seen.run;
        if is_other_run && !self.holds(Rule::RefusesUnderAnyRun) {
            return FillReply::Unavailable;
        }
        // On a cluster, these keys are on other primaries. They were read before.
        if !is_cluster && self.is_refused(state, token) {
            if self.bounds.is_in_session(token) && self.holds(Rule::EndedRefusesToken) {
                self.write_token(state, token, true);
            }
            return FillReply::Refused;
        }
        if is_other_run {
            return FillReply::Unavailable;
        }
        let now_mark_run = state.redis.mark_run;
        let data = &mut state.redis.data;
        let (tomb, mark) = (standing(data.tombs[token]), standing(data.mark));
        if self.holds(Rule::FillRefuses) && tomb.is_some_and(|tomb| tomb.refuses) {
            return FillReply::Revoked;
        }
        let compares = !again || self.holds(Rule::SecondFillCompares);
        let same_mark = is_cluster || self.is_same_mark(seen, mark);
        let same_tomb = !self.holds(Rule::FillComparesTomb) || tomb == seen.tomb;
        let now = Timestamp::at(state.time);
        if compares && !(same_mark && same_tomb) {
            return FillReply::Conflict(LookupSnapshot {
                run,
                fence: now,
                tomb,
                mark: MarkSnapshot::Read(mark),
                mark_run: now_mark_run,
                last_wait: seen.last_wait,
            });
        }
        if !self.ends_rejection(state, token, seen.fence) {
            return FillReply::Skipped;
        }
        let late = seen.fence.plus(self.bounds.ticks.deadline + slack);
        if self.holds(Rule::FillAge) && now > late {
            return if self.holds(Rule::LateIsUnanswered) {
                FillReply::Unavailable
            } else {
                FillReply::Skipped
            };
        }
        if !is_cluster && self.bounds.is_in_session(token) {
            self.add_name(&mut state.redis.data, state.time + ttl);
        }
        let data = &mut state.redis.data;
        if self.holds(Rule::FillKeepsNewer)
            && standing(data.records[token]).is_some_and(|record| record.since() > seen.fence)
        {
            return FillReply::Skipped;
        }
        let fence = if self.holds(Rule::FenceIsLookups) {
            seen.fence
        } else {
            now
        };
        let back = if self.holds(Rule::CachedAtHasSlack) {
            slack
        } else {
            0
        };
        let record = Record {
            version,
            cached_at: fence.minus(back),
            provenance: Some(Provenance {
                fence,
                seen_tomb: seen.tomb,
                // On a cluster the fill's transaction does not compare the mark.
                seen_mark: match (is_cluster, seen.mark) {
                    (false, _) => mark,
                    (true, MarkSnapshot::Read(seen)) => seen,
                    (true, MarkSnapshot::Unread) => None,
                },
                run,
                mark_run: if is_cluster {
                    seen.mark_run
                } else {
                    now_mark_run
                },
            }),
        };
        data.records[token] = Some(Key(record, state.time + ttl));
        self.has_stored(state, token, version);
        FillReply::Stored
    }

    /// Whether the mark is the one that was seen before the validation began.
    pub(crate) fn is_same_mark(&self, seen: &LookupSnapshot, mark: Option<Mark>) -> bool {
        let slack = if self.holds(Rule::UnreadMarkHasSlack) {
            self.bounds.ticks.slack
        } else {
            0
        };
        match seen.mark {
            MarkSnapshot::Read(seen) => !self.holds(Rule::FillComparesMark) || seen == mark,
            MarkSnapshot::Unread => {
                !self.holds(Rule::FillUnreadMark)
                    || mark.is_none_or(|mark| mark.plus(slack) < seen.fence)
            }
        }
    }

    /// Models `revoke_token.lua`.
    pub(crate) fn write_token(&self, state: &mut State, token: usize, refuses: bool) {
        let ticks = &self.bounds.ticks;
        let now = Timestamp::at(state.time);
        let redis = &mut state.redis;
        let standing = redis.data.tombs[token];
        let kept = standing.is_some_and(|key| key.0.refuses);
        let mut end = state.time
            + match refuses {
                true => ticks.max_session_lifetime,
                false if self.holds(Rule::TombOutlivesFills) => ticks.tomb_ttl,
                false => 1,
            };
        if let Some(Key(_, standing)) = standing
            && self.holds(Rule::KeepsLongerTtl)
        {
            end = end.max(standing);
        }
        let nonce = if self.holds(Rule::TombIsUnique) {
            redis.nonces += 1;
            redis.nonces
        } else {
            0
        };
        if self.holds(Rule::InvalidationEndsRejection) {
            redis.data.rejections[token] = None;
        }
        let tomb = Tombstone {
            time: now,
            refuses: refuses || (kept && self.holds(Rule::KeepsVerdict)),
            nonce,
        };
        redis.data.tombs[token] = Some(Key(tomb, end));
        if self.holds(Rule::DeletesRecord) && !self.bounds.is_elsewhere {
            redis.data.records[token] = None;
        }
    }

    /// Models `revoke_user.lua`.
    pub(crate) fn write_mark(&self, state: &mut State) {
        let ticks = &self.bounds.ticks;
        // The microsecond differs from the one before an eviction.
        let evicted = self.bounds.left.evictions - state.left.evictions;
        let now = Timestamp(Timestamp::at(state.time).0 + u16::from(evicted));
        let data = &mut state.redis.data;
        let standing = standing(data.mark)
            .filter(|mark| *mark <= now.plus(ticks.slack) && self.holds(Rule::MarkChanges));
        let mark = standing.map_or(now, |mark| now.max(Timestamp(mark.0 + 1)));
        let ttl = if self.holds(Rule::MarkOutlivesRecords) {
            ticks.max_session_lifetime
        } else {
            1
        };
        data.mark = Some(Key(mark, state.time + ttl));
    }

    /// Models the script that takes a revocation of a token back.
    pub(crate) fn lift_token(&self, state: &mut State, token: usize) {
        let data = &mut state.redis.data;
        if !standing(data.tombs[token]).is_some_and(|tomb| tomb.refuses) {
            return;
        }
        data.tombs[token] = None;
        if self.holds(Rule::LiftRenewsTomb) {
            self.write_token(state, token, false);
        }
    }

    /// Executes a command whose caller has timed out.
    pub(crate) fn carry_out(&self, state: &mut State, command: Command) {
        match command {
            Command::Revoke(what) => {
                self.write(state, what, Write::default());
            }
            Command::Fill {
                token,
                seen,
                version,
                ttl,
                run,
            } => {
                let _ = self.fill(state, token.into(), &seen, version, ttl, run, false);
            }
        }
    }

    /// Models `acceptance::is_acceptable`. `now` is the time of Redis, or the node's.
    pub(crate) fn accepts(
        &self,
        state: &State,
        node: usize,
        record: &Record,
        tomb: Option<Tombstone>,
        (mark, mark_run): (Option<Mark>, u8),
        now: Timestamp,
    ) -> bool {
        let ticks = &self.bounds.ticks;
        if self.holds(Rule::AcceptsNoRefused) && tomb.is_some_and(|tomb| tomb.refuses) {
            return false;
        }
        if !self.is_trusted(record, tomb, mark, now) {
            return false;
        }
        let is_old = now > record.since().plus(ticks.ttl[node] + ticks.slack);
        let Some(provenance) = record.provenance else {
            let since = record.cached_at;
            return (since > state.nodes[node].floor || !self.holds(Rule::PeerAfterFloor))
                && !(is_old && self.holds(Rule::PeerAge))
                && (since <= now.plus(ticks.slack) || !self.holds(Rule::PeerNotFromFuture))
                && self.is_after(since, mark, Rule::PeerAfterMark, Rule::PeerSlackAfterMark)
                && self.is_after(
                    since,
                    tomb.map(|tomb| tomb.time),
                    Rule::PeerAfterTomb,
                    Rule::PeerSlackAfterTomb,
                );
        };
        let is_seen = |seen: Option<u64>, now: Option<u64>, same: Rule, vanished: Rule| match now {
            None => seen.is_none() || !self.holds(vanished),
            Some(_) => seen == now || !self.holds(same),
        };
        let mark_text = |mark: Mark| u64::from(mark.0);
        let tomb_text = |tomb: Tombstone| {
            u64::from(tomb.time.0) << 16 | u64::from(tomb.nonce) << 1 | u64::from(tomb.refuses)
        };
        (provenance.run == state.redis.run || !self.holds(Rule::AcceptsRun))
            && (provenance.mark_run == mark_run || !self.holds(Rule::AcceptsMarkRun))
            && !(is_old && self.holds(Rule::AcceptsAge))
            && is_seen(
                provenance.seen_mark.map(mark_text),
                mark.map(mark_text),
                Rule::AcceptsSeenMark,
                Rule::VanishedMarkIsChange,
            )
            && is_seen(
                provenance.seen_tomb.map(tomb_text),
                tomb.map(tomb_text),
                Rule::AcceptsSeenTomb,
                Rule::VanishedTombIsChange,
            )
    }

    fn is_after(
        &self,
        since: Timestamp,
        revoked: Option<Timestamp>,
        rule: Rule,
        has_slack: Rule,
    ) -> bool {
        let slack = if self.holds(has_slack) {
            self.bounds.ticks.slack
        } else {
            0
        };
        !self.holds(rule) || revoked.is_none_or(|at| since > at.plus(slack))
    }
}

impl Record {
    /// Returns the time that the fill script compares: the fence of a native record, or `cached_at`
    /// of a foreign one.
    pub(crate) fn since(&self) -> Timestamp {
        self.provenance
            .map_or(self.cached_at, |provenance| provenance.fence)
    }
}

impl Ticket {
    pub(crate) fn is_answered(&self) -> bool {
        self.snapshot != RedisSnapshot::Unavailable
    }
}
