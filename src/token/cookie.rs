//! Lookup of one cookie in a request's headers ([RFC 6265, section 5.4]), without building a jar.
//!
//! [RFC 6265, section 5.4]: https://www.rfc-editor.org/rfc/rfc6265#section-5.4

use std::borrow::Cow;

use http::HeaderValue;
use percent_encoding::percent_decode;

use super::session_token::{SessionToken, TokenError};

/// Searches all `Cookie` headers, because HTTP/2 may split the cookies across several.
pub(super) fn find<'a>(
    headers: impl Iterator<Item = &'a HeaderValue>,
    name: &str,
    percent: bool,
    max_len: usize,
) -> Result<Option<SessionToken>, TokenError> {
    let mut found: Option<&[u8]> = None;
    let pairs = headers.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    for pair in pairs {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        if pair[..equals].trim_ascii() != name.as_bytes() {
            continue;
        }
        let value = unquoted(pair[equals + 1..].trim_ascii());
        // Which of two values applies depends on cookie paths, which the server does not receive.
        if found.is_some_and(|earlier| earlier != value) {
            return Err(TokenError::Repeated);
        }
        found = Some(value);
    }
    let Some(value) = found else {
        return Ok(None);
    };
    // Percent-encoding takes at most three bytes for one.
    if value.len() > max_len.saturating_mul(if percent { 3 } else { 1 }) {
        return Err(TokenError::TooLong);
    }
    let token = if percent {
        Cow::from(percent_decode(value))
    } else {
        Cow::from(value)
    };
    SessionToken::copy(&token).map(Some)
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}
