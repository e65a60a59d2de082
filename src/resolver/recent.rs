//! Resolution of a request to a route that requires more than a valid session: a validation of its
//! own for the request, or one that is recent enough.

use std::sync::Arc;

use tokio::{runtime::Handle, time::timeout};

use super::{
    requirement::Requirement,
    resolve::{Resolver, has_runtime, unavailable},
};
use crate::{
    cache::{Accepted, Denied, Lookup, Outcome, Resolved},
    protocol::CacheKey,
    sync::singleflight::WaitResult,
    telemetry::LookupOutcome,
    token::SessionToken,
    validator::{ForbiddenReason, SessionValidator, ValidationError},
};

impl<V: SessionValidator> Resolver<V> {
    fn wall(&self) -> i64 {
        self.cache().store().clock().wall()
    }

    /// Whether the user whom another layer has put into the request meets a requirement.
    pub(crate) fn meets(&self, requirement: &Requirement, user: &crate::model::UserData) -> bool {
        requirement.is_met_from_cache(user.shared(), self.wall())
    }

    /// Resolves the tokens of a request, and validates the session again if the requirement demands
    /// it. All of it together takes no longer than any other request may.
    pub(crate) async fn resolve_recent(
        self,
        token: SessionToken,
        others: Vec<SessionToken>,
        requirement: Arc<Requirement>,
    ) -> Result<Accepted, Denied> {
        if !has_runtime() {
            return unavailable("no Tokio runtime");
        }
        let limit = self.cache().validations().miss_timeout;
        timeout(limit, self.recent(token, others, &requirement))
            .await
            .unwrap_or_else(|_| unavailable("no result within `request_timeout`"))
    }

    async fn recent(
        self,
        token: SessionToken,
        others: Vec<SessionToken>,
        requirement: &Requirement,
    ) -> Result<Accepted, Denied> {
        let mut rejected_tokens = 0;
        let mut token = token;
        // With several tokens, the ordinary resolution finds out which of them decides.
        if !requirement.is_fresh || !others.is_empty() {
            let local = self.try_local(&token);
            let accepted = self.clone().resolve_candidates(token, local, others);
            let accepted = Box::pin(accepted).await?;
            rejected_tokens = accepted.rejected_tokens;
            token = accepted.token;
            let is_decided = !accepted.resolved.is_stale
                && requirement.is_decided(&accepted.resolved.user, self.wall());
            if is_decided {
                let resolved = requirement.check(accepted.resolved, self.wall())?;
                return Ok(Accepted {
                    token,
                    resolved,
                    rejected_tokens,
                });
            }
        }
        let key = self.cache().key(&token);
        let resolved = match self.join_recent(&token, &key, requirement).await? {
            Some(resolved) => resolved,
            None => self.validate_in_own_task(&token, &key).await?,
        };
        if !self.accepts(&resolved) {
            return Err(ValidationError::forbidden(ForbiddenReason::Other).into());
        }
        let resolved = requirement.check(resolved, self.wall())?;
        Ok(Accepted {
            token,
            resolved,
            rejected_tokens,
        })
    }

    /// Waits for one validation for all requests that wait, if its result is recent enough for this
    /// one.
    async fn join_recent(
        &self,
        token: &SessionToken,
        key: &CacheKey,
        requirement: &Requirement,
    ) -> Result<Option<Resolved>, Denied> {
        if requirement.is_fresh {
            return Ok(None);
        }
        let completions = self.cache().validations().in_flight.completions();
        let Lookup::Miss(ticket) = self.cache().store().take_ticket(key, None).await else {
            return Err(Denied::Revoked);
        };
        match self
            .join_validation(token, key, ticket, completions)
            .await?
        {
            WaitResult::Done(Ok(resolved)) => {
                let is_recent =
                    !resolved.is_stale && requirement.is_decided(&resolved.user, self.wall());
                Ok(is_recent.then_some(resolved))
            }
            WaitResult::Done(Err(denied)) => Err(denied),
            WaitResult::Retry | WaitResult::Abandoned => Ok(None),
        }
    }

    /// Validates a token for one request. A rejection applies even if the request is dropped.
    async fn validate_in_own_task(&self, token: &SessionToken, key: &CacheKey) -> Outcome {
        let Ok(runtime) = Handle::try_current() else {
            return unavailable("no Tokio runtime");
        };
        let (resolver, token, key) = (self.clone(), token.clone(), key.clone());
        let task = runtime.spawn(async move { resolver.validate_afresh(&token, &key).await });
        task.await
            .unwrap_or_else(|_| unavailable("the validation ended without a result"))
    }

    /// Validates a token, whatever is cached and whatever validation is in flight. If the provider
    /// rejects it, nothing that is cached for it is served any more, on no node: neither what was
    /// stored before nor what an earlier validation stores later.
    async fn validate_afresh(&self, token: &SessionToken, key: &CacheKey) -> Outcome {
        let (cache, store) = (self.cache(), self.cache().store());
        if cache.validations().is_closed() {
            return unavailable("the cache is closed");
        }
        store.record_lookup(LookupOutcome::Bypass);
        cache.start_delivery();
        let Lookup::Miss(ticket) = store.take_ticket(key, None).await else {
            return Err(Denied::Revoked);
        };
        let (leader, _) = cache.validations().in_flight.lead_detached();
        let leader = leader.close();
        let outcome = match self.validate(token, &ticket, false).await {
            (Ok(session), _) => {
                let filled = self.fill_or_revalidate(&leader, token, ticket, session, false);
                Box::pin(filled).await.0
            }
            (Err(error), shared) => {
                Box::pin(store.end_validation(&ticket, shared)).await;
                Err(error.into())
            }
        };
        if let Err(Denied::Validation(error)) = &outcome
            && error.is_rejection()
            && !error.is_own_rule()
        {
            // If Redis is unavailable, the revocation is queued, and applies on this node.
            let _ = cache.invalidate_token(token).await;
        }
        outcome
    }
}
