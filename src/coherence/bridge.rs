//! Bridge over a restart of Redis: which entries of the local cache may be served, although another
//! server has appeared, while their sessions are validated again.
//!
//! These are the entries of the last lease that was held, unless this process knows of a change
//! since they were read. Changes that the new server pushes do not count: it pushes every session
//! that is stored again, and its tombstones and marks are read before an entry is served.

use std::sync::{Mutex, MutexGuard};

use super::generations::Generations;
use crate::sync::lock;

pub(super) struct Bridge {
    /// In microseconds. 0 turns the bridge off.
    length: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether the listener has connected since the last lease ended. Without a connection no lease
    /// has entries.
    has_connected: bool,
    /// Epoch of the last lease. `None` once the bridge is open for it.
    last_epoch: Option<u64>,
    open: Option<Open>,
    /// Copy of the lease's generations when the listener connected to the new server. Afterwards
    /// only revocations by this process advance it. Without a copy those of the lease apply.
    generations: Option<Generations>,
}

#[derive(Clone, Copy)]
struct Open {
    epoch: u64,
    until: u64,
}

impl Bridge {
    pub(super) fn new(length: u64) -> Self {
        Self {
            length,
            state: Mutex::default(),
        }
    }

    /// Ends a lease. `end` returns its epoch, or `None` if it was not held.
    pub(super) fn end_lease(&self, end: impl FnOnce() -> Option<u64>) {
        let mut state = self.state();
        state.generations = None;
        if let Some(epoch) = end()
            && std::mem::take(&mut state.has_connected)
        {
            state.last_epoch = Some(epoch);
        }
    }

    pub(super) fn connected(&self, generations: &Generations) {
        let mut state = self.state();
        state.has_connected = true;
        state.generations = state.open.map(|_| generations.snapshot());
    }

    /// Opens the bridge, unless it was opened for the same lease before.
    pub(super) fn open(&self, now: u64) {
        let mut state = self.state();
        if let Some(epoch) = state.last_epoch.take()
            && self.length > 0
        {
            let until = now.saturating_add(self.length);
            state.open = Some(Open { epoch, until });
        }
    }

    /// Closes the bridge, because a server was flushed. `begin_epoch` excludes the entries from
    /// before also from the next bridge.
    pub(super) fn close(&self, begin_epoch: impl FnOnce()) {
        let mut state = self.state();
        begin_epoch();
        (state.last_epoch, state.open, state.generations) = (None, None, None);
    }

    /// Counts a revocation by this process, after the lease has counted it.
    pub(super) fn revoke(&self, revoke: impl FnOnce(&Generations)) {
        if let Some(generations) = &self.state().generations {
            revoke(generations);
        }
    }

