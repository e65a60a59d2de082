//! Coalescing of concurrent calls for one key (singleflight), as in
//! `golang.org/x/sync/singleflight`.
//!
//! The first caller becomes the leader, and later ones wait for its result. Unlike in the Go
//! package, a leader determines until when its result may be shared: it is *open* at first, then
//! *validating*, and *closed* before it re-checks its result. A caller that finds it closed waits
//! for a successor, which starts from the beginning as soon as this leader has completed. So a
//! caller that does not have to retry waits for at most two results, however many callers there are.
//!
//! The types enforce the order of the phases: a [`Leader<Closed>`](Leader) is made from an open or
//! a validating one, no method leads back, and only a closed leader completes.
//!
//! A leader that has nothing to re-check its result by must be closed before it validates. If the
//! re-check fails, callers that joined after the validation started get
//! [`WaitResult::Retry`].
//!
//! `tests/model/src/leader.rs` models this.

use std::{
    collections::{
        HashMap,
        hash_map::{self, VacantEntry},
    },
    hash::Hash,
    marker::PhantomData,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::watch;
use tracing::Span;

use super::mutex::lock;
use crate::telemetry::Gauge;

/// The calls in progress, by key; clones share them.
pub(crate) struct Group<K, T>(Arc<Table<K, T>>);

struct Table<K, T> {
    entries: Mutex<HashMap<K, Entry<T>>>,
    /// How many keys may have a call in progress.
    limit: usize,
    completions: AtomicU64,
    gauge: Gauge,
}

struct Entry<T> {
    phase: Phase,
    result: Receiver<T>,
    /// For callers that joined after this leader was closed.
    successor: Option<Successor<T>>,
}

struct Successor<T> {
    sender: Sender<T>,
    span: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Validating,
    Closed,
}

#[derive(Clone)]
struct Completion<T> {
    result: T,
    /// Whether the result also holds for callers that joined after the validation started.
    is_rechecked: bool,
}

type Sender<T> = watch::Sender<Option<Completion<T>>>;
type Receiver<T> = watch::Receiver<Option<Completion<T>>>;

/// Role of a caller that joins.
pub(crate) enum Role<K: Clone + Eq + Hash, T> {
    /// No call is in progress. The caller must complete one, in a task that owns the leader. If
    /// `is_fresh`, no call of any key has completed since the caller read
    /// [`completions`](Group::completions), so what it has looked up since then counts.
    Leader {
        leader: Leader<K, T, Open>,
        waiter: Waiter<T>,
        is_fresh: bool,
    },
    /// The caller waits for a call that started earlier, or for the successor of that call.
    Waiter(Waiter<T>),
    /// Too many keys have a call in progress.
    Rejected,
}

impl<K, T> Clone for Group<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Group<K, T> {
    /// Creates a group for up to `limit` keys at the same time. The gauge counts the keys in
    /// progress.
    pub(crate) fn new(limit: usize, gauge: Gauge) -> Self {
        Self(Arc::new(Table {
            entries: Mutex::default(),
            limit,
            completions: AtomicU64::default(),
            gauge,
        }))
    }

    /// Returns the number of keys in progress.
    pub(crate) fn len(&self) -> u64 {
        self.0.gauge.get()
    }

    /// Whether a call of a further key would be rejected.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.0.entries).len() >= self.0.limit
    }

    /// Returns the number of completed calls. Must be read before a lookup.
    pub(crate) fn completions(&self) -> u64 {
        self.0.completions.load(SeqCst)
    }

    /// Joins the call of a key, or starts one.
    pub(crate) fn join(&self, key: K, completions: u64) -> Role<K, T> {
        let mut entries = lock(&self.0.entries);
        let is_full = entries.len() >= self.0.limit;
        match entries.entry(key) {
            hash_map::Entry::Occupied(mut entry) => {
                let entry = entry.get_mut();
                Role::Waiter(match entry.phase {
                    Phase::Open | Phase::Validating => Waiter {
                        result: entry.result.clone(),
                        is_early: entry.phase == Phase::Open,
                    },
                    Phase::Closed => Waiter {
                        result: entry
                            .successor
                            .get_or_insert_with(|| Successor {
                                sender: watch::Sender::new(None),
                                span: Span::current(),
                            })
                            .sender
                            .subscribe(),
                        is_early: true,
                    },
                })
            }
            hash_map::Entry::Vacant(_) if is_full => Role::Rejected,
            hash_map::Entry::Vacant(entry) => {
                let (leader, result) = self.insert(entry);
                Role::Leader {
                    leader,
                    waiter: Waiter {
                        result,
                        is_early: true,
                    },
                    // Compare under the lock, which a leader takes to complete.
                    is_fresh: self.completions() == completions,
                }
            }
        }
    }

    /// Starts a call that no caller waits for yet. Returns `None` if the key has one already, or if
    /// too many keys have one.
    pub(crate) fn try_lead(&self, key: K) -> Option<Leader<K, T, Open>> {
        let mut entries = lock(&self.0.entries);
        let is_full = entries.len() >= self.0.limit;
        match entries.entry(key) {
            hash_map::Entry::Vacant(entry) if !is_full => Some(self.insert(entry).0),
            hash_map::Entry::Vacant(_) | hash_map::Entry::Occupied(_) => None,
        }
    }

    /// Starts a call that no other caller can join.
    pub(crate) fn lead_detached(&self) -> (Leader<K, T, Open>, Waiter<T>) {
        let (sender, result) = watch::channel(None);
        let waiter = Waiter {
            result,
            is_early: true,
        };
        (self.leader(None, sender, Span::current()), waiter)
    }

    fn insert(&self, entry: VacantEntry<'_, K, Entry<T>>) -> (Leader<K, T, Open>, Receiver<T>) {
        let (sender, result) = watch::channel(None);
        self.0.gauge.increment();
        let leader = self.leader(Some(entry.key().clone()), sender, Span::current());
        entry.insert(Entry::open(result.clone()));
        (leader, result)
    }

    fn leader(&self, key: Option<K>, sender: Sender<T>, span: Span) -> Leader<K, T, Open> {
        Leader {
            call: Call {
                table: Arc::clone(&self.0),
                key,
                sender,
                span,
            },
            phase: PhantomData,
        }
    }
}

