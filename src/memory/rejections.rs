//! Rejections by the identity provider, for as long as an older record of the token may exist.
//!
//! A rejection deletes the record in Redis. If Redis does not reply at that moment, or another node
//! stores the result of an earlier validation afterwards, the record is there again. So this
//! process remembers what it has rejected, and uses no record whose validation began before.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
};

use crate::{
    protocol::{CLOCK_SKEW_TOLERANCE, CacheKey},
    sync::lock,
    time::Clock,
};

const MAX_REJECTIONS: usize = 10_000;

/// Rejections whose record was deleted from Redis, and those whose record was not.
pub(crate) struct Rejections {
    deleted: RejectionList,
    undeleted: RejectionList,
    /// Rejections until this time are no longer known one by one, so all records from before count
    /// as rejected. In microseconds, as all times here, by the clock of this node.
    all_until: AtomicI64,
    /// How long a record may exist.
    max_record_age: i64,
}

#[derive(Default)]
struct RejectionList {
    tokens: Mutex<Tokens>,
    /// So that a lookup does not take the lock while the list is empty.
    len: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Rejection {
    /// By the clock of this node, as records are compared.
    at: i64,
    /// By the clock of this process, as tickets are.
    elapsed: u64,
}

#[derive(Default)]
struct Tokens {
    rejected_at: HashMap<CacheKey, Rejection>,
    order: VecDeque<(CacheKey, Rejection)>,
}

/// Time of the latest rejection that concerns a token.
#[derive(Clone, Copy)]
pub(crate) struct RejectedUntil(i64);

impl RejectedUntil {
    /// Whether a record is older than the rejection. Its validation began at `since` by the clock
    /// of Redis.
    pub(crate) fn hides(self, since: i64) -> bool {
        since.saturating_sub(CLOCK_SKEW_TOLERANCE) <= self.0
    }
}

impl Rejections {
    pub(crate) fn new(max_record_age: u64) -> Self {
        Self {
            deleted: RejectionList::default(),
            undeleted: RejectionList::default(),
            all_until: AtomicI64::new(i64::MIN),
            max_record_age: i64::try_from(max_record_age).unwrap_or(i64::MAX),
        }
    }

    /// Stores a rejection whose record is being deleted. If there are too many, the oldest are
    /// forgotten: their records could only return from a validation that was running.
    pub(crate) fn insert(&self, key: &CacheKey, clock: &Clock) {
        let (now, expired_at) = self.now(clock);
        self.deleted.insert(key, now, expired_at);
    }

    /// Stores a rejection whose record could not be deleted. If there are too many, the oldest are
    /// remembered by their time.
    pub(crate) fn insert_undeleted(&self, key: &CacheKey, clock: &Clock) {
        let (now, expired_at) = self.now(clock);
        if let Some(forgotten) = self.undeleted.insert(key, now, expired_at) {
            self.all_until.fetch_max(forgotten, SeqCst);
        }
    }

    /// Returns until when records of the token count as rejected. A lookup must read it before and
    /// after, because a later success may forget the rejection in between, while the lookup has
    /// read the record from before.
    pub(crate) fn rejected_until(&self, key: &CacheKey) -> RejectedUntil {
        let all = self.all_until.load(SeqCst);
        RejectedUntil(all.max(self.deleted.get(key)).max(self.undeleted.get(key)))
    }

    /// Forgets a rejection, because a validation has replaced the record whose ticket was taken
    /// later than that, at this time of the process.
    pub(crate) fn remove(&self, key: &CacheKey, taken_at: u64) {
        self.deleted.remove(key, taken_at);
        self.undeleted.remove(key, taken_at);
    }

    /// Returns a rejection of now, and until when rejections have expired.
    fn now(&self, clock: &Clock) -> (Rejection, i64) {
        let (at, elapsed) = (clock.wall(), clock.elapsed());
        (
            Rejection { at, elapsed },
            at.saturating_sub(self.max_record_age),
        )
    }
}

impl RejectionList {
    /// Returns the time of the latest rejection that was forgotten because the list was full.
    fn insert(&self, key: &CacheKey, now: Rejection, expired_at: i64) -> Option<i64> {
        let mut tokens = lock(&self.tokens);
        tokens.rejected_at.insert(key.clone(), now);
        tokens.order.push_back((key.clone(), now));
        let mut forgotten = None;
        while let Some((oldest, rejection)) = tokens.order.front().cloned() {
            let at = rejection.at;
            // A token that was rejected twice is in the queue twice, and only its last entry counts.
            let is_superseded = tokens.rejected_at.get(&oldest) != Some(&rejection);
            let is_full = tokens.order.len() > MAX_REJECTIONS;
            if !(is_superseded || at < expired_at || is_full) {
                break;
            }
            tokens.order.pop_front();
            if !is_superseded {
                tokens.rejected_at.remove(&oldest);
                forgotten = (at >= expired_at).then_some(at).max(forgotten);
            }
        }
        self.len.store(tokens.rejected_at.len(), SeqCst);
        forgotten
    }

