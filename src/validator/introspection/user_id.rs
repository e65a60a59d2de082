//! Chooses the claim that identifies the user, and keeps a client apart from a user whose ID is the
//! same text.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::response::IntrospectionResponse;
use crate::model::{Authority, UserData, UserDataBuilder};

/// Attribute with the name of the claim that the user's ID was taken from, unless it was `sub`.
/// Records use this name.
const USER_ID_CLAIM: &str = "user_id_member";
/// Attribute with the claims that precede that claim, and that identified no user.
const EARLIER_CLAIMS: &str = "user_id_members_missing";
/// Attributes that no claim of the server may set.
pub(super) const USER_ID_ATTRIBUTES: [&str; 2] = [USER_ID_CLAIM, EARLIER_CLAIMS];

const SUB: &str = "sub";
/// A claim that a user may choose freely unless the provider has verified it.
const EMAIL: &str = "email";
/// Claims that identify the client that a token was issued to.
const CLIENT_CLAIMS: [&str; 2] = ["client_id", "azp"];
/// Claims that show, if there is no `sub`, that a token belongs to a user and not to a client.
const USER_CLAIMS: [&str; 4] = ["username", "preferred_username", "email", "sid"];
/// Claims that are compared on every hit.
pub(super) const ID_CLAIMS: [&str; 3] = [SUB, CLIENT_CLAIMS[0], CLIENT_CLAIMS[1]];

/// The claims that the user's ID is taken from, in the order in which they are read.
#[derive(Debug)]
pub(crate) struct UserIdClaims {
    pub(super) first: String,
    pub(super) others: Vec<String>,
}

impl Default for UserIdClaims {
    fn default() -> Self {
        Self {
            first: SUB.to_owned(),
            others: Vec::new(),
        }
    }
}

/// The user's ID, and where it was found.
pub(super) struct UserId<'a> {
    pub(super) id: String,
    claim: &'a str,
    /// The claims that were read before.
    earlier: Vec<&'a str>,
}

impl UserIdClaims {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let others = self.others.iter().map(String::as_str);
        std::iter::once(&*self.first).chain(others)
    }

    /// Returns the ID from the first claim that identifies a user. `has_session` states whether
    /// the response contains a session's ID, which only users have.
    pub(super) fn find(
        &self,
        response: &IntrospectionResponse,
        has_session: bool,
    ) -> Option<UserId<'_>> {
        let claims = response.claims();
        let mut earlier = Vec::new();
        for claim in self.iter() {
            if let Some(id) = id_text(claims, claim)
                && if CLIENT_CLAIMS.contains(&claim) {
                    // As the first claim it is the explicit choice for all tokens.
                    earlier.is_empty() || !has_session && !has_user(claims)
                } else {
                    !is_client(claims, &id)
                }
            {
                return Some(UserId {
                    id: id.into_owned(),
                    claim,
                    earlier,
                });
            }
            earlier.push(claim);
        }
        None
    }

    /// Returns `true` if this validator would have taken the ID of a cached user from the same
    /// claim.
    pub(super) fn accepts(&self, user: &UserData) -> bool {
        let kept = user.attributes();
        let Some(stored) = kept.get(USER_ID_CLAIM).map_or(Some(SUB), Value::as_str) else {
            return false;
        };
        // Skips the claims before it, which are stored: an ID from a later claim counts only if the
        // same earlier ones identified no user.
        let mut claims = self.iter();
        let has_same_claims = match kept.get(EARLIER_CLAIMS) {
            None => true,
            Some(Value::Array(earlier)) => earlier.iter().all(|name| {
                name.as_str()
                    .is_some_and(|name| claims.next() == Some(name))
            }),
            Some(_) => false,
        };
        has_same_claims
            && claims.next() == Some(stored)
            && is_verified(stored, user.email_verified())
            && (CLIENT_CLAIMS.contains(&stored) || !is_client(kept, user.id()))
    }
}

impl UserId<'_> {
    /// Returns `true` if the provider guarantees the ID.
    pub(super) fn is_verified(&self, email_verified: bool) -> bool {
        is_verified(self.claim, email_verified)
    }

    /// Returns the authority that the ID is unique under, unless it is the validator's. An ID from
    /// a later claim has its own, because it may be the same text as an ID from the first claim.
    pub(super) fn authority(&self, authority: &Authority) -> Option<Authority> {
        (!self.earlier.is_empty()).then(|| format!("{}#{}", authority.as_str(), self.claim).into())
    }

    /// Stores where the ID was found.
    pub(super) fn mark(&self, mut user: UserDataBuilder) -> UserDataBuilder {
        if self.claim != SUB {
            user = user.attribute(USER_ID_CLAIM, self.claim);
        }
        if !self.earlier.is_empty() {
            user = user.attribute(EARLIER_CLAIMS, self.earlier.clone());
        }
        user
    }
}

/// An e-mail address identifies a user only if it is verified.
fn is_verified(claim: &str, email_verified: bool) -> bool {
    claim != EMAIL || email_verified
}

/// Returns a claim that may be an ID: a non-empty text or a whole number.
fn id_text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<Cow<'a, str>> {
    match claims.get(name)? {
        Value::String(id) if !id.is_empty() => Some(id.into()),
        Value::Number(id) if id.is_u64() => Some(id.to_string().into()),
        _ => None,
    }
}

/// Returns `true` if the token belongs to its client, because `sub` or this ID is the client's
/// ([RFC 9700, section 4.15]).
///
/// [RFC 9700, section 4.15]: https://www.rfc-editor.org/rfc/rfc9700#section-4.15
fn is_client(claims: &Map<String, Value>, id: &str) -> bool {
    let sub = id_text(claims, SUB);
    let mut clients = CLIENT_CLAIMS
        .iter()
        .filter_map(|name| id_text(claims, name));
    clients.any(|client| client == id || sub.as_ref() == Some(&client))
}

/// Returns `true` if the token may belong to a user.
fn has_user(claims: &Map<String, Value>) -> bool {
    let names_user = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) if text.is_empty() => false,
        // What is not an ID is not the client's either.
        Some(_) => id_text(claims, name).is_none_or(|id| !is_client(claims, &id)),
    };
    names_user(SUB) || USER_CLAIMS.iter().any(|name| names_user(name))
}
