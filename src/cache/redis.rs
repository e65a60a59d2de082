//! The store that all nodes share, and the Python service with them.
//!
//! Every operation is one round trip and one script, so what it compares is of one moment. No
//! operation fails: when Redis does not answer in time, the outcome says so, and the caller
//! decides without it.

mod breaker;
mod listener;
mod memory;
mod names;
mod pool;
mod scripts;
mod warned;

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bb8_redis::redis::{
    ConnectionInfo, FromRedisValue, IntoConnectionInfo, Value, cmd, from_redis_value,
    parse_redis_url,
};

pub(super) use self::pool::Deadlines;
use self::{
    breaker::Effect,
    listener::Listener,
    memory::{Known, Memory},
    names::{Keys, Names},
    pool::{Call, Links, Unanswered},
    scripts::Script,
    warned::Warned,
};
use super::{
    accept::{self, Beside, Mark, Moment, SLACK, Tomb},
    key::EntryKey,
    lease::Lease,
    life::Lifetimes,
    record::{self, Cause, MAX_RECORD, Record},
    refresh::Due,
    seal::{self, Opened, Sealing},
    stamp::Stamp,
    stats::RedisMeter,
    stripes::UserStripe,
};
use crate::{
    clock::{Clock, wall_micros},
    validator::ValidatedSession,
};

pub(super) struct Redis {
    links: Links,
    listener: Option<Listener>,
    names: Names,
    sealing: Option<Sealing>,
    clock: Clock,
    limits: Limits,
    memory: Memory,
    warned: Warned,
    nonces: (RandomState, AtomicU64),
}

/// What the protocol is told, in the units in which it speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) deadlines: Deadlines,
    pub(super) ttl: Duration,
    pub(super) lifetimes: Lifetimes,
    pub(super) validation_deadline: Duration,
    pub(super) longest_session: Duration,
    pub(super) tombstone_ttl: Duration,
    pub(super) capacity: usize,
}

/// The local cache that stands before this store.
pub(super) struct Tier {
    pub(super) lease: Arc<Lease>,
    /// Whether it hears of changed records, or of tombstones and marks only.
    pub(super) hears_records: bool,
}

/// What a lookup found in Redis.
pub(super) enum Found {
    Record(Box<Served>),
    Nothing(Box<Seen>),
    Refused,
    Unanswered,
}

/// A record that may be served, and for how long.
pub(super) struct Served {
    pub(super) record: Arc<Record>,
    /// So many microseconds are left of its life.
    pub(super) left: u64,
    /// And so many until it is time to validate it again, if ever.
    pub(super) refresh_in: Option<u64>,
    pub(super) of: Due,
    pub(super) keep: Option<Keep>,
}

impl Served {
    pub(super) fn due(&self) -> Option<Due> {
        (self.refresh_in == Some(0)).then_some(self.of)
    }
}

/// How it may be kept in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// The stripe in which the pushes of its user's mark are counted.
    pub(super) user: UserStripe,
    /// Whether its mark stands under the name that [`Redis::vouches`] looks under.
    pub(super) can_be_vouched_for: bool,
}

/// What a lookup saw, or the re-check of a fill.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The run of the server that was looked at.
    run: Arc<str>,
    fence: Stamp,
    tomb: Option<Tomb>,
    mark: SeenMark,
    /// The very record that a fill may replace, and no other.
    over: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum SeenMark {
    /// Nobody knew whose the token is.
    Unread,
    Read {
        name: String,
        mark: Option<Mark>,
    },
}

/// Which standing record the fill after a lookup may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replace {
    /// Any that is not newer.
    Any,
    /// The very one that the lookup found.
    ThatOne,
}

/// What became of a session that was to be stored in Redis.
pub(super) enum Filled {
    Stored,
    /// A newer record stands there, or Redis holds garbage.
    Skipped,
    Moved(Box<Seen>),
    Refused,
    Unanswered,
}

/// What a revocation of a token says about later answers of the identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They count.
    Forget,
    /// They do not.
    Refuse,
}

