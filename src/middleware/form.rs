//! The form of a layer's rejections, which also applies to the guards and extractors inside of it.
//!
//! A layer with a form of its own inserts it into the request's extensions. The innermost one
//! counts.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header};

use super::{challenge::Challenge, rejection::Rejection};
use crate::{telemetry::LAYER, token::RequestHead};

type MakeResponse = dyn Fn(&Rejection, &RequestHead<'_>) -> Response<Bytes> + Send + Sync;

#[derive(Clone, Default)]
pub(crate) struct RejectionForm {
    pub(crate) http_only: bool,
    pub(crate) challenge: Option<Arc<Challenge>>,
    pub(crate) make_response: Option<Arc<MakeResponse>>,
}

/// Returns the form that applies to a request.
fn form_of<'a>(head: &RequestHead<'a>) -> Option<&'a RejectionForm> {
    let form = head.extensions().get::<Arc<RejectionForm>>();
    form.map(|form| &**form)
}

/// Adds what the form of a request says about the rejection itself.
pub(crate) fn in_form(rejection: Rejection, head: &RequestHead<'_>) -> Rejection {
    match form_of(head) {
        Some(form) => rejection.with_form(form.http_only, form.challenge.clone()),
        None => rejection,
    }
}

/// Returns the response to a rejected request.
pub(crate) fn respond(rejection: Rejection, head: &RequestHead<'_>) -> Response<Bytes> {
    let rejection = in_form(rejection, head);
    tracing::debug!(
        target: LAYER,
        status = rejection.status().as_u16(),
        reason = rejection.reason(),
        "request rejected"
    );
    let make = form_of(head).and_then(|form| form.make_response.as_ref());
    let mut response = match make {
        Some(make) => make(&rejection, head),
        None => rejection.response(head),
    };
    let headers = response.headers_mut();
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response.extensions_mut().insert(rejection);
    response
}
