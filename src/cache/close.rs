//! Graceful shutdown: what is queued for Redis is delivered before the process ends, because a
//! revocation that only this process knows would be lost.

use std::{error::Error as StdError, fmt, time::Duration};

use super::handle::SessionCache;

impl SessionCache {
    /// Starts no validation any more, and waits until Redis has all revocations, but no longer than
    /// the timeout. Then ends the invalidation listener. Call it after the server has finished its
    /// last request and before the process ends.
    ///
    /// Without queued revocations, and without Redis, it returns immediately. It applies to all
    /// clones of the cache. Afterwards a request whose session is not cached gets 503, and a
    /// revocation still works.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// # async fn serve(
    /// #     listener: tokio::net::TcpListener, app: axum::Router,
    /// #     cache: tower_session_cache::SessionCache,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let shutdown = async { drop(tokio::signal::ctrl_c().await) };
    /// axum::serve(listener, app).with_graceful_shutdown(shutdown).await?;
    /// cache.close(Duration::from_secs(10)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`CloseError`] if revocations are left. The process may call this method again to
    /// wait for longer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the wait. The delivery continues in its own task.
    pub async fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        self.validations().close();
        let queue = &self.store().queue;
        self.start_delivery();
        if queue.undelivered() > 0 && tokio::runtime::Handle::try_current().is_ok() {
            let _ = tokio::time::timeout(timeout, queue.drained()).await;
        }
        if let Some(redis) = &self.store().redis {
            redis.close();
        }
        match queue.undelivered() {
            0 => Ok(()),
            undelivered => Err(CloseError { undelivered }),
        }
    }
}

/// Revocations that Redis did not have when the timeout of [`SessionCache::close`] elapsed. If the
/// process ends now, they are lost, and other nodes serve what they revoke until its TTL has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseError {
    undelivered: u64,
}

impl CloseError {
    /// Returns the number of these revocations.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.undelivered
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "revocations that Redis does not have: {}; make Redis available and call `close` again \
             before the process ends",
            self.undelivered
        )
    }
}

impl StdError for CloseError {}