impl Redis {
    pub(super) fn new(
        server: ConnectionInfo,
        prefix: String,
        sealing: Option<Sealing>,
        clock: Clock,
        limits: Limits,
        tier: Option<Tier>,
    ) -> Result<Self, bb8_redis::redis::RedisError> {
        let names = Names::new(prefix);
        let lease = tier.as_ref().map(|tier| Arc::clone(&tier.lease));
        Ok(Self {
            listener: tier.map(|tier| Listener::new(&server, tier, names.clone())),
            links: Links::new(server, limits.deadlines, names.write_probe(), lease)?,
            names,
            sealing,
            clock,
            limits,
            memory: Memory::new(limits.capacity),
            warned: Warned::default(),
            nonces: (RandomState::new(), AtomicU64::new(0)),
        })
    }

    /// One round trip for a token of our own that is known from before, and for any other; two
    /// only where the record's user is written in a way that the script does not see through, and
    /// for a miss while the pepper is being changed.
    pub(super) async fn lookup(&self, key: &EntryKey) -> Found {
        let call = self.links.call(Effect::Reads);
        if let Some(listener) = &self.listener {
            listener.start(&self.links);
        }
        if let Some(known) = self.memory.known(key, &self.names) {
            match self.known(&call, key, &known).await {
                Ok(Some(served)) => return Found::Record(Box::new(served)),
                Ok(None) => self.memory.forget(key),
                Err(Unanswered) => return Found::Unanswered,
            }
        }
        // Boxed, so that the shortcut need not carry the room for it.
        Box::pin(self.both_names(&call, key, None)).await
    }

    /// A lookup that serves nothing of what is stored.
    pub(super) async fn ask(&self, key: &EntryKey, replace: Replace) -> Found {
        let call = self.links.call(Effect::Reads);
        self.both_names(&call, key, Some(replace)).await
    }

    async fn both_names(&self, call: &Call<'_>, key: &EntryKey, replace: Option<Replace>) -> Found {
        let found = self.script_lookup(call, key, replace).await;
        let (Ok(Found::Nothing(_)), Some(previous)) = (&found, key.previous()) else {
            return found.unwrap_or(Found::Unanswered);
        };
        match self.script_lookup(call, &previous, replace).await {
            Ok(Found::Nothing(_)) => found.unwrap_or(Found::Unanswered),
            // What ends it is pushed under that name, for which nothing here is listed.
            Ok(Found::Record(mut served)) => {
                served.keep = None;
                Found::Record(served)
            }
            other => other.unwrap_or(Found::Unanswered),
        }
    }

    /// The shortcut: it can only accept records of our own, of the very user that was expected.
    async fn known(
        &self,
        call: &Call<'_>,
        key: &EntryKey,
        known: &Known,
    ) -> Result<Option<Served>, Unanswered> {
        let answer = call.send(&known.ask).await?;
        let Some([Some(value), tomb, mark]) = read::<[Option<Vec<u8>>; 3]>(answer.value) else {
            return Ok(None);
        };
        let (record, value) = match known.record(&value) {
            Some(record) => (Arc::clone(record), None),
            None => match self.decode(&known.keys, &value) {
                Some((record, name)) if *name == *known.mark_name => {
                    (Arc::new(record), Some(value))
                }
                _ => return Ok(None),
            },
        };
        let beside = Beside {
            tomb: tomb.map(|tomb| Tomb::parse(&tomb)),
            mark: mark.map(|mark| Mark::parse(&mark)),
        };
        // Redis was not asked for the time, so the node's clock tells the age.
        let moment = self.moment(Stamp(self.clock.wall()), answer.run);
        let accepted =
            record.cause.is_some() && accept::accepts(&record, &beside, &moment, self.max_age());
        if !accepted {
            return Ok(None);
        }
        if let Some(value) = value {
            self.memory.read(key, known, value, Arc::clone(&record));
        }
        Ok(Some(self.served(key, record, &known.mark_name, &moment)))
    }

