//! What a route requires of a session beyond being valid: that it was validated, or that its user
//! authenticated, recently enough or in a certain way ([RFC 9470]).
//!
//! [RFC 9470]: https://www.rfc-editor.org/rfc/rfc9470

use std::{sync::Arc, time::Duration};

use crate::{
    cache::{Denied, Resolved},
    model::SharedUser,
};

/// A session that does not meet a requirement of its authentication is validated again before it is
/// rejected, unless it was validated within this time: the user may have authenticated meanwhile.
const RECHECK_AFTER: Duration = Duration::from_secs(5);

/// A time that is further in the future is no time at which a user can have authenticated.
const MAX_CLOCK_DIFFERENCE: i64 = 60;

#[derive(Clone, Debug, Default)]
pub(crate) struct Requirement {
    /// Whether every request is validated, whatever is cached.
    pub(crate) is_fresh: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_authentication_age: Option<Duration>,
    /// Empty if any is accepted.
    pub(crate) acr: Vec<String>,
}

impl Requirement {
    /// Whether a session from the cache meets it. `now` is in microseconds since 1970.
    pub(crate) fn is_met_from_cache(&self, user: &SharedUser, now: i64) -> bool {
        !self.is_fresh && self.is_recent(user, now) && self.is_authenticated(user, now)
    }

    /// Whether a session need not be validated again for this requirement, even if its user did not
    /// authenticate as required.
    pub(super) fn is_decided(&self, user: &SharedUser, now: i64) -> bool {
        !self.is_fresh
            && self.is_recent(user, now)
            && (self.is_authenticated(user, now) || within(user, now, RECHECK_AFTER))
    }

    pub(super) fn is_recent(&self, user: &SharedUser, now: i64) -> bool {
        self.max_age.is_none_or(|most| within(user, now, most))
    }

    fn is_authenticated(&self, user: &SharedUser, now: i64) -> bool {
        let now = now.div_euclid(1_000_000);
        let is_recent = |most: Duration| {
            user.times().authenticated_at.is_some_and(|at| {
                let age = now.saturating_sub(at);
                let most = i64::try_from(most.as_secs()).unwrap_or(i64::MAX);
                (-MAX_CLOCK_DIFFERENCE..=most).contains(&age)
            })
        };
        let is_accepted = |acr| self.acr.iter().any(|accepted| accepted == acr);
        self.max_authentication_age.is_none_or(is_recent)
            && (self.acr.is_empty() || user.acr().is_some_and(is_accepted))
    }

    /// Returns the denial of a session whose user did not authenticate as required.
    pub(super) fn check(&self, resolved: Resolved, now: i64) -> Result<Resolved, Denied> {
        if self.is_authenticated(&resolved.user, now) {
            return Ok(resolved);
        }
        Err(Denied::InsufficientAuthentication(self.challenge()))
    }

    /// Returns the parameters of the challenge (RFC 9470, section 3).
    fn challenge(&self) -> Arc<str> {
        let mut parameters = Vec::new();
        if let Some(most) = self.max_authentication_age {
            parameters.push(format!(r#"max_age="{}""#, most.as_secs()));
        }
        // Nothing else may be in a quoted text of a header, or in a list of words.
        let is_word = |acr: &&str| {
            let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            acr.bytes().all(is_allowed)
        };
        let acr: Vec<_> = self
            .acr
            .iter()
            .map(String::as_str)
            .filter(is_word)
            .collect();
        if !acr.is_empty() {
            parameters.push(format!(r#"acr_values="{}""#, acr.join(" ")));
        }
        parameters.join(", ").into()
    }
}

/// Whether a session was validated within this time.
fn within(user: &SharedUser, now: i64, most: Duration) -> bool {
    let age = now.saturating_sub(user.times().validated_at);
    u128::try_from(age).unwrap_or_default() <= most.as_micros()
}
