//! Adaptive limit of the calls to a provider that limits the rate, so that a few rate-limited calls
//! stop neither all users nor add to the provider's load.
//!
//! There is no limit until the provider limits three different tokens within a second, because one
//! limited token may be limited for its user alone. From then on the number of concurrent calls
//! follows additive increase and multiplicative decrease. A limited call occupies its place for up
//! to a second longer, so that a limit of one is also a limit of the rate.
//!
//! A limit belongs to one provider. Each branch of [`or`](crate::SessionValidator::or) has its own,
//! so that a provider that limits the rate does not slow down the other.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify};

use super::{error::ValidationError, session::ValidatedSession};
use crate::{sync::lock, time::Clock, token::SessionToken};

/// Number of different tokens that the provider must limit within [`WINDOW`] before a limit starts.
const TOKENS: usize = 3;
const WINDOW: u64 = SECOND;

/// Time without a limited call after which the limit ends.
const END: u64 = 60 * SECOND;

/// Maximum time for which a limited call occupies its place after its end.
const MAX_HOLD: u64 = SECOND;

/// Maximum number of validations that wait for a place. Others fail immediately.
const MAX_WAITING: usize = 64;

/// How long a validation waits for a place. It must be short: if `validation_timeout` elapsed during
/// the wait of a branch, the wait would look like an outage of the provider.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Interval at which a waiting validation looks for places whose hold has ended.
const MAX_PAUSE: Duration = Duration::from_millis(100);

const SECOND: u64 = 1_000_000;

tokio::task_local! {
    static IS_BACKGROUND: ();
}

/// Makes a validation that no request waits for. It fails with an error that
/// [was not called](ValidationError::is_not_called) if it would have to wait for a permit, or for a
/// place at a provider that limits the rate.
pub(crate) fn in_background<T>(validation: impl Future<Output = T>) -> impl Future<Output = T> {
    IS_BACKGROUND.scope((), validation)
}

/// Returns whether the current validation is made [in the background](in_background).
pub(crate) fn is_background() -> bool {
    IS_BACKGROUND.try_with(|()| ()).is_ok()
}

pub(crate) struct AdaptiveLimit {
    clock: Clock,
    hasher: RandomState,
    state: Mutex<State>,
    /// When the limit ends, for callers that only need to know whether there is one.
    until: AtomicU64,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// Number of places.
    calls: usize,
    /// Number of places whose calls have started.
    running: usize,
    waiting: usize,
    /// The last tokens that were limited, and when.
    limited: [Option<(u64, u64)>; TOKENS],
    /// Mean duration of successful calls without a limit, in microseconds. 0 if there was none.
    typical: u64,
    limit: Option<Limit>,
}

struct Limit {
    max: usize,
    successes: usize,
    decreased_at: u64,
    until: u64,
    /// When the places of ended calls become free.
    held: Vec<u64>,
}

/// Place of one call. Dropping it after [`start`](Self::start) and without
/// [`finish`](Self::finish) counts as a call that timed out.
pub(crate) struct Place<'a> {
    limit: &'a AdaptiveLimit,
    token: u64,
    started: u64,
    is_running: bool,
    is_finished: bool,
}

/// How a call ended.
enum End {
    Limited(Duration),
    Success,
    Slow,
    Failure,
}

