//! Leaders of validations and their joiners: `src/sync/singleflight.rs` and `Resolver::lead`.

use crate::{
    Emit, Event, Model,
    bounds::Mode,
    lookup::Progress,
    redis::{FillReply, standing},
    rules::Rule,
    state::{
        Ask, ClusterFill, Command, Entry, Generation, Leader, Lookup, LookupSnapshot, MarkSnapshot,
        Outcome, Phase, RedisSnapshot, Request, State, Step, Ticket, Timestamp, Version,
    },
};

/// Leader that is about to store, its ticket, the sequence of this process before the fill, the
/// validated version, whether it is the second validation, and the steps on a cluster that are
/// done.
type Storing = (Leader, Ticket, Generation, Version, bool, ClusterFill);

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
                    is_refresh: false,
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
                let looks_again = match outcome {
                    Outcome::Shared => Rule::RejectionLooksAgain,
                    _ => Rule::HitLooksAgain,
                };
                if !self.holds(looks_again) {
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
                self.waits_or_gives_up(state, node, token, leader, ticket, &mut goes);
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
            Step::GivesUp(ticket) => self.gives_up(state, node, token, ticket, &mut goes),
            Step::Validates { ticket, again } => {
                if self.is_rejection(state, token) {
                    let mut next = *state;
                    self.remember_refusal(&mut next, node, token);
                    let outcome = Outcome::Rejected(state.provider.versions[token]);
                    let step = match ticket.snapshot {
                        RedisSnapshot::Taken(seen) if self.bounds.negative_ttl > 0 => {
                            self.counts_rejection(&mut next, token, &seen);
                            let at = state.time;
                            Step::Shares { seen, at, outcome }
                        }
                        _ => completes(outcome),
                    };
                    goes("is rejected by the provider", &next, phase, step);
                } else {
                    let current = Some(state.provider.versions[token]);
                    let versions = [current, self.late_version(state, token)];
                    for version in versions.into_iter().flatten() {
                        let step = Step::Validated {
                            ticket,
                            version,
                            again,
                        };
                        goes("receives the validated session", state, phase, step);
                    }
                }
            }
            Step::Shares { seen, at, outcome } => {
                let mut next = *state;
                let what = if state.nodes[node].is_cut {
                    "receives no reply to its rejection"
                } else {
                    self.meet(&mut next, node);
                    self.reject(&mut next, token, &seen, at);
                    "shares the rejection"
                };
                goes(what, &next, phase, completes(outcome));
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
                let is_revoked = self.holds(Rule::FillAsksVerdicts) && here.verdicts[token];
                let step = if is_revoked || self.is_refused_here(state, node, token) {
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
                        Progress::Ends(lookup) => self.overtaken(lookup, token, version, again),
                    }
                } else {
                    Step::Fills {
                        ticket,
                        now: Generation(here.sequence),
                        version,
                        again,
                        cluster: ClusterFill {
                            has_joined: again && !self.holds(Rule::SecondFillJoins),
                            has_read_ban: again && !self.holds(Rule::SecondFillJoins),
                            ..ClusterFill::default()
                        },
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
                            self.overtaken(lookup, token, version, again),
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
                cluster,
            } => self.store(
                state,
                node,
                token,
                (leader, ticket, now, version, again, cluster),
                emit,
            ),
            Step::Confirms { version } => {
                let mut next = *state;
                let (what, outcome) = if state.nodes[node].is_cut {
                    (
                        "receives no reply to its check",
                        Outcome::Unchecked(version),
                    )
                } else if self.is_refused(state, token) {
                    ("finds an ended session or a ban", Outcome::Denied)
                } else {
                    ("checks session and user", Outcome::Served(version))
                };
                if !state.nodes[node].is_cut {
                    self.meet(&mut next, node);
                }
                goes(what, &next, phase, completes(outcome));
            }
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

    fn overtaken(&self, lookup: Lookup, token: usize, version: Version, again: bool) -> Step {
        match lookup {
            // Every waiting request began before that revocation returned. Another session may have
            // ended before.
            Lookup::Miss(_) if again => self.confirms(token, version),
            Lookup::Miss(ticket) => Step::Validates {
                ticket,
                again: true,
            },
            Lookup::Hit(_) | Lookup::Revoked | Lookup::Rejected => completes(Outcome::Denied),
        }
    }

    /// Serves a result that is not stored. If the session or the user may be refused, Redis is
    /// asked first.
    fn confirms(&self, token: usize, version: Version) -> Step {
        if self.is_confirmed(token) {
            Step::Confirms { version }
        } else {
            completes(Outcome::Served(version))
        }
    }

    /// Models the rest of `Store::try_fill`, and `RedisStore::try_fill`.
    fn store(
        &self,
        state: &State,
        node: usize,
        token: usize,
        (leader, ticket, now, version, again, cluster): Storing,
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
                let step = self.confirms(token, version);
                return goes("skips the fill", state, phase, step);
            }
            RedisSnapshot::Unavailable => LookupSnapshot {
                run: state.redis.run,
                fence: Timestamp::at(state.time),
                tomb: standing(state.redis.data.tombs[token]),
                mark: MarkSnapshot::Read(standing(state.redis.data.mark)),
                mark_run: state.redis.mark_run,
                last_wait: 0,
            },
            RedisSnapshot::Taken(seen) => seen,
        };
        // After a second fill without a reply, the result is not served to requests that joined
        // after its validation began.
        let unchecked = |outcome| Step::Completes {
            outcome,
            is_checked: again,
        };
        let unanswered = unchecked(Outcome::Unchecked(version));
        if cluster.is_stored && !self.must_prepare(token, cluster) {
            return goes("has stored before it joined", state, phase, served);
        }
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
        let ttl = self.bounds.ticks.ttl[node];
        if self.bounds.mode == Mode::Cluster {
            let fills = |cluster| Step::Fills {
                ticket,
                now,
                version,
                again,
                cluster,
            };
            if self.must_prepare(token, cluster) {
                let (what, step) = match self.prepare(&mut next, token, ttl, cluster) {
                    Some((what, cluster)) => (what, fills(cluster)),
                    None => (
                        "finds an ended session or a ban",
                        completes(Outcome::Denied),
                    ),
                };
                return goes(what, &next, phase, step);
            }
            if cluster.mark.is_none() && self.holds(Rule::ClusterRechecksMark) {
                let (read, mark_run) = (standing(next.redis.data.mark), next.redis.mark_run);
                let goes_on = seen.mark_run == mark_run || !self.holds(Rule::FillComparesMarkRun);
                let step = if !goes_on {
                    unchecked(Outcome::Served(version))
                } else if self.is_same_mark(&seen, read) {
                    fills(ClusterFill {
                        mark: Some((read, mark_run)),
                        ..cluster
                    })
                } else {
                    moved(LookupSnapshot {
                        run,
                        fence: Timestamp::at(state.time),
                        tomb: standing(next.redis.data.tombs[token]),
                        mark: MarkSnapshot::Read(read),
                        mark_run,
                        last_wait: seen.last_wait,
                    })
                };
                let phase = self.phase_of(step, phase);
                return goes("re-reads the mark", &next, phase, step);
            }
            if let Some((mark, mark_run)) = cluster.mark {
                (seen.mark, seen.mark_run) = (MarkSnapshot::Read(mark), mark_run);
            }
        }
        let reply = self.fill(&mut next, token, &seen, version, ttl, run, again);
        if reply == FillReply::Stored {
            next.nodes[node].refusals[token] = None;
        }
        let (what, step) = match reply {
            FillReply::Stored
                if self.bounds.is_in_session(token) && !self.holds(Rule::ClusterJoinsFirst) =>
            {
                let cluster = ClusterFill {
                    is_stored: true,
                    ..cluster
                };
                let step = Step::Fills {
                    ticket,
                    now,
                    version,
                    again,
                    cluster,
                };
                ("stores the record before it joins", step)
            }
            FillReply::Stored => ("stores the record in Redis", served),
            FillReply::Skipped => ("skips the fill", served),
            FillReply::Revoked => ("finds a revoking tombstone", completes(Outcome::Denied)),
            FillReply::Refused => (
                "finds an ended session or a ban",
                completes(Outcome::Denied),
            ),
            FillReply::Unavailable => (
                "fills too late or under another run ID",
                unchecked(Outcome::Served(version)),
            ),
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
        if let Outcome::Rejected(version) = outcome
            && self.has_waverer()
        {
            here.here[of] = version.max(here.here[of]);
        }
        let next = here.leaders[of].and_then(|leader| leader.next);
        here.leaders[of] = next.map(|ticket| Leader {
            phase: Phase::Open,
            step: if self.holds(Rule::NextLooksUp) {
                Step::Begins
            } else {
                Step::HasTicket(ticket)
            },
            next: None,
            is_refresh: false,
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
                        event = worse(event, self.serve(state, of, floor, outcome));
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

pub(crate) fn completes(outcome: Outcome) -> Step {
    Step::Completes {
        outcome,
        is_checked: true,
    }
}

pub(crate) fn own_lookup(progress: Progress) -> Step {
    match progress {
        Progress::Goes(look) => Step::OwnLookup(look),
        Progress::Ends(Lookup::Hit(record)) => Step::Hit(Outcome::Cached(record)),
        Progress::Ends(Lookup::Revoked) => Step::Hit(Outcome::Denied),
        Progress::Ends(Lookup::Rejected) => Step::Hit(Outcome::Shared),
        Progress::Ends(Lookup::Miss(ticket)) => Step::HasTicket(ticket),
    }
}

pub(crate) fn second_lookup(progress: Progress) -> Step {
    match progress {
        Progress::Goes(look) => Step::LooksAgain(look),
        Progress::Ends(Lookup::Hit(record)) => completes(Outcome::Cached(record)),
        Progress::Ends(Lookup::Revoked) => completes(Outcome::Denied),
        Progress::Ends(Lookup::Rejected) => completes(Outcome::Shared),
        Progress::Ends(Lookup::Miss(ticket)) => Step::HasTicket(ticket),
    }
}
