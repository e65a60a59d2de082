//! A session as it stands in Redis, shared with the Python service.
//!
//! The nine members of the peer come first and keep their order; what we add lets our own nodes
//! compare causes instead of clocks. What the peer or a validator wrote beside all these stays in
//! [`UserData::attributes`].

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::stamp::Stamp;
use crate::{
    time::{isoformat, parse_isoformat},
    user::{Draft, UserData},
};

/// Longer values under a session key are no records of ours or the peer's.
pub(super) const MAX_RECORD: usize = 64 * 1024;

/// What a record says itself, so that no attribute may.
pub(crate) const OURS: [&str; 13] = [
    "user_id",
    "email",
    "name",
    "email_verified",
    "tier",
    "created_at",
    "updated_at",
    "session_expire",
    "cached_at",
    "fence",
    "seen_tomb",
    "seen_mark",
    "run",
];

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) user: UserData,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) cached_at: Stamp,
    /// Only in records of this crate.
    pub(super) cause: Option<Cause>,
}

/// What had been revoked when the validation behind a record began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// The time of the lookup that came before the validation.
    pub(super) fence: Stamp,
    /// The token's tombstone.
    pub(super) seen_tomb: Option<String>,
    /// The user's mark.
    pub(super) seen_mark: Option<String>,
    /// The run of the server that stored it. Another one, be it after a restart or a failover, may
    /// have lost what was revoked since.
    pub(super) run: String,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    user_id: Text<'a>,
    email: Text<'a>,
    name: Text<'a>,
    email_verified: bool,
    tier: Text<'a>,
    #[serde(default)]
    created_at: Option<Text<'a>>,
    #[serde(default)]
    updated_at: Option<Text<'a>>,
    /// Null for a session without an end; absent it is no record.
    #[serde(deserialize_with = "Option::deserialize")]
    session_expire: Option<Text<'a>>,
    cached_at: f64,
    #[serde(default)]
    fence: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    seen_tomb: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    seen_mark: Option<Option<String>>,
    #[serde(default)]
    run: Option<String>,
    #[serde(flatten)]
    attributes: Map<String, Value>,
}

/// Read where it stands, unless it is escaped. A type of its own, since within an `Option` serde
/// would copy it.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Keeps null and absent apart.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl Record {
    /// Reads a record; nothing if it is none, whatever it is instead.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        if json.len() > MAX_RECORD {
            return None;
        }
        let wire: Wire<'_> = serde_json::from_slice(json).ok()?;
        if wire.user_id.0.is_empty() {
            return None;
        }
        let cause = match (wire.fence, wire.seen_tomb, wire.seen_mark, wire.run) {
            (None, None, None, None) => None,
            (Some(fence), Some(seen_tomb), Some(seen_mark), Some(run)) => Some(Cause {
                fence: Stamp::parse(fence.0.as_bytes())?,
                seen_tomb,
                seen_mark,
                run,
            }),
            // Written by nobody that we know.
            _ => return None,
        };
        let user = Draft {
            id: wire.user_id,
            email: wire.email,
            name: wire.name,
            email_verified: wire.email_verified,
            tier: wire.tier,
            created_at: date(wire.created_at)?,
            updated_at: date(wire.updated_at)?,
            attributes: wire.attributes,
        };
        Some(Self {
            user: user.build(),
            expires_at: date(wire.session_expire)?,
            cached_at: Stamp::from_float(wire.cached_at)?,
            cause,
        })
    }

    /// The time of the lookup before its validation; of the peer's records that of storing.
    pub(super) fn since(&self) -> Stamp {
        self.cause
            .as_ref()
            .map_or(self.cached_at, |cause| cause.fence)
    }
}

/// Nothing for a text that is no date, which spoils the record.
fn date(text: Option<Text<'_>>) -> Option<Option<DateTime<Utc>>> {
    match text {
        Some(text) => parse_isoformat(&text.0).map(Some),
        None => Some(None),
    }
}

