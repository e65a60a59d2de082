//! The settings, checked once, so that a typing error shows at the start and not as a 503.

use std::{fmt, sync::Arc, time::Duration};

use chrono::TimeDelta;

use super::{
    auth,
    auth::IntrospectionAuth,
    claims::{SUB, Settings, Tier},
    client::IntrospectionClient,
    config_error::IntrospectionConfigError,
    response::IntrospectionResponse,
    validator::{Inner, IntrospectionValidator},
};
use crate::{
    model::{Authority, Namespace},
    validator::http::{EndpointError, Url, is_loopback, parse_endpoint},
};

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

/// Builds an [`IntrospectionValidator`]; made by [`IntrospectionValidator::builder`].
///
/// ```
/// use std::time::Duration;
/// use tower_session_cache::{IntrospectionAuth, IntrospectionValidator};
///
/// let hydra = IntrospectionValidator::builder(
///     "http://hydra:4445/admin/oauth2/introspect",
///     IntrospectionAuth::none(),
/// )
/// .allow_http()
/// .require_scope("offline")
/// .timeout(Duration::from_secs(2))
/// .build()?;
/// # let _ = hydra;
/// # Ok::<(), tower_session_cache::IntrospectionConfigError>(())
/// ```
#[must_use]
pub struct IntrospectionValidatorBuilder {
    endpoint: String,
    auth: IntrospectionAuth,
    allows_http: bool,
    issuer: Option<String>,
    audience: Option<String>,
    scopes: Vec<String>,
    allows_bound_tokens: bool,
    user_id_claim: String,
    session_id_claim: String,
    namespace: Option<Namespace>,
    authority: Option<Authority>,
    tier: Box<Tier>,
    has_tier: bool,
    leeway: Duration,
    connect_timeout: Duration,
    timeout: Duration,
}

