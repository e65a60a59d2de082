//! Response to a rejected request, in the form of HTTP or of gRPC.

use bytes::Bytes;
use http::{HeaderValue, Response, header};

use super::{
    body::ResponseBody,
    grpc,
    rejection::{Rejection, RejectionBody},
};
use crate::telemetry::LAYER;

/// A rejection with its body: everything that the response needs, whatever the inner body's type.
pub(crate) struct RejectionResponse {
    pub(crate) rejection: Rejection,
    pub(crate) body: RejectionBody,
    /// Content type of the response to a gRPC request.
    pub(crate) grpc: Option<HeaderValue>,
}

impl RejectionResponse {
    pub(crate) fn into_response<B>(self) -> Response<ResponseBody<B>> {
        let Self {
            rejection,
            body,
            grpc,
        } = self;
        tracing::debug!(
            target: LAYER,
            status = rejection.status().as_u16(),
            reason = rejection.reason(),
            "request rejected"
        );
        let mut response = match grpc {
            Some(content_type) => {
                let mut response = Response::new(ResponseBody::rejection(Bytes::new()));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, content_type);
                grpc::insert_status(&rejection, headers);
                response
            }
            None => {
                let mut response = Response::new(ResponseBody::rejection(body.bytes));
                *response.status_mut() = rejection.status();
                if let Some(content_type) = body.content_type {
                    let headers = response.headers_mut();
                    headers.insert(header::CONTENT_TYPE, content_type);
                }
                response
            }
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for challenge in rejection.challenges() {
            if let Ok(challenge) = HeaderValue::try_from(&*challenge) {
                headers.append(header::WWW_AUTHENTICATE, challenge);
            }
        }
        if let Some(after) = rejection.retry_after() {
            // Rounded up, because a client that retries too early is rejected again.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(rejection);
        response
    }
}
