//! Connections to one Redis: few, shared, and never waited for longer than the timeout.
//!
//! bb8 keeps the connections; what it cannot know is told by a manager of our own. Its stock one
//! either asks each connection for a PING before use, or never finds out that one has died. Here
//! a link carries a flag that is set on the first I/O error or timeout, so checking costs nothing
//! and the pool heals after a restart. A link is cloned out of the pool and given back at once:
//! each multiplexes all its callers, so a slow caller keeps nobody waiting. The clones are kept at
//! hand, for even a pool that always has one asks for a lock and a timer.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use bb8_redis::{
    bb8::{ManageConnection, Pool, RunError},
    redis::{
        AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value,
        aio::MultiplexedConnection, cmd, pipe,
    },
};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    breaker::{Breaker, Effect},
    info::{field, identity},
    met::Met,
    scripts::{SCRIPTS, Script},
    sentinel::Term,
    server::Server,
    trouble::told,
};
use crate::telemetry::{GaugeGuard, REDIS};
use crate::{
    protocol::Stamp,
    sync::{Backoff, lock},
};

/// Between two attempts to reach a Redis that did not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Two connections carry as many commands as one Redis answers.
const LINKS: u32 = 2;

/// Redis did not answer in time, or not as it should.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unanswered;

/// Why a server gave no answer.
pub(super) enum Missed {
    Unanswered,
    /// As a server of a cluster says it, in this run: the keys are on another one, or on their
    /// way to it.
    Elsewhere {
        error: RedisError,
        run: Arc<str>,
    },
}

/// A reply, and the run of the server that gave it.
pub(super) struct Answer {
    pub(super) value: Value,
    pub(super) run: Arc<str>,
}

impl Answer {
    /// While a slot is on its way, what is not on the one server may be on the other, so that the
    /// answer depends on both.
    pub(super) fn by_way_of(self, before: Option<Arc<str>>) -> Self {
        match before {
            None => self,
            Some(before) => Self {
                run: format!("{before}>{}", self.run).into(),
                ..self
            },
        }
    }
}

/// To one server.
#[derive(Clone)]
pub(super) struct Links(Arc<Inner>);

/// What one operation may do, and until when: however many commands it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) effect: Effect,
    pub(super) until: Instant,
    /// Whether to send it to a server that the slot of its keys is on its way to.
    pub(super) is_asking: bool,
}

/// How long what may be waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// Making a connection, until it has loaded the scripts.
    pub(crate) connect: Duration,
    /// A call's wait for a connection.
    pub(crate) checkout: Duration,
    /// A call as a whole.
    pub(crate) call: Duration,
}

struct Inner {
    /// Made on first use, since bb8 connects at once, which takes a runtime.
    pool: OnceLock<Pool<Manager>>,
    manager: Manager,
    /// The links in use. Who sends a command takes the next of these in turn, and asks the pool
    /// only for what is missing or has died.
    links: [Mutex<Option<Link>>; LINKS as usize],
    turn: AtomicUsize,
    shared: Arc<Shared>,
    breaker: Breaker,
    deadlines: Deadlines,
    /// A key of our own, written to find out whether the server takes writes again.
    probe: Mutex<String>,
}

/// What all links know of their server.
struct Shared {
    met: Arc<Met>,
    /// Why the last connection failed.
    trouble: Mutex<Option<String>>,
    /// What is to be said of a server that says nothing.
    silence: &'static str,
}

#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    facts: Arc<Facts>,
}

/// What all clones of a link share.
struct Facts {
    is_dead: AtomicBool,
    hashes: Vec<String>,
    run: Arc<str>,
    /// While sentinels name its server.
    term: Option<Term>,
    _open: GaugeGuard,
}

#[derive(Clone)]
pub(super) struct Manager {
    server: Server,
    config: AsyncConnectionConfig,
    deadline: Duration,
    shared: Arc<Shared>,
}

