//! Generation counters that detect revocations. Nothing that was looked up before a revocation
//! survives it.
//!
//! A global sequence numbers the revocations of this process. Each revocation writes its number
//! into the stripe of its token or user. A lookup reads the sequence *first*, and its result is
//! valid only while its stripes hold no later number. No entry has to be found and evicted, so
//! there is no moment between a check and an insert, no index of users, and no list of revocations
//! that could grow or lose entries. If two names share a stripe, the cost is a validation, never a
//! wrong result.
//!
//! A number is also the time of its revocation, in microseconds by the clock of this process. Two
//! revocations within a microsecond get numbers that follow each other.

use std::{
    future::{Future, poll_fn},
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    task::Poll,
};

use tokio::sync::Notify;

use crate::{
    protocol::{IdentityDigest, TokenDigest, stripe_of_hex},
    time::Clock,
};

/// 16,384 stripes of 8 bytes for each kind. A logout also affects one in 16,384 unrelated sessions.
const STRIPES: usize = 1 << 14;

/// Number of groups of stripes. What waits for a revocation is woken by those of its groups.
const WATCHERS: usize = 1 << 10;

/// Number of the last revocation when a lookup began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// Stripe in which the revocations of a token are counted. An entry stores it, so that a hit does
/// not need the digest of the token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenStripe(u32);

impl TokenStripe {
    pub(crate) fn of(token: &TokenDigest) -> Self {
        Self(token.stripe(STRIPES) as u32)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the stripe of the token that has this name in Redis, or `None` if this is not the name
    /// of a token.
    pub(super) fn of_name(hex: &[u8]) -> Option<Self> {
        stripe_of_hex(hex, STRIPES).map(|stripe| Self(stripe as u32))
    }

    /// Returns the stripe of a session. Sessions share the stripes of tokens, since both are rarely
    /// revoked.
    pub(crate) fn of_session(session: &IdentityDigest) -> Self {
        Self(session.stripe(STRIPES) as u32)
    }
}

/// Stripe in which the revocations of a user are counted. An entry stores it as well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserStripe(u32);

/// Stripes in which everything is counted that ends a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stripes {
    pub(crate) token: TokenStripe,
    /// Equal to `token` for a session without an ID.
    pub(crate) session: TokenStripe,
    pub(crate) user: UserStripe,
}

pub(crate) struct Generations {
    sequence: AtomicU64,
    tokens: Box<[AtomicU64]>,
    users: Box<[AtomicU64]>,
    any_user: AtomicU64,
    /// Open connections that wait for the end of their session.
    watchers: Box<[Notify]>,
    hasher: RandomState,
    clock: Clock,
}

fn watchers() -> Box<[Notify]> {
    (0..WATCHERS).map(|_| Notify::new()).collect()
}

