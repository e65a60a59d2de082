//! The right to answer from memory while Redis holds the truth.
//!
//! Redis pushes the name of each key that changes, and each push is counted in the stripe of its
//! token or user. An entry is good while its stripes hold no later number than was read before
//! the read that it came from. That alone would trust a connection to be alive, so it takes two
//! things more:
//!
//! - A *lease*, in time: proof that whatever had been acknowledged to anybody by some moment has
//!   been counted here. It ends a fixed time after that moment, so that a connection which has
//!   died, or a server which has frozen, hides a revocation for no longer.
//! - An *epoch*, in numbers: between two connections nothing is pushed. What was read in one epoch
//!   is worth nothing in the next.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use super::generations::{Generation, Generations, TokenStripe, UserStripe};
use crate::{
    protocol::TokenDigest,
    sync::lock,
    telemetry::{ListenerMetrics, Timer},
    time::Clock,
};

pub(crate) struct Lease {
    clock: Clock,
    /// In microseconds, as all times here.
    length: u64,
    until: AtomicU64,
    epoch: AtomicU64,
    generations: Generations,
    /// The runs of the servers that push.
    runs: Mutex<Vec<Arc<str>>>,
    is_connected: AtomicBool,
    metrics: ListenerMetrics,
}

/// What had been heard when a read was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadVersion {
    epoch: u64,
    pub(crate) generation: Generation,
}

impl ReadVersion {
    /// Where there is nothing to hear but what this process revokes itself.
    pub(crate) fn local(generation: Generation) -> Self {
        Self {
            epoch: 0,
            generation,
        }
    }
}

/// What an operator may want to know.
#[derive(Default)]
pub(crate) struct ListenerStatus {
    pub(crate) is_connected: bool,
    pub(crate) age: Option<u64>,
    pub(crate) pushes: u64,
    pub(crate) epochs: u64,
}

impl Lease {
    pub(crate) fn new(length: u64, clock: Clock) -> Self {
        Self {
            clock,
            length,
            until: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            generations: Generations::new(),
            runs: Mutex::default(),
            is_connected: AtomicBool::new(false),
            metrics: ListenerMetrics::default(),
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.elapsed()
    }

    /// To be asked before [`Self::is_unchanged`]: what the lease proves to be counted is counted
    /// by the time it is seen.
    pub(crate) fn is_alive(&self, now: u64) -> bool {
        now < self.until.load(SeqCst)
    }

    /// To be called before a read is sent; without a lease its answer is not to be kept.
    pub(crate) fn read_version(&self) -> Option<ReadVersion> {
        self.is_alive(self.now()).then(|| ReadVersion {
            epoch: self.epoch.load(SeqCst),
            generation: self.generations.current(),
        })
    }

    /// Whether the answer to a read came from a server that pushes.
    pub(crate) fn is_tracking(&self, run: &str) -> bool {
        self.runs().iter().any(|heard| **heard == *run)
    }

    pub(crate) fn user(&self, mark_name: &str) -> UserStripe {
        self.generations.user(mark_name)
    }

    /// Whether no connection was lost and no server flushed since.
    pub(crate) fn is_current_epoch(&self, version: ReadVersion) -> bool {
        self.epoch.load(SeqCst) == version.epoch
    }

    /// Whether nothing was heard of token and user since, either.
    pub(crate) fn is_unchanged(
        &self,
        version: ReadVersion,
        token: TokenStripe,
        user: UserStripe,
    ) -> bool {
        self.is_current_epoch(version)
            && self.generations.is_current(version.generation, token, user)
    }

    /// This process has revoked it itself.
    pub(crate) fn revoke_token(&self, token: &TokenDigest) {
        self.generations.revoke_token(token);
    }

    pub(crate) fn revoke_user(&self, mark_name: &str) {
        self.generations.revoke_user(mark_name);
    }

    /// Something under a token's name has changed in Redis.
    pub(crate) fn invalidate_token_name(&self, hex: &[u8]) {
        self.metrics.invalidations.increment();
        self.generations.revoke_token_named(hex);
    }

    pub(crate) fn invalidate_user_mark(&self, mark_name: &str) {
        self.metrics.invalidations.increment();
        self.generations.revoke_user(mark_name);
    }

    /// From here on nothing that was read before is used.
    pub(crate) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, SeqCst);
        self.metrics.local_resets.increment();
    }

    /// Whatever changed before `confirmed_at` has been heard.
    pub(crate) fn extend(&self, confirmed_at: u64) {
        self.until
            .fetch_max(confirmed_at.saturating_add(self.length), SeqCst);
        self.metrics.lease_held.set(true);
    }

    /// A heartbeat that was sent then is answered.
    pub(crate) fn record_heartbeat(&self, timer: Timer) {
        self.metrics.heartbeat.record(timer);
    }

    pub(crate) fn connected(&self, runs: Vec<Arc<str>>) {
        *self.runs() = runs;
        self.begin_epoch();
        self.is_connected.store(true, SeqCst);
    }

    /// The connection has ended, or is not to be believed any more.
    pub(crate) fn release(&self) {
        self.begin_epoch();
        self.until.store(0, SeqCst);
        self.metrics.lease_held.set(false);
        self.is_connected.store(false, SeqCst);
    }

    pub(crate) fn status(&self) -> ListenerStatus {
        let until = self.until.load(SeqCst);
        let now = self.clock.elapsed();
        ListenerStatus {
            is_connected: self.is_connected.load(SeqCst),
            age: (now < until).then(|| now.saturating_sub(until.saturating_sub(self.length))),
            pushes: self.metrics.invalidations.get(),
            epochs: self.metrics.local_resets.get(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        lock(&self.runs)
    }
}