impl Links {
    /// Connects on first use.
    pub(super) fn new(server: Server, deadlines: Deadlines, probe: String, met: Arc<Met>) -> Self {
        let shared = Arc::new(Shared {
            met,
            trouble: Mutex::default(),
            silence: server.silence(),
        });
        let manager = Manager {
            server,
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(deadlines.connect))
                // Ours covers the wait for a connection as well.
                .set_response_timeout(None),
            deadline: deadlines.connect,
            shared: Arc::clone(&shared),
        };
        Self(Arc::new(Inner {
            pool: OnceLock::new(),
            manager,
            links: Default::default(),
            turn: AtomicUsize::new(0),
            shared,
            breaker: Breaker::default(),
            deadlines,
            probe: Mutex::new(probe),
        }))
    }

    pub(super) fn is_skipped(&self) -> bool {
        self.0.breaker.is_open()
    }

    /// A connection beside those that all share.
    pub(super) fn pool_of_one(&self, patience: Duration) -> Pool<Manager> {
        self.0.pool_of(1, patience)
    }

    pub(super) fn deadline(&self) -> Duration {
        self.0.deadlines.call
    }

    /// The name of a key that anybody may write.
    pub(super) fn probe(&self) -> String {
        lock(&self.0.probe).clone()
    }

    /// Asks once more where a link turns out to be dead, for all that is asked can be repeated.
    pub(super) async fn ask<'c>(
        &self,
        terms: Terms,
        command: impl Fn(&Link) -> Cow<'c, Cmd>,
    ) -> Result<Answer, Missed> {
        let inner = &self.0;
        let breaker = &inner.breaker;
        // Timers and connections need a runtime.
        if breaker.is_open() || Handle::try_current().is_err() {
            return Err(Missed::Unanswered);
        }
        let metrics = &inner.shared.met.metrics;
        let _in_flight = metrics.commands_in_flight.guard();
        match inner.attempt(terms, command).await {
            Ok(answer) => {
                breaker.succeeded(terms.effect);
                Ok(answer)
            }
            Err(Failure::Elsewhere { error, run }) => Err(Missed::Elsewhere { error, run }),
            Err(Failure::Trouble(trouble)) => {
                metrics.errors.increment();
                if breaker.failed(terms.effect) {
                    tracing::warn!(
                        target: REDIS,
                        error = trouble,
                        server = %inner.manager.server,
                        "Redis does not answer as it should, so every session is validated; check \
                         that it runs and takes writes, and host, port, user and password in the \
                         URL that `SessionCacheBuilder::redis` was given (usually REDIS_URL)"
                    );
                    tokio::spawn(close_when_it_answers(Arc::downgrade(inner)));
                }
                Err(Missed::Unanswered)
            }
        }
    }

    /// The key to write from now on, since the one before has moved to another server.
    pub(super) fn probe_by(&self, key: String) {
        *lock(&self.0.probe) = key;
    }

    /// Whether the server is still in the run in which its links found it. A link of another run is
    /// used no more: the next one meets the server anew.
    pub(super) async fn is_as_met(&self, until: Instant) -> bool {
        let terms = Terms {
            effect: Effect::Reads,
            until,
            is_asking: false,
        };
        let info = |_: &Link| Cow::Owned(cmd("INFO"));
        let Ok(Answer { value, run }) = self.0.attempt(terms, info).await else {
            return false;
        };
        let is_as_met = bb8_redis::redis::from_redis_value::<String>(value)
            .is_ok_and(|info| field(&info, "role") == "master" && identity(&info) == run);
        if !is_as_met {
            for place in &self.0.links {
                if let Some(link) = lock(place).take() {
                    link.facts.is_dead.store(true, SeqCst);
                }
            }
        }
        is_as_met
    }
}

/// What came of an attempt instead of an answer.
enum Failure {
    Trouble(String),
    Elsewhere { error: RedisError, run: Arc<str> },
}

/// Asks until there is an answer, or nobody left who wants one.
async fn close_when_it_answers(links: Weak<Inner>) {
    let mut backoff = Backoff::new(FIRST_PAUSE);
    loop {
        tokio::time::sleep(backoff.pause(MAX_PAUSE)).await;
        let Some(links) = links.upgrade() else { return };
        // A write, which a server refuses that is full, cannot save, or has become a replica.
        let terms = Terms {
            effect: Effect::Writes,
            until: Instant::now() + links.deadlines.call,
            is_asking: false,
        };
        let key = lock(&links.probe).clone();
        let probe = |link: &Link| Cow::Owned(link.script(Script::Probe, &[&key], &[]));
        // Also one that sends us elsewhere answers.
        if !matches!(links.attempt(terms, probe).await, Err(Failure::Trouble(_))) {
            links.breaker.close();
            tracing::info!(target: REDIS, "Redis answers again");
            return;
        }
    }
}