    async fn script_lookup(
        &self,
        call: &Call<'_>,
        key: &EntryKey,
        replace: Option<Replace>,
    ) -> Result<Found, Unanswered> {
        let keys = self.keys(key);
        let mut seen = self.look(call, &keys, None).await?;
        let decoded = seen
            .value
            .as_deref()
            .and_then(|value| self.decode(&keys, value));
        let Some((record, mark_name)) = decoded else {
            return Ok(nothing(seen, None, None));
        };
        if seen.mark_name.as_deref() != Some(mark_name.as_bytes()) {
            // The script took the user from the text; the mark counts only for who we read.
            let again = self.look(call, &keys, Some(&mark_name)).await?;
            // What stands there now may be another's already.
            if again.value != seen.value {
                return Ok(nothing(again, None, None));
            }
            seen = again;
        }
        // A time that Redis tells is no better than the rest of what it says.
        let time = match self.sealing {
            None => seen.time,
            Some(_) => Stamp(self.clock.wall()),
        };
        let moment = self.moment(time, Arc::clone(&seen.run));
        if replace.is_none() && accept::accepts(&record, &seen.beside, &moment, self.max_age()) {
            if record.cause.is_some() {
                self.memory.learn(key, &mark_name);
            }
            let served = self.served(key, Arc::new(record), &mark_name, &moment);
            return Ok(Found::Record(Box::new(served)));
        }
        if accept::has_ended(record.expires_at, moment.wall)
            && let Some(value) = &seen.value
        {
            let _ = call.run(Script::Drop, &[&keys.record], &[value]).await;
        }
        let over = seen
            .value
            .take()
            .filter(|_| replace == Some(Replace::ThatOne));
        Ok(nothing(seen, Some(mark_name), over))
    }

    /// Deletes the record that was to be replaced, since the identity provider refused its token.
    pub(super) async fn evict(&self, key: &EntryKey, seen: &Seen) {
        if let Some(over) = &seen.over {
            let keys = self.keys(key);
            let call = self.links.call(Effect::Writes);
            // What it does not reach ends with its TTL.
            let _ = call.run(Script::Drop, &[&keys.record], &[over]).await;
        }
    }

    fn served(
        &self,
        key: &EntryKey,
        record: Arc<Record>,
        mark_name: &str,
        moment: &Moment,
    ) -> Served {
        let since = record.since();
        let ends = record.expires_at.map(wall_micros);
        let lifetimes = &self.limits.lifetimes;
        let left = ends.map(|at| at.saturating_sub(since.0));
        let life = lifetimes.life(&key.token, since.0, left);
        let age = u64::try_from(moment.time.0.saturating_sub(since.0)).unwrap_or_default();
        Served {
            left: life.saturating_sub(age),
            refresh_in: lifetimes
                .refresh_after(life)
                .map(|after| after.saturating_sub(age)),
            of: Due(since.0),
            keep: self.keep(&record, mark_name, &moment.run),
            record,
        }
    }

    /// The record that a value is, and the name of its user's mark.
    fn decode(&self, keys: &Keys, value: &[u8]) -> Option<(Record, String)> {
        let Some(sealing) = &self.sealing else {
            if seal::is_sealed(value) {
                self.warned.sealed();
                return None;
            }
            let record = Record::parse(value);
            if record.is_none() {
                self.warned.unreadable("a record");
            }
            let record = record?;
            let name = record.user.id().to_owned();
            return Some((record, name));
        };
        match sealing.open(&keys.record, value) {
            Opened::Record { json, user } => {
                let record = Record::parse(&json)?;
                // What is readable outside must be what is true inside.
                let id = record.user.id();
                let is_the_users =
                    user == sealing.user(id) || Some(&user) == sealing.previous_user(id).as_ref();
                (is_the_users && record.cause.is_some()).then_some((record, user))
            }
            Opened::NotSealed => {
                self.warned.not_sealed();
                None
            }
            Opened::UnknownKey => {
                self.warned.sealed();
                None
            }
            Opened::Forged => {
                self.warned.unreadable("a sealed record");
                None
            }
        }
    }

    /// How a record that is served may be kept in memory: only if every change of what makes it
    /// unusable will be heard.
    fn keep(&self, record: &Record, mark_name: &str, run: &str) -> Option<Keep> {
        let listener = self.listener.as_ref()?;
        // The peer ends its own records by deleting them.
        let hears_its_end = listener.hears_records() || record.cause.is_some();
        (hears_its_end && listener.lease().hears(run)).then(|| Keep {
            user: listener.lease().user(mark_name),
            can_be_vouched_for: mark_name == self.mark_name(record.user.id()),
        })
    }

