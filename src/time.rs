//! Dates in the one text form that this crate and its Python peer share.

use chrono::{DateTime, Datelike, Timelike, Utc};

/// Writes a time as Python 3.11's `datetime.isoformat()` writes an aware UTC datetime: with six
/// decimals, or none at all when the microseconds are zero.
///
/// Python knows the years 1 to 9999 only; a time beyond either end is written as that end.
pub(crate) fn isoformat(time: DateTime<Utc>) -> String {
    let (year, micros) = (time.year(), time.nanosecond() % 1_000_000_000 / 1_000);
    if year < 1 {
        return "0001-01-01T00:00:00+00:00".to_owned();
    }
    if year > 9_999 {
        return "9999-12-31T23:59:59.999999+00:00".to_owned();
    }
    let (month, day) = (time.month(), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let date = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if micros == 0 {
        date + "+00:00"
    } else {
        format!("{date}.{micros:06}+00:00")
    }
}
