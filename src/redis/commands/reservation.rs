//! Reservations and shared rejections, by which the nodes of a fleet validate a token once.
//!
//! A lookup that finds nothing usable reserves the validation for its node. Other nodes then wait for
//! the record, for a bounded time. A reservation is never proof of anything: whether a record may be
//! served is decided as always, and a node that does not want to wait any longer validates the token
//! itself.

use std::time::Duration;

use bb8_redis::redis::cmd;

use super::{
    outcome::{LookupResult, LookupSnapshot, Reservation},
    store::{RedisStore, read},
};
use crate::{
    protocol::{CacheKey, LastingCause, SharedRejection, Timestamp},
    redis::{
        connection::Access,
        keys::{SessionKeys, ValidationKeys},
        scripts::Script,
        topology::Operation,
    },
};

/// What a script returned: the text of the last rejection, and for which node the validation is
/// reserved.
pub(super) type Reserved = (Option<Vec<u8>>, Option<String>);

/// What a script needs to reserve a validation.
pub(super) struct ReservationRequest {
    keys: ValidationKeys,
    node: String,
    millis: String,
}

impl ReservationRequest {
    /// Returns the arguments of the scripts: the keys, the node, and how long the reservation lasts.
    pub(super) fn arguments(&self) -> [&[u8]; 4] {
        let ValidationKeys {
            rejection,
            reservation,
        } = &self.keys;
        [rejection, reservation, &self.node, &self.millis].map(String::as_bytes)
    }
}

impl RedisStore {
    /// Returns the request for a reservation that lasts this long, unless the nodes do not share
    /// validations.
    pub(super) fn reservation(&self, key: &CacheKey, time: Duration) -> Option<ReservationRequest> {
        let node = self.node.clone()?;
        Some(ReservationRequest {
            keys: self.key_space.validation(key),
            node,
            millis: time.as_millis().max(1).to_string(),
        })
    }