    /// Whether mark and tombstone are still those that were seen before a session was validated.
    pub(super) async fn vouches(&self, key: &EntryKey, user_id: &str, cause: &Cause) -> bool {
        let call = self.links.call(Effect::Reads);
        let looked = self
            .look(&call, &self.keys(key), Some(&self.mark_name(user_id)))
            .await;
        looked.is_ok_and(|looked| accept::still_holds(cause, &looked.beside, &looked.run))
    }

    /// The lookup script; the mark is that of the user in the record unless it is named.
    async fn look(
        &self,
        call: &Call<'_>,
        keys: &Keys,
        mark_name: Option<&str>,
    ) -> Result<Looked, Unanswered> {
        let marks = self.mark_key("");
        let longest = MAX_RECORD.to_string();
        let name = mark_name.unwrap_or_default();
        let arguments = [marks.as_bytes(), longest.as_bytes(), name.as_bytes()];
        let answer = call
            .run(Script::Lookup, &[&keys.record, &keys.tomb], &arguments)
            .await?;
        type Reply = (
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Vec<u8>,
        );
        let (value, tomb, mark_name, mark, time) = read::<Reply>(answer.value).ok_or(Unanswered)?;
        let tomb = tomb.map(|tomb| Tomb::parse(&tomb));
        let mark = mark.map(|mark| Mark::parse(&mark));
        if tomb.as_ref().is_some_and(|tomb| !tomb.is_readable()) {
            self.warned.unreadable("a tombstone");
        }
        if mark.as_ref().is_some_and(|mark| !mark.is_readable()) {
            self.warned.unreadable("a user's mark");
        }
        Ok(Looked {
            value,
            mark_name,
            beside: Beside { tomb, mark },
            run: answer.run,
            time: Stamp::parse(&time).ok_or(Unanswered)?,
        })
    }

    /// Stores a session that was validated after `seen`.
    pub(super) async fn fill(
        &self,
        key: &EntryKey,
        seen: &Seen,
        session: &ValidatedSession,
    ) -> Filled {
        self.try_fill(key, seen, session)
            .await
            .unwrap_or(Filled::Unanswered)
    }

    async fn try_fill(
        &self,
        key: &EntryKey,
        seen: &Seen,
        session: &ValidatedSession,
    ) -> Result<Filled, Unanswered> {
        // It has ended since it was validated, and nothing was compared.
        let ttl = self.effective_ttl(key, seen, session).ok_or(Unanswered)?;
        let call = self.links.call(Effect::Writes);
        let keys = self.keys(key);
        let mark_name = self.mark_name(session.user.id());
        let tomb = seen.tomb.as_ref().map(|tomb| tomb.text.as_str());
        let mut mark = match &seen.mark {
            SeenMark::Read { name, mark } if *name == mark_name => mark
                .as_ref()
                .map_or("", |mark| mark.text.as_str())
                .to_owned(),
            _ => "?".to_owned(),
        };
        let mut record = record::up_to_mark(
            &session.user,
            session.expires_at,
            seen.fence,
            seen.fence.minus(SLACK),
            tomb,
        );
        // Mark, run and seal take a few hundred bytes more.
        if record.len() > MAX_RECORD - 1_024 {
            self.warned.too_long();
            return Ok(match self.recheck(&call, &keys, seen, &mark_name).await? {
                Ok(_) => Filled::Skipped,
                Err(filled) => filled,
            });
        }
        let (value, is_sealed) = match &self.sealing {
            None => (record.into_bytes(), ""),
            Some(sealing) => {
                // Sealed is what Redis cannot complete, so the mark must be known before.
                if mark == "?" {
                    match self.recheck(&call, &keys, seen, &mark_name).await? {
                        Ok(text) => mark = text,
                        Err(filled) => return Ok(filled),
                    }
                }
                record += &record::rest(&mark, &seen.run);
                let id = session.user.id();
                match sealing.seal(&keys.record, id, seen.fence, record.as_bytes()) {
                    Some(value) => (value, "sealed"),
                    None => return Ok(Filled::Skipped),
                }
            }
        };
        let over = seen.over.as_deref().unwrap_or_default();
        let answer = call
            .run(
                Script::Fill,
                &[&keys.record, &keys.tomb, &self.mark_key(&mark_name)],
                &[
                    tomb.unwrap_or_default().as_bytes(),
                    mark.as_bytes(),
                    seen.fence.0.to_string().as_bytes(),
                    self.longest_fill().to_string().as_bytes(),
                    SLACK.to_string().as_bytes(),
                    ttl.to_string().as_bytes(),
                    &value,
                    seen.run.as_bytes(),
                    is_sealed.as_bytes(),
                    over,
                ],
            )
            .await?;
        let reply = read::<Vec<Option<Vec<u8>>>>(answer.value).ok_or(Unanswered)?;
        let field = |n: usize| reply.get(n).and_then(Option::as_deref);
        match field(0) {
            Some(b"stored") => {
                self.memory.learn(key, &mark_name);
                Ok(Filled::Stored)
            }
            Some(b"kept" | b"unreadable") => Ok(Filled::Skipped),
            Some(b"refused") => Ok(Filled::Refused),
            Some(b"moved") => Ok(Filled::Moved(Box::new(Seen {
                run: answer.run,
                fence: field(3).and_then(Stamp::parse).ok_or(Unanswered)?,
                tomb: field(1).map(Tomb::parse),
                mark: SeenMark::Read {
                    name: mark_name,
                    mark: field(2).map(Mark::parse),
                },
                over: seen.over.clone(),
            }))),
            // `lost` among them: what this server knows says nothing of the time before. And `late`:
            // a tombstone may have come and gone.
            _ => Err(Unanswered),
        }
    }

