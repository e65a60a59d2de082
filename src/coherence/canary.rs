//! Canary: a session of the fleet that is revoked at intervals, so that every node measures how long
//! it would still have served it.
//!
//! Each *round* writes the tombstone of a name that no token has. Redis pushes the name to all nodes,
//! as it pushes any tombstone, and the name contains what a node must know: which node wrote the
//! round, and when. So a round costs one command, whatever the number of nodes, and no node reads
//! anything.
//!
//! The node that wrote the last round writes the next one, one interval later. If it stops, another
//! node takes its place. A node that receives no round writes one as well, and thereby finds out
//! whether the others have stopped or its own pushes are lost: a push of its own round arrives only
//! in the first case.
//!
//! The session is an entry of the local cache. All rounds are counted in its stripe, so that it is
//! served for exactly as long as another session would be whose revocation arrives as late.

use std::{
    collections::VecDeque,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::generations::TokenStripe;
use crate::{
    protocol::CLOCK_SKEW_TOLERANCE,
    sync::lock,
    telemetry::{CanaryFault, CanaryMetrics, CanaryStats, REVOCATION},
    time::Clock,
};

/// Start of the names of all rounds: `canary`, and a version. A node that does not know it takes a
/// round for the revocation of a token.
const MARKER: &str = "63616e6172790001";

/// Ticks per interval.
pub(crate) const TICKS: u32 = 16;
/// Ticks within which the push of an own round must arrive: half of an interval.
const PATIENCE: u32 = TICKS / 2;
/// Intervals for which a round stays in Redis, and of which a node knows the rounds.
const KEPT_ROUNDS: u32 = 60;
/// Known probe keys of other nodes. Each is pushed twice, when it is written and when it expires.
const KNOWN_PROBES: usize = 64;

/// The session of the canary in the local cache of this node.
pub(crate) trait CanarySession: Send + Sync {
    /// Stores the session, as if it had just been read from Redis.
    fn store(&self, stripe: TokenStripe);

    /// Whether a request for the session would be served from memory.
    fn is_served(&self) -> bool;
}

/// One revocation of the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    writer: u64,
    /// When it was written, by the clock of Redis, in microseconds.
    time: u64,
}

impl Round {
    /// Returns the name whose tombstone is written.
    pub(crate) fn name(&self) -> String {
        let Self { writer, time } = self;
        format!("{MARKER}{writer:016x}{time:016x}")
    }

    fn parse(name: &[u8]) -> Option<Self> {
        let numbers = name.strip_prefix(MARKER.as_bytes())?;
        let numbers = std::str::from_utf8(numbers).ok()?;
        let number = |n: usize| u64::from_str_radix(numbers.get(n * 16..(n + 1) * 16)?, 16).ok();
        (numbers.len() == 32).then_some(Self {
            writer: number(0)?,
            time: number(1)?,
        })
    }
}

pub(crate) struct Canary {
    /// In microseconds, like all times here.
    interval: u64,
    /// Identifies this node.
    writer: u64,
    hasher: RandomState,
    clock: Clock,
    session: OnceLock<Box<dyn CanarySession>>,
    state: Mutex<State>,
    /// The last latency that was measured. [`UNKNOWN`] before the first.
    latency: AtomicU64,
    metrics: CanaryMetrics,
}

const UNKNOWN: u64 = u64::MAX;

#[derive(Default)]
struct State {
    /// When the last round was received. `None` before the first tick.
    received_at: Option<u64>,
    /// How long after it this node writes the next one.
    delay: u64,
    /// Rounds of this node since the last one that was received.
    attempts: u32,
    /// The last of them.
    attempt: Option<Attempt>,
    /// The latest rounds, and when each was received.
    rounds: VecDeque<(Round, u64)>,
    /// Hashes of the latest probe keys. The keys may be of any length.
    probes: VecDeque<u64>,
    /// Difference between the clock of Redis and the time that this node has been running.
    offset: Option<u64>,
    is_session_stored: bool,
    /// When the session was revoked that is still served.
    revoked_at: Option<u64>,
    is_silent: bool,
    is_clock_wrong: bool,
}

/// A round of this node whose push has not arrived.
#[derive(Clone, Copy)]
struct Attempt {
    round: Round,
    at: u64,
    /// Ticks since then. If the runtime was blocked, its listener gets as many as the canary.
    ticks: u32,
}

