//! The primaries of a Redis Cluster, and which of them holds a key.
//!
//! Each primary has links of its own, made as those of a single server are. So it is known of every
//! answer in which run its server is, and a record is never taken from another run than the one
//! that stored it, not even in the first moment after a failover. (redis-rs's own cluster client
//! reconnects and redirects without a word, so with it the runs could only be guessed at.)
//! And each has a breaker of its own, so that one that is dead does not take the others along.

mod map;
mod slots;
mod survey;
mod view;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use bb8_redis::redis::{Cmd, ConnectionInfo, ErrorKind, ServerErrorKind};
use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use self::{map::Map, view::Address};
use super::{
    address::at,
    met::Met,
    names::Names,
    pool::{Answer, Deadlines, Link, Links, Missed, Terms},
    server::Server,
    servers::Heard,
};
use crate::sync::{BackgroundTask, lock};

/// So often a command is sent on; more are a cluster that does not know itself.
const MAX_HOPS: usize = 5;

/// Servers that commands were sent on to and that the map does not have yet.
const MAX_STRAYS: usize = 64;

pub(super) struct Cluster {
    /// The nodes that were named, by which the others are found.
    seeds: Vec<ConnectionInfo>,
    deadlines: Deadlines,
    names: Names,
    met: Arc<Met>,
    known: watch::Sender<Known>,
    strays: Mutex<HashMap<Address, Links>>,
    /// The latest epoch of the cluster's own that was seen.
    epoch: AtomicU64,
    /// Asks for a look at the cluster ahead of the next.
    look: Arc<Notify>,
    survey: BackgroundTask,
}

enum Known {
    /// Nobody has looked yet.
    Nothing,
    /// No node has told so far.
    Lost,
    Map(Arc<Map>),
}

impl Cluster {
    /// Connects on first use.
    pub(super) fn new(
        seeds: Vec<ConnectionInfo>,
        deadlines: Deadlines,
        names: Names,
        met: Arc<Met>,
    ) -> Self {
        Self {
            seeds,
            deadlines,
            names,
            met,
            known: watch::Sender::new(Known::Nothing),
            strays: Mutex::default(),
            epoch: AtomicU64::new(0),
            look: Arc::default(),
            survey: BackgroundTask::default(),
        }
    }

    /// Whether no command has a chance now.
    pub(super) fn is_skipped(&self) -> bool {
        match &*self.known.borrow() {
            Known::Nothing => false,
            Known::Lost => true,
            Known::Map(map) => map.owners().all(|owner| owner.links.is_skipped()),
        }
    }

    /// Asks the server that holds the key, wherever the cluster says that it is.
    pub(super) async fn ask<'c>(
        self: &Arc<Self>,
        mut terms: Terms,
        key: &str,
        command: impl Fn(&Link) -> Cow<'c, Cmd>,
    ) -> Result<Answer, Missed> {
        let map = self.map(terms.until).await.ok_or(Missed::Unanswered)?;
        let Some(owner) = map.owner(slots::slot(key)) else {
            self.look.notify_one();
            return Err(Missed::Unanswered);
        };
        let (mut address, mut links) = (owner.address.clone(), owner.links.clone());
        let mut before: Option<Arc<str>> = None;
        for _ in 0..MAX_HOPS {
            let (error, run) = match links.ask(terms, &command).await {
                Ok(answer) => return Ok(answer.by_way_of(before)),
                Err(Missed::Elsewhere { error, run }) => (error, run),
                Err(Missed::Unanswered) => {
                    self.look.notify_one();
                    return Err(Missed::Unanswered);
                }
            };
            let next = error.redirect_node();
            let Some(next) = next.and_then(|(node, _)| Address::parse(node, &address)) else {
                return Err(Missed::Elsewhere { error, run });
            };
            terms.is_asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            if terms.is_asking {
                before = Some(run);
            } else {
                before = None;
                self.met.moved();
                self.look.notify_one();
            }
            links = self.server(&map, &next).ok_or(Missed::Unanswered)?;
            address = next;
        }
        Err(Missed::Unanswered)
    }

    /// Whether each slot has a primary, and each of these answers.
    pub(super) async fn all_answer(self: &Arc<Self>, terms: Terms, command: &Cmd) -> bool {
        let Some(map) = self.map(terms.until).await else {
            return false;
        };
        let asked = map.owners().map(async |owner| {
            let answer = owner.links.ask(terms, |_| Cow::Borrowed(command)).await;
            answer.is_ok()
        });
        map.is_whole() && join_all(asked).await.into_iter().all(|answers| answers)
    }

    /// All primaries, also those that hold nothing yet: a slot may be on its way to them.
    pub(super) async fn heard(self: &Arc<Self>, until: Instant, nonce: u64) -> (u64, Vec<Heard>) {
        let turn = self.turn(until).await.unwrap_or_default();
        let Some(map) = self.map(until).await else {
            return (turn, Vec::new());
        };
        let heard = map.primaries.iter().map(|primary| Heard {
            server: Server::Named(Box::new(self.connection_info(&primary.address))),
            probe: map.key_on(&primary.address, |n| {
                self.names.probe(nonce.wrapping_add(n))
            }),
        });
        (turn, heard.collect())
    }

    /// Once the cluster is known: until then it is met for the first time.
    pub(super) async fn turn(self: &Arc<Self>, until: Instant) -> Option<u64> {
        self.map(until).await?;
        Some(self.met.turn())
    }

    async fn map(self: &Arc<Self>, until: Instant) -> Option<Arc<Map>> {
        // Timers and connections need a runtime.
        Handle::try_current().ok()?;
        self.survey
            .start(|| survey::watch(Arc::downgrade(self), Arc::clone(&self.look)));
        if let Some(map) = self.known.borrow().map() {
            return Some(map);
        }
        let mut known = self.known.subscribe();
        let is_known = known.wait_for(|known| !matches!(known, Known::Nothing));
        timeout_at(until, is_known).await.ok()?.ok()?.map()
    }

    /// A server that a command was sent on to.
    fn server(&self, map: &Map, address: &Address) -> Option<Links> {
        if let Some(links) = map.links(address) {
            return Some(links);
        }
        let mut strays = lock(&self.strays);
        if let Some(links) = strays.get(address) {
            return Some(links.clone());
        }
        if strays.len() >= MAX_STRAYS {
            return None;
        }
        let links = self.links(address);
        strays.insert(address.clone(), links.clone());
        Some(links)
    }

    fn links(&self, address: &Address) -> Links {
        let server = Server::Named(Box::new(self.connection_info(address)));
        let (probe, met) = (self.names.write_probe(), Arc::clone(&self.met));
        Links::new(server, self.deadlines, probe, met)
    }

    /// As the first of the named nodes, but for its address.
    fn connection_info(&self, address: &Address) -> ConnectionInfo {
        at(&self.seeds[0], &address.host, address.port)
    }
}

impl Known {
    fn map(&self) -> Option<Arc<Map>> {
        match self {
            Self::Map(map) => Some(Arc::clone(map)),
            Self::Nothing | Self::Lost => None,
        }
    }
}

impl Answer {
    /// While a slot is on its way, what is not on the one server may be on the other, so that the
    /// answer depends on both.
    fn by_way_of(self, before: Option<Arc<str>>) -> Self {
        match before {
            None => self,
            Some(before) => Self {
                run: format!("{before}>{}", self.run).into(),
                ..self
            },
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("deadlines", &self.deadlines)
            .finish_non_exhaustive()
    }
}
