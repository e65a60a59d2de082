//! Lookup of a token by a node: `Store::lookup`, `Store::take_ticket` and their reads.
//!
//! Reading the sequence and the list of revoked tokens is one step here and two in the code. This
//! hides no violation: a later read of the list rejects more tokens, and an earlier read of the
//! sequence rejects more records.

use crate::{
    Model,
    bounds::Mode,
    fleet::last_wait,
    rules::Rule,
    state::{
        Entry, Found, Generation, Look, Lookup, LookupSnapshot, MarkSnapshot, Record,
        RedisSnapshot, Replies, State, Ticket, Timestamp,
    },
};

/// Generation, start, whether the lookup serves, time of the last refusal, run ID of the primary of
/// the mark, and the replies so far.
type Sent = (Generation, u8, bool, Timestamp, u8, Replies);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Progress {
    Goes(Look),
    Ends(Lookup),
}

impl Model {
    /// Performs the local checks, and sends the reads. Without `serve`, the lookup
    /// ignores stored sessions.
    pub(crate) fn start_look(
        &self,
        state: &State,
        node: usize,
        token: usize,
        serve: bool,
    ) -> Progress {
        let here = &state.nodes[node];
        let seen = Generation(here.sequence);
        if self.bounds.mode == Mode::InProcess
            && serve
            && let Some(entry) = here.entries[token]
            && (!self.holds(Rule::MemoryComparesStripes)
                || self.is_unchanged(state, node, token, entry.seen))
        {
            return Progress::Ends(Lookup::Hit(in_memory(entry)));
        }
        if self.holds(Rule::LookupAsksVerdicts) && here.verdicts[token] {
            return Progress::Ends(Lookup::Revoked);
        }
        if self.bounds.mode == Mode::InProcess {
            return Progress::Ends(Lookup::Miss(Ticket {
                seen,
                snapshot: RedisSnapshot::Disabled,
            }));
        }
        Progress::Goes(Look::Sent {
            seen,
            // Only the rule for a full queue uses it.
            began: if self.bounds.left.cuts > 0 {
                state.time
            } else {
                0
            },
            serve,
            refused: self.refused(state, node, token),
            turn: state.redis.mark_run,
            replies: Replies::default(),
        })
    }