impl Inner {
    fn pool(&self) -> &Pool<Manager> {
        self.pool
            .get_or_init(|| self.pool_of(LINKS, self.deadlines.checkout))
    }

    fn pool_of(&self, links: u32, patience: Duration) -> Pool<Manager> {
        Pool::builder()
            .max_size(links)
            // Or the pool would never grow: every guard is back at once.
            .min_idle(links)
            .test_on_check_out(true)
            .max_lifetime(None)
            .idle_timeout(None)
            .connection_timeout(patience)
            .retry_connection(false)
            .build_unchecked(self.manager.clone())
    }

    async fn link(&self) -> Result<Link, RunError<RedisError>> {
        let turn = self.turn.fetch_add(1, Relaxed) % self.links.len();
        let place = &self.links[turn];
        if let Some(link) = lock(place).as_ref().filter(|link| !link.is_dead()) {
            return Ok(link.clone());
        }
        // Boxed, as all that is rare, so that a command need not carry the room for it.
        let link = Box::pin(self.pool().get()).await?.clone();
        *lock(place) = Some(link.clone());
        Ok(link)
    }

    /// One command within the deadline; the error says what went wrong.
    async fn attempt<'c>(
        &self,
        terms: Terms,
        command: impl Fn(&Link) -> Cow<'c, Cmd>,
    ) -> Result<Answer, Failure> {
        let mut used: Option<Arc<Facts>> = None;
        timeout_at(terms.until, async {
            // Every link may have died together with its server.
            for _ in 0..=LINKS {
                let mut link = match self.link().await {
                    Ok(link) => link,
                    Err(RunError::User(error)) => return Err(Failure::Trouble(told(&error))),
                    Err(RunError::TimedOut) => return Err(Failure::Trouble(self.shared.trouble())),
                };
                used = Some(Arc::clone(&link.facts));
                match link.query(terms.is_asking, &command).await {
                    Ok(value) => {
                        return Ok(Answer {
                            value,
                            run: Arc::clone(&link.facts.run),
                        });
                    }
                    Err(error) if error.is_io_error() => link.facts.is_dead.store(true, SeqCst),
                    Err(error) if self.shared.met.is_cluster() && is_elsewhere(&error) => {
                        let run = Arc::clone(&link.facts.run);
                        return Err(Failure::Elsewhere { error, run });
                    }
                    Err(error) => {
                        if error.is_unrecoverable_error()
                            || is_server_error(&error, ServerErrorKind::ReadOnly)
                        {
                            link.facts.is_dead.store(true, SeqCst);
                        }
                        return Err(Failure::Trouble(told(&error)));
                    }
                }
            }
            let trouble = "its connections end as soon as they are used";
            Err(Failure::Trouble(trouble.to_owned()))
        })
        .await
        .unwrap_or_else(|_| {
            // The answer may still come, but to nobody; a frozen server looks the same.
            if let Some(facts) = &used {
                facts.is_dead.store(true, SeqCst);
            }
            Err(Failure::Trouble(self.shared.trouble()))
        })
    }
}

