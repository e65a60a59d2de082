//! Builder of an issuer of signed events.

use std::{fmt, sync::Arc, time::Duration};

use rustls::crypto::CryptoProvider;

use super::{
    issuer::{EventIssuer, Inner},
    issuer_url::checked_url,
};
use crate::{
    config_error::ConfigError,
    crypto::{JwsAlgorithm, KeySet},
    model::Authority,
    validator::{
        http::{ClientFault, HttpSettings, Url},
        jwks::{KeyFetcher, KeyLocation, KeySource},
    },
};

impl EventIssuer {
    /// Creates an issuer that signs with RS256 and publishes its metadata. The URL is compared with
    /// the claim `iss` exactly, including a trailing slash.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is not `https://`, or `http://` on the loopback interface.
    pub fn new(issuer: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder(issuer).build()
    }

    /// Creates a builder for an issuer with other settings.
    pub fn builder(issuer: impl Into<String>) -> EventIssuerBuilder {
        EventIssuerBuilder::new(issuer.into())
    }
}

/// Builder for [`EventIssuer`], created by [`EventIssuer::builder`].
///
/// ```
/// use tower_session_cache::{EventIssuer, JwsAlgorithm};
///
/// let issuer = EventIssuer::builder("http://hydra:4444/")
///     .allow_http()
///     .jwks_uri("http://hydra:4444/.well-known/jwks.json")
///     .algorithms([JwsAlgorithm::Rs256, JwsAlgorithm::Es256])
///     .build()?;
/// # let _ = issuer;
/// # Ok::<(), tower_session_cache::ConfigError>(())
/// ```
#[must_use = "it does nothing until `build` is called"]
pub struct EventIssuerBuilder {
    issuer: String,
    keys: Keys,
    algorithms: Vec<JwsAlgorithm>,
    authority: Option<Authority>,
    allows_http: bool,
    http: HttpSettings,
}

enum Keys {
    Discovered,
    Url(String),
    Fixed(Vec<u8>),
}

impl EventIssuerBuilder {
    pub(super) fn new(issuer: String) -> Self {
        // A discovery and a fetch of the keys end before a receiver gives up, after 5 seconds.
        let timeout = Duration::from_secs(2);
        Self {
            issuer,
            keys: Keys::Discovered,
            algorithms: vec![JwsAlgorithm::Rs256],
            authority: None,
            allows_http: false,
            http: HttpSettings {
                timeout,
                ..HttpSettings::default()
            },
        }
    }

    /// Sets the URL of the issuer's keys, for an issuer without metadata or one that this host
    /// reaches at another address. Defaults to the `jwks_uri` in the metadata.
    pub fn jwks_uri(mut self, url: impl Into<String>) -> Self {
        self.keys = Keys::Url(url.into());
        self
    }

    /// Sets the issuer's keys as the text of a JWK Set, which are then never fetched. Defaults to
    /// keys that are fetched.
    ///
    /// # Limitations
    ///
    /// If the issuer replaces its keys, its events are refused until this setting is changed.
    pub fn jwks(mut self, keys: impl Into<Vec<u8>>) -> Self {
        self.keys = Keys::Fixed(keys.into());
        self
    }

