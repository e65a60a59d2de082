//! Response headers that state how long a client should wait.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, header};

/// Reads `Retry-After`, as seconds or as a date ([RFC 9110, section 10.2.3]).
///
/// [RFC 9110, section 10.2.3]: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
pub(crate) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = value.parse::<i64>().ok().or_else(|| {
        let date = DateTime::parse_from_rfc2822(value).ok()?;
        Some(date.timestamp().saturating_sub(now.timestamp()))
    });
    seconds.map(clamped)
}

/// Returns how long a client whose rate is limited should wait: 1 second without a header that says
/// so, because `Retry-After` is optional ([RFC 6585, section 4]).
///
/// [RFC 6585, section 4]: https://www.rfc-editor.org/rfc/rfc6585#section-4
pub(crate) fn rate_limit_wait(headers: &HeaderMap, now: DateTime<Utc>) -> Duration {
    let wait = retry_after(headers, now).max(rate_limit_reset(headers, now));
    wait.unwrap_or(Duration::from_secs(1))
}

/// Reads `X-RateLimit-Reset`, which no standard defines: seconds since 1970, as Appwrite and many
/// others write it, or seconds from now if the number is too small for that.
fn rate_limit_reset(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    const MAX_RELATIVE_RESET: i64 = 31 * 24 * 60 * 60;

    let value = headers.get("x-ratelimit-reset")?.to_str().ok()?;
    let reset = value.trim().parse::<i64>().ok()?;
    Some(clamped(if reset <= MAX_RELATIVE_RESET {
        reset
    } else {
        reset.saturating_sub(now.timestamp())
    }))
}

/// Limits a wait to between 1 and 60 seconds, because a rate limit of one hour may be lifted
/// earlier, and a wrong clock must not stop the calls for days.
fn clamped(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, 60).unsigned_abs())
}
