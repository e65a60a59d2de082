//! Tokens in the sub-protocols that a WebSocket client offers ([RFC 6455, section 1.9]). A browser
//! lets a page set no other header of the handshake.
//!
//! [RFC 6455, section 1.9]: https://www.rfc-editor.org/rfc/rfc6455#section-1.9

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};

use super::session_token::{SessionToken, TokenError, decoded};

/// Returns the token of the only sub-protocol with this prefix.
pub(super) fn read(
    headers: &HeaderMap,
    prefix: &str,
    max_len: usize,
) -> Result<Option<SessionToken>, TokenError> {
    let mut tokens = offered(headers).filter_map(|name| name.strip_prefix(prefix));
    let token = tokens.next().unwrap_or_default();
    if tokens.next().is_some() {
        return Err(TokenError::Repeated);
    }
    decoded(token, max_len)
}

/// Removes each sub-protocol with this prefix, so that no service selects it and no response
/// contains it.
pub(super) fn remove(headers: &mut HeaderMap, prefix: &str) {
    if !offered(headers).any(|name| name.starts_with(prefix)) {
        return;
    }
    let rest: Vec<_> = offered(headers)
        .filter(|name| !name.starts_with(prefix))
        .collect();
    match HeaderValue::try_from(rest.join(", ")) {
        Ok(rest) if !rest.is_empty() => {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
        }
        _ => {
            headers.remove(SEC_WEBSOCKET_PROTOCOL);
        }
    }
}

/// Returns the names in all headers of this kind. A value with bytes outside of visible ASCII
/// contains no sub-protocol.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}
