//! Fill: stores a session after its validation, unless something was revoked since the lookup.

use super::{
    identity::{Join, SessionState},
    outcome::{Denial, FillReply, LookupSnapshot, MarkSnapshot},
    store::{RedisStore, micros, read},
};
use crate::{
    protocol::{
        CLOCK_SKEW_TOLERANCE, CacheKey, MAX_RECORD, RECORD_VERSION, RevocationState, Timestamp,
        Tombstone, encode_prefix, encode_suffix,
    },
    redis::{
        connection::{Access, Unavailable},
        keys::SessionKeys,
        scripts::Script,
        topology::{Operation, RunIds},
    },
    time::wall_micros,
    validator::ValidatedSession,
};

impl RedisStore {
    /// Stores a session that was validated after `seen`.
    pub(crate) async fn fill(
        &self,
        key: &CacheKey,
        seen: &LookupSnapshot,
        session: &ValidatedSession,
    ) -> FillReply {
        self.try_fill(key, seen, session)
            .await
            .unwrap_or(FillReply::Unavailable)
    }

    async fn try_fill(
        &self,
        key: &CacheKey,
        seen: &LookupSnapshot,
        session: &ValidatedSession,
    ) -> Result<FillReply, Unavailable> {
        // Without a TTL the session has expired since its validation, and nothing was compared.
        let ttl = self.effective_ttl(key, seen, session).ok_or(Unavailable)?;
        let call = self.topology.call(Access::Write);
        let keys = self.keys(key);
        let session_keys = SessionState::of(self, &session.user);
        let mark_name = self.mark_name(session.user.id());
        let tombstone = seen
            .tombstone
            .as_ref()
            .map(|tombstone| tombstone.text.as_str());
        let mut mark = match &seen.mark {
            MarkSnapshot::Read { name, mark } if *name == mark_name => mark
                .as_ref()
                .map_or("", |mark| mark.text.as_str())
                .to_owned(),
            _ => "?".to_owned(),
        };
        let mut run_ids = seen.run_ids.clone();
        let mut record = encode_prefix(
            &session.user,
            session.expires_at,
            seen.fence,
            seen.fence.minus(CLOCK_SKEW_TOLERANCE),
            tombstone,
        );
        // Boxed, so that the future for a single server stays small.
        let compare = || Box::pin(self.compare(&call, &keys, seen, &mark_name));
        // Mark, run ID and seal take a few hundred bytes more.
        let is_too_long = record.len() > MAX_RECORD - 1_024;
        let name_ttl = self.name_ttl(ttl).to_string();
        let mut is_crowded = false;
        // Redis cannot complete a sealed record, and one server cannot complete a record that needs
        // the run IDs of two.
        let is_complete = self.sealing.is_some() || self.topology.is_cluster();
        let is_compared_first = self.topology.is_cluster() || (is_complete && mark == "?");
        // The session is joined before the mark is compared. If it is ended later, this mark is
        // moved; if it was ended earlier, it is denied here.
        if is_compared_first || is_too_long {
            let join = self.join(&call, &session_keys, &mark_name, name_ttl.as_bytes());
            match Box::pin(join).await? {
                Join::Joined => {}
                Join::Crowded => is_crowded = true,
                Join::Denied(denial) => return Ok(FillReply::Denied(denial)),
            }
        }
        if is_too_long || is_crowded {
            if is_too_long {
                self.warnings.too_long();
            } else {
                self.warnings.crowded();
            }
            return Ok(match compare().await? {
                Ok(_) => {
                    self.forget_rejection(&call, key).await;
                    FillReply::Skipped
                }
                Err(filled) => filled,
            });
        }
        if is_compared_first {
            match compare().await? {
                Ok(now) => (mark, run_ids) = now,
                Err(filled) => return Ok(filled),
            }
        }
        if is_complete {
            record += &encode_suffix(&mark, &run_ids.text());
        }
        let mut value = record.into_bytes();
        if let Some(sealing) = &self.sealing {
            let id = session.user.id();
            match sealing.seal(&keys.record, id, seen.fence, &value) {
                Some(sealed) => value = sealed,
                None => {
                    // Without randomness nothing is stored, but the session may be served.
                    let join = self.join(&call, &session_keys, &mark_name, name_ttl.as_bytes());
                    return Ok(match Box::pin(join).await? {
                        Join::Denied(denial) => FillReply::Denied(denial),
                        Join::Joined | Join::Crowded => FillReply::Skipped,
                    });
                }
            }
        }
        let mark_key = self.mark_key(&mark_name);
        let mut together = vec![&*keys.record, &*keys.tombstone];
        if !self.topology.is_cluster() {
            together.push(&mark_key);
            together.extend(session_keys.all());
        }
        let observed = seen.observed.as_deref().filter(|_| seen.replaces_observed);
        let observed = observed.unwrap_or_default();
        let (fence, longest) = (seen.fence.0.to_string(), self.longest_fill().to_string());
        let (slack, ttl) = (CLOCK_SKEW_TOLERANCE.to_string(), ttl.to_string());
        let version = RECORD_VERSION.to_string();
        let validation = self.key_space.validation(key);
        let mut arguments = vec![
            tombstone.unwrap_or_default().as_bytes(),
            mark.as_bytes(),
            fence.as_bytes(),
            longest.as_bytes(),
            slack.as_bytes(),
            ttl.as_bytes(),
            &value,
            seen.run_ids.of_token_server().as_bytes(),
            if is_complete { b"complete" } else { b"" },
            observed,
            mark_name.as_bytes(),
            name_ttl.as_bytes(),
            version.as_bytes(),
        ];
        if let Some(node) = &self.node {
            arguments.extend([node.as_bytes(), validation.rejection.as_bytes()]);
            arguments.push(validation.reservation.as_bytes());
        }
        let script = call.run_together(Script::Fill, &together, &arguments);
        let answer = script.await?;
        // Nothing was revoked until the re-check, so the session may be served. The next fill can
        // store it.
        let Some(answer) = answer else {
            return Ok(FillReply::Skipped);
        };
        let reply = read::<Vec<Option<Vec<u8>>>>(answer.value).ok_or(Unavailable)?;
        let field = |n: usize| reply.get(n).and_then(Option::as_deref);
        match field(0) {
            Some(b"stored") => {
                self.record_cache.learn_user(key, &mark_name);
                Ok(FillReply::Stored)
            }
            Some(b"newer" | b"other_record" | b"unreadable") => Ok(FillReply::Skipped),
            Some(b"revoked") => Ok(FillReply::Denied(Denial::Revoked)),
            Some(b"banned") => Ok(FillReply::Denied(Denial::Banned)),
            Some(b"ended") => Ok(FillReply::Denied(Denial::Ended)),
            Some(b"crowded") => {
                self.warnings.crowded();
                Ok(FillReply::Skipped)
            }
            Some(b"conflict") => {
                let fence = field(3).and_then(Timestamp::parse).ok_or(Unavailable)?;
                let revocations = RevocationState::parse(field(1), field(2));
                Ok(seen.conflict(fence, run_ids, revocations, mark_name))
            }
            // This includes `other_run`, because this server knows nothing of the time before, and
            // `late`, because a tombstone may have come and gone.
            _ => Err(Unavailable),
        }
    }

