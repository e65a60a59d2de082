//! Table of the events that have been applied.

use std::{
    collections::{HashSet, VecDeque},
    sync::Mutex,
    time::Duration,
};

use super::revoked::EventKey;
use crate::sync::lock;

/// Maximum number of events, with 64 bytes each. The oldest one is forgotten first, so that its
/// duplicate is applied again.
const CAPACITY: usize = 10_000;

/// A signature with a time is accepted from 5 minutes before that time to 5 minutes after it.
const RETENTION: u64 = Duration::from_secs(600).as_micros() as u64;

/// The events of one source that have been applied lately.
#[derive(Default)]
pub(super) struct AppliedEvents(Mutex<Table>);

#[derive(Default)]
struct Table {
    known: HashSet<EventKey>,
    /// In the order in which they were applied, with the time in microseconds.
    order: VecDeque<(EventKey, u64)>,
}

impl AppliedEvents {
    pub(super) fn contains(&self, key: &EventKey, now: u64) -> bool {
        let mut table = lock(&self.0);
        table.remove_expired(now);
        table.known.contains(key)
    }

    /// Adds an event. Must be called only after its revocation is in Redis: a repetition of an
    /// event that failed has to be applied.
    pub(super) fn insert(&self, key: EventKey, now: u64) {
        let mut table = lock(&self.0);
        table.remove_expired(now);
        if !table.known.insert(key) {
            return;
        }
        table.order.push_back((key, now));
        if table.order.len() > CAPACITY {
            table.remove_oldest();
        }
    }
}

impl Table {
    fn remove_expired(&mut self, now: u64) {
        while let Some((_, at)) = self.order.front()
            && now.saturating_sub(*at) >= RETENTION
        {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((key, _)) = self.order.pop_front() {
            self.known.remove(&key);
        }
    }
}