    /// What the fill script compares, without storing: the mark as it stands, or how the fill
    /// ends.
    async fn recheck(
        &self,
        call: &Call<'_>,
        keys: &Keys,
        seen: &Seen,
        mark_name: &str,
    ) -> Result<Result<String, Filled>, Unanswered> {
        let looked = self.look(call, keys, Some(mark_name)).await?;
        if looked.run != seen.run || looked.time > seen.fence.plus(self.longest_fill()) {
            return Err(Unanswered);
        }
        let Beside { tomb, mark } = looked.beside;
        if tomb.as_ref().is_some_and(Tomb::refuses) {
            return Ok(Err(Filled::Refused));
        }
        let is_seen = match &seen.mark {
            SeenMark::Read { name, mark: seen } if name == mark_name => mark == *seen,
            _ => mark
                .as_ref()
                .is_none_or(|mark| mark.is_before(seen.fence.minus(SLACK))),
        };
        if is_seen && tomb == seen.tomb {
            return Ok(Ok(mark.map(|mark| mark.text).unwrap_or_default()));
        }
        Ok(Err(Filled::Moved(Box::new(Seen {
            run: looked.run,
            fence: looked.time,
            tomb,
            mark: SeenMark::Read {
                name: mark_name.to_owned(),
                mark,
            },
            over: seen.over.clone(),
        }))))
    }

