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
use http::{HeaderMap, HeaderValue, Request, Uri, header};

use crate::{
    crypto::SecretKey,
    model::{Authority, Namespace},
    protocol::{
        KeyDeriver, Opened, Parsed, Record, RevocationMark, Sealing, Timestamp, Tombstone,
        encode_prefix, encode_suffix,
    },
    token::{SessionToken, TokenSource},
};

/// Extracts a token from headers, one per line. A line that starts with `?` is the query.
pub fn token(bytes: &[u8]) {
    let names = [
        header::AUTHORIZATION,
        header::COOKIE,
        header::HeaderName::from_static("x-appwrite-session"),
    ];
    let mut request = Request::new(());
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((which, value)) = line.split_first() else {
            continue;
        };
        if *which == b'?' {
            if let Ok(uri) = Uri::try_from([b"/", line].concat()) {
                *request.uri_mut() = uri;
            }
            continue;
        }
        let name = match which {
            b'+' => &header::SEC_WEBSOCKET_PROTOCOL,
            which => &names[usize::from(*which) % names.len()],
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers_mut().append(name, value);
        }
    }
    let source = TokenSource::appwrite("p")
        .or(TokenSource::dpop())
        .or(TokenSource::query("t"))
        .or(TokenSource::websocket_protocol("s."))
        .with_max_len(256);
    let extracted = source.extract(&request);
    let candidates = source.candidates(&request);
    let taken = source.take(&mut request).token;
    let hidden = TokenSource::query("t").or(TokenSource::websocket_protocol("s."));
    assert!(matches!(hidden.extract(&request), Ok(None)));
    for (name, value) in request.headers() {
        assert!(value.is_sensitive() || name == header::SEC_WEBSOCKET_PROTOCOL);
    }
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

/// Reads a webhook of Appwrite. The first lines are headers, and the body follows an empty line.
#[cfg(feature = "events")]
pub fn appwrite_event(bytes: &[u8]) {
    use crate::events::{AppwriteWebhook, appwrite_user};

    let (head, body) = request(bytes);
    let key = "a key that the input does not know";
    let webhook = AppwriteWebhook::new("https://example.com/%2F", key).expect("valid");
    assert!(read(&webhook, &head, body).is_err(), "without the key");
    // The body of a request that is signed. What is printed contains no part of it.
    let printed = format!("{:?}", appwrite_user(body));
    assert!(printed.len() < 80, "{printed}");
}

/// Reads a Standard Webhook, and a request with a secret in a header, in the same form.
#[cfg(feature = "events")]
pub fn standard_webhook(bytes: &[u8]) {
    use crate::events::{HeaderSecret, JsonEvent, Revoked, StandardWebhook};

    let map = |event: &serde_json::Value| Revoked::user(event["data"]["user_id"].as_str());
    let (head, body) = request(bytes);
    let secret = "whsec_bm90IGEgc2VjcmV0IG9mIGFueWJvZHkgYXQgYWxs";
    let webhook = StandardWebhook::new(secret, map).expect("valid");
    assert!(read(&webhook, &head, body).is_err(), "without the key");
    let webhook = HeaderSecret::new("x-secret", secret, map).expect("valid");
    let is_known = head
        .headers
        .get("x-secret")
        .is_some_and(|value| value == secret);
    assert_eq!(read(&webhook, &head, body).is_ok(), is_known);
    let printed = format!("{:?}", JsonEvent::new("fuzz", map).read(body));
    assert!(printed.len() < 80, "{printed}");
}

#[cfg(feature = "events")]
fn read(
    source: &impl crate::events::RevocationSource,
    head: &http::request::Parts,
    body: &[u8],
) -> Result<(), ()> {
    use futures_util::FutureExt;

    // The time of the seeds.
    let now = chrono::DateTime::from_timestamp(1_614_265_330, 0).expect("valid");
    let read = source.read(head, body, now).now_or_never();
    let read = read.expect("the reader waits for nothing");
    read.map(|_| ()).map_err(|_| ())
}

/// Splits the input into a head and a body.
#[cfg(feature = "events")]
fn request(bytes: &[u8]) -> (http::request::Parts, &[u8]) {
    let end = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 2..]));
    let (mut parts, ()) = http::Request::new(()).into_parts();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = header::HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            parts.headers.append(name, value);
        }
    }
    (parts, body)
}

#[cfg(any(feature = "appwrite", feature = "introspection"))]
fn with_status(bytes: &[u8]) -> Option<(StatusCode, &[u8])> {
    let (status, body) = bytes.split_first_chunk::<2>()?;
    let status = 100 + u16::from_be_bytes(*status) % 500;
    Some((StatusCode::from_u16(status).ok()?, body))
}

/// Reads a token and a key set. No input is signed with the key of the target.
#[cfg(feature = "oidc-events")]
pub fn signed_token(bytes: &[u8]) {
    use crate::crypto::{Jws, JwsAlgorithm, KeySet};

    let accepted = [
        JwsAlgorithm::Rs256,
        JwsAlgorithm::Es384,
        JwsAlgorithm::EdDsa,
    ];
    let known = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let known = KeySet::parse(known).expect("a key set");
    assert!(!known.is_empty());
    // The second part is a key set, against which the token is verified as well.
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = parts.next().and_then(|text| std::str::from_utf8(text).ok());
    let keys = KeySet::parse(parts.next().unwrap_or_default());
    let Some(token) = text.and_then(|text| Jws::parse(text, &accepted).ok()) else {
        return;
    };
    assert!(token.claims(&known).is_err());
    if let Some(keys) = keys {
        let _ = token.claims(&keys);
    }
}

/// Reads the form with a logout token, and the subject of a security event.
#[cfg(feature = "oidc-events")]
pub fn signed_event(bytes: &[u8]) {
    use crate::events::{Subject, logout_token};

    if let Ok(token) = logout_token(bytes) {
        assert!(token.len() <= bytes.len());
    }
    let Some((issuer, subject)) = bytes.split_first_chunk::<1>() else {
        return;
    };
    if let Ok(subject) = serde_json::from_slice(subject) {
        let issuer = std::str::from_utf8(issuer).unwrap_or_default();
        let map = |identifier: &serde_json::Value| Some(identifier.to_string());
        let known = Subject::parse(&subject, issuer, None);
        let mapped = Subject::parse(&subject, issuer, Some(&map));
        assert!(known.users.len() <= mapped.users.len() && mapped.users.len() <= 16);
        assert_eq!(known.session, mapped.session);
        assert!(known.users.iter().all(|user| !user.is_empty()));
    }
}
