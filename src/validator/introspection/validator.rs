//! Validator that calls the introspection endpoint, and its rules for the response.

use std::{error::Error as StdError, fmt, sync::Arc};

use chrono::Utc;

use super::{
    claims::{Settings, session},
    client::IntrospectionClient,
    clock_skew::ClockSkew,
    response::IntrospectionResponse,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
    validator::{error::ValidationError, session::ValidatedSession, traits::SessionValidator},
};

/// Validates opaque OAuth 2.0 access tokens at the introspection endpoint of the server that issued
/// them (Keycloak, Ory Hydra, Zitadel and others).
///
/// Clones share the connections, so create one validator at startup and clone it.
///
/// 1. The claim `sub` becomes the user's ID, and `name` (or else `username`) the name. `email` and
///    `email_verified` are taken as they are (the text `true` counts as well), `updated_at` becomes a
///    date, and `exp` the expiry of the session. Without `exp`, only the cache's TTL limits the
///    session. Times may be texts, and may be in milliseconds. A token that identifies no user, such as a client's own, is
///    [forbidden](crate::ForbiddenReason::NoUser).
/// 2. All other claims, including `scope`, `aud`, `iss` and `sub`, become
///    [`attributes`](UserData::attributes), as long as they take no more than 16 KiB of JSON.
///    Claims that are null or repeat the token are left out.
/// 3. [Issuer](crate::IntrospectionValidatorBuilder::issuer),
///    [audience](crate::IntrospectionValidatorBuilder::audience) and
///    [scopes](crate::IntrospectionValidatorBuilder::require_scope) are not checked unless they are
///    set. **Set the audience** if the server issues tokens for other services too. Otherwise each
///    of these services can act as the user here. These settings are also compared on every hit.
/// 4. A token that is bound to a key (`cnf`) is rejected, unless
///    [allowed](crate::IntrospectionValidatorBuilder::allow_bound_tokens), because this crate does
///    not check a proof of possession.
/// 5. A token whose `token_use`, `typ` or `token_type` shows that it is not an access token is
///    rejected. Not every server shows it: **call
///    [`require_token_type`](crate::IntrospectionValidatorBuilder::require_token_type)** if yours
///    includes `token_type` for access tokens. The page on
///    [validators](crate::docs::validators#oauth-20-servers) lists servers, their responses and the
///    recommended settings.
/// 6. Calls go to the endpoint directly or through the proxy that the environment names
///    (`HTTPS_PROXY`, `NO_PROXY`). An endpoint on loopback is never reached through a proxy.
///    Redirects are not followed, and a response of more than 256 KiB is not read further.
/// 7. Signed responses (RFC 9701) are not supported. The connection authenticates the server.
///
/// With Keycloak, use a confidential client of the realm. Its users' tokens name this service as
/// their audience if the client that logs users in has an *audience* mapper:
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
/// .require_token_type()
/// .require_scope("orders:read")
/// .tier(|token| token.str_claim("plan").unwrap_or("free").to_owned())
/// .build()?;
///
/// let layer = SessionCacheLayer::new(SessionCache::builder().build()?, keycloak);
/// # let _ = layer;
/// # Ok(()) }
/// # layer("0123".to_owned()).unwrap();
/// ```
///
/// Ory Hydra introspects on its admin port, which requires no credentials:
/// `http://hydra:4445/admin/oauth2/introspect` with
/// [`IntrospectionAuth::none`](crate::IntrospectionAuth::none) and
/// [`allow_http`](crate::IntrospectionValidatorBuilder::allow_http).
/// Zitadel's endpoint is `/oauth/v2/introspect`, for an API application with basic authentication.
#[derive(Clone)]
pub struct IntrospectionValidator(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) namespace: Namespace,
    pub(super) client: IntrospectionClient,
    /// The source of a rejection by the server.
    pub(super) inactive: Arc<dyn StdError + Send + Sync>,
    pub(super) settings: Settings,
    pub(super) clock_skew: ClockSkew,
    pub(super) token_prefix: Option<String>,
}

impl SessionValidator for IntrospectionValidator {
    fn namespace(&self) -> Namespace {
        self.0.namespace.clone()
    }

    fn authority(&self) -> Authority {
        self.0.settings.authority.clone()
    }

    /// Validates a token.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time, because introspection changes nothing.
    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let sent_at = Utc::now();
        let body = self.0.client.introspect(&token).await?;
        let now = Utc::now();
        let Some(response) = IntrospectionResponse::parse(&body)? else {
            return Err(ValidationError::invalid().with_shared_source(Arc::clone(&self.0.inactive)));
        };
        let Inner {
            clock_skew,
            settings,
            ..
        } = &*self.0;
        clock_skew.observe(&token, &response, sent_at, now);
        session(settings, &token, response, now)
    }

    /// Returns `false` for a cached user whose token does not meet this validator's requirements.
    fn accepts(&self, user: &UserData) -> bool {
        self.0.settings.accepts(user)
    }

    /// Adds the [prefix](crate::IntrospectionValidatorBuilder::token_prefix) that is missing.
    fn canonical(&self, token: &SessionToken) -> Option<SessionToken> {
        let prefix = self.0.token_prefix.as_deref()?;
        let text = token.expose_secret();
        let is_jwt = text.bytes().filter(|byte| *byte == b'.').count() == 2;
        if text.starts_with(prefix) || is_jwt {
            return None;
        }
        SessionToken::parse(format!("{prefix}{text}")).ok()
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
