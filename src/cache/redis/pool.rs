//! Connections to one Redis: few, shared, and never waited for longer than the deadline.
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
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicI64, AtomicUsize,
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
    scripts::{SCRIPTS, Script},
    sentinel::Term,
    server::Server,
    trouble::told,
};
use crate::{
    cache::{accept::SLACK, lease::Lease, meter::Held, stamp::Stamp, stats::RedisMeter},
    log::REDIS,
};

/// Between two attempts to reach a Redis that did not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Two connections carry as many commands as one Redis answers.
const LINKS: u32 = 2;

/// Redis did not answer in time, or not as it should.
#[derive(Clone, Copy, Debug)]
pub(in crate::cache) struct Unanswered;

/// A reply, and the run of the server that gave it.
pub(super) struct Answer {
    pub(super) value: Value,
    pub(super) run: Arc<str>,
}

#[derive(Clone)]
pub(super) struct Links(Arc<Inner>);

/// One operation, however many commands it takes: all are answered by one deadline.
pub(super) struct Call<'a> {
    links: &'a Links,
    effect: Effect,
    until: Instant,
}

/// How long what may be waited for.
#[derive(Clone, Copy, Debug)]
pub(in crate::cache) struct Deadlines {
    /// Making a connection, until it has loaded the scripts.
    pub(in crate::cache) connect: Duration,
    /// A call's wait for a connection.
    pub(in crate::cache) checkout: Duration,
    /// A call as a whole.
    pub(in crate::cache) call: Duration,
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
    probe: String,
}

/// What all links know of their server.
#[derive(Default)]
struct Shared {
    /// Ends when another server is met: what was read before may be missing what it has lost.
    lease: Option<Arc<Lease>>,
    /// The run and replication ids of the server that was connected last.
    server: Mutex<Option<Arc<str>>>,
    /// Records up to this time may be missing a mark that a failover or restart has lost.
    floor: AtomicI64,
    /// Why the last connection failed.
    trouble: Mutex<Option<String>>,
    /// What is to be said of a server that says nothing.
    silence: &'static str,
    /// Whether it was said that the server may evict what we need.
    has_warned_of_eviction: AtomicBool,
    meter: RedisMeter,
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
    _open: Held,
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
    pub(super) fn new(
        server: Server,
        deadlines: Deadlines,
        probe: String,
        lease: Option<Arc<Lease>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            lease,
            silence: server.silence(),
            ..Shared::default()
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
            probe,
        }))
    }

    pub(super) fn is_skipped(&self) -> bool {
        self.0.breaker.is_open()
    }

    pub(super) fn meter(&self) -> &RedisMeter {
        &self.0.shared.meter
    }

    /// A connection beside those that all share.
    pub(super) fn pool_of_one(&self, patience: Duration) -> Pool<Manager> {
        self.0.pool_of(1, patience)
    }

    pub(super) fn deadline(&self) -> Duration {
        self.0.deadlines.call
    }

    /// The name of a key that anybody may write.
    pub(super) fn probe(&self) -> &str {
        &self.0.probe
    }

    pub(super) fn floor(&self) -> Stamp {
        Stamp(self.0.shared.floor.load(SeqCst))
    }

    /// Whether this run is that of the server which was connected last.
    pub(super) fn lead_to(&self, run: &str) -> bool {
        lock(&self.0.shared.server).as_deref() == Some(run)
    }

    /// Begins an operation, and with it its deadline.
    pub(super) fn call(&self, effect: Effect) -> Call<'_> {
        self.call_until(effect, Instant::now() + self.0.deadlines.call)
    }

    /// The same for who began at another time.
    pub(super) fn call_until(&self, effect: Effect, until: Instant) -> Call<'_> {
        Call {
            links: self,
            effect,
            until,
        }
    }
}

impl Call<'_> {
    /// When it ends.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Runs a script; once more where a link turns out to be dead, for all ours can be repeated.
    /// The run of the server is handed to it as its last argument.
    pub(super) async fn run(
        &self,
        script: Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Answer, Unanswered> {
        self.within_deadline(|link| Cow::Owned(link.script(script, keys, arguments)))
            .await
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Answer, Unanswered> {
        self.within_deadline(|_| Cow::Borrowed(command)).await
    }

    async fn within_deadline<'c>(
        &self,
        command: impl Fn(&Link) -> Cow<'c, Cmd>,
    ) -> Result<Answer, Unanswered> {
        let inner = &self.links.0;
        let breaker = &inner.breaker;
        // Timers and connections need a runtime.
        if breaker.is_open() || Handle::try_current().is_err() {
            return Err(Unanswered);
        }
        let _in_use = inner.shared.meter.in_use.hold();
        match inner.attempt(self.until, command).await {
            Ok(answer) => {
                breaker.succeeded(self.effect);
                Ok(answer)
            }
            Err(trouble) => {
                inner.shared.meter.unanswered.add();
                if breaker.failed(self.effect) {
                    tracing::warn!(
                        target: REDIS,
                        trouble,
                        "Redis does not answer as it should, so every session is validated; check \
                         that it runs and takes writes, and host, port, user and password in the \
                         URL that `SessionCacheBuilder::redis` was given (usually REDIS_URL)"
                    );
                    tokio::spawn(close_when_it_answers(Arc::downgrade(inner)));
                }
                Err(Unanswered)
            }
        }
    }
}

