//! The tower service that receives pushed events.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::time::timeout;
use tower_service::Service;

#[cfg(feature = "oidc-events")]
use super::shared_signals::SharedSignals;
use super::{
    applied_events::AppliedEvents,
    body::EventResponseBody,
    monitor::Monitor,
    outcome::EventOutcome,
    refusal::{Refusal, RefusalKind},
    request_body::{BodyError, read_body},
    revoked::Revoked,
    source::RevocationSource,
};
use crate::{
    cache::{RevokeErrorKind, SessionCache},
    telemetry::EventStats,
};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a source may take to read a request.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many users of one event are invalidated at the same time.
const MAX_CONCURRENT_REVOCATIONS: usize = 64;

/// Service that receives the events of one sender and revokes what they concern.
///
/// Mount it outside of the [`SessionCacheLayer`](crate::SessionCacheLayer) and of CSRF protection,
/// because the sender has no session. It takes only `POST` requests, with a body of at most 256 KiB
/// that arrives within 5 seconds. Clones share everything.
///
/// If a sender signs its events, a request that is not authentic causes no I/O. It costs memory for
/// its body and the computation of a signature, so limit the requests in front of the receiver as
/// in front of any public route.
///
/// ```
/// use axum::{Router, routing::post_service};
/// use tower_session_cache::{AppwriteWebhook, RevocationReceiver, SessionCache};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = SessionCache::builder().build()?;
/// let webhook = AppwriteWebhook::new("https://api.example.com/hooks/appwrite", "signature key")?;
/// let events = RevocationReceiver::new(cache, webhook);
/// let app: Router = Router::new().route("/hooks/appwrite", post_service(events));
/// # let _ = app;
/// # Ok(()) }
/// ```
pub struct RevocationReceiver<S>(Arc<Inner<S>>);

struct Inner<S> {
    cache: SessionCache,
    source: S,
    applied: AppliedEvents,
    monitor: Monitor,
}

impl<S: RevocationSource> RevocationReceiver<S> {
    /// Creates a receiver that revokes in this cache. The namespace of the handle does not matter.
    #[must_use]
    pub fn new(cache: SessionCache, source: S) -> Self {
        let monitor = Monitor::new(source.name(), cache.store().clock().clone());
        Self(Arc::new(Inner {
            cache,
            source,
            applied: AppliedEvents::default(),
            monitor,
        }))
    }

    /// Returns what the receiver and its clones have done so far.
    #[must_use]
    pub fn stats(&self) -> EventStats {
        self.0.monitor.stats()
    }
}

#[cfg(feature = "oidc-events")]
impl RevocationReceiver<SharedSignals> {
    /// Reads and revokes what a token that was polled concerns.
    pub(super) async fn token(&self, token: &str) -> EventOutcome {
        let now = self.0.now();
        self.0.handle(self.0.source.token(token, now), now).await
    }
}

impl<S> Clone for RevocationReceiver<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: RevocationSource> fmt::Debug for RevocationReceiver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationReceiver")
            .field("source", &self.0.source.name())
            .finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for RevocationReceiver<S>
where
    S: RevocationSource,
    B: Body + Send + 'static,
    B::Data: Send,
{
    type Response = Response<EventResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { Ok(inner.respond(request).await.map(EventResponseBody::new)) })
    }
}

