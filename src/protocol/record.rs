//! Record: a session as it is stored in Redis, in a format shared with the Python service.
//!
//! The nine members of the Python service come first and keep their order. Everything that this
//! crate adds is in one member, `session_cache`: which validator accepted the session and which
//! authority issued it, the provenance that lets nodes of this crate compare causes instead of
//! clocks, and the attributes. A provider may have chosen the attributes, so they have a place of
//! their own. A record without `session_cache` was written by the Python service, and its other
//! members become [`UserData::attributes`](crate::UserData::attributes).
//!
//! The member contains a version. A record of another version is a miss. Before there were
//! versions, this crate wrote `fence`, `seen_tomb`, `seen_mark` and `run` on the top level, where a
//! provider's claims were as well. Such records are a miss, whatever else they contain.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{space::NamespaceContext, timestamp::Timestamp};
use crate::{
    model::{Branches, SessionTimes, UserData, UserFields},
    time::{isoformat, parse_isoformat},
};

/// Maximum length of a record. Longer values under a session key were written neither by this crate
/// nor by the Python service.
pub(crate) const MAX_RECORD: usize = 64 * 1024;

/// Must be raised whenever a node that knows only older versions would misread a record, and the
/// number in the marker of sealed records with it. A node does not replace a record of a later
/// version.
pub(crate) const RECORD_VERSION: u32 = 3;

/// Members that versions before the first numbered one wrote on the top level.
const UNVERSIONED: [&str; 4] = ["fence", "seen_tomb", "seen_mark", "run"];

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) user: UserData,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) cached_at: Timestamp,
    /// `None` in foreign records.
    pub(crate) provenance: Option<Provenance>,
}

/// State of the revocations when the validation behind a record began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// Time of the lookup before the validation.
    pub(crate) fence: Timestamp,
    /// The token's tombstone.
    pub(crate) seen_tomb: Option<String>,
    /// The user's mark.
    pub(crate) seen_mark: Option<String>,
    /// Run ID of the server that stored the record. A server with another run ID, after a restart
    /// or a failover, may have lost what was revoked since.
    pub(crate) run: String,
}

/// Result of parsing the value of a session key.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    Record(Record),
    /// A record of another namespace or another version.
    NotOurs,
    Unreadable,
}

#[derive(Deserialize)]
struct RawRecord<'a> {
    #[serde(borrow)]
    user_id: BorrowedStr<'a>,
    email: BorrowedStr<'a>,
    name: BorrowedStr<'a>,
    email_verified: bool,
    tier: BorrowedStr<'a>,
    #[serde(default)]
    created_at: Option<BorrowedStr<'a>>,
    #[serde(default)]
    updated_at: Option<BorrowedStr<'a>>,
    /// `null` for a session without an expiry. If it is absent, the value is not a record.
    #[serde(deserialize_with = "Option::deserialize")]
    session_expire: Option<BorrowedStr<'a>>,
    cached_at: f64,
    #[serde(default)]
    session_cache: Option<Native<'a>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The member that this crate adds.
#[derive(Deserialize)]
struct Native<'a> {
    version: u32,
    #[serde(borrow, default)]
    namespace: Option<BorrowedStr<'a>>,
    #[serde(borrow, default)]
    authority: Option<BorrowedStr<'a>>,
    #[serde(default)]
    branches: Branches,
    #[serde(borrow, default)]
    session_id: Option<BorrowedStr<'a>>,
    /// Absent unless the expiry is that of the token.
    #[serde(default)]
    ends_with_token: bool,
    /// Absent unless the token is a key.
    #[serde(default)]
    is_key: bool,
    #[serde(default)]
    authenticated_at: Option<i64>,
    #[serde(borrow, default)]
    acr: Option<BorrowedStr<'a>>,
    #[serde(borrow, default)]
    fence: Option<BorrowedStr<'a>>,
    #[serde(default, deserialize_with = "present")]
    seen_tomb: Option<Option<String>>,
    #[serde(default)]
    attributes: Map<String, Value>,
    #[serde(default, deserialize_with = "present")]
    seen_mark: Option<Option<String>>,
    #[serde(default)]
    run: Option<String>,
}

