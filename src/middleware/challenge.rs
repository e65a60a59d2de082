//! Parameters of the challenge in `WWW-Authenticate`.

use http::HeaderValue;
use percent_encoding::{CONTROLS, utf8_percent_encode};

/// Parameters of the challenge in `WWW-Authenticate`, set with
/// [`with_challenge`](crate::SessionCacheLayer::with_challenge).
///
/// They are sent with each challenge for a bearer or DPoP token. A character that the header cannot
/// contain is percent-encoded.
///
/// ```
/// use tower_session_cache::Challenge;
///
/// let challenge = Challenge::new()
///     .realm("orders")
///     .resource_metadata("https://api.example.com/.well-known/oauth-protected-resource");
/// # let _ = challenge;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it does nothing until it is passed to `with_challenge`"]
pub struct Challenge {
    realm: Option<String>,
    scope: Option<String>,
    resource_metadata: Option<String>,
}

impl Challenge {
    /// Creates a challenge without parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the `realm`, which names the protected area ([RFC 9110, section 11.5]).
    ///
    /// [RFC 9110, section 11.5]: https://www.rfc-editor.org/rfc/rfc9110#section-11.5
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Sets the `scope`: the scopes that a client should request, separated by spaces ([RFC 6750,
    /// section 3]). A guard that requires a scope sends that one instead.
    ///
    /// [RFC 6750, section 3]: https://www.rfc-editor.org/rfc/rfc6750#section-3
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// Sets the URL of the protected resource metadata ([RFC 9728, section 5.1]), where a client
    /// finds the authorization server. Servers of the Model Context Protocol must send it.
    ///
    /// [RFC 9728, section 5.1]: https://www.rfc-editor.org/rfc/rfc9728#section-5.1
    pub fn resource_metadata(mut self, url: impl Into<String>) -> Self {
        self.resource_metadata = Some(url.into());
        self
    }

    /// Returns the header's value for a scheme. `details` are further parameters, already in the
    /// form of the header. They may contain another `scope`.
    pub(super) fn header(
        &self,
        scheme: &str,
        error: Option<&str>,
        details: Option<&str>,
    ) -> Option<HeaderValue> {
        let has_scope = details.is_some_and(|details| details.starts_with("scope="));
        let scope = self.scope.as_deref().filter(|_| !has_scope);
        let parameters = [
            self.realm.as_deref().map(|realm| quoted("realm", realm)),
            error.map(|error| quoted("error", error)),
            details.map(str::to_owned),
            scope.map(|scope| quoted("scope", scope)),
            self.resource_metadata
                .as_deref()
                .map(|url| quoted("resource_metadata", url)),
        ];
        let mut text = scheme.to_owned();
        let parameters = parameters.into_iter().flatten();
        for (separator, parameter) in std::iter::once(" ")
            .chain(std::iter::repeat(", "))
            .zip(parameters)
        {
            text += separator;
            text += &parameter;
        }
        HeaderValue::try_from(text).ok()
    }
}

/// Returns a parameter as a quoted string ([RFC 9110, section 5.6.4]).
///
/// [RFC 9110, section 5.6.4]: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.4
pub(super) fn quoted(name: &str, value: &str) -> String {
    let mut text = format!("{name}=\"");
    for part in utf8_percent_encode(value, CONTROLS) {
        for letter in part.chars() {
            if matches!(letter, '"' | '\\') {
                text.push('\\');
            }
            text.push(letter);
        }
    }
    text.push('"');
    text
}
