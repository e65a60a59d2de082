//! Dates in the text forms that this crate and the Python service share.
//!
//! Python 3.11's `datetime.isoformat()` writes them and `datetime.fromisoformat()` reads them;
//! both are [documented there] and neither is quite ISO 8601 or RFC 3339.
//!
//! [documented there]: https://docs.python.org/3.11/library/datetime.html#datetime.datetime.fromisoformat

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc, Weekday};

/// Writes a time as `isoformat()` writes an aware UTC datetime: with six decimals, or none at all
/// when the microseconds are zero.
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

/// Parses what `isoformat()` writes and `fromisoformat()` reads. A time without zone is UTC.
///
/// Decimals beyond the sixth are cut off, as in Python.
pub(crate) fn parse_isoformat(text: &str) -> Option<DateTime<Utc>> {
    // The text is ASCII apart from the separator, which may be any character.
    let (date, rest) = split_date(text)?;
    let mut rest = rest.chars();
    if rest.next().is_none() {
        return Some(date.and_time(NaiveTime::MIN).and_utc());
    }
    let clock = rest.as_str();
    let zone = clock.find(['+', '-', 'Z']);
    let (time, zone) = clock.split_at(zone.unwrap_or(clock.len()));
    let (seconds, micros) = clock_time(time)?;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, micros * 1_000)?;
    let local = date.and_time(time).and_utc();
    local.checked_sub_signed(offset(zone)?)
}

/// Splits off the date at the beginning, in one of the forms `YYYY-MM-DD`, `YYYYMMDD`,
/// `YYYY-Www-D`, `YYYYWwwD`, `YYYY-Www` and `YYYYWww`.
fn split_date(text: &str) -> Option<(NaiveDate, &str)> {
    let year = number(text.get(..4)?)?.try_into().ok()?;
    if year == 0 {
        return None;
    }
    let rest = &text[4..];
    let (dashed, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let dash = if dashed { "-" } else { "" };
    if let Some(rest) = rest.strip_prefix('W') {
        let (week, rest) = digits(rest, 2)?;
        let day = rest.strip_prefix(dash).and_then(|rest| digits(rest, 1));
        let (day, rest) = match day {
            // `YYYY-Www-12:00` and `YYYYWww 12`: what follows is the time of a Monday.
            Some((day, rest)) if !rest.starts_with(|c: char| c.is_ascii_digit()) => (day, rest),
            _ => (1, rest),
        };
        let weekday = Weekday::try_from(u8::try_from(day).ok()?.checked_sub(1)?).ok()?;
        return Some((NaiveDate::from_isoywd_opt(year, week, weekday)?, rest));
    }
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest.strip_prefix(dash)?, 2)?;
    Some((NaiveDate::from_ymd_opt(year, month, day)?, rest))
}

/// Parses the seconds and microseconds of `HH[:MM[:SS[.ffffff]]]` or the same without colons.
fn clock_time(text: &str) -> Option<(u32, u32)> {
    let (hour, mut rest) = digits(text, 2)?;
    let colon = if rest.starts_with(':') { ":" } else { "" };
    let (mut minute, mut second, mut micros) = (0, 0, 0);
    if !rest.is_empty() {
        (minute, rest) = digits(rest.strip_prefix(colon)?, 2)?;
    }
    if !rest.is_empty() {
        (second, rest) = digits(rest.strip_prefix(colon)?, 2)?;
    }
    if !rest.is_empty() {
        let decimals = rest.strip_prefix(['.', ','])?;
        if decimals.is_empty() || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let six = &decimals[..decimals.len().min(6)];
        micros = number(six)? * 10_u32.pow(6 - u32::try_from(six.len()).ok()?);
    }
    (hour < 24 && minute < 60 && second < 60)
        .then_some((hour * 3_600 + minute * 60 + second, micros))
}

/// Parses how far a zone is ahead of UTC: an empty text, `Z`, or `±` and a time as [`clock_time`]
/// parses it.
fn offset(zone: &str) -> Option<TimeDelta> {
    let sign = match zone.chars().next() {
        None => return Some(TimeDelta::zero()),
        Some('Z') => return (zone.len() == 1).then(TimeDelta::zero),
        Some('-') => -1,
        Some(_) => 1,
    };
    let (seconds, micros) = clock_time(&zone[1..])?;
    let ahead = TimeDelta::seconds(seconds.into()) + TimeDelta::microseconds(micros.into());
    Some(ahead * sign)
}

