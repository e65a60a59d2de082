//! Refusals that a gRPC client understands: a *trailers-only* response ([gRPC over HTTP/2]).
//!
//! A gRPC client sees neither the status nor the body of an HTTP response but the pair
//! `grpc-status` and `grpc-message`, and takes anything else for a broken server. Such a response
//! has the status 200, which a proxy that asks for permission takes for a yes. So it is sent only
//! where the request can be a gRPC call: a `POST` with gRPC's content type over HTTP/2, or one
//! with a content type of [gRPC-Web] over any version.
//!
//! [gRPC over HTTP/2]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses
//! [gRPC-Web]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::rejection::{Rejection, RejectionKind};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What `grpc-message` may not hold as it is.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// The content type of the answer to a gRPC request; nothing for any other request.
pub(crate) fn response_content_type<B>(request: &Request<B>) -> Option<HeaderValue> {
    if request.method() != Method::POST {
        return None;
    }
    let content_type = request.headers().get(header::CONTENT_TYPE)?;
    let rest = content_type.as_bytes().strip_prefix(GRPC.as_bytes())?;
    match rest {
        [] | [b'+' | b';' | b' ', ..] => (request.version() == Version::HTTP_2).then_some(GRPC),
        // A browser's client reads its own type only.
        _ => is_web(rest).then(|| content_type.clone()),
    }
}

/// `-web` or `-web-text`, with what may follow a content type's name.
fn is_web(rest: &[u8]) -> bool {
    let Some(rest) = rest.strip_prefix(b"-web") else {
        return false;
    };
    let rest = rest.strip_prefix(b"-text").unwrap_or(rest);
    matches!(rest, [] | [b'+' | b';' | b' ', ..])
}

/// Puts a rejection into the headers that a gRPC client reads.
pub(crate) fn insert_status(rejection: &Rejection, headers: &mut HeaderMap) {
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
