//! JSON bodies of responses.

use serde_json::{Map, Value};

/// Parses a JSON object. Some servers put a byte order mark in front, which a parser may ignore
/// ([RFC 8259, section 8.1]).
///
/// It returns no error, because the parser's error would quote the body and any e-mail address in
/// it.
///
/// [RFC 8259, section 8.1]: https://www.rfc-editor.org/rfc/rfc8259#section-8.1
pub(crate) fn json_object(body: &[u8]) -> Option<Map<String, Value>> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    serde_json::from_slice(body).ok()
}
