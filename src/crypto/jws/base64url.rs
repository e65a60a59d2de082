//! Base64url without padding ([RFC 7515, section 2]).
//!
//! [RFC 7515, section 2]: https://www.rfc-editor.org/rfc/rfc7515#section-2

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Decodes a text in its only valid spelling: without padding, line breaks and trailing bits.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(any(test, feature = "testing"))]
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
