//! Where the keys are: on one server, or on the primaries of a cluster.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bb8_redis::redis::ConnectionInfo;
use bb8_redis::redis::{Cmd, cmd};
use tokio::time::Instant;

use super::{
    batch::Batches,
    replicas::{Replicas, Wanted},
};
use crate::{
    coherence::Lease,
    protocol::Stamp,
    redis::{
        config::{Deployment, ReplicaWait},
        connection::{
            Answer, CommandError, Deadlines, Effect, Link, Links, Met, Terms, Unanswered,
        },
        endpoint::{Heard, Sentinels, Server},
        keys::Names,
        scripts::Script,
        topology::cluster::Cluster,
    },
    telemetry::RedisMetrics,
};

/// What a cache is told about where Redis is.
pub(crate) enum Place {
    /// And how many replicas of it are to have a revocation.
    Server(Server, Option<Wanted>),
    /// Some of the nodes, by which the others are found.
    Cluster(Vec<ConnectionInfo>),
}

impl Place {
    pub(crate) fn new(
        deployment: Deployment,
        database: u16,
        replicas: Option<ReplicaWait>,
        connect_timeout: Duration,
    ) -> Self {
        let server = match deployment {
            Deployment::Single(url) => Server::Named(Box::new(url.server(database))),
            Deployment::Sentinel {
                sentinels,
                name,
                primary,
            } => {
                let how = primary.server(database);
                let sentinels = Sentinels::new(sentinels, name, how, connect_timeout);
                Server::Elected(Arc::new(sentinels))
            }
            Deployment::Cluster(nodes) => return Self::Cluster(nodes),
        };
        let replicas = replicas.map(|ReplicaWait { replicas, timeout }| Wanted {
            replicas,
            patience: timeout,
        });
        Self::Server(server, replicas)
    }
}

#[derive(Clone)]
pub(crate) struct Servers {
    met: Arc<Met>,
    deadlines: Deadlines,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    One(Arc<One>),
    Cluster(Arc<Cluster>),
}

struct One {
    server: Server,
    links: Links,
    batches: Batches,
    replicas: Option<Replicas>,
}

/// One operation, however many commands it takes: all are answered by one deadline.
pub(crate) struct Call<'a> {
    servers: &'a Servers,
    terms: Terms,
}

impl Servers {
    /// Connects on first use.
    pub(crate) fn new(
        place: Place,
        deadlines: Deadlines,
        names: &Names,
        lease: Option<Arc<Lease>>,
    ) -> Self {
        let (met, kind);
        match place {
            Place::Server(server, replicas) => {
                met = Arc::new(Met::new(lease, false));
                let (probe, met) = (names.write_probe(), Arc::clone(&met));
                let links = Links::new(server.clone(), deadlines, probe, met);
                kind = Kind::One(Arc::new(One {
                    server,
                    batches: Batches::new(links.clone()),
                    links,
                    replicas: replicas.map(Replicas::new),
                }));
            }
            Place::Cluster(nodes) => {
                met = Arc::new(Met::new(lease, true));
                let met = Arc::clone(&met);
                let cluster = Cluster::new(nodes, deadlines, names.clone(), met);
                kind = Kind::Cluster(Arc::new(cluster));
            }
        }
        Self {
            met,
            deadlines,
            kind,
        }
    }

    /// Whether record and mark may be on different servers.
    pub(crate) fn are_many(&self) -> bool {
        self.met.is_cluster()
    }

    pub(crate) fn is_skipped(&self) -> bool {
        match &self.kind {
            Kind::One(one) => one.links.is_skipped(),
            Kind::Cluster(cluster) => cluster.is_skipped(),
        }
    }

    pub(crate) fn metrics(&self) -> &RedisMetrics {
        &self.met.metrics
    }

    pub(crate) fn floor(&self) -> Stamp {
        self.met.floor()
    }

