//! How long a session stays cached, and when one that is in use is validated again ahead of that.
//!
//! Sessions that were cached together, as after a deployment, must not all expire together: each
//! gets a little less than the TTL. How much less follows from its token and the time at which it
//! was looked up, so that every node that meets the record knows its life without being told.

use super::key::TokenDigest;

/// At most one part in so many is taken off.
const JITTER_DIVISOR: u64 = 10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct LifetimePolicy {
    ttl: u64,
    /// The share of a life after which a session in use is validated again; 100 for never.
    refresh_percent: u64,
}

impl LifetimePolicy {
    /// The TTL in microseconds.
    pub(crate) fn new(ttl: u64, refresh_percent: u8) -> Self {
        Self {
            ttl,
            refresh_percent: refresh_percent.into(),
        }
    }

    /// For so many microseconds is a session served that was looked up at `since` and ends by
    /// itself after `left`.
    pub(crate) fn life(&self, token: &TokenDigest, since: i64, left: Option<i64>) -> u64 {
        // Sixteen bits of it, as a fraction.
        let part = token.jitter(since.unsigned_abs()) >> 48;
        let shorter = (self.ttl / JITTER_DIVISOR).saturating_mul(part) >> 16;
        let life = self.ttl - shorter;
        left.map_or(life, |left| {
            life.min(u64::try_from(left).unwrap_or_default())
        })
    }

    /// After so much of a life it is time to ask again.
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
    fn lives_differ_by_a_tenth_and_are_only_ever_shorter() {
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
    fn a_life_ends_with_its_session() {
        let lifetimes = LifetimePolicy::new(300_000_000, 80);
        assert_eq!(lifetimes.life(&token(0), 0, Some(5)), 5);
        assert_eq!(lifetimes.life(&token(0), 0, Some(-5)), 0);
        let unbounded = lifetimes.life(&token(0), 0, None);
        assert_eq!(lifetimes.life(&token(0), 0, Some(i64::MAX)), unbounded);
    }

    #[test]
    fn refreshing_is_a_share_of_the_life_or_never() {
        let ttl = 300_000_000;
        assert_eq!(LifetimePolicy::new(ttl, 80).refresh_after(1_000), Some(800));
        assert_eq!(LifetimePolicy::new(ttl, 100).refresh_after(1_000), None);
    }
}
