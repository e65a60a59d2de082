//! Lookup of a token in Redis, in one round trip.
//!
//! A token that was served before is looked up by `MGET`, which can only accept a native record
//! that tombstone and mark leave valid. Everything else goes through a script, so that all values
//! that are compared are of one moment.

use std::{sync::Arc, time::Duration};

use super::{
    outcome::{LookupResult, LookupSnapshot, Serve},
    reservation::{ReservationRequest, Reserved},
    store::{RedisStore, read},
};
use crate::{
    coherence::{Admission, CacheableRecord},
    model::RecordVersion,
    protocol::{
        CacheKey, MAX_RECORD, Opened, Parsed, Provenance, ReadContext, Record, RevocationState,
        Timestamp, Tombstone, has_ended, is_acceptable, is_sealed, is_unrevoked,
        is_unrevoked_after_restart, trusted_until,
    },
    redis::{
        connection::{Access, Unavailable},
        keys::SessionKeys,
        record_cache::CachedLookup,
        scripts::Script,
        topology::{LookupReply, Operation, RunIds},
    },
    time::wall_micros,
};

impl RedisStore {
    /// Looks up a token in one round trip, whether a native record of it was served before or not.
    /// It takes more only:
    ///
    /// - if a native record was served before, but what is stored now cannot be accepted by `MGET`,
    /// - if the record's user is spelled in a way that the script cannot read,
    /// - for a miss while the pepper is being changed,
    /// - on a cluster, for a token that is not known,
    /// - for a record that cannot be accepted, if the validation is to be reserved.
    ///
    /// If nothing usable is found, reserves the validation for this node for as long as `reserve`
    /// says.
    pub(crate) async fn lookup(
        &self,
        key: &CacheKey,
        reserve: impl Fn() -> Option<Duration>,
    ) -> LookupResult {
        let call = self.topology.call(Access::Read);
        if let Some(listener) = &self.listener {
            listener.start(&self.topology);
        }
        if let Some(known) = self.record_cache.known(key, &self.key_space) {
            match self.read_cached(&call, key, &known).await {
                Ok(Some(served)) => return LookupResult::Record(served),
                Ok(None) => self.record_cache.forget(key),
                Err(Unavailable) => return LookupResult::Unavailable,
            }
        }
        // Boxed, so that the future of the shortcut stays small.
        Box::pin(self.both_names(&call, key, Serve::Any, reserve())).await
    }

    /// Looks up a token without the shortcut.
    pub(crate) async fn take_snapshot(
        &self,
        key: &CacheKey,
        serve: Serve,
        reserve: Option<Duration>,
    ) -> LookupResult {
        let call = self.topology.call(Access::Read);
        Box::pin(self.both_names(&call, key, serve, reserve)).await
    }

    async fn both_names(
        &self,
        call: &Operation<'_>,
        key: &CacheKey,
        serve: Serve,
        reserve: Option<Duration>,
    ) -> LookupResult {
        let found = self.script_lookup(call, key, serve, reserve).await;
        let (Ok(LookupResult::Miss(_)), Some(previous)) = (&found, key.previous()) else {
            return found.unwrap_or(LookupResult::Unavailable);
        };
        match self.script_lookup(call, &previous, serve, None).await {
            Ok(LookupResult::Miss(_)) => found.unwrap_or(LookupResult::Unavailable),
            // The invalidations of this record are pushed under the previous name, and the local
            // cache has no entry under that name.
            Ok(LookupResult::Record(mut served)) => {
                served.admission = None;
                LookupResult::Record(served)
            }
            other => other.unwrap_or(LookupResult::Unavailable),
        }
    }