impl<T> Entry<T> {
    fn open(result: Receiver<T>) -> Self {
        Self {
            phase: Phase::Open,
            result,
            successor: None,
        }
    }
}

/// A leader that has not started to validate. A caller that joins shares its result.
pub(crate) enum Open {}
/// A leader that validates. A caller that joins shares its result if that is re-checked.
pub(crate) enum Validating {}
/// A leader whose result no further caller shares.
pub(crate) enum Closed {}

/// Obligation to complete a call. If it is dropped without a result, for example by a panic, the
/// callers that wait for it and for its successor are abandoned.
pub(crate) struct Leader<K: Clone + Eq + Hash, T, P> {
    call: Call<K, T>,
    phase: PhantomData<P>,
}

struct Call<K: Clone + Eq + Hash, T> {
    table: Arc<Table<K, T>>,
    /// `None` for a call that no other caller can join, and once it is removed from the table.
    key: Option<K>,
    sender: Sender<T>,
    /// Span of the first caller that waits for it.
    span: Span,
}

impl<K: Clone + Eq + Hash, T, P> Leader<K, T, P> {
    /// Returns the span of the first caller that waits, in which the call is made.
    pub(crate) fn span(&self) -> Span {
        self.call.span.clone()
    }

    fn enter<Q>(self, phase: Phase) -> Leader<K, T, Q> {
        if let Some(key) = &self.call.key
            && let Some(entry) = lock(&self.call.table.entries).get_mut(key)
        {
            entry.phase = phase;
        }
        Leader {
            call: self.call,
            phase: PhantomData,
        }
    }
}

impl<K: Clone + Eq + Hash, T> Leader<K, T, Open> {
    /// Starts the validation: its result is shared with further callers if it is re-checked.
    pub(crate) fn start_validation(self) -> Leader<K, T, Validating> {
        self.enter(Phase::Validating)
    }

    /// Closes the call to further callers.
    pub(crate) fn close(self) -> Leader<K, T, Closed> {
        self.enter(Phase::Closed)
    }
}

impl<K: Clone + Eq + Hash, T> Leader<K, T, Validating> {
    /// Closes the call to further callers, before its result is re-checked.
    pub(crate) fn close(self) -> Leader<K, T, Closed> {
        self.enter(Phase::Closed)
    }
}

impl<K: Clone + Eq + Hash, T> Leader<K, T, Closed> {
    /// Returns whether a caller waits for the result.
    pub(crate) fn is_awaited(&self) -> bool {
        // The table has a receiver as well.
        let of_table = usize::from(self.call.key.is_some());
        self.call.sender.receiver_count() > of_table
    }

    /// Sends the result to all callers that wait for it. If callers wait for the successor, returns
    /// it, and the caller of this function must complete it.
    #[must_use]
    pub(crate) fn complete(mut self, result: T, is_rechecked: bool) -> Option<Leader<K, T, Open>> {
        // Remove the call first. A caller that wakes up and looks again must not find it.
        let successor = self.call.remove();
        self.call.sender.send_replace(Some(Completion {
            result,
            is_rechecked,
        }));
        successor.map(|call| Leader {
            call,
            phase: PhantomData,
        })
    }
}

