//! The settings, checked once, so that a typing error shows at the start and not as a 503.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;

use super::{
    client::AppwriteClient,
    config_error::AppwriteConfigError,
    user,
    user::{AppwriteUser, Tier},
    validator::{AppwriteValidator, Inner},
};
use crate::{
    model::{Authority, Namespace},
    validator::http::{EndpointError, Url, parse_endpoint},
};

impl AppwriteValidator {
    /// A validator with every setting at its default.
    ///
    /// The endpoint is the base of Appwrite's API and ends in `/v1`.
    ///
    /// # Errors
    ///
    /// [`AppwriteConfigError`], whose text says what to write instead.
    pub fn new(
        endpoint: impl AsRef<str>,
        project_id: impl Into<String>,
    ) -> Result<Self, AppwriteConfigError> {
        Self::builder(endpoint, project_id).build()
    }

    /// Starts a validator whose settings differ from the defaults. Nothing is checked until
    /// [`build`](AppwriteValidatorBuilder::build).
    pub fn builder(
        endpoint: impl AsRef<str>,
        project_id: impl Into<String>,
    ) -> AppwriteValidatorBuilder {
        AppwriteValidatorBuilder::new(endpoint.as_ref(), project_id.into())
    }
}

/// Builds an [`AppwriteValidator`]; made by [`AppwriteValidator::builder`].
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
#[must_use]
pub struct AppwriteValidatorBuilder {
    endpoint: String,
    project_id: String,
    tier: Box<Tier>,
    namespace: Option<Namespace>,
    authority: Option<Authority>,
    forbids_anonymous: bool,
    connect_timeout: Duration,
    timeout: Duration,
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
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(4),
        }
    }

    /// Sets how a user's tier is chosen. Defaults to the first label, `free` without one.
    ///
    /// It is asked once per validation, and its result is cached with the user. Choose by
    /// [`labels`](AppwriteUser::labels): users can write their own
    /// [`prefs`](AppwriteUser::prefs), so a tier taken from those lets them promote themselves.
    ///
    /// Services of one project share their records, tiers included, and so does a Python service.
    /// If their tiers differ, give each a [namespace](Self::namespace).
    pub fn tier(mut self, tier: impl Fn(&AppwriteUser) -> String + Send + Sync + 'static) -> Self {
        self.tier = Box::new(tier);
        self
    }

    /// Answers anonymous sessions with 403. Defaults to letting them in.
    ///
    /// Any client can make one without an address or a password
    /// (`POST /account/sessions/anonymous`), unless the project turns that off. Records of the
    /// Python service, which do not say what kind of session they hold, are not used then.
    pub fn forbid_anonymous(mut self) -> Self {
        self.forbids_anonymous = true;
        self
    }

    /// Sets whose cached sessions are as good as this validator's own. Defaults to a namespace made
    /// of the [authority](Self::authority).
    ///
    /// Under the default, records are shared with a Python service on the same Redis. With another
    /// one they are not.
    pub fn namespace(mut self, namespace: impl Into<Namespace>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets who issues the sessions. Defaults to the endpoint and the project, as
    /// [`Authority::appwrite`] writes them.
    ///
    /// Services that reach one Appwrite by different addresses share their records if they give one
    /// of these as the authority.
    pub fn authority(mut self, authority: impl Into<Authority>) -> Self {
        self.authority = Some(authority.into());
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
    /// The two calls of a validation run at once, so that this is its time as well. Keep it below
    /// the cache's own deadline, which cannot say what was waited for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes the validator, and its pool of connections, which are opened when they are needed.
    ///
    /// # Errors
    ///
    /// [`AppwriteConfigError`] for the first setting that cannot work.
    pub fn build(self) -> Result<AppwriteValidator, AppwriteConfigError> {
        let Self {
            endpoint,
            project_id,
            tier,
            namespace,
            authority,
            forbids_anonymous,
            connect_timeout,
            timeout,
        } = self;
        let endpoint = api_endpoint(&endpoint)?;
        let is_project =
            !project_id.is_empty() && project_id.bytes().all(|byte| byte.is_ascii_graphic());
        let project = HeaderValue::from_str(&project_id)
            .ok()
            .filter(|_| is_project)
            .ok_or(AppwriteConfigError::InvalidProjectId)?;
        if connect_timeout.is_zero() || timeout.is_zero() {
            return Err(AppwriteConfigError::ZeroTimeout);
        }
        let authority =
            authority.unwrap_or_else(|| Authority::appwrite(endpoint.as_str(), &project_id));
        let client = AppwriteClient::new(&endpoint, project_id, project, connect_timeout, timeout)
            .map_err(AppwriteConfigError::Client)?;
        Ok(AppwriteValidator(Arc::new(Inner {
            namespace: namespace.unwrap_or_else(|| Namespace::appwrite(authority.clone())),
            authority,
            client,
            tier,
            forbids_anonymous,
        })))
    }
}

/// Shows nothing of the endpoint, which is not checked for credentials yet.
impl fmt::Debug for AppwriteValidatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppwriteValidatorBuilder")
            .field("project_id", &self.project_id)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
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
