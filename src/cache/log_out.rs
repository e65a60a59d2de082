//! Revocations of a login and of a person, as opposed to those of a token: logout, end of a session
//! by its ID, ban, and what takes a revocation back.

use std::time::Duration;

use super::{
    handle::SessionCache,
    revocation_queue::RevocationRequest,
    revoke::{Revocation, RevokeError},
};
use crate::{
    model::{Authority, SessionInfo, UserData},
    protocol::{IdentityDigest, TombstoneKind},
    time::wall_micros,
    token::SessionToken,
};

/// How much longer than the session itself a revocation is remembered, since the clock of the
/// provider may be behind.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);

impl SessionCache {
    /// Logs a user out of one session. Revokes the token, and ends the session that it belongs to:
    /// every other token of the same [session ID](SessionInfo::session_id) and authority is rejected
    /// as well, in every namespace and on every node, also one that is issued later. If the session
    /// ID is unknown, every other token of the user is validated again.
    ///
    /// End the session at the provider first. Some providers still accept its tokens afterwards, as
    /// Ory Hydra does, or for a moment, as Keycloak does. They are rejected here nevertheless.
    ///
    /// The revocation is remembered for
    /// [`max_session_lifetime`](crate::SessionCacheBuilder::max_session_lifetime), because a provider
    /// may prolong a session; a token whose end cannot change is remembered until then. Use
    /// [`log_out_confirmed`](Self::log_out_confirmed) if the provider has confirmed the logout.
    ///
    /// # Cost
    ///
    /// Validations of each other session of the user, at growing intervals
    /// ([`provider_lag`](crate::SessionCacheBuilder::provider_lag)).
    ///
    /// # Errors
    ///
    /// Returns a [`RevokeError`] if Redis is unavailable. The logout then applies on this node only.
    /// Returns one of kind [`NotASession`](crate::RevokeErrorKind::NotASession), and revokes nothing,
    /// if the token is a [key](crate::SessionValidator::keys).
    ///
    /// # Cancel safety
    ///
    /// The logout runs in its own task. Dropping the future after the first poll does not cancel it.
    pub async fn log_out(&self, session: &SessionInfo) -> Result<Revocation, RevokeError> {
        self.store.revoke(self.logout_of(session, false)?).await
    }

    /// Does the same as [`log_out`](Self::log_out) after the provider has confirmed that it ended
    /// the session. So nothing can prolong it, and the revocation is remembered only until
    /// [`SessionInfo::expires_at`] and one minute more, at least one hour. That saves memory in
    /// Redis.
    ///
    /// # Security
    ///
    /// Call it only after the provider has replied that the session has ended. An access token of
    /// OAuth 2.0 ends earlier than its session does, so its session is remembered as long as by
    /// [`log_out`](Self::log_out).
    ///
    /// # Errors and cancel safety
    ///
    /// As [`log_out`](Self::log_out).
    pub async fn log_out_confirmed(
        &self,
        session: &SessionInfo,
    ) -> Result<Revocation, RevokeError> {
        self.store.revoke(self.logout_of(session, true)?).await
    }

    /// Logs a user out everywhere: does what [`log_out`](Self::log_out) does, and validates every
    /// other session of the user again, with or without an ID.
    ///
    /// End all sessions at the provider first. If it has no call for that, or still accepts them, this
    /// logs the user out of this one session only. Then [`ban_user`](Self::ban_user) keeps the user
    /// out.
    ///
    /// # Cost
    ///
    /// Validations of each other session of the user, at growing intervals
    /// ([`provider_lag`](crate::SessionCacheBuilder::provider_lag)).
    ///
    /// # Errors and cancel safety
    ///
    /// As [`log_out`](Self::log_out).
    pub async fn log_out_everywhere(
        &self,
        session: &SessionInfo,
    ) -> Result<Revocation, RevokeError> {
        let mut all = self.logout_of(session, false)?;
        all.push(RevocationRequest::User(session.user.id().to_owned()));
        self.store.revoke(all).await
    }

    /// Logs a user out everywhere but in this session: validates every session of the user again,
    /// this one included. End the other sessions at the provider first.
    ///
    /// # Cost
    ///
    /// Validations of each session of the user, at growing intervals
    /// ([`provider_lag`](crate::SessionCacheBuilder::provider_lag)).
    ///
    /// # Errors and cancel safety
    ///
    /// As [`log_out`](Self::log_out).
    pub async fn log_out_elsewhere(
        &self,
        session: &SessionInfo,
    ) -> Result<Revocation, RevokeError> {
        if session.is_key() {
            return Err(RevokeError::not_a_session());
        }
        self.invalidate_user(session.user.id()).await
    }

