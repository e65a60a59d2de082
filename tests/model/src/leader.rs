//! Leaders of validations and their joiners: `src/sync/singleflight.rs` and `Resolver::lead`.

use crate::{
    Emit, Event, Model,
    bounds::Mode,
    lookup::Progress,
    redis::{FillReply, standing},
    rules::Rule,
    state::{
        Ask, Command, Entry, Generation, Leader, Lookup, LookupSnapshot, Mark, MarkSnapshot,
        Outcome, Phase, RedisSnapshot, Request, State, Step, Ticket, Timestamp, Version,
    },
};

/// Leader that is about to store, its ticket, the sequence of this process before the fill, the
/// validated version, whether it is the second validation, and the mark with its run ID if it was
/// read separately.
type Storing = (
    Leader,
    Ticket,
    Generation,
    Version,
    bool,
    Option<(Option<Mark>, u8)>,
);

impl Model {
    /// Models `Group::join`: a request that found no session joins a leader or becomes one.
    pub(crate) fn join(
        &self,
        state: &mut State,
        node: usize,
        token: usize,
        ticket: Ticket,
        is_fresh: bool,
    ) -> Ask {
        let place = &mut state.nodes[node].leaders[token];
        let is_fresh = is_fresh || !self.holds(Rule::TicketIsFresh);
        match place {
            Some(leader) if leader.phase == Phase::Closed => {
                leader.next.get_or_insert(ticket);
                Ask::Waits {
                    is_early: true,
                    for_next: true,
                }
            }
            Some(leader) => Ask::Waits {
                is_early: leader.phase == Phase::Open,
                for_next: false,
            },
            None => {
                *place = Some(Leader {
                    phase: Phase::Open,
                    step: if is_fresh {
                        Step::HasTicket(ticket)
                    } else {
                        Step::Begins
                    },
                    next: None,
                });
                Ask::Waits {
                    is_early: true,
                    for_next: false,
                }
            }
        }
    }

    pub(crate) fn lead(&self, state: &State, node: usize, token: usize, emit: &mut Emit<'_>) {
        let Some(leader) = state.nodes[node].leaders[token] else {
            return;
        };
        let mut goes = |what, state: &State, phase, step| {
            let mut next = *state;
            next.nodes[node].leaders[token] = Some(Leader {
                phase,
                step,
                ..leader
            });
            emit.goes("leader", node, what, next);
        };
        let phase = leader.phase;
        match leader.step {
            Step::Begins => {
                let progress = self.start_look(state, node, token, true);
                goes("starts its own lookup", state, phase, own_lookup(progress));
            }
            Step::OwnLookup(look) => {
                self.go_on_looking(state, node, token, look, |what, state, progress| {
                    goes(what, &state, phase, own_lookup(progress));
                });
            }
            // The result for the joiners must come from a lookup that begins after the last one has
            // joined.
            Step::Hit(outcome) => {
                if !self.holds(Rule::HitLooksAgain) {
                    goes("completes with its hit", state, phase, completes(outcome));
                } else {
                    goes("closes the call", state, Phase::Closed, Step::Closing);
                }
            }
            Step::Closing => {
                let progress = self.start_look(state, node, token, true);
                goes("repeats the lookup", state, phase, second_lookup(progress));
            }
            Step::LooksAgain(look) => {
                self.go_on_looking(state, node, token, look, |what, state, progress| {
                    goes(what, &state, phase, second_lookup(progress));
                });
            }
            Step::HasTicket(ticket) => {
                let phase = match phase {
                    Phase::Open
                        if ticket.is_answered() || !self.holds(Rule::UnansweredTakesNone) =>
                    {
                        Phase::Validating
                    }
                    _ => Phase::Closed,
                };
                let again = false;
                goes(
                    "starts the validation",
                    state,
                    phase,
                    Step::Validates { ticket, again },
                );
            }
            Step::Validates { ticket, again } => {
                if self.is_rejection(state, token) {
                    goes(
                        "is rejected by the provider",
                        state,
                        phase,
                        completes(Outcome::Denied),
                    );
                } else {
                    let version = state.provider.versions[token];
                    let step = Step::Validated {
                        ticket,
                        version,
                        again,
                    };
                    goes("receives the validated session", state, phase, step);
                }
            }
            Step::Validated {
                ticket,
                version,
                again,
            } => {
                let phase = if self.holds(Rule::ClosesBeforeRecheck) {
                    Phase::Closed
                } else {
                    phase
                };
                let step = Step::Checks {
                    ticket,
                    version,
                    again,
                };
                goes("accepts no more joiners", state, phase, step);
            }
            Step::Checks {
                ticket,
                version,
                again,
            } => {
                let here = &state.nodes[node];
                let step = if self.holds(Rule::FillAsksVerdicts) && here.verdicts[token] {
                    completes(Outcome::Denied)
                } else if self.holds(Rule::FillComparesStripes)
                    && !self.is_unchanged(state, node, token, ticket.seen)
                {
                    match self.start_look(state, node, token, false) {
                        Progress::Goes(look) => Step::Asks {
                            look,
                            version,
                            again,
                        },
                        Progress::Ends(lookup) => self.overtaken(lookup, version, again),
                    }
                } else {
                    Step::Fills {
                        ticket,
                        now: Generation(here.sequence),
                        version,
                        again,
                        mark: None,
                    }
                };
                goes("compares the stripes before the fill", state, phase, step);
            }
            Step::Asks {
                look,
                version,
                again,
            } => {
                self.go_on_looking(state, node, token, look, |what, state, progress| {
                    let (phase, step) = match progress {
                        Progress::Goes(look) => (
                            phase,
                            Step::Asks {
                                look,
                                version,
                                again,
                            },
                        ),
                        Progress::Ends(lookup) => (
                            self.second_phase(phase),
                            self.overtaken(lookup, version, again),
                        ),
                    };
                    goes(what, &state, phase, step);
                });
            }
            Step::Fills {
                ticket,
                now,
                version,
                again,
                mark,
            } => self.store(
                state,
                node,
                token,
                (leader, ticket, now, version, again, mark),
                emit,
            ),
            Step::Completes {
                outcome,
                is_checked,
            } => {
                let mut next = *state;
                let event = self.complete(&mut next, node, token, outcome, is_checked);
                emit.shows("leader", node, "completes the call", next, event);
            }
        }
    }

