//! What an application does with sessions beside validating them: begin, end, recover.

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

/// A session that [`AppwriteValidator::login`] began.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AppwriteLogin {
    /// What the client presents from now on. Whoever has it is the user.
    pub token: SessionToken,
    /// Whose session it is, never empty.
    pub user_id: String,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

impl AppwriteValidator {
    /// Begins a session with e-mail address and password.
    ///
    /// Appwrite limits logins per address and host, and counts all of this service's as one host.
    /// Limit them per client as well, so that one cannot use up what is meant for all.
    ///
    /// # Errors
    ///
    /// [`AppwriteErrorKind::Unauthorized`] when address or password is wrong (not telling which),
    /// [`AppwriteErrorKind::InvalidArgument`] when one is malformed,
    /// [`AppwriteErrorKind::Forbidden`] when the user is blocked, and the kinds of a failed call.
    ///
    /// # Cancel safety
    ///
    /// A login that is dropped, or ends in a timeout, may have begun a session that nobody knows
    /// the token of. It does no harm, but counts as one of the user's sessions until it expires.
    pub async fn login(&self, email: &str, password: &str) -> Result<AppwriteLogin, AppwriteError> {
        let arguments = json!({ "email": email, "password": password });
        let client = &self.0.client;
        let response = client
            .call(Operation::Login, None, Some(&arguments))
            .await?;
        let session = response::session(Operation::Login, &response.body)?;
        let token = cookie(
            &response.headers,
            &format!("a_session_{}", client.project_id()),
        )
        .or_else(|| SessionToken::parse(session.secret).ok())
        .ok_or_else(|| {
            AppwriteError::unexpected(
                Operation::Login,
                "no session in the answer; check that no proxy before APPWRITE_ENDPOINT \
                     removes the Set-Cookie header",
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

    /// Ends a session. One that was gone already is fine.
    ///
    /// This tells Appwrite only: invalidate the token in the cache *after* it, on every outcome,
    /// or the cache serves the session on.
    ///
    /// Appwrite allows a host 100 logouts in an hour, and this service is one host.
    ///
    /// # Errors
    ///
    /// [`AppwriteErrorKind::RateLimited`] beyond that limit, [`AppwriteErrorKind::Forbidden`] for a
    /// blocked user, whose session remains and is refused as long as the block lasts, and the
    /// kinds of a failed call.
    ///
    /// # Cancel safety
    ///
    /// A logout that is dropped, or ends in a timeout, may or may not have ended the session.
    /// Repeating it is safe.
    pub async fn logout(&self, token: &SessionToken) -> Result<(), AppwriteError> {
        let client = &self.0.client;
        match client.call(Operation::Logout, Some(token), None).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == AppwriteErrorKind::Unauthorized => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets a new password with the user id and the secret from a recovery e-mail. Returns the id of
    /// the user from Appwrite's response.
    ///
    /// Whether Appwrite ends the user's sessions then depends on its version and the project's
    /// settings. Invalidate the user in the cache *after* this returns, whatever it returns but a
    /// refusal; to be sure that sessions which others hold are over, end them in Appwrite first.
    ///
    /// # Errors
    ///
    /// [`AppwriteErrorKind::Unauthorized`] when the secret is wrong, too old or was used,
    /// [`AppwriteErrorKind::InvalidArgument`] when the password is not acceptable, and the kinds of
    /// a failed call.
    ///
    /// # Cancel safety
    ///
    /// A recovery that is dropped, or ends in a timeout, may have set the password. The secret is
    /// good for one use, so that repeating it is refused then.
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

/// The value of a cookie that a response sets, the last one of that name as in a browser.
fn cookie(headers: &HeaderMap, name: &str) -> Option<SessionToken> {
    headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|line| {
            let pair = line.to_str().ok()?.split(';').next()?;
            let (set, value) = pair.split_once('=')?;
            if set.trim() != name {
                return None;
            }
            let value = value.trim().trim_matches('"');
            SessionToken::parse(percent_decode_str(value).collect::<Vec<u8>>()).ok()
        })
        .next_back()
}