    /// Completes the result of a lookup that found nothing usable by a reservation. `reserved` is
    /// what the lookup script has returned about it, if that script was asked, and `value` is what
    /// is stored under the key of the record.
    pub(super) async fn reserve(
        &self,
        call: &Operation<'_>,
        keys: &SessionKeys,
        request: &ReservationRequest,
        reserved: Option<Reserved>,
        value: Option<&[u8]>,
        found: &mut LookupResult,
    ) {
        let LookupResult::Miss(snapshot) = found else {
            return;
        };
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => {
                let mut arguments = vec![value.unwrap_or_default()];
                arguments.extend(request.arguments());
                let all = [&*keys.record, &keys.tombstone];
                let script = call.run_together(Script::Reserve, &all, &arguments);
                let answer = script.await;
                match answer {
                    Ok(Some(answer)) => read(answer.value).unwrap_or_default(),
                    // The validation can do without it.
                    Ok(None) | Err(_) => Reserved::default(),
                }
            }
        };
        let (rejection, reservation) = reserved;
        snapshot.reservation = match reservation.as_deref() {
            Some("held") => Reservation::ThisNode,
            Some("other") => Reservation::OtherNode,
            Some("denied") => {
                self.warnings.unshared();
                Reservation::None
            }
            _ => Reservation::None,
        };
        snapshot.rejection = rejection.and_then(|text| {
            let name = &request.keys.rejection;
            SharedRejection::parse(&text, name, self.sealing.as_ref())
        });
    }

    /// Returns the rejection that a lookup found, if it is still in use and nothing has revoked the
    /// token since.
    ///
    /// A rejection is in one namespace, and a tombstone applies in all of them, so the times are
    /// compared. Both are of the clock of Redis.
    pub(crate) fn rejection<'a>(&self, seen: &'a LookupSnapshot) -> Option<&'a SharedRejection> {
        let now = self.rejection_time(seen);
        let rejection = seen.rejection.as_ref()?;
        let revoked = seen.tombstone.as_ref().map(|tombstone| tombstone.time);
        let is_later = revoked.is_none_or(|time| time.is_some_and(|time| rejection.fence > time));
        let is_in_use = rejection.is_in_use(now, self.limits.negative_ttl);
        (is_later && is_in_use).then_some(rejection)
    }

    /// Returns how long the last rejection was used, if the token was rejected so recently that the
    /// next rejection is used for longer.
    pub(crate) fn last_wait(&self, seen: &LookupSnapshot) -> Option<u64> {
        let rejection = seen.rejection.as_ref()?;
        let since = self
            .rejection_time(seen)
            .0
            .saturating_sub(rejection.until.0);
        let is_recent = u64::try_from(since).unwrap_or_default() < self.limits.negative_ttl;
        is_recent.then_some(rejection.wait)
    }

    /// Returns how long ago the provider rejected the token, in microseconds.
    pub(crate) fn rejection_age(&self, seen: &LookupSnapshot, rejection: &SharedRejection) -> u64 {
        let age = self.rejection_time(seen).0.saturating_sub(rejection.at().0);
        u64::try_from(age).unwrap_or_default()
    }

    /// Returns the time with which rejections are compared. If records are sealed, Redis is not
    /// trusted, and neither is its time.
    fn rejection_time(&self, seen: &LookupSnapshot) -> Timestamp {
        match self.sealing {
            None => seen.fence,
            Some(_) => Timestamp(self.clock.wall()),
        }
    }

    /// Shares a rejection by the provider, which is used for `wait` microseconds, and ends this
    /// node's reservation. `age` is the time since the lookup, in microseconds.
    pub(crate) async fn share_rejection(
        &self,
        key: &CacheKey,
        seen: &LookupSnapshot,
        age: u64,
        wait: u64,
        cause: LastingCause,
    ) {
        let Some(node) = &self.node else {
            return;
        };
        let signed = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
        let now = match self.sealing {
            None => seen.fence.plus(signed(age)),
            Some(_) => Timestamp(self.clock.wall()),
        };
        let ValidationKeys {
            rejection,
            reservation,
        } = self.key_space.validation(key);
        let text = SharedRejection {
            fence: seen.fence,
            until: now.plus(signed(wait)),
            wait,
            cause,
        };
        let text = text.encode(&rejection, self.sealing.as_ref());
        let tombstone = seen.tombstone.as_ref().map(|it| it.text.as_bytes());
        let fence = seen.fence.0.to_string();
        // It is kept for longer than it is used, because the next one must know how long it was.
        let kept = (wait.saturating_add(self.limits.negative_ttl) / 1_000).max(1);
        let kept = kept.to_string();
        let arguments = [
            rejection.as_bytes(),
            reservation.as_bytes(),
            node.as_bytes(),
            tombstone.unwrap_or_default(),
            fence.as_bytes(),
            text.as_bytes(),
            kept.as_bytes(),
        ];
        let keys = self.keys(key);
        let all = [&*keys.record, &keys.tombstone];
        let call = self.topology.call(Access::Write);
        let _ = call.run_together(Script::Reject, &all, &arguments).await;
    }

    /// Forgets a shared rejection after a success that is not stored.
    pub(super) async fn forget_rejection(&self, call: &Operation<'_>, key: &CacheKey) {
        if self.node.is_some() {
            let rejection = self.key_space.validation(key).rejection;
            let _ = call.send(&rejection, cmd("DEL").arg(&rejection)).await;
        }
    }

    /// Ends this node's reservation, so that no other node waits for it any longer.
    pub(crate) async fn end_reservation(&self, key: &CacheKey) {
        if let Some(node) = &self.node {
            let reservation = self.key_space.validation(key).reservation;
            let call = self.topology.call(Access::Write);
            let _ = call
                .run(Script::Drop, &[&reservation], &[node.as_bytes()])
                .await;
        }
    }
}
