//! Settings of a layer: where tokens are, whether a request may pass without one, and the form of
//! rejections.

use std::{fmt, sync::Arc};

use http::{HeaderMap, Request};

use super::{
    grpc,
    rejection::{Rejection, RejectionBody, RejectionKind},
    response::RejectionResponse,
};
use crate::{
    model::{SessionInfo, UserData},
    token::{SessionToken, TokenSource},
};

type MakeBody = dyn Fn(&Rejection, &HeaderMap) -> RejectionBody + Send + Sync;

#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) source: TokenSource,
    pub(crate) optional: bool,
    pub(crate) trusts_outer_user: bool,
    pub(crate) http_only: bool,
    pub(crate) make_body: Option<Arc<MakeBody>>,
}

impl Policy {
    pub(crate) fn required() -> Self {
        Self {
            source: TokenSource::default(),
            optional: false,
            trusts_outer_user: false,
            http_only: false,
            make_body: None,
        }
    }

    /// Returns the request's token, or the rejection if there is none. Marks the headers that may
    /// hold tokens as sensitive, so that `Debug` does not print them.
    #[inline]
    pub(crate) fn token(&self, headers: &mut HeaderMap) -> Result<SessionToken, Rejection> {
        match self.source.take(headers) {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(Rejection::new(RejectionKind::Missing)),
            Err(error) => Err(Rejection::new(RejectionKind::Malformed(error))),
        }
    }

    /// Returns the response to a rejected request. Returns `None` if the request may pass without a
    /// user, and then inserts the reason into its extensions.
    pub(crate) fn refusal<B>(
        &self,
        rejection: Rejection,
        request: &mut Request<B>,
    ) -> Option<RejectionResponse> {
        if self.optional && rejection.is_anonymous() {
            let extensions = request.extensions_mut();
            // The inner service must not treat a user that this layer rejects as authenticated.
            extensions.remove::<UserData>();
            extensions.remove::<SessionInfo>();
            extensions.insert(rejection);
            return None;
        }
        let body = self
            .make_body
            .as_ref()
            .map_or_else(RejectionBody::empty, |make| {
                make(&rejection, request.headers())
            });
        let is_http = self.http_only || !body.is_empty();
        let grpc = (!is_http)
            .then(|| grpc::response_content_type(request))
            .flatten();
        Some(RejectionResponse {
            rejection,
            body,
            grpc,
        })
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("source", &self.source)
            .field("optional", &self.optional)
            .finish_non_exhaustive()
    }
}
