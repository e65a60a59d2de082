//! Rejections that a gRPC client understands: *trailers-only* responses ([gRPC over HTTP/2]).
//!
//! A gRPC client reads neither the status nor the body of an HTTP response. It reads `grpc-status`
//! and `grpc-message`, and treats anything else as a broken server. A trailers-only response has
//! the status 200, which a proxy with forward authentication takes for permission. It is therefore
//! sent only if the request can be a gRPC call: a `POST` with gRPC's content type over HTTP/2, or a
//! `POST` with a content type of [gRPC-Web] over any version.
//!
//! [gRPC over HTTP/2]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses
//! [gRPC-Web]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::token::RequestHead;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Characters that must be percent-encoded in `grpc-message`.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Returns the content type of the response to a gRPC request, or `None` for any other request.
pub(crate) fn response_content_type(request: &RequestHead<'_>) -> Option<HeaderValue> {
    if request.method() != Method::POST {
        return None;
    }
    let content_type = request.headers().get(header::CONTENT_TYPE)?;
    let rest = content_type.as_bytes().strip_prefix(GRPC.as_bytes())?;
    match rest {
        [] | [b'+' | b';' | b' ', ..] => (request.version() == Version::HTTP_2).then_some(GRPC),
        // A gRPC-Web client only reads responses with the content type that it sent.
        _ => is_web(rest).then(|| content_type.clone()),
    }
}

/// Returns `true` for `-web` or `-web-text`, with anything that may follow a content type's name.
fn is_web(rest: &[u8]) -> bool {
    let Some(rest) = rest.strip_prefix(b"-web") else {
        return false;
    };
    let rest = rest.strip_prefix(b"-text").unwrap_or(rest);
    matches!(rest, [] | [b'+' | b';' | b' ', ..])
}

/// Inserts a rejection into the headers that a gRPC client reads.
pub(crate) fn insert_status(code: i32, message: &str, headers: &mut HeaderMap) {
    headers.insert(STATUS, HeaderValue::from(code));
    let message = utf8_percent_encode(message, ENCODED).to_string();
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(MESSAGE, message);
    }
}
