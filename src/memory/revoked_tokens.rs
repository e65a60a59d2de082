//! Tokens that are rejected whatever the identity provider replies, until their sessions have
//! certainly ended.

use std::collections::{HashMap, VecDeque};

use crate::protocol::TokenDigest;

/// Bounded list of revoked tokens. The oldest is evicted first. All entries last equally long, so
/// the oldest also expires first.
pub(crate) struct RevokedTokens {
    until: HashMap<TokenDigest, u64>,
    order: VecDeque<(TokenDigest, u64)>,
    capacity: usize,
}

impl RevokedTokens {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            until: HashMap::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    /// Remembers a revoked token. Returns whether an unexpired entry was evicted for it.
    pub(crate) fn insert(&mut self, token: TokenDigest, until: u64, now: u64) -> bool {
        self.until.insert(token, until);
        self.order.push_back((token, until));
        let mut forgot = false;
        while let Some((oldest, ends)) = self.order.front().copied() {
            // A token that was revoked twice is in the queue twice, and only its last entry counts.
            let superseded = self.until.get(&oldest) != Some(&ends);
            let full = self.order.len() > self.capacity;
            if !(superseded || ends <= now || full) {
                break;
            }
            self.order.pop_front();
            if !superseded {
                self.until.remove(&oldest);
                forgot |= ends > now;
            }
        }
        forgot
    }

    pub(crate) fn contains(&self, token: &TokenDigest, now: u64) -> bool {
        self.until.get(token).is_some_and(|until| now < *until)
    }

    pub(crate) fn len(&self) -> usize {
        self.until.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SessionToken;

    fn key(n: usize) -> TokenDigest {
        TokenDigest::plain(&SessionToken::parse(format!("token-{n}")).unwrap())
    }

    #[test]
    fn token_is_revoked_until_its_end_and_no_longer() {
        let mut tokens = RevokedTokens::new(2);
        assert!(!tokens.insert(key(1), 10, 0));
        assert!(tokens.contains(&key(1), 9));
        assert!(!tokens.contains(&key(1), 10));
        assert!(!tokens.contains(&key(2), 0));
    }

    #[test]
    fn full_list_evicts_the_oldest_token_and_reports_it() {
        let mut tokens = RevokedTokens::new(2);
        assert!(!tokens.insert(key(1), 10, 0));
        assert!(!tokens.insert(key(2), 11, 1));
        assert!(tokens.insert(key(3), 12, 2));
        assert!(!tokens.contains(&key(1), 3));
        assert!(tokens.contains(&key(2), 3) && tokens.contains(&key(3), 3));
        assert!(!tokens.insert(key(4), 30, 20), "the others have ended");
        assert_eq!(tokens.len(), 1);
    }

    #[test]
    fn reinserting_a_token_extends_its_only_entry() {
        let mut tokens = RevokedTokens::new(2);
        for now in 0..100 {
            assert!(!tokens.insert(key(1), now + 50, now));
            assert_eq!(tokens.len(), 1);
            assert!(tokens.order.len() <= 2);
        }
        assert!(tokens.contains(&key(1), 148));
    }
}
