//! Client of the sentinels, which name the primary.
//!
//! The sentinels are asked before every connection, and once a second in addition: an old primary
//! that is cut off from them still answers each client that reaches it, and only the sentinels
//! report that another one has taken over. They need not agree. Each failover has an epoch, so the
//! newest reply counts. A minority of them whose epoch is older than one received before does not
//! count.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bb8_redis::redis::{ErrorKind, RedisError, pipe};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time,
};

use super::{
    connect::{Connection, Server, connect, connection_config},
    url::{AddressMap, at},
};
use crate::{
    redis::error::with_hint,
    sync::{BackgroundTask, lock},
    telemetry::REDIS,
};

/// Interval between two times that all sentinels are asked.
const PERIOD: Duration = Duration::from_secs(1);

/// The sentinels of one primary. They are asked until this value is dropped.
pub(crate) struct SentinelClient {
    group: Arc<SentinelSet>,
    task: BackgroundTask,
}

struct SentinelSet {
    sentinels: Vec<Arc<Sentinel>>,
    /// The name of the primary at the sentinels.
    name: String,
    /// How to connect to the primary, at whatever address.
    connection_info: Server,
    address_map: AddressMap,
    /// Timeout for the reply of each sentinel.
    timeout: Duration,
    view: watch::Sender<PrimaryView>,
    term_counter: Arc<AtomicU64>,
    asked: Notify,
}

/// The latest result of asking the sentinels.
#[derive(Default)]
struct PrimaryView {
    newest: Option<Primary>,
    trouble: Option<RedisError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Primary {
    /// Epoch of the failover that made it the primary.
    epoch: u64,
    host: String,
    port: u16,
}

/// Term of a primary, which ends when the sentinels name another one.
#[derive(Clone)]
pub(crate) struct PrimaryTerm {
    term_counter: Arc<AtomicU64>,
    number: u64,
}

impl PrimaryTerm {
    pub(crate) fn is_over(&self) -> bool {
        self.term_counter.load(SeqCst) != self.number
    }
}

impl SentinelClient {
    /// Creates a client. It asks the sentinels on first use. `connection_info` says how to connect
    /// to the primary; its address is replaced.
    pub(crate) fn new(
        sentinels: Vec<Server>,
        name: String,
        connection_info: Server,
        address_map: AddressMap,
        connect_timeout: Duration,
    ) -> Self {
        // The rest of the time is for the connection to the primary.
        let timeout = connect_timeout / 2;
        let sentinels = sentinels
            .into_iter()
            .map(|server| Arc::new(Sentinel::new(server)))
            .collect();
        Self {
            group: Arc::new(SentinelSet {
                sentinels,
                name,
                connection_info,
                address_map,
                timeout,
                view: watch::Sender::default(),
                term_counter: Arc::default(),
                asked: Notify::new(),
            }),
            task: BackgroundTask::default(),
        }
    }

    /// Returns the name of the primary at the sentinels.
    pub(crate) fn name(&self) -> &str {
        &self.group.name
    }

    pub(crate) fn connection_info(&self) -> &Server {
        &self.group.connection_info
    }

    /// Asks the sentinels. Fails if none of them replies, or none that can know the primary.
    pub(crate) async fn primary(&self) -> Result<(Server, PrimaryTerm), RedisError> {
        let group = &self.group;
        let mut view = group.view.subscribe();
        self.task.start(|| Arc::clone(group).ask_again_and_again());
        group.asked.notify_one();
        // This value owns the sender, so there is always a next view.
        let _ = view.changed().await;
        let view = view.borrow();
        match (&view.newest, &view.trouble) {
            (Some(primary), None) => {
                let term = PrimaryTerm {
                    term_counter: Arc::clone(&group.term_counter),
                    number: group.term_counter.load(SeqCst),
                };
                let (how, map) = (&group.connection_info, &group.address_map);
                Ok((at(how, map, &primary.host, primary.port), term))
            }
            (_, trouble) => Err((
                ErrorKind::MasterNameNotFoundBySentinel,
                "no sentinel reported the primary; check `RedisConfig::sentinel` (usually \
                 REDIS_SENTINEL_URLS and REDIS_SENTINEL_MASTER)",
                trouble.as_ref().map(with_hint).unwrap_or_default(),
            )
                .into()),
        }
    }
}

impl SentinelSet {
    async fn ask_again_and_again(self: Arc<Self>) {
        loop {
            self.ask_all().await;
            let _ = time::timeout(PERIOD, self.asked.notified()).await;
        }
    }

