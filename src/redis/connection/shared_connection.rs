//! Multiplexed connection that all callers share, and the state of its server.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use bb8_redis::redis::{
    Cmd, ErrorKind, RedisError, ServerErrorKind, Value, aio::ConnectionLike, cmd, pipe,
};
use tokio::time::{Instant, timeout};

use super::server_registry::Registration;
use crate::{
    redis::{
        endpoint::{Connection, Login, PrimaryTerm},
        scripts::{SCRIPTS, Script},
    },
    telemetry::GaugeGuard,
};

/// Time without a reply after which a connection is tested before its next use. A load balancer or
/// NAT may have dropped it, and reports that to neither side.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct SharedConnection {
    pub(crate) connection: Connection,
    pub(crate) state: Arc<ConnectionState>,
}

/// State that all clones of a connection share.
pub(crate) struct ConnectionState {
    is_broken: AtomicBool,
    made: Instant,
    /// Time of the latest reply, in milliseconds since `made`.
    replied: AtomicU64,
    /// The hashes of the scripts. `None` if the server loads no scripts.
    hashes: Option<Vec<String>>,
    run_id: Arc<str>,
    registration: Registration,
    /// Over as soon as the sentinels name another primary. `None` without sentinels.
    term: Option<PrimaryTerm>,
    /// `None` if the credentials do not change.
    login: Option<Login>,
    _open: GaugeGuard,
}

impl ConnectionState {
    pub(crate) fn new(
        hashes: Option<Vec<String>>,
        run_id: Arc<str>,
        registration: Registration,
        term: Option<PrimaryTerm>,
        login: Option<Login>,
        open: GaugeGuard,
    ) -> Self {
        Self {
            is_broken: AtomicBool::new(false),
            made: Instant::now(),
            replied: AtomicU64::new(0),
            hashes,
            run_id,
            registration,
            term,
            login,
            _open: open,
        }
    }

    /// Excludes the connection from further use.
    pub(crate) fn mark_broken(&self) {
        self.is_broken.store(true, SeqCst);
    }

    fn age(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_idle(&self) -> bool {
        let silence = self.age().saturating_sub(self.replied.load(Relaxed));
        u128::from(silence) >= IDLE.as_millis()
    }
}

impl SharedConnection {
    pub(crate) fn run(&self) -> &Arc<str> {
        &self.state.run_id
    }

    /// Builds the call of a script. Its last argument is the run ID of the server.
    pub(crate) fn script(&self, script: Script, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        let mut call = match &self.state.hashes {
            Some(hashes) => {
                let mut call = cmd("EVALSHA");
                call.arg(&hashes[script as usize]);
                call
            }
            None => {
                let mut call = cmd("EVAL");
                call.arg(SCRIPTS[script as usize]);
                call
            }
        };
        call.arg(keys.len())
            .arg(keys)
            .arg(arguments)
            .arg(&*self.state.run_id);
        call
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    pub(crate) fn is_broken(&self) -> bool {
        let ConnectionState {
            is_broken,
            term,
            registration,
            ..
        } = &*self.state;
        is_broken.load(SeqCst)
            || term.as_ref().is_some_and(PrimaryTerm::is_over)
            || registration.is_superseded()
    }

    pub(crate) fn mark_broken(&self) {
        self.state.mark_broken();
    }

    pub(crate) fn is_made_since(&self, since: Instant) -> bool {
        self.state.made >= since
    }

    pub(crate) fn has_replied_since(&self, since: Instant) -> bool {
        let replied = Duration::from_millis(self.state.replied.load(Relaxed));
        self.state.made + replied >= since
    }

    /// Returns whether the connection can be used. One that has been idle is tested first, which
    /// takes up to `at_most`. If it fails, it is not used again.
    pub(crate) async fn is_usable(&self, at_most: Duration) -> bool {
        if self.is_broken() {
            return false;
        }
        if !self.state.is_idle() {
            return true;
        }
        // Boxed, so that the future of a command on a busy connection stays small.
        let answers = Box::pin(async {
            let ping = cmd("PING");
            let answer = self.clone().query(false, |_| Cow::Borrowed(&ping)).await;
            // An error reply also proves that the connection works.
            !matches!(answer, Err(error) if error.is_io_error())
        });
        let answers = timeout(at_most, answers).await.unwrap_or(false);
        if !answers {
            self.mark_broken();
        }
        answers
    }

    pub(crate) async fn query<'c>(
        &mut self,
        is_asking: bool,
        command: impl Fn(&Self) -> Cow<'c, Cmd>,
    ) -> Result<Value, RedisError> {
        let answer = match self.send(is_asking, &command(self)).await {
            Err(error) if is_server_error(&error, ServerErrorKind::NoScript) => {
                // The scripts were flushed. The same text has the same hash after it is loaded
                // again.
                Box::pin(load_scripts(&mut self.connection)).await?;
                self.send(is_asking, &command(self)).await
            }
            answer => answer,
        };
        if !matches!(&answer, Err(error) if error.is_io_error()) {
            self.state.replied.store(self.state.age(), Relaxed);
        }
        answer
    }

    async fn send(&mut self, is_asking: bool, command: &Cmd) -> Result<Value, RedisError> {
        if let Some(login) = &self.state.login
            && login.is_outdated()
        {
            Box::pin(login.renew(&mut self.connection)).await?;
        }
        if !is_asking {
            // `send_packed_command` would return error replies as values.
            return command.query_async(&mut self.connection).await;
        }
        // Both are sent in one piece: `ASKING` applies to the very next command of the connection,
        // and other callers use the connection as well.
        let mut asking = pipe();
        asking.cmd("ASKING").add_command(command.clone());
        let answers = self.connection.req_packed_commands(&asking, 1, 1).await?;
        let answer = answers.into_iter().next().unwrap_or(Value::Nil);
        answer.extract_error()
    }
}

pub(crate) async fn load_scripts(connection: &mut Connection) -> Result<Vec<String>, RedisError> {
    let mut load = pipe();
    for code in SCRIPTS {
        load.cmd("SCRIPT").arg("LOAD").arg(code);
    }
    load.query_async(connection).await
}

pub(crate) fn is_server_error(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

/// Returns whether a cluster node replied that the keys may be on another node.
pub(crate) fn is_elsewhere(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    [Moved, Ask, TryAgain]
        .into_iter()
        .any(|kind| is_server_error(error, kind))
}
