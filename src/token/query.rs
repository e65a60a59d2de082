//! Tokens in a parameter of the URI's query ([RFC 6750, section 2.3]).
//!
//! [RFC 6750, section 2.3]: https://www.rfc-editor.org/rfc/rfc6750#section-2.3

use http::{Uri, uri::PathAndQuery};
use percent_encoding::percent_decode_str;

use super::session_token::{SessionToken, TokenError, decoded};

/// Returns the token of the only parameter with this name.
pub(super) fn read(
    uri: &Uri,
    name: &str,
    max_len: usize,
) -> Result<Option<SessionToken>, TokenError> {
    let mut values = pairs(uri)
        .filter(|pair| is_named(pair, name))
        .map(|pair| pair.split_once('=').map_or("", |(_, value)| value));
    let value = values.next().unwrap_or_default();
    if values.next().is_some() {
        return Err(TokenError::Repeated);
    }
    decoded(value, max_len)
}

/// Returns the URI without any parameter of this name, or `None` if there is none.
pub(super) fn without(uri: &Uri, name: &str) -> Option<Uri> {
    if !pairs(uri).any(|pair| is_named(pair, name)) {
        return None;
    }
    let rest: Vec<_> = pairs(uri).filter(|pair| !is_named(pair, name)).collect();
    let mut text = uri.path().to_owned();
    if !rest.is_empty() {
        text = [text, rest.join("&")].join("?");
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(text).ok();
    // The parts are those of a valid URI, so the fallback is never used.
    Some(Uri::from_parts(parts).unwrap_or_default())
}

fn pairs(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().into_iter().flat_map(|query| query.split('&'))
}

/// Compares the decoded name. Otherwise an encoded name could carry a token past this source.
fn is_named(pair: &str, name: &str) -> bool {
    let sent = pair.split_once('=').map_or(pair, |(sent, _)| sent);
    sent == name || percent_decode_str(sent).eq(name.bytes())
}
