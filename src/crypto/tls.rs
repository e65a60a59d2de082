//! TLS configurations of all clients in this crate.
//!
//! Each is built with an explicit cryptography provider. This crate never installs one for the
//! process, because the application may install its own at any time.

use std::{error::Error as StdError, fmt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Why there is no TLS configuration.
#[derive(Debug)]
pub(crate) enum TlsFault {
    /// The provider supports no version of TLS.
    Provider(rustls::Error),
    /// The CAs of the system could not be loaded.
    SystemRoots(rustls::Error),
    /// The PEM of the CAs contains no certificate, or something else.
    Roots,
    /// The client certificate and its key are invalid or do not belong together.
    Client,
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provider(_) => {
                "the cryptography provider must support TLS 1.2 or 1.3; pass another one to \
                 `crypto_provider`"
            }
            Self::SystemRoots(_) => {
                "the CA certificates of the system could not be loaded; install them (usually the \
                 package ca-certificates), or pass a CA to `root_certificates`"
            }
            Self::Roots => "the CAs must be certificates in PEM",
            Self::Client => "the client certificate and its key must be PEM and belong together",
        })
    }
}

impl StdError for TlsFault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Provider(error) | Self::SystemRoots(error) => Some(error),
            Self::Roots | Self::Client => None,
        }
    }
}

/// The CAs that a client trusts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Roots<'a> {
    /// The verification of the operating system, with its CAs.
    #[cfg(any(
        feature = "appwrite",
        feature = "introspection",
        feature = "oidc-events"
    ))]
    Platform,
    /// The CA certificates of the system. In contrast to `Platform`, a rejected
    /// certificate is not logged, because the caller does that.
    #[cfg(feature = "tls")]
    System,
    Pem(&'a [u8]),
    /// No server is trusted.
    #[cfg(any(
        feature = "appwrite",
        feature = "introspection",
        feature = "oidc-events"
    ))]
    None,
}

/// Builds the configuration of a client. `client` is its certificate and the key, as PEM. Without a
/// provider, the one that the application has installed for the process is used, or else *ring*.
pub(crate) fn client_config(
    provider: Option<&Arc<CryptoProvider>>,
    roots: Roots<'_>,
    client: Option<(&[u8], &[u8])>,
) -> Result<ClientConfig, TlsFault> {
    let provider = provider.map_or_else(default_provider, Arc::clone);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::Provider)?;
    let builder = match roots {
        #[cfg(feature = "tls")]
        Roots::System => builder.with_root_certificates(system_roots()?),
        #[cfg(any(
            feature = "appwrite",
            feature = "introspection",
            feature = "oidc-events"
        ))]
        Roots::Platform => {
            let verifier =
                rustls_platform_verifier::Verifier::new(provider).map_err(TlsFault::SystemRoots)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
        Roots::Pem(pem) => builder.with_root_certificates(root_store(pem).ok_or(TlsFault::Roots)?),
        #[cfg(any(
            feature = "appwrite",
            feature = "introspection",
            feature = "oidc-events"
        ))]
        Roots::None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let Some((certificate, key)) = client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate).ok_or(TlsFault::Client)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsFault::Client)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|_| TlsFault::Client)
}

fn default_provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(ring::default_provider()))
}

#[cfg(feature = "tls")]
fn system_roots() -> Result<RootCertStore, TlsFault> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors = found.errors.iter().map(ToString::to_string);
        let errors: Vec<_> = errors.collect();
        return Err(TlsFault::SystemRoots(rustls::Error::General(
            errors.join(", "),
        )));
    }
    Ok(roots)
}

fn root_store(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for root in certificates(pem)? {
        roots.add(root).ok()?;
    }
    Some(roots)
}

/// Parses all certificates. Returns `None` if there is none, or if anything else is in between.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()?;
    (!found.is_empty()).then_some(found)
}