/// Writes a record up to its mark, which only Redis knows at the time of storing. The script
/// completes it by the mark's text or `null`, and by the run.
pub(super) fn up_to_mark(
    user: &UserData,
    expires_at: Option<DateTime<Utc>>,
    fence: Stamp,
    cached_at: Stamp,
    seen_tomb: Option<&str>,
) -> String {
    let mut json = String::with_capacity(512);
    let mut member = |name: &str, value: &str| {
        json.push(if json.is_empty() { '{' } else { ',' });
        json.push_str(&quoted(name));
        json.push(':');
        json.push_str(value);
    };
    let date = |date: Option<DateTime<Utc>>| {
        date.map_or_else(|| "null".to_owned(), |date| quoted(&isoformat(date)))
    };
    // The script finds the user by the first member of this name.
    member("user_id", &quoted(user.id()));
    member("email", &quoted(user.email()));
    member("name", &quoted(user.name()));
    member(
        "email_verified",
        if user.email_verified() {
            "true"
        } else {
            "false"
        },
    );
    member("tier", &quoted(user.tier()));
    member("created_at", &date(user.created_at()));
    member("updated_at", &date(user.updated_at()));
    member("session_expire", &date(expires_at));
    member("cached_at", &cached_at.to_string());
    member("fence", &quoted(&fence.to_string()));
    member(
        "seen_tomb",
        &seen_tomb.map_or_else(|| "null".to_owned(), quoted),
    );
    for (name, value) in user.attributes() {
        if !OURS.contains(&name.as_str()) {
            member(name, &value.to_string());
        }
    }
    json.push_str(r#","seen_mark":"#);
    json
}

/// The rest of a record, where it is not the script that completes it; no mark is `""`.
pub(super) fn rest(mark: &str, run: &str) -> String {
    let mark = if mark.is_empty() {
        "null".to_owned()
    } else {
        quoted(mark)
    };
    format!(r#"{mark},"run":{}}}"#, quoted(run))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `json.dumps` of the peer writes it.
    const PEERS: &str = r#"{"user_id": "680f4b03", "email": "ada@example.com", "name": "Ad\u00e1 \ud83d\ude80", "email_verified": true, "tier": "pro", "created_at": "2025-04-28T09:31:48.342000+00:00", "updated_at": "2025-05-03 16:44:35", "session_expire": "2026-05-03T16:52:48.759000+02:00", "cached_at": 1732444800.1234567}"#;

    #[test]
    fn a_record_of_the_peer_is_read() {
        let record = Record::parse(PEERS.as_bytes()).unwrap();
        let user = &record.user;
        assert_eq!(
            (user.id(), user.email(), user.tier()),
            ("680f4b03", "ada@example.com", "pro")
        );
        assert_eq!(user.name(), "Ad\u{e1} \u{1f680}");
        assert!(user.email_verified() && user.attributes().is_empty());
        assert_eq!(
            isoformat(user.updated_at().unwrap()),
            "2025-05-03T16:44:35+00:00"
        );
        assert_eq!(
            isoformat(record.expires_at.unwrap()),
            "2026-05-03T14:52:48.759000+00:00"
        );
        assert_eq!(record.cached_at, Stamp(1_732_444_800_123_457));
        assert_eq!(record.cause, None);
    }

    #[test]
    fn a_record_is_written_in_the_order_of_the_peer() {
        let user = UserData::builder("u1")
            .name("A \"q\" \u{7}")
            .attribute("tier", "x")
            .attribute("a", 1);
        let json = up_to_mark(
            &user.build(),
            None,
            Stamp(5_000_000),
            Stamp(0),
            Some("5.000000:forget:1"),
        );
        assert_eq!(
            json,
            concat!(
                r#"{"user_id":"u1","email":"","name":"A \"q\" \u0007","email_verified":false,"tier":"free","#,
                r#""created_at":null,"updated_at":null,"session_expire":null,"cached_at":0.000000,"#,
                r#""fence":"5.000000","seen_tomb":"5.000000:forget:1","a":1,"seen_mark":"#,
            )
        );
    }

    #[test]
    fn null_and_absent_are_different() {
        let without = |member: &str| {
            let mut value: Value = serde_json::from_str(PEERS).unwrap();
            value.as_object_mut().unwrap().remove(member);
            Record::parse(value.to_string().as_bytes())
        };
        for member in [
            "user_id",
            "email",
            "name",
            "email_verified",
            "tier",
            "session_expire",
            "cached_at",
        ] {
            assert_eq!(without(member), None, "{member}");
        }
        for member in ["created_at", "updated_at"] {
            assert!(without(member).is_some(), "{member}");
        }
        let with = |member: &str, value: Value| {
            let mut record: Value = serde_json::from_str(PEERS).unwrap();
            record[member] = value;
            Record::parse(record.to_string().as_bytes())
        };
        assert_eq!(
            with("session_expire", Value::Null).unwrap().expires_at,
            None
        );
        assert_eq!(with("session_expire", "soon".into()), None);
        assert_eq!(with("seen_mark", Value::Null), None, "half of ours");
        assert_eq!(with("user_id", "".into()), None);
        assert_eq!(with("email", Value::Null), None);
        assert_eq!(with("cached_at", "1732444800.5".into()), None);
        assert_eq!(
            with("team", "x".into()).unwrap().user.attributes()["team"],
            "x"
        );
    }

    fn text() -> impl Strategy<Value = String> {
        any::<String>()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            id in "\\PC{1,20}", email in text(), name in text(), tier in text(), verified: bool,
            created in proptest::option::of(0..4_000_000_000_000_000_i64),
            expires in proptest::option::of(0..4_000_000_000_000_000_i64),
            fence in 10_000_000..4_000_000_000_000_000_i64,
            mark in proptest::option::of("[0-9]{1,10}\\.[0-9]{6}"),
        ) {
            let time = |micros: Option<i64>| micros.and_then(DateTime::<Utc>::from_timestamp_micros);
            let user = UserData::builder(id).email(email).name(name).tier(tier).email_verified(verified)
                .created_at(time(created)).attribute("extra", serde_json::json!({"deep": ["\u{0}", 1.5]})).build();
            let fence = Stamp(fence);
            let mut json = up_to_mark(&user, time(expires), fence, fence.minus(5_000_000), None);
            json += &rest(mark.as_deref().unwrap_or_default(), "r1");
            let record = Record::parse(json.as_bytes()).unwrap();
            prop_assert_eq!(record.user, user);
            prop_assert_eq!(record.expires_at, time(expires));
            prop_assert_eq!(record.cached_at, fence.minus(5_000_000));
            prop_assert_eq!(record.cause, Some(Cause { fence, seen_tomb: None, seen_mark: mark, run: "r1".to_owned() }));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..PEERS.len()) {
            let _ = Record::parse(&bytes);
            prop_assert_eq!(Record::parse(&PEERS.as_bytes()[..cut]), None);
        }
    }
}
