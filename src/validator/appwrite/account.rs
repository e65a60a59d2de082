//! Operations on sessions besides validation: login, logout and password recovery.

use chrono::{DateTime, Utc};
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{
    error::{AppwriteError, AppwriteErrorKind},
    operation::Operation,
    response,
    validator::AppwriteValidator,
};
use crate::token::SessionToken;

/// A session created by [`AppwriteValidator::login`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AppwriteLogin {
    /// The token that the client sends from now on. Anyone who has it can act as the user.
    pub token: SessionToken,
    /// The ID of the session's user, never empty.
    pub user_id: String,
    /// When the session expires.
    pub expires_at: Option<DateTime<Utc>>,
}

impl AppwriteValidator {
    /// Creates a session with an e-mail address and a password.
    ///
    /// Appwrite limits logins per address and host, and counts all logins of this service as one
    /// host. Also limit logins per client, so that one client cannot use up the limit for all.
    ///
    /// # Errors
    ///
    /// Returns [`AppwriteErrorKind::Unauthorized`] if the address or the password is wrong (without
    /// saying which), [`AppwriteErrorKind::InvalidArgument`] if one is malformed,
    /// [`AppwriteErrorKind::Forbidden`] if the user is blocked, and the kinds of a failed call.
    ///
    /// # Cancel safety
    ///
    /// If a login is dropped or times out, it may have created a session whose token is lost. The
    /// session does no harm, but it counts as one of the user's sessions until it expires.
    pub async fn login(&self, email: &str, password: &str) -> Result<AppwriteLogin, AppwriteError> {
        let arguments = json!({ "email": email, "password": password });
        let client = &self.0.client;
        let response = client
            .call(Operation::Login, None, Some(&arguments))
            .await?;
        let session = response::session(Operation::Login, &response.body)?;
        let name = format!("a_session_{}", client.project_id());
        let token = cookie(&response.headers, &name)
            .or_else(|| cookie(&response.headers, &format!("{name}_legacy")))
            .or_else(|| SessionToken::parse(session.secret).ok())
            .ok_or_else(|| {
                AppwriteError::unexpected(
                    Operation::Login,
                    "the response contains no session; check that no proxy in front of \
                 APPWRITE_ENDPOINT removes the Set-Cookie header",
                )
            })?;
        if let Some(named) = response::user_id_hint(&token) {
            response::same_user(Operation::Login, &session.user_id, &named)?;
        }
        Ok(AppwriteLogin {
            token,
            user_id: session.user_id,
            expires_at: Some(session.expires_at),
        })
    }

    /// Ends a session. Succeeds if the session has already ended.
    ///
    /// This ends the session at Appwrite only. Invalidate the token in the cache *after* this call,
    /// whatever its outcome. Otherwise the cache continues to serve the session.
    ///
    /// Appwrite allows 100 logouts per hour and host, and this service is one host.
    ///
    /// # Errors
    ///
    /// Returns [`AppwriteErrorKind::RateLimited`] beyond that limit,
    /// [`AppwriteErrorKind::Forbidden`] for a blocked user, whose session remains but is rejected
    /// as long as the user is blocked, and the kinds of a failed call.
    ///
    /// # Cancel safety
    ///
    /// If a logout is dropped or times out, it may or may not have ended the session. Repeating it
    /// is safe.
    pub async fn logout(&self, token: &SessionToken) -> Result<(), AppwriteError> {
        self.end(Operation::Logout, token).await
    }

    /// Ends all sessions of the token's user, this one included. Succeeds if this session has
    /// already ended, and then ends no other.
    ///
    /// This ends the sessions at Appwrite only. Call
    /// [`log_out_everywhere`](crate::SessionCache::log_out_everywhere) *after* this call, whatever
    /// its outcome.
    ///
    /// The limit of Appwrite, the errors and the cancel safety are those of
    /// [`logout`](Self::logout). Follows `DELETE /account/sessions` of the Appwrite API.
    pub async fn logout_everywhere(&self, token: &SessionToken) -> Result<(), AppwriteError> {
        self.end(Operation::LogoutEverywhere, token).await
    }

    async fn end(&self, operation: Operation, token: &SessionToken) -> Result<(), AppwriteError> {
        match self.0.client.call(operation, Some(token), None).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == AppwriteErrorKind::Unauthorized => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets a new password with the user ID and the secret from a recovery e-mail. Returns the ID
    /// of the user from Appwrite's response.
    ///
    /// Whether Appwrite then ends the user's sessions depends on its version and the project's
    /// settings. Invalidate the user in the cache *after* this call, whatever its outcome, unless
    /// it was rejected. To be sure that the sessions of other clients are over, end them in
    /// Appwrite first.
    ///
    /// # Errors
    ///
    /// Returns [`AppwriteErrorKind::Unauthorized`] if the secret is wrong, has expired or was used,
    /// [`AppwriteErrorKind::InvalidArgument`] if the password is not acceptable, and the kinds of a
    /// failed call.
    ///
    /// # Cancel safety
    ///
    /// If a recovery is dropped or times out, it may have set the password. The secret is valid for
    /// one use, so repeating the call is then rejected.
    pub async fn recover(
        &self,
        user_id: &str,
        secret: &str,
        password: &str,
    ) -> Result<String, AppwriteError> {
        let arguments = json!({ "userId": user_id, "secret": secret, "password": password });
        let client = &self.0.client;
        let response = client
            .call(Operation::Recovery, None, Some(&arguments))
            .await?;
        response::recovered(&response.body)
    }
}

/// Returns the value of a cookie that a response sets, whatever the case of its name: Appwrite writes
/// the project ID in lower case. If the name occurs more than once, the last value counts, as in a
/// browser.
fn cookie(headers: &HeaderMap, name: &str) -> Option<SessionToken> {
    headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|line| {
            let pair = line.to_str().ok()?.split(';').next()?;
            let (set, value) = pair.split_once('=')?;
            if !set.trim().eq_ignore_ascii_case(name) {
                return None;
            }
            let value = value.trim().trim_matches('"');
            SessionToken::parse(percent_decode_str(value).collect::<Vec<u8>>()).ok()
        })
        .next_back()
}
