//! Lookup of one cookie in a request's headers ([RFC 6265, section 5.4]), without building a jar.
//!
//! A browser may have several cookies of one name, with different paths or domains. It sends them
//! all, and neither path nor domain with them. The order is that of section 5.4: the longest path
//! first, and the oldest first among equal ones.
//!
//! [RFC 6265, section 5.4]: https://www.rfc-editor.org/rfc/rfc6265#section-5.4

use std::borrow::Cow;

use http::HeaderValue;
use percent_encoding::percent_decode;

use super::session_token::{SessionToken, TokenError};

/// Maximum number of cookies of one name that are tried.
pub(super) const MAX_CANDIDATES: usize = 3;

/// How the value of a cookie becomes a token.
#[derive(Clone, Copy)]
pub(super) struct CookieFormat {
    pub(super) is_percent_encoded: bool,
    pub(super) max_len: usize,
}

/// Returns the values of a cookie that are not empty. Reads all `Cookie` headers, because HTTP/2
/// may split the cookies across several.
pub(super) fn values<'a>(
    headers: impl Iterator<Item = &'a HeaderValue>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .filter_map(move |pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..equals].trim_ascii() == name.as_bytes())
                .then(|| unquoted(pair[equals + 1..].trim_ascii()))
        })
        // An emptied cookie is no credential.
        .filter(|value| !value.is_empty())
}

/// Returns the first value that is a token, or the error of the first value if none is.
pub(super) fn first<'a>(
    values: impl Iterator<Item = &'a [u8]>,
    format: CookieFormat,
) -> Result<Option<SessionToken>, TokenError> {
    let mut malformed = None;
    for value in values {
        match format.token(value) {
            Ok(token) => return Ok(Some(token)),
            Err(error) => malformed = malformed.or(Some(error)),
        }
    }
    malformed.map_or(Ok(None), Err)
}

/// Like [`first`], with all different tokens up to [`MAX_CANDIDATES`].
pub(super) fn all<'a>(
    values: impl Iterator<Item = &'a [u8]>,
    format: CookieFormat,
) -> Result<Vec<SessionToken>, TokenError> {
    let (mut tokens, mut malformed) = (Vec::<SessionToken>::new(), None);
    for value in values {
        match format.token(value) {
            Ok(token) => {
                if !tokens.iter().any(|t| t.as_bytes() == token.as_bytes()) {
                    tokens.push(token);
                }
            }
            Err(error) => malformed = malformed.or(Some(error)),
        }
        if tokens.len() == MAX_CANDIDATES {
            break;
        }
    }
    match malformed {
        Some(error) if tokens.is_empty() => Err(error),
        _ => Ok(tokens),
    }
}

/// Returns the only value. Different values are malformed.
pub(super) fn only<'a>(
    mut values: impl Iterator<Item = &'a [u8]>,
    format: CookieFormat,
) -> Result<Option<SessionToken>, TokenError> {
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.any(|value| value != first) {
        return Err(TokenError::Repeated);
    }
    format.token(first).map(Some)
}

impl CookieFormat {
    fn token(self, value: &[u8]) -> Result<SessionToken, TokenError> {
        // Percent-encoding takes at most three bytes for one.
        let factor = if self.is_percent_encoded { 3 } else { 1 };
        if value.len() > self.max_len.saturating_mul(factor) {
            return Err(TokenError::TooLong);
        }
        let token = if self.is_percent_encoded {
            Cow::from(percent_decode(value))
        } else {
            Cow::from(value)
        };
        if token.len() > self.max_len {
            return Err(TokenError::TooLong);
        }
        SessionToken::copy(&token)
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}
