//! Detects that this host's clock differs from the server's.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Mutex,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::response::IntrospectionResponse;
use crate::{sync::lock, telemetry::VALIDATION, token::SessionToken};

/// Number of tokens whose responses must show a skew. One token may have unusual claims.
const TOKENS: usize = 3;
/// Minimum time between two warnings of one validator.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// Longer differences come from claims with another meaning, such as an `exp` of 0.
const MAX_SKEW: TimeDelta = TimeDelta::days(1);

/// The skew that the responses for active tokens have shown, so that it is logged once.
#[derive(Default)]
pub(super) struct ClockSkew {
    hasher: RandomState,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Hashes of the tokens, fewer than [`TOKENS`].
    tokens: Vec<u64>,
    /// The largest skew of them, in seconds.
    seconds: i64,
    warned_at: Option<Instant>,
}

impl ClockSkew {
    /// Observes the response for an active token. `sent_at` and `received_at` are the times of the
    /// request and the response by this host's clock.
    pub(super) fn observe(
        &self,
        token: &SessionToken,
        response: &IntrospectionResponse,
        sent_at: DateTime<Utc>,
        received_at: DateTime<Utc>,
    ) {
        let Some(seconds) = skew(response, sent_at, received_at) else {
            return;
        };
        let token = self.hasher.hash_one(token.expose_secret());
        let Some(seconds) = lock(&self.seen).add(token, seconds, Instant::now()) else {
            return;
        };
        tracing::warn!(
            target: VALIDATION,
            skew_seconds = seconds,
            hint = "synchronize the clocks of this host and of the authorization server; this \
                    host's clock is ahead if `skew_seconds` is positive",
            "clock differs from that of the identity provider"
        );
    }
}

impl Seen {
    /// Adds a token and returns the skew that must be logged now, if any.
    fn add(&mut self, token: u64, seconds: i64, now: Instant) -> Option<i64> {
        let is_quiet = |at: Instant| now.saturating_duration_since(at) < PAUSE;
        if self.warned_at.is_some_and(is_quiet) {
            return None;
        }
        if self.seconds.signum() != seconds.signum() {
            self.tokens.clear();
            self.seconds = 0;
        }
        if !self.tokens.contains(&token) {
            self.tokens.push(token);
        }
        if seconds.abs() > self.seconds.abs() {
            self.seconds = seconds;
        }
        if self.tokens.len() < TOKENS {
            return None;
        }
        self.tokens.clear();
        self.warned_at = Some(now);
        Some(std::mem::take(&mut self.seconds))
    }
}

/// Returns by how many seconds this host's clock is at least ahead of the server's, or behind it if
/// negative. The server called the token active between the two times.
fn skew(
    response: &IntrospectionResponse,
    sent_at: DateTime<Utc>,
    received_at: DateTime<Utc>,
) -> Option<i64> {
    let time = |name| response.time(name).ok().flatten();
    let ahead = time("exp").map(|end| sent_at - end);
    let behind = ["iat", "nbf"].map(|name| time(name).map(|begin| begin - received_at));
    let is_skew = |skew: &TimeDelta| skew.num_seconds() > 0 && *skew <= MAX_SKEW;
    if let Some(ahead) = ahead.filter(is_skew) {
        return Some(ahead.num_seconds());
    }
    let behind = behind.into_iter().flatten().filter(is_skew).max()?;
    Some(-behind.num_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn skew_is_what_the_duration_of_the_call_cannot_explain() {
        for (body, expected) in [
            (r#"{"active":true}"#, None),
            (r#"{"active":true,"exp":997}"#, Some(3)),
            (r#"{"active":true,"exp":1000}"#, None),
            (r#"{"active":true,"exp":1003}"#, None),
            (r#"{"active":true,"exp":0}"#, Some(1_000)),
            (r#"{"active":true,"exp":-99999999}"#, None),
            (r#"{"active":true,"iat":1004}"#, None),
            (r#"{"active":true,"iat":1005}"#, Some(-1)),
            (r#"{"active":true,"iat":1005,"nbf":1009}"#, Some(-5)),
            (r#"{"active":true,"nbf":99999999}"#, None),
            (r#"{"active":true,"iat":"soon","exp":true}"#, None),
        ] {
            let response = IntrospectionResponse::parse(body.as_bytes())
                .unwrap()
                .unwrap();
            assert_eq!(skew(&response, at(1_000), at(1_004)), expected, "{body}");
        }
    }

    #[test]
    fn skew_of_three_tokens_is_logged_once_an_hour() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(seen.add(1, 2, after(0)), None);
        assert_eq!(seen.add(1, 2, after(0)), None);
        assert_eq!(seen.add(2, 7, after(0)), None);
        // Skews in both directions are not one skew.
        assert_eq!(seen.add(3, -4, after(1)), None);
        assert_eq!(seen.add(4, -3, after(1)), None);
        assert_eq!(seen.add(5, -3, after(2)), Some(-4));
        for n in 0..1_000 {
            assert_eq!(seen.add(n, 9, after(61)), None);
        }
        assert!(seen.tokens.len() < TOKENS);
        assert_eq!(seen.add(1, 1, after(62)), None);
        assert_eq!(seen.add(2, 1, after(62)), None);
        assert_eq!(seen.add(3, 1, after(62)), Some(1));
    }
}
