//! Multiplexed connection that all callers share, and the state of its server.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use bb8_redis::redis::{
    Cmd, ErrorKind, RedisError, ServerErrorKind, Value, aio::ConnectionLike, cmd, pipe,
};

use crate::{
    redis::{
        endpoint::{Connection, PrimaryTerm},
        scripts::{SCRIPTS, Script},
    },
    telemetry::GaugeGuard,
};

#[derive(Clone)]
pub(crate) struct SharedConnection {
    pub(crate) connection: Connection,
    pub(crate) state: Arc<ConnectionState>,
}

/// State that all clones of a connection share.
pub(crate) struct ConnectionState {
    pub(crate) is_broken: AtomicBool,
    pub(crate) hashes: Vec<String>,
    pub(crate) run_id: Arc<str>,
    /// Over as soon as the sentinels name another primary. `None` without sentinels.
    pub(crate) term: Option<PrimaryTerm>,
    pub(crate) _open: GaugeGuard,
}

impl SharedConnection {
    pub(crate) fn run(&self) -> &Arc<str> {
        &self.state.run_id
    }

    /// Builds the call of a script. Its last argument is the run ID of the server.
    pub(crate) fn script(&self, script: Script, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.state.hashes[script as usize])
            .arg(keys.len());
        call.arg(keys).arg(arguments).arg(&*self.state.run_id);
        call
    }

    pub(crate) fn is_broken(&self) -> bool {
        let ConnectionState {
            is_broken, term, ..
        } = &*self.state;
        is_broken.load(SeqCst) || term.as_ref().is_some_and(PrimaryTerm::is_over)
    }

    /// Excludes the connection from further use.
    pub(crate) fn mark_broken(&self) {
        self.state.is_broken.store(true, SeqCst);
    }

    pub(crate) async fn query<'c>(
        &mut self,
        is_asking: bool,
        command: impl Fn(&Self) -> Cow<'c, Cmd>,
    ) -> Result<Value, RedisError> {
        match self.send(is_asking, &command(self)).await {
            Err(error) if is_server_error(&error, ServerErrorKind::NoScript) => {
                // The scripts were flushed. The same text has the same hash after it is loaded
                // again.
                Box::pin(load_scripts(&mut self.connection)).await?;
                self.send(is_asking, &command(self)).await
            }
            answer => answer,
        }
    }

    async fn send(&mut self, is_asking: bool, command: &Cmd) -> Result<Value, RedisError> {
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
