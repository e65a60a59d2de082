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
//! that. Cookies of one name are the exception. The user did not choose them, and the browser sends
//! them until they expire, so an unusable one must not lock the user out.
//!
//! [RFC 6750, section 3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    authorization::{AuthScheme, check_other_scheme},
    cookie::{self, CookieFormat},
    headers::{Headers, SensitiveHeaders, Values},
    session_token::{SessionToken, TokenError, TokenRepr, check},
};

type FromHeaders = dyn Fn(&HeaderMap) -> Result<Option<SessionToken>, TokenError> + Send + Sync;

/// The places where a layer looks for the session token. Defaults to [`bearer`](Self::bearer).
///
/// 1. Sources are read in order. The first that is present decides, even if it is malformed.
/// 2. An empty header or cookie counts as absent. So does `Authorization` with a scheme but no
///    token, or with a scheme such as `Basic`.
/// 3. A header sent twice, a list with a token in one header (`Basic dTpw, Bearer s3cr3t`), a byte
///    outside visible ASCII or a token of more than 16 KiB ([`with_max_len`](Self::with_max_len))
///    is malformed.
/// 4. A token with the scheme `DPoP` is neither read nor absent, unless the source includes
///    [`dpop`](Self::dpop). It is rejected with 401 and the challenge `Bearer`. In `optional` mode
///    the request passes on without a user. No later source is read in its place.
///
/// The headers that a source reads are marked sensitive before the request is passed on, so that
/// `Debug` does not print their values.
///
/// # Several cookies of one name
///
/// A browser can have several cookies of one name: for other paths, or from a parent domain. It
/// sends the one with the longest path first, then the oldest, and does not say where they belong.
/// A cookie that is not a token is passed over if there is another one. Up to three different
/// tokens are tried in this order. Each is looked up and validated like any other token:
///
/// - The first valid one decides.
/// - If one is rejected, revoked or forbidden, the next is tried.
/// - If one cannot be validated now, the response is 503 and no later one is tried. It may be
///   valid, and the user of a request must not depend on whether the provider is available.
/// - If none is valid, the first forbidden one determines the response, or else the first one.
///
/// All of them together take no longer than
/// [`request_timeout`](crate::SessionCacheBuilder::request_timeout). A handler finds the number of
/// rejected ones in [`SessionInfo::rejected_tokens`](crate::SessionInfo::rejected_tokens), and
/// deletes stale cookies with [`CookieRemoval`](crate::CookieRemoval). A logout must revoke all
/// [`candidates`](Self::candidates), because the next one may be valid too.
/// [`reject_repeated_cookies`](Self::reject_repeated_cookies) rejects such requests instead.
///
/// # Cookies and CSRF
///
/// A browser also sends cookies with requests that other sites cause. If you use a cookie source,
/// put tower-http's `csrf` layer outside of this one and set `SameSite` on the cookie.
///
/// # Cookies of sibling domains
///
/// Each host under `example.com` can set a cookie for all of `example.com`, and so can an attacker
/// in the network who answers a request over plain HTTP. An attacker who plants a valid session of
/// their own, with a longer path, decides which user such a request has: the user acts in the
/// attacker's account, and what they enter there belongs to the attacker. The attacker does not get
/// access to the user's session. A name that starts with `__Host-` prevents this, because browsers
/// accept such a cookie only from the host itself, with `Secure` and `Path=/`. If the name is
/// fixed, as with Appwrite, use a domain without untrusted subdomains.
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
    rejects_repeated_cookies: bool,
}

#[derive(Clone)]
enum Location {
    Authorization(AuthScheme),
    Header(HeaderName),
    Cookie { name: Arc<str>, percent: bool },
    Custom(Arc<FromHeaders>),
}

/// Common servers allow about as much for all headers of a request.
const DEFAULT_MAX_LEN: usize = 16 * 1024;

impl TokenSource {
    /// Reads `Authorization: Bearer <token>` ([RFC 6750, section 2.1]). The scheme is
    /// case-insensitive.
    ///
    /// [RFC 6750, section 2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
    #[must_use]
    pub fn bearer() -> Self {
        Self::of(Location::Authorization(AuthScheme::Bearer))
    }