impl Generations {
    pub(crate) fn new(clock: Clock) -> Self {
        let generations = || (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self {
            sequence: AtomicU64::new(0),
            tokens: generations(),
            users: generations(),
            any_user: AtomicU64::new(0),
            watchers: watchers(),
            hasher: RandomState::new(),
            clock,
        }
    }

    /// Returns a copy as of now.
    pub(super) fn snapshot(&self) -> Self {
        let copy = |stripes: &[AtomicU64]| {
            let numbers = stripes.iter().map(|stripe| stripe.load(SeqCst));
            numbers.map(AtomicU64::new).collect()
        };
        let (tokens, users) = (copy(&self.tokens), copy(&self.users));
        let any_user = AtomicU64::new(self.any_user.load(SeqCst));
        Self {
            // Read the sequence last, so that no stripe is above it.
            sequence: AtomicU64::new(self.sequence.load(SeqCst)),
            tokens,
            users,
            any_user,
            watchers: watchers(),
            hasher: self.hasher.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Must be called before anything is looked up or validated.
    pub(crate) fn current(&self) -> Generation {
        Generation(self.sequence.load(SeqCst))
    }

    pub(crate) fn user(&self, id: &str) -> UserStripe {
        // The hash is keyed, so that an attacker cannot choose IDs that share a stripe with a
        // victim's.
        UserStripe((self.hasher.hash_one(id) % STRIPES as u64) as u32)
    }

    pub(crate) fn revoke_token(&self, token: &TokenDigest) {
        self.advance_token(TokenStripe::of(token).0 as usize);
    }

    /// Revokes a token by its name in Redis. Ignores anything that is not the name of a token.
    /// Returns its stripe.
    pub(crate) fn revoke_token_named(&self, hex: &[u8]) -> Option<TokenStripe> {
        let stripe = TokenStripe(stripe_of_hex(hex, STRIPES)? as u32);
        self.advance_token(stripe.0 as usize);
        Some(stripe)
    }

    /// Returns the number of the last change in a stripe.
    pub(crate) fn pushes(&self, stripe: TokenStripe) -> u64 {
        self.token(stripe).load(SeqCst)
    }

    pub(crate) fn revoke_session(&self, session: &IdentityDigest) {
        self.advance(&self.any_user);
        self.advance_token(TokenStripe::of_session(session).0 as usize);
    }

    pub(crate) fn revoke_user(&self, id: &str) {
        let stripe = self.user(id).0 as usize;
        self.advance(&self.any_user);
        self.advance(&self.users[stripe]);
        self.wake(stripe);
    }

    /// Whether neither the token nor any user at all was revoked since `seen`. For callers that do
    /// not know the user.
    pub(crate) fn is_current_for_all_users(&self, seen: Generation, token: &TokenDigest) -> bool {
        self.token(TokenStripe::of(token)).load(SeqCst) <= seen.0
            && self.any_user.load(SeqCst) <= seen.0
    }

    /// Whether any user was revoked since this time of the clock of this process.
    pub(crate) fn is_any_user_revoked_since(&self, time: u64) -> bool {
        self.any_user.load(SeqCst) >= time.max(1)
    }

    /// Whether nothing at all was revoked since `seen`.
    pub(crate) fn is_latest(&self, seen: Generation) -> bool {
        self.current() == seen
    }

    /// Whether neither token, session nor user was revoked since `seen`.
    pub(crate) fn is_current(&self, seen: Generation, stripes: Stripes) -> bool {
        let Stripes {
            token,
            session,
            user,
        } = stripes;
        // No stripe is ever above the sequence. So if the sequence is still `seen`, no stripe is
        // above `seen` either, and reads of memory that is rarely in the CPU cache are saved.
        self.is_latest(seen)
            || (self.token(token).load(SeqCst) <= seen.0
                && self.token(session).load(SeqCst) <= seen.0
                && self.users[user.0 as usize].load(SeqCst) <= seen.0)
    }

    /// Returns the time of the last revocation of the token, the session or the user, by the clock of
    /// this process.
    pub(crate) fn last_revocation(&self, stripes: Stripes) -> Option<u64> {
        let Stripes {
            token,
            session,
            user,
        } = stripes;
        let token = self.token(token).load(SeqCst);
        let session = self.token(session).load(SeqCst);
        let user = self.users[user.0 as usize].load(SeqCst);
        let last = token.max(session).max(user);
        (last > 0).then_some(last)
    }

    fn token(&self, stripe: TokenStripe) -> &AtomicU64 {
        &self.tokens[stripe.0 as usize]
    }

    /// Waits until the token, the session or the user may have been revoked after `seen` was read.
    pub(crate) async fn changed(&self, seen: Generation, stripes: Stripes) {
        let Stripes {
            token,
            session,
            user,
        } = stripes;
        let notified = |stripe: u32| self.watchers[stripe as usize % WATCHERS].notified();
        loop {
            let mut token = pin!(notified(token.0));
            let mut session = pin!(notified(session.0));
            let mut user = pin!(notified(user.0));
            // Register first, so that a revocation after the comparison is not missed.
            for notified in [&mut token, &mut session, &mut user] {
                notified.as_mut().enable();
            }
            if !self.is_current(seen, stripes) {
                return;
            }
            poll_fn(|cx| {
                let mut all = [&mut token, &mut session, &mut user].into_iter();
                match all.any(|notified| notified.as_mut().poll(cx).is_ready()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
    }

    fn advance_token(&self, stripe: usize) {
        self.advance(&self.tokens[stripe]);
        self.wake(stripe);
    }

    /// Wakes what waits for a revocation in this stripe, and about one thousandth of the rest.
    fn wake(&self, stripe: usize) {
        self.watchers[stripe % WATCHERS].notify_waiters();
    }

    /// Advances the sequence first, so that no stripe is ever above it. A lookup between the two
    /// steps sees the new number but not yet its stripe. This is sound: the lookup began after the
    /// revocation did, so its validation knows what the provider revoked.
    fn advance(&self, stripe: &AtomicU64) {
        self.sequence.fetch_max(self.clock.elapsed(), SeqCst);
        let number = self.sequence.fetch_add(1, SeqCst) + 1;
        stripe.fetch_max(number, SeqCst);
    }
}