impl Canary {
    /// Creates a canary that is revoked once per `interval` in the whole fleet.
    pub(crate) fn new(interval: u64, clock: Clock) -> Self {
        let hasher = RandomState::new();
        Self {
            interval,
            writer: hasher.hash_one(()),
            hasher,
            clock,
            session: OnceLock::new(),
            state: Mutex::default(),
            latency: AtomicU64::new(UNKNOWN),
            metrics: CanaryMetrics::default(),
        }
    }

    /// Sets the session to measure. Only the first call has an effect.
    pub(crate) fn watch(&self, session: Box<dyn CanarySession>) {
        let _ = self.session.set(session);
    }

    /// Returns the pause between two calls of [`Self::tick`].
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_micros(self.interval) / TICKS
    }

    /// Returns how long a round stays in Redis.
    pub(crate) fn life(&self) -> Duration {
        Duration::from_micros(self.interval) * KEPT_ROUNDS
    }

    /// Does what is due now. Returns a round that must be written.
    pub(crate) fn tick(&self) -> Option<Round> {
        let now = self.clock.elapsed();
        let mut state = self.state();
        self.measure(&mut state, now);
        if state.revoked_at.is_none() && !self.is_served() {
            self.store_session(&mut state);
        }
        let received_at = match state.received_at {
            Some(at) => at,
            None => {
                state.delay = self.delay(false);
                *state.received_at.insert(now)
            }
        };
        let due = match &mut state.attempt {
            None => received_at.saturating_add(state.delay),
            Some(attempt) => {
                attempt.ticks += 1;
                let waited = now.saturating_sub(attempt.at);
                let is_late = attempt.ticks >= PATIENCE && waited >= self.interval / 2;
                let at = attempt.at;
                if is_late && !std::mem::replace(&mut state.is_silent, true) {
                    self.report(CanaryFault::NotReceived, state.revoked_at.is_some());
                }
                at.saturating_add(self.interval << state.attempts.min(4))
            }
        };
        if now < due {
            return None;
        }
        let round = Round {
            writer: self.writer,
            time: self.redis_time(&state, now),
        };
        state.attempts = state.attempts.saturating_add(1);
        state.attempt = Some(Attempt {
            round,
            at: now,
            ticks: 0,
        });
        Some(round)
    }

    /// Must be called when Redis has acknowledged a round of this node.
    pub(crate) fn written(&self, round: Round) {
        let now = self.clock.elapsed();
        let mut state = self.state();
        if state.attempt.is_some_and(|attempt| attempt.round == round) && state.is_session_stored {
            state.revoked_at.get_or_insert(now);
            self.measure(&mut state, now);
        }
    }

    /// Handles the push of a tombstone, after it has been counted.
    pub(super) fn received(&self, name: &[u8]) {
        let Some(round) = Round::parse(name) else {
            return;
        };
        let now = self.clock.elapsed();
        let mut state = self.state();
        if let Some((_, at)) = state.rounds.iter().find(|(known, _)| *known == round) {
            // The expiry of a round is pushed as well.
            let life = self.interval.saturating_mul(KEPT_ROUNDS.into());
            if now.saturating_sub(*at) < life / 8 * 7 {
                self.report(CanaryFault::Deleted, false);
            }
            return;
        }
        self.metrics.rounds.increment();
        if state.rounds.len() == KEPT_ROUNDS as usize {
            state.rounds.pop_front();
        }
        state.rounds.push_back((round, now));
        state.attempt = None;
        state.attempts = 0;
        state.received_at = Some(now);
        state.delay = self.delay(round.writer == self.writer);
        if std::mem::take(&mut state.is_silent) {
            tracing::info!(target: REVOCATION, "canary revocations received again");
        }
        if state.is_session_stored {
            let age = self.redis_time(&state, now).saturating_sub(round.time);
            state.revoked_at.get_or_insert(now.saturating_sub(age));
            self.measure(&mut state, now);
        }
    }

    /// Compares the clocks. `time` is the time of Redis in microseconds since the Unix epoch, in the
    /// reply to a command that was sent at `sent`.
    pub(crate) fn compare_clocks(&self, time: u64, sent: u64) {
        let (now, wall) = (self.clock.elapsed(), self.clock.wall());
        let took = now.saturating_sub(sent);
        let mut state = self.state();
        state.offset = Some(time.saturating_sub(now.saturating_sub(took / 2)));
        let skew = wall.unsigned_abs().abs_diff(time);
        let is_wrong = skew > CLOCK_SKEW_TOLERANCE.unsigned_abs().saturating_add(took);
        if is_wrong && !state.is_clock_wrong {
            self.report(CanaryFault::ClockSkew, false);
        }
        state.is_clock_wrong = is_wrong;
    }

    /// Handles the push of a probe key of a node that has no canary.
    pub(crate) fn found_node_without_canary(&self, probe: &[u8]) {
        let probe = self.hasher.hash_one(probe);
        let mut state = self.state();
        if state.probes.contains(&probe) {
            return;
        }
        if state.probes.len() == KNOWN_PROBES {
            state.probes.pop_front();
        }
        state.probes.push_back(probe);
        self.report(CanaryFault::NodeWithoutCanary, false);
    }

    pub(crate) fn stats(&self) -> CanaryStats {
        let latency = self.latency.load(Relaxed);
        CanaryStats {
            latency: (latency != UNKNOWN).then(|| Duration::from_micros(latency)),
            ..self.metrics.stats()
        }
    }

    fn store_session(&self, state: &mut State) {
        // The stripe of the marker is that of all rounds.
        if let (Some(session), Some(stripe)) =
            (self.session.get(), TokenStripe::of_name(MARKER.as_bytes()))
        {
            session.store(stripe);
        }
        state.is_session_stored = self.is_served();
    }

    fn is_served(&self) -> bool {
        self.session
            .get()
            .is_some_and(|session| session.is_served())
    }

    /// Records the latency if the session was revoked and is not served any more.
    fn measure(&self, state: &mut State, now: u64) {
        if let Some(revoked_at) = state.revoked_at
            && !self.is_served()
        {
            let latency = now.saturating_sub(revoked_at);
            self.metrics
                .latency
                .record_duration(Duration::from_micros(latency));
            self.latency.store(latency, Relaxed);
            state.revoked_at = None;
            state.is_session_stored = false;
        }
    }

    /// Returns how long after a round this node writes the next one. The writer of the last round
    /// goes first. The others wait longer, each for another time, so that one of them takes its
    /// place. Together with [`PATIENCE`] this is less than two intervals.
    fn delay(&self, has_written_last: bool) -> u64 {
        if has_written_last {
            return self.interval;
        }
        let random = RandomState::new().hash_one(()) % 1_000;
        self.interval + self.interval / 10 + self.interval / 8_000 * random
    }

    /// Returns the time of the Redis server, in microseconds since the Unix epoch. Before the server
    /// has reported its time, it is the time of this node.
    fn redis_time(&self, state: &State, now: u64) -> u64 {
        match state.offset {
            Some(offset) => offset.saturating_add(now),
            None => self.clock.wall().unsigned_abs(),
        }
    }

    /// Counts a fault. Logs one that lasts, and others for the first time and then each time that
    /// their number has doubled.
    fn report(&self, fault: CanaryFault, is_served: bool) {
        let counter = self.metrics.faults.with(fault);
        counter.increment();
        let hint = match fault {
            CanaryFault::NotReceived => {
                "check the connection of the invalidation listener to Redis and any proxy that may \
                 withhold pushes; until then this node may serve revoked sessions"
            }
            CanaryFault::Deleted => {
                "find the client of Redis that deletes keys, or the eviction policy that does; \
                 sessions whose tombstones are deleted may be served again"
            }
            CanaryFault::ClockSkew => "synchronize the clocks of this node and of Redis",
            CanaryFault::NodeWithoutCanary => {
                "update this node, or set `canary` there; its revocation latency is not measured"
            }
        };
        let count = counter.get();
        let lasts = matches!(fault, CanaryFault::NotReceived | CanaryFault::ClockSkew);
        if lasts || count.is_power_of_two() {
            let fault = fault.as_str();
            tracing::warn!(
                target: REVOCATION,
                fault,
                count,
                is_served,
                hint,
                "canary found a fault of revocations"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canary").finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::time::ManualClock;

    const SECOND: u64 = 1_000_000;

    #[derive(Clone, Default)]
    struct Session(Arc<AtomicBool>);

    impl CanarySession for Session {
        fn store(&self, _: TokenStripe) {
            self.0.store(true, SeqCst);
        }

        fn is_served(&self) -> bool {
            self.0.load(SeqCst)
        }
    }

    struct Node {
        canary: Canary,
        session: Session,
        is_running: bool,
        receives: bool,
        /// Steps until its next tick.
        next_tick: u64,
    }

    /// Virtual time between the write of a round and its push.
    const STEP: Duration = Duration::from_millis(5);
    const STEPS_PER_TICK: u64 = 12;

    /// Nodes on one Redis, in virtual time. Each ticks in its own phase.
    struct Fleet {
        clock: ManualClock,
        nodes: Vec<Node>,
        rounds: Vec<Round>,
    }

    impl Fleet {
        fn new(size: usize) -> Self {
            let clock = ManualClock::new();
            let nodes = (0..size as u64).map(|n| {
                let canary = Canary::new(SECOND, Clock::Manual(clock.clone()));
                let session = Session::default();
                canary.watch(Box::new(session.clone()));
                canary.compare_clocks(now(&clock), clock.elapsed());
                Node {
                    canary,
                    session,
                    is_running: true,
                    receives: true,
                    next_tick: n % STEPS_PER_TICK,
                }
            });
            Self {
                nodes: nodes.collect(),
                clock,
                rounds: Vec::new(),
            }
        }

        /// Lets the nodes tick whose time has come, and then delivers what they have written.
        fn step(&mut self) {
            let mut written = Vec::new();
            for node in self.nodes.iter_mut().filter(|node| node.is_running) {
                if let Some(next) = node.next_tick.checked_sub(1) {
                    node.next_tick = next;
                    continue;
                }
                node.next_tick = STEPS_PER_TICK;
                if let Some(round) = node.canary.tick() {
                    node.canary.written(round);
                    written.push(round);
                }
            }
            self.clock.advance(STEP);
            for round in written {
                self.rounds.push(round);
                self.push(round);
            }
        }

        fn push(&self, round: Round) {
            for node in self.nodes.iter().filter(|node| node.receives) {
                node.session.0.store(false, SeqCst);
                node.canary.received(round.name().as_bytes());
            }
        }

        fn run(&mut self, intervals: u64) {
            let until = self.clock.elapsed() + intervals * SECOND;
            while self.clock.elapsed() < until {
                self.step();
            }
        }

        fn stats(&self, n: usize) -> CanaryStats {
            self.nodes[n].canary.stats()
        }

        fn has_no_fault(&self, n: usize) -> bool {
            let CanaryStats {
                rounds, latency, ..
            } = self.stats(n);
            self.stats(n)
                == CanaryStats {
                    rounds,
                    latency,
                    ..CanaryStats::default()
                }
        }
    }

    fn now(clock: &ManualClock) -> u64 {
        clock.now().timestamp_micros().unsigned_abs()
    }

    #[test]
    fn name_of_a_round_contains_all_of_it() {
        let round = Round {
            writer: u64::MAX,
            time: 1 << 60,
        };
        let name = round.name();
        assert_eq!(Round::parse(name.as_bytes()), Some(round));
        for other in [
            &name[1..],
            &name[..47],
            &format!("{name}0"),
            &"0".repeat(48),
            "",
        ] {
            assert_eq!(Round::parse(other.as_bytes()), None);
        }
        assert!(TokenStripe::of_name(MARKER.as_bytes()).is_some());
    }

    #[test]
    fn whole_fleet_writes_one_round_per_interval() {
        for size in [1, 2, 8, 100] {
            let mut fleet = Fleet::new(size);
            fleet.run(5);
            let before = fleet.rounds.len();
            fleet.run(200);
            let written = fleet.rounds.len() - before;
            assert!((180..=200).contains(&written), "{written} of {size} nodes");
            for n in 0..size {
                assert!(fleet.has_no_fault(n));
                assert_eq!(fleet.stats(n).rounds, fleet.rounds.len() as u64);
                assert!(fleet.stats(n).latency.unwrap() <= STEP);
            }
        }
    }

    #[test]
    fn another_node_takes_the_place_of_the_writer() {
        let mut fleet = Fleet::new(8);
        fleet.run(5);
        for _ in 0..7 {
            let writer = fleet.rounds.last().unwrap().writer;
            let mut nodes = fleet.nodes.iter_mut();
            let writer = nodes.find(|node| node.canary.writer == writer).unwrap();
            (writer.is_running, writer.receives) = (false, false);
            let before = fleet.rounds.len();
            fleet.run(2);
            let written = fleet.rounds.len() - before;
            assert!((1..=5).contains(&written), "{written} in two intervals");
        }
        for (n, node) in fleet.nodes.iter().enumerate() {
            assert!(!node.is_running || fleet.has_no_fault(n));
        }
    }

    #[test]
    fn node_without_pushes_reports_this_within_two_intervals() {
        let mut random = StdRng::seed_from_u64(27);
        for case in 0..300 {
            let mut fleet = Fleet::new(1 + case % 4);
            fleet.run(3);
            for _ in 0..random.random_range(0..400) {
                fleet.step();
            }
            let deaf = random.random_range(0..fleet.nodes.len());
            fleet.nodes[deaf].receives = false;
            let since = fleet.clock.elapsed();
            while fleet.stats(deaf).not_received == 0 {
                fleet.step();
                let took = fleet.clock.elapsed() - since;
                assert!(took < 2 * SECOND, "case {case}: {took} µs");
            }
            assert!(fleet.nodes[deaf].session.is_served());
            let others = (0..fleet.nodes.len()).filter(|n| *n != deaf);
            assert!(others.into_iter().all(|n| fleet.has_no_fault(n)));
            // It is well again when it receives a round.
            fleet.run(5);
            fleet.nodes[deaf].receives = true;
            fleet.run(20);
            assert_eq!(fleet.stats(deaf).not_received, 1);
            assert!(!fleet.nodes[deaf].canary.state().is_silent);
            let latency = fleet.stats(deaf).latency.unwrap();
            assert!(latency <= STEP, "{latency:?}");
        }
    }

    #[test]
    fn nodes_that_receive_nothing_write_less_and_less() {
        let mut fleet = Fleet::new(8);
        fleet.run(5);
        for node in &mut fleet.nodes {
            node.receives = false;
        }
        let before = fleet.rounds.len();
        fleet.run(100);
        let written = fleet.rounds.len() - before;
        assert!(written <= 100, "{written} in 100 intervals");
        assert!((0..8).all(|n| fleet.stats(n).not_received == 1));
    }

    #[test]
    fn latency_counts_from_the_write_until_the_session_is_not_served() {
        let mut fleet = Fleet::new(1);
        fleet.run(3);
        fleet.nodes[0].receives = false;
        let before = fleet.rounds.len();
        while fleet.rounds.len() == before {
            fleet.step();
        }
        let since = fleet.clock.elapsed();
        // A lease ends.
        fleet.clock.advance(Duration::from_millis(900));
        fleet.nodes[0].session.0.store(false, SeqCst);
        let before = fleet.stats(0).latency;
        while fleet.stats(0).latency == before {
            fleet.step();
        }
        let latency = fleet.stats(0).latency.unwrap();
        // The write was one step before `since`, and the measurement one before now.
        assert_eq!(
            latency.as_micros(),
            u128::from(fleet.clock.elapsed() - since)
        );
    }

    #[test]
    fn deleted_round_is_reported_and_an_expired_one_is_not() {
        let mut fleet = Fleet::new(2);
        fleet.run(5);
        let round = *fleet.rounds.last().unwrap();
        fleet.push(round);
        assert!((0..2).all(|n| fleet.stats(n).deleted == 1));
        let round = *fleet.rounds.last().unwrap();
        // A node that received it late sees an earlier expiry.
        fleet
            .clock
            .advance(fleet.nodes[0].canary.life() - Duration::from_secs(2));
        fleet.push(round);
        assert!((0..2).all(|n| fleet.stats(n).deleted == 1));
    }

    #[test]
    fn wrong_clock_is_reported_once() {
        let fleet = Fleet::new(1);
        let compare = |seconds: i64| {
            let clock = &fleet.clock;
            let time = now(clock).wrapping_add_signed(seconds * 1_000_000);
            fleet.nodes[0].canary.compare_clocks(time, clock.elapsed());
            fleet.stats(0).clock_skew
        };
        assert_eq!([4, -4, 0].map(compare), [0; 3]);
        assert_eq!([900, 900, -900].map(compare), [1; 3]);
        assert_eq!([0, -900].map(compare), [1, 2]);
    }

    #[test]
    fn node_without_canary_is_reported_once_per_connection() {
        let fleet = Fleet::new(1);
        for probe in ["a", "a", "b", "a"] {
            fleet.nodes[0]
                .canary
                .found_node_without_canary(probe.as_bytes());
        }
        assert_eq!(fleet.stats(0).nodes_without_canary, 2);
    }
}
