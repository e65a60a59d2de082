//! Errors in the settings of the Appwrite validator.

use std::{error::Error as StdError, fmt};

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
    /// The HTTP client could not be created. The source gives the reason.
    Client(Box<dyn StdError + Send + Sync>),
}

impl fmt::Display for AppwriteConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointNotUrl => {
                "the Appwrite endpoint (APPWRITE_ENDPOINT) is not a URL; write it in full, like \
                 https://appwrite.example.com/v1"
            }
            Self::EndpointScheme => {
                "the Appwrite endpoint (APPWRITE_ENDPOINT) must begin with https:// or http://"
            }
            Self::EndpointCredentials => {
                "the Appwrite endpoint (APPWRITE_ENDPOINT) contains a user name or a password; \
                 remove everything before the host, since Appwrite is told sessions only"
            }
            Self::EndpointQuery => {
                "the Appwrite endpoint (APPWRITE_ENDPOINT) contains a `?` or a `#`; write it \
                 without these and what follows them"
            }
            Self::EndpointPath => {
                "the path of the Appwrite endpoint (APPWRITE_ENDPOINT) must end in /v1, like \
                 https://appwrite.example.com/v1"
            }
            Self::InvalidProjectId => {
                "the Appwrite project id (APPWRITE_PROJECT_ID) is empty or has a space or a \
                 character outside ASCII in it; copy it from the project's settings in Appwrite's \
                 console"
            }
            Self::ZeroTimeout => {
                "a timeout of zero lets no call to Appwrite succeed; set a longer one, or none \
                 for the default"
            }
            Self::Client(_) => {
                "the HTTP client for Appwrite could not be made; check that the system has CA \
                 certificates and that its proxy settings are URLs"
            }
        })
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
