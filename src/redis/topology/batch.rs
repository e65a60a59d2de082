//! Batching of lookups: those that are requested at the same moment are sent as one `MGET`.
//!
//! A command costs Redis, the connection and this process far more than the keys in it. No lookup
//! waits for others: the command is sent as soon as the tasks that were ready to run have had their
//! turn, and a later lookup is part of the next command. So a lookup never learns anything that is
//! older than itself.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
};

use bb8_redis::redis::{Cmd, Value};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::yield_now,
    time::{Instant, timeout_at},
};

use super::{reply::LookupReply, run_ids::RunIds};
use crate::{
    protocol::RevocationState,
    redis::{
        connection::{CallOptions, ServerPool, Unavailable},
        record_cache::CachedLookup,
    },
    sync::lock,
};

const COMMAND: &str = "MGET";

/// Maximum number of lookups per `MGET`. A larger command would delay other clients of Redis.
const LONGEST: usize = 64;

#[derive(Clone)]
pub(crate) struct LookupBatcher {
    pool: ServerPool,
    waiting: Arc<Mutex<Vec<PendingLookup>>>,
}

struct PendingLookup {
    known: Arc<CachedLookup>,
    answer: oneshot::Sender<LookupReply>,
}

impl LookupBatcher {
    pub(crate) fn new(pool: ServerPool) -> Self {
        Self {
            pool,
            waiting: Arc::default(),
        }
    }

    /// Returns the reply to a lookup, or fails at `until`, whatever becomes of the other lookups of
    /// its batch.
    pub(crate) async fn ask(
        &self,
        known: &Arc<CachedLookup>,
        until: Instant,
    ) -> Result<LookupReply, Unavailable> {
        if self.pool.skips_commands() {
            return Err(Unavailable);
        }
        // Timers and tasks need a runtime.
        let Ok(runtime) = Handle::try_current() else {
            return Err(Unavailable);
        };
        let (answer, answered) = oneshot::channel();
        let known = Arc::clone(known);
        let (full, is_first) = {
            let mut waiting = lock(&self.waiting);
            let full = (waiting.len() >= LONGEST).then(|| std::mem::take(&mut *waiting));
            waiting.push(PendingLookup { known, answer });
            (full, waiting.len() == 1)
        };
        if let Some(full) = full {
            runtime.spawn(send(self.pool.clone(), full, until));
        }
        if is_first {
            runtime.spawn(FlushTask(Some(self.clone())).come(until));
        }
        match timeout_at(until, answered).await {
            Ok(Ok(standing)) => Ok(standing),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }
}

/// Task of the first lookup in a batch, which sends the batch for all that join.
struct FlushTask(Option<LookupBatcher>);

impl FlushTask {
    async fn come(mut self, until: Instant) {
        // Tasks that are ready to run add their lookups before this continues.
        yield_now().await;
        if let Some(LookupBatcher { pool, waiting }) = self.0.take() {
            let batch = std::mem::take(&mut *lock(&waiting));
            send(pool, batch, until).await;
        }
    }
}

impl Drop for FlushTask {
    /// Clears the batch if the runtime ended before this task ran, since no other task would send
    /// it.
    fn drop(&mut self) {
        if let Some(batcher) = &self.0 {
            lock(&batcher.waiting).clear();
        }
    }
}

async fn send(pool: ServerPool, batch: Vec<PendingLookup>, until: Instant) {
    if batch.is_empty() {
        return;
    }
    let keys = batch
        .iter()
        .flat_map(|PendingLookup { known, .. }| known.keys());
    let length = keys.clone().map(str::len).sum::<usize>();
    let mut ask = Cmd::with_capacity(1 + 3 * batch.len(), COMMAND.len() + length);
    ask.arg(COMMAND);
    for key in keys {
        ask.arg(key);
    }
    let Ok(answer) = pool
        .ask(CallOptions::read(until), |_| Cow::Borrowed(&ask))
        .await
    else {
        return;
    };
    let Value::Array(values) = answer.value else {
        return;
    };
    let mut values = values.into_iter().map(|value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    for PendingLookup { answer: to, .. } in batch {
        let (Some(value), Some(tombstone), Some(mark)) =
            (values.next(), values.next(), values.next())
        else {
            return;
        };
        // A caller that has given up does not need the reply.
        let _ = to.send(LookupReply {
            is_banned: None,
            value,
            mark_name: None,
            revocations: RevocationState::parse(tombstone.as_deref(), mark.as_deref()),
            run_ids: RunIds::of_one(Arc::clone(&answer.run_id)),
        });
    }
}
