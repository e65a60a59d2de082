//! The Python service, command by command. Its clock errors and the duration of its validations
//! stay within slack.

use crate::{
    Emit, Event, Model,
    bounds::Kind,
    redis::standing,
    state::{Floor, Key, Outcome, PeerRequest, Record, Revoke, Revoking, State, Timestamp, Write},
};

/// Later than any timestamp of this crate in the same tick, since two writers never write in the
/// same microsecond.
const PEERS_MICROS: u16 = 4;

impl Model {
    pub(crate) fn peer(&self, state: &State, emit: &mut Emit<'_>) {
        for n in 0..self.bounds.peer {
            self.peer_request(state, n, emit);
        }
        for (n, kind) in self.bounds.revocations.iter().enumerate() {
            match *kind {
                Some(Kind::PeerLogout { token }) => self.peer_logout(state, n, token, emit),
                Some(Kind::PeerReset) => self.peer_reset(state, n, emit),
                _ => {}
            }
        }
    }

    /// Returns the times that the clocks of its processes may show.
    fn stamps(&self, state: &State) -> impl Iterator<Item = Timestamp> + use<> {
        let now = Timestamp::at(state.time);
        let (slow, fast) = (self.bounds.ticks.peer_slow, self.bounds.ticks.peer_fast);
        let skews = [
            Some(now),
            (slow > 0).then(|| now.minus(slow)),
            (fast > 0).then(|| now.plus(fast)),
        ];
        skews.into_iter().flatten()
    }

    fn peer_request(&self, state: &State, n: usize, emit: &mut Emit<'_>) {
        let mut goes = |what, mut next: State, step, event| {
            next.peer[n] = step;
            emit.shows("Python service", n, what, next, event);
        };
        match state.peer[n] {
            PeerRequest::Unborn => match standing(state.redis.data.records[0]) {
                Some(record) => {
                    let floor = self.floor(state, None, 0);
                    let step = PeerRequest::Read {
                        record,
                        floor,
                        at: state.time,
                    };
                    goes("reads the record", *state, step, Event::None);
                }
                None => goes(
                    "finds no record",
                    *state,
                    PeerRequest::Validates,
                    Event::None,
                ),
            },
            PeerRequest::Read { at, .. } if state.time > at + self.bounds.ticks.peer_takes => {
                goes("times out", *state, PeerRequest::Answered, Event::None);
            }
            PeerRequest::Read {
                record, mut floor, ..
            } => {
                if state.redis.run > 0 {
                    // The Python service accepts every record that a restart brings back.
                    floor = Floor {
                        limit: floor.limit,
                        ..Floor::default()
                    };
                }
                let mark = standing(state.redis.data.mark);
                if mark.is_some_and(|mark| mark > record.cached_at) {
                    goes(
                        "rejects the record because of the mark",
                        *state,
                        PeerRequest::Validates,
                        Event::None,
                    );
                } else {
                    // The guarantee does not cover what it serves from its own late writes.
                    let event = match record.provenance {
                        Some(_) => self.serve(state, 0, floor, Outcome::Cached(record)),
                        None => Event::None,
                    };
                    goes("serves the record", *state, PeerRequest::Answered, event);
                }
            }
            PeerRequest::Validates if self.is_rejection(state, 0) => {
                goes(
                    "is rejected by the provider",
                    *state,
                    PeerRequest::Answered,
                    Event::None,
                );
            }
            PeerRequest::Validates => {
                let current = Some(state.provider.versions[0]);
                let versions = [current, self.late_version(state, 0)];
                for version in versions.into_iter().flatten() {
                    let step = PeerRequest::Validated {
                        version,
                        at: state.time,
                    };
                    goes("validates at the provider", *state, step, Event::None);
                }
            }
            PeerRequest::Validated { version, at } => {
                if state.time > at + self.bounds.ticks.peer_takes {
                    return goes("times out", *state, PeerRequest::Answered, Event::None);
                }
                for cached_at in self.stamps(state) {
                    let step = PeerRequest::Stamped { version, cached_at };
                    goes("sets `cached_at`", *state, step, Event::None);
                }
            }
            PeerRequest::Stamped { version, cached_at } => {
                let mut next = *state;
                let record = Record {
                    version,
                    cached_at,
                    provenance: None,
                };
                let end = state.time + self.bounds.ticks.ttl[1];
                next.redis.data.records[0] = Some(Key(record, end));
                self.has_stored(&mut next, 0, version);
                goes(
                    "writes the record",
                    next,
                    PeerRequest::Answered,
                    Event::None,
                );
            }
            PeerRequest::Answered => {}
        }
    }

    /// Revokes at the provider first, then sends a plain `DEL`, which leaves no tombstone.
    fn peer_logout(&self, state: &State, n: usize, token: u8, emit: &mut Emit<'_>) {
        let mut next = *state;
        let what = match state.revocations[n] {
            Revoking::Idle => {
                let versions = self.tell_provider(&mut next, Revoke::Token(token, true));
                next.revocations[n] = Revoking::Notified {
                    versions,
                    write: Write::default(),
                };
                "revokes at the provider"
            }
            Revoking::Notified { versions, .. } => {
                next.redis.data.records[usize::from(token)] = None;
                self.limit(&mut next, versions);
                next.revocations[n] = Revoking::Done;
                "deletes the record"
            }
            _ => return,
        };
        emit.goes("logout by the Python service", n, what, next);
    }

    fn peer_reset(&self, state: &State, n: usize, emit: &mut Emit<'_>) {
        let mut next = *state;
        match state.revocations[n] {
            Revoking::Idle => {
                let versions = self.tell_provider(&mut next, Revoke::User);
                next.revocations[n] = Revoking::Notified {
                    versions,
                    write: Write::default(),
                };
                emit.goes(
                    "reset by the Python service",
                    n,
                    "revokes at the provider",
                    next,
                );
            }
            Revoking::Notified { versions, .. } => {
                for at in self.stamps(state) {
                    let mut next = next;
                    let mark = Timestamp(at.0 + PEERS_MICROS * (n as u16 + 1));
                    let end = state.time + self.bounds.ticks.max_session_lifetime;
                    next.redis.data.mark = Some(Key(mark, end));
                    self.promise(&mut next, versions);
                    next.revocations[n] = Revoking::Done;
                    emit.goes("reset by the Python service", n, "writes the mark", next);
                }
            }
            _ => {}
        }
    }
}