    async fn ask_all(&self) {
        let mut asked = JoinSet::new();
        for sentinel in &self.sentinels {
            let (sentinel, name) = (Arc::clone(sentinel), self.name.clone());
            let timeout = self.timeout;
            asked.spawn(async move { sentinel.ask(&name, timeout).await });
        }
        let (mut answers, mut trouble) = (Vec::new(), None);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(primary)) => answers.push(primary),
                Ok(Err(error)) => trouble = Some(error),
                // The runtime is shutting down.
                Err(_) => return,
            }
            // Decide as soon as a majority has replied, so that a sentinel that is cut off delays
            // no connection. If its reply is newer, it counts when it arrives.
            if self.is_majority(answers.len()) || asked.is_empty() {
                self.decide(&answers, trouble.as_ref());
            }
        }
    }

    fn is_majority(&self, count: usize) -> bool {
        count > self.sentinels.len() / 2
    }

    fn decide(&self, answers: &[Primary], trouble: Option<&RedisError>) {
        let votes = |primary: &Primary| answers.iter().filter(|other| *other == primary).count();
        let newest = answers
            .iter()
            .max_by_key(|primary| (primary.epoch, votes(primary)));
        self.view.send_modify(|view| {
            let known = view.newest.as_ref();
            view.trouble = match newest {
                None => Some(trouble.cloned().unwrap_or_else(timeout_message)),
                // Sentinels that were set up again count epochs from zero, but then all of them do.
                // So a majority with an older epoch is accepted.
                Some(newest)
                    if !self.is_majority(answers.len())
                        && known.is_some_and(|known| newest.epoch < known.epoch) =>
                {
                    Some(
                        (
                            ErrorKind::MasterNameNotFoundBySentinel,
                            "the reachable sentinels have missed a failover",
                        )
                            .into(),
                    )
                }
                Some(newest) => {
                    if known.is_some_and(|known| !known.is_where(newest)) {
                        // The counter must change before the view is visible, because a reader
                        // takes the number after it has read the view.
                        self.term_counter.fetch_add(1, SeqCst);
                        let primary = format!("{}:{}", newest.host, newest.port);
                        tracing::info!(target: REDIS, primary, "sentinels reported a new primary");
                    }
                    view.newest = Some(newest.clone());
                    None
                }
            };
        });
    }
}

impl Primary {
    fn is_where(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

/// A sentinel, and the connection that is kept to it.
struct Sentinel {
    server: Server,
    connection: Mutex<Option<Connection>>,
}

impl Sentinel {
    fn new(server: Server) -> Self {
        // Sentinels have no databases.
        let settings = server.redis_settings().clone().set_db(0);
        Self {
            server: server.map(|info| info.set_redis_settings(settings)),
            connection: Mutex::default(),
        }
    }

    async fn ask(&self, name: &str, timeout: Duration) -> Result<Primary, RedisError> {
        let answer = time::timeout(timeout, self.answer(name, timeout)).await;
        let answer = answer.unwrap_or_else(|_| Err(timeout_message()));
        if answer.is_err() {
            *lock(&self.connection) = None;
        }
        answer
    }

    async fn answer(&self, name: &str, timeout: Duration) -> Result<Primary, RedisError> {
        let kept = lock(&self.connection).clone();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect(timeout).await?,
        };
        // Ask for the epoch first: if a failover comes in between, the address is newer than the
        // epoch, and not older.
        let (fields, address): (HashMap<String, String>, Option<(String, u16)>) = pipe()
            .cmd("SENTINEL")
            .arg("MASTER")
            .arg(name)
            .cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(name)
            .query_async(&mut connection)
            .await?;
        let epoch = fields.get("config-epoch").and_then(|it| it.parse().ok());
        let (Some(epoch), Some((host, port))) = (epoch, address) else {
            return Err((
                ErrorKind::UnexpectedReturnType,
                "unexpected reply of a sentinel",
            )
                .into());
        };
        Ok(Primary { epoch, host, port })
    }

    async fn connect(&self, timeout: Duration) -> Result<Connection, RedisError> {
        let connection = connect(self.server.clone(), &connection_config(timeout)).await?;
        *lock(&self.connection) = Some(connection.clone());
        Ok(connection)
    }
}

fn timeout_message() -> RedisError {
    (ErrorKind::Io, "no reply within the timeout").into()
}

impl fmt::Debug for SentinelClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelClient").finish_non_exhaustive()
    }
}