impl IntrospectionValidatorBuilder {
    pub(super) fn new(endpoint: &str, auth: IntrospectionAuth) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            auth,
            allows_http: false,
            issuer: None,
            audience: None,
            scopes: Vec::new(),
            allows_bound_tokens: false,
            user_id_claim: SUB.to_owned(),
            session_id_claim: "sid".to_owned(),
            namespace: None,
            authority: None,
            tier: Box::new(|_| "free".to_owned()),
            has_tier: false,
            leeway: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(4),
        }
    }

    /// Takes an endpoint that begins with `http://` on another host than this one, too. Defaults
    /// to an error there, since [RFC 7662, section 4] demands TLS.
    ///
    /// Whoever can read the network between the two then sees tokens and the client's secret, and
    /// whoever can write it says who is logged in.
    ///
    /// [RFC 7662, section 4]: https://www.rfc-editor.org/rfc/rfc7662#section-4
    pub fn allow_http(mut self) -> Self {
        self.allows_http = true;
        self
    }

    /// Sets what `iss` must be, to the last character (a `/` at its end counts). A token without
    /// it, or with another, is [invalid](crate::ValidationError::invalid). Defaults to any.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Sets the name of this service that `aud` must be or contain. A token that does not is
    /// [invalid](crate::ValidationError::invalid). Defaults to any.
    ///
    /// Without it a token that a user gave to another service of the same server is as good here.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Adds a scope that the token must have. One that lacks any of them is forbidden: 403 with
    /// `error="insufficient_scope"`. Defaults to none.
    ///
    /// What only some routes need is better checked there, by the attribute `scope` of the user.
    pub fn require_scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// Lets tokens in that are bound to a key, by DPoP ([RFC 9449]) or the client's certificate
    /// ([RFC 8705]). Defaults to [invalid](crate::ValidationError::invalid).
    ///
    /// Nothing here asks for a proof of that key, so a stolen token would be as good as the key.
    /// Allow them where something before this layer checks the proof. The attribute `cnf` of the
    /// user is then `true`.
    ///
    /// [RFC 9449]: https://www.rfc-editor.org/rfc/rfc9449#section-6.2
    /// [RFC 8705]: https://www.rfc-editor.org/rfc/rfc8705#section-3.2
    pub fn allow_bound_tokens(mut self) -> Self {
        self.allows_bound_tokens = true;
        self
    }

    /// Sets which claim of the response becomes the user's id: a text, or a whole number. Defaults
    /// to `sub`. Without it an active token is answered by *misconfigured*, since nobody knows
    /// whose it is.
    ///
    /// Choose one that the server never gives to another user later. The name is kept with the
    /// user, so that a validator with another setting does not take the id for one of its own.
    ///
    /// With `email` a token is forbidden unless its `email_verified` is true: users may enter any
    /// address.
    pub fn user_id_claim(mut self, name: impl Into<String>) -> Self {
        self.user_id_claim = name.into();
        self
    }

    /// Sets which claim becomes the
    /// [session's id](crate::SessionInfo::session_id): its name, or names joined by `.` for one
    /// inside of others, as `ext.sid` with Ory Hydra. Defaults to `sid`. Without it a session has
    /// no id.
    pub fn session_id_claim(mut self, path: impl Into<String>) -> Self {
        self.session_id_claim = path.into();
        self
    }

    /// Sets whose cached sessions are as good as this validator's own. Defaults to a namespace made
    /// of the endpoint, the client's id (or a digest of the bearer token), the authority, the claims
    /// that name user and session, and whether [`tier`](Self::tier) was called.
    ///
    /// A response is meant for the client that asked: Keycloak calls a token inactive if that client
    /// is not in its `aud`. Give several clients one name only if each may use the responses to the
    /// others.
    ///
    /// The client's secret is no part of it. A service with this client's id, a wrong secret and
    /// access to the same Redis serves what this client has cached, and can validate nothing itself.
    pub fn namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets who issues the sessions. Defaults to the [issuer](Self::issuer), or else the endpoint.
    pub fn authority(mut self, authority: impl Into<Authority>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Sets how a user's tier is chosen. Defaults to `free` for everybody.
    ///
    /// It is asked once per validation, and its result is cached with the user. Choose by what
    /// only the server's administrators can set.
    ///
    /// Services with the same client share their records, tiers included. If their closures
    /// differ, give each a [namespace](Self::namespace).
    pub fn tier(
        mut self,
        tier: impl Fn(&IntrospectionResponse) -> String + Send + Sync + 'static,
    ) -> Self {
        self.tier = Box::new(tier);
        self.has_tier = true;
        self
    }

    /// Sets by how much a token's `nbf` may be ahead of this host's clock. Defaults to 5 s.
    ///
    /// `exp` has no such grace: no session is served after its end.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Sets how long a connection may take, TLS included. Defaults to 2 s; zero is an error.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long a call may take altogether, from the connection to the last byte of the
    /// response. Defaults to 4 s; zero is an error.
    ///
    /// Keep it below the cache's own deadline, which cannot say what was waited for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes the validator, and its pool of connections, which are opened when they are needed.
    ///
    /// # Errors
    ///
    /// [`IntrospectionConfigError`] for the first setting that cannot work.
    pub fn build(self) -> Result<IntrospectionValidator, IntrospectionConfigError> {
        use IntrospectionConfigError as E;

        let Self {
            endpoint,
            auth,
            allows_http,
            issuer,
            audience,
            scopes,
            allows_bound_tokens,
            user_id_claim,
            session_id_claim,
            namespace,
            authority,
            tier,
            has_tier,
            leeway,
            connect_timeout,
            timeout,
        } = self;
        let endpoint = introspection_endpoint(&endpoint)?;
        let is_exposed = endpoint.scheme() == "http" && !is_loopback(&endpoint);
        if is_exposed && !allows_http {
            return Err(E::EndpointPlain);
        }
        let is_empty = |text: &Option<String>| text.as_ref().is_some_and(String::is_empty);
        let claims = [&user_id_claim, &session_id_claim];
        if is_empty(&issuer) || is_empty(&audience) || claims.iter().any(|claim| claim.is_empty()) {
            return Err(E::EmptySetting);
        }
        if !scopes.iter().all(|scope| is_scope(scope)) {
            return Err(E::InvalidScope);
        }
        if connect_timeout.is_zero() || timeout.is_zero() {
            return Err(E::ZeroTimeout);
        }
        let endpoint_id = endpoint_id(&endpoint);
        let authority = authority
            .or_else(|| issuer.as_ref().map(Authority::new))
            .unwrap_or_else(|| Authority::new(&endpoint_id));
        let namespace = namespace.unwrap_or_else(|| {
            let client = auth.client_id();
            let by = if has_tier { "tier" } else { "" };
            let claims = [&*user_id_claim, &session_id_claim, by];
            let who = [&*endpoint_id, &client, authority.as_str()];
            Namespace::derived("introspection", who.into_iter().chain(claims))
        });
        let client =
            IntrospectionClient::new(endpoint, auth.into_credentials()?, connect_timeout, timeout)
                .map_err(E::Client)?;
        Ok(IntrospectionValidator(Arc::new(Inner {
            namespace,
            authority,
            client,
            settings: Settings {
                issuer,
                audience,
                scopes,
                allows_bound_tokens,
                user_id_claim,
                session_id_claim,
                leeway: TimeDelta::from_std(leeway).unwrap_or(TimeDelta::MAX),
                tier,
            },
        })))
    }
}

/// The endpoint as it may stand in records and logs: a query, which may hold a secret, as a digest.
fn endpoint_id(endpoint: &Url) -> String {
    let mut id = endpoint.clone();
    id.set_query(None);
    match endpoint.query() {
        None => id.into(),
        Some(query) => format!("{id}?{}", auth::digest(query)),
    }
}

/// Shows nothing of the endpoint, which is not checked for credentials yet.
impl fmt::Debug for IntrospectionValidatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionValidatorBuilder")
            .field("auth", &self.auth)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("scopes", &self.scopes)
            .field("allows_bound_tokens", &self.allows_bound_tokens)
            .field("user_id_claim", &self.user_id_claim)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Some servers tell realms apart by a query, so it may have one.
fn introspection_endpoint(endpoint: &str) -> Result<Url, IntrospectionConfigError> {
    let url = parse_endpoint(endpoint).map_err(|error| match error {
        EndpointError::NotUrl => IntrospectionConfigError::EndpointNotUrl,
        EndpointError::Scheme => IntrospectionConfigError::EndpointScheme,
        EndpointError::Credentials => IntrospectionConfigError::EndpointCredentials,
    })?;
    if url.fragment().is_some() {
        return Err(IntrospectionConfigError::EndpointFragment);
    }
    Ok(url)
}

/// A `scope-token` of [RFC 6749, section 3.3].
///
/// [RFC 6749, section 3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
fn is_scope(scope: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    !scope.is_empty() && scope.bytes().all(is_allowed)
}
