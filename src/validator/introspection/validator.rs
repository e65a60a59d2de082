//! The validator: one call, and the rules about what it returns.

use std::{fmt, sync::Arc};

use chrono::Utc;

use super::{
    claims::{Settings, session},
    client::IntrospectionClient,
};
use crate::{
    model::{Authority, Namespace, UserData},
    token::SessionToken,
    validator::{error::ValidationError, session::ValidatedSession, traits::SessionValidator},
};

/// Validates opaque OAuth 2.0 access tokens by asking the server that issued them (Keycloak, Ory
/// Hydra, Zitadel and others) at its introspection endpoint.
///
/// A clone shares the connections, so make one at the start and clone it. Making it installs
/// rustls' *ring* provider as the process's default when there is none yet.
///
/// 1. The claim `sub` becomes the user's id, `name` or else `username` the name, `email` and
///    `email_verified` themselves, `updated_at` a date, and `exp` the end of the session. Without
///    `exp` only the cache's TTL bounds it.
/// 2. All other claims, `scope`, `aud`, `iss` and `sub` among them, become
///    [`attributes`](UserData::attributes), as long as they take no more than 16 KiB of JSON. Left
///    out are null and what repeats the token.
/// 3. [Issuer](crate::IntrospectionValidatorBuilder::issuer),
///    [audience](crate::IntrospectionValidatorBuilder::audience) and
///    [scopes](crate::IntrospectionValidatorBuilder::require_scope) are not checked unless they are set.
///    **Set the audience** where the server issues tokens for more services than this one, or
///    each of these services can act as the user here. What is set is compared on every hit, too.
/// 4. A token that is bound to a key (`cnf`) is refused, unless
///    [allowed](crate::IntrospectionValidatorBuilder::allow_bound_tokens): nothing here asks for a proof.
/// 5. Calls go to the endpoint directly or through the proxy that the environment names
///    (`HTTPS_PROXY`, `NO_PROXY`); an endpoint on loopback is never reached through a proxy.
///    Redirects are not followed, and a response of more than 256 KiB is not read further.
/// 6. Signed responses (RFC 9701) are not supported: the connection proves who answers.
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
/// .tier(|token| token.str_claim("plan").unwrap_or("free").to_owned())
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
/// with [`IntrospectionAuth::none`](crate::IntrospectionAuth::none) and [`allow_http`](crate::IntrospectionValidatorBuilder::allow_http).
/// Zitadel has it at `/oauth/v2/introspect`, for an API application with basic authentication.
#[derive(Clone)]
pub struct IntrospectionValidator(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) namespace: Namespace,
    pub(super) authority: Authority,
    pub(super) client: IntrospectionClient,
    pub(super) settings: Settings,
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
        let body = self.0.client.introspect(&token).await?;
        session(&self.0.settings, &token, &body, Utc::now())
    }

    /// False for a user whose token was cached without what this validator asks for.
    fn accepts(&self, user: &UserData) -> bool {
        self.0.settings.accepts(user)
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
