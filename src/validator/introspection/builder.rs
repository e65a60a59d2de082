//! Builder of the introspection validator. It checks the settings once, so that a mistake fails at
//! startup and not as a 503.

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
    /// Creates a validator with all other settings at their defaults, which accept any active token
    /// that names a user.
    ///
    /// # Errors
    ///
    /// Returns [`IntrospectionConfigError`], whose text says how to fix the setting.
    pub fn new(
        endpoint: impl AsRef<str>,
        auth: IntrospectionAuth,
    ) -> Result<Self, IntrospectionConfigError> {
        Self::builder(endpoint, auth).build()
    }

    /// Creates a builder for a validator with other settings. Nothing is checked until
    /// [`build`](IntrospectionValidatorBuilder::build).
    ///
    /// The endpoint is the `introspection_endpoint` in the server's metadata, which is defined by
    /// [RFC 8414](https://www.rfc-editor.org/rfc/rfc8414) and found, for example, under
    /// `/.well-known/openid-configuration`.
    pub fn builder(
        endpoint: impl AsRef<str>,
        auth: IntrospectionAuth,
    ) -> IntrospectionValidatorBuilder {
        IntrospectionValidatorBuilder::new(endpoint.as_ref(), auth)
    }
}

/// Builder for [`IntrospectionValidator`], created by [`IntrospectionValidator::builder`].
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

    /// Allows an endpoint on another host that begins with `http://`. By default such an endpoint
    /// is an error, because [RFC 7662, section 4] requires TLS.
    ///
    /// # Security
    ///
    /// An attacker who can read the network between the two hosts then sees tokens and the client's
    /// secret. An attacker who can modify the traffic decides which users are logged in.
    ///
    /// [RFC 7662, section 4]: https://www.rfc-editor.org/rfc/rfc7662#section-4
    pub fn allow_http(mut self) -> Self {
        self.allows_http = true;
        self
    }

    /// Sets the required value of `iss`, which is compared exactly (a trailing `/` counts). A token
    /// without `iss`, or with another one, is [invalid](crate::ValidationError::invalid). By
    /// default any issuer is accepted.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Sets the name of this service that `aud` must equal or contain. Any other token is
    /// [invalid](crate::ValidationError::invalid). By default any audience is accepted.
    ///
    /// # Security
    ///
    /// If no audience is set, a token that a user gave to another service of the same server is
    /// also accepted here.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Adds a scope that the token must have. A token that lacks any of the scopes is forbidden:
    /// 403 with `error="insufficient_scope"`. Defaults to none.
    ///
    /// If only some routes need a scope, check it there, with the attribute `scope` of the user.
    pub fn require_scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// Accepts tokens that are bound to a key by DPoP ([RFC 9449]) or by the client's certificate
    /// ([RFC 8705]). By default they are [invalid](crate::ValidationError::invalid).
    ///
    /// # Security
    ///
    /// This crate does not check a proof of possession of that key, so a stolen token would be
    /// sufficient without the key. Allow bound tokens only if something in front of this layer
    /// checks the proof. The attribute `cnf` of the user is then `true`.
    ///
    /// [RFC 9449]: https://www.rfc-editor.org/rfc/rfc9449#section-6.2
    /// [RFC 8705]: https://www.rfc-editor.org/rfc/rfc8705#section-3.2
    pub fn allow_bound_tokens(mut self) -> Self {
        self.allows_bound_tokens = true;
        self
    }

    /// Sets the claim of the response that becomes the user's ID, a text or a whole number.
    /// Defaults to `sub`. If an active token lacks the claim, the result is *misconfigured*,
    /// because its user is unknown.
    ///
    /// Choose a claim whose value the server never assigns to another user later. The name of the
    /// claim is stored with the user, so that a validator with another setting does not mistake the
    /// ID for one of its own.
    ///
    /// With `email`, a token is forbidden unless its `email_verified` is true, because users may
    /// enter any address.
    pub fn user_id_claim(mut self, name: impl Into<String>) -> Self {
        self.user_id_claim = name.into();
        self
    }

    /// Sets the claim that becomes the [session's ID](crate::SessionInfo::session_id): its name, or
    /// names joined by `.` for a nested claim, such as `ext.sid` with Ory Hydra. Defaults to `sid`.
    /// If the claim is missing, the session has no ID.
    pub fn session_id_claim(mut self, path: impl Into<String>) -> Self {
        self.session_id_claim = path.into();
        self
    }

    /// Sets the namespace, which states which validators share cached sessions with this one.
    /// Defaults to a namespace derived from the endpoint, the client's ID (or a digest of the
    /// bearer token), the authority, the claims that name user and session, and whether
    /// [`tier`](Self::tier) was called.
    ///
    /// A response is intended for the client that sent the request: Keycloak calls a token inactive
    /// if that client is not in its `aud`. Give several clients the same name only if each may use
    /// the responses to the others.
    ///
    /// The client's secret is not part of the namespace. A service with this client's ID, a wrong
    /// secret and access to the same Redis serves the sessions that this client has cached, but
    /// cannot validate any token itself.
    pub fn namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the issuer of the sessions. Defaults to the [issuer](Self::issuer), or else to the
    /// endpoint.
    pub fn authority(mut self, authority: impl Into<Authority>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Sets the function that chooses a user's tier. Defaults to `free` for all users.
    ///
    /// It is called once per validation, and its result is cached with the user. Choose by claims
    /// that only the server's administrators can set.
    ///
    /// Services with the same client share their records, including the tiers. If their closures
    /// differ, give each service its own [namespace](Self::namespace).
    pub fn tier(
        mut self,
        tier: impl Fn(&IntrospectionResponse) -> String + Send + Sync + 'static,
    ) -> Self {
        self.tier = Box::new(tier);
        self.has_tier = true;
        self
    }

    /// Sets how far a token's `nbf` may be ahead of this host's clock. Defaults to 5 s.
    ///
    /// There is no such tolerance for `exp`: no session is served after its end.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Sets the timeout for opening a connection, TLS included. Defaults to 2 s. Zero is an error.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the timeout of a call, from opening the connection to the last byte of the response.
    /// Defaults to 4 s. Zero is an error.
    ///
    /// Keep it below the cache's `validation_timeout`, whose error cannot say what the validation
    /// waited for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Builds the validator and its connection pool, which opens connections on demand.
    ///
    /// # Errors
    ///
    /// Returns [`IntrospectionConfigError`] for the first invalid setting.
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

/// Returns the endpoint in the form for records and logs, with any query, which may contain a
/// secret, replaced by its digest.
fn endpoint_id(endpoint: &Url) -> String {
    let mut id = endpoint.clone();
    id.set_query(None);
    match endpoint.query() {
        None => id.into(),
        Some(query) => format!("{id}?{}", auth::digest(query)),
    }
}

/// Omits the endpoint, which has not been checked for credentials yet.
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

/// Parses the endpoint. It may have a query, because some servers distinguish realms by it.
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

/// Returns `true` for a `scope-token` of [RFC 6749, section 3.3].
///
/// [RFC 6749, section 3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
fn is_scope(scope: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    !scope.is_empty() && scope.bytes().all(is_allowed)
}