/// Asks until there is an answer, or nobody left who wants one.
async fn close_when_it_answers(links: Weak<Inner>) {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let Some(links) = links.upgrade() else { return };
        let until = Instant::now() + links.deadlines.call;
        // A write, which a server refuses that is full, cannot save, or has become a replica.
        let probe = |link: &Link| Cow::Owned(link.script(Script::Probe, &[&links.probe], &[]));
        if links.attempt(until, probe).await.is_ok() {
            links.breaker.close();
            tracing::info!(target: REDIS, "Redis answers again");
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
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
        let link = self.pool().get().await?.clone();
        *lock(place) = Some(link.clone());
        Ok(link)
    }

    /// One command within the deadline; the error says what went wrong.
    async fn attempt<'c>(
        &self,
        until: Instant,
        command: impl Fn(&Link) -> Cow<'c, Cmd>,
    ) -> Result<Answer, String> {
        let mut used: Option<Arc<Facts>> = None;
        timeout_at(until, async {
            // Every link may have died together with its server.
            for _ in 0..=LINKS {
                let mut link = match self.link().await {
                    Ok(link) => link,
                    Err(RunError::User(error)) => return Err(told(&error)),
                    Err(RunError::TimedOut) => return Err(self.shared.trouble()),
                };
                used = Some(Arc::clone(&link.facts));
                match link.query(&command).await {
                    Ok(value) => {
                        return Ok(Answer {
                            value,
                            run: Arc::clone(&link.facts.run),
                        });
                    }
                    Err(error) if error.is_io_error() => link.facts.is_dead.store(true, SeqCst),
                    Err(error) => {
                        if error.is_unrecoverable_error()
                            || is_server_error(&error, ServerErrorKind::ReadOnly)
                        {
                            link.facts.is_dead.store(true, SeqCst);
                        }
                        return Err(told(&error));
                    }
                }
            }
            Err("its connections end as soon as they are used".to_owned())
        })
        .await
        .unwrap_or_else(|_| {
            // The answer may still come, but to nobody; a frozen server looks the same.
            if let Some(facts) = &used {
                facts.is_dead.store(true, SeqCst);
            }
            Err(self.shared.trouble())
        })
    }
}

fn is_server_error(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

impl Link {
    pub(super) fn run(&self) -> &Arc<str> {
        &self.facts.run
    }

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
        command: impl Fn(&Self) -> Cow<'c, Cmd>,
    ) -> Result<Value, RedisError> {
        // Not `send_packed_command`, which hands error replies out as values.
        match command(self).query_async(&mut self.connection).await {
            Err(error) if is_server_error(&error, ServerErrorKind::NoScript) => {
                // Somebody has flushed them; the same text has the same hash again.
                load_scripts(&mut self.connection).await?;
                command(self).query_async(&mut self.connection).await
            }
            answer => answer,
        }
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
        let (info, (seconds, micros)): (String, (i64, i64)) = pipe()
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
        let now = Stamp(seconds.saturating_mul(1_000_000).saturating_add(micros));
        let run = self.shared.met(&info, now);
        Ok(Link {
            connection,
            facts: Arc::new(Facts {
                is_dead: AtomicBool::new(false),
                hashes,
                run,
                term,
                _open: self.shared.meter.connections.hold(),
            }),
        })
    }
}

impl Shared {
    /// Names the run of a server, and raises the floor when it is another than before.
    fn met(&self, info: &str, now: Stamp) -> Arc<str> {
        let field = |name| field(info, name);
        // What revokes has a longer life than what it revokes; eviction does not care.
        let policy = field("maxmemory_policy");
        let evicts =
            !matches!(policy, "" | "noeviction") && !matches!(field("maxmemory"), "" | "0");
        if evicts && !self.has_warned_of_eviction.swap(true, SeqCst) {
            tracing::warn!(
                target: REDIS,
                policy,
                "Redis may evict the marks of users and the tombstones of tokens, and with them \
                 revocations; set its maxmemory-policy to noeviction, or leave it memory to spare"
            );
        }
        let server = identity(info);
        let mut known = lock(&self.server);
        let before = known.replace(Arc::clone(&server));
        if before.is_some_and(|before| before != server) {
            self.floor.fetch_max(now.plus(SLACK).0, SeqCst);
            if let Some(lease) = &self.lease {
                lease.lose();
            }
            tracing::warn!(
                target: REDIS,
                "another Redis answers than before, or it was restarted: what was cached until \
                 now is validated again, since revocations may have been lost"
            );
        }
        server
    }

    fn trouble(&self) -> String {
        lock(&self.trouble)
            .clone()
            .unwrap_or_else(|| self.silence.to_owned())
    }
}

/// A field of INFO's reply, empty if there is none.
pub(super) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
}

/// Names the run of a server. One that is promoted keeps its run id and gets a new replication id.
pub(super) fn identity(info: &str) -> Arc<str> {
    let ids = [field(info, "run_id"), field(info, "master_replid")];
    ids.map(|id| id.get(..12).unwrap_or(id)).concat().into()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // No code under these locks panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("deadlines", &self.0.deadlines)
            .field("breaker", &self.0.breaker)
            .finish_non_exhaustive()
    }
}
