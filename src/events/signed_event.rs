//! Claims of an event that its issuer has signed, and the checks that all kinds of such events
//! share.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::refusal::{Refusal, RefusalKind};

/// How far the clock of an issuer may differ from the cache's clock.
pub(super) const LEEWAY: TimeDelta = TimeDelta::seconds(60);

/// The claims of an event whose signature is valid. Claims that nothing asks for are ignored.
pub(super) struct SignedEvent(Map<String, Value>);

impl SignedEvent {
    pub(super) fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Returns a claim that must be a text if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(invalid("a claim is not a text")),
        }
    }

    /// Returns a claim that must be a time if it is there.
    pub(super) fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Refusal> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        // A NumericDate may have a fraction (RFC 7519, section 2). The conversion saturates.
        let seconds = value.as_f64().map(|seconds| seconds as i64);
        let time = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        time.map(Some).ok_or(invalid("a claim is not a time"))
    }

    pub(super) fn check_issuer(&self, issuer: &str) -> Result<(), Refusal> {
        if self.text("iss")? == Some(issuer) {
            return Ok(());
        }
        let reason = "the event comes from another issuer";
        Err(Refusal::new(RefusalKind::InvalidIssuer, reason))
    }

    /// Checks that one of the audiences is that of the event.
    pub(super) fn check_audience(&self, audiences: &[String]) -> Result<(), Refusal> {
        let named = match self.0.get("aud") {
            Some(Value::Array(named)) => named.as_slice(),
            Some(named) => std::slice::from_ref(named),
            None => &[],
        };
        let mut named = named.iter().filter_map(Value::as_str);
        if named.any(|named| audiences.iter().any(|audience| audience == named)) {
            return Ok(());
        }
        let reason = "the event is for another audience";
        Err(Refusal::new(RefusalKind::InvalidAudience, reason))
    }

    /// Returns when the event was issued, which must not be in the future.
    pub(super) fn issued_at(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refusal> {
        let issued_at = self
            .time("iat")?
            .ok_or(invalid("the claim iat is missing"))?;
        if issued_at > now + LEEWAY {
            return Err(outside("the event is from the future"));
        }
        Ok(issued_at)
    }

    /// Returns the ID of the event.
    pub(super) fn id(&self) -> Result<&str, Refusal> {
        self.text("jti")?.ok_or(invalid("the claim jti is missing"))
    }

    /// Returns the events, by type.
    pub(super) fn events(&self) -> Result<&Map<String, Value>, Refusal> {
        let events = self.0.get("events").and_then(Value::as_object);
        events.ok_or(invalid("the claim events is missing"))
    }
}

pub(super) const fn invalid(reason: &'static str) -> Refusal {
    Refusal::new(RefusalKind::InvalidRequest, reason)
}

pub(super) const fn outside(reason: &'static str) -> Refusal {
    Refusal::new(RefusalKind::OutsideTolerance, reason)
}
