//! Builder of the introspection validator. It checks the settings once, so that a mistake fails at
//! startup and not as a 503.

use std::{fmt, sync::Arc, time::Duration};

use chrono::TimeDelta;
use rustls::crypto::CryptoProvider;

use super::{
    auth,
    auth::IntrospectionAuth,
    claims::{Settings, Tier},
    client::IntrospectionClient,
    clock_skew::ClockSkew,
    config_error::IntrospectionConfigError,
    error::Inactive,
    response::IntrospectionResponse,
    token_kind::TokenKinds,
    user_id::UserIdClaims,
    validator::{Inner, IntrospectionValidator},
};
use crate::{
    model::{Authority, Namespace},
    validator::http::{EndpointError, HttpSettings, Url, is_loopback, parse_endpoint},
};

impl IntrospectionValidator {
    /// Creates a validator with all other settings at their defaults, which accept any active
    /// access token that identifies a user.
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
#[must_use = "it does nothing until `build` is called"]
pub struct IntrospectionValidatorBuilder {
    endpoint: String,
    auth: IntrospectionAuth,
    allows_http: bool,
    issuer: Option<String>,
    audience: Option<String>,
    scopes: Vec<String>,
    allows_bound_tokens: bool,
    kinds: TokenKinds,
    user_id_claims: UserIdClaims,
    session_id_claim: String,
    token_prefix: Option<String>,
    namespace: Option<Namespace>,
    authority: Option<Authority>,
    tier: Box<Tier>,
    has_tier: bool,
    leeway: Duration,
    http: HttpSettings,
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
            kinds: TokenKinds::default(),
            user_id_claims: UserIdClaims::default(),
            session_id_claim: "sid".to_owned(),
            token_prefix: None,
            namespace: None,
            authority: None,
            tier: Box::new(|_| "free".to_owned()),
            has_tier: false,
            leeway: Duration::from_secs(5),
            http: HttpSettings::default(),
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

    /// Requires the claim `token_type`. A token without it is then
    /// [invalid](crate::ValidationError::invalid). By default it may be missing, because
    /// [RFC 7662, section 2.2] makes it optional.
    ///
    /// # Security
    ///
    /// Some servers call a refresh token active and leave out `token_type`, and nothing else in the
    /// response shows the kind of the token: node-oidc-provider is one of them. Call this method if
    /// your server includes `token_type` for access tokens. The page on
    /// [validators](crate::docs::validators#oauth-20-servers) lists which servers do.
    ///
    /// [RFC 7662, section 2.2]: https://www.rfc-editor.org/rfc/rfc7662#section-2.2
    pub fn require_token_type(mut self) -> Self {
        self.kinds.requires_token_type = true;
        self
    }

    /// Adds a value that `token_type` may have, compared without case. By default it may be
    /// `Bearer` or `access_token`, or `DPoP` if [bound tokens](Self::allow_bound_tokens) are
    /// allowed, or missing. A token with another value is
    /// [invalid](crate::ValidationError::invalid).
    ///
    /// # Security
    ///
    /// Add only a value that your server returns for access tokens and for no others. With `ID` or
    /// `N_A`, an ID token of Keycloak would be accepted.
    pub fn allow_token_type(mut self, token_type: impl Into<String>) -> Self {
        self.kinds.token_types.push(token_type.into());
        self
    }

    /// Adds a value that `token_use` may have, compared without case. By default it may be
    /// `access_token`, or missing. A token with another value is
    /// [invalid](crate::ValidationError::invalid). The same applies to `token_usage`, as OpenIddict
    /// calls it.
    ///
    /// # Security
    ///
    /// With `refresh_token`, refresh tokens of Ory Hydra would be accepted. They are valid for
    /// weeks and are not limited to an audience.
    pub fn allow_token_use(mut self, token_use: impl Into<String>) -> Self {
        self.kinds.token_uses.push(token_use.into());
        self
    }

    /// Allows a value of `typ` that is rejected by default, compared without case: `Refresh`,
    /// `Offline`, `ID`, `Logout`, `logout+jwt`, `refresh_token` and `id_token`. A token with such a
    /// value, or with a `typ` that is not a text, is [invalid](crate::ValidationError::invalid). Any
    /// other `typ` is accepted.
    ///
    /// # Security
    ///
    /// Keycloak returns these values for tokens that are not access tokens. An ID token is sent to
    /// the browser and to logout endpoints; a refresh token is valid for as long as the session.
    pub fn allow_typ(mut self, typ: impl Into<String>) -> Self {
        self.kinds.typs.push(typ.into());
        self
    }

