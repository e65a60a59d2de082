//! Authentication of this service to the authorization server.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::config_error::IntrospectionConfigError;
use crate::{crypto::hex, token::SessionToken};

/// Authentication of this service to the introspection endpoint ([RFC 7662, section 2.1]).
///
/// `Debug` shows the method and the client ID. Secrets are overwritten in memory when they are
/// dropped, except for copies that the HTTP client makes.
///
/// [RFC 7662, section 2.1]: https://www.rfc-editor.org/rfc/rfc7662#section-2.1
pub struct IntrospectionAuth(AuthMethod);

enum AuthMethod {
    Basic { id: String, secret: Secret },
    Post { id: String, secret: Secret },
    Bearer(Secret),
    None,
}

type Secret = Zeroizing<String>;

impl IntrospectionAuth {
    /// Sends the client's ID and secret with HTTP Basic authentication, both form-encoded first as
    /// [RFC 6749, section 2.3.1] requires.
    ///
    /// A few servers do not decode them. If a server rejects an ID or secret that contains
    /// characters other than letters, digits, `-`, `.` and `_`, try [`post`](Self::post).
    ///
    /// [RFC 6749, section 2.3.1]: https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1
    #[must_use]
    pub fn basic(client_id: impl Into<String>, client_secret: impl Into<String>) -> Self {
        Self(AuthMethod::Basic {
            id: client_id.into(),
            secret: Zeroizing::new(client_secret.into()),
        })
    }

    /// Sends the client's ID and secret as `client_id` and `client_secret` in the body of the
    /// request.
    #[must_use]
    pub fn post(client_id: impl Into<String>, client_secret: impl Into<String>) -> Self {
        Self(AuthMethod::Post {
            id: client_id.into(),
            secret: Zeroizing::new(client_secret.into()),
        })
    }

    /// Sends a bearer token for the endpoint itself ([RFC 6750]). The token is not renewed. Once it
    /// has expired, every validation fails.
    ///
    /// [RFC 6750]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
    #[must_use]
    pub fn bearer(token: impl Into<String>) -> Self {
        Self(AuthMethod::Bearer(Zeroizing::new(token.into())))
    }

    /// Sends no credentials, for an endpoint that only the network protects, like the admin port of
    /// Ory Hydra.
    #[must_use]
    pub fn none() -> Self {
        Self(AuthMethod::None)
    }

    /// Returns a text that identifies the client to the server. It is not a secret.
    pub(super) fn client_id(&self) -> String {
        match &self.0 {
            AuthMethod::Basic { id, .. } | AuthMethod::Post { id, .. } => format!("client:{id}"),
            AuthMethod::Bearer(token) => format!("bearer:{}", digest(token)),
            AuthMethod::None => String::new(),
        }
    }

    /// Returns the credential as the parts of a request that contain it.
    pub(super) fn into_credentials(self) -> Result<Credentials, IntrospectionConfigError> {
        let bad = IntrospectionConfigError::InvalidCredentials;
        match self.0 {
            AuthMethod::Basic { id, secret } | AuthMethod::Post { id, secret }
                if id.is_empty() || secret.is_empty() =>
            {
                Err(bad)
            }
            AuthMethod::Basic { id, secret } => {
                let pair =
                    Zeroizing::new(format!("{}:{}", &*form_encode(&id), &*form_encode(&secret)));
                header("Basic", &BASE64.encode(&*pair)).ok_or(bad)
            }
            AuthMethod::Post { id, secret } => Ok(Credentials {
                header: None,
                body: Zeroizing::new(format!(
                    "&client_id={}&client_secret={}",
                    &*form_encode(&id),
                    &*form_encode(&secret)
                )),
            }),
            AuthMethod::Bearer(token) => {
                let is_token = SessionToken::parse(token.as_bytes().to_vec()).is_ok();
                let header = header("Bearer", &token);
                header.filter(|_| is_token).ok_or(bad)
            }
            AuthMethod::None => Ok(Credentials {
                header: None,
                body: Zeroizing::default(),
            }),
        }
    }
}

/// Returns a digest that distinguishes secrets. It reveals nothing else about a secret of high
/// entropy.
pub(super) fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes())[..8])
}

/// The parts of a request that contain the credential.
pub(super) struct Credentials {
    pub(super) header: Option<HeaderValue>,
    /// Appended to the other parameters of the body.
    pub(super) body: Secret,
}

fn header(scheme: &str, credential: &str) -> Option<Credentials> {
    let value = Zeroizing::new(format!("{scheme} {credential}"));
    let mut header = HeaderValue::from_str(&value).ok()?;
    header.set_sensitive(true);
    Some(Credentials {
        header: Some(header),
        body: Zeroizing::default(),
    })
}

/// Encodes a text as `application/x-www-form-urlencoded` ([RFC 6749, appendix B]).
///
/// [RFC 6749, appendix B]: https://www.rfc-editor.org/rfc/rfc6749#appendix-B
pub(super) fn form_encode(text: &str) -> Secret {
    const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'*')
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b' ');

    let text = Zeroizing::new(utf8_percent_encode(text, UNRESERVED).to_string());
    Zeroizing::new(text.replace(' ', "+"))
}

impl fmt::Debug for IntrospectionAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AuthMethod::Basic { id, .. } => write!(f, "Basic({id:?}, …)"),
            AuthMethod::Post { id, .. } => write!(f, "Post({id:?}, …)"),
            AuthMethod::Bearer(_) => f.write_str("Bearer(…)"),
            AuthMethod::None => f.write_str("None"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_form_encoded() {
        let header = |id: &str, secret: &str| {
            let prepared = IntrospectionAuth::basic(id, secret)
                .into_credentials()
                .unwrap();
            let header = prepared.header.unwrap();
            assert!(header.is_sensitive() && prepared.body.is_empty());
            header.to_str().unwrap().to_owned()
        };
        // The example client of RFC 6749, section 2.3.1.
        assert_eq!(
            header("s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw"),
            "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"
        );
        let plain = "c%3A1+%C3%A9:%25%26%3D%2B%7E*-._";
        let expected = format!("Basic {}", BASE64.encode(plain));
        assert_eq!(header("c:1 é", "%&=+~*-._"), expected);
    }

    #[test]
    fn example_of_rfc_6749_appendix_b_is_encoded() {
        let text = " %&+\u{a3}\u{20ac}";
        assert_eq!(&*form_encode(text), "+%25%26%2B%C2%A3%E2%82%AC");
    }

    #[test]
    fn invalid_credentials_are_rejected() {
        for auth in [
            IntrospectionAuth::basic("", "s"),
            IntrospectionAuth::basic("c", ""),
            IntrospectionAuth::post("", "s"),
            IntrospectionAuth::post("c", ""),
            IntrospectionAuth::bearer(""),
            IntrospectionAuth::bearer("two words"),
            IntrospectionAuth::bearer("line\n"),
        ] {
            assert!(auth.into_credentials().is_err());
        }
    }
}