    /// With the guard off, the second validation accepts joiners like the first one.
    fn second_phase(&self, phase: Phase) -> Phase {
        if self.holds(Rule::StaysClosed) {
            phase
        } else {
            Phase::Validating
        }
    }

    fn overtaken(&self, lookup: Lookup, version: Version, again: bool) -> Step {
        match lookup {
            // Every waiting request began before that revocation returned.
            Lookup::Miss(_) if again => completes(Outcome::Served(version)),
            Lookup::Miss(ticket) => Step::Validates {
                ticket,
                again: true,
            },
            Lookup::Hit(_) | Lookup::Revoked => completes(Outcome::Denied),
        }
    }

    /// Models the rest of `Store::try_fill`, and `RedisStore::try_fill`.
    fn store(
        &self,
        state: &State,
        node: usize,
        token: usize,
        (leader, ticket, now, version, again, mark): Storing,
        emit: &mut Emit<'_>,
    ) {
        let mut goes = |what, state: &State, phase, step| {
            let mut next = *state;
            next.nodes[node].leaders[token] = Some(Leader {
                phase,
                step,
                ..leader
            });
            emit.goes("leader", node, what, next);
        };
        let phase = leader.phase;
        let served = completes(Outcome::Served(version));
        let seen = match ticket.snapshot {
            RedisSnapshot::Disabled => {
                let mut next = *state;
                next.nodes[node].entries[token] = Some(Entry {
                    version,
                    seen: ticket.seen,
                });
                return goes("stores the session in memory", &next, phase, served);
            }
            RedisSnapshot::Unavailable if self.holds(Rule::FillNeedsAnswer) => {
                return goes("skips the fill", state, phase, served);
            }
            RedisSnapshot::Unavailable => LookupSnapshot {
                run: state.redis.run,
                fence: Timestamp::at(state.time),
                tomb: standing(state.redis.data.tombs[token]),
                mark: MarkSnapshot::Read(standing(state.redis.data.mark)),
                mark_run: state.redis.mark_run,
            },
            RedisSnapshot::Taken(seen) => seen,
        };
        // After a second fill without a reply, the result is not served to requests that joined
        // after its validation began.
        let unanswered = Step::Completes {
            outcome: Outcome::Served(version),
            is_checked: again,
        };
        if state.nodes[node].is_cut {
            goes("receives no reply to its fill", state, phase, unanswered);
            if self.bounds.has_pipe
                && state.redis.pipe.is_none()
                && state.nodes[node].known_run == Some(state.redis.run)
            {
                let mut next = *state;
                next.redis.pipe = Some(Command::Fill {
                    token: token as u8,
                    seen,
                    version,
                    ttl: self.bounds.ticks.ttl[node],
                    run: state.redis.run,
                });
                goes(
                    "times out while Redis still holds its fill",
                    &next,
                    phase,
                    unanswered,
                );
            }
            return;
        }
        let moved = |looked| {
            if again {
                // The result is served to the waiting requests, and is not stored.
                return served;
            }
            Step::Validates {
                ticket: Ticket {
                    seen: now,
                    snapshot: RedisSnapshot::Taken(if self.holds(Rule::AsksAgain) {
                        looked
                    } else {
                        seen
                    }),
                },
                again: true,
            }
        };
        let mut next = *state;
        let run = self.meet(&mut next, node);
        let mut seen = seen;
        if self.bounds.mode == Mode::Cluster {
            if mark.is_none() && self.holds(Rule::ClusterRechecksMark) {
                let (read, mark_run) = (standing(next.redis.data.mark), next.redis.mark_run);
                let goes_on = seen.mark_run == mark_run || !self.holds(Rule::FillComparesMarkRun);
                let step = if !goes_on {
                    unanswered
                } else if self.is_same_mark(&seen, read) {
                    Step::Fills {
                        ticket,
                        now,
                        version,
                        again,
                        mark: Some((read, mark_run)),
                    }
                } else {
                    moved(LookupSnapshot {
                        run,
                        fence: Timestamp::at(state.time),
                        tomb: standing(next.redis.data.tombs[token]),
                        mark: MarkSnapshot::Read(read),
                        mark_run,
                    })
                };
                let phase = self.phase_of(step, phase);
                return goes("re-reads the mark", &next, phase, step);
            }
            if let Some((mark, mark_run)) = mark {
                (seen.mark, seen.mark_run) = (MarkSnapshot::Read(mark), mark_run);
            }
        }
        let ttl = self.bounds.ticks.ttl[node];
        let (what, step) = match self.fill(&mut next, token, &seen, version, ttl, run, again) {
            FillReply::Stored => ("stores the record in Redis", served),
            FillReply::Skipped => ("skips the fill", served),
            FillReply::Revoked => ("finds a revoking tombstone", completes(Outcome::Denied)),
            FillReply::Unavailable => ("fills too late or under another run ID", unanswered),
            FillReply::Conflict(looked) => ("finds a conflicting revocation", moved(looked)),
        };
        let phase = self.phase_of(step, phase);
        goes(what, &next, phase, step);
    }