/// Members that every version must have.
#[derive(Deserialize)]
struct Versioned {
    session_cache: Version,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Borrows the text from the input unless it contains escapes. This is a separate type because
/// within an `Option` serde would copy the text.
#[derive(Deserialize)]
struct BorrowedStr<'a>(#[serde(borrow)] Cow<'a, str>);

impl AsRef<str> for BorrowedStr<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Distinguishes `null` from an absent member.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl Record {
    /// Parses the value of a session key for the validators of this namespace.
    pub(crate) fn parse(json: &[u8], space: &NamespaceContext) -> Parsed {
        if json.len() > MAX_RECORD {
            return Parsed::Unreadable;
        }
        match serde_json::from_slice::<RawRecord<'_>>(json) {
            Ok(wire) if !wire.user_id.0.is_empty() => {
                wire.read(space).unwrap_or(Parsed::Unreadable)
            }
            // A later version may give members other types, so read only its version.
            _ => match serde_json::from_slice::<Versioned>(json) {
                Ok(other) if other.session_cache.version != RECORD_VERSION => Parsed::NotOurs,
                Ok(_) | Err(_) => Parsed::Unreadable,
            },
        }
    }

    /// Returns the time of the lookup before its validation, or the time of storing for a foreign
    /// record.
    pub(crate) fn since(&self) -> Timestamp {
        self.provenance
            .as_ref()
            .map_or(self.cached_at, |provenance| provenance.fence)
    }
}

impl RawRecord<'_> {
    fn read(self, space: &NamespaceContext) -> Option<Parsed> {
        let is_unversioned = || {
            UNVERSIONED
                .iter()
                .any(|name| self.others.contains_key(*name))
        };
        let cached_at = Timestamp::from_float(self.cached_at)?;
        let (source, session_id, acr, times, attributes, provenance) = match self.session_cache {
            Some(native) => {
                let is_ours = native.version == RECORD_VERSION
                    && native.namespace.as_ref().map(AsRef::as_ref)
                        == Some(space.namespace().as_str())
                    && !is_unversioned();
                if !is_ours {
                    return Some(Parsed::NotOurs);
                }
                let source = space.source(&native.authority?.0, &native.branches, true);
                let provenance = Provenance {
                    fence: Timestamp::parse(native.fence?.0.as_bytes())?,
                    seen_tomb: native.seen_tomb?,
                    seen_mark: native.seen_mark?,
                    run: native.run?,
                };
                let times = SessionTimes {
                    validated_at: provenance.fence.0,
                    authenticated_at: native.authenticated_at,
                    ends_with_token: native.ends_with_token,
                    is_key: native.is_key,
                };
                (
                    source,
                    native.session_id,
                    native.acr,
                    times,
                    native.attributes,
                    Some(provenance),
                )
            }
            None => match space.foreign() {
                Some(source) if !is_unversioned() => {
                    let times = SessionTimes {
                        validated_at: cached_at.0,
                        ..SessionTimes::default()
                    };
                    (source, None, None, times, self.others, None)
                }
                _ => return Some(Parsed::NotOurs),
            },
        };
        let user = UserFields {
            id: self.user_id,
            email: self.email,
            name: self.name,
            email_verified: self.email_verified,
            tier: self.tier,
            created_at: date(self.created_at)?,
            updated_at: date(self.updated_at)?,
            attributes,
            session_id,
            acr,
            times,
            source: Some(source),
        };
        Some(Parsed::Record(Record {
            user: user.build(),
            expires_at: date(self.session_expire)?,
            cached_at,
            provenance,
        }))
    }
}

/// Parses a date. Returns `None` for a text that is not a date, which makes the record unreadable.
fn date(text: Option<BorrowedStr<'_>>) -> Option<Option<DateTime<Utc>>> {
    match text {
        Some(text) => parse_isoformat(&text.0).map(Some),
        None => Some(None),
    }
}

