//! Lifetime of a cached session, and when a session in use is validated again before it expires.
//!
//! Sessions that were cached together, as after a deployment, must not all expire together. Each
//! gets up to 10 % less than the TTL. How much less is derived from its token and the time at which
//! it was looked up, so that every node that reads the record computes the same lifetime.

use super::key::TokenDigest;

/// The TTL is reduced by at most one part in this many.
const JITTER_DIVISOR: u64 = 10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct LifetimePolicy {
    ttl: u64,
    /// Percentage of the lifetime after which a session in use is validated again. 100 means never.
    refresh_percent: u64,
}

impl LifetimePolicy {
    /// Creates a policy for this TTL in microseconds.
    pub(crate) fn new(ttl: u64, refresh_percent: u8) -> Self {
        Self {
            ttl,
            refresh_percent: refresh_percent.into(),
        }
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
        let lifetimes = LifetimePolicy::new(300_000_000, 80);
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
        let lifetimes = LifetimePolicy::new(300_000_000, 80);
        assert_eq!(lifetimes.life(&token(0), 0, Some(5)), 5);
        assert_eq!(lifetimes.life(&token(0), 0, Some(-5)), 0);
        let unbounded = lifetimes.life(&token(0), 0, None);
        assert_eq!(lifetimes.life(&token(0), 0, Some(i64::MAX)), unbounded);
    }

    #[test]
    fn refresh_is_due_after_a_share_of_the_lifetime_or_never() {
        let ttl = 300_000_000;
        assert_eq!(LifetimePolicy::new(ttl, 80).refresh_after(1_000), Some(800));
        assert_eq!(LifetimePolicy::new(ttl, 100).refresh_after(1_000), None);
    }
}
