//! Validations in flight: who may join one, and who must wait for its end and look again.
//!
//! One flight per token and namespace, in a bounded table. A flight is *open* while its validator
//! is asked: a request that arrives then shares the answer, since nothing was revoked that the
//! flight's own re-check will not see. Once that re-check begins the flight is *closed*: a later
//! request might have begun after a revocation that the flight has missed, so it waits for the
//! end and starts with a lookup of its own.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{SessionCache, key::EntryKey};
use crate::outcome::Outcome;

/// Beyond this many tokens in validation at once, requests for others are answered with 503.
const MAX_FLIGHTS: usize = 16_384;

#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<EntryKey, Listed>>);

struct Listed {
    open: bool,
    end: watch::Receiver<Option<Outcome>>,
}

/// How a request comes to an answer.
pub(crate) enum Boarding {
    /// Nobody asks for this token: the caller must, in a task that owns the flight.
    Begin(Flight, Landing),
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionCache {
    /// Joins the flight of a token, or begins it.
    pub(crate) fn board(&self, key: &EntryKey) -> Boarding {
        let mut table = self.shared.flights.table();
        let full = table.len() >= MAX_FLIGHTS;
        match table.entry(key.clone()) {
            Entry::Occupied(listed) => {
                let landing = Landing(listed.get().end.clone());
                if listed.get().open {
                    Boarding::Join(landing)
                } else {
                    Boarding::Late(landing)
                }
            }
            Entry::Vacant(_) if full => Boarding::Full,
            Entry::Vacant(place) => {
                let (sender, end) = watch::channel(None);
                place.insert(Listed {
                    open: true,
                    end: end.clone(),
                });
                let flight = Flight {
                    cache: self.clone(),
                    listed: Some(key.clone()),
                    sender,
                };
                Boarding::Begin(flight, Landing(end))
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
        (flight, Landing(end))
    }
}

/// The duty to answer everyone who joined. Dropped without an answer, as by a panic, it tells
/// them so.
pub(crate) struct Flight {
    cache: SessionCache,
    listed: Option<EntryKey>,
    sender: watch::Sender<Option<Outcome>>,
}

impl Flight {
    /// Takes no one any more.
    pub(crate) fn close(&self) {
        if let Some(key) = &self.listed
            && let Some(listed) = self.cache.shared.flights.table().get_mut(key)
        {
            listed.open = false;
        }
    }

    pub(crate) fn land(mut self, outcome: Outcome) {
        // Off the table first: who wakes up and looks again must not find this flight.
        self.unlist();
        self.sender.send_replace(Some(outcome));
    }

    fn unlist(&mut self) {
        if let Some(key) = self.listed.take() {
            self.cache.shared.flights.table().remove(&key);
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
pub(crate) struct Landing(watch::Receiver<Option<Outcome>>);

impl Landing {
    /// The answer, or nothing when the flight ended without one.
    pub(crate) async fn outcome(mut self) -> Option<Outcome> {
        let landed = self.0.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}
