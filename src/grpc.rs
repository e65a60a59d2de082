//! Refusals that a gRPC client understands: a *trailers-only* response ([gRPC over HTTP/2]).
//!
//! A gRPC client sees neither the status nor the body of an HTTP response but the pair
//! `grpc-status` and `grpc-message`, and takes anything else for a broken server. Whether a
//! request is one of gRPC's is told by its content type, so that one layer serves both kinds.
//!
//! [gRPC over HTTP/2]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses

use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::rejection::{Rejection, RejectionKind};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What `grpc-message` may not hold as it is.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// The content type of the answer to a gRPC request; nothing for any other request.
pub(crate) fn answers_to(request: &HeaderMap) -> Option<HeaderValue> {
    let content_type = request.get(header::CONTENT_TYPE)?;
    let rest = content_type.as_bytes().strip_prefix(GRPC.as_bytes())?;
    match rest {
        [] | [b'+' | b';' | b' ', ..] => Some(GRPC),
        // A browser's client reads its own type only.
        _ if rest.starts_with(b"-web") => Some(content_type.clone()),
        _ => None,
    }
}

/// Puts a rejection into the headers that a gRPC client reads.
pub(crate) fn refuse(rejection: &Rejection, headers: &mut HeaderMap) {
    let code: u16 = match rejection.kind() {
        RejectionKind::Malformed(_) => 3,
        RejectionKind::Missing | RejectionKind::Invalid | RejectionKind::Revoked => 16,
        RejectionKind::Forbidden(_) => 7,
        RejectionKind::Unavailable => 14,
    };
    headers.insert(STATUS, HeaderValue::from(code));
    let message = utf8_percent_encode(&rejection.title(), ENCODED).to_string();
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(MESSAGE, message);
    }
}