    /// Sets the claim of the response that becomes the user's ID, a text or a whole number.
    /// Defaults to `sub`. If an active token lacks the claim, it is forbidden: 403 with the reason
    /// [`NoUser`](crate::ForbiddenReason::NoUser).
    ///
    /// Choose a claim whose value the server never assigns to another user later. The name of the
    /// claim is stored with the user, so that a validator with another setting does not mistake the
    /// ID for one of its own.
    ///
    /// With `email`, a token is forbidden unless its `email_verified` is true, because users may
    /// enter any address.
    ///
    /// # Security
    ///
    /// A client's own token (client credentials) identifies no user. It is recognized by a `sub` or
    /// an ID that equals its `client_id` or `azp`, and is forbidden like a token without the claim.
    /// Otherwise a client could act as the user whose ID is the same text ([RFC 9700, section
    /// 4.15]). To accept such tokens, see [`or_user_id_claim`](Self::or_user_id_claim). A server
    /// that gives clients users of their own, as Keycloak does with service accounts, does not
    /// distinguish their tokens from those of other users.
    ///
    /// With `client_id` here, the ID of every token is that of its client, even that of a user's token.
    ///
    /// [RFC 9700, section 4.15]: https://www.rfc-editor.org/rfc/rfc9700#section-4.15
    pub fn user_id_claim(mut self, name: impl Into<String>) -> Self {
        self.user_id_claims.first = name.into();
        self
    }

    /// Adds a claim that is read if [`user_id_claim`](Self::user_id_claim), and those added before,
    /// identify no user. Defaults to none.
    ///
    /// `or_user_id_claim("client_id")` accepts clients' own tokens. The user is then the client:
    /// its [ID](crate::UserData::id) is the client's ID, and its attribute `user_id_member` is
    /// `client_id`. Such an ID is used only for a token that shows no user: `sub` is missing or
    /// equals the client's ID, and if it is missing there is no `username`, `preferred_username`,
    /// `email` or session ID either.
    ///
    /// An ID from an added claim may be the same text as a user's. Its session therefore has an
    /// [authority](crate::UserData::authority) of its own, which is this validator's followed by `#` and
    /// the name of the claim. Compare the authority wherever you compare IDs.
    /// [`invalidate_user`](crate::SessionCache::invalidate_user) takes an ID only, and ends the
    /// sessions of both; those that are still valid are validated once more.
    ///
    /// # Security
    ///
    /// A server that omits `sub` and the other claims from users' tokens, as some do for
    /// lightweight tokens, makes a user's token look like its client's. Do not add `client_id` if
    /// yours does.
    pub fn or_user_id_claim(mut self, name: impl Into<String>) -> Self {
        self.user_id_claims.others.push(name.into());
        self
    }

    /// Sets the claim that becomes the [session's ID](crate::SessionInfo::session_id): its name, or
    /// names joined by `.` for a nested claim, such as `ext.sid` with Ory Hydra. Defaults to `sid`.
    /// If the claim is missing, the session has no ID.
    pub fn session_id_claim(mut self, path: impl Into<String>) -> Self {
        self.session_id_claim = path.into();
        self
    }

    /// Sets the prefix that the server writes in front of its opaque access tokens and accepts them
    /// without: `ory_at_` for Ory Hydra. Defaults to none. A token without it is treated as the same
    /// token with it, so that both spellings are one cached session, and revoking one revokes the
    /// other. A JWT is not changed.
    ///
    /// # Security
    ///
    /// Set it only if the server accepts a token without the prefix if and only if it accepts the
    /// token with it.
    pub fn token_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.token_prefix = Some(prefix.into());
        self
    }

    /// Sets the namespace, which states which validators share cached sessions with this one.
    /// Defaults to a namespace derived from the endpoint, the client's ID (or a digest of the
    /// bearer token), the authority, the claims that identify user and session, and whether
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

