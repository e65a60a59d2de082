//! Settings of a layer: where tokens are, whether a request may pass without one, and the form of
//! rejections.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, Request};

use super::{
    grpc,
    rejection::{Rejection, RejectionBody, RejectionKind},
    response::RejectionResponse,
};
use crate::{
    model::UserData,
    resolver::Requirement,
    telemetry::LAYER,
    token::{SessionToken, TokenError, TokenSource},
};

type MakeBody = dyn Fn(&Rejection, &HeaderMap) -> RejectionBody + Send + Sync;

#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) source: TokenSource,
    pub(crate) optional: bool,
    pub(crate) trusts_outer_user: bool,
    pub(crate) http_only: bool,
    pub(crate) make_body: Option<Arc<MakeBody>>,
    /// What the session must meet beyond being valid.
    pub(crate) requirement: Option<Arc<Requirement>>,
    /// Number of tokens that were longer than the source allows.
    too_long: Arc<AtomicU64>,
}

impl Policy {
    pub(crate) fn required() -> Self {
        Self {
            source: TokenSource::default(),
            optional: false,
            trusts_outer_user: false,
            http_only: false,
            make_body: None,
            requirement: None,
            too_long: Arc::default(),
        }
    }

    /// Returns the request's token, or the rejection if there is none. Marks the headers that may
    /// hold tokens as sensitive, so that `Debug` does not print them.
    #[inline]
    pub(crate) fn token(&self, headers: &mut HeaderMap) -> Result<SessionToken, Rejection> {
        match self.source.take(headers) {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(Rejection::new(RejectionKind::Missing)),
            Err(error) => Err(self.no_token(error)),
        }
    }

    #[cold]
    fn no_token(&self, error: TokenError) -> Rejection {
        if error == TokenError::TooLong {
            self.warn_too_long();
        }
        Rejection::new(match error {
            TokenError::UnsupportedScheme => RejectionKind::UnsupportedScheme,
            error => RejectionKind::Malformed(error),
        })
    }

    /// Logs the first such token, and then each that doubles their number, because any client can
    /// send one.
    fn warn_too_long(&self) {
        if (self.too_long.fetch_add(1, Relaxed) + 1).is_power_of_two() {
            tracing::warn!(
                target: LAYER,
                max = self.source.max_len(),
                hint = "call `TokenSource::with_max_len` if the provider issues longer tokens",
                "session token too long, request rejected"
            );
        }
    }

    /// Returns the response to a rejected request. Returns `None` if the request may pass without a
    /// user, and then inserts the reason into its extensions.
    pub(crate) fn refusal<B>(
        &self,
        rejection: Rejection,
        request: &mut Request<B>,
    ) -> Option<RejectionResponse> {
        let rejection = rejection.with_source(&self.source);
        if self.optional && rejection.is_anonymous() {
            let extensions = request.extensions_mut();
            // The inner service must not treat a user that this layer rejects as authenticated.
            extensions.remove::<UserData>();
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
