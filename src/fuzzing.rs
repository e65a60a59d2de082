//! Entry points of the fuzz targets to the code that parses untrusted bytes. Nothing else uses
//! them.
//!
//! None may panic on any input, and what they write must be readable again.

#[cfg(any(feature = "appwrite", feature = "introspection"))]
use chrono::DateTime;
#[cfg(feature = "introspection")]
use chrono::TimeDelta;
#[cfg(any(feature = "appwrite", feature = "introspection"))]
use http::StatusCode;
use http::{HeaderMap, HeaderValue, header};

use crate::{
    crypto::SecretKey,
    model::{Authority, Namespace},
    protocol::{
        KeyDeriver, Opened, Parsed, Record, RevocationMark, Sealing, Timestamp, Tombstone,
        encode_prefix, encode_suffix,
    },
    token::{SessionToken, TokenSource},
};

/// Extracts a token from headers, one per line.
pub fn token(bytes: &[u8]) {
    let names = [
        header::AUTHORIZATION,
        header::COOKIE,
        header::HeaderName::from_static("x-appwrite-session"),
    ];
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((which, value)) = line.split_first() else {
            continue;
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&names[usize::from(*which) % names.len()], value);
        }
    }
    let source = TokenSource::appwrite("p").or(TokenSource::dpop());
    let source = source.with_max_len(256);
    let extracted = source.extract(&headers);
    let taken = source.take(&mut headers);
    let candidates = source.candidates(&headers);
    assert!(headers.values().all(HeaderValue::is_sensitive));
    assert_eq!(extracted.as_ref().err(), taken.as_ref().err());
    assert_eq!(extracted.as_ref().err(), candidates.as_ref().err());
    let text = |token: Option<SessionToken>| token.map(|token| token.expose_secret().to_owned());
    let [extracted, taken] = [extracted, taken].map(|found| found.ok().and_then(text));
    assert_eq!(extracted, taken);
    let texts: Vec<_> = candidates
        .into_iter()
        .flatten()
        .filter_map(|token| text(Some(token)))
        .collect();
    assert_eq!(texts.first(), taken.as_ref());
    assert!(texts.len() <= 3);
    for text in texts {
        assert!((1..=256).contains(&text.len()));
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

/// Reads an untrusted record. A record that can be read can be written, and is the same when read
/// again.
pub fn record(bytes: &[u8]) {
    // This namespace reads both native and foreign records.
    let space = KeyDeriver::new(None, None).space(Namespace::appwrite(Authority::new("a")));
    let Parsed::Record(record) = Record::parse(bytes, &space) else {
        return;
    };
    let fence = Timestamp(5_000_000);
    let written = encode_prefix(&record.user, record.expires_at, fence, Timestamp(0), None)
        + &encode_suffix("", "r");
    let Parsed::Record(again) = Record::parse(written.as_bytes(), &space) else {
        panic!("what we wrote is read");
    };
    assert_eq!(again.user, record.user);
    assert_eq!(again.expires_at, record.expires_at);
}

/// Reads an untrusted revocation mark and tombstone.
pub fn mark_and_tombstone(bytes: &[u8]) {
    let _ = RevocationMark::parse(bytes).is_readable();
    let tomb = Tombstone::parse(bytes);
    let _ = (tomb.is_readable(), tomb.refuses());
    if let Some(stamp) = Timestamp::parse(bytes) {
        assert_eq!(Timestamp::parse(stamp.to_string().as_bytes()), Some(stamp));
    }
}

/// Reads a sealed record that was written without the key.
pub fn sealed(bytes: &[u8]) {
    let secret = SecretKey::from_bytes([7; 32]).expect("long enough");
    let sealing = Sealing::new(&secret, None);
    for value in [bytes.to_vec(), [b"sealed1:", bytes].concat()] {
        assert!(!matches!(sealing.open("k", &value), Opened::Record { .. }));
    }
}

/// Reads valid and invalid bodies of Appwrite. The first two bytes give the status.
#[cfg(feature = "appwrite")]
pub fn appwrite(bytes: &[u8]) {
    use crate::validator::appwrite::{
        Operation, account, classify, first_label, recovered, session,
    };

    let Some((status, body)) = with_status(bytes) else {
        return;
    };
    for operation in [
        Operation::Account,
        Operation::Session,
        Operation::Login,
        Operation::Logout,
        Operation::Recovery,
    ] {
        let now = DateTime::UNIX_EPOCH;
        let classified = classify(operation, status, &HeaderMap::new(), Ok(body.to_vec()), now);
        if let Err(error) = classified {
            // Error messages must not contain text from the response.
            assert!(error.to_string().is_ascii());
        }
    }
    let _ = account(body, Some("u1"), &first_label);
    let _ = session(Operation::Session, body);
    let _ = recovered(body);
}

/// Reads valid and invalid bodies of an introspection endpoint. The first two bytes give the
/// status.
#[cfg(feature = "introspection")]
pub fn introspection(bytes: &[u8]) {
    use crate::validator::{
        http::HttpResponse,
        introspection::{
            IntrospectionResponse, Settings, TokenKinds, UserIdClaims, classify, session,
        },
    };

    let Some((status, body)) = with_status(bytes) else {
        return;
    };
    let now = DateTime::UNIX_EPOCH;
    let response = HttpResponse {
        status,
        headers: HeaderMap::new(),
        body: Ok(body.to_vec()),
    };
    if let Err(error) = classify(response, false, now) {
        // Error messages must not contain text from the response.
        assert!(error.to_string().is_ascii());
    }
    let token = SessionToken::parse("t0ken").expect("a token");
    for (scopes, audience) in [
        (vec![], None),
        (vec!["read".to_owned()], Some("api".to_owned())),
    ] {
        let settings = Settings {
            issuer: None,
            audience,
            scopes,
            allows_bound_tokens: false,
            kinds: TokenKinds::default(),
            authority: Authority::new("a"),
            user_id_claims: UserIdClaims::default(),
            session_id_claim: "ext.sid".to_owned(),
            leeway: TimeDelta::zero(),
            tier: Box::new(|token| token.str_claim("plan").unwrap_or("free").to_owned()),
        };
        let Ok(Some(response)) = IntrospectionResponse::parse(body) else {
            continue;
        };
        let Ok(session) = session(&settings, &token, response, now) else {
            continue;
        };
        // A session that can be cached must also be accepted on a hit, unless the body was too
        // long.
        assert!(body.len() > 8 * 1024 || settings.accepts(&session.user));
    }
}

#[cfg(any(feature = "appwrite", feature = "introspection"))]
fn with_status(bytes: &[u8]) -> Option<(StatusCode, &[u8])> {
    let (status, body) = bytes.split_first_chunk::<2>()?;
    let status = 100 + u16::from_be_bytes(*status) % 500;
    Some((StatusCode::from_u16(status).ok()?, body))
}