impl AdaptiveLimit {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            hasher: RandomState::new(),
            state: Mutex::default(),
            until: AtomicU64::new(0),
            freed: Notify::new(),
        }
    }

    /// Whether the provider limits the rate at present.
    pub(crate) fn is_active(&self) -> bool {
        self.until.load(Relaxed) > self.clock.elapsed()
    }

    /// Waits for a place. Safe to drop at any time. A background validation gets none while there is
    /// a limit, because validations that a request waits for may need each place.
    pub(crate) async fn acquire(&self, token: &SessionToken) -> Result<Place<'_>, ValidationError> {
        if is_background() && self.is_active() {
            return Err(ValidationError::limited(Duration::from_micros(MAX_HOLD)));
        }
        if let Some(place) = self.try_acquire(token) {
            return Ok(place);
        }
        let waiting = self.wait().filter(|_| Handle::try_current().is_ok());
        let place = match waiting {
            Some(_waiting) => tokio::time::timeout(MAX_WAIT, self.place(token)).await.ok(),
            None => None,
        };
        place.ok_or_else(|| ValidationError::limited(Duration::from_micros(MAX_HOLD)))
    }

    async fn place(&self, token: &SessionToken) -> Place<'_> {
        loop {
            // A place whose hold has ended sends no notification.
            let _ = tokio::time::timeout(MAX_PAUSE, self.freed.notified()).await;
            if let Some(place) = self.try_acquire(token) {
                return place;
            }
        }
    }

    fn try_acquire(&self, token: &SessionToken) -> Option<Place<'_>> {
        let now = self.clock.elapsed();
        let mut state = lock(&self.state);
        if state.limit.as_ref().is_some_and(|limit| limit.until <= now) {
            state.limit = None;
        }
        if let Some(limit) = &mut state.limit {
            limit.held.retain(|until| *until > now);
            let (held, max) = (limit.held.len(), limit.max);
            if state.calls + held >= max {
                return None;
            }
        }
        state.calls += 1;
        Some(Place {
            limit: self,
            token: self.hasher.hash_one(token.expose_secret()),
            started: now,
            is_running: false,
            is_finished: false,
        })
    }

    fn wait(&self) -> Option<Waiting<'_>> {
        let mut state = lock(&self.state);
        if state.waiting >= MAX_WAITING {
            return None;
        }
        state.waiting += 1;
        Some(Waiting(self))
    }

    fn end(&self, place: &Place<'_>, end: &End) {
        let now = self.clock.elapsed();
        let Place { token, started, .. } = *place;
        let mut state = lock(&self.state);
        state.calls = state.calls.saturating_sub(1);
        if place.is_running {
            state.running = state.running.saturating_sub(1);
        }
        match end {
            End::Limited(retry_after) => {
                state.record_limited(token, started, now, *retry_after);
                if let Some(limit) = &state.limit {
                    self.until.store(limit.until, Relaxed);
                }
            }
            End::Success => state.record_success(now.saturating_sub(started)),
            End::Slow => {
                if let Some(limit) = &mut state.limit {
                    limit.decrease(started, now);
                }
            }
            End::Failure => {}
        }
        drop(state);
        self.freed.notify_one();
    }

    /// Whether a call took more than three times as long as before the limit, and a tenth of a
    /// second more. Without a call before the limit, the first one during it is the measure.
    fn is_slow(&self, duration: u64) -> bool {
        let state = lock(&self.state);
        state.limit.is_some()
            && state.typical > 0
            && duration > state.typical.saturating_mul(3) + SECOND / 10
    }
}

impl State {
    fn record_limited(&mut self, token: u64, started: u64, now: u64, retry_after: Duration) {
        if let Some(limit) = &mut self.limit {
            limit.decrease(started, now);
            limit.until = now.saturating_add(END);
            let hold = u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX);
            if limit.held.len() < limit.max {
                limit.held.push(now.saturating_add(hold.min(MAX_HOLD)));
            }
            return;
        }
        let is_recent = |at: u64| now.saturating_sub(at) < WINDOW;
        for entry in &mut self.limited {
            *entry = entry.filter(|(other, at)| *other != token && is_recent(*at));
        }
        if let Some(free) = self.limited.iter_mut().find(|entry| entry.is_none()) {
            *free = Some((token, now));
        }
        if self.limited.iter().all(Option::is_some) {
            self.limited = Default::default();
            self.limit = Some(Limit {
                max: (self.running / 2).max(1),
                successes: 0,
                decreased_at: now,
                until: now.saturating_add(END),
                held: Vec::new(),
            });
        }
    }

    fn record_success(&mut self, duration: u64) {
        if self.typical == 0 {
            self.typical = duration;
        }
        let Some(limit) = &mut self.limit else {
            self.typical = self.typical - self.typical / 8 + duration / 8;
            return;
        };
        limit.successes += 1;
        if limit.successes >= limit.max {
            limit.successes = 0;
            limit.max = limit.max.saturating_add(1);
        }
    }
}

impl Limit {
    /// Halves the limit, once for all calls that ran at the same time.
    fn decrease(&mut self, started: u64, now: u64) {
        if started > self.decreased_at {
            self.max = (self.max / 2).max(1);
            self.successes = 0;
            self.decreased_at = now;
        }
    }
}

