//! Errors in the settings of the introspection validator.

use std::{error::Error as StdError, fmt};

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
    /// The issuer, the audience or the name of the user's claim is empty.
    EmptySetting,
    /// A scope is empty or contains a character that is not allowed in scopes.
    InvalidScope,
    /// A timeout is zero.
    ZeroTimeout,
    /// The HTTP client could not be created. The source gives the reason.
    Client(Box<dyn StdError + Send + Sync>),
}

impl fmt::Display for IntrospectionConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointNotUrl => {
                "the introspection endpoint is not a URL; write it in full, as the server's \
                 metadata call introspection_endpoint"
            }
            Self::EndpointScheme => {
                "the introspection endpoint must begin with https:// (or http://, see allow_http)"
            }
            Self::EndpointPlain => {
                "the introspection endpoint begins with http://, which shows tokens and the \
                 client's secret to the network; write https://, or call allow_http if nobody \
                 else can read that network"
            }
            Self::EndpointCredentials => {
                "the introspection endpoint contains a user name or a password; hand them to \
                 IntrospectionAuth::basic instead"
            }
            Self::EndpointFragment => {
                "the introspection endpoint contains a `#`; write it without that and what follows"
            }
            Self::InvalidCredentials => {
                "the client's id or secret for the introspection endpoint is empty, or its bearer \
                 token is empty or has a space or a character outside ASCII in it; check where \
                 they are read from, or use IntrospectionAuth::none if the endpoint wants none"
            }
            Self::EmptySetting => {
                "the issuer, the audience or the user's claim is set to an empty text, which no \
                 token has; leave the setting out for the default"
            }
            Self::InvalidScope => {
                "a required scope is empty or contains a space, a quotation mark, a backslash or a \
                 character outside ASCII; require several scopes one by one"
            }
            Self::ZeroTimeout => {
                "a timeout of zero lets no introspection succeed; set a longer one, or none for \
                 the default"
            }
            Self::Client(_) => {
                "the HTTP client for introspection could not be made; check that the system has CA \
                 certificates and that its proxy settings are URLs"
            }
        })
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
