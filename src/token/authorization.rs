//! The `Authorization` header: one credential, which names its scheme ([RFC 9110, section 11.6.2]).
//!
//! [RFC 9110, section 11.6.2]: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.2

use http::{HeaderMap, header};

use super::session_token::TokenError;

/// Scheme of a credential that contains an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthScheme {
    /// [RFC 6750](https://www.rfc-editor.org/rfc/rfc6750).
    Bearer,
    /// [RFC 9449](https://www.rfc-editor.org/rfc/rfc9449).
    Dpop,
}

impl AuthScheme {
    /// Returns where the token of a credential with this scheme starts.
    #[inline]
    pub(super) fn token_start(self, credential: &[u8]) -> Option<usize> {
        match self {
            Self::Bearer => end_of(b"Bearer", credential),
            Self::Dpop => end_of(b"DPoP", credential),
        }
    }

    /// Returns the scheme of a credential that contains a token.
    fn of(credential: &[u8]) -> Option<Self> {
        [Self::Bearer, Self::Dpop].into_iter().find(|scheme| {
            let start = scheme.token_start(credential);
            start.is_some_and(|start| !credential[start..].trim_ascii().is_empty())
        })
    }
}

/// The authorization schemes that a challenge names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schemes {
    pub(crate) has_bearer: bool,
    pub(crate) has_dpop: bool,
}

impl Schemes {
    pub(crate) const NONE: Self = Self {
        has_bearer: false,
        has_dpop: false,
    };
    pub(crate) const BEARER: Self = Self {
        has_bearer: true,
        has_dpop: false,
    };

    /// Returns the schemes of the tokens that a request has sent.
    pub(crate) fn sent_in(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::AUTHORIZATION).iter();
        let sent = values.filter_map(|value| AuthScheme::of(value.as_bytes()));
        sent.fold(Self::NONE, |schemes, scheme| match scheme {
            AuthScheme::Bearer => Self {
                has_bearer: true,
                ..schemes
            },
            AuthScheme::Dpop => Self {
                has_dpop: true,
                ..schemes
            },
        })
    }
}

/// Compares arrays, whose length is known to the compiler, because each hit does this.
#[inline]
fn end_of<const N: usize>(scheme: &[u8; N], credential: &[u8]) -> Option<usize> {
    match credential.split_first_chunk::<N>() {
        // The exact comparison comes first because nearly all clients send this spelling.
        Some((sent, [] | [b' ' | b'\t', ..]))
            if sent == scheme || sent.eq_ignore_ascii_case(scheme) =>
        {
            Some(N)
        }
        _ => None,
    }
}

/// Checks a header whose scheme a source does not read. Its credential counts as absent, unless it
/// contains a token: another source must not decide in its place.
#[cold]
pub(super) fn check_other_scheme(
    value: &[u8],
    is_read: impl Fn(AuthScheme) -> bool,
) -> Result<(), TokenError> {
    let (mut count, mut scheme) = (0_usize, None);
    for credential in credentials(value) {
        count += 1;
        scheme = scheme.or(AuthScheme::of(credential));
    }
    match scheme {
        // A proxy has joined several headers with a comma.
        Some(_) if count > 1 => Err(TokenError::List),
        Some(scheme) if !is_read(scheme) => Err(TokenError::UnsupportedScheme),
        _ => Ok(()),
    }
}

/// Splits a header at its commas, apart from those in a quoted string. Parameters of a scheme such
/// as `Digest` are also separated by commas, but none looks like a credential with a token.
fn credentials(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    // Without a closing quote, a quote is an ordinary byte. Otherwise it could hide a credential.
    let (mut rest, mut is_closed) = (Some(value), true);
    std::iter::from_fn(move || {
        let now = rest?;
        let mut at = 0;
        while let Some(byte) = now.get(at) {
            match byte {
                b',' => break,
                b'"' if is_closed => match quoted_len(&now[at..]) {
                    Some(length) => at += length,
                    // Search only once, so that the time is linear.
                    None => is_closed = false,
                },
                _ => at += 1,
            }
        }
        rest = now.get(at + 1..);
        Some(now[..at].trim_ascii())
    })
}

/// Returns the length of the quoted string at the start, unless its closing quote is missing.
fn quoted_len(value: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    let closing = value.iter().skip(1).position(|byte| {
        let is_closing = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_closing
    });
    closing.map(|at| at + 2)
}