    /// Begins an operation, and with it its deadline.
    pub(crate) fn call(&self, effect: Effect) -> Call<'_> {
        Call {
            servers: self,
            terms: Terms::new(effect, Instant::now() + self.deadlines.call),
        }
    }

    /// By which lookups travel together, where one server holds all that they ask for.
    pub(crate) fn batches(&self) -> Option<&Batches> {
        match &self.kind {
            Kind::One(one) => Some(&one.batches),
            Kind::Cluster(_) => None,
        }
    }

    /// How many replicas have what these runs of the server took, if that was asked for.
    pub(crate) async fn replicas(&self, runs: &[Arc<str>]) -> Option<u32> {
        match &self.kind {
            Kind::One(one) => Some(one.replicas.as_ref()?.have(&one.links, runs).await),
            Kind::Cluster(_) => None,
        }
    }

    /// All that hold keys or may be given some, as of a turn of who holds what.
    pub(crate) async fn heard(&self, names: &Names, nonce: u64) -> (u64, Vec<Heard>) {
        match &self.kind {
            Kind::One(one) => {
                let (server, probe) = (one.server.clone(), Some(names.probe(nonce)));
                (self.met.turn(), vec![Heard { server, probe }])
            }
            Kind::Cluster(cluster) => {
                let until = Instant::now() + self.deadlines.connect;
                cluster.heard(until, nonce).await
            }
        }
    }

    /// Whether these are still the runs that lookups meet, and of a cluster the turn is the same.
    pub(crate) fn lead_to<'a>(&self, turn: u64, mut runs: impl Iterator<Item = &'a str>) -> bool {
        (!self.are_many() || self.met.turn() == turn) && runs.all(|run| self.met.has_met(run))
    }
}

impl Call<'_> {
    /// When it ends.
    pub(crate) fn until(&self) -> Instant {
        self.terms.until
    }

    /// Runs a script.
    pub(crate) async fn run(
        &self,
        script: Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Answer, Unanswered> {
        let answer = self.run_together(script, keys, arguments).await?;
        answer.ok_or(Unanswered)
    }

    /// Runs a script over keys of one slot, or nothing at all while the slot moves and they are
    /// not in one place.
    pub(crate) async fn run_together(
        &self,
        script: Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Option<Answer>, Unanswered> {
        let key = keys.first().copied().unwrap_or_default();
        let answer = self.ask(key, |link| Cow::Owned(link.script(script, keys, arguments)));
        match answer.await {
            Ok(answer) => Ok(Some(answer)),
            Err(CommandError::Redirected { .. }) => Ok(None),
            Err(CommandError::Unavailable(_)) => Err(Unanswered),
        }
    }

    /// Changes with whatever may have changed about who holds what.
    pub(crate) async fn turn(&self) -> Result<u64, Unanswered> {
        match &self.servers.kind {
            Kind::One(_) => Ok(self.servers.met.turn()),
            Kind::Cluster(cluster) => cluster.turn(self.terms.until).await.ok_or(Unanswered),
        }
    }

    /// Sends a command to the server that holds the key.
    pub(crate) async fn send(&self, key: &str, command: &Cmd) -> Result<Answer, Unanswered> {
        let answer = self.ask(key, |_| Cow::Borrowed(command));
        answer.await.map_err(|_| Unanswered)
    }

    /// Whether all servers answer.
    pub(crate) async fn reaches_all(&self) -> bool {
        let ping = cmd("PING");
        match &self.servers.kind {
            Kind::One(_) => self.send("", &ping).await.is_ok(),
            Kind::Cluster(cluster) => Box::pin(cluster.all_answer(self.terms, &ping)).await,
        }
    }

    async fn ask<'c>(
        &self,
        key: &str,
        command: impl Fn(&Link) -> Cow<'c, Cmd>,
    ) -> Result<Answer, CommandError> {
        match &self.servers.kind {
            Kind::One(one) => one.links.ask(self.terms, command).await,
            // Boxed, so that one server need not carry the room for it.
            Kind::Cluster(cluster) => Box::pin(cluster.ask(self.terms, key, command)).await,
        }
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::One(one) => one.links.fmt(f),
            Kind::Cluster(cluster) => cluster.fmt(f),
        }
    }
}
