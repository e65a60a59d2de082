//! What a command may do and until when, and what comes back.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bb8_redis::redis::{RedisError, Value};
use tokio::time::Instant;

use super::breaker::Access;

/// Redis did not answer in time, or not as it should.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unavailable;

/// Why a server gave no answer.
pub(crate) enum CommandError {
    /// It did not answer in time, or not as it should; the text says what went wrong.
    Unavailable(Cow<'static, str>),
    /// As a server of a cluster says it, in this run: the keys are on another one, or on their
    /// way to it.
    Redirected { error: RedisError, run_id: Arc<str> },
}

/// A reply, and the run of the server that gave it.
pub(crate) struct Reply {
    pub(crate) value: Value,
    pub(crate) run_id: Arc<str>,
}

impl Reply {
    /// While a slot is on its way, what is not on the one server may be on the other, so that the
    /// answer depends on both.
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

/// What one operation may do, and until when: however many commands it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOptions {
    pub(crate) effect: Access,
    pub(crate) until: Instant,
    /// Whether to send it to a server that the slot of its keys is on its way to.
    pub(crate) is_asking: bool,
}

impl CallOptions {
    pub(crate) fn read(until: Instant) -> Self {
        Self::new(Access::Read, until)
    }

    pub(crate) fn write(until: Instant) -> Self {
        Self::new(Access::Write, until)
    }

    pub(crate) fn new(effect: Access, until: Instant) -> Self {
        Self {
            effect,
            until,
            is_asking: false,
        }
    }
}

/// How long what may be waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Making a connection, until it has loaded the scripts.
    pub(crate) connect: Duration,
    /// A call's wait for a connection.
    pub(crate) checkout: Duration,
    /// A call as a whole.
    pub(crate) call: Duration,
}