    /// Reads `Authorization: DPoP <token>` ([RFC 9449, section 7.1]). The scheme is
    /// case-insensitive. A rejection has the challenge `DPoP`, in addition to `Bearer` if the
    /// source also reads [`bearer`](Self::bearer).
    ///
    /// With `IntrospectionValidator`, call `allow_bound_tokens` as well.
    ///
    /// # Security
    ///
    /// This crate does not check the proof in the header `DPoP`. A layer outside of this one must
    /// check it for every request, and must compare its key with the one that the token is bound
    /// to. Do not add [`bearer`](Self::bearer) unless that layer also rejects a bound token that is
    /// sent without a proof. Otherwise a stolen bound token can be used as a bearer token.
    ///
    /// [RFC 9449, section 7.1]: https://www.rfc-editor.org/rfc/rfc9449#section-7.1
    #[must_use]
    pub fn dpop() -> Self {
        Self::of(Location::Authorization(AuthScheme::Dpop))
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
    /// malformed. [`TokenError::Empty`] also means absent.
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

    /// Reads `other` if this source is absent. The larger of the two length limits applies, and
    /// [`reject_repeated_cookies`](Self::reject_repeated_cookies) applies if it was called for
    /// either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            places: self.places.iter().chain(&*other.places).cloned().collect(),
            max_len: self.max_len.max(other.max_len),
            rejects_repeated_cookies: self.rejects_repeated_cookies
                || other.rejects_repeated_cookies,
        }
    }

    /// Sets the maximum length of a token in bytes. A longer token is malformed. Defaults to
    /// 16,384.
    #[must_use]
    pub fn with_max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Rejects a request that has the cookie several times with different values, as malformed.
    /// By default up to three of them are tried.
    ///
    /// With this setting, a stale cookie of another path or domain makes every request fail with
    /// 400, also in `optional` mode, until the user or [`CookieRemoval`](crate::CookieRemoval)
    /// deletes it.
    ///
    /// # Security
    ///
    /// A sibling domain that plants a cookie then causes a visible error instead of a request as
    /// another user. A name that starts with `__Host-` prevents both.
    #[must_use]
    pub fn reject_repeated_cookies(mut self) -> Self {
        self.rejects_repeated_cookies = true;
        self
    }

    /// Reads the token of a request: found, absent (`None`), or malformed. Of several cookies with
    /// the same name it returns the first that is a token.
    ///
    /// # Errors
    ///
    /// Returns the [`TokenError`] of the first source that is present.
    pub fn extract(&self, headers: &HeaderMap) -> Result<Option<SessionToken>, TokenError> {
        self.find(headers)
    }

    /// Returns the tokens of a request in the order in which the layer tries them. There are up to
    /// three if a cookie was sent several times with different values, and otherwise one or none.
    ///
    /// A logout handler that revokes all of them leaves no cookie behind that logs the user in
    /// again.
    ///
    /// # Errors
    ///
    /// Returns the same error as [`extract`](Self::extract).
    pub fn candidates(&self, headers: &HeaderMap) -> Result<Vec<SessionToken>, TokenError> {
        for place in &*self.places {
            let found = match place {
                Location::Cookie { name, percent } if !self.rejects_repeated_cookies => {
                    let values = cookie::values(headers.get_all(&header::COOKIE).iter(), name);
                    cookie::all(values, self.cookie_format(*percent))?
                }
                place => place.read(&mut &*headers, self)?.into_iter().collect(),
            };
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Returns the [candidates](Self::candidates) after the first.
    pub(crate) fn further_candidates(&self, headers: &HeaderMap) -> Vec<SessionToken> {
        let is_cookie = |place: &Location| matches!(place, Location::Cookie { .. });
        if self.rejects_repeated_cookies || !self.places.iter().any(is_cookie) {
            return Vec::new();
        }
        let mut tokens = self.candidates(headers).unwrap_or_default();
        tokens.drain(..tokens.len().min(1));
        tokens
    }

    pub(crate) fn max_len(&self) -> usize {
        self.max_len
    }

    /// Returns whether the source reads this scheme of the header `Authorization`.
    pub(crate) fn reads(&self, scheme: AuthScheme) -> bool {
        let mut places = self.places.iter();
        places.any(|place| matches!(place, Location::Authorization(read) if *read == scheme))
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
                found = place.read(&mut headers, self);
            } else {
                place.names().iter().for_each(|name| headers.pass(name));
            }
        }
        found
    }

    fn cookie_format(&self, is_percent_encoded: bool) -> CookieFormat {
        CookieFormat {
            is_percent_encoded,
            max_len: self.max_len,
        }
    }

    fn of(place: Location) -> Self {
        Self {
            places: Arc::new([place]),
            max_len: DEFAULT_MAX_LEN,
            rejects_repeated_cookies: false,
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
            .field("rejects_repeated_cookies", &self.rejects_repeated_cookies)
            .finish()
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorization(scheme) => scheme.fmt(f),
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
            Self::Authorization(_) => &KNOWN[..1],
            Self::Header(name) => std::slice::from_ref(name),
            Self::Cookie { .. } => &KNOWN[1..],
            Self::Custom(_) => &KNOWN,
        }
    }

    #[inline]
    fn read(
        &self,
        headers: &mut impl Headers,
        source: &TokenSource,
    ) -> Result<Option<SessionToken>, TokenError> {
        match self {
            Self::Authorization(scheme) => {
                let Some(value) = only(headers.values(&header::AUTHORIZATION))? else {
                    return Ok(None);
                };
                match scheme.token_start(value.as_bytes()) {
                    Some(start) => in_header(value, start, source.max_len),
                    None => {
                        let is_read = |scheme| source.reads(scheme);
                        check_other_scheme(value.as_bytes(), is_read).map(|()| None)
                    }
                }
            }
            Self::Header(name) => match only(headers.values(name))? {
                Some(value) => in_header(value, 0, source.max_len),
                None => Ok(None),
            },
            Self::Cookie { name, percent } => {
                let values = cookie::values(headers.values(&header::COOKIE), name);
                let format = source.cookie_format(*percent);
                if source.rejects_repeated_cookies {
                    cookie::only(values, format)
                } else {
                    cookie::first(values, format)
                }
            }
            Self::Custom(read) => {
                let found = read(headers.as_map());
                self.names().iter().for_each(|name| headers.pass(name));
                match found {
                    Ok(Some(token)) if token.as_bytes().len() > source.max_len => {
                        Err(TokenError::TooLong)
                    }
                    Err(TokenError::Empty) => Ok(None),
                    found => found,
                }
            }
        }
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

/// Parses the token that starts at `from`, without surrounding white space. Nothing but white space
/// is no credential.
#[inline]
fn in_header(
    value: &HeaderValue,
    from: usize,
    max_len: usize,
) -> Result<Option<SessionToken>, TokenError> {
    let bytes = value.as_bytes();
    let rest = bytes[from..].trim_ascii_start();
    let start = bytes.len() - rest.len();
    let end = start + rest.trim_ascii_end().len();
    if start == end {
        return Ok(None);
    }
    if end - start > max_len {
        return Err(TokenError::TooLong);
    }
    // Proxies join repeated headers with a comma, and neither token68 nor base64 contains one.
    check(&bytes[start..end], |byte| {
        byte.is_ascii_graphic() & (*byte != b',')
    })?;
    Ok(Some(SessionToken(TokenRepr::Part(
        value.clone(),
        start..end,
    ))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = HeaderMap> {
        let session = HeaderName::from_static("x-session");
        let name = prop::sample::select(vec![header::AUTHORIZATION, header::COOKIE, session]);
        let value = "(bearer |Bearer\t|DPoP |Basic |s=a;s=|s=|t=)?[ab,;%\" ]{0,3}";
        let value = value.prop_map(|text| HeaderValue::try_from(text).unwrap());
        proptest::collection::vec((name, value), 0..4).prop_map(HeaderMap::from_iter)
    }

    proptest! {
        #[test]
        fn take_equals_extract_and_marks_headers_sensitive(mut headers in headers()) {
            let session = HeaderName::from_static("x-session");
            let last = TokenSource::from_fn(|_| Err(TokenError::List));
            let source = TokenSource::bearer()
                .or(TokenSource::dpop())
                .or(TokenSource::header(session.clone()))
                .or(TokenSource::percent_encoded_cookie("s"))
                .or(last.clone());
            let shown = |found: Result<Option<SessionToken>, TokenError>| {
                found.map(|token| token.map(|token| token.expose_secret().to_owned()))
            };
            let mut all = headers.clone();
            let (found, taken) = (source.extract(&all), source.take(&mut all));
            prop_assert_eq!(shown(found), shown(taken.clone()));
            let candidates = source.candidates(&all);
            let first = candidates.clone().map(|tokens| tokens.first().cloned());
            prop_assert_eq!(shown(first), shown(taken));
            let further = source.further_candidates(&all);
            let count = candidates.map_or(0, |tokens| tokens.len());
            prop_assert_eq!(further.len(), count.saturating_sub(1));
            prop_assert!(all.values().all(HeaderValue::is_sensitive));
            prop_assert!(last.take(&mut headers).is_err());
            headers.remove(&session);
            prop_assert!(headers.values().all(HeaderValue::is_sensitive));
        }
    }
}
