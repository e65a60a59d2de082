//! Sources of session tokens in a request.
//!
//! A [`TokenSource`] reads a request's head synchronously and returns one of three results: found,
//! absent or malformed. The difference between the last two matters. An absent token may be allowed
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

use http::{HeaderName, HeaderValue, Request, header};

use super::{
    authorization::{AuthScheme, Schemes, check_other_scheme},
    cookie::{self, CookieFormat},
    headers::{Headers, SensitiveHeaders, Values},
    query,
    request_head::{Predicate, RequestHead, both},
    session_token::{SessionToken, TokenError, TokenRepr, check},
    websocket_protocol,
};

type FromHead = dyn Fn(&RequestHead<'_>) -> Result<Option<SessionToken>, TokenError> + Send + Sync;

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
/// `Debug` does not print their values. A token in the [query](Self::query) or in a
/// [sub-protocol](Self::websocket_protocol) is removed from the request, also if an earlier source
/// decides.
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
/// put the `csrf` layer of tower-http (0.7 or later) outside of this one and set `SameSite` on the
/// cookie.
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
    places: Arc<[Place]>,
    max_len: usize,
    rejects_repeated_cookies: bool,
    /// Whether a place or its condition needs more of a request than its headers.
    reads_head: bool,
}

#[derive(Clone)]
struct Place {
    location: Location,
    condition: Option<Arc<Predicate>>,
}

#[derive(Clone)]
enum Location {
    Authorization(AuthScheme),
    Header(HeaderName),
    Cookie { name: Arc<str>, percent: bool },
    Query(Arc<str>),
    WebSocketProtocol(Arc<str>),
    Custom(Arc<FromHead>),
}

/// What a source has found in a request.
pub(crate) struct Found {
    pub(crate) token: Result<Option<SessionToken>, TokenError>,
    /// Index of the place that decided, or the number of places if all are absent.
    pub(crate) place: usize,
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

    /// Reads a parameter of the URI's query ([RFC 6750, section 2.3]), for clients that cannot set
    /// headers: a browser's `EventSource` and `WebSocket`. The value may be percent-encoded. A `+`
    /// stays a `+`, because a token contains no space. A parameter that is sent more than once is
    /// malformed.
    ///
    /// The layer removes the parameter from the URI before it passes the request on, rejects it, or
    /// calls the function for rejections. [`exempt`](crate::SessionCacheLayer::exempt) requests
    /// keep it.
    ///
    /// # Security
    ///
    /// URIs are written to access logs, to the browser's history and to `Referer` headers.
    /// Everything outside of this layer sees the token: proxies, a trace layer, and axum's
    /// `OriginalUri` if the layer is applied with `Router::layer`. Restrict the source to the
    /// routes that need it with [`only_if`](Self::only_if), and put a header first with
    /// [`or`](Self::or). Send `Cache-Control: no-store` with the responses.
    ///
    /// ```
    /// use tower_session_cache::TokenSource;
    ///
    /// let in_query = TokenSource::query("access_token")
    ///     .only_if(|head| matches!(head.uri().path(), "/events" | "/socket"));
    /// let source = TokenSource::bearer().or(in_query);
    ///
    /// let request = http::Request::get("/events?access_token=s3cr3t&since=7").body(())?;
    /// let token = source.extract(&request)?.expect("a token");
    /// assert_eq!(token.expose_secret(), "s3cr3t");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [RFC 6750, section 2.3]: https://www.rfc-editor.org/rfc/rfc6750#section-2.3
    #[must_use]
    pub fn query(name: impl Into<String>) -> Self {
        Self::of(Location::Query(name.into().into()))
    }

    /// Reads the sub-protocol of a WebSocket handshake that starts with this prefix. The rest of it
    /// is the token, which may be percent-encoded. It is the only header that a browser's
    /// `WebSocket` can set. Unlike a [query](Self::query), it does not appear in logs of URIs:
    ///
    /// ```text
    /// new WebSocket(url, ["chat.v1", "session." + encodeURIComponent(token)])
    /// ```
    ///
    /// The layer removes the sub-protocol from `Sec-WebSocket-Protocol` before it passes the
    /// request on. The client must offer another one and the service must select it, because
    /// browsers fail a connection for which no offered sub-protocol was selected. Several
    /// sub-protocols with the prefix are malformed.
    #[must_use]
    pub fn websocket_protocol(prefix: impl Into<String>) -> Self {
        Self::of(Location::WebSocketProtocol(prefix.into().into()))
    }

