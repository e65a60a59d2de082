//! The session token, which is kept out of logs and comparisons.

use std::{error::Error as StdError, fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use http::HeaderValue;
use percent_encoding::percent_decode_str;

/// An opaque session token: one or more bytes of visible ASCII.
///
/// `Debug` prints `SessionToken(…)`. There is no `Display`, no `Serialize` and no comparison, which
/// would leak timing. [`expose_secret`](Self::expose_secret) is the only access to the text, so a
/// search for that name finds every use.
///
/// A token that was read from a request may share the memory of its headers. A clone does not, so
/// clone a token to keep it for longer than the request. Clones of a clone share their memory.
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
pub struct SessionToken(pub(crate) TokenRepr);

pub(crate) enum TokenRepr {
    Own(Arc<[u8]>),
    /// A range of a header's value, so that a hit copies nothing.
    Part(HeaderValue, Range<usize>),
}

impl SessionToken {
    /// Creates a token of any length.
    ///
    /// # Errors
    ///
    /// Returns [`TokenError::Empty`], or [`TokenError::InvalidByte`] for any byte outside `!` to
    /// `~`.
    pub fn parse(token: impl Into<Bytes>) -> Result<Self, TokenError> {
        Self::copy(&token.into())
    }

    pub(crate) fn copy(token: &[u8]) -> Result<Self, TokenError> {
        check(token, u8::is_ascii_graphic)?;
        Ok(Self(TokenRepr::Own(token.into())))
    }

    /// Returns the token itself. Do not log it.
    ///
    /// # Security
    ///
    /// Anyone who has the token can act as the user.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        // The constructor has checked the bytes, so the fallback is never used.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl TokenRepr {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            // The constructor has checked the range, so the fallback is never used.
            Self::Part(value, range) => value.as_bytes().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl Clone for TokenRepr {
    fn clone(&self) -> Self {
        Self::Own(match self {
            Self::Own(bytes) => Arc::clone(bytes),
            Self::Part(..) => self.as_bytes().into(),
        })
    }
}

pub(crate) fn check(token: &[u8], is_fine: impl Fn(&u8) -> bool) -> Result<(), TokenError> {
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    // Checks every byte without an early exit, so that the compiler can check many at a time.
    if token.iter().fold(true, |all, byte| all & is_fine(byte)) {
        return Ok(());
    }
    if token.contains(&b',') && !is_fine(&b',') {
        return Err(TokenError::List);
    }
    Err(TokenError::InvalidByte)
}

/// Returns the token of a percent-encoded text. An empty text is no credential.
pub(super) fn decoded(text: &str, max_len: usize) -> Result<Option<SessionToken>, TokenError> {
    if text.is_empty() {
        return Ok(None);
    }
    let token: Vec<u8> = percent_decode_str(text).collect();
    if token.len() > max_len {
        return Err(TokenError::TooLong);
    }
    SessionToken::copy(&token).map(Some)
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
    /// The text passed to [`SessionToken::parse`] is empty. No request is rejected for this reason,
    /// because an empty header or cookie counts as absent.
    Empty,
    /// The token contains a byte outside visible ASCII.
    InvalidByte,
    /// The token is longer than the source allows.
    TooLong,
    /// The header, query parameter or sub-protocol was sent more than once, or the cookie with
    /// different values although
    /// [`reject_repeated_cookies`](crate::TokenSource::reject_repeated_cookies) was called.
    Repeated,
    /// One header contains a list of credentials.
    List,
    /// The token was sent with an authorization scheme that the source does not read: `DPoP` to
    /// [`bearer`](crate::TokenSource::bearer), or `Bearer` to [`dpop`](crate::TokenSource::dpop).
    /// The layer rejects it as
    /// [`RejectionKind::UnsupportedScheme`](crate::RejectionKind::UnsupportedScheme).
    UnsupportedScheme,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the session token is empty",
            Self::InvalidByte => "the session token contains a byte outside visible ASCII",
            Self::TooLong => "the session token is too long",
            Self::Repeated => "the session token was sent more than once",
            Self::List => "the header contains a list of credentials",
            Self::UnsupportedScheme => "the authorization scheme is not accepted",
        })
    }
}

impl StdError for TokenError {}