impl<K: Clone + Eq + Hash, T> Call<K, T> {
    /// Removes the call, and puts the successor in its place if there is one.
    fn remove(&mut self) -> Option<Self> {
        let key = self.key.take()?;
        let mut entries = lock(&self.table.entries);
        self.table.completions.fetch_add(1, SeqCst);
        let successor = entries
            .get_mut(&key)
            .and_then(|entry| entry.successor.take());
        let Some(Successor { sender, span }) = successor else {
            entries.remove(&key);
            self.table.gauge.decrement();
            return None;
        };
        entries.insert(key.clone(), Entry::open(sender.subscribe()));
        Some(Self {
            table: Arc::clone(&self.table),
            key: Some(key),
            sender,
            span,
        })
    }
}

impl<K: Clone + Eq + Hash, T> Drop for Call<K, T> {
    fn drop(&mut self) {
        // No leader is left for the successor, so the successor ends here as well.
        drop(self.remove());
    }
}

/// Awaits the result of a call. Dropping it does not affect other callers.
pub(crate) struct Waiter<T> {
    result: Receiver<T>,
    is_early: bool,
}

/// Result of waiting.
pub(crate) enum WaitResult<T> {
    Done(T),
    /// The result does not hold for a caller that joined as late as this one, which must look
    /// again.
    Retry,
    /// The leader was dropped without a result.
    Abandoned,
}

impl<T: Clone> Waiter<T> {
    pub(crate) async fn wait(mut self) -> WaitResult<T> {
        let Ok(completion) = self.result.wait_for(Option::is_some).await else {
            return WaitResult::Abandoned;
        };
        match &*completion {
            Some(completion) if completion.is_rechecked || self.is_early => {
                WaitResult::Done(completion.result.clone())
            }
            Some(_) => WaitResult::Retry,
            None => WaitResult::Abandoned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::VALIDATIONS_IN_FLIGHT;

    fn group() -> Group<&'static str, u32> {
        Group::new(2, Gauge::new(VALIDATIONS_IN_FLIGHT))
    }

    fn lead(group: &Group<&'static str, u32>) -> Leader<&'static str, u32, Open> {
        group.try_lead("key").expect("no call is in progress")
    }

    fn join(group: &Group<&'static str, u32>) -> Waiter<u32> {
        match group.join("key", group.completions()) {
            Role::Waiter(waiter) => waiter,
            Role::Leader { .. } | Role::Rejected => panic!("a call is in progress"),
        }
    }

    async fn result(waiter: Waiter<u32>) -> Option<u32> {
        match waiter.wait().await {
            WaitResult::Done(result) => Some(result),
            WaitResult::Retry => None,
            WaitResult::Abandoned => panic!("abandoned"),
        }
    }

    #[tokio::test]
    async fn result_without_recheck_is_shared_only_with_early_callers() {
        let group = group();
        let leader = lead(&group);
        let early = join(&group);
        let leader = leader.start_validation();
        let late = join(&group);
        assert!(leader.close().complete(1, false).is_none());
        assert_eq!(result(early).await, Some(1));
        assert_eq!(result(late).await, None);
    }

    #[tokio::test]
    async fn rechecked_result_is_shared_with_callers_during_validation() {
        let group = group();
        let leader = lead(&group).start_validation();
        let late = join(&group);
        assert!(leader.close().complete(1, true).is_none());
        assert_eq!(result(late).await, Some(1));
    }

    #[tokio::test]
    async fn caller_of_a_closed_call_waits_for_its_successor() {
        let group = group();
        for is_validating in [false, true] {
            let leader = match is_validating {
                false => lead(&group).close(),
                true => lead(&group).start_validation().close(),
            };
            let late = join(&group);
            let successor = leader.complete(1, true).expect("a caller waits");
            assert_eq!(group.len(), 1);
            assert!(successor.close().complete(2, true).is_none());
            assert_eq!(result(late).await, Some(2));
            assert_eq!(group.len(), 0);
        }
    }

    #[tokio::test]
    async fn dropped_leader_abandons_its_and_its_successors_callers() {
        let group = group();
        let leader = lead(&group);
        let early = join(&group);
        let leader = leader.close();
        let late = join(&group);
        drop(leader);
        for waiter in [early, late] {
            assert!(matches!(waiter.wait().await, WaitResult::Abandoned));
        }
        assert_eq!(group.len(), 0);
        assert!(group.try_lead("key").is_some());
    }

    #[test]
    fn full_group_rejects_further_keys_and_still_lets_callers_join() {
        let group = group();
        let _leaders = (group.try_lead("a"), group.try_lead("key"));
        assert!(group.try_lead("b").is_none());
        assert!(matches!(group.join("b", 0), Role::Rejected));
        drop(join(&group));
    }

    #[test]
    fn leader_is_fresh_unless_a_call_completed_since() {
        let group = group();
        let before = group.completions();
        drop(lead(&group));
        let is_fresh = |completions| match group.join("key", completions) {
            Role::Leader { is_fresh, .. } => is_fresh,
            Role::Waiter(_) | Role::Rejected => panic!("no call is in progress"),
        };
        assert!(!is_fresh(before));
        assert!(is_fresh(group.completions()));
    }
}
