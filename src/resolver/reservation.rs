//! Validation once for all nodes: which validations this node reserves, and how it waits for one that
//! another node has reserved.
//!
//! A reservation proves nothing. A node that waits looks the token up again and decides by the same
//! rules as always, and after a bounded time it validates the token itself.

use std::time::Duration;

use tokio::time::Instant;

use super::resolve::Resolver;
use crate::{
    cache::{Outcome, Ticket},
    protocol::CacheKey,
    sync::Backoff,
    telemetry::ReservationWaitOutcome,
    token::SessionToken,
    validator::SessionValidator,
};

/// First pause between two lookups while another node validates: half of the time that a validation
/// takes, if that is known. Where changed records are pushed, the push ends the pause, and only a
/// rejection or a lost push needs another lookup.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const FIRST_PAUSE_WITH_PUSH: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl<V: SessionValidator> Resolver<V> {
    /// Returns for how long the validation of a token is reserved for this node. Returns `None` if
    /// this node would not validate it, or no other node should wait for it.
    pub(super) fn reservation(&self, key: &CacheKey) -> Option<Duration> {
        let validations = self.cache().validations();
        let would_validate = self.store().is_delivered()
            && !validations.is_closed()
            && !validations.in_flight.is_full()
            && !self.client().monitor().is_down()
            && !self.store().has_negative(key, self.id());
        would_validate.then(|| self.times().reservation())
    }

    /// Waits for a validation that another node has reserved. Returns the outcome, or the ticket for
    /// a validation by this node.
    ///
    /// A reservation that ends without a result is taken by the first node that looks, and the others
    /// wait for that one. They wait for at most half of `validation_timeout`, which leaves enough time for
    /// a validation. A part of it is random, so that not all of them begin at the same moment.
    pub(super) async fn await_other_node(
        &self,
        token: &SessionToken,
        key: &CacheKey,
    ) -> Result<Outcome, Ticket> {
        let store = self.store();
        let waits = &store.metrics().reservation_waits;
        let most = self.cache().validations().timeout / 2;
        let ends = Instant::now() + most / 2 + Backoff::new(most / 2).pause(most / 2);
        let first = match (store.hears_records(), self.times().median()) {
            (true, _) => FIRST_PAUSE_WITH_PUSH,
            (false, Some(median)) => (median / 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            (false, None) => FIRST_PAUSE,
        };
        let mut backoff = Backoff::new(first);
        let mut seen = store.pushes(key);
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            store
                .pushed(key, seen, backoff.pause(LONGEST_PAUSE).min(left))
                .await;
            seen = store.pushes(key);
            match self.lookup(token, key).await {
                Ok(outcome) => {
                    waits.with(ReservationWaitOutcome::Shared).increment();
                    return Ok(outcome);
                }
                Err(ticket) if !ticket.is_reserved_elsewhere() || Instant::now() >= ends => {
                    waits.with(ReservationWaitOutcome::Lapsed).increment();
                    return Err(ticket);
                }
                Err(_) => {}
            }
        }
    }
}