fn is_server_error(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

/// Whether a cluster's server sends us to another one.
fn is_elsewhere(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    [Moved, Ask, TryAgain]
        .into_iter()
        .any(|kind| is_server_error(error, kind))
}

impl Link {
    pub(super) fn run(&self) -> &Arc<str> {
        &self.facts.run
    }

    /// The run of the server is handed to the script as its last argument.
    pub(super) fn script(&self, script: Script, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.facts.hashes[script as usize])
            .arg(keys.len());
        call.arg(keys).arg(arguments).arg(&*self.facts.run);
        call
    }

    fn is_dead(&self) -> bool {
        let Facts { is_dead, term, .. } = &*self.facts;
        is_dead.load(SeqCst) || term.as_ref().is_some_and(Term::is_over)
    }

    /// It is used no more.
    pub(super) fn give_up(&self) {
        self.facts.is_dead.store(true, SeqCst);
    }

    pub(super) async fn query<'c>(
        &mut self,
        is_asking: bool,
        command: impl Fn(&Self) -> Cow<'c, Cmd>,
    ) -> Result<Value, RedisError> {
        match self.send(is_asking, &command(self)).await {
            Err(error) if is_server_error(&error, ServerErrorKind::NoScript) => {
                // Somebody has flushed them; the same text has the same hash again.
                Box::pin(load_scripts(&mut self.connection)).await?;
                self.send(is_asking, &command(self)).await
            }
            answer => answer,
        }
    }

    async fn send(&mut self, is_asking: bool, command: &Cmd) -> Result<Value, RedisError> {
        if !is_asking {
            // Not `send_packed_command`, which hands error replies out as values.
            return command.query_async(&mut self.connection).await;
        }
        // In one piece, since it holds for the very next command of the connection, and others
        // use that as well.
        let mut asking = pipe();
        asking.cmd("ASKING").add_command(command.clone());
        let answers = Box::pin(self.connection.send_packed_commands(&asking, 1, 1)).await?;
        let answer = answers.into_iter().next().unwrap_or(Value::Nil);
        answer.extract_error()
    }
}

async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<Vec<String>, RedisError> {
    let mut load = pipe();
    for code in SCRIPTS {
        load.cmd("SCRIPT").arg("LOAD").arg(code);
    }
    load.query_async(connection).await
}

impl ManageConnection for Manager {
    type Connection = Link;
    type Error = RedisError;

    async fn connect(&self) -> Result<Link, RedisError> {
        // All of it, since a server that is frozen accepts connections and goes no further.
        let link = timeout(self.deadline, self.link())
            .await
            .unwrap_or_else(|_| Err((ErrorKind::Io, self.shared.silence).into()));
        *lock(&self.shared.trouble) = link.as_ref().err().map(told);
        link
    }

    async fn is_valid(&self, link: &mut Link) -> Result<(), RedisError> {
        if link.is_dead() {
            return Err((ErrorKind::Io, "the connection has died").into());
        }
        Ok(())
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.is_dead()
    }
}

impl Manager {
    async fn link(&self) -> Result<Link, RedisError> {
        let (server, term) = self.server.find().await?;
        let mut connection = Client::open(server)?
            .get_multiplexed_async_connection_with_config(&self.config)
            .await?;
        let hashes = load_scripts(&mut connection).await?;
        let (info, time): (String, (i64, i64)) = pipe()
            .cmd("INFO")
            .cmd("TIME")
            .query_async(&mut connection)
            .await?;
        if field(&info, "role") == "slave" {
            return Err((
                ErrorKind::Server(ServerErrorKind::ReadOnly),
                "this server is a replica, which hears of revocations late and takes none; name \
                 the primary",
            )
                .into());
        }
        let run = self.shared.meet(&info, Stamp::from_redis_time(time));
        Ok(Link {
            connection,
            facts: Arc::new(Facts {
                is_dead: AtomicBool::new(false),
                hashes,
                run,
                term,
                _open: self.shared.met.metrics.connections.guard(),
            }),
        })
    }
}

impl Shared {
    /// Names the run of a server, before it serves.
    fn meet(&self, info: &str, now: Stamp) -> Arc<str> {
        let field = |name| field(info, name);
        // What revokes has a longer life than what it revokes; eviction does not care.
        let policy = field("maxmemory_policy");
        if !matches!(policy, "" | "noeviction") && !matches!(field("maxmemory"), "" | "0") {
            self.met.warn_of_eviction(policy);
        }
        let run = identity(info);
        self.met.meet(&run, now);
        run
    }

    fn trouble(&self) -> String {
        lock(&self.trouble)
            .clone()
            .unwrap_or_else(|| self.silence.to_owned())
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("deadlines", &self.0.deadlines)
            .field("breaker", &self.0.breaker)
            .finish_non_exhaustive()
    }
}
