//! Asks an OAuth 2.0 authorization server whose a token is: token introspection, [RFC 7662].
//!
//! One `POST` per validation, which every large server understands the same way. What the answer
//! means:
//!
//! 1. `active` decides. It must be a boolean in a JSON object; anything else is *unavailable*. An
//!    active token that has expired (`exp`), or is not yet valid (`nbf`), is *invalid* all the
//!    same.
//! 2. An issuer or an audience that was asked for and does not agree makes a token *invalid*, and so
//!    does a key that it is bound to. A scope that is missing is *forbidden*, as
//!    `insufficient_scope` is 403 in [RFC 6750].
//! 3. No other answer refuses anybody: a server that does not accept *us*, or does not
//!    introspect, is *misconfigured*, and one that fails is *unavailable*.
//!
//! What a token was allowed to do stays with the cached user, and is compared again on every hit:
//! the cache may hold what a validator with other settings, or another service, has put there.
//!
//! [RFC 7662]: https://www.rfc-editor.org/rfc/rfc7662
//! [RFC 6750]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1

use std::{fmt, sync::Arc};

use chrono::Utc;

use self::{
    client::Client,
    session::{Settings, session},
};
use crate::{
    namespace::{Authority, Namespace},
    token::SessionToken,
    user::UserData,
    validator::{SessionValidator, ValidatedSession, ValidationError},
};

mod answer;
mod auth;
mod client;
mod config;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod session;

pub use self::{
    answer::Introspection,
    auth::IntrospectionAuth,
    config::{IntrospectionConfigError, IntrospectionValidatorBuilder},
};

/// Validates opaque OAuth 2.0 access tokens by asking the server that issued them (Keycloak, Ory
/// Hydra, Zitadel and others) at its introspection endpoint.
///
/// A clone shares the connections, so make one at the start and clone it. Making it installs
/// rustls' *ring* provider as the process's default when there is none yet.
///
/// 1. The member `sub` becomes the user's id, `name` or else `username` the name, `email` and
///    `email_verified` themselves, `updated_at` a date, and `exp` the end of the session. Without
///    `exp` only the cache's TTL bounds it.
/// 2. All other members, `scope`, `aud`, `iss` and `sub` among them, become
///    [`attributes`](UserData::attributes), as long as they take no more than 16 KiB of JSON. Left
///    out are null and what repeats the token.
/// 3. [Issuer](IntrospectionValidatorBuilder::issuer),
///    [audience](IntrospectionValidatorBuilder::audience) and
///    [scopes](IntrospectionValidatorBuilder::require_scope) are not checked unless they are set.
///    **Set the audience** where the server issues tokens for more services than this one, or
///    each of these services can act as the user here. What is set is compared on every hit, too.
/// 4. A token that is bound to a key (`cnf`) is refused, unless
///    [allowed](IntrospectionValidatorBuilder::allow_bound_tokens): nothing here asks for a proof.
/// 5. Calls go to the endpoint directly or through the proxy that the environment names
///    (`HTTPS_PROXY`, `NO_PROXY`); an endpoint on loopback is never reached through a proxy.
///    Redirects are not followed, and an answer of more than 256 KiB is not read further.
/// 6. Signed answers (RFC 9701) are not supported: the connection proves who answers.
///
/// With Keycloak, a confidential client of the realm asks. Its users' tokens name this service as
/// their audience once the client that logs users in has an *audience* mapper:
///
/// ```
/// use tower_session_cache::{
///     IntrospectionAuth, IntrospectionValidator, SessionCache, SessionCacheLayer,
/// };
///
/// # fn layer(client_secret: String) -> Result<(), Box<dyn std::error::Error>> {
/// let realm = "https://keycloak.example.com/realms/shop";
/// let keycloak = IntrospectionValidator::builder(
///     format!("{realm}/protocol/openid-connect/token/introspect"),
///     IntrospectionAuth::basic("orders-api", client_secret),
/// )
/// .issuer(realm)
/// .audience("orders-api")
/// .require_scope("orders:read")
/// .tier(|token| token.text("plan").unwrap_or("free").to_owned())
/// .build()?;
///
/// let layer = SessionCacheLayer::new(SessionCache::builder().build()?, keycloak);
/// # let _ = layer;
/// # Ok(()) }
/// # layer("0123".to_owned()).unwrap();
/// ```
///
/// Ory Hydra introspects on its admin port, which asks for nothing:
/// `http://hydra:4445/admin/oauth2/introspect`
/// with [`IntrospectionAuth::none`] and [`allow_http`](IntrospectionValidatorBuilder::allow_http).
/// Zitadel has it at `/oauth/v2/introspect`, for an API application with basic authentication.
#[derive(Clone)]
pub struct IntrospectionValidator(Arc<Inner>);

struct Inner {
    namespace: Namespace,
    authority: Authority,
    client: Client,
    settings: Settings,
}

impl IntrospectionValidator {
    /// A validator with every other setting at its default: any active token that names a user
    /// will do.
    ///
    /// # Errors
    ///
    /// [`IntrospectionConfigError`], whose text says what to write instead.
    pub fn new(
        endpoint: impl AsRef<str>,
        auth: IntrospectionAuth,
    ) -> Result<Self, IntrospectionConfigError> {
        Self::builder(endpoint, auth).build()
    }

    /// Starts a validator whose settings differ from the defaults. Nothing is checked until
    /// [`build`](IntrospectionValidatorBuilder::build).
    ///
    /// The endpoint is the one that the server's metadata call `introspection_endpoint`
    /// ([RFC 8414](https://www.rfc-editor.org/rfc/rfc8414)), for example under
    /// `/.well-known/openid-configuration`.
    pub fn builder(
        endpoint: impl AsRef<str>,
        auth: IntrospectionAuth,
    ) -> IntrospectionValidatorBuilder {
        IntrospectionValidatorBuilder::new(endpoint.as_ref(), auth)
    }
}

impl SessionValidator for IntrospectionValidator {
    fn namespace(&self) -> Namespace {
        self.0.namespace.clone()
    }

    fn authority(&self) -> Authority {
        self.0.authority.clone()
    }

    /// Safe to drop at any time: introspection changes nothing.
    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let body = self.0.client.ask(&token).await?;
        session(&self.0.settings, &token, &body, Utc::now())
    }

    /// False for a user whose token was cached without what this validator asks for.
    fn accepts(&self, user: &UserData) -> bool {
        self.0.settings.accept(user)
    }
}

impl fmt::Debug for IntrospectionValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionValidator")
            .field("client", &self.0.client)
            .field("settings", &self.0.settings)
            .finish()
    }
}
