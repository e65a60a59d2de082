//! Lifetime of a cached session, and when a session in use is validated again before it expires.
//!
//! Sessions that were cached together, as after a deployment, must not all expire together. Each
//! gets up to 10 % less than the TTL. How much less is derived from its token and the time at which
//! it was looked up, so that every node that reads the record computes the same lifetime.
//!
//! The identity provider may still reply as before when a token is validated after a revocation. So
//! trust in the result grows with the time between the revocation and the validation: the result is
//! used for that long. This is a function of two times that a record holds already, so it needs no
//! timer and survives a crash.

use super::key::TokenDigest;

/// The TTL is reduced by at most one part in this many.
const JITTER_DIVISOR: u64 = 10;

/// Shortest trust in a result, in microseconds, however soon after a revocation the validation began.
const MIN_TRUST: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct LifetimePolicy {
    ttl: u64,
    /// Percentage of the lifetime after which a session in use is validated again. 100 means never.
    refresh_percent: u64,
    /// How long after a revocation trust is limited, in microseconds. 0 means never.
    provider_lag: u64,
}

impl LifetimePolicy {
    /// Creates a policy for this TTL and this lag of the identity provider, in microseconds.
    pub(crate) fn new(ttl: u64, refresh_percent: u8, provider_lag: u64) -> Self {
        Self {
            ttl,
            refresh_percent: refresh_percent.into(),
            provider_lag,
        }
    }

    pub(crate) fn ttl(&self) -> u64 {
        self.ttl
    }

    /// Returns for how many microseconds the result of a validation is trusted that began `distance`
    /// after the last revocation, counted from its start. Returns `None` if only the TTL limits it.
    pub(crate) fn trust(&self, distance: u64) -> Option<u64> {
        (distance < self.provider_lag).then(|| distance.max(MIN_TRUST))
    }

    /// Returns for how many microseconds a session is served that was looked up at `since` and
    /// expires after `left`.
    pub(crate) fn life(&self, token: &TokenDigest, since: i64, left: Option<i64>) -> u64 {
        // Take 16 bits of it as a fraction.
        let part = token.jitter(since.unsigned_abs()) >> 48;
        let shorter = (self.ttl / JITTER_DIVISOR).saturating_mul(part) >> 16;
        let life = self.ttl - shorter;
        left.map_or(life, |left| {
            life.min(u64::try_from(left).unwrap_or_default())
        })
    }

    /// Returns how much of a lifetime passes before the session is validated again, or `None` for
    /// never.
    pub(crate) fn refresh_after(&self, life: u64) -> Option<u64> {
        (self.refresh_percent < 100).then(|| (life / 100).saturating_mul(self.refresh_percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SessionToken;

    fn token(n: usize) -> TokenDigest {
        TokenDigest::plain(&SessionToken::parse(format!("token-{n}")).unwrap())
    }

    #[test]
    fn lifetime_jitter_only_shortens_by_up_to_a_tenth() {
        let lifetimes = LifetimePolicy::new(300_000_000, 80, 0);
        let lives: Vec<_> = (0..1_000)
            .map(|n| lifetimes.life(&token(n), 1_732_444_800_000_000, None))
            .collect();
        assert!(
            lives
                .iter()
                .all(|life| (270_000_000..=300_000_000).contains(life))
        );
        let early = lives.iter().filter(|life| **life < 285_000_000).count();
        assert!((400..600).contains(&early), "{early}");
        let again = lifetimes.life(&token(0), 1_732_444_800_000_000, None);
        assert_eq!(again, lives[0], "the same on every node");
        let later = (0..100).map(|n| lifetimes.life(&token(0), n, None));
        assert!(later.collect::<std::collections::HashSet<_>>().len() > 90);
    }

    #[test]
    fn lifetime_ends_with_its_session() {
        let lifetimes = LifetimePolicy::new(300_000_000, 80, 0);
        assert_eq!(lifetimes.life(&token(0), 0, Some(5)), 5);
        assert_eq!(lifetimes.life(&token(0), 0, Some(-5)), 0);
        let unbounded = lifetimes.life(&token(0), 0, None);
        assert_eq!(lifetimes.life(&token(0), 0, Some(i64::MAX)), unbounded);
    }

    #[test]
    fn refresh_is_due_after_a_share_of_the_lifetime_or_never() {
        let ttl = 300_000_000;
        assert_eq!(
            LifetimePolicy::new(ttl, 80, 0).refresh_after(1_000),
            Some(800)
        );
        assert_eq!(LifetimePolicy::new(ttl, 100, 0).refresh_after(1_000), None);
    }

    /// With refresh-ahead at 80 %, as in the documentation of `provider_lag`.
    #[test]
    fn trust_grows_with_the_distance_from_the_revocation() {
        let ttl = 300_000_000;
        let lifetimes = LifetimePolicy::new(ttl, 80, ttl);
        for (distance, trust) in [
            (0, Some(MIN_TRUST)),
            (MIN_TRUST, Some(MIN_TRUST)),
            (MIN_TRUST + 1, Some(MIN_TRUST + 1)),
            (ttl - 1, Some(ttl - 1)),
            (ttl, None),
        ] {
            assert_eq!(lifetimes.trust(distance), trust);
        }
        assert_eq!(LifetimePolicy::new(ttl, 80, 0).trust(0), None);

        let (mut distance, mut validations) = (0, 1);
        while let Some(trust) = lifetimes.trust(distance) {
            distance += lifetimes.refresh_after(trust).unwrap();
            validations += 1;
        }
        assert_eq!(validations, 12);
    }
}