impl Place<'_> {
    /// Starts the call, which may have waited for something else since it got its place. It fails
    /// if the provider has begun to limit the rate in between and the limit is reached.
    pub(crate) fn start(&mut self) -> Result<(), ValidationError> {
        self.started = self.limit.clock.elapsed();
        let mut state = lock(&self.limit.state);
        if state.limit.as_ref().is_some_and(|limit| {
            limit.until > self.started && state.running + limit.held.len() >= limit.max
        }) {
            return Err(ValidationError::limited(Duration::from_micros(MAX_HOLD)));
        }
        state.running += 1;
        self.is_running = true;
        Ok(())
    }

    pub(crate) fn finish(mut self, result: &Result<ValidatedSession, ValidationError>) {
        let duration = self.limit.clock.elapsed().saturating_sub(self.started);
        let end = match result {
            Err(error) if !error.is_rejection() => match error.provider_retry_after() {
                Some(retry_after) => End::Limited(retry_after),
                None => End::Failure,
            },
            _ if self.limit.is_slow(duration) => End::Slow,
            _ => End::Success,
        };
        self.is_finished = true;
        self.limit.end(&self, &end);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            let end = match self.is_running {
                true => End::Slow,
                false => End::Failure,
            };
            self.limit.end(self, &end);
        }
    }
}

