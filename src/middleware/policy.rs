//! Settings of a layer: which requests it handles, where tokens are, whether a request may pass
//! without one, and the form of rejections.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Extensions, Request, Response};

use super::{
    form::{RejectionForm, in_form, respond},
    rejection::{Rejection, RejectionKind},
};
use crate::{
    model::UserData,
    resolver::Requirement,
    telemetry::LAYER,
    token::{Found, Predicate, RequestHead, SessionToken, TokenError, TokenSource},
};

#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) source: TokenSource,
    pub(crate) optional: bool,
    pub(crate) trusts_outer_user: bool,
    /// Requests that the layer passes on untouched.
    pub(crate) exempt: Option<Arc<Predicate>>,
    /// `None` is the default form.
    pub(crate) form: Option<Arc<RejectionForm>>,
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
            exempt: None,
            form: None,
            requirement: None,
            too_long: Arc::default(),
        }
    }

    /// Changes the form of rejections.
    pub(crate) fn form_mut(&mut self) -> &mut RejectionForm {
        Arc::make_mut(self.form.get_or_insert_default())
    }

    #[inline]
    pub(crate) fn is_exempt<B>(&self, request: &Request<B>) -> bool {
        match &self.exempt {
            Some(exempt) => exempt(&RequestHead::from(request)),
            None => false,
        }
    }

    /// Returns the request's token and the place where it was found, or the rejection if there is
    /// none. Hides the token in the request, so that `Debug` does not print it. An absent token is
    /// taken from outside: an outer layer has removed a token from the query.
    #[inline]
    pub(crate) fn token<B>(
        &self,
        request: &mut Request<B>,
        from_outside: impl FnOnce(&Extensions) -> Option<SessionToken>,
    ) -> Result<(SessionToken, usize), Rejection> {
        let Found { token, place } = self.source.take(request);
        match token {
            Ok(Some(token)) => Ok((token, place)),
            Ok(None) => match from_outside(request.extensions()) {
                Some(token) => Ok((token, place)),
                None => Err(Rejection::new(
                    RejectionKind::Missing,
                    self.source.schemes(place),
                )),
            },
            Err(error) => Err(self.no_token(error, place)),
        }
    }

    #[cold]
    fn no_token(&self, error: TokenError, place: usize) -> Rejection {
        if error == TokenError::TooLong {
            self.warn_too_long();
        }
        let kind = match error {
            TokenError::UnsupportedScheme => RejectionKind::UnsupportedScheme,
            error => RejectionKind::Malformed(error),
        };
        Rejection::new(kind, self.source.schemes(place))
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
    ) -> Option<Box<Response<Bytes>>> {
        let head = RequestHead::from(&*request);
        let rejection = in_form(rejection.or_more_telling(head.extensions().get()), &head);
        if self.optional && rejection.is_anonymous() {
            let extensions = request.extensions_mut();
            // The inner service must not treat a user that this layer rejects as authenticated.
            extensions.remove::<UserData>();
            extensions.insert(rejection);
            return None;
        }
        Some(Box::new(respond(rejection, &head)))
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
