//! Ended sessions and banned users, which a fill must not store, and how they come about.
//!
//! A hit reads none of these keys. A node that ends a session or bans a user moves the mark of the
//! user afterwards, so that no record from before is served. A fill adds the name of its mark to the
//! session before it compares the mark. So a node that knows only the session finds every mark that
//! it must move.

use std::{sync::Arc, time::Duration};

use bb8_redis::redis::cmd;

use super::{
    outcome::Denial,
    revoke::seconds,
    store::{RedisStore, micros, read},
};
use crate::{
    model::{Authority, RecordKey, UserData},
    protocol::{CacheKey, IdentityDigest, IdentityNames},
    redis::{
        connection::{Access, Unavailable},
        keys::IdentityKeys,
        scripts::Script,
        topology::Operation,
    },
};

/// The keys that tell whether a validated session may be stored.
pub(super) struct SessionState {
    ban: Option<String>,
    session: Option<IdentityKeys>,
}

impl SessionState {
    pub(super) fn of(store: &RedisStore, user: &UserData) -> Self {
        let names = &store.identity_names;
        let ban = user.authority().map(|authority| {
            let name = names.user(authority, user.id());
            store.key_space.ban(&name)
        });
        let session = IdentityDigest::session_of(user);
        let session = session.map(|session| store.key_space.session(&names.session(&session)));
        Self { ban, session }
    }

    /// Returns the keys in the order of the fill script. A session without an ID has the first
    /// only, and one without an authority has none.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        let session = self.session.as_ref().filter(|_| self.ban.is_some());
        let session = session.map(|keys| [&*keys.ended, &*keys.users]);
        self.ban
            .as_deref()
            .into_iter()
            .chain(session.into_iter().flatten())
    }
}

impl RedisStore {
    /// Does what the fill script does if one server holds all keys: finds out whether the session
    /// must be denied, or else adds the name of the user's mark to those of the session.
    pub(super) async fn join(
        &self,
        call: &Operation<'_>,
        state: &SessionState,
        mark_name: &str,
        ttl: &[u8],
    ) -> Result<Join, Unavailable> {
        if let Some(ban) = &state.ban
            && self.exists(call, ban).await?
        {
            return Ok(Join::Denied(Denial::Banned));
        }
        let Some(IdentityKeys { ended, users }) = &state.session else {
            return Ok(Join::Joined);
        };
        let arguments = [mark_name.as_bytes(), ttl];
        let answer = call
            .run(Script::JoinSession, &[ended, users], &arguments)
            .await?;
        match read::<String>(answer.value).as_deref() {
            Some("joined") => Ok(Join::Joined),
            Some("ended") => Ok(Join::Denied(Denial::Ended)),
            Some("crowded") => Ok(Join::Crowded),
            _ => Err(Unavailable),
        }
    }

    /// Returns for how many seconds the name of a mark is kept for a session whose record lives for
    /// `ttl` milliseconds. The record is stored later than the name, and it may be served stale.
    pub(super) fn name_ttl(&self, ttl: u64) -> u64 {
        let later = self
            .longest_fill()
            .saturating_add(micros(self.limits.stale_if_error));
        (ttl / 1_000)
            .saturating_add(later.unsigned_abs() / 1_000_000)
            .saturating_add(2)
    }

    /// Returns why a session must not be served although nothing is stored, if Redis tells.
    pub(crate) async fn denial(&self, user: &UserData) -> Option<Denial> {
        let call = self.topology.call(Access::Read);
        let state = SessionState::of(self, user);
        let ended = state.session.map(|session| session.ended);
        let exists = async |key: Option<String>| match key {
            Some(key) => self.exists(&call, &key).await.unwrap_or(false),
            None => false,
        };
        if exists(state.ban).await {
            Some(Denial::Banned)
        } else if exists(ended).await {
            Some(Denial::Ended)
        } else {
            None
        }
    }

    /// Whether the user of a record of the Python service is banned. `known` is what the lookup has
    /// read already.
    pub(super) async fn is_banned(
        &self,
        call: &Operation<'_>,
        user: &UserData,
        known: Option<bool>,
    ) -> Result<bool, Unavailable> {
        match (known, SessionState::of(self, user).ban) {
            (Some(is_banned), _) => Ok(is_banned),
            (None, Some(ban)) => self.exists(call, &ban).await,
            (None, None) => Ok(false),
        }
    }

    /// Returns what the keys of bans start with for users of this key's Python service, or an empty
    /// text if it has none.
    pub(super) fn ban_prefix(&self, key: &CacheKey) -> String {
        match (&self.identity_names, key.space().namespace().record_key()) {
            (IdentityNames::Plain, RecordKey::Python(authority)) => {
                self.key_space.ban(&IdentityNames::plain_users(authority))
            }
            _ => String::new(),
        }
    }

    async fn exists(&self, call: &Operation<'_>, key: &str) -> Result<bool, Unavailable> {
        let answer = call.send(key, cmd("GET").arg(key)).await?;
        let value = read::<Option<Vec<u8>>>(answer.value).ok_or(Unavailable)?;
        Ok(value.is_some())
    }

    /// Ends a session for `ttl`, and makes all records of its users unusable: of `user`, and of
    /// all users for whom a record of the session was stored.
    pub(crate) async fn end_session(
        &self,
        session: &IdentityDigest,
        user: Option<&str>,
        ttl: Duration,
    ) -> Result<EndedSession, Unavailable> {
        let call = self.topology.revocation();
        // No fill that began before may outlive it.
        let ttl = seconds(ttl.max(self.limits.tombstone_ttl));
        let mut mark_names: Vec<String> = user.iter().flat_map(|id| self.mark_names(id)).collect();
        let mut run_ids = Vec::new();
        for name in self.identity_names.sessions(session) {
            let keys = self.key_space.session(&name);
            let all = [&*keys.ended, &*keys.users];
            let answer = call.run(Script::EndSession, &all, &[&ttl]).await?;
            run_ids.push(answer.run_id);
            for name in read::<Vec<String>>(answer.value).ok_or(Unavailable)? {
                if !mark_names.contains(&name) {
                    mark_names.push(name);
                }
            }
        }
        for name in &mark_names {
            run_ids.push(self.move_mark(&call, name).await?);
        }
        Ok(EndedSession {
            run_ids,
            mark_names,
        })
    }

    /// Bans a user for `ttl`, or lifts the ban. Either way all records of the user become unusable.
    pub(crate) async fn set_ban(
        &self,
        authority: &Authority,
        id: &str,
        ttl: Option<Duration>,
    ) -> Result<Vec<Arc<str>>, Unavailable> {
        let call = self.topology.revocation();
        let mut run_ids = Vec::new();
        for name in self.identity_names.users(authority, id) {
            let key = self.key_space.ban(&name);
            let mut command;
            if let Some(ttl) = ttl {
                command = cmd("SET");
                command.arg(&key).arg("1").arg("EX").arg(seconds(ttl));
            } else {
                command = cmd("DEL");
                command.arg(&key);
            }
            run_ids.push(call.send(&key, &command).await?.run_id);
        }
        for name in self.mark_names(id) {
            run_ids.push(self.move_mark(&call, &name).await?);
        }
        Ok(run_ids)
    }
}

/// Whether a session may be stored.
pub(super) enum Join {
    Joined,
    /// The session has too many users to be one, so no record of it is stored.
    Crowded,
    Denied(Denial),
}

/// What is left to do in this process after a session was ended in Redis.
pub(crate) struct EndedSession {
    pub(crate) run_ids: Vec<Arc<str>>,
    pub(crate) mark_names: Vec<String>,
}
