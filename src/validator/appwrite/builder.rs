//! Builder of the Appwrite validator. It checks the settings once, so that a mistake fails at
//! startup and not as a 503.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;
use rustls::crypto::CryptoProvider;

use super::{
    client::AppwriteClient,
    config_error::AppwriteConfigError,
    user,
    user::{AppwriteUser, Tier},
    validator::{AppwriteValidator, Inner},
};
use crate::{
    model::{Authority, Namespace},
    validator::http::{EndpointError, HttpSettings, Url, parse_endpoint},
};

impl AppwriteValidator {
    /// Creates a validator with the default settings.
    ///
    /// The endpoint is the base of Appwrite's API and ends in `/v1`.
    ///
    /// # Errors
    ///
    /// Returns [`AppwriteConfigError`], whose text says how to fix the setting.
    pub fn new(
        endpoint: impl AsRef<str>,
        project_id: impl Into<String>,
    ) -> Result<Self, AppwriteConfigError> {
        Self::builder(endpoint, project_id).build()
    }

    /// Creates a builder for a validator with other settings. Nothing is checked until
    /// [`build`](AppwriteValidatorBuilder::build).
    pub fn builder(
        endpoint: impl AsRef<str>,
        project_id: impl Into<String>,
    ) -> AppwriteValidatorBuilder {
        AppwriteValidatorBuilder::new(endpoint.as_ref(), project_id.into())
    }
}

/// Builder for [`AppwriteValidator`], created by [`AppwriteValidator::builder`].
///
/// ```
/// use std::time::Duration;
/// use tower_session_cache::AppwriteValidator;
///
/// let appwrite = AppwriteValidator::builder("http://localhost:8080/v1", "demo")
///     .timeout(Duration::from_secs(2))
///     .tier(|user| {
///         let pro = user.labels().iter().any(|label| label == "pro");
///         if pro { "pro" } else { "free" }.to_owned()
///     })
///     .build()?;
/// # let _ = appwrite;
/// # Ok::<(), tower_session_cache::AppwriteConfigError>(())
/// ```
#[must_use = "it does nothing until `build` is called"]
pub struct AppwriteValidatorBuilder {
    endpoint: String,
    project_id: String,
    tier: Box<Tier>,
    namespace: Option<Namespace>,
    authority: Option<Authority>,
    forbids_anonymous: bool,
    http: HttpSettings,
}

impl AppwriteValidatorBuilder {
    pub(super) fn new(endpoint: &str, project_id: String) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            project_id,
            tier: Box::new(user::first_label),
            namespace: None,
            authority: None,
            forbids_anonymous: false,
            http: HttpSettings::default(),
        }
    }

    /// Sets the function that chooses a user's tier. Defaults to the first label, or `free` without
    /// one.
    ///
    /// It is called once per validation, and its result is cached with the user. Choose by
    /// [`labels`](AppwriteUser::labels). Users can write their own [`prefs`](AppwriteUser::prefs),
    /// so a tier taken from those lets them promote themselves.
    ///
    /// Services of one project share their records, including the tiers, also with a Python
    /// service. If their tiers differ, give each service its own [namespace](Self::namespace).
    pub fn tier(mut self, tier: impl Fn(&AppwriteUser) -> String + Send + Sync + 'static) -> Self {
        self.tier = Box::new(tier);
        self
    }

    /// Rejects anonymous sessions with 403. By default they are accepted.
    ///
    /// Unless the project turns that off, any client can create one without an address or a
    /// password (`POST /account/sessions/anonymous`). If this is set, records of the Python service
    /// are not used, because they do not say what kind of session they contain.
    pub fn forbid_anonymous(mut self) -> Self {
        self.forbids_anonymous = true;
        self
    }

    /// Sets the namespace, which states which validators share cached sessions with this one.
    /// Defaults to a namespace derived from the [authority](Self::authority).
    ///
    /// The default namespace shares records with a Python service on the same Redis. Any other
    /// namespace does not.
    pub fn namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the issuer of the sessions. Defaults to the endpoint and the project, as
    /// [`Authority::appwrite`] writes them.
    ///
    /// Services that use different addresses for the same Appwrite server share their records if
    /// they all set one of these addresses as the authority.
    pub fn authority(mut self, authority: impl Into<Authority>) -> Self {
        self.authority = Some(authority.into());
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
    /// The two calls of a validation run concurrently, so this also limits a validation. Keep it
    /// below the cache's `validation_timeout`, whose error cannot say what the validation waited
    /// for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.http.timeout = timeout;
        self
    }

    /// Sets after how much time without a call a connection is closed. Defaults to 4 s. Zero is an
    /// error.
    ///
    /// Choose less than the keep-alive timeout of the server and of every proxy in between, 5 s for
    /// Node.js. Otherwise the server may close a connection while a call is sent over it. A
    /// call of a validation or of a logout is then sent once more, over a new connection and within
    /// the same [`timeout`](Self::timeout). A login or a recovery always uses a new connection.
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
    /// Returns [`AppwriteConfigError`] for the first invalid setting.
    pub fn build(self) -> Result<AppwriteValidator, AppwriteConfigError> {
        let Self {
            endpoint,
            project_id,
            tier,
            namespace,
            authority,
            forbids_anonymous,
            http,
        } = self;
        let endpoint = api_endpoint(&endpoint)?;
        let is_project =
            !project_id.is_empty() && project_id.bytes().all(|byte| byte.is_ascii_graphic());
        let project = HeaderValue::from_str(&project_id)
            .ok()
            .filter(|_| is_project)
            .ok_or(AppwriteConfigError::InvalidProjectId)?;
        if http.has_zero_timeout() {
            return Err(AppwriteConfigError::ZeroTimeout);
        }
        let authority =
            authority.unwrap_or_else(|| Authority::appwrite(endpoint.as_str(), &project_id));
        let client = AppwriteClient::new(&endpoint, project_id, project, &http)
            .map_err(AppwriteConfigError::from_client)?;
        Ok(AppwriteValidator(Arc::new(Inner {
            namespace: namespace.unwrap_or_else(|| Namespace::appwrite(authority.clone())),
            authority,
            client,
            tier,
            forbids_anonymous,
        })))
    }
}

/// Omits the endpoint, which has not been checked for credentials yet.
impl fmt::Debug for AppwriteValidatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppwriteValidatorBuilder")
            .field("project_id", &self.project_id)
            .field("connect_timeout", &self.http.connect_timeout)
            .field("timeout", &self.http.timeout)
            .field("pool_idle_timeout", &self.http.pool_idle_timeout)
            .finish_non_exhaustive()
    }
}

fn api_endpoint(endpoint: &str) -> Result<Url, AppwriteConfigError> {
    let url = parse_endpoint(endpoint).map_err(|error| match error {
        EndpointError::NotUrl => AppwriteConfigError::EndpointNotUrl,
        EndpointError::Scheme => AppwriteConfigError::EndpointScheme,
        EndpointError::Credentials => AppwriteConfigError::EndpointCredentials,
    })?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(AppwriteConfigError::EndpointQuery);
    }
    let path = url.path();
    if !path.strip_suffix('/').unwrap_or(path).ends_with("/v1") {
        return Err(AppwriteConfigError::EndpointPath);
    }
    Ok(url)
}