struct Waiting<'a>(&'a AdaptiveLimit);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.waiting = state.waiting.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::UserData, testing::ManualClock};

    struct Scene {
        clock: ManualClock,
        limit: AdaptiveLimit,
    }

    impl Scene {
        fn new() -> Self {
            let clock = ManualClock::new();
            let limit = AdaptiveLimit::new(Clock::Manual(clock.clone()));
            Self { clock, limit }
        }

        /// Creates a limit of half of these calls, which all end. A call before them has taken a
        /// millisecond.
        fn limited_during(calls: usize) -> Self {
            let scene = Self::new();
            let place = scene.place("before").unwrap();
            scene.clock.advance(Duration::from_millis(1));
            place.finish(&accepted());
            scene.limit_during(calls);
            scene
        }

        fn limit_during(&self, calls: usize) {
            let places: Vec<_> = (0..calls).map(|n| self.place(&n.to_string())).collect();
            for place in places {
                place.unwrap().finish(&limited());
            }
            self.clock.advance(Duration::from_secs(2));
        }

        fn place(&self, token: &str) -> Option<Place<'_>> {
            let token = SessionToken::parse(token.to_owned()).unwrap();
            let mut place = self.limit.try_acquire(&token)?;
            place.start().unwrap();
            Some(place)
        }

        fn max(&self) -> Option<usize> {
            lock(&self.limit.state)
                .limit
                .as_ref()
                .map(|limit| limit.max)
        }
    }

    fn limited() -> Result<ValidatedSession, ValidationError> {
        Err(ValidationError::unavailable("429").with_retry_after(Duration::from_secs(7)))
    }

    fn accepted() -> Result<ValidatedSession, ValidationError> {
        Ok(ValidatedSession::new(UserData::new("ada")))
    }

    #[test]
    fn limit_starts_with_three_tokens_within_a_second() {
        let scene = Scene::new();
        for _ in 0..10 {
            scene.place("a").unwrap().finish(&limited());
            scene.place("b").unwrap().finish(&limited());
        }
        assert_eq!(scene.max(), None, "two tokens");
        scene.clock.advance(Duration::from_secs(1));
        scene.place("c").unwrap().finish(&limited());
        scene.place("d").unwrap().finish(&limited());
        assert_eq!(scene.max(), None, "two tokens within a second");
        assert!(!scene.limit.is_active());
        scene.place("e").unwrap().finish(&limited());
        assert_eq!(scene.max(), Some(1));
        assert!(scene.limit.is_active());
        scene.clock.advance(Duration::from_secs(60));
        assert!(!scene.limit.is_active());
        let _place = scene.place("f").unwrap();
        assert_eq!(scene.max(), None, "one minute without a limited call");
    }

    #[test]
    fn calls_of_one_round_decrease_the_limit_once() {
        let scene = Scene::limited_during(32);
        let max = scene.max().unwrap();
        assert_eq!(max, 14, "half of those that were still running");
        let places: Vec<_> = (0..max).map(|n| scene.place(&n.to_string())).collect();
        assert!(scene.place("another").is_none());
        for place in places {
            scene.clock.advance(Duration::from_millis(1));
            place.unwrap().finish(&limited());
        }
        assert_eq!(scene.max(), Some(7));
        assert!(scene.place("early").is_none(), "their places are held");
        scene.clock.advance(Duration::from_secs(1));
        assert!(scene.place("later").is_some());
    }

    #[test]
    fn limit_grows_by_one_after_a_round_of_successes() {
        let scene = Scene::limited_during(8);
        let max = scene.max().unwrap();
        for n in 1..=max {
            assert_eq!(scene.max(), Some(max));
            scene.place(&n.to_string()).unwrap().finish(&accepted());
        }
        assert_eq!(scene.max(), Some(max + 1));
    }

    #[test]
    fn slow_and_abandoned_calls_decrease_the_limit() {
        let scene = Scene::limited_during(16);
        let max = scene.max().unwrap();
        let slow = scene.place("slow").unwrap();
        scene.clock.advance(Duration::from_secs(1));
        slow.finish(&accepted());
        assert_eq!(scene.max(), Some(max / 2));
        scene.clock.advance(Duration::from_millis(1));
        drop(scene.place("abandoned"));
        assert_eq!(scene.max(), Some(max / 4));
        let failed = scene.place("failed").unwrap();
        failed.finish(&Err(ValidationError::unavailable("500")));
        assert_eq!(scene.max(), Some(max / 4));
    }

    #[test]
    fn calls_that_have_not_started_do_not_raise_the_limit() {
        let scene = Scene::new();
        let token = SessionToken::parse("queued").unwrap();
        let mut queued: Vec<_> = (0..1_000)
            .map(|_| scene.limit.try_acquire(&token).unwrap())
            .collect();
        for n in 0..3 {
            let place = scene.place(&n.to_string()).unwrap();
            scene.clock.advance(Duration::from_millis(1));
            place.finish(&limited());
        }
        assert_eq!(scene.max(), Some(1), "three calls, one after the other");
        scene.clock.advance(Duration::from_secs(2));
        let mut started = 0;
        for place in &mut queued {
            started += usize::from(place.start().is_ok());
        }
        assert_eq!(started, 1);
        drop(queued);
        let state = lock(&scene.limit.state);
        assert_eq!((state.calls, state.running), (0, 0));
    }

    #[test]
    fn limit_grows_even_if_no_call_succeeded_before_it() {
        let scene = Scene::new();
        scene.limit_during(3);
        assert_eq!(scene.max(), Some(1));
        for expected in [2, 2, 3] {
            let place = scene.place("t").unwrap();
            scene.clock.advance(Duration::from_millis(150));
            place.finish(&accepted());
            assert_eq!(scene.max(), Some(expected));
        }
    }

    #[tokio::test]
    async fn background_validation_gets_no_place_under_a_limit() {
        let scene = Scene::limited_during(8);
        let token = SessionToken::parse("t").unwrap();
        assert!(scene.place("free").is_some());
        let error = in_background(scene.limit.acquire(&token)).await.err();
        assert!(error.unwrap().is_not_called());
        assert!(scene.limit.acquire(&token).await.is_ok());
        scene.clock.advance(Duration::from_secs(60));
        assert!(in_background(scene.limit.acquire(&token)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_validations_are_bounded_in_number_and_time() {
        let scene = Scene::limited_during(3);
        let _place = scene.place("first").unwrap();
        let token = SessionToken::parse("t").unwrap();
        let waiting = (0..MAX_WAITING).map(|_| scene.limit.acquire(&token));
        let waiting = futures_util::future::join_all(waiting);
        let start = tokio::time::Instant::now();
        let one_more = async {
            tokio::task::yield_now().await;
            let error = scene.limit.acquire(&token).await.err().unwrap();
            assert!(error.is_not_called());
            assert_eq!(start.elapsed(), Duration::ZERO);
        };
        let (waited, ()) = futures_util::future::join(waiting, one_more).await;
        assert!(waited.iter().all(Result::is_err));
        assert_eq!(start.elapsed(), MAX_WAIT);
        assert_eq!(lock(&scene.limit.state).waiting, 0);
    }
}