/// Writes a record up to its mark, which only Redis knows at the time of storing. The script
/// appends the mark's text or `null`, and the run ID.
pub(crate) fn encode_prefix(
    user: &UserData,
    expires_at: Option<DateTime<Utc>>,
    fence: Timestamp,
    cached_at: Timestamp,
    seen_tomb: Option<&str>,
) -> String {
    let mut json = String::with_capacity(512);
    let date = |date: Option<DateTime<Utc>>| {
        date.map_or_else(|| "null".to_owned(), |date| quoted(&isoformat(date)))
    };
    let text = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), quoted);
    let mut member = |start: &str, name: &str, value: &str| {
        json.push_str(start);
        json.push_str(&quoted(name));
        json.push(':');
        json.push_str(value);
    };
    // The script finds the user by the first member of this name.
    member("{", "user_id", &quoted(user.id()));
    member(",", "email", &quoted(user.email()));
    member(",", "name", &quoted(user.name()));
    member(",", "email_verified", &user.email_verified().to_string());
    member(",", "tier", &quoted(user.tier()));
    member(",", "created_at", &date(user.created_at()));
    member(",", "updated_at", &date(user.updated_at()));
    member(",", "session_expire", &date(expires_at));
    member(",", "cached_at", &cached_at.to_string());
    member(",", "session_cache", "");
    member("{", "version", &RECORD_VERSION.to_string());
    let source = user.source();
    let namespace = source.map(|source| source.namespace.as_str());
    member(",", "namespace", &text(namespace));
    let authority = source.map(|source| source.authority.as_str());
    member(",", "authority", &text(authority));
    if let Some(source) = source.filter(|source| source.branches != Branches::default()) {
        member(",", "branches", &written(&source.branches));
    }
    member(",", "session_id", &text(user.session_id()));
    let times = user.times();
    if times.ends_with_token {
        member(",", "ends_with_token", "true");
    }
    if times.is_key {
        member(",", "is_key", "true");
    }
    if let Some(at) = times.authenticated_at {
        member(",", "authenticated_at", &at.to_string());
    }
    // The fill script finds the fence by the first member of this name, so it must come before
    // everything that a provider chooses.
    member(",", "fence", &quoted(&fence.to_string()));
    member(",", "seen_tomb", &text(seen_tomb));
    if let Some(acr) = user.acr() {
        member(",", "acr", &quoted(acr));
    }
    member(",", "attributes", &written(user.attributes()));
    member(",", "seen_mark", "");
    json
}