    /// Shortcut by `MGET`. It can only accept native records, and only of the user that was
    /// expected.
    async fn read_cached(
        &self,
        call: &Operation<'_>,
        key: &CacheKey,
        known: &Arc<CachedLookup>,
    ) -> Result<Option<CacheableRecord>, Unavailable> {
        let observed = match self.topology.batcher() {
            Some(batcher) => batcher.ask(known, call.until()).await?,
            // Boxed, so that the future for a single server stays small.
            None => Box::pin(self.read_known_from_cluster(call, known.keys())).await?,
        };
        let Some(value) = observed.value else {
            return Ok(None);
        };
        let (record, value) = match known.record(&value) {
            Some(record) => (Arc::clone(record), None),
            None => match self.decode(key, &known.keys, &value) {
                Some((record, name)) if *name == *known.mark_name => {
                    (Arc::new(record), Some(value))
                }
                _ => return Ok(None),
            },
        };
        // `MGET` does not return the time, so the node's clock determines the age.
        let context = self.context(Timestamp(self.clock.wall()), &observed.run_ids);
        let lifetimes = &self.limits.lifetimes;
        let accepted = record.provenance.is_some()
            && is_acceptable(&record, &observed.revocations, &context, lifetimes);
        if !accepted {
            return Ok(None);
        }
        if let Some(value) = value {
            self.record_cache
                .read(key, known, value, Arc::clone(&record));
        }
        let (mark_name, state) = (&known.mark_name, &observed.revocations);
        let served = self.served(key, record, mark_name, state, &context, &observed.run_ids);
        Ok(Some(served))
    }

    async fn script_lookup(
        &self,
        call: &Operation<'_>,
        key: &CacheKey,
        serve: Serve,
        reserve: Option<Duration>,
    ) -> Result<LookupResult, Unavailable> {
        let keys = self.keys(key);
        let reserve = reserve.and_then(|time| self.reservation(key, time));
        let (mut seen, mut time, reserved) = self
            .read_or_reserve(call, &keys, None, reserve.as_ref())
            .await?;
        let decoded = seen
            .value
            .as_deref()
            .and_then(|value| self.decode(key, &keys, value));
        let Some((record, mark_name)) = decoded else {
            let value = seen.value.take();
            let mut found = LookupResult::unusable(seen, time, None, None, serve);
            if let Some(reserve) = &reserve {
                let value = value.as_deref();
                self.reserve(call, &keys, reserve, reserved, value, &mut found)
                    .await;
            }
            return Ok(found);
        };
        if seen.mark_name.as_deref() != Some(mark_name.as_bytes()) {
            // The script took the user from the text of the record. The mark counts only if it is
            // that of the user whom Rust parsed.
            let (again, later) = self.read(call, &keys, Some(&mark_name)).await?;
            // The record that is stored now may be that of another user.
            if again.value != seen.value {
                return Ok(LookupResult::unusable(again, later, None, None, serve));
            }
            (seen, time) = (again, later);
        }
        // If records are sealed, Redis is not trusted, and neither is its time.
        let now = match self.sealing {
            None => time,
            Some(_) => Timestamp(self.clock.wall()),
        };
        let context = self.context(now, &seen.run_ids);
        let (state, lifetimes) = (&seen.revocations, &self.limits.lifetimes);
        let may_serve = match serve {
            Serve::Any => true,
            Serve::Newer(RecordVersion(version)) => record.since().0 > version,
            Serve::Nothing => false,
        };
        if may_serve
            && is_acceptable(&record, state, &context, lifetimes)
            // The Python service knows no bans.
            && (record.provenance.is_some()
                || !self.is_banned(call, &record.user, seen.is_banned).await?)
        {
            if record.provenance.is_some() {
                self.record_cache.learn_user(key, &mark_name);
            }
            let record = Arc::new(record);
            let served = self.served(key, record, &mark_name, state, &context, &seen.run_ids);
            return Ok(LookupResult::Record(served));
        }
        if has_ended(record.expires_at, context.wall)
            && let Some(value) = &seen.value
        {
            let _ = call.run(Script::Drop, &[&keys.record], &[value]).await;
            seen.value = None;
        }
        let value = seen.value.take();
        let mut found = LookupResult::unusable(seen, time, Some(mark_name), value.clone(), serve);
        if let Some(reserve) = &reserve {
            self.reserve(call, &keys, reserve, None, value.as_deref(), &mut found)
                .await;
        }
        Ok(found)
    }

    /// Deletes the record that the lookup found, after the identity provider has rejected its
    /// token. Returns whether it has gone.
    pub(crate) async fn evict(&self, key: &CacheKey, seen: &LookupSnapshot) -> bool {
        let Some(observed) = &seen.observed else {
            return true;
        };
        let keys = self.keys(key);
        let call = self.topology.call(Access::Write);
        let deleted = call.run(Script::Drop, &[&keys.record], &[observed]).await;
        deleted.is_ok()
    }

