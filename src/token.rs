//! How a session token is found in a request, and how it is kept from being seen.
//!
//! A [`TokenSource`] reads headers synchronously and answers one of three things: found, absent,
//! or malformed. The difference between the last two matters: an absent token may be fine
//! (`optional` mode), while a malformed one is a client's error or an attack, is answered with
//! 400 `invalid_request` ([RFC 6750, section 3.1]) and never reaches the store or the identity
//! provider.
//!
//! The first source that is *present* decides. A malformed first source is not skipped in favour
//! of a second, since two parties that disagree about which credential counts are a classic hole.
//!
//! [RFC 6750, section 3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1

use std::{error::Error as StdError, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

mod cookie;

/// An opaque session token: one or more bytes of visible ASCII.
///
/// It prints as `SessionToken(…)`, has no `Display`, no `Serialize` and no comparison (which
/// would leak timing). [`expose_secret`](Self::expose_secret) is the only way to its text, so
/// that a search for that name finds every use. Cloning shares the bytes.
///
/// ```
/// use tower_session_cache::SessionToken;
///
/// let token = SessionToken::parse("s3cr3t")?;
/// assert_eq!(token.expose_secret(), "s3cr3t");
/// assert_eq!(format!("{token:?}"), "SessionToken(…)");
/// assert!(SessionToken::parse("two words").is_err());
/// # Ok::<(), tower_session_cache::TokenError>(())
/// ```
#[derive(Clone)]
pub struct SessionToken(Arc<[u8]>);

impl SessionToken {
    /// Takes a token of any length.
    ///
    /// # Errors
    ///
    /// [`TokenError::Empty`], or [`TokenError::InvalidByte`] for anything outside `!` to `~`.
    pub fn parse(token: impl Into<Bytes>) -> Result<Self, TokenError> {
        Self::read(&token.into())
    }

    fn read(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.is_empty() {
            return Err(TokenError::Empty);
        }
        // All of them, since without an early end the compiler checks many at once.
        let is_visible = |all: bool, byte: &u8| all & byte.is_ascii_graphic();
        if !bytes.iter().fold(true, is_visible) {
            return Err(TokenError::InvalidByte);
        }
        Ok(Self(bytes.into()))
    }

    /// The token itself. Whoever sees it is the user: do not log it.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        // Checked when it was made, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

/// Why a request's credential is malformed. No variant carries any of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenError {
    /// The header or cookie is there, but the token in it is empty.
    Empty,
    /// The token contains a byte outside visible ASCII.
    InvalidByte,
    /// The token is longer than the source allows.
    TooLong,
    /// The header was sent more than once, or the cookie with different values.
    Repeated,
    /// One header holds a list of credentials.
    List,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the session token is empty",
            Self::InvalidByte => "the session token contains a byte outside visible ASCII",
            Self::TooLong => "the session token is too long",
            Self::Repeated => "the credential was sent more than once",
            Self::List => "one header holds a list of credentials",
        })
    }
}

impl StdError for TokenError {}

type FromHeaders = dyn Fn(&HeaderMap) -> Result<Option<SessionToken>, TokenError> + Send + Sync;

/// Where a layer looks for the session token. Defaults to [`bearer`](Self::bearer).
///
/// 1. Sources are asked in order; the first that is present decides, even when it is malformed.
/// 2. `Authorization` with another scheme than `Bearer` counts as absent.
/// 3. A header sent twice, a list in one header, a cookie sent twice with different values, an
///    empty token, a byte outside visible ASCII or a token of more than 4 KiB
///    ([`with_max_len`](Self::with_max_len)) is malformed.
///
/// The headers that a source reads are marked sensitive before the request travels on, so that
/// their values are not printed by `Debug`.
///
/// # Cookies and CSRF
///
/// A browser adds cookies to requests that other sites cause. With a cookie source put
/// tower-http's `csrf` layer outside of this one and set `SameSite` on the cookie.
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
}

#[derive(Clone)]
enum Place {
    Bearer,
    Header(HeaderName),
    Cookie { name: Arc<str>, percent: bool },
    Custom(Arc<FromHeaders>),
}

/// Real tokens stay far below; a longer one is a mistake or an attack on the hash function's time.
const DEFAULT_MAX_LEN: usize = 4096;

impl TokenSource {
    /// `Authorization: Bearer <token>` ([RFC 6750, section 2.1]), the scheme compared without
    /// case.
    ///
    /// [RFC 6750, section 2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
    #[must_use]
    pub fn bearer() -> Self {
        Self::of(Place::Bearer)
    }

