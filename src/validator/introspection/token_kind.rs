//! Distinguishes access tokens from the other tokens that servers call active: refresh, ID and
//! logout tokens. They live longer, or are sent to more places, and do not authorize requests.

use serde_json::{Map, Value};

/// The kind of token, with Ory Hydra and with OpenIddict.
const TOKEN_USES: [&str; 2] = ["token_use", "token_usage"];
const TYP: &str = "typ";
const TOKEN_TYPE: &str = "token_type";
/// Claims that state the kind of a token. They are compared on every hit.
pub(super) const KIND_CLAIMS: [&str; 4] = [TOKEN_USES[0], TOKEN_USES[1], TYP, TOKEN_TYPE];

const ACCESS_TOKEN: &str = "access_token";
/// Values of `typ` for tokens that are not access tokens. The first four are Keycloak's. Access
/// tokens have too many values to list, such as `Bearer`, `JWT` and `at+jwt`.
const FORBIDDEN_TYPS: [&str; 7] = [
    "Refresh",
    "Offline",
    "ID",
    "Logout",
    "logout+jwt",
    "refresh_token",
    "id_token",
];

/// The kinds of token that a validator accepts.
#[derive(Debug, Default)]
pub(crate) struct TokenKinds {
    pub(super) requires_token_type: bool,
    pub(super) token_uses: Vec<String>,
    pub(super) typs: Vec<String>,
    pub(super) token_types: Vec<String>,
}

impl TokenKinds {
    /// Checks the claims of a response, or those stored with a user. The error is the reason. A
    /// value that is not a text states no known kind and is an error.
    pub(super) fn check(
        &self,
        claims: &Map<String, Value>,
        allows_bound_tokens: bool,
    ) -> Result<(), &'static str> {
        let mut uses = TOKEN_USES.iter().filter_map(|name| present(claims, name));
        if !uses.all(|found| is_one_of(found, &[ACCESS_TOKEN], &self.token_uses)) {
            return Err("`token_use` is not `access_token`; see `allow_token_use`");
        }
        if let Some(typ) = present(claims, TYP)
            && (!typ.is_string() || is_one_of(typ, &FORBIDDEN_TYPS, &[]))
            && !is_one_of(typ, &[], &self.typs)
        {
            return Err("`typ` is not that of an access token; see `allow_typ`");
        }
        let Some(found) = present(claims, TOKEN_TYPE) else {
            return match self.requires_token_type {
                true => Err("`token_type` is missing; see `require_token_type`"),
                false => Ok(()),
            };
        };
        // Some servers write what `token_use` says on others.
        let known: &[&str] = match allows_bound_tokens {
            true => &["Bearer", ACCESS_TOKEN, "DPoP"],
            false => &["Bearer", ACCESS_TOKEN],
        };
        match is_one_of(found, known, &self.token_types) {
            true => Ok(()),
            false => Err(
                "`token_type` is not `Bearer`, or is `DPoP` and bound tokens are not allowed; see \
                 `allow_token_type` and `allow_bound_tokens`",
            ),
        }
    }
}

/// Returns a claim. Null counts as absent.
fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

/// Compares without case, as `token_type` is compared in [RFC 6749, section 5.1].
///
/// [RFC 6749, section 5.1]: https://www.rfc-editor.org/rfc/rfc6749#section-5.1
fn is_one_of(value: &Value, known: &[&str], allowed: &[String]) -> bool {
    let allowed = allowed.iter().map(String::as_str);
    value.as_str().is_some_and(|text| {
        let mut names = known.iter().copied().chain(allowed);
        names.any(|name| name.eq_ignore_ascii_case(text))
    })
}