    /// Returns whether an entry of this epoch may be served. `is_current` compares its generation.
    pub(super) fn covers(
        &self,
        now: u64,
        epoch: u64,
        generations: &Generations,
        is_current: impl FnOnce(&Generations) -> bool,
    ) -> bool {
        if self.length == 0 {
            return false;
        }
        let mut state = self.state();
        match state.open {
            Some(open) if now >= open.until => {
                (state.open, state.generations) = (None, None);
                false
            }
            Some(open) => {
                epoch == open.epoch && is_current(state.generations.as_ref().unwrap_or(generations))
            }
            None => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        coherence::{Lease, ReadVersion, Stripes, TokenStripe},
        protocol::TokenDigest,
        time::{Clock, ManualClock},
        token::SessionToken,
    };

    const SECOND: u64 = 1_000_000;

    struct Scene {
        clock: ManualClock,
        lease: Lease,
        token: TokenDigest,
    }

    impl Scene {
        /// Creates a lease that is held, with a bridge of 10 seconds.
        fn new() -> Self {
            let clock = ManualClock::new();
            let cache = crate::cache::SessionCache::builder().build().unwrap();
            let token = cache.key(&SessionToken::parse("t").unwrap()).token;
            let lease = Lease::new(SECOND, 10 * SECOND, Clock::Manual(clock.clone()));
            let scene = Self {
                clock,
                lease,
                token,
            };
            scene.hold();
            scene
        }

        fn hold(&self) {
            self.lease.connected(vec!["r".into()]);
            self.lease.extend(self.lease.now());
        }

        /// Returns the version of an entry that is read now.
        fn read(&self) -> ReadVersion {
            self.lease.read_version().expect("the lease is held")
        }

        fn is_bridged(&self, entry: ReadVersion) -> bool {
            let token = TokenStripe::of(&self.token);
            let stripes = Stripes {
                token,
                session: token,
                user: self.lease.user("ada"),
            };
            self.lease.is_bridged(entry, stripes)
        }

        fn push_of_token(&self) {
            self.lease
                .invalidate_token_name(self.token.hex().as_bytes());
        }
    }

    #[test]
    fn entry_of_the_last_lease_is_bridged_for_the_duration() {
        let scene = Scene::new();
        let entry = scene.read();
        assert!(!scene.is_bridged(entry), "under the lease");
        scene.lease.release();
        assert!(!scene.is_bridged(entry), "the same server may reply again");
        scene.lease.server_replaced();
        assert!(scene.is_bridged(entry));
        // The listener detects the loss after the new server was noticed.
        scene.lease.release();
        scene.hold();
        assert!(scene.is_bridged(entry) && !scene.is_bridged(scene.read()));
        scene.clock.advance(Duration::from_secs(10));
        assert!(!scene.is_bridged(entry));
    }

    #[test]
    fn entry_of_an_earlier_lease_is_not_bridged() {
        let scene = Scene::new();
        let early = scene.read();
        scene.lease.release();
        scene.hold();
        let late = scene.read();
        scene.lease.server_replaced();
        assert!(!scene.is_bridged(early) && scene.is_bridged(late));
    }

    #[test]
    fn another_restart_prolongs_no_bridge_of_the_same_lease() {
        let scene = Scene::new();
        let entry = scene.read();
        scene.lease.server_replaced();
        scene.lease.connected(vec!["r".into()]);
        scene.clock.advance(Duration::from_secs(9));
        scene.lease.server_replaced();
        assert!(scene.is_bridged(entry));
        scene.clock.advance(Duration::from_secs(1));
        assert!(!scene.is_bridged(entry));
    }

    #[test]
    fn known_change_ends_the_bridge_and_a_push_of_the_new_server_does_not() {
        let before: [fn(&Scene); 4] = [
            |scene| scene.push_of_token(),
            |scene| scene.lease.invalidate_user_mark("ada"),
            |scene| scene.lease.revoke_token(&scene.token),
            |scene| scene.lease.revoke_user("ada"),
        ];
        for change in before {
            let scene = Scene::new();
            let entry = scene.read();
            change(&scene);
            scene.lease.server_replaced();
            assert!(!scene.is_bridged(entry), "before");

            let scene = Scene::new();
            let entry = scene.read();
            scene.lease.server_replaced();
            change(&scene);
            scene.hold();
            assert!(!scene.is_bridged(entry), "before the next connection");
        }
        let own: [fn(&Scene); 2] = [
            |scene| scene.lease.revoke_token(&scene.token),
            |scene| scene.lease.revoke_user("ada"),
        ];
        for revoke in own {
            let scene = Scene::new();
            let entry = scene.read();
            scene.lease.server_replaced();
            scene.hold();
            scene.push_of_token();
            assert!(scene.is_bridged(entry), "the session was stored again");
            revoke(&scene);
            assert!(!scene.is_bridged(entry));
        }
        // What the second server pushed is known when the third one replies.
        let scene = Scene::new();
        let entry = scene.read();
        scene.lease.server_replaced();
        scene.lease.connected(vec!["r".into()]);
        scene.push_of_token();
        scene.lease.server_replaced();
        assert!(!scene.is_bridged(entry));
    }

    #[test]
    fn flush_excludes_the_entries_before_it() {
        for is_open in [false, true] {
            let scene = Scene::new();
            let entry = scene.read();
            if is_open {
                scene.lease.server_replaced();
            }
            scene.lease.flushed();
            assert!(!scene.is_bridged(entry));
            scene.lease.server_replaced();
            assert!(!scene.is_bridged(entry));
        }
    }
}