    fn get(&self, key: &CacheKey) -> i64 {
        if self.len.load(SeqCst) == 0 {
            return i64::MIN;
        }
        let tokens = lock(&self.tokens);
        let rejection = tokens.rejected_at.get(key);
        rejection.map_or(i64::MIN, |rejection| rejection.at)
    }

    fn remove(&self, key: &CacheKey, taken_at: u64) {
        if self.len.load(SeqCst) == 0 {
            return;
        }
        let mut tokens = lock(&self.tokens);
        let rejection = tokens.rejected_at.get(key);
        if rejection.is_some_and(|rejection| rejection.elapsed < taken_at) {
            tokens.rejected_at.remove(key);
            self.len.store(tokens.rejected_at.len(), SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{cache::SessionCache, time::ManualClock, token::SessionToken};

    const SECOND: i64 = 1_000_000;

    fn key(cache: &SessionCache, n: usize) -> CacheKey {
        cache.key(&SessionToken::parse(format!("token-{n}")).unwrap())
    }

    fn hides(rejections: &Rejections, key: &CacheKey, since: i64) -> bool {
        rejections.rejected_until(key).hides(since)
    }

    fn clock() -> (ManualClock, Clock) {
        let manual = ManualClock::new();
        (manual.clone(), Clock::Manual(manual))
    }

    #[test]
    fn record_from_before_a_rejection_is_hidden() {
        let cache = SessionCache::builder().build().unwrap();
        let (_, clock) = clock();
        let rejections = Rejections::new(300 * 1_000_000);
        let now = clock.wall() + CLOCK_SKEW_TOLERANCE;
        assert!(!hides(&rejections, &key(&cache, 1), now));
        rejections.insert(&key(&cache, 1), &clock);
        assert!(hides(&rejections, &key(&cache, 1), now));
        assert!(!hides(&rejections, &key(&cache, 1), now + 1));
        assert!(!hides(&rejections, &key(&cache, 2), 0));
    }

    #[test]
    fn only_a_later_validation_ends_a_rejection() {
        let cache = SessionCache::builder().build().unwrap();
        let (manual, clock) = clock();
        let rejections = Rejections::new(300 * 1_000_000);
        let earlier = clock.elapsed();
        manual.advance(Duration::from_secs(1));
        rejections.insert(&key(&cache, 1), &clock);
        rejections.insert_undeleted(&key(&cache, 1), &clock);
        rejections.remove(&key(&cache, 1), earlier);
        assert!(hides(&rejections, &key(&cache, 1), clock.wall()));
        manual.advance(Duration::from_secs(1));
        rejections.remove(&key(&cache, 1), clock.elapsed());
        assert!(!hides(&rejections, &key(&cache, 1), 0));
    }

    #[test]
    fn forgotten_rejections_of_an_outage_hide_all_records_from_before() {
        let cache = SessionCache::builder().build().unwrap();
        let (manual, clock) = clock();
        let rejections = Rejections::new(300 * 1_000_000);
        let slack = CLOCK_SKEW_TOLERANCE;
        for n in 0..=MAX_REJECTIONS {
            rejections.insert(&key(&cache, n), &clock);
        }
        assert!(!hides(&rejections, &key(&cache, 0), 0), "forgotten");
        let first = clock.wall();
        for n in 0..=MAX_REJECTIONS {
            rejections.insert_undeleted(&key(&cache, n), &clock);
            manual.advance(Duration::from_micros(1));
        }
        let unrelated = key(&cache, MAX_REJECTIONS + 1);
        assert!(hides(&rejections, &unrelated, first + slack));
        assert!(!hides(&rejections, &unrelated, first + slack + 1));
        assert!(hides(&rejections, &key(&cache, 2), first + slack + 2));
    }

    #[test]
    fn expired_rejections_are_dropped() {
        let cache = SessionCache::builder().build().unwrap();
        let (manual, clock) = clock();
        let rejections = Rejections::new(SECOND.unsigned_abs());
        for n in 0..3 {
            rejections.insert_undeleted(&key(&cache, n), &clock);
            manual.advance(Duration::from_secs(2));
        }
        assert_eq!(rejections.undeleted.len.load(SeqCst), 1);
        let unrelated = key(&cache, 7);
        assert!(!hides(&rejections, &unrelated, 0), "none was forgotten");
    }
}