/// Writes the rest of a record where the script does not complete it. An empty `mark` means no
/// mark.
pub(crate) fn encode_suffix(mark: &str, run: &str) -> String {
    let mark = if mark.is_empty() {
        "null".to_owned()
    } else {
        quoted(mark)
    };
    format!(r#"{mark},"run":{}}}}}"#, quoted(run))
}

fn written(value: &impl Serialize) -> String {
    // Strings, numbers and lists of these can always be serialized.
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{Authority, Namespace, RecordKey},
        protocol::key::KeyDeriver,
    };

    /// As the Python service writes it with `json.dumps`.
    const PEERS: &str = r#"{"user_id": "680f4b03", "email": "ada@example.com", "name": "Ad\u00e1 \ud83d\ude80", "email_verified": true, "tier": "pro", "created_at": "2025-04-28T09:31:48.342000+00:00", "updated_at": "2025-05-03 16:44:35", "session_expire": "2026-05-03T16:52:48.759000+02:00", "cached_at": 1732444800.1234567}"#;

    fn space(namespace: Namespace) -> Arc<NamespaceContext> {
        KeyDeriver::new(None, None).space(namespace)
    }

    fn appwrite() -> Namespace {
        Namespace::appwrite(Authority::appwrite("https://a.example.com/v1", "p"))
    }

    fn read(json: &str, namespace: Namespace) -> Option<Record> {
        match Record::parse(json.as_bytes(), &space(namespace)) {
            Parsed::Record(record) => Some(record),
            Parsed::NotOurs | Parsed::Unreadable => None,
        }
    }

    #[test]
    fn record_of_the_python_service_is_read() {
        let record = read(PEERS, appwrite()).unwrap();
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
        assert_eq!(record.cached_at, Timestamp(1_732_444_800_123_457));
        assert_eq!(record.provenance, None);
        let source = user.source().unwrap();
        assert_eq!(source.authority.as_str(), "https://a.example.com/v1#p");
        assert!(!source.is_native);
    }

    /// A record as this version writes it, for a user of this namespace.
    fn of_namespace(user: UserData, namespace: &Namespace, session_id: Option<&str>) -> String {
        let branches = Branches::default().inside(&Namespace::named("or"), "oauth");
        let source = space(namespace.clone()).native("issuer", &branches);
        let user = user.in_session(source, session_id, None, SessionTimes::default());
        encode_prefix(
            &user,
            None,
            Timestamp(5_000_000),
            Timestamp(0),
            Some("5.000000:forget:1"),
        )
    }

    #[test]
    fn record_is_written_in_the_order_of_the_python_service() {
        let user = UserData::builder("u1")
            .name("A \"q\" \u{7}")
            .attribute("tier", "x")
            .attribute("a", 1);
        let namespace = Namespace::named("orders");
        let json = of_namespace(user.build(), &namespace, Some("s1")) + &encode_suffix("4.0", "r1");
        assert_eq!(
            json,
            concat!(
                r#"{"user_id":"u1","email":"","name":"A \"q\" \u0007","email_verified":false,"tier":"free","#,
                r#""created_at":null,"updated_at":null,"session_expire":null,"cached_at":0.000000,"#,
                r#""session_cache":{"version":3,"namespace":"named orders","authority":"issuer","branches":[["or","oauth"]],"#,
                r#""session_id":"s1","fence":"5.000000","seen_tomb":"5.000000:forget:1","#,
                r#""attributes":{"a":1,"tier":"x"},"seen_mark":"4.0","run":"r1"}}"#,
            )
        );
        let record = read(&json, namespace).unwrap();
        assert_eq!(record.user.session_id(), Some("s1"));
        let source = record.user.source().unwrap();
        assert!(source.branches.names().eq(["oauth"]));
    }

    #[test]
    fn record_of_another_namespace_or_version_is_ignored() {
        let namespaces = [
            Namespace::named("a"),
            Namespace::named("b"),
            Namespace::unnamed(),
            appwrite(),
            Namespace::appwrite(Authority::appwrite("https://a.example.com/v1", "q")),
        ];
        for (n, of) in namespaces.iter().enumerate() {
            let json = of_namespace(UserData::new("u1"), of, None) + &encode_suffix("", "r1");
            for (m, by) in namespaces.iter().enumerate() {
                assert_eq!(read(&json, by.clone()).is_some(), n == m, "{of} by {by}");
            }
            for version in ["2", "4"] {
                let json = json.replace(r#""version":3"#, &format!(r#""version":{version}"#));
                let parsed = Record::parse(json.as_bytes(), &space(of.clone()));
                assert_eq!(parsed, Parsed::NotOurs, "{version}");
            }
            // A record of the Python service is accepted for Appwrite only.
            let is_appwrite = matches!(of.record_key(), RecordKey::Python(_));
            assert_eq!(read(PEERS, of.clone()).is_some(), is_appwrite, "{of}");
        }
        let later = r#"{"user_id":{"id":"u1"},"session_cache":{"version":4,"namespace":[]}}"#;
        let parsed = Record::parse(later.as_bytes(), &space(appwrite()));
        assert_eq!(parsed, Parsed::NotOurs);
    }

    /// Nodes from before there were versions wrote a provider's claims next to their own members.
    #[test]
    fn claims_in_a_record_of_an_older_node_forge_nothing() {
        let now = of_namespace(UserData::new("u1"), &appwrite(), None) + &encode_suffix("", "r1");
        assert!(read(&now, appwrite()).is_some());
        let claim: Value = serde_json::from_str(&now).unwrap();
        let claim = &claim["session_cache"];
        let old = PEERS.replace(
            '}',
            &format!(
                r#","fence":"5.000000","seen_tomb":null,"session_cache":{claim},"seen_mark":null,"run":"r1"}}"#
            ),
        );
        let parsed = Record::parse(old.as_bytes(), &space(appwrite()));
        assert_eq!(parsed, Parsed::NotOurs);
        let plain = old.replace("session_cache", "other");
        let parsed = Record::parse(plain.as_bytes(), &space(appwrite()));
        assert_eq!(parsed, Parsed::NotOurs, "its version is not known");
    }

    #[test]
    fn null_and_absent_members_are_different() {
        let without = |member: &str| {
            let mut value: Value = serde_json::from_str(PEERS).unwrap();
            value.as_object_mut().unwrap().remove(member);
            read(&value.to_string(), appwrite())
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
            read(&record.to_string(), appwrite())
        };
        assert_eq!(
            with("session_expire", Value::Null).unwrap().expires_at,
            None
        );
        assert_eq!(with("session_expire", "soon".into()), None);
        assert_eq!(with("seen_mark", Value::Null), None, "an older node's");
        assert_eq!(with("user_id", "".into()), None);
        assert_eq!(with("email", Value::Null), None);
        assert_eq!(with("cached_at", "1732444800.5".into()), None);
        assert_eq!(
            with("team", "x".into()).unwrap().user.attributes()["team"],
            "x"
        );
        let ours = of_namespace(UserData::new("u1"), &appwrite(), None) + &encode_suffix("", "r1");
        for member in [
            "namespace",
            "authority",
            "fence",
            "seen_tomb",
            "seen_mark",
            "run",
        ] {
            let mut value: Value = serde_json::from_str(&ours).unwrap();
            let native = value["session_cache"].as_object_mut().unwrap();
            native.remove(member).unwrap();
            assert_eq!(read(&value.to_string(), appwrite()), None, "{member}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        any::<String>()
    }

    proptest! {
        #[test]
        fn written_value_is_read_back_unchanged(
            id in "\\PC{1,20}", email in text(), name in text(), tier in text(), verified: bool,
            created in proptest::option::of(0..4_000_000_000_000_000_i64),
            expires in proptest::option::of(0..4_000_000_000_000_000_i64),
            fence in 10_000_000..4_000_000_000_000_000_i64,
            mark in proptest::option::of("[0-9]{1,10}\\.[0-9]{6}"),
            attribute in "extra|user_id|fence|run|session_cache|version|\\PC{0,6}",
            authority in text(), branches in proptest::collection::vec(text(), 0..3),
            session_id in proptest::option::of("\\PC{1,8}"), namespace in text(), with_token: bool,
            is_key: bool, authenticated_at: Option<i64>, acr in proptest::option::of("\\PC{1,8}"),
        ) {
            let time = |micros: Option<i64>| micros.and_then(DateTime::<Utc>::from_timestamp_micros);
            let user = UserData::builder(id).email(email).name(name).tier(tier).email_verified(verified)
                .created_at(time(created)).attribute(attribute, serde_json::json!({"deep": ["\u{0}", 1.5]})).build();
            let space = space(Namespace::named(namespace));
            let branches = branches.iter().fold(Branches::default(), |inside, name| {
                inside.inside(&Namespace::named("or"), name)
            });
            let source = space.native(&authority, &branches);
            let fence = Timestamp(fence);
            let times = SessionTimes { validated_at: fence.0, authenticated_at, ends_with_token: with_token, is_key };
            let user = user.in_session(Arc::clone(&source), session_id.as_deref(), acr.as_deref(), times);
            let mut json = encode_prefix(&user, time(expires), fence, fence.minus(5_000_000), None);
            json += &encode_suffix(mark.as_deref().unwrap_or_default(), "r1");
            let Parsed::Record(record) = Record::parse(json.as_bytes(), &space) else {
                panic!("{json}");
            };
            prop_assert_eq!(record.user.source(), Some(&source));
            prop_assert_eq!(record.user.session_id(), session_id.as_deref());
            prop_assert_eq!(record.user.acr(), acr.as_deref());
            prop_assert_eq!(record.user.times(), times);
            prop_assert_eq!(record.user, user);
            prop_assert_eq!(record.expires_at, time(expires));
            prop_assert_eq!(record.cached_at, fence.minus(5_000_000));
            prop_assert_eq!(record.provenance, Some(Provenance { fence, seen_tomb: None, seen_mark: mark, run: "r1".to_owned() }));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..PEERS.len()) {
            let _ = Record::parse(&bytes, &space(appwrite()));
            prop_assert_eq!(read(&PEERS[..cut], appwrite()), None);
        }
    }
}