    pub(super) async fn revoke_token(
        &self,
        key: &EntryKey,
        verdict: Verdict,
    ) -> Result<(), Unanswered> {
        let (word, ttl) = match verdict {
            Verdict::Forget => ("forget", self.limits.tombstone_ttl),
            Verdict::Refuse => (
                "refuse",
                self.limits.longest_session.max(self.limits.tombstone_ttl),
            ),
        };
        let (state, count) = &self.nonces;
        let nonce = format!("{:016x}", state.hash_one(count.fetch_add(1, Relaxed)));
        let arguments = [word.as_bytes(), nonce.as_bytes(), &decimal(ttl)[..]];
        self.memory.forget(key);
        let call = self.links.call(Effect::Writes);
        for key in [Some(key.clone()), key.previous()].into_iter().flatten() {
            let keys = self.keys(&key);
            call.run(Script::RevokeToken, &[&keys.tomb, &keys.record], &arguments)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn revoke_user(&self, id: &str) -> Result<(), Unanswered> {
        // Never shorter than the records that it must outlive.
        let records = self.limits.ttl + Duration::from_micros(SLACK.unsigned_abs());
        let ttl = decimal(self.limits.longest_session.max(records));
        let slack = SLACK.to_string();
        let call = self.links.call(Effect::Writes);
        for name in self.mark_names(id) {
            call.run(
                Script::RevokeUser,
                &[&self.mark_key(&name)],
                &[&ttl, slack.as_bytes()],
            )
            .await?;
        }
        Ok(())
    }

    /// Whether requests ask Redis at all, or would wait in vain.
    pub(super) fn is_skipped(&self) -> bool {
        self.links.is_skipped()
    }

    pub(super) fn meter(&self) -> &RedisMeter {
        self.links.meter()
    }

    pub(super) async fn answers(&self) -> bool {
        let call = self.links.call(Effect::Reads);
        call.send(&cmd("PING")).await.is_ok()
    }

    /// The milliseconds that the record may live; nothing for a session that has ended.
    fn effective_ttl(
        &self,
        key: &EntryKey,
        seen: &Seen,
        session: &ValidatedSession,
    ) -> Option<u64> {
        let life = self.limits.lifetimes.life(&key.token, seen.fence.0, None) / 1_000;
        let Some(at) = session.expires_at else {
            return Some(life);
        };
        let left = wall_micros(at).saturating_sub(self.clock.wall());
        let left = u64::try_from(left).ok().filter(|left| *left > 0)?;
        // Whole seconds, as the Python service counts them.
        Some(life.min((left / 1_000_000).max(1) * 1_000))
    }

    fn moment(&self, time: Stamp, run: Arc<str>) -> Moment {
        Moment {
            time,
            run,
            wall: self.clock.wall(),
            floor: self.links.floor(),
        }
    }

    /// A process that slept for longer between lookup and fill knows too little to fill.
    fn longest_fill(&self) -> i64 {
        micros(self.limits.validation_deadline).saturating_add(SLACK)
    }

    fn max_age(&self) -> i64 {
        micros(self.limits.ttl)
    }

    fn keys(&self, key: &EntryKey) -> Keys {
        self.names.keys(key)
    }

    fn mark_key(&self, name: &str) -> String {
        self.names.mark(name)
    }

    /// The user's id, or its keyed hash where records are sealed.
    fn mark_name(&self, user_id: &str) -> String {
        match &self.sealing {
            None => user_id.to_owned(),
            Some(sealing) => sealing.user(user_id),
        }
    }

    /// And the name under which nodes may still look that have the previous key.
    pub(super) fn mark_names(&self, user_id: &str) -> impl Iterator<Item = String> {
        let sealing = self.sealing.as_ref();
        let previous = sealing.and_then(|sealing| sealing.previous_user(user_id));
        [Some(self.mark_name(user_id)), previous]
            .into_iter()
            .flatten()
    }
}

fn nothing(seen: Looked, mark_name: Option<String>, over: Option<Vec<u8>>) -> Found {
    let Beside { tomb, mark } = seen.beside;
    if tomb.as_ref().is_some_and(Tomb::refuses) {
        return Found::Refused;
    }
    Found::Nothing(Box::new(Seen {
        run: seen.run,
        fence: seen.time,
        tomb,
        mark: match mark_name {
            Some(name) => SeenMark::Read { name, mark },
            None => SeenMark::Unread,
        },
        over,
    }))
}

/// The reply of the lookup script.
struct Looked {
    value: Option<Vec<u8>>,
    mark_name: Option<Vec<u8>>,
    beside: Beside,
    run: Arc<str>,
    time: Stamp,
}

fn read<T: FromRedisValue>(reply: Value) -> Option<T> {
    from_redis_value(reply).ok()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn decimal(ttl: Duration) -> Vec<u8> {
    ttl.as_secs().to_string().into_bytes()
}

/// Reads a URL; `db` is used when it names no database. The error does not show the URL.
pub(super) fn server(url: &str, db: u16) -> Option<ConnectionInfo> {
    let parsed = parse_redis_url(url)?;
    let info = parsed.as_str().into_connection_info().ok()?;
    let names_db = match parsed.scheme() {
        "unix" | "redis+unix" | "valkey+unix" => parsed.query_pairs().any(|(name, _)| name == "db"),
        _ => !matches!(parsed.path(), "" | "/"),
    };
    let mut redis = info.redis_settings().clone();
    if !names_db {
        redis = redis.set_db(db.into());
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Some(info.set_redis_settings(redis).set_tcp_settings(tcp))
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}