    /// Sets the algorithms that an event may be signed with. Defaults to `RS256`, with which most
    /// identity providers sign.
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = JwsAlgorithm>) -> Self {
        self.algorithms = algorithms.into_iter().collect();
        self
    }

    /// Sets the authority of the issuer's sessions, which must be that of the validator: a session
    /// that an event names by its ID is found by authority and ID. Defaults to the issuer's URL.
    ///
    /// An `IntrospectionValidator` has the same default if its `issuer` is set. Otherwise its
    /// authority is its endpoint, so set one of the two.
    pub fn authority(mut self, authority: impl Into<Authority>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Allows URLs on other hosts that begin with `http://`. By default such a URL is an error.
    ///
    /// # Security
    ///
    /// An attacker who can modify the traffic then chooses the keys. With a forged event, the
    /// attacker can end any session whose ID is known, and cause validations. No event admits a
    /// request.
    pub fn allow_http(mut self) -> Self {
        self.allows_http = true;
        self
    }

    /// Sets the timeout of a call, from opening the connection to the last byte of the response.
    /// Defaults to 2 s. Zero is an error.
    ///
    /// Discovery takes two calls. A receiver answers with 503 after 5 seconds, and the next event
    /// uses the keys that have arrived since.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.http.timeout = timeout;
        self
    }

    /// Sets the CAs that are trusted on `https` connections, as PEM: one certificate, or several
    /// after each other. They replace the CAs of the system. Defaults to the CAs of the system.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http.root_certificates = Some(pem.into());
        self
    }

    /// Sets the cryptography provider of the connections. Defaults to the provider that the
    /// application has installed for the process when the issuer is built, or else to *ring*.
    /// Signatures are always verified by *ring*.
    pub fn crypto_provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.http.crypto_provider = Some(provider.into());
        self
    }

    /// Builds the issuer. Nothing is fetched yet.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] for the first invalid setting.
    pub fn build(self) -> Result<EventIssuer, ConfigError> {
        let issuer = checked_url(&self.issuer, self.allows_http)?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            return Err(ConfigError::new(
                "the issuer of events must be a URL without query and fragment; use the value of \
                 `issuer` in the issuer's metadata",
            ));
        }
        if self.algorithms.is_empty() {
            return Err(ConfigError::new(
                "`algorithms` of an event issuer must not be empty; leave it out for RS256",
            ));
        }
        if self.http.has_zero_timeout() {
            return Err(ConfigError::new(
                "`timeout` of an event issuer must be greater than zero; increase it, or leave it \
                 out for the default",
            ));
        }
        let keys = match &self.keys {
            Keys::Fixed(text) => {
                let keys = KeySet::parse(text).filter(|keys| !keys.is_empty());
                KeySource::fixed(keys.ok_or(ConfigError::new(
                    "`jwks` of an event issuer must be a JWK Set with a key for signatures; copy \
                     the text that the issuer's `jwks_uri` returns",
                ))?)
            }
            Keys::Url(url) => {
                let url = checked_url(url, self.allows_http)?;
                self.fetched(&url, KeyLocation::Url(url.clone()))?
            }
            Keys::Discovered => {
                let location = KeyLocation::Discovery {
                    issuer: self.issuer.clone(),
                };
                self.fetched(&issuer, location)?
            }
        };
        let authority = self.authority;
        Ok(EventIssuer(Arc::new(Inner {
            authority: authority.unwrap_or_else(|| Authority::new(&self.issuer)),
            issuer: self.issuer,
            algorithms: self.algorithms,
            keys,
            allows_http: self.allows_http,
            http: self.http,
        })))
    }

    fn fetched(&self, first: &Url, location: KeyLocation) -> Result<KeySource, ConfigError> {
        let fetcher = KeyFetcher::new(first, location, self.allows_http, &self.http);
        let fetcher = fetcher.map_err(|fault| {
            ConfigError::new(match fault {
                ClientFault::Roots => {
                    "`root_certificates` of an event issuer must be valid certificates; pass the \
                     CA as PEM, which begins with -----BEGIN CERTIFICATE-----"
                }
                ClientFault::Other(_) => {
                    "the HTTP client of an event issuer could not be created; check that the \
                     system has CA certificates and that its proxy settings are URLs"
                }
            })
        })?;
        Ok(KeySource::fetched(fetcher))
    }
}

impl fmt::Debug for EventIssuerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventIssuerBuilder")
            .field("algorithms", &self.algorithms)
            .field("authority", &self.authority)
            .field("allows_http", &self.allows_http)
            .field("timeout", &self.http.timeout)
            .finish_non_exhaustive()
    }
}