    /// Ends the session with this ID of this authority: every token of it is rejected, in every
    /// namespace and on every node, also one that is issued later, whatever the provider replies.
    /// It cannot be undone.
    ///
    /// For a message of the provider that names a session. A logout handler uses
    /// [`log_out`](Self::log_out), which also revokes the token and so does not depend on the ID.
    ///
    /// The session is remembered for
    /// [`max_session_lifetime`](crate::SessionCacheBuilder::max_session_lifetime).
    ///
    /// # Cost
    ///
    /// Validations of each other session of the user, at growing intervals
    /// ([`provider_lag`](crate::SessionCacheBuilder::provider_lag)).
    ///
    /// # Limitations
    ///
    /// Records of the Python service contain no session ID. On a cluster, a failover that loses
    /// which users a session has leaves their records until their TTL has passed.
    ///
    /// # Errors and cancel safety
    ///
    /// As [`log_out`](Self::log_out).
    pub async fn end_session(
        &self,
        authority: &Authority,
        session_id: &str,
    ) -> Result<Revocation, RevokeError> {
        let what = RevocationRequest::Session {
            session: IdentityDigest::session(authority, session_id),
            user: None,
            ttl: self.max_session_lifetime(),
        };
        self.store.revoke(vec![what]).await
    }

    /// Bans a user of this authority: all of the user's sessions are rejected with 403
    /// ([`ForbiddenReason::Blocked`](crate::ForbiddenReason::Blocked)), in every namespace and on
    /// every node, whatever the provider replies. A second ban replaces the first one and its
    /// length.
    ///
    /// No call goes to the provider. Without Redis, only as many bans as the cache has
    /// [`capacity`](crate::SessionCacheBuilder::capacity) are remembered, the latest ones.
    ///
    /// # Cost
    ///
    /// One validation of each session of the user per
    /// [`negative_ttl`](crate::SessionCacheBuilder::negative_ttl) and node while it is used.
    ///
    /// # Errors and cancel safety
    ///
    /// As [`log_out`](Self::log_out).
    pub async fn ban_user(
        &self,
        authority: &Authority,
        user_id: &str,
        length: Duration,
    ) -> Result<Revocation, RevokeError> {
        self.set_ban(authority, user_id, Some(length)).await
    }

    /// Lifts the ban of a user. All of the user's sessions are validated again, on other nodes at
    /// the latest after [`negative_ttl`](crate::SessionCacheBuilder::negative_ttl). What another
    /// revocation rejects stays rejected.
    ///
    /// # Limitations
    ///
    /// A ban that is still queued on another node is delivered later, and then applies again.
    ///
    /// # Errors and cancel safety
    ///
    /// As [`log_out`](Self::log_out).
    pub async fn lift_ban(
        &self,
        authority: &Authority,
        user_id: &str,
    ) -> Result<Revocation, RevokeError> {
        self.set_ban(authority, user_id, None).await
    }

    /// Takes back one [`revoke_token`](Self::revoke_token). The token is validated again, on other
    /// nodes at the latest after one second. A session that was ended stays ended.
    ///
    /// # Limitations
    ///
    /// A revocation that is still queued on another node is delivered later, and then applies
    /// again.
    ///
    /// # Errors and cancel safety
    ///
    /// As [`log_out`](Self::log_out).
    pub async fn lift_token(&self, token: &SessionToken) -> Result<Revocation, RevokeError> {
        let what = RevocationRequest::Token(self.key(token), TombstoneKind::Lift);
        self.store.revoke(vec![what]).await
    }

    async fn set_ban(
        &self,
        authority: &Authority,
        user_id: &str,
        ttl: Option<Duration>,
    ) -> Result<Revocation, RevokeError> {
        let what = RevocationRequest::Ban {
            authority: authority.clone(),
            id: user_id.to_owned(),
            ttl,
        };
        self.store.revoke(vec![what]).await
    }

    fn logout_of(
        &self,
        session: &SessionInfo,
        is_confirmed: bool,
    ) -> Result<Vec<RevocationRequest>, RevokeError> {
        if session.is_key() {
            return Err(RevokeError::not_a_session());
        }
        let user = &UserData::from(session.user.clone());
        let ends_with_token = user.times().ends_with_token;
        let left = session.expires_at.map(|at| {
            let left = wall_micros(at).saturating_sub(self.store.clock().wall());
            Duration::from_micros(u64::try_from(left).unwrap_or_default())
                .saturating_add(CLOCK_MARGIN)
        });
        let longest = self.max_session_lifetime();
        let ttl = |is_known: bool| left.filter(|_| is_known).unwrap_or(longest);
        let revoke = TombstoneKind::Revoke {
            ttl: ttl(is_confirmed || ends_with_token),
        };
        let id = user.id().to_owned();
        let rest = match IdentityDigest::session_of(user) {
            Some(session) => RevocationRequest::Session {
                session,
                user: Some(id),
                ttl: ttl(is_confirmed && !ends_with_token),
            },
            None => RevocationRequest::User(id),
        };
        Ok(vec![
            RevocationRequest::Token(self.key(session.token()), revoke),
            rest,
        ])
    }
}
