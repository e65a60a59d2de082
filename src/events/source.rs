//! The trait of everything that reads pushed events.

use std::future::Future;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Response, request::Parts};

use super::{outcome::EventOutcome, refusal::Refusal, revoked::Revoked};

/// Reads the events of one sender, such as an identity provider's webhook.
///
/// # Security
///
/// [`read`](Self::read) must check that the request is authentic, in constant time, before it
/// parses the body. An event that is forged nevertheless admits no request: it costs validations of
/// the user's sessions.
///
/// ```
/// use chrono::{DateTime, Utc};
/// use http::request::Parts;
/// use tower_session_cache::{Refusal, RefusalKind, RevocationSource, Revoked};
///
/// /// A service on the loopback interface, whose body is the ID of a user.
/// struct Accounts;
///
/// impl RevocationSource for Accounts {
///     fn name(&self) -> &'static str {
///         "accounts"
///     }
///
///     async fn read(&self, _: &Parts, body: &[u8], _: DateTime<Utc>) -> Result<Revoked, Refusal> {
///         let id = std::str::from_utf8(body).map_err(|_| {
///             Refusal::new(RefusalKind::InvalidRequest, "the body is not text")
///         })?;
///         Ok(Revoked::user(id))
///     }
/// }
/// ```
pub trait RevocationSource: Send + Sync + 'static {
    /// Returns the value of the label `source` in metrics and log lines.
    fn name(&self) -> &'static str;

    /// Checks that a request is authentic, and reads what it concerns. `now` is the time by the
    /// cache's clock.
    ///
    /// # Errors
    ///
    /// Returns a [`Refusal`] if the request is not authentic, or if this cannot be decided now.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped if it takes longer than 5 seconds. The sender is then answered as for
    /// [`RefusalKind::Unavailable`](super::RefusalKind::Unavailable).
    fn read(
        &self,
        head: &Parts,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Revoked, Refusal>> + Send;

    /// Returns the answer to the sender. Defaults to [`EventOutcome::answer`], for a sender that
    /// repeats an event until it is answered with 2xx.
    fn answer(&self, outcome: &EventOutcome) -> Response<Bytes> {
        outcome.answer()
    }
}
