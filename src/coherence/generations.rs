//! Revocation by counting: why nothing that was looked up before a revocation survives it.
//!
//! A global sequence numbers the revocations of this process. Each revocation writes its number
//! into the stripe of its token or user. Whoever looks something up notes the sequence *first*;
//! what comes of that lookup is good only while its stripes hold no later number. Nothing has to
//! be found and evicted, so there is no moment between a check and an insert, no index of users,
//! and no list of revocations that could grow or forget. Two names that share a stripe cost a
//! validation, never a wrong answer.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use crate::protocol::{TokenDigest, stripe_of_hex};

/// 16,384 stripes of 8 bytes a kind: one in 16,384 sessions suffers from a stranger's logout.
const STRIPES: usize = 1 << 14;

/// What had been revoked when a lookup began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// Where a token's revocations are counted; kept with an entry, so that a hit need not know the
/// token's digest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenStripe(u32);

impl TokenStripe {
    pub(crate) fn of(token: &TokenDigest) -> Self {
        Self(token.stripe(STRIPES) as u32)
    }
}

/// Where a user's are; kept likewise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserStripe(u32);

pub(crate) struct Generations {
    sequence: AtomicU64,
    tokens: Box<[AtomicU64]>,
    users: Box<[AtomicU64]>,
    any_user: AtomicU64,
    hasher: RandomState,
}

impl Generations {
    pub(crate) fn new() -> Self {
        let generations = || (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self {
            sequence: AtomicU64::new(0),
            tokens: generations(),
            users: generations(),
            any_user: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// To be called before anything is looked up or validated.
    pub(crate) fn current(&self) -> Generation {
        Generation(self.sequence.load(SeqCst))
    }

    pub(crate) fn user(&self, id: &str) -> UserStripe {
        // Keyed, so that nobody picks ids that share a stripe with a victim's.
        UserStripe((self.hasher.hash_one(id) % STRIPES as u64) as u32)
    }

    pub(crate) fn revoke_token(&self, token: &TokenDigest) {
        self.advance(self.token(TokenStripe::of(token)));
    }

    /// The same for who knows the token's name in Redis; what is no such name is nobody's.
    pub(crate) fn revoke_token_named(&self, hex: &[u8]) {
        if let Some(stripe) = stripe_of_hex(hex, STRIPES) {
            self.advance(&self.tokens[stripe]);
        }
    }

    pub(crate) fn revoke_user(&self, id: &str) {
        self.advance(&self.users[self.user(id).0 as usize]);
        self.advance(&self.any_user);
    }

    /// The same for who knows only the token: whether it, or any user at all, was revoked.
    pub(crate) fn is_current_for_all_users(&self, seen: Generation, token: &TokenDigest) -> bool {
        self.token(TokenStripe::of(token)).load(SeqCst) <= seen.0
            && self.any_user.load(SeqCst) <= seen.0
    }

    /// Whether neither token nor user was revoked since `seen`.
    pub(crate) fn is_current(
        &self,
        seen: Generation,
        token: TokenStripe,
        user: UserStripe,
    ) -> bool {
        // No stripe is ever above the sequence, so where that has not moved, none of them has, and
        // it is told without looking at two cold places.
        self.current() == seen
            || (self.token(token).load(SeqCst) <= seen.0
                && self.users[user.0 as usize].load(SeqCst) <= seen.0)
    }

    fn token(&self, stripe: TokenStripe) -> &AtomicU64 {
        &self.tokens[stripe.0 as usize]
    }

    /// The sequence first, so that no stripe is ever above it. A lookup between the two steps sees
    /// the new number but not yet its stripe. That is sound: it began after the revocation did, so
    /// its validation knows what the provider revoked.
    fn advance(&self, stripe: &AtomicU64) {
        let number = self.sequence.fetch_add(1, SeqCst) + 1;
        stripe.fetch_max(number, SeqCst);
    }
}