impl<S: RevocationSource> Inner<S> {
    async fn respond<B: Body>(self: &Arc<Self>, request: Request<B>) -> Response<Bytes> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            let method = Refusal::new(RefusalKind::InvalidRequest, "the method is not POST");
            self.monitor.finished(EventOutcome::Refused(method));
            return method_not_allowed();
        }
        let outcome = match timeout(BODY_TIMEOUT, read_body(body)).await {
            Ok(Ok(body)) => {
                let now = self.now();
                self.handle(self.source.read(&head, &body, now), now).await
            }
            Ok(Err(BodyError::TooLarge)) => self.finish(EventOutcome::TooLarge),
            Ok(Err(BodyError::Failed)) => {
                let reason = "the body could not be read";
                self.refuse(RefusalKind::InvalidRequest, reason)
            }
            Err(_) => self.finish(EventOutcome::TooSlow),
        };
        self.source.answer(&outcome)
    }

    fn now(&self) -> DateTime<Utc> {
        let now = self.cache.store().clock().wall();
        DateTime::from_timestamp_micros(now).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// Awaits what an event concerns, and revokes it.
    async fn handle(
        self: &Arc<Self>,
        read: impl Future<Output = Result<Revoked, Refusal>>,
        now: DateTime<Utc>,
    ) -> EventOutcome {
        match timeout(SOURCE_TIMEOUT, read).await {
            Ok(Ok(revoked)) => self.revoke(revoked, now).await,
            Ok(Err(refusal)) => self.finish(EventOutcome::Refused(refusal)),
            Err(_) => {
                let reason = "the source did not read the event in time";
                self.refuse(RefusalKind::Unavailable, reason)
            }
        }
    }

    async fn revoke(self: &Arc<Self>, revoked: Revoked, now: DateTime<Utc>) -> EventOutcome {
        self.monitor.event_arrived(revoked.occurred_at, now);
        if let Some(key) = &revoked.key
            && self
                .applied
                .contains(key, self.cache.store().clock().elapsed())
        {
            self.monitor.duplicate();
            return EventOutcome::Applied;
        }
        if revoked.users.is_empty() && revoked.sessions.is_empty() {
            return self.finish(if revoked.is_unmapped {
                EventOutcome::Unmapped
            } else {
                EventOutcome::Ignored
            });
        }
        // A sender may close the connection at any time. The task revokes for all users
        // nevertheless.
        let inner = Arc::clone(self);
        match tokio::spawn(async move { inner.apply(revoked).await }).await {
            Ok(outcome) => self.finish(outcome),
            Err(_) => self.refuse(RefusalKind::Unavailable, "the process is shutting down"),
        }
    }

    /// Revokes, and remembers the event only if all of it is in Redis.
    async fn apply(&self, revoked: Revoked) -> EventOutcome {
        let Revoked {
            users,
            sessions,
            key,
            ..
        } = revoked;
        // The sessions that have ended come first: a request in between would be served with them.
        let mut revocations: Vec<_> = stream::iter(sessions)
            .map(|(authority, id)| async move { self.cache.end_session(&authority, &id).await })
            .buffer_unordered(MAX_CONCURRENT_REVOCATIONS)
            .collect()
            .await;
        revocations.extend(
            stream::iter(users)
                .map(|id| async move { self.cache.invalidate_user(&id).await })
                .buffer_unordered(MAX_CONCURRENT_REVOCATIONS)
                .collect::<Vec<_>>()
                .await,
        );
        let failures: Vec<_> = revocations
            .into_iter()
            .filter_map(|revocation| revocation.err().map(|error| error.kind()))
            .collect();
        if failures.contains(&RevokeErrorKind::QueueFull) {
            return EventOutcome::QueueFull;
        }
        if !failures.is_empty() {
            return EventOutcome::Queued;
        }
        if let Some(key) = key {
            let now = self.cache.store().clock().elapsed();
            self.applied.insert(key, now);
        }
        EventOutcome::Applied
    }

    fn refuse(&self, kind: RefusalKind, reason: &'static str) -> EventOutcome {
        self.finish(EventOutcome::Refused(Refusal::new(kind, reason)))
    }

    fn finish(&self, outcome: EventOutcome) -> EventOutcome {
        self.monitor.finished(outcome);
        outcome
    }
}

fn method_not_allowed() -> Response<Bytes> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let post = HeaderValue::from_static("POST");
    response.headers_mut().insert(header::ALLOW, post);
    response
}
