//! Tokens, sessions and users that are rejected whatever the identity provider replies.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// How often another node may be asked whether a denial was lifted, in microseconds.
const RECHECK: u64 = 1_000_000;

/// Bounded list of denials. The oldest is evicted first.
pub(crate) struct Denials<K> {
    entries: HashMap<K, Denial>,
    order: VecDeque<(K, u64)>,
    capacity: usize,
}

#[derive(Clone, Copy)]
struct Denial {
    until: u64,
    /// When it was last known not to be lifted.
    checked_at: u64,
}

impl<K: Copy + Eq + Hash> Denials<K> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    /// Adds a denial. Returns whether an unexpired one was evicted for it.
    pub(crate) fn insert(&mut self, key: K, until: u64, now: u64) -> bool {
        let denial = Denial {
            until,
            checked_at: now,
        };
        self.entries.insert(key, denial);
        self.order.push_back((key, until));
        let mut forgot = false;
        while let Some((oldest, ends)) = self.order.front().copied() {
            // What was denied twice is in the queue twice, and only its last entry counts.
            let superseded = self.entries.get(&oldest).map(|it| it.until) != Some(ends);
            let full = self.order.len() > self.capacity;
            if !(superseded || ends <= now || full) {
                break;
            }
            self.order.pop_front();
            if !superseded {
                self.entries.remove(&oldest);
                forgot |= ends > now;
            }
        }
        forgot
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Removes a denial unless another one has replaced it.
    pub(crate) fn remove_if(&mut self, key: &K, until: u64) {
        if self.entries.get(key).is_some_and(|it| it.until == until) {
            self.entries.remove(key);
        }
    }

    pub(crate) fn contains(&self, key: &K, now: u64) -> bool {
        self.entries.get(key).is_some_and(|it| now < it.until)
    }

    /// Whether it is time to check that the denial was not lifted.
    pub(crate) fn is_due(&self, key: &K, now: u64) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|it| now >= it.checked_at.saturating_add(RECHECK))
    }

    /// Makes the caller the one that checks a due denial. Returns its end.
    pub(crate) fn start_check(&mut self, key: &K, now: u64) -> Option<u64> {
        if !self.is_due(key, now) {
            return None;
        }
        let entry = self.entries.get_mut(key)?;
        entry.checked_at = now;
        Some(entry.until)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_holds_until_its_end_and_no_longer() {
        let mut denials = Denials::new(2);
        assert!(!denials.insert(1, 10, 0));
        assert!(denials.contains(&1, 9));
        assert!(!denials.contains(&1, 10));
        assert!(!denials.contains(&2, 0));
    }

    #[test]
    fn full_list_evicts_the_oldest_denial_and_reports_it() {
        let mut denials = Denials::new(2);
        assert!(!denials.insert(1, 10, 0));
        assert!(!denials.insert(2, 11, 1));
        assert!(denials.insert(3, 12, 2));
        assert!(!denials.contains(&1, 3));
        assert!(denials.contains(&2, 3) && denials.contains(&3, 3));
        assert!(!denials.insert(4, 30, 20), "the others have ended");
        assert_eq!(denials.len(), 1);
    }

    #[test]
    fn repeated_denial_extends_its_only_entry() {
        let mut denials = Denials::new(2);
        for now in 0..100 {
            assert!(!denials.insert(1, now + 50, now));
            assert_eq!(denials.len(), 1);
            assert!(denials.order.len() <= 2);
        }
        assert!(denials.contains(&1, 148));
    }

    #[test]
    fn one_caller_per_second_checks_a_denial() {
        let mut denials = Denials::new(2);
        denials.insert(1, 10 * RECHECK, 0);
        assert_eq!(denials.start_check(&1, RECHECK - 1), None);
        assert_eq!(denials.start_check(&1, RECHECK), Some(10 * RECHECK));
        assert_eq!(denials.start_check(&1, RECHECK), None);
        denials.insert(1, 11 * RECHECK, 2 * RECHECK);
        denials.remove_if(&1, 10 * RECHECK);
        assert!(denials.contains(&1, 2 * RECHECK), "another one replaced it");
        denials.remove_if(&1, 11 * RECHECK);
        assert!(!denials.contains(&1, 2 * RECHECK));
        assert!(denials.is_empty());
    }
}
