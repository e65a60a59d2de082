//! Revocation: writes the tombstones and marks that revoke on all nodes.

use std::{
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bb8_redis::redis::cmd;

use super::store::RedisStore;
use crate::{
    protocol::{CLOCK_SKEW_TOLERANCE, CacheKey, TombstoneKind},
    redis::{connection::Unavailable, scripts::Script, topology::Operation},
};

impl RedisStore {
    pub(crate) async fn revoke_token(
        &self,
        key: &CacheKey,
        kind: TombstoneKind,
    ) -> Result<Vec<Arc<str>>, Unavailable> {
        let (word, ttl) = match kind {
            TombstoneKind::Invalidate => ("forget", self.limits.tombstone_ttl),
            TombstoneKind::Lift => ("lift", self.limits.tombstone_ttl),
            // No record from before may outlive the tombstone.
            TombstoneKind::Revoke { ttl } => ("refuse", ttl.max(self.limits.tombstone_ttl)),
        };
        let (state, count) = &self.nonces;
        let nonce = format!("{:016x}", state.hash_one(count.fetch_add(1, Relaxed)));
        let arguments = [word.as_bytes(), nonce.as_bytes(), &seconds(ttl)[..]];
        self.record_cache.forget(key);
        let call = self.topology.revocation();
        let mut run_ids = Vec::new();
        for key in [Some(key.clone()), key.previous()].into_iter().flatten() {
            let keys = self.keys(&key);
            // The Python service knows no tombstones and serves the record under its own key. So
            // that record is deleted as well, whatever the namespace of the revocation.
            let all: &[&str] = &[&keys.tombstone, &keys.python, &keys.record];
            let all = &all[..if keys.python == keys.record { 2 } else { 3 }];
            let script = Script::RevokeToken;
            let answer = match call.run_together(script, all, &arguments).await? {
                Some(answer) => answer,
                None => {
                    // The slot is moving, so each key is changed on the server that holds it. The
                    // tombstone comes first, so that no fill stores a record again after its
                    // deletion.
                    let answer = call.run(script, &[&keys.tombstone], &arguments).await?;
                    for record in &all[1..] {
                        call.send(record, cmd("DEL").arg(record)).await?;
                    }
                    answer
                }
            };
            run_ids.push(answer.run_id);
        }
        Ok(run_ids)
    }

    pub(crate) async fn revoke_user(&self, id: &str) -> Result<Vec<Arc<str>>, Unavailable> {
        let call = self.topology.revocation();
        let mut run_ids = Vec::new();
        for name in self.mark_names(id) {
            run_ids.push(self.move_mark(&call, &name).await?);
        }
        Ok(run_ids)
    }

    /// Moves a user's mark, so that no record from before is used. Returns the run ID of the server.
    pub(super) async fn move_mark(
        &self,
        call: &Operation<'_>,
        name: &str,
    ) -> Result<Arc<str>, Unavailable> {
        // The mark must outlive the records that it revokes.
        let records = self.limits.ttl + Duration::from_micros(CLOCK_SKEW_TOLERANCE.unsigned_abs());
        let ttl = seconds(self.limits.max_session_lifetime.max(records));
        let slack = CLOCK_SKEW_TOLERANCE.to_string();
        let arguments = [&ttl[..], slack.as_bytes()];
        let key = self.mark_key(name);
        let answer = call.run(Script::RevokeUser, &[&key], &arguments).await?;
        Ok(answer.run_id)
    }

    /// Returns how many replicas have what the server wrote under these run IDs, if
    /// `wait_for_replicas` is set.
    pub(crate) async fn replicas(&self, run_ids: &[Arc<str>]) -> Option<u32> {
        self.topology.replicas(run_ids).await
    }
}

/// Returns a TTL as Redis takes it: in whole seconds, rounded up, and at least one.
pub(super) fn seconds(ttl: Duration) -> Vec<u8> {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    seconds.max(1).to_string().into_bytes()
}
