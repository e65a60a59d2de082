//! Doors through which the fuzz targets reach what reads foreign bytes; only they see them.
//!
//! None may panic, whatever the bytes are, and what is written must be read again.

use http::{HeaderMap, HeaderValue, header};

pub use crate::cache::fuzzing::{mark_and_tombstone, record, sealed};
use crate::token::{SessionToken, TokenSource};

/// Token extraction from headers, one a line.
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
    let source = TokenSource::appwrite("p").with_max_len(256);
    let extracted = source.extract(&headers);
    let taken = source.take(&mut headers);
    assert!(headers.values().all(HeaderValue::is_sensitive));
    assert_eq!(extracted.as_ref().err(), taken.as_ref().err());
    let text = |token: Option<SessionToken>| token.map(|token| token.expose_secret().to_owned());
    let [extracted, taken] = [extracted, taken].map(|found| found.ok().and_then(text));
    assert_eq!(extracted, taken);
    if let Some(text) = taken {
        assert!((1..=256).contains(&text.len()));
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

/// Bodies of Appwrite, good and bad.
#[cfg(feature = "appwrite")]
pub fn appwrite(bytes: &[u8]) {
    crate::appwrite::fuzzing::answer(bytes);
}

/// Bodies of an introspection endpoint, good and bad.
#[cfg(feature = "introspection")]
pub fn introspection(bytes: &[u8]) {
    crate::introspection::fuzzing::answer(bytes);
}