    /// Sets how far a token's `nbf` may be ahead of this host's clock, and its `exp` behind it,
    /// while the server calls the token active. Defaults to 5 s.
    ///
    /// A session expires at its token's `exp`. If a validation accepts the token after that time,
    /// because this host's clock is ahead, the session expires at `exp` plus the leeway.
    /// [`SessionInfo::expires_at`](crate::SessionInfo::expires_at) returns that time, and the cache
    /// never serves the session after it.
    ///
    /// If the responses for three tokens show that the clocks differ by a second or more, the log
    /// has one warning with the difference. It is repeated once an hour at most.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Sets the timeout for opening a connection, TLS included. Defaults to 2 s. Zero is an error.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.http.connect_timeout = timeout;
        self
    }

    /// Sets the timeout of a call, from opening the connection to the last byte of the response.
    /// Defaults to 4 s. Zero is an error.
    ///
    /// Keep it below the cache's `validation_timeout`, whose error cannot say what the validation
    /// waited for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.http.timeout = timeout;
        self
    }

    /// Sets after how much time without a call a connection is closed. Defaults to 4 s. Zero is an
    /// error.
    ///
    /// Choose less than the keep-alive timeout of the server and of every proxy in between, 5 s for
    /// Node.js. Otherwise the server may close a connection while a call is sent over it. An
    /// introspection is then sent once more, over a new connection and within the same
    /// [`timeout`](Self::timeout).
    pub fn pool_idle_timeout(mut self, timeout: Duration) -> Self {
        self.http.pool_idle_timeout = timeout;
        self
    }

    /// Sets the CAs that are trusted on `https` connections, as PEM: one certificate, or several
    /// after each other. They replace the CAs of the system. Defaults to the CAs of the system.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http.root_certificates = Some(pem.into());
        self
    }

    /// Sets the cryptography provider of the connections. Defaults to the provider that the
    /// application has installed for the process when the validator is built, or else to *ring*.
    ///
    /// This crate never installs a provider for the process.
    pub fn crypto_provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.http.crypto_provider = Some(provider.into());
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
            kinds,
            user_id_claims,
            session_id_claim,
            token_prefix,
            namespace,
            authority,
            tier,
            has_tier,
            leeway,
            http,
        } = self;
        let endpoint = introspection_endpoint(&endpoint)?;
        let is_exposed = endpoint.scheme() == "http" && !is_loopback(&endpoint);
        if is_exposed && !allows_http {
            return Err(E::EndpointPlain);
        }
        let is_empty = |text: &Option<String>| text.as_ref().is_some_and(String::is_empty);
        let is_nameless = session_id_claim.is_empty() || user_id_claims.iter().any(str::is_empty);
        if [&issuer, &audience, &token_prefix]
            .into_iter()
            .any(is_empty)
            || is_nameless
        {
            return Err(E::EmptySetting);
        }
        if !scopes.iter().all(|scope| is_scope(scope)) {
            return Err(E::InvalidScope);
        }
        if http.has_zero_timeout() {
            return Err(E::ZeroTimeout);
        }
        let endpoint_id = endpoint_id(&endpoint);
        let authority = authority
            .or_else(|| issuer.as_ref().map(Authority::new))
            .unwrap_or_else(|| Authority::new(&endpoint_id));
        let client = auth.client_id();
        let namespace = namespace.unwrap_or_else(|| {
            let by = if has_tier { "tier" } else { "" };
            let claims = [&*user_id_claims.first, &session_id_claim, by];
            let who = [&*endpoint_id, &client, authority.as_str()];
            let others = user_id_claims.others.iter().map(String::as_str);
            let settings = who.into_iter().chain(claims).chain(others);
            Namespace::derived("introspection", settings)
        });
        let inactive = Arc::new(Inactive {
            endpoint: endpoint_id,
            client,
        });
        let client = IntrospectionClient::new(endpoint, auth.into_credentials()?, &http)
            .map_err(E::from_client)?;
        Ok(IntrospectionValidator(Arc::new(Inner {
            namespace,
            client,
            inactive,
            clock_skew: ClockSkew::default(),
            token_prefix,
            settings: Settings {
                issuer,
                audience,
                scopes,
                allows_bound_tokens,
                kinds,
                authority,
                user_id_claims,
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
            .field("kinds", &self.kinds)
            .field("user_id_claims", &self.user_id_claims)
            .field("connect_timeout", &self.http.connect_timeout)
            .field("timeout", &self.http.timeout)
            .field("pool_idle_timeout", &self.http.pool_idle_timeout)
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