    /// Compares what the fill script compares, without storing. Returns the current mark and the
    /// run IDs of the servers that were read, or the outcome of the fill.
    async fn compare(
        &self,
        call: &Operation<'_>,
        keys: &SessionKeys,
        seen: &LookupSnapshot,
        mark_name: &str,
    ) -> Result<Result<(String, RunIds), FillReply>, Unavailable> {
        let (reply, time) = self.read(call, keys, Some(mark_name)).await?;
        let is_late = time > seen.fence.plus(self.longest_fill());
        if is_late || !seen.run_ids.goes_on(&reply.run_ids) {
            return Err(Unavailable);
        }
        let RevocationState { tombstone, mark } = &reply.revocations;
        if tombstone.as_ref().is_some_and(Tombstone::refuses) {
            return Ok(Err(FillReply::Denied(Denial::Revoked)));
        }
        let is_seen = match &seen.mark {
            MarkSnapshot::Read { name, mark: seen } if name == mark_name => mark == seen,
            _ => mark
                .as_ref()
                .is_none_or(|mark| mark.is_before(seen.fence.minus(CLOCK_SKEW_TOLERANCE))),
        };
        if is_seen && *tombstone == seen.tombstone {
            let mark = reply
                .revocations
                .mark
                .map(|mark| mark.text)
                .unwrap_or_default();
            return Ok(Ok((mark, reply.run_ids)));
        }
        let mark_name = mark_name.to_owned();
        Ok(Err(seen.conflict(
            time,
            reply.run_ids,
            reply.revocations,
            mark_name,
        )))
    }

    /// Returns the TTL of the record in milliseconds, or `None` if the session has expired.
    fn effective_ttl(
        &self,
        key: &CacheKey,
        seen: &LookupSnapshot,
        session: &ValidatedSession,
    ) -> Option<u64> {
        let lifetimes = &self.limits.lifetimes;
        let kept = seen.kept_for(lifetimes);
        let life = lifetimes.life(&key.token, seen.fence.0, kept) / 1_000;
        let Some(at) = session.expires_at else {
            return Some(life);
        };
        let left = wall_micros(at).saturating_sub(self.clock.wall());
        let left = u64::try_from(left).ok().filter(|left| *left > 0)?;
        // Whole seconds, because the Python service counts in them.
        Some(life.min((left / 1_000_000).max(1) * 1_000))
    }

    /// Returns the longest time between lookup and fill, in microseconds. A process that slept for
    /// longer knows too little to fill.
    pub(super) fn longest_fill(&self) -> i64 {
        micros(self.limits.validation_timeout).saturating_add(CLOCK_SKEW_TOLERANCE)
    }
}
