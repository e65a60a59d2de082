//! The store that all nodes share, and the Python service with them.
//!
//! Every operation is one round trip and one script, so what it compares is of one moment. No
//! operation fails: when Redis does not answer in time, the outcome says so, and the caller
//! decides without it.

mod pool;
mod scripts;

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
use quick_cache::sync::Cache;

use self::{
    pool::{Links, Unanswered},
    scripts::Script,
};
use super::{
    accept::{self, Beside, Mark, Moment, SLACK, Tomb},
    key::{EntryKey, TokenKey},
    record::{self, MAX_RECORD, Record},
    stamp::Stamp,
};
use crate::{clock::Clock, validator::ValidatedSession};

pub(super) struct Redis {
    links: Links,
    prefix: String,
    clock: Clock,
    limits: Limits,
    /// Whose the tokens are that we stored or served: a hint that saves a script, never a proof.
    hints: Cache<TokenKey, Arc<str>>,
    warned: Warned,
    nonces: (RandomState, AtomicU64),
}

/// What the protocol is told, in the units in which it speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) deadline: Duration,
    pub(super) ttl: Duration,
    pub(super) validation_deadline: Duration,
    pub(super) longest_session: Duration,
    pub(super) tombstone_ttl: Duration,
    pub(super) capacity: usize,
}

/// What a lookup found in Redis.
pub(super) enum Found {
    Record(Box<Record>),
    Nothing(Seen),
    Refused,
    Unanswered,
}

/// What a lookup saw, or the re-check of a fill.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    fence: Stamp,
    tomb: Option<Tomb>,
    mark: SeenMark,
}

#[derive(Clone, Debug)]
enum SeenMark {
    /// Nobody knew whose the token is.
    Unread,
    Read {
        user: String,
        mark: Option<Mark>,
    },
}

