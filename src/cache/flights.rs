//! Validations in flight: who may join one, and who must wait for the next.
//!
//! One flight per token, namespace and layer, in a bounded table: what one layer's validator says
//! must not be served by a layer with other rules. A flight is *open* until its re-check
//! begins: a request that arrives before shares the answer, since nothing was revoked that the
//! re-check will not see. Once it is *closed* a later request might have begun after a revocation
//! that the flight has missed. It joins the next flight instead, which begins with a lookup of its
//! own as soon as this one has landed; so nobody waits for more than two, however many come.
//!
//! Without Redis's answers there is nothing to re-check by. A flight whose own lookup got none is
//! closed as soon as its validation begins, and if it is the re-check that gets none, those who
//! joined after the validation began start again.
//!
//! `tests/model/src/flight.rs` is the model of this.

use std::{
    collections::{
        HashMap,
        hash_map::{Entry, VacantEntry},
    },
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::watch;
use tracing::Span;

use super::{SessionCache, key::EntryKey, meter::Level, stats::IN_FLIGHT};
use crate::{log, outcome::Outcome};

/// Beyond this many tokens in validation at once, requests for others are answered with 503.
const MAX_FLIGHTS: usize = 16_384;

pub(crate) struct Flights {
    table: Mutex<HashMap<FlightKey, Listed>>,
    landings: AtomicU64,
    level: Level,
}

/// The session that is validated, and the layer whose rules it is validated by.
type FlightKey = (EntryKey, u64);

struct Listed {
    phase: Phase,
    end: watch::Receiver<Option<Landed>>,
    /// The flight after this one, of those who came too late.
    next: Option<Next>,
}

struct Next {
    sender: watch::Sender<Option<Landed>>,
    span: Span,
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
    /// The answer of a flight that began earlier, or of the one after it.
    Join(Landing),
    /// Too many flights.
    Full,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            landings: AtomicU64::default(),
            level: Level::new(IN_FLIGHT),
        }
    }
}

impl Flights {
    pub(super) fn len(&self) -> u64 {
        self.level.read()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<FlightKey, Listed>> {
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
    pub(crate) fn board(&self, key: &EntryKey, landings: u64) -> Boarding {
        let mut table = self.shared.flights.table();
        let full = table.len() >= MAX_FLIGHTS;
        match table.entry((key.clone(), self.rules)) {
            Entry::Occupied(mut listed) => {
                let listed = listed.get_mut();
                Boarding::Join(match listed.phase {
                    Phase::Boarding | Phase::Validating => Landing {
                        end: listed.end.clone(),
                        is_early: listed.phase == Phase::Boarding,
                    },
                    Phase::Closed => Landing {
                        end: listed
                            .next
                            .get_or_insert_with(|| Next {
                                sender: watch::Sender::new(None),
                                span: Span::current(),
                            })
                            .sender
                            .subscribe(),
                        is_early: true,
                    },
                })
            }
            Entry::Vacant(_) if full => Boarding::Full,
            Entry::Vacant(place) => {
                let (flight, end) = self.list(place);
                Boarding::Begin {
                    flight,
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

    /// Begins a flight that nobody waits for; nothing if the token has one, or there are too many.
    pub(crate) fn board_nobody(&self, key: &EntryKey) -> Option<Flight> {
        let mut table = self.shared.flights.table();
        let full = table.len() >= MAX_FLIGHTS;
        match table.entry((key.clone(), self.rules)) {
            Entry::Vacant(place) if !full => Some(self.list(place).0),
            Entry::Vacant(_) | Entry::Occupied(_) => None,
        }
    }

    fn list(
        &self,
        place: VacantEntry<'_, FlightKey, Listed>,
    ) -> (Flight, watch::Receiver<Option<Landed>>) {
        let (sender, end) = watch::channel(None);
        self.shared.flights.level.up();
        let flight = Flight {
            cache: self.clone(),
            listed: Some(place.key().clone()),
            sender,
            span: Span::current(),
        };
        place.insert(Listed {
            phase: Phase::Boarding,
            end: end.clone(),
            next: None,
        });
        (flight, end)
    }

    /// A flight for one request alone.
    pub(crate) fn fly_alone(&self) -> (Flight, Landing) {
        let (sender, end) = watch::channel(None);
        let flight = Flight {
            cache: self.clone(),
            listed: None,
            sender,
            span: Span::current(),
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
    listed: Option<FlightKey>,
    sender: watch::Sender<Option<Landed>>,
    /// Of the first who waits for it.
    span: Span,
}

impl Flight {
    /// In which everything happens that the flight does.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// The validation begins, after a lookup that was answered or not.
    pub(crate) fn take_off(&self, is_answered: bool) {
        self.change(|listed| {
            // One that was closed already stays so.
            if listed.phase == Phase::Boarding {
                listed.phase = if is_answered {
                    Phase::Validating
                } else {
                    Phase::Closed
                };
            }
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

    /// Answers everyone who joined. The next flight, if somebody waits for it, is the caller's
    /// duty as well.
    #[must_use]
    pub(crate) fn land(mut self, outcome: Outcome, is_checked: bool) -> Option<Self> {
        // Off the table first: who wakes up and looks again must not find this flight.
        let next = self.unlist();
        self.sender.send_replace(Some(Landed {
            outcome,
            is_checked,
        }));
        next
    }

    /// Makes room for the next flight, or for none.
    fn unlist(&mut self) -> Option<Self> {
        let key = self.listed.take()?;
        let flights = &self.cache.shared.flights;
        let mut table = flights.table();
        flights.landings.fetch_add(1, SeqCst);
        let next = table.get_mut(&key).and_then(|listed| listed.next.take());
        let Some(Next { sender, span }) = next else {
            table.remove(&key);
            flights.level.down();
            return None;
        };
        let listed = Listed {
            phase: Phase::Boarding,
            end: sender.subscribe(),
            next: None,
        };
        table.insert(key.clone(), listed);
        Some(Self {
            cache: self.cache.clone(),
            listed: Some(key),
            sender,
            span,
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                target: log::VALIDATION,
                "a session validator panicked; its requests are answered with 503"
            );
        }
        // The next flight has nobody to fly it, so it ends here as well.
        drop(self.unlist());
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