    fn served(
        &self,
        key: &CacheKey,
        record: Arc<Record>,
        mark_name: &str,
        state: &RevocationState,
        context: &ReadContext,
        run_ids: &RunIds,
    ) -> CacheableRecord {
        let since = record.since();
        let lifetimes = &self.limits.lifetimes;
        let trusted = trusted_until(&record, state, lifetimes).map(|until| until.0);
        let ends = [record.expires_at.map(wall_micros), trusted];
        let ends = ends.into_iter().flatten().min();
        let left = ends.map(|at| at.saturating_sub(since.0));
        let life = lifetimes.life(&key.token, since.0, left);
        let age = u64::try_from(context.time.0.saturating_sub(since.0)).unwrap_or_default();
        CacheableRecord {
            left: life.saturating_sub(age),
            refresh_in: lifetimes
                .refresh_after(life)
                .map(|after| after.saturating_sub(age)),
            version: RecordVersion(since.0),
            admission: self.admission(&record, mark_name, trusted.is_some(), run_ids),
            record,
        }
    }

    /// Parses a value. Returns the record, if it is one of the key's namespace, and the name of its
    /// user's mark.
    fn decode(&self, key: &CacheKey, keys: &SessionKeys, value: &[u8]) -> Option<(Record, String)> {
        let Some(sealing) = &self.sealing else {
            if is_sealed(value) {
                self.warnings.sealed();
                return None;
            }
            let record = match Record::parse(value, key.space()) {
                Parsed::Record(record) => record,
                Parsed::NotOurs => return None,
                Parsed::Unreadable => {
                    self.warnings.unreadable("record");
                    return None;
                }
            };
            let name = record.user.id().to_owned();
            return Some((record, name));
        };
        match sealing.open(&keys.record, value) {
            Opened::Record { json, user } => {
                let Parsed::Record(record) = Record::parse(&json, key.space()) else {
                    return None;
                };
                // The user in the readable part must be the user in the sealed part.
                let id = record.user.id();
                let is_the_users =
                    user == sealing.user(id) || Some(&user) == sealing.previous_user(id).as_ref();
                (is_the_users && record.provenance.is_some()).then_some((record, user))
            }
            Opened::NotSealed => {
                self.warnings.not_sealed();
                None
            }
            Opened::UnknownKey => {
                self.warnings.sealed();
                None
            }
            Opened::Forged => {
                self.warnings.unreadable("sealed record");
                None
            }
        }
    }

    /// Returns how a served record may be kept in memory. It may be kept only if every change that
    /// makes it unusable is pushed to this process.
    fn admission(
        &self,
        record: &Record,
        mark_name: &str,
        is_young: bool,
        run_ids: &RunIds,
    ) -> Option<Admission> {
        let listener = self.listener.as_ref()?;
        // The Python service ends its own records by deleting them, which is pushed only if records
        // are tracked.
        let hears_its_end = listener.tracks_records() || record.provenance.is_some();
        let hears_all = || {
            run_ids
                .servers()
                .all(|server| listener.lease().is_tracking(server))
        };
        (hears_its_end && hears_all()).then(|| Admission {
            user: listener.lease().user(mark_name),
            can_be_stale: !is_young && mark_name == self.mark_name(record.user.id()),
        })
    }

    /// Returns the token's tombstone.
    pub(crate) async fn tombstone(&self, key: &CacheKey) -> Option<Tombstone> {
        let call = self.topology.call(Access::Read);
        let (reply, _) = self.read(&call, &self.keys(key), None).await.ok()?;
        reply.revocations.tombstone
    }

    /// Returns whether mark and tombstone are still those that were seen before a session was
    /// validated.
    pub(crate) async fn is_still_valid(
        &self,
        key: &CacheKey,
        user_id: &str,
        provenance: &Provenance,
    ) -> bool {
        let call = self.topology.call(Access::Read);
        let reply = self
            .read(&call, &self.keys(key), Some(&self.mark_name(user_id)))
            .await;
        reply.is_ok_and(|(reply, _)| {
            is_unrevoked(provenance, &reply.revocations, &reply.run_ids.text())
        })
    }

