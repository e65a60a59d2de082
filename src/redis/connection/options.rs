//! Options of a command, its reply and its errors.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bb8_redis::redis::{RedisError, Value};
use tokio::time::Instant;

use super::breaker::Access;

/// Redis did not reply in time, or not as expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unavailable;

/// Why a command got no usable reply.
pub(crate) enum CommandError {
    /// The server did not reply in time, or not as expected. The text says what went wrong.
    Unavailable(Cow<'static, str>),
    /// A cluster node with this run ID replied that the keys are on another node, or on their way
    /// to it.
    Redirected { error: RedisError, run_id: Arc<str> },
}

/// A reply and the run ID of the server that sent it.
pub(crate) struct Reply {
    pub(crate) value: Value,
    pub(crate) run_id: Arc<str>,
}

impl Reply {
    /// Adds the run ID of the server that redirected here, if any. While a slot moves, a key that
    /// one server lacks may be on the other, so the reply depends on both.
    pub(crate) fn via(self, before: Option<Arc<str>>) -> Self {
        match before {
            None => self,
            Some(before) => Self {
                run_id: format!("{before}>{}", self.run_id).into(),
                ..self
            },
        }
    }
}

/// Access and deadline of one operation. The deadline covers all of its commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOptions {
    pub(crate) effect: Access,
    pub(crate) until: Instant,
    /// Whether the command goes to a server that the slot of its keys is moving to.
    pub(crate) is_asking: bool,
    /// Whether the command is part of a revocation, which is sent even while the circuit breaker is
    /// open.
    pub(crate) is_revocation: bool,
}

impl CallOptions {
    pub(crate) fn read(until: Instant) -> Self {
        Self::new(Access::Read, until)
    }

    pub(crate) fn write(until: Instant) -> Self {
        Self::new(Access::Write, until)
    }

    pub(crate) fn revocation(until: Instant) -> Self {
        Self {
            is_revocation: true,
            ..Self::write(until)
        }
    }

    pub(crate) fn new(effect: Access, until: Instant) -> Self {
        Self {
            effect,
            until,
            is_asking: false,
            is_revocation: false,
        }
    }
}

/// Timeouts of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// For making a connection, including the loading of the scripts.
    pub(crate) connect: Duration,
    /// For a call's wait for a connection.
    pub(crate) checkout: Duration,
    /// For a call as a whole.
    pub(crate) call: Duration,
}
