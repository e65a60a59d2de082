//! Errors in the settings of the Appwrite validator.

use std::{error::Error as StdError, fmt};

use crate::validator::http::ClientFault;

/// An invalid setting. `Display` says how to fix it, and does not show its value.
#[derive(Debug)]
#[non_exhaustive]
pub enum AppwriteConfigError {
    /// The endpoint is not an absolute URL.
    EndpointNotUrl,
    /// The endpoint is neither `https` nor `http`.
    EndpointScheme,
    /// The endpoint contains a user name or a password.
    EndpointCredentials,
    /// The endpoint contains a query or a fragment.
    EndpointQuery,
    /// The endpoint's path does not end in `/v1`.
    EndpointPath,
    /// The project ID is empty or contains something other than visible ASCII.
    InvalidProjectId,
    /// A timeout is zero.
    ZeroTimeout,
    /// The CAs are not certificates in PEM.
    InvalidRootCertificates,
    /// The HTTP client could not be created. The source gives the reason.
    Client(Box<dyn StdError + Send + Sync>),
}

impl fmt::Display for AppwriteConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointNotUrl => {
                "`endpoint` of Appwrite (APPWRITE_ENDPOINT) must be an absolute URL, for example \
                 https://appwrite.example.com/v1"
            }
            Self::EndpointScheme => {
                "`endpoint` of Appwrite (APPWRITE_ENDPOINT) must begin with https:// or http://"
            }
            Self::EndpointCredentials => {
                "`endpoint` of Appwrite (APPWRITE_ENDPOINT) must not contain a user name or a \
                 password; remove everything between :// and the host, because only session tokens \
                 are sent to Appwrite"
            }
            Self::EndpointQuery => {
                "`endpoint` of Appwrite (APPWRITE_ENDPOINT) must not contain a query or a \
                 fragment; remove the `?` or `#` and everything after it"
            }
            Self::EndpointPath => {
                "`endpoint` of Appwrite (APPWRITE_ENDPOINT) must have a path that ends in /v1, for \
                 example https://appwrite.example.com/v1"
            }
            Self::InvalidProjectId => {
                "`project_id` of Appwrite (APPWRITE_PROJECT_ID) must be visible ASCII without \
                 spaces and must not be empty; copy it from the project's settings in the Appwrite \
                 console"
            }
            Self::ZeroTimeout => {
                "`connect_timeout`, `timeout` and `pool_idle_timeout` of Appwrite must be greater \
                 than zero; increase them, or leave them out for the defaults"
            }
            Self::InvalidRootCertificates => {
                "`root_certificates` of Appwrite must be valid certificates; pass the CA as PEM, \
                 which begins with -----BEGIN CERTIFICATE-----"
            }
            Self::Client(_) => {
                "the HTTP client for Appwrite could not be created; check that the system has CA \
                 certificates and that its proxy settings are URLs"
            }
        })
    }
}

impl AppwriteConfigError {
    pub(super) fn from_client(fault: ClientFault) -> Self {
        match fault {
            ClientFault::Roots => Self::InvalidRootCertificates,
            ClientFault::Other(source) => Self::Client(source),
        }
    }
}

impl StdError for AppwriteConfigError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Client(source) => Some(&**source),
            _ => None,
        }
    }
}
