//! Resolution of a request with several tokens, of which the first valid one decides.
//!
//! A browser sends all cookies of a name, so a request may carry a stale token in front of a valid
//! one. A token that may be valid is never passed over: otherwise the user of a request would
//! depend on whether the identity provider is available.

use tokio::time::timeout;

use super::resolve::{LocalResult, Resolver, has_runtime, unavailable};
use crate::{
    cache::{Accepted, Denied},
    token::SessionToken,
    validator::SessionValidator,
};

impl<V: SessionValidator> Resolver<V> {
    /// Resolves the tokens one after the other, until one is valid or may be valid. All of them
    /// together take no longer than a single one may.
    pub(crate) async fn resolve_candidates(
        self,
        first: SessionToken,
        local: LocalResult,
        others: Vec<SessionToken>,
    ) -> Result<Accepted, Denied> {
        if !has_runtime() {
            return unavailable("no Tokio runtime");
        }
        let limit = self.cache().validations().miss_timeout;
        timeout(limit, self.first_valid(first, local, others))
            .await
            .unwrap_or_else(|_| unavailable("no result within `request_timeout`"))
    }

    async fn first_valid(
        &self,
        first: SessionToken,
        local: LocalResult,
        others: Vec<SessionToken>,
    ) -> Result<Accepted, Denied> {
        let mut result = self.wait(first, local).await;
        for (rejected_tokens, token) in (1..).zip(others) {
            let earlier = match result {
                Err(denied) if denied.is_rejection() => denied,
                result => return result,
            };
            let token = self.canonical(token);
            let local = self.try_local(&token);
            result = match self.wait(token, local).await {
                Ok(accepted) => Ok(Accepted {
                    rejected_tokens,
                    ..accepted
                }),
                Err(later) => Err(decisive(earlier, later)),
            };
        }
        result
    }

    async fn wait(&self, token: SessionToken, local: LocalResult) -> Result<Accepted, Denied> {
        match local {
            LocalResult::Ready(outcome) => outcome.map(|resolved| Accepted::first(token, resolved)),
            LocalResult::Pending(key) => Box::pin(self.clone().resolve(token, key)).await,
        }
    }
}

/// Returns the denial that determines the response. A token that may be valid comes first. Next is
/// a token whose user is known but forbidden. Otherwise a stale cookie would hide from the client
/// that a further step is required, such as a second factor.
fn decisive(earlier: Denied, later: Denied) -> Denied {
    if !later.is_rejection() || later.is_forbidden() && !earlier.is_forbidden() {
        return later;
    }
    earlier
}
