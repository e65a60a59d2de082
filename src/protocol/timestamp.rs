//! Timestamps as stored in Redis: text with six decimals, made from integers.
//!
//! Lua's `tostring` keeps four decimals and a double is not exact. So nothing here computes in
//! floating point what must compare equal.

use std::fmt;

const SECOND: i64 = 1_000_000;

/// Microseconds since the Unix epoch, by the clock of Redis unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) i64);

impl Timestamp {
    /// Converts the reply of `TIME`: seconds since the epoch, and the microseconds of the current
    /// second.
    pub(crate) fn from_redis_time((seconds, micros): (i64, i64)) -> Self {
        Self(seconds.saturating_mul(1_000_000).saturating_add(micros))
    }

    /// Parses decimal seconds of at most 32 bytes. Decimals beyond the sixth round up, so that a
    /// timestamp is never earlier than the text. Signs, exponents, NaN and infinity are rejected.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > 32 {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let (seconds, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if seconds.is_empty() || seconds.len() > 12 || !digits(seconds) || !digits(decimals) {
            return None;
        }
        let seconds: i64 = seconds.parse().ok()?;
        let (six, rest) = decimals.split_at(decimals.len().min(6));
        let micros: i64 = format!("{six:0<6}").parse().ok()?;
        let up = i64::from(rest.bytes().any(|byte| byte != b'0'));
        Some(Self(seconds * SECOND + micros + up))
    }

    /// Converts float seconds, as the Python service stores them. Returns `None` for what is not a
    /// time.
    pub(crate) fn from_float(seconds: f64) -> Option<Self> {
        // The same range as that of `parse`. NaN is in no range.
        (0.0..1e12)
            .contains(&seconds)
            .then(|| Self((seconds * 1e6).round() as i64))
    }

    pub(crate) fn minus(self, micros: i64) -> Self {
        Self(self.0.saturating_sub(micros).max(0))
    }

    pub(crate) fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.div_euclid(SECOND), self.0.rem_euclid(SECOND));
        write!(f, "{seconds}.{micros:06}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_the_python_service_are_read() {
        for (text, micros) in [
            ("1732444800.123456", 1_732_444_800_123_456),
            ("1732444800.1234567", 1_732_444_800_123_457),
            ("1732444800.12345600", 1_732_444_800_123_456),
            ("1732444800.5", 1_732_444_800_500_000),
            ("1732444800.", 1_732_444_800_000_000),
            ("1732444800", 1_732_444_800_000_000),
            ("0", 0),
        ] {
            assert_eq!(
                Timestamp::parse(text.as_bytes()),
                Some(Timestamp(micros)),
                "{text}"
            );
        }
        for text in [
            "", ".", ".5", "-1", "+1", "1e9", "nan", "inf", " 1", "1 ", "1.2.3", "0x10",
        ] {
            assert_eq!(Timestamp::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Timestamp::parse(&[b'1'; 33]), None);
        assert_eq!(Timestamp::parse(b"\xff"), None);
    }

    #[test]
    fn float_outside_the_valid_range_is_rejected() {
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e12] {
            assert_eq!(Timestamp::from_float(float), None);
        }
        assert_eq!(
            Timestamp::from_float(1_732_444_800.5),
            Some(Timestamp(1_732_444_800_500_000))
        );
    }

    proptest! {
        #[test]
        fn written_value_is_read_back_unchanged(micros in 0..1_000_000_000_000_000_000_i64) {
            let stamp = Timestamp(micros);
            prop_assert_eq!(Timestamp::parse(stamp.to_string().as_bytes()), Some(stamp));
        }

        #[test]
        fn text_order_equals_time_order(a in 1_000_000_000_000_000..9_999_999_999_999_999_i64, b in 1_000_000_000_000_000..9_999_999_999_999_999_i64) {
            prop_assert_eq!(Timestamp(a).to_string() < Timestamp(b).to_string(), a < b);
        }
    }
}
