//! Errors in the settings of the introspection validator.

use std::{error::Error as StdError, fmt};

use crate::validator::http::ClientFault;

/// An invalid setting. `Display` says how to fix it, and does not show its value.
#[derive(Debug)]
#[non_exhaustive]
pub enum IntrospectionConfigError {
    /// The endpoint is not an absolute URL.
    EndpointNotUrl,
    /// The endpoint is neither `https` nor `http`.
    EndpointScheme,
    /// The endpoint is `http` on another host, and this was not
    /// [allowed](crate::IntrospectionValidatorBuilder::allow_http).
    EndpointPlain,
    /// The endpoint contains a user name or a password.
    EndpointCredentials,
    /// The endpoint contains a `#`.
    EndpointFragment,
    /// The client's ID or secret is empty, or the bearer token is empty or not visible ASCII.
    InvalidCredentials,
    /// The issuer, the audience, or the name of a claim for the user's or the session's ID is empty.
    EmptySetting,
    /// A scope is empty or contains a character that is not allowed in scopes.
    InvalidScope,
    /// A timeout is zero.
    ZeroTimeout,
    /// The CAs are not certificates in PEM.
    InvalidRootCertificates,
    /// The HTTP client could not be created. The source gives the reason.
    Client(Box<dyn StdError + Send + Sync>),
}

impl fmt::Display for IntrospectionConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointNotUrl => {
                "`endpoint` of the introspection validator must be an absolute URL; use the \
                 `introspection_endpoint` of the server's metadata"
            }
            Self::EndpointScheme => {
                "`endpoint` of the introspection validator must begin with https://, or with \
                 http:// if `allow_http` is called"
            }
            Self::EndpointPlain => {
                "`endpoint` of the introspection validator must begin with https://, because \
                 http:// exposes tokens and the client secret to the network; use https://, or \
                 call `allow_http` if no other party can read the network"
            }
            Self::EndpointCredentials => {
                "`endpoint` of the introspection validator must not contain a user name or a \
                 password; pass them to `IntrospectionAuth::basic`"
            }
            Self::EndpointFragment => {
                "`endpoint` of the introspection validator must not contain a fragment; remove the \
                 `#` and everything after it"
            }
            Self::InvalidCredentials => {
                "`IntrospectionAuth` requires a client ID and a secret that are not empty, or a \
                 bearer token of visible ASCII without spaces; check where they are read from, or \
                 use `IntrospectionAuth::none` if the endpoint requires no credentials"
            }
            Self::EmptySetting => {
                "`issuer`, `audience`, `user_id_claim`, `or_user_id_claim`, `session_id_claim` and \
                 `token_prefix` must not be empty, because no token would match; leave the setting \
                 out for the default"
            }
            Self::InvalidScope => {
                "`require_scope` must not be empty and must not contain a space, a quotation mark, \
                 a backslash or a character outside ASCII; call it once for each scope"
            }
            Self::ZeroTimeout => {
                "`connect_timeout`, `timeout` and `pool_idle_timeout` of the introspection \
                 validator must be greater than zero; increase them, or leave them out for the \
                 defaults"
            }
            Self::InvalidRootCertificates => {
                "`root_certificates` of the introspection validator must be valid certificates; pass the CA as PEM, \
                 which begins with -----BEGIN CERTIFICATE-----"
            }
            Self::Client(_) => {
                "the HTTP client for introspection could not be created; check that the system has \
                 CA certificates and that its proxy settings are URLs"
            }
        })
    }
}

impl IntrospectionConfigError {
    pub(super) fn from_client(fault: ClientFault) -> Self {
        match fault {
            ClientFault::Roots => Self::InvalidRootCertificates,
            ClientFault::Other(source) => Self::Client(source),
        }
    }
}

impl StdError for IntrospectionConfigError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Client(source) => Some(&**source),
            _ => None,
        }
    }
}
