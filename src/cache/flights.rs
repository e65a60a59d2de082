//! Validations in flight: who may join one, and who must wait for its end and look again.
//!
//! One flight per token and namespace, in a bounded table. A flight is *open* until its re-check
//! begins: a request that arrives before shares the answer, since nothing was revoked that the
//! re-check will not see. Once it is *closed* a later request might have begun after a revocation
//! that the flight has missed, so it waits for the end and starts with a lookup of its own.
//!
//! Without Redis's answers there is nothing to re-check by. A flight whose own lookup got none
//! takes only joiners whose lookup got none either, and if it is the re-check that gets none,
//! those who joined after the validation began start again.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::watch;

use super::{SessionCache, key::EntryKey};
use crate::outcome::Outcome;

/// Beyond this many tokens in validation at once, requests for others are answered with 503.
const MAX_FLIGHTS: usize = 16_384;

#[derive(Default)]
pub(crate) struct Flights {
    table: Mutex<HashMap<EntryKey, Listed>>,
    landings: AtomicU64,
}

struct Listed {
    phase: Phase,
    /// Whether the lookup before the flight was answered.
    is_answered: bool,
    end: watch::Receiver<Option<Landed>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Boarding,
    Validating,
    Closed,
}

/// How a flight ended.
#[derive(Clone)]
struct Landed {
    outcome: Outcome,
    /// Whether it holds for those, too, who joined after the validation began.
    is_checked: bool,
}

/// How a request comes to an answer.
pub(crate) enum Boarding {
    /// Nobody asks for this token: the caller must, in a task that owns the flight. If `is_fresh`
    /// its lookup counts, for no flight has landed since.
    Begin {
        flight: Flight,
        landing: Landing,
        is_fresh: bool,
    },
    /// The answer of a flight that began earlier.
    Join(Landing),
    /// A flight that takes no one any more: wait for its end, then look the token up again.
    Late(Landing),
    /// Too many flights.
    Full,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<EntryKey, Listed>> {
        // No code under this lock panics half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionCache {
    /// How many flights have landed; to be noted before a lookup.
    pub(crate) fn landings(&self) -> u64 {
        self.shared.flights.landings.load(SeqCst)
    }

    /// Joins the flight of a token, or begins it.
    pub(crate) fn board(&self, key: &EntryKey, is_answered: bool, landings: u64) -> Boarding {
        let mut table = self.shared.flights.table();
        let full = table.len() >= MAX_FLIGHTS;
        match table.entry(key.clone()) {
            Entry::Occupied(listed) => {
                let listed = listed.get();
                let landing = Landing {
                    end: listed.end.clone(),
                    is_early: listed.phase == Phase::Boarding,
                };
                if listed.phase == Phase::Closed || (is_answered && !listed.is_answered) {
                    Boarding::Late(landing)
                } else {
                    Boarding::Join(landing)
                }
            }
            Entry::Vacant(_) if full => Boarding::Full,
            Entry::Vacant(place) => {
                let (sender, end) = watch::channel(None);
                place.insert(Listed {
                    phase: Phase::Boarding,
                    is_answered,
                    end: end.clone(),
                });
                Boarding::Begin {
                    flight: Flight {
                        cache: self.clone(),
                        listed: Some(key.clone()),
                        sender,
                    },
                    landing: Landing {
                        end,
                        is_early: true,
                    },
                    // Under the lock, in which flights land.
                    is_fresh: self.landings() == landings,
                }
            }
        }
    }

    /// A flight for one request alone.
    pub(crate) fn fly_alone(&self) -> (Flight, Landing) {
        let (sender, end) = watch::channel(None);
        let flight = Flight {
            cache: self.clone(),
            listed: None,
            sender,
        };
        let landing = Landing {
            end,
            is_early: true,
        };
        (flight, landing)
    }
}

/// The duty to answer everyone who joined. Dropped without an answer, as by a panic, it tells
/// them so.
pub(crate) struct Flight {
    cache: SessionCache,
    listed: Option<EntryKey>,
    sender: watch::Sender<Option<Landed>>,
}

impl Flight {
    /// The validation begins, after a lookup that was answered or not.
    pub(crate) fn take_off(&self, is_answered: bool) {
        self.change(|listed| {
            // One that was closed already stays so.
            if listed.phase == Phase::Boarding {
                listed.phase = Phase::Validating;
            }
            listed.is_answered = is_answered;
        });
    }

    /// Takes no one any more.
    pub(crate) fn close(&self) {
        self.change(|listed| listed.phase = Phase::Closed);
    }

    fn change(&self, change: impl FnOnce(&mut Listed)) {
        if let Some(key) = &self.listed
            && let Some(listed) = self.cache.shared.flights.table().get_mut(key)
        {
            change(listed);
        }
    }

    pub(crate) fn land(mut self, outcome: Outcome, is_checked: bool) {
        // Off the table first: who wakes up and looks again must not find this flight.
        self.unlist();
        self.sender.send_replace(Some(Landed {
            outcome,
            is_checked,
        }));
    }

    fn unlist(&mut self) {
        if let Some(key) = self.listed.take() {
            let flights = &self.cache.shared.flights;
            let mut table = flights.table();
            table.remove(&key);
            flights.landings.fetch_add(1, SeqCst);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a session validator panicked; its requests are answered with 503");
        }
        self.unlist();
    }
}

/// The end of a flight, to be awaited. Dropping it disturbs nobody.
pub(crate) struct Landing {
    end: watch::Receiver<Option<Landed>>,
    is_early: bool,
}

/// What a flight says to one of those who waited for it.
pub(crate) enum Arrival {
    Outcome(Outcome),
    /// It does not count for who joined as late as this one: look again.
    TooLate,
    /// It ended without an answer.
    Crashed,
}

impl Landing {
    pub(crate) async fn arrival(mut self) -> Arrival {
        let Ok(landed) = self.end.wait_for(Option::is_some).await else {
            return Arrival::Crashed;
        };
        match &*landed {
            Some(landed) if landed.is_checked || self.is_early => {
                Arrival::Outcome(landed.outcome.clone())
            }
            Some(_) => Arrival::TooLate,
            None => Arrival::Crashed,
        }
    }
}