    /// Returns whether a server that has taken the place of the one that stored a session knows of
    /// no revocation since the session was validated.
    pub(crate) async fn is_unrevoked_after_restart(
        &self,
        key: &CacheKey,
        user_id: &str,
        provenance: &Provenance,
    ) -> bool {
        let call = self.topology.call(Access::Read);
        let reply = self
            .read(&call, &self.keys(key), Some(&self.mark_name(user_id)))
            .await;
        reply.is_ok_and(|(reply, _)| {
            is_unrevoked_after_restart(provenance, &reply.revocations, &reply.run_ids.text())
        })
    }

    /// Reads what the lookup script reads. Without `mark_name` the mark is that of the user in the
    /// record; on a cluster no mark is read then.
    pub(crate) async fn read(
        &self,
        call: &Operation<'_>,
        keys: &SessionKeys,
        mark_name: Option<&str>,
    ) -> Result<(LookupReply, Timestamp), Unavailable> {
        let (reply, time, _) = self.read_or_reserve(call, keys, mark_name, None).await?;
        Ok((reply, time))
    }

    /// Does the same as [`Self::read`]. If there is no record and nothing refuses the token, the
    /// script also reserves the validation. On a cluster there is no script.
    async fn read_or_reserve(
        &self,
        call: &Operation<'_>,
        keys: &SessionKeys,
        mark_name: Option<&str>,
        reserve: Option<&ReservationRequest>,
    ) -> Result<(LookupReply, Timestamp, Option<Reserved>), Unavailable> {
        let (reply, time, reserved) = if self.topology.is_cluster() {
            let (reply, time) = self.read_from_cluster(call, keys, mark_name).await?;
            (reply, time, None)
        } else {
            self.read_by_script(call, keys, mark_name, reserve).await?
        };
        let RevocationState { tombstone, mark } = &reply.revocations;
        if tombstone
            .as_ref()
            .is_some_and(|tombstone| !tombstone.is_readable())
        {
            self.warnings.unreadable("tombstone");
        }
        if mark.as_ref().is_some_and(|mark| !mark.is_readable()) {
            self.warnings.unreadable("revocation mark");
        }
        Ok((reply, time, reserved))
    }

    async fn read_by_script(
        &self,
        call: &Operation<'_>,
        keys: &SessionKeys,
        mark_name: Option<&str>,
        reserve: Option<&ReservationRequest>,
    ) -> Result<(LookupReply, Timestamp, Option<Reserved>), Unavailable> {
        let marks = self.mark_key("");
        let longest = MAX_RECORD.to_string();
        let name = mark_name.unwrap_or_default();
        let mut arguments = vec![
            marks.as_bytes(),
            longest.as_bytes(),
            name.as_bytes(),
            keys.foreign_bans.as_bytes(),
        ];
        let mark = mark_name.map(|name| self.mark_key(name));
        let all = [&keys.record, &keys.tombstone].into_iter().chain(&mark);
        let all: Vec<_> = all.map(String::as_str).collect();
        if let Some(request) = reserve {
            arguments.extend(request.arguments());
        }
        let answer = call.run(Script::Lookup, &all, &arguments).await?;
        type Reply = (
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Vec<u8>,
            Option<bool>,
            Option<Vec<u8>>,
            Option<String>,
        );
        let (value, tombstone, mark_name, mark, time, is_banned, rejection, reservation) =
            read::<Reply>(answer.value).ok_or(Unavailable)?;
        let reply = LookupReply {
            value,
            mark_name,
            revocations: RevocationState::parse(tombstone.as_deref(), mark.as_deref()),
            run_ids: RunIds::of_one(answer.run_id),
            is_banned,
        };
        let time = Timestamp::parse(&time).ok_or(Unavailable)?;
        // The script reserves nothing if there is a record.
        let reserved = reply.value.is_none().then_some((rejection, reservation));
        Ok((reply, time, reserved))
    }

    fn context(&self, time: Timestamp, run_ids: &RunIds) -> ReadContext {
        ReadContext {
            time,
            run_id: run_ids.text(),
            wall: self.clock.wall(),
            trust_floor: self.topology.trust_floor(),
        }
    }
}
