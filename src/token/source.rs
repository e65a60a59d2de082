//! Sources of session tokens in a request.
//!
//! A [`TokenSource`] reads headers synchronously and returns one of three results: found, absent or
//! malformed. The difference between the last two matters. An absent token may be allowed
//! (`optional` mode). A malformed one is a client error or an attack: it is rejected with 400
//! `invalid_request` ([RFC 6750, section 3.1]) and is never passed to the cache or the identity
//! provider.
//!
//! The first source that is *present* decides. A malformed first source is not skipped in favor of
//! a second one: if two parties disagree about which credential applies, an attacker can exploit
//! that.
//!
//! [RFC 6750, section 3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    cookie,
    headers::{Headers, SensitiveHeaders, Values},
    session_token::{SessionToken, TokenError, TokenRepr, check},
};

type FromHeaders = dyn Fn(&HeaderMap) -> Result<Option<SessionToken>, TokenError> + Send + Sync;

/// The places where a layer looks for the session token. Defaults to [`bearer`](Self::bearer).
///
/// 1. Sources are read in order. The first that is present decides, even if it is malformed.
/// 2. `Authorization` with a scheme other than `Bearer` counts as absent.
/// 3. A header sent twice, a list in one header, a cookie sent twice with different values, an
///    empty token, a byte outside visible ASCII or a token of more than 4 KiB
///    ([`with_max_len`](Self::with_max_len)) is malformed.
///
/// The headers that a source reads are marked sensitive before the request is passed on, so that
/// `Debug` does not print their values.
///
/// # Cookies and CSRF
///
/// A browser also sends cookies with requests that other sites cause. If you use a cookie source,
/// put tower-http's `csrf` layer outside of this one and set `SameSite` on the cookie.
///
/// ```
/// use http::{HeaderMap, HeaderName, HeaderValue, header};
/// use tower_session_cache::TokenSource;
///
/// let source = TokenSource::bearer()
///     .or(TokenSource::header(HeaderName::from_static("x-session")))
///     .or(TokenSource::cookie("session"));
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::COOKIE, HeaderValue::from_static("a=b; session=s3cr3t"));
/// let token = source.extract(&headers)?.expect("a token");
/// assert_eq!(token.expose_secret(), "s3cr3t");
/// # Ok::<(), tower_session_cache::TokenError>(())
/// ```
#[derive(Clone)]
pub struct TokenSource {
    places: Arc<[Location]>,
    max_len: usize,
}

#[derive(Clone)]
enum Location {
    Bearer,
    Header(HeaderName),
    Cookie { name: Arc<str>, percent: bool },
    Custom(Arc<FromHeaders>),
}

/// Real tokens are far shorter. A longer one is a mistake or an attack that exploits the cost of
/// hashing.
const DEFAULT_MAX_LEN: usize = 4096;

impl TokenSource {
    /// Reads `Authorization: Bearer <token>` ([RFC 6750, section 2.1]). The scheme is
    /// case-insensitive.
    ///
    /// [RFC 6750, section 2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
    #[must_use]
    pub fn bearer() -> Self {
        Self::of(Location::Bearer)
    }

    /// Reads a header that contains only the token.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        Self::of(Location::Header(name))
    }

    /// Reads the cookie with this case-sensitive name. Its value is taken as it is, without a
    /// surrounding pair of double quotes.
    #[must_use]
    pub fn cookie(name: impl Into<String>) -> Self {
        Self::of(Location::Cookie {
            name: name.into().into(),
            percent: false,
        })
    }

    /// Reads a cookie whose value may be percent-encoded, as by JavaScript's `encodeURIComponent`.
    #[must_use]
    pub fn percent_encoded_cookie(name: impl Into<String>) -> Self {
        Self::of(Location::Cookie {
            name: name.into().into(),
            percent: true,
        })
    }

    /// Reads the token with a closure, which returns `Ok(None)` for absent and an error for
    /// malformed.
    ///
    /// Of the headers that the closure reads, only `Authorization` and `Cookie` are marked
    /// sensitive.
    pub fn from_fn<F>(f: F) -> Self
    where
        F: Fn(&HeaderMap) -> Result<Option<SessionToken>, TokenError> + Send + Sync + 'static,
    {
        Self::of(Location::Custom(Arc::new(f)))
    }

    /// Reads the places where Appwrite's own clients put the session of a project: the headers
    /// `Authorization: Bearer` and `X-Appwrite-Session`, and the cookies `a_session_<project>` and
    /// `a_session_<project>_legacy`.
    ///
    /// Appwrite writes the names of its cookies in lower case. If the project ID has capitals, the
    /// cookies are also read as the ID is spelled, after those in lower case.
    #[must_use]
    pub fn appwrite(project_id: &str) -> Self {
        let mut spellings = vec![project_id.to_ascii_lowercase(), project_id.to_owned()];
        spellings.dedup();
        let source = Self::bearer().or(Self::header(HeaderName::from_static("x-appwrite-session")));
        spellings.iter().fold(source, |source, project| {
            let cookie = format!("a_session_{project}");
            let legacy = format!("{cookie}_legacy");
            source
                .or(Self::percent_encoded_cookie(cookie))
                .or(Self::percent_encoded_cookie(legacy))
        })
    }

    /// Reads `other` if this source is absent. The larger of the two length limits applies.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            places: self.places.iter().chain(&*other.places).cloned().collect(),
            max_len: self.max_len.max(other.max_len),
        }
    }

    /// Sets the maximum length of a token in bytes. A longer token is malformed. Defaults to 4096.
    #[must_use]
    pub fn with_max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Reads the token of a request: found, absent (`None`), or malformed.
    ///
    /// # Errors
    ///
    /// Returns the [`TokenError`] of the first source that is present.
    pub fn extract(&self, headers: &HeaderMap) -> Result<Option<SessionToken>, TokenError> {
        self.find(headers)
    }

    /// Like [`extract`](Self::extract), but also marks all headers that may carry a token as
    /// sensitive, so that `Debug` no longer prints their values.
    pub(crate) fn take(&self, headers: &mut HeaderMap) -> Result<Option<SessionToken>, TokenError> {
        self.find(SensitiveHeaders(headers))
    }

    fn find(&self, mut headers: impl Headers) -> Result<Option<SessionToken>, TokenError> {
        let mut found = Ok(None);
        for place in &*self.places {
            if matches!(found, Ok(None)) {
                found = place.read(&mut headers, self.max_len);
            } else {
                place.names().iter().for_each(|name| headers.pass(name));
            }
        }
        match found {
            Ok(Some(token)) if token.as_bytes().len() > self.max_len => Err(TokenError::TooLong),
            found => found,
        }
    }

    fn of(place: Location) -> Self {
        Self {
            places: Arc::new([place]),
            max_len: DEFAULT_MAX_LEN,
        }
    }
}