fn digits(text: &str, count: usize) -> Option<(u32, &str)> {
    Some((number(text.get(..count)?)?, &text[count..]))
}

fn number(text: &str) -> Option<u32> {
    // `parse` alone would take a sign.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn every_format_that_python_reads_is_parsed() {
        for (text, expected) in [
            (
                "2025-05-03T16:52:48.766000+00:00",
                "2025-05-03T16:52:48.766Z",
            ),
            ("2025-05-03T16:52:48+00:00", "2025-05-03T16:52:48Z"),
            ("2025-05-03T16:52:48", "2025-05-03T16:52:48Z"),
            ("2025-05-03 16:52:48.5", "2025-05-03T16:52:48.5Z"),
            ("2025-05-03T16:52:48,5Z", "2025-05-03T16:52:48.5Z"),
            (
                "2025-05-03T16:52:48.1234567891Z",
                "2025-05-03T16:52:48.123456Z",
            ),
            ("2025-05-03\u{2603}16:52", "2025-05-03T16:52:00Z"),
            ("2025-05-03T16", "2025-05-03T16:00:00Z"),
            ("2025-05-03", "2025-05-03T00:00:00Z"),
            ("20250503T165248Z", "2025-05-03T16:52:48Z"),
            ("20250503", "2025-05-03T00:00:00Z"),
            ("2025-05-03T165248.25", "2025-05-03T16:52:48.25Z"),
            ("2025-05-03T16:52:48+02:00", "2025-05-03T14:52:48Z"),
            ("2025-05-03T16:52:48-0530", "2025-05-03T22:22:48Z"),
            ("2025-05-03T16:52:48+02", "2025-05-03T14:52:48Z"),
            (
                "2025-05-03T16:52:48+02:00:30.000001",
                "2025-05-03T14:52:17.999999Z",
            ),
            ("2025-W18-6T16:52", "2025-05-03T16:52:00Z"),
            ("2025W186T1652", "2025-05-03T16:52:00Z"),
            ("2025-W18", "2025-04-28T00:00:00Z"),
            ("2025W18", "2025-04-28T00:00:00Z"),
            ("0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00Z"),
            (
                "9999-12-31T23:59:59.999999+00:00",
                "9999-12-31T23:59:59.999999Z",
            ),
        ] {
            assert_eq!(parse_isoformat(text), Some(utc(expected)), "{text}");
        }
    }

    #[test]
    fn format_that_python_rejects_is_not_parsed() {
        for text in [
            "",
            "2025",
            "2025-05",
            "2025-5-3",
            "2025-05-03T",
            "2025-13-03",
            "2025-02-30",
            "0000-01-01",
            "2025-05-03T24:00",
            "2025-05-03T16:60",
            "2025-05-03T16:52:60",
            "2025-05-03T16:52:48.",
            "2025-05-03T16:52:48.x",
            "2025-05-03T1",
            "2025-05-03T16:5",
            "2025-05-03T16.5",
            "2025-05-03T16:52:48Z0",
            "2025-05-03T16:52:48+",
            "2025-05-03T16:52:48+24:00",
            "+025-05-03",
            "2025-+5-03",
            "2025-W54",
            "2025-W18-8",
            "\u{2603}",
            "20\u{2603}5-05-03",
            "2025-05-\u{2603}",
            "yesterday",
            "1746291168",
            "NaN",
        ] {
            assert_eq!(parse_isoformat(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_value_is_read_back_unchanged(micros in -62_135_596_800_000_000_i64..=253_402_300_799_999_999) {
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(parse_isoformat(&isoformat(time)), Some(time));
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in "[0-9W:.,+Z -]{0,40}|\\PC{0,40}") {
            let _ = parse_isoformat(&text);
        }
    }

    #[test]
    fn time_out_of_pythons_range_is_clamped() {
        assert_eq!(
            isoformat(DateTime::<Utc>::MAX_UTC),
            "9999-12-31T23:59:59.999999+00:00"
        );
        assert_eq!(
            isoformat(DateTime::<Utc>::MIN_UTC),
            "0001-01-01T00:00:00+00:00"
        );
    }
}
