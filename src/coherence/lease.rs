//! Lease: whether entries of the local cache may be served although Redis is authoritative.
//!
//! Redis pushes the name of each key that changes, and each push is counted in the stripe of its
//! token or user. An entry is valid while its stripes hold no later number than the generation that
//! was noted before the entry was read from Redis. This alone would rely on the connection being
//! alive, so two more conditions apply:
//!
//! - A *lease*, which is a time: proof that every change which was acknowledged to any client by
//!   some moment has been counted here. It ends a fixed time after that moment, so that a dead
//!   connection or a frozen server hides a revocation for no longer.
//! - An *epoch*, which is a number: between two connections nothing is pushed. What was read in one
//!   epoch must not be used in the next.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::Notify;

use super::{
    bridge::Bridge,
    canary::Canary,
    generations::{Generation, Generations, Stripes, TokenStripe, UserStripe},
};
use crate::{
    protocol::{IdentityDigest, TokenDigest},
    sync::lock,
    telemetry::{ListenerMetrics, Timer},
    time::Clock,
};

/// Tasks that wait for tokens of different notifiers do not wake each other.
const NOTIFIERS: usize = 256;

pub(crate) struct Lease {
    clock: Clock,
    /// In microseconds, like all times here.
    length: u64,
    until: AtomicU64,
    epoch: AtomicU64,
    generations: Generations,
    /// Run IDs of the servers that push changes.
    runs: Mutex<Vec<Arc<str>>>,
    is_connected: AtomicBool,
    bridge: Bridge,
    /// Wakes the tasks that wait for a change of a token, by the token's stripe.
    pushed: Box<[Notify]>,
    canary: Option<Canary>,
    metrics: ListenerMetrics,
}

/// Epoch and generation when a read was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadVersion {
    epoch: u64,
    pub(crate) generation: Generation,
}

impl ReadVersion {
    /// Creates the version of an entry without Redis, for which only the revocations of this
    /// process count.
    pub(crate) fn local(generation: Generation) -> Self {
        Self {
            epoch: 0,
            generation,
        }
    }
}

/// State of the listener, for [`Stats`](crate::telemetry::Stats).
#[derive(Default)]
pub(crate) struct ListenerStatus {
    pub(crate) is_connected: bool,
    pub(crate) age: Option<u64>,
    pub(crate) pushes: u64,
    pub(crate) epochs: u64,
}

impl Lease {
    /// Creates a lease of this length. For `bridge` after another server has appeared, entries from
    /// before may be [bridged](Self::is_bridged).
    pub(crate) fn new(length: u64, bridge: u64, clock: Clock) -> Self {
        Self {
            generations: Generations::new(clock.clone()),
            clock,
            length,
            until: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            runs: Mutex::default(),
            is_connected: AtomicBool::new(false),
            bridge: Bridge::new(bridge),
            pushed: (0..NOTIFIERS).map(|_| Notify::new()).collect(),
            canary: None,
            metrics: ListenerMetrics::default(),
        }
    }

    /// Adds a canary with this interval.
    pub(crate) fn with_canary(self, interval: Option<u64>) -> Self {
        Self {
            canary: interval.map(|interval| Canary::new(interval, self.clock.clone())),
            ..self
        }
    }

    pub(crate) fn canary(&self) -> Option<&Canary> {
        self.canary.as_ref()
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.elapsed()
    }

    /// Whether the lease is held. Must be called before [`Self::is_unchanged`]: what the lease
    /// proves to be counted has been counted by the time the lease is seen.
    pub(crate) fn is_alive(&self, now: u64) -> bool {
        now < self.until.load(SeqCst)
    }

    /// Must be called before a read is sent. Returns `None` without a lease; the result of the read
    /// must then not be kept.
    pub(crate) fn read_version(&self) -> Option<ReadVersion> {
        self.is_alive(self.now()).then(|| ReadVersion {
            epoch: self.epoch.load(SeqCst),
            generation: self.generations.current(),
        })
    }

    /// Whether the reply to a read came from a server that pushes changes.
    pub(crate) fn is_tracking(&self, run: &str) -> bool {
        self.runs().iter().any(|heard| **heard == *run)
    }

    pub(crate) fn user(&self, mark_name: &str) -> UserStripe {
        self.generations.user(mark_name)
    }

    /// Whether no connection was lost and no server was flushed since `version` was read.
    pub(crate) fn is_current_epoch(&self, version: ReadVersion) -> bool {
        self.epoch.load(SeqCst) == version.epoch
    }

