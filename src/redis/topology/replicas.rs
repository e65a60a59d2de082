//! Waiting for replicas: counts those that have a revocation, so that no failover to one of them
//! loses it.
//!
//! `WAIT` blocks every later command on its connection, so it has a dedicated one. It waits for
//! what *that* connection has written, so a key of no other use is written first: replicas receive
//! the writes in the order of the server, so a replica that has this key has everything that was
//! written before. A caller that arrives during a wait uses the result of the next wait. That one
//! began after the caller's own revocation, and so covers it.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use bb8_redis::{
    bb8::{Pool, PooledConnection},
    redis::{cmd, from_redis_value},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    redis::{
        config::ReplicaWait,
        connection::{Manager, ServerPool, SharedConnection},
        scripts::Script,
    },
    sync::lock,
    telemetry::REVOCATION,
};

pub(crate) struct ReplicaWaiter {
    wanted: ReplicaWait,
    pool: OnceLock<Pool<Manager>>,
    begun: AtomicU64,
    ended: Mutex<Option<WaitRound>>,
    is_short: AtomicBool,
}

/// Result of a wait that has ended.
struct WaitRound {
    number: u64,
    run_id: Arc<str>,
    count: u32,
}

impl ReplicaWaiter {
    pub(crate) fn new(wanted: ReplicaWait) -> Self {
        Self {
            wanted,
            pool: OnceLock::new(),
            begun: AtomicU64::default(),
            ended: Mutex::default(),
            is_short: AtomicBool::default(),
        }
    }

    /// Returns how many replicas, at least, have what the server wrote under these run IDs.
    pub(crate) async fn have(&self, pool: &ServerPool, run_ids: &[Arc<str>]) -> u32 {
        let until = Instant::now() + self.wanted.timeout;
        let count = self.count(pool, run_ids, until).await.unwrap_or(0);
        let is_short = count < self.wanted.replicas;
        let was_short = self.is_short.swap(is_short, SeqCst);
        if is_short && !was_short {
            tracing::warn!(
                target: REVOCATION,
                wanted = self.wanted.replicas,
                count,
                hint = "check that the replicas are connected and not lagging, because a failover \
                        may lose the revocation",
                "revocation reached fewer replicas than required"
            );
        } else if was_short && !is_short {
            tracing::info!(target: REVOCATION, "revocations reach all required replicas again");
        }
        count
    }

    async fn count(&self, pool: &ServerPool, run_ids: &[Arc<str>], until: Instant) -> Option<u32> {
        let before = self.begun.load(SeqCst);
        let dedicated = self
            .pool
            .get_or_init(|| pool.pool_of_one(self.wanted.timeout));
        let turn = timeout_at(until, pool.checkout(dedicated))
            .await
            .ok()?
            .ok()?;
        let later = lock(&self.ended)
            .as_ref()
            .filter(|round| round.number > before)
            .map(|round| (Arc::clone(&round.run_id), round.count));
        let (run_id, count) = match later {
            Some(later) => later,
            None => self.round(pool, turn, until).await?,
        };
        run_ids
            .iter()
            .all(|other| *other == run_id)
            .then_some(count)
    }

    async fn round(
        &self,
        pool: &ServerPool,
        mut connection: PooledConnection<'_, Manager>,
        until: Instant,
    ) -> Option<(Arc<str>, u32)> {
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        let left = until.saturating_duration_since(Instant::now());
        // `WAIT` takes 0 as no limit.
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut wait = cmd("WAIT");
        wait.arg(self.wanted.replicas).arg(left);
        let key = pool.probe();
        let probe = |connection: &SharedConnection| {
            Cow::Owned(connection.script(Script::Probe, &[&key], &[]))
        };
        let waited = timeout_at(until + pool.timeout(), async {
            connection.query(false, probe).await?;
            connection.query(false, |_| Cow::Borrowed(&wait)).await
        });
        let Ok(Ok(count)) = waited.await else {
            // The connection may still be waiting, and the next caller would wait for it as well.
            connection.mark_broken();
            return None;
        };
        let count = from_redis_value(count).ok()?;
        let run_id = Arc::clone(connection.run());
        *lock(&self.ended) = Some(WaitRound {
            number,
            run_id: Arc::clone(&run_id),
            count,
        });
        Some((run_id, count))
    }
}

impl fmt::Debug for ReplicaWaiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaWaiter")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}