    /// Reads the token with a closure, which returns `Ok(None)` for absent and an error for
    /// malformed. [`TokenError::Empty`] also means absent.
    ///
    /// Of what the closure reads, only the headers `Authorization` and `Cookie` are marked
    /// sensitive, and nothing is removed from the request.
    pub fn from_fn<F>(f: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Result<Option<SessionToken>, TokenError> + Send + Sync + 'static,
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
            reads_head: self.reads_head || other.reads_head,
        }
    }

    /// Reads this source only from requests for which the predicate returns `true`. For others it
    /// is absent, and a token in the query or in a sub-protocol stays in the request.
    #[must_use]
    pub fn only_if<F>(mut self, predicate: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        let predicate: Arc<Predicate> = Arc::new(predicate);
        let places = self.places.iter().cloned().map(|mut place| {
            let predicate = Arc::clone(&predicate);
            place.condition = Some(both(place.condition, move |head| predicate(head)));
            place
        });
        self.places = places.collect();
        self.reads_head = true;
        self
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

    /// Reads the token of a request, of its parts or of headers alone: found, absent (`None`), or
    /// malformed. Of several cookies with the same name it returns the first that is a token.
    ///
    /// Inside of the layer, a token of a [query](Self::query) or a
    /// [sub-protocol](Self::websocket_protocol) is absent, because the layer has removed it.
    ///
    /// # Errors
    ///
    /// Returns the [`TokenError`] of the first source that is present.
    pub fn extract<'a>(
        &self,
        head: impl Into<RequestHead<'a>>,
    ) -> Result<Option<SessionToken>, TokenError> {
        self.find(head.into()).token
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
    pub fn candidates<'a>(
        &self,
        head: impl Into<RequestHead<'a>>,
    ) -> Result<Vec<SessionToken>, TokenError> {
        let head = head.into();
        let Found { token, place } = self.find(head);
        match self.all_cookies(place, head) {
            Some(tokens) => tokens,
            None => token.map(|token| token.into_iter().collect()),
        }
    }

    /// Returns the [candidates](Self::candidates) after the first, of which this place was found to
    /// decide.
    pub(crate) fn further_candidates<'a>(
        &self,
        place: usize,
        head: impl Into<RequestHead<'a>>,
    ) -> Vec<SessionToken> {
        let tokens = self.all_cookies(place, head.into()).and_then(Result::ok);
        let mut tokens = tokens.unwrap_or_default();
        tokens.drain(..tokens.len().min(1));
        tokens
    }

    /// Returns all different tokens of a place that is a cookie, unless repeated cookies are
    /// rejected.
    fn all_cookies(
        &self,
        place: usize,
        head: RequestHead<'_>,
    ) -> Option<Result<Vec<SessionToken>, TokenError>> {
        match &self.places.get(place)?.location {
            Location::Cookie { name, percent } if !self.rejects_repeated_cookies => {
                let headers = head.headers().get_all(&header::COOKIE).iter();
                let values = cookie::values(headers, name);
                Some(cookie::all(values, self.cookie_format(*percent)))
            }
            _ => None,
        }
    }

    pub(crate) fn max_len(&self) -> usize {
        self.max_len
    }

    /// Returns whether the source reads this scheme of the header `Authorization`.
    fn reads(&self, scheme: AuthScheme) -> bool {
        let mut locations = self.places.iter().map(|place| &place.location);
        locations
            .any(|location| matches!(location, Location::Authorization(read) if *read == scheme))
    }

    /// Returns the schemes of the challenge for a request whose credential was found in this place:
    /// none if it is in a cookie or in another header, and those that the source reads if it is
    /// absent.
    pub(crate) fn schemes(&self, place: usize) -> Schemes {
        let is_query = |place: &Place| matches!(place.location, Location::Query(_));
        match self.places.get(place) {
            None => Schemes {
                has_bearer: self.reads(AuthScheme::Bearer) || self.places.iter().any(is_query),
                has_dpop: self.reads(AuthScheme::Dpop),
            },
            Some(place) => match place.location {
                Location::Authorization(_) => Schemes {
                    has_bearer: self.reads(AuthScheme::Bearer),
                    has_dpop: self.reads(AuthScheme::Dpop),
                },
                // RFC 6750 defines this place for bearer tokens.
                Location::Query(_) => Schemes::BEARER,
                _ => Schemes::NONE,
            },
        }
    }

    /// Like [`extract`](Self::extract), but also hides the tokens of a request: marks all headers
    /// that may carry one as sensitive, so that `Debug` does not print their values, and removes
    /// tokens from the query and the sub-protocols.
    #[inline]
    pub(crate) fn take<B>(&self, request: &mut Request<B>) -> Found {
        if self.reads_head {
            return self.take_from_head(request);
        }
        self.find(SensitiveHeaders(request.headers_mut()))
    }

    fn take_from_head<B>(&self, request: &mut Request<B>) -> Found {
        let head = RequestHead::from(&*request);
        let found = self.find(head);
        // The conditions must not depend on what is removed below.
        let removed: Vec<_> = self
            .places
            .iter()
            .filter(|place| place.location.is_removed() && place.applies_to(Some(&head)))
            .collect();
        let mut headers = SensitiveHeaders(request.headers_mut());
        for place in &*self.places {
            place.location.pass(&mut headers);
        }
        for place in removed {
            place.location.remove(request);
        }
        found
    }

    #[inline]
    fn find(&self, mut headers: impl Headers) -> Found {
        let mut found = Found {
            token: Ok(None),
            place: self.places.len(),
        };
        for (at, place) in self.places.iter().enumerate() {
            if !matches!(found.token, Ok(None)) {
                place.location.pass(&mut headers);
            } else if place.applies_to(headers.head()) {
                found.token = place.location.read(&mut headers, self);
                found.place = at;
            }
        }
        if matches!(found.token, Ok(None)) {
            found.place = self.places.len();
        }
        found
    }

    fn cookie_format(&self, is_percent_encoded: bool) -> CookieFormat {
        CookieFormat {
            is_percent_encoded,
            max_len: self.max_len,
        }
    }

    fn of(location: Location) -> Self {
        let reads_head = location.is_removed() || matches!(location, Location::Custom(_));
        Self {
            places: Arc::new([Place {
                location,
                condition: None,
            }]),
            max_len: DEFAULT_MAX_LEN,
            rejects_repeated_cookies: false,
            reads_head,
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

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.condition {
            None => self.location.fmt(f),
            Some(_) => f.debug_tuple("OnlyIf").field(&self.location).finish(),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorization(scheme) => scheme.fmt(f),
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::Cookie { name, .. } => f.debug_tuple("Cookie").field(name).finish(),
            Self::Query(name) => f.debug_tuple("Query").field(name).finish(),
            Self::WebSocketProtocol(prefix) => {
                f.debug_tuple("WebSocketProtocol").field(prefix).finish()
            }
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

impl Place {
    #[inline]
    fn applies_to(&self, head: Option<&RequestHead<'_>>) -> bool {
        match (&self.condition, head) {
            (None, _) => true,
            (Some(condition), Some(head)) => condition(head),
            (Some(_), None) => false,
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
            Self::Query(_) | Self::WebSocketProtocol(_) => &[],
            Self::Custom(_) => &KNOWN,
        }
    }

    /// Marks the headers that this source reads.
    fn pass(&self, headers: &mut impl Headers) {
        self.names().iter().for_each(|name| headers.pass(name));
    }

    /// Returns whether a token in this place is removed from the request.
    fn is_removed(&self) -> bool {
        matches!(self, Self::Query(_) | Self::WebSocketProtocol(_))
    }

    fn remove<B>(&self, request: &mut Request<B>) {
        match self {
            Self::Query(name) => {
                if let Some(uri) = query::without(request.uri(), name) {
                    *request.uri_mut() = uri;
                }
            }
            Self::WebSocketProtocol(prefix) => {
                websocket_protocol::remove(request.headers_mut(), prefix);
            }
            _ => {}
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
            Self::Query(_) | Self::WebSocketProtocol(_) | Self::Custom(_) => {
                let head = headers.head();
                head.map_or(Ok(None), |head| self.read_head(head, source.max_len))
            }
        }
    }

    /// Reads a token that the headers alone do not contain.
    fn read_head(
        &self,
        head: &RequestHead<'_>,
        max_len: usize,
    ) -> Result<Option<SessionToken>, TokenError> {
        match self {
            Self::Query(name) => query::read(head.uri(), name, max_len),
            Self::WebSocketProtocol(prefix) => {
                websocket_protocol::read(head.headers(), prefix, max_len)
            }
            Self::Custom(read) => match read(head) {
                Ok(Some(token)) if token.as_bytes().len() > max_len => Err(TokenError::TooLong),
                Err(TokenError::Empty) => Ok(None),
                found => found,
            },
            Self::Authorization(_) | Self::Header(_) | Self::Cookie { .. } => Ok(None),
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

    fn request() -> impl Strategy<Value = Request<()>> {
        let session = HeaderName::from_static("x-session");
        let name = prop::sample::select(vec![
            header::AUTHORIZATION,
            header::COOKIE,
            header::SEC_WEBSOCKET_PROTOCOL,
            session,
        ]);
        let value = "(bearer |Bearer\t|DPoP |Basic |s=a;s=|s=|t=|a, s\\.)?[ab,;%\" ]{0,3}";
        let value = value.prop_map(|text| HeaderValue::try_from(text).unwrap());
        let headers = proptest::collection::vec((name, value), 0..4);
        let pairs = proptest::collection::vec("[st]?(=[ab%4]{0,3})?|%73=a", 0..3);
        (headers, pairs).prop_map(|(headers, pairs)| {
            let uri = format!("/path?{}", pairs.join("&"));
            let mut request = Request::get(uri).body(()).unwrap();
            *request.headers_mut() = headers.into_iter().collect();
            request
        })
    }

    fn shown(
        found: Result<Option<SessionToken>, TokenError>,
    ) -> Result<Option<String>, TokenError> {
        found.map(|token| token.map(|token| token.expose_secret().to_owned()))
    }

    proptest! {
        #[test]
        fn take_equals_extract_and_hides_the_token(mut request in request(), of_head: bool) {
            let in_headers = TokenSource::bearer()
                .or(TokenSource::dpop())
                .or(TokenSource::header(HeaderName::from_static("x-session")))
                .or(TokenSource::percent_encoded_cookie("s"));
            let source = if of_head {
                in_headers
                    .or(TokenSource::query("s"))
                    .or(TokenSource::websocket_protocol("s."))
                    .or(TokenSource::from_fn(|_| Err(TokenError::List)))
            } else {
                in_headers
            };
            prop_assert_eq!(source.reads_head, of_head);
            let extracted = shown(source.extract(&request));
            let candidates = source.candidates(&request);
            let Found { token, place } = source.take(&mut request);
            let taken = shown(token);
            prop_assert_eq!(&extracted, &taken);
            let first = candidates.clone().map(|tokens| tokens.first().cloned());
            prop_assert_eq!(shown(first), taken);
            let further = source.further_candidates(place, &request);
            let count = candidates.map_or(0, |tokens| tokens.len());
            prop_assert_eq!(further.len(), count.saturating_sub(1));
            for (name, value) in request.headers() {
                prop_assert!(value.is_sensitive() || name == header::SEC_WEBSOCKET_PROTOCOL);
            }
            if of_head {
                prop_assert!(TokenSource::query("s").extract(&request)?.is_none());
                let protocol = TokenSource::websocket_protocol("s.");
                prop_assert!(protocol.extract(&request)?.is_none());
                let query = request.uri().query().unwrap_or_default();
                prop_assert!(query.split('&').all(|pair| !pair.starts_with("s=")));
            }
        }

        #[test]
        fn closure_marks_the_usual_headers(mut request in request()) {
            let session = HeaderName::from_static("x-session");
            let source = TokenSource::from_fn(|_| Err(TokenError::List));
            prop_assert!(source.take(&mut request).token.is_err());
            let headers = request.headers_mut();
            headers.remove(&session);
            headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
            prop_assert!(headers.values().all(HeaderValue::is_sensitive));
        }
    }
}