    /// Whether the epoch is the same, and no change of token, session or user was counted either, since
    /// `version` was read.
    pub(crate) fn is_unchanged(&self, version: ReadVersion, stripes: Stripes) -> bool {
        self.is_current_epoch(version) && self.generations.is_current(version.generation, stripes)
    }

    /// Whether an entry of the last lease may be served although another server has appeared, if
    /// that server knows of no revocation either.
    pub(crate) fn is_bridged(&self, version: ReadVersion, stripes: Stripes) -> bool {
        let ReadVersion { epoch, generation } = version;
        self.bridge
            .covers(self.now(), epoch, &self.generations, |generations| {
                generations.is_current(generation, stripes)
            })
    }

    /// Counts a revocation of a token by this process.
    pub(crate) fn revoke_token(&self, token: &TokenDigest) {
        self.generations.revoke_token(token);
        self.bridge.revoke(|it| it.revoke_token(token));
    }

    pub(crate) fn revoke_session(&self, session: &IdentityDigest) {
        self.generations.revoke_session(session);
        self.bridge.revoke(|it| it.revoke_session(session));
    }

    pub(crate) fn revoke_user(&self, mark_name: &str) {
        self.generations.revoke_user(mark_name);
        self.bridge.revoke(|it| it.revoke_user(mark_name));
    }

    /// Counts a change in Redis of a key with this token's name.
    pub(crate) fn invalidate_token_name(&self, hex: &[u8]) {
        self.metrics.invalidations.increment();
        if let Some(stripe) = self.generations.revoke_token_named(hex) {
            self.notify(stripe).notify_waiters();
        }
        if let Some(canary) = &self.canary {
            canary.received(hex);
        }
    }

    /// Returns a number that changes when a change of the token is counted.
    pub(crate) fn pushes(&self, token: &TokenDigest) -> u64 {
        self.generations.pushes(TokenStripe::of(token))
    }

    /// Waits until [`pushes`](Self::pushes) is no longer `seen`.
    pub(crate) async fn pushed(&self, token: &TokenDigest, seen: u64) {
        let mut pushed = pin!(self.notify(TokenStripe::of(token)).notified());
        loop {
            // It must be listening before the number is read.
            pushed.as_mut().enable();
            if self.pushes(token) != seen {
                return;
            }
            pushed.as_mut().await;
            pushed.set(self.notify(TokenStripe::of(token)).notified());
        }
    }

    fn notify(&self, stripe: TokenStripe) -> &Notify {
        &self.pushed[stripe.index() % NOTIFIERS]
    }

    pub(crate) fn invalidate_user_mark(&self, mark_name: &str) {
        self.metrics.invalidations.increment();
        self.generations.revoke_user(mark_name);
    }

    /// Begins a new epoch, and returns the one before. Nothing that was read before is used from
    /// here on.
    pub(crate) fn generation(&self) -> Generation {
        self.generations.current()
    }

    /// Waits until the token, the session or the user may have been revoked after `seen` was read, as
    /// far as Redis has pushed it.
    pub(crate) async fn changed(&self, seen: Generation, stripes: Stripes) {
        self.generations.changed(seen, stripes).await;
    }

    fn begin_epoch(&self) -> u64 {
        self.metrics.local_resets.increment();
        self.epoch.fetch_add(1, SeqCst)
    }

    /// Begins a new epoch, because a server was flushed.
    pub(crate) fn flushed(&self) {
        self.bridge.close(|| {
            self.begin_epoch();
        });
    }

    /// Extends the lease. All changes acknowledged before `confirmed_at` have been counted.
    pub(crate) fn extend(&self, confirmed_at: u64) {
        self.until
            .fetch_max(confirmed_at.saturating_add(self.length), SeqCst);
        self.metrics.lease_held.set(true);
    }

    /// Records the round-trip time of a heartbeat that was replied to.
    pub(crate) fn record_heartbeat(&self, timer: Timer) {
        self.metrics.heartbeat.record(timer);
    }

    pub(crate) fn connected(&self, runs: Vec<Arc<str>>) {
        *self.runs() = runs;
        self.begin_epoch();
        self.bridge.connected(&self.generations);
        self.is_connected.store(true, SeqCst);
    }

    /// Ends the lease, because the connection has ended or must not be relied on any more.
    pub(crate) fn release(&self) {
        self.bridge.end_lease(|| {
            let epoch = self.begin_epoch();
            let was_held = self.until.swap(0, SeqCst) > 0;
            was_held.then_some(epoch)
        });
        self.metrics.lease_held.set(false);
        self.is_connected.store(false, SeqCst);
    }

    /// Ends the lease, because another server has appeared in the place of an earlier one.
    pub(crate) fn server_replaced(&self) {
        self.release();
        self.bridge.open(self.now());
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