    /// Emits every possible next step of a lookup.
    pub(crate) fn go_on_looking(
        &self,
        state: &State,
        node: usize,
        token: usize,
        look: Look,
        mut goes: impl FnMut(&'static str, State, Progress),
    ) {
        match look {
            Look::Sent {
                seen,
                began,
                serve,
                refused,
                turn,
                replies,
            } => self.read(
                state,
                node,
                token,
                (seen, began, serve, refused, turn, replies),
                goes,
            ),
            Look::Heard {
                seen,
                began,
                refused,
                found,
            } => {
                let refused = if self.holds(Rule::RefusalIsReadFirst) {
                    refused
                } else {
                    self.refused(state, node, token)
                };
                let seen = if self.holds(Rule::SeenFirst) {
                    seen
                } else {
                    Generation(state.nodes[node].sequence)
                };
                let began = if self.holds(Rule::FullQueueIsAskedAsOfBegin) {
                    began
                } else {
                    state.time
                };
                if let Found::Record(record) = found
                    && record.since() <= refused
                {
                    let progress = self.start_look(state, node, token, false);
                    return goes("finds a record from before a refusal", *state, progress);
                }
                let is_denied = |user| {
                    self.holds(Rule::DeniesQueued)
                        && self.is_denied(state, node, token, user, began)
                };
                let snapshot = match found {
                    Found::Record(record) if !is_denied(true) => {
                        let look = Look::Undenied { seen, record };
                        return goes(
                            "checks the queued revocations",
                            *state,
                            Progress::Goes(look),
                        );
                    }
                    Found::Rejected => {
                        let rejected = Progress::Ends(Lookup::Rejected);
                        return goes("is rejected by a shared rejection", *state, rejected);
                    }
                    Found::Refused => {
                        let revoked = Progress::Ends(Lookup::Revoked);
                        return goes("is rejected by a tombstone", *state, revoked);
                    }
                    Found::Nothing(looked)
                        if !(self.holds(Rule::DeniedMissIsUnanswered) && is_denied(false)) =>
                    {
                        RedisSnapshot::Taken(looked)
                    }
                    _ => RedisSnapshot::Unavailable,
                };
                let miss = Lookup::Miss(Ticket { seen, snapshot });
                goes("misses and takes a ticket", *state, Progress::Ends(miss));
            }
            Look::Undenied { seen, record } => {
                let fine = !self.holds(Rule::HitComparesStripes)
                    || self.is_unchanged(state, node, token, seen);
                let progress = if fine {
                    Progress::Ends(Lookup::Hit(record))
                } else {
                    self.start_look(state, node, token, false)
                };
                goes("compares the stripes of the hit", *state, progress);
            }
        }
    }

    fn read(
        &self,
        state: &State,
        node: usize,
        token: usize,
        (seen, began, serve, refused, turn, replies): Sent,
        mut goes: impl FnMut(&'static str, State, Progress),
    ) {
        if state.nodes[node].is_cut {
            let found = Found::Unanswered;
            let heard = Look::Heard {
                seen,
                began,
                refused,
                found,
            };
            return goes("receives no reply", *state, Progress::Goes(heard));
        }
        let mut state = *state;
        self.meet(&mut state, node);
        let now = self.look(&state, token);
        let hears = |found| {
            Progress::Goes(Look::Heard {
                seen,
                began,
                refused,
                found,
            })
        };
        if self.bounds.mode == Mode::Standalone {
            let found = self.judge(&state, (node, token), now, serve, turn);
            goes("looks up in Redis", state, hears(found));
            if self.bounds.has_hints
                && serve
                && let Some(record) = self.known(&state, node, now)
                && found != Found::Record(record)
            {
                let found = Found::Record(record);
                goes("hits by `MGET`", state, hears(found));
            }
            return;
        }
        let reads: [(&'static str, Replies); 3] = [
            (
                "reads the record",
                Replies {
                    record: now.record,
                    ..replies
                },
            ),
            (
                "reads the tombstone",
                Replies {
                    tomb: now.tomb,
                    ..replies
                },
            ),
            (
                "reads the mark",
                Replies {
                    mark: now.mark,
                    ..replies
                },
            ),
        ];
        for (what, more) in reads {
            // Without a record the user is unknown, and so is the name of the mark.
            let is_useless = more.mark.is_some() && more.record == Some(None);
            if more == replies || is_useless {
                continue;
            }
            let is_read = more.record.is_some()
                && more.tomb.is_some()
                && (more.mark.is_some() || more.record == Some(None));
            // The mark may have been read first, and the record may then turn out to be gone.
            let progress = if is_read {
                hears(self.judge(&state, (node, token), more, serve, turn))
            } else {
                Progress::Goes(Look::Sent {
                    seen,
                    began,
                    serve,
                    refused,
                    turn,
                    replies: more,
                })
            };
            goes(what, state, progress);
        }
        if replies.mark.is_some() && replies.record.is_none() && now.record == Some(None) {
            let more = Replies {
                record: Some(None),
                mark: None,
                ..replies
            };
            let progress = if more.tomb.is_some() {
                hears(self.judge(&state, (node, token), more, serve, turn))
            } else {
                Progress::Goes(Look::Sent {
                    seen,
                    began,
                    serve,
                    refused,
                    turn,
                    replies: more,
                })
            };
            goes("finds no record", state, progress);
        }
    }

    /// Models `RedisStore::script_lookup` after the reply.
    fn judge(
        &self,
        state: &State,
        (node, token): (usize, usize),
        replies: Replies,
        serve: bool,
        turn: u8,
    ) -> Found {
        let (record, tomb) = (replies.record.flatten(), replies.tomb.flatten());
        let now = Timestamp::at(state.time);
        // Only a lookup that serves reads the shared rejection.
        let asked = serve.then_some((node, token));
        if !self.holds(Rule::RecordBeforeRejection) && self.is_rejected(state, asked) {
            return Found::Rejected;
        }
        let Some(record) = record else {
            return self.nothing(state, asked, replies, MarkSnapshot::Unread, turn);
        };
        let read_mark = replies.mark.unwrap_or((None, turn));
        if serve && self.accepts(state, node, &record, tomb, read_mark, now) {
            return Found::Record(record);
        }
        let mark = MarkSnapshot::Read(read_mark.0);
        self.nothing(state, asked, replies, mark, read_mark.1)
    }

    fn nothing(
        &self,
        state: &State,
        asked: Option<(usize, usize)>,
        replies: Replies,
        mark: MarkSnapshot,
        mark_run: u8,
    ) -> Found {
        let tomb = replies.tomb.flatten();
        if self.holds(Rule::LookupRefuses) && tomb.is_some_and(|tomb| tomb.refuses) {
            return Found::Refused;
        }
        if self.is_rejected(state, asked) {
            return Found::Rejected;
        }
        Found::Nothing(LookupSnapshot {
            run: state.redis.run,
            fence: Timestamp::at(state.time),
            tomb,
            mark,
            mark_run,
            last_wait: asked.map_or(0, |(_, token)| last_wait(state, token)),
        })
    }

    /// Models `RedisStore::read_cached`, which uses the node's own clock and returns only
    /// acceptable records.
    fn known(&self, state: &State, node: usize, replies: Replies) -> Option<Record> {
        let record = replies.record.flatten()?;
        let (tomb, read_mark) = (replies.tomb.flatten(), replies.mark?);
        let now = Timestamp::at(state.time).minus(self.bounds.ticks.node_slow[node]);
        let is_ours = record.provenance.is_some() || !self.holds(Rule::HintAcceptsOurs);
        (is_ours && self.accepts(state, node, &record, tomb, read_mark, now)).then_some(record)
    }

    pub(crate) fn is_unchanged(
        &self,
        state: &State,
        node: usize,
        token: usize,
        seen: Generation,
    ) -> bool {
        let node = &state.nodes[node];
        node.token_stripes[token] <= seen.0 && node.user_stripe <= seen.0
    }
}

fn in_memory(entry: Entry) -> Record {
    Record {
        version: entry.version,
        cached_at: Timestamp::default(),
        provenance: None,
    }
}
