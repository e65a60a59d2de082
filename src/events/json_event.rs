//! A JSON body, and the closure that maps it to users.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::revoked::Revoked;

pub(crate) struct JsonEvent {
    pub(super) name: &'static str,
    map: Box<dyn Fn(&Value) -> Revoked + Send + Sync>,
}

impl JsonEvent {
    pub(crate) fn new<F>(name: &'static str, map: F) -> Self
    where
        F: Fn(&Value) -> Revoked + Send + Sync + 'static,
    {
        Self {
            name,
            map: Box::new(map),
        }
    }

    /// Maps an authentic body. To refuse one that is not JSON would make the sender repeat it.
    pub(crate) fn read(&self, body: &[u8]) -> Revoked {
        let Ok(event) = serde_json::from_slice(body) else {
            return Revoked::unmapped();
        };
        let mut revoked = (self.map)(&event);
        revoked.occurred_at = revoked.occurred_at.or_else(|| timestamp(&event));
        revoked
    }
}

/// The time of an event in the form of Standard Webhooks.
fn timestamp(event: &Value) -> Option<DateTime<Utc>> {
    let text = event.get("timestamp")?.as_str()?;
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.to_utc())
}
