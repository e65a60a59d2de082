//! Lookups that are asked for at the same moment travel together.
//!
//! A command costs Redis, the connection and this process far more than the keys in it, so what
//! many requests ask at once is asked by one `MGET`. Nobody waits for company: the command is sent
//! as soon as those tasks have had their turn that could run anyway, and whoever comes later is in
//! the next one. A lookup thus never learns anything that is older than itself.

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

/// So many lookups at most are one command, since Redis serves nobody else meanwhile.
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

    /// Asks until then, whatever becomes of those who ask at the same time.
    pub(crate) async fn ask(
        &self,
        known: &Arc<CachedLookup>,
        until: Instant,
    ) -> Result<LookupReply, Unavailable> {
        if self.pool.is_circuit_open() {
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

/// The first one's duty towards those who join.
struct FlushTask(Option<LookupBatcher>);

impl FlushTask {
    async fn come(mut self, until: Instant) {
        // Whoever is ready to run asks before this goes on.
        yield_now().await;
        if let Some(LookupBatcher { pool, waiting }) = self.0.take() {
            let batch = std::mem::take(&mut *lock(&waiting));
            send(pool, batch, until).await;
        }
    }
}

impl Drop for FlushTask {
    /// Its runtime has ended before its turn came, and with it those who would answer.
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
        // Who has gone does not need it.
        let _ = to.send(LookupReply {
            value,
            mark_name: None,
            revocations: RevocationState::parse(tombstone.as_deref(), mark.as_deref()),
            run_ids: RunIds::of_one(Arc::clone(&answer.run_id)),
        });
    }
}