    /// A header that holds nothing but the token.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        Self::of(Place::Header(name))
    }

    /// A cookie, by its case-sensitive name, its value taken as it is (a pair of double quotes
    /// around it apart).
    #[must_use]
    pub fn cookie(name: impl Into<String>) -> Self {
        Self::of(Place::Cookie {
            name: name.into().into(),
            percent: false,
        })
    }

    /// A cookie whose value may be percent-encoded, as JavaScript's `encodeURIComponent` does it.
    #[must_use]
    pub fn percent_encoded_cookie(name: impl Into<String>) -> Self {
        Self::of(Place::Cookie {
            name: name.into().into(),
            percent: true,
        })
    }

    /// Any other place: the closure answers `Ok(None)` for absent and an error for malformed.
    ///
    /// Of the headers it reads, only `Authorization` and `Cookie` are marked sensitive.
    pub fn from_fn<F>(f: F) -> Self
    where
        F: Fn(&HeaderMap) -> Result<Option<SessionToken>, TokenError> + Send + Sync + 'static,
    {
        Self::of(Place::Custom(Arc::new(f)))
    }

    /// Where Appwrite's own clients put the session of a project: `Authorization: Bearer`,
    /// `X-Appwrite-Session`, and the cookies `a_session_<project>` and
    /// `a_session_<project>_legacy`.
    #[must_use]
    pub fn appwrite(project_id: &str) -> Self {
        Self::bearer()
            .or(Self::header(HeaderName::from_static("x-appwrite-session")))
            .or(Self::percent_encoded_cookie(format!(
                "a_session_{project_id}"
            )))
            .or(Self::percent_encoded_cookie(format!(
                "a_session_{project_id}_legacy"
            )))
    }

    /// Asks `other` when this source is absent. The longer of the two length limits holds.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            places: self.places.iter().chain(&*other.places).cloned().collect(),
            max_len: self.max_len.max(other.max_len),
        }
    }

    /// Sets the longest token that is not malformed, in bytes. Defaults to 4096.
    #[must_use]
    pub fn with_max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Reads the token of a request: found, absent (`None`), or malformed.
    ///
    /// # Errors
    ///
    /// The [`TokenError`] of the first source that is present.
    pub fn extract(&self, headers: &HeaderMap) -> Result<Option<SessionToken>, TokenError> {
        for place in &*self.places {
            let found = match place {
                Place::Bearer => bearer(headers, self.max_len)?,
                Place::Header(name) => only(headers, name)?
                    .map(|value| from_header(value, 0, self.max_len))
                    .transpose()?,
                Place::Cookie { name, percent } => {
                    cookie::find(headers, name, *percent, self.max_len)?
                }
                Place::Custom(read) => read(headers)?,
            };
            if let Some(token) = found {
                return if token.0.len() > self.max_len {
                    Err(TokenError::TooLong)
                } else {
                    Ok(Some(token))
                };
            }
        }
        Ok(None)
    }

    /// Keeps the values of the headers that carry tokens out of `Debug` output.
    pub(crate) fn mark_sensitive(&self, headers: &mut HeaderMap) {
        for place in &*self.places {
            match place {
                Place::Bearer => mark(headers, &header::AUTHORIZATION),
                Place::Header(name) => mark(headers, name),
                Place::Cookie { .. } => mark(headers, &header::COOKIE),
                Place::Custom(_) => {
                    mark(headers, &header::AUTHORIZATION);
                    mark(headers, &header::COOKIE);
                }
            }
        }
    }

    fn of(place: Place) -> Self {
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

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("Bearer"),
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::Cookie { name, .. } => f.debug_tuple("Cookie").field(name).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

fn bearer(headers: &HeaderMap, max_len: usize) -> Result<Option<SessionToken>, TokenError> {
    let Some(value) = only(headers, &header::AUTHORIZATION)? else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let scheme = bytes
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\t'))
        .unwrap_or(bytes.len());
    if bytes.is_empty() {
        return Err(TokenError::Empty);
    }
    if !bytes[..scheme].eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    from_header(value, scheme, max_len).map(Some)
}

/// The header's only value; sent twice it is malformed, whatever the values are.
fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, TokenError> {
    if has_repeated(headers) && headers.get_all(name).iter().nth(1).is_some() {
        return Err(TokenError::Repeated);
    }
    Ok(headers.get(name))
}

/// Whether any header was sent more than once, which is told by counting and without a search.
fn has_repeated(headers: &HeaderMap) -> bool {
    headers.len() != headers.keys_len()
}

/// The token that starts behind `from`, white space around it apart.
fn from_header(
    value: &HeaderValue,
    from: usize,
    max_len: usize,
) -> Result<SessionToken, TokenError> {
    let bytes = value.as_bytes();
    let rest = bytes[from..].trim_ascii_start();
    let start = bytes.len() - rest.len();
    let end = start + rest.trim_ascii_end().len();
    if end - start > max_len {
        return Err(TokenError::TooLong);
    }
    // Proxies join repeated headers with a comma, and no token68 or base64 contains one.
    if bytes[start..end]
        .iter()
        .fold(false, |any, byte| any | (*byte == b','))
    {
        return Err(TokenError::List);
    }
    SessionToken::read(&bytes[start..end])
}

fn mark(headers: &mut HeaderMap, name: &HeaderName) {
    if !has_repeated(headers) {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    // It makes room for another one first, which is why it is not asked every time.
    } else if let header::Entry::Occupied(mut values) = headers.entry(name) {
        values
            .iter_mut()
            .for_each(|value| value.set_sensitive(true));
    }
}