    fn phase_of(&self, step: Step, phase: Phase) -> Phase {
        match step {
            Step::Validates { .. } => self.second_phase(phase),
            _ => phase,
        }
    }

    /// Models `Leader::complete`, and `Waiter::wait` of all waiting requests.
    fn complete(
        &self,
        state: &mut State,
        at: usize,
        of: usize,
        outcome: Outcome,
        is_checked: bool,
    ) -> Event {
        let here = &mut state.nodes[at];
        let next = here.leaders[of].and_then(|leader| leader.next);
        here.leaders[of] = next.map(|ticket| Leader {
            phase: Phase::Open,
            step: if self.holds(Rule::NextLooksUp) {
                Step::Begins
            } else {
                Step::HasTicket(ticket)
            },
            next: None,
        });
        let mut event = Event::None;
        for n in 0..self.bounds.requests {
            let Request::Asks {
                node,
                token,
                floor,
                ask,
            } = state.requests[n]
            else {
                continue;
            };
            if (usize::from(node), usize::from(token)) != (at, of) {
                continue;
            }
            let again = |ask| Request::Asks {
                node,
                token,
                floor,
                ask,
            };
            state.requests[n] = match ask {
                Ask::Waits {
                    is_early,
                    for_next: false,
                } => {
                    if is_checked || is_early || !self.holds(Rule::LateStartAgain) {
                        event = worse(event, self.serve(state, floor, outcome));
                        Request::Answered
                    } else {
                        again(Ask::StartsAgain)
                    }
                }
                Ask::Waits {
                    is_early,
                    for_next: true,
                } => again(Ask::Waits {
                    is_early,
                    for_next: false,
                }),
                Ask::Looks { look, .. } => again(Ask::Looks {
                    look,
                    is_fresh: false,
                }),
                Ask::HasTicket { ticket, .. } => again(Ask::HasTicket {
                    ticket,
                    is_fresh: false,
                }),
                Ask::StartsAgain => continue,
            };
        }
        event
    }
}

fn worse(a: Event, b: Event) -> Event {
    use Event::{Limit, None, Violation};
    match (a, b) {
        (Violation(what), _) | (_, Violation(what)) => Violation(what),
        (Limit, _) | (_, Limit) => Limit,
        (None, other) | (other, _) => other,
    }
}

fn completes(outcome: Outcome) -> Step {
    Step::Completes {
        outcome,
        is_checked: true,
    }
}

fn own_lookup(progress: Progress) -> Step {
    match progress {
        Progress::Goes(look) => Step::OwnLookup(look),
        Progress::Ends(Lookup::Hit(record)) => Step::Hit(Outcome::Cached(record)),
        Progress::Ends(Lookup::Revoked) => Step::Hit(Outcome::Denied),
        Progress::Ends(Lookup::Miss(ticket)) => Step::HasTicket(ticket),
    }
}

fn second_lookup(progress: Progress) -> Step {
    match progress {
        Progress::Goes(look) => Step::LooksAgain(look),
        Progress::Ends(Lookup::Hit(record)) => completes(Outcome::Cached(record)),
        Progress::Ends(Lookup::Revoked) => completes(Outcome::Denied),
        Progress::Ends(Lookup::Miss(ticket)) => Step::HasTicket(ticket),
    }
}