/// What became of a session that was to be stored in Redis.
pub(super) enum Filled {
    Stored,
    /// A newer record stands there, the validation took too long, or Redis holds garbage.
    Skipped,
    Moved(Seen),
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
        clock: Clock,
        limits: Limits,
    ) -> Result<Self, bb8_redis::redis::RedisError> {
        Ok(Self {
            links: Links::new(server, limits.deadline)?,
            prefix,
            clock,
            limits,
            hints: Cache::new(limits.capacity),
            warned: Warned::default(),
            nonces: (RandomState::new(), AtomicU64::new(0)),
        })
    }

    /// One round trip for a token of our own that is known from before, and for any other; two
    /// only where the record's user is written in a way that the script does not see through.
    pub(super) async fn lookup(&self, key: &EntryKey) -> Found {
        if let Some(user) = self.hints.get(&key.token) {
            match self.known(key, &user).await {
                Ok(Some(record)) => return Found::Record(Box::new(record)),
                Ok(None) => {
                    self.hints.remove(&key.token);
                }
                Err(Unanswered) => return Found::Unanswered,
            }
        }
        self.script_lookup(key, true)
            .await
            .unwrap_or(Found::Unanswered)
    }

    /// A lookup that disregards what is stored.
    pub(super) async fn ask(&self, key: &EntryKey) -> Found {
        self.script_lookup(key, false)
            .await
            .unwrap_or(Found::Unanswered)
    }

    /// The shortcut: it can only accept records of our own, of the very user that was expected.
    async fn known(&self, key: &EntryKey, user: &str) -> Result<Option<Record>, Unanswered> {
        let keys = self.keys(key);
        let mut mget = cmd("MGET");
        mget.arg(&[&keys.record, &keys.tomb, &self.mark_key(user)]);
        let answer = self.links.send(&mget).await?;
        let Some([record, tomb, mark]) = read::<[Option<Vec<u8>>; 3]>(answer.value) else {
            return Ok(None);
        };
        let Some(record) = record.and_then(|json| Record::parse(&json)) else {
            return Ok(None);
        };
        let beside = Beside {
            tomb: tomb.map(|tomb| Tomb::parse(&tomb)),
            mark: mark.map(|mark| Mark::parse(&mark)),
        };
        // Redis was not asked for the time, so the node's clock tells the age.
        let moment = self.moment(Stamp(self.clock.wall()), answer.run);
        let accepted = record.cause.is_some()
            && record.user.id() == user
            && accept::accepts(&record, &beside, &moment, self.max_age());
        Ok(accepted.then_some(record))
    }

    async fn script_lookup(&self, key: &EntryKey, serve: bool) -> Result<Found, Unanswered> {
        let keys = self.keys(key);
        let mut seen = self.look(&keys, None).await?;
        let parsed = seen.json.as_deref().and_then(Record::parse);
        if parsed.is_none() && seen.json.is_some() {
            self.warned.unreadable("a record");
        }
        if let Some(record) = &parsed
            && seen.user.as_deref() != Some(record.user.id().as_bytes())
        {
            // The script took the user from the text; the mark counts only for who we read.
            seen = self.look(&keys, Some(record.user.id())).await?;
            // What stands there now may be another's already.
            if seen.json.as_deref().and_then(Record::parse).as_ref() != Some(record) {
                return Ok(self.nothing(seen, None));
            }
        }
        let Some(record) = parsed else {
            return Ok(self.nothing(seen, None));
        };
        let moment = self.moment(seen.time, Arc::clone(&seen.run));
        if serve && accept::accepts(&record, &seen.beside, &moment, self.max_age()) {
            if record.cause.is_some() {
                self.hints.insert(key.token, record.user.id().into());
            }
            return Ok(Found::Record(Box::new(record)));
        }
        if accept::has_ended(record.expires_at, moment.wall)
            && let Some(json) = &seen.json
        {
            let _ = self.links.run(Script::Drop, &[&keys.record], &[json]).await;
        }
        Ok(self.nothing(seen, Some(record.user.id().to_owned())))
    }

    fn nothing(&self, seen: Looked, user: Option<String>) -> Found {
        let Beside { tomb, mark } = seen.beside;
        if tomb.as_ref().is_some_and(Tomb::refuses) {
            return Found::Refused;
        }
        Found::Nothing(Seen {
            fence: seen.time,
            tomb,
            mark: match user {
                Some(user) => SeenMark::Read { user, mark },
                None => SeenMark::Unread,
            },
        })
    }

    async fn look(&self, keys: &Keys, user: Option<&str>) -> Result<Looked, Unanswered> {
        let marks = self.mark_key("");
        let longest = MAX_RECORD.to_string();
        let user = user.unwrap_or_default();
        let arguments = [marks.as_bytes(), longest.as_bytes(), user.as_bytes()];
        let answer = self
            .links
            .run(Script::Lookup, &[&keys.record, &keys.tomb], &arguments)
            .await?;
        type Reply = (
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Vec<u8>,
        );
        let (json, tomb, user, mark, time) = read::<Reply>(answer.value).ok_or(Unanswered)?;
        let tomb = tomb.map(|tomb| Tomb::parse(&tomb));
        let mark = mark.map(|mark| Mark::parse(&mark));
        if tomb.as_ref().is_some_and(|tomb| !tomb.is_readable()) {
            self.warned.unreadable("a tombstone");
        }
        if mark.as_ref().is_some_and(|mark| !mark.is_readable()) {
            self.warned.unreadable("a user's mark");
        }
        Ok(Looked {
            json,
            user,
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
        let Some(ttl) = self.effective_ttl(session) else {
            return Filled::Skipped;
        };
        let keys = self.keys(key);
        let user = session.user.id();
        let tomb = seen.tomb.as_ref().map(|tomb| tomb.text.as_str());
        let mark = match &seen.mark {
            SeenMark::Read { user: read, mark } if read == user => {
                mark.as_ref().map_or("", |mark| mark.text.as_str())
            }
            _ => "?",
        };
        let json = record::up_to_mark(
            &session.user,
            session.expires_at,
            seen.fence,
            seen.fence.minus(SLACK),
            tomb,
        );
        if json.len() >= MAX_RECORD - 64 {
            self.warned.too_long();
            return Filled::Skipped;
        }
        let longest = micros(self.limits.validation_deadline).saturating_add(SLACK);
        let reply = self
            .links
            .run(
                Script::Fill,
                &[&keys.record, &keys.tomb, &self.mark_key(user)],
                &[
                    tomb.unwrap_or_default().as_bytes(),
                    mark.as_bytes(),
                    seen.fence.0.to_string().as_bytes(),
                    longest.to_string().as_bytes(),
                    SLACK.to_string().as_bytes(),
                    ttl.to_string().as_bytes(),
                    json.as_bytes(),
                ],
            )
            .await;
        let Ok(reply) = reply else {
            return Filled::Unanswered;
        };
        let Some(reply) = read::<Vec<Option<Vec<u8>>>>(reply.value) else {
            return Filled::Unanswered;
        };
        let field = |n: usize| reply.get(n).and_then(Option::as_deref);
        match field(0) {
            Some(b"stored") => {
                self.hints.insert(key.token, user.into());
                Filled::Stored
            }
            Some(b"kept" | b"late" | b"unreadable") => Filled::Skipped,
            Some(b"refused") => Filled::Refused,
            Some(b"moved") => match field(3).and_then(Stamp::parse) {
                Some(fence) => Filled::Moved(Seen {
                    fence,
                    tomb: field(1).map(Tomb::parse),
                    mark: SeenMark::Read {
                        user: user.to_owned(),
                        mark: field(2).map(Mark::parse),
                    },
                }),
                None => Filled::Unanswered,
            },
            _ => Filled::Unanswered,
        }
    }

    pub(super) async fn revoke_token(
        &self,
        key: &EntryKey,
        verdict: Verdict,
    ) -> Result<(), Unanswered> {
        let keys = self.keys(key);
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
        self.hints.remove(&key.token);
        self.links
            .run(Script::RevokeToken, &[&keys.tomb, &keys.record], &arguments)
            .await
            .map(drop)
    }

    pub(super) async fn revoke_user(&self, id: &str) -> Result<(), Unanswered> {
        // Never shorter than the records that it must outlive.
        let records = self.limits.ttl + Duration::from_micros(SLACK.unsigned_abs());
        let ttl = decimal(self.limits.longest_session.max(records));
        let slack = SLACK.to_string();
        self.links
            .run(
                Script::RevokeUser,
                &[&self.mark_key(id)],
                &[&ttl, slack.as_bytes()],
            )
            .await
            .map(drop)
    }

    pub(super) async fn answers(&self) -> bool {
        self.links.send(&cmd("PING")).await.is_ok()
    }

    /// The seconds that the record may live; nothing for a session that has ended.
    fn effective_ttl(&self, session: &ValidatedSession) -> Option<u64> {
        let ttl = self.limits.ttl.as_secs();
        let Some(at) = session.expires_at else {
            return Some(ttl);
        };
        let left = crate::clock::wall_micros(at).saturating_sub(self.clock.wall());
        let left = u64::try_from(left).ok().filter(|left| *left > 0)?;
        Some(ttl.min((left / 1_000_000).max(1)))
    }

    fn moment(&self, time: Stamp, run: Arc<str>) -> Moment {
        Moment {
            time,
            run,
            wall: self.clock.wall(),
            floor: self.links.floor(),
        }
    }

    fn max_age(&self) -> i64 {
        micros(self.limits.ttl)
    }

    /// The braces are the hash tag that keeps all of a token in one slot of a cluster.
    fn keys(&self, key: &EntryKey) -> Keys {
        let prefix = &self.prefix;
        let session = format!("{prefix}session_cache:{}", key.token.short_hex());
        Keys {
            tomb: format!("{prefix}session_tomb:{{{session}}}"),
            record: match key.namespace() {
                None => session,
                Some(name) => format!("{prefix}session_space:{{{session}}}:{name}"),
            },
        }
    }

    fn mark_key(&self, user: &str) -> String {
        format!("{}user_invalidated:{user}", self.prefix)
    }
}

struct Keys {
    record: String,
    tomb: String,
}

/// The reply of the lookup script.
struct Looked {
    json: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
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

/// Garbage is reported, but a store full of it must not fill the log as well.
#[derive(Default)]
struct Warned(AtomicU64);

impl Warned {
    fn unreadable(&self, what: &str) {
        // The first, and then each that doubles their number.
        if (self.0.fetch_add(1, Relaxed) + 1).is_power_of_two() {
            tracing::warn!(
                "{what} in Redis cannot be read and is not used; check whether something else \
                 writes to this database, or set a key prefix"
            );
        }
    }

    fn too_long(&self) {
        if (self.0.fetch_add(1, Relaxed) + 1).is_power_of_two() {
            tracing::warn!(
                "a session is too large to be cached; let the validator add fewer attributes"
            );
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}