impl Default for TokenSource {
    fn default() -> Self {
        Self::bearer()
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource")
            .field("places", &self.places)
            .field("max_len", &self.max_len)
            .finish()
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("Bearer"),
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::Cookie { name, .. } => f.debug_tuple("Cookie").field(name).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

impl Location {
    /// Returns the headers that this source reads.
    fn names(&self) -> &[HeaderName] {
        static KNOWN: [HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];
        match self {
            Self::Bearer => &KNOWN[..1],
            Self::Header(name) => std::slice::from_ref(name),
            Self::Cookie { .. } => &KNOWN[1..],
            Self::Custom(_) => &KNOWN,
        }
    }

    #[inline]
    fn read(
        &self,
        headers: &mut impl Headers,
        max_len: usize,
    ) -> Result<Option<SessionToken>, TokenError> {
        match self {
            Self::Bearer => match only(headers.values(&header::AUTHORIZATION))? {
                Some(value) => bearer(value, max_len),
                None => Ok(None),
            },
            Self::Header(name) => match only(headers.values(name))? {
                Some(value) => in_header(value, 0, max_len).map(Some),
                None => Ok(None),
            },
            Self::Cookie { name, percent } => {
                cookie::find(headers.values(&header::COOKIE), name, *percent, max_len)
            }
            Self::Custom(read) => {
                let found = read(headers.as_map());
                self.names().iter().for_each(|name| headers.pass(name));
                found
            }
        }
    }
}

#[inline]
fn bearer(value: &HeaderValue, max_len: usize) -> Result<Option<SessionToken>, TokenError> {
    const SCHEME: &[u8] = b"Bearer";
    let bytes = value.as_bytes();
    if bytes.is_empty() {
        return Err(TokenError::Empty);
    }
    match bytes.split_at_checked(SCHEME.len()) {
        // The exact comparison comes first because nearly all clients send this spelling.
        Some((scheme, [] | [b' ' | b'\t', ..]))
            if scheme == SCHEME || scheme.eq_ignore_ascii_case(SCHEME) =>
        {
            in_header(value, SCHEME.len(), max_len).map(Some)
        }
        _ => Ok(None),
    }
}

/// Returns the header's only value. A header that was sent twice is malformed, whatever its values
/// are.
#[inline]
fn only(mut values: Values<'_>) -> Result<Option<&HeaderValue>, TokenError> {
    let value = values.next();
    match values.next() {
        Some(_) => Err(TokenError::Repeated),
        None => Ok(value),
    }
}

/// Parses the token that starts at `from`, without surrounding white space.
#[inline]
fn in_header(value: &HeaderValue, from: usize, max_len: usize) -> Result<SessionToken, TokenError> {
    let bytes = value.as_bytes();
    let rest = bytes[from..].trim_ascii_start();
    let start = bytes.len() - rest.len();
    let end = start + rest.trim_ascii_end().len();
    if end - start > max_len {
        return Err(TokenError::TooLong);
    }
    // Proxies join repeated headers with a comma, and neither token68 nor base64 contains one.
    check(&bytes[start..end], |byte| {
        byte.is_ascii_graphic() & (*byte != b',')
    })?;
    Ok(SessionToken(TokenRepr::Part(value.clone(), start..end)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = HeaderMap> {
        let session = HeaderName::from_static("x-session");
        let name = prop::sample::select(vec![header::AUTHORIZATION, header::COOKIE, session]);
        let value = "(bearer |Bearer\t|Basic |s=|t=)?[ab,;% ]{0,3}";
        let value = value.prop_map(|text| HeaderValue::try_from(text).unwrap());
        proptest::collection::vec((name, value), 0..4).prop_map(HeaderMap::from_iter)
    }

    proptest! {
        #[test]
        fn take_equals_extract_and_marks_headers_sensitive(mut headers in headers()) {
            let session = HeaderName::from_static("x-session");
            let last = TokenSource::from_fn(|_| Err(TokenError::List));
            let source = TokenSource::bearer()
                .or(TokenSource::header(session.clone()))
                .or(TokenSource::percent_encoded_cookie("s"))
                .or(last.clone());
            let shown = |found: Result<Option<SessionToken>, TokenError>| {
                found.map(|token| token.map(|token| token.expose_secret().to_owned()))
            };
            let mut all = headers.clone();
            prop_assert_eq!(shown(source.extract(&all)), shown(source.take(&mut all)));
            prop_assert!(all.values().all(HeaderValue::is_sensitive));
            prop_assert!(last.take(&mut headers).is_err());
            headers.remove(&session);
            prop_assert!(headers.values().all(HeaderValue::is_sensitive));
        }
    }
}
