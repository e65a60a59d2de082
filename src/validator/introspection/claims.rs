//! Conversion of a response to a session, and the check whether a cached session meets this
//! validator's requirements.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::{
    error::failure,
    response::{IntrospectionResponse, audiences, scopes},
};
use crate::{
    model::UserData,
    telemetry::VALIDATION,
    token::SessionToken,
    validator::{
        error::{ForbiddenReason, ValidationError},
        session::ValidatedSession,
    },
};

/// Maximum size of the attributes. A record is limited to 64 KiB, and also contains names and an
/// e-mail address.
const MAX_ATTRIBUTES: usize = 16 * 1024;

/// Claims that are compared on every hit, and are therefore stored first if not all claims fit.
const RETAINED_FIRST: [&str; 3] = ["iss", "aud", "scope"];

/// The claim for the key that a token is bound to, by DPoP ([RFC 9449]) or by a client's
/// certificate ([RFC 8705]).
///
/// [RFC 9449]: https://www.rfc-editor.org/rfc/rfc9449#section-6.2
/// [RFC 8705]: https://www.rfc-editor.org/rfc/rfc8705#section-3.2
const CNF: &str = "cnf";

/// Attribute with the name of the claim that the user's ID was taken from, unless it was `sub`.
/// Records use this name.
const USER_ID_CLAIM: &str = "user_id_member";
pub(super) const SUB: &str = "sub";
const NBF: &str = "nbf";
/// A claim that a user may choose freely unless the provider has verified it.
const EMAIL: &str = "email";

pub(crate) type Tier = dyn Fn(&IntrospectionResponse) -> String + Send + Sync;

pub(crate) struct Settings {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) allows_bound_tokens: bool,
    pub(crate) user_id_claim: String,
    pub(crate) session_id_claim: String,
    pub(crate) leeway: TimeDelta,
    pub(crate) tier: Box<Tier>,
}

/// A requirement that an active token does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnmetRequirement {
    Issuer,
    Audience,
    Scope,
    Proof,
}

impl Settings {
    /// Compares the requirements with the claims of a response, or with the claims stored with a
    /// user.
    fn check(&self, claims: &Map<String, Value>) -> Result<(), UnmetRequirement> {
        let is_bound = claims.get(CNF).is_some_and(|key| !key.is_null());
        if is_bound && !self.allows_bound_tokens {
            return Err(UnmetRequirement::Proof);
        }
        if let Some(issuer) = &self.issuer {
            let found = claims.get("iss").and_then(Value::as_str);
            if found != Some(issuer) {
                return Err(UnmetRequirement::Issuer);
            }
        }
        if let Some(audience) = &self.audience
            && !audiences(claims).any(|found| found == audience)
        {
            return Err(UnmetRequirement::Audience);
        }
        let has = |scope: &String| scopes(claims).any(|found| found == scope);
        if !self.scopes.iter().all(has) {
            return Err(UnmetRequirement::Scope);
        }
        Ok(())
    }

    pub(crate) fn accepts(&self, user: &UserData) -> bool {
        let kept = user.attributes();
        // An ID from another claim may be that of another user.
        let id_of = kept.get(USER_ID_CLAIM).map_or(Some(SUB), Value::as_str);
        id_of == Some(&self.user_id_claim)
            && self.is_id_verified(user.email_verified())
            && self.is_valid_by_now(kept)
            && self.check(kept).is_ok()
    }

    /// Returns `false` if `nbf` is still too far ahead. Another validator with a longer leeway may
    /// have accepted the token earlier.
    fn is_valid_by_now(&self, kept: &Map<String, Value>) -> bool {
        let Some(begin) = kept.get(NBF) else {
            return true;
        };
        let begin = begin
            .as_i64()
            .and_then(|at| DateTime::from_timestamp(at, 0));
        begin.is_some_and(|begin| begin - Utc::now() <= self.leeway)
    }

    /// Returns `true` if the provider guarantees the user's ID. An e-mail address counts only if it
    /// is verified.
    fn is_id_verified(&self, email_verified: bool) -> bool {
        self.user_id_claim != EMAIL || email_verified
    }
}

/// Returns the session of an active token.
pub(crate) fn session(
    settings: &Settings,
    token: &SessionToken,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<ValidatedSession, ValidationError> {
    let Some(response) = IntrospectionResponse::parse(body)? else {
        return Err(ValidationError::invalid());
    };
    let expires_at = response.time("exp")?;
    if expires_at.is_some_and(|end| end <= now) {
        return Err(rejected("it has expired by `exp`; compare the clocks"));
    }
    let begin = response.time(NBF)?.filter(|begin| *begin > now);
    if begin.is_some_and(|begin| begin - now > settings.leeway) {
        let reason = "it is not yet valid by `nbf`; compare the clocks";
        return Err(rejected(reason).by_own_rule());
    }
    if let Err(unmet) = settings.check(&response.0) {
        let error = match unmet {
            UnmetRequirement::Issuer => rejected("`iss` is not the configured `issuer`"),
            UnmetRequirement::Audience => {
                rejected("`aud` does not contain the configured `audience`")
            }
            UnmetRequirement::Proof => rejected(
                "the token is bound to a key (`cnf`) whose proof is not verified; see \
                 `allow_bound_tokens`",
            ),
            UnmetRequirement::Scope => {
                ValidationError::forbidden(ForbiddenReason::InsufficientScope)
            }
        };
        // Another service of the same client may have fewer requirements.
        return Err(error.by_own_rule());
    }
    let id = response.user_id(&settings.user_id_claim).ok_or_else(|| {
        ValidationError::misconfigured(failure(
            "an active token has no user ID; configure the server to send `sub`, or set \
             `user_id_claim` to the claim that contains the user ID",
        ))
    })?;
    let name = response
        .str_claim("name")
        .or_else(|| response.str_claim("username"));
    let verified = response.0.get("email_verified").and_then(Value::as_bool);
    if !settings.is_id_verified(verified == Some(true)) {
        let reason = "the user ID is an e-mail address that is not verified";
        tracing::debug!(target: VALIDATION, reason, "active token rejected");
        return Err(ValidationError::forbidden(ForbiddenReason::Other).by_own_rule());
    }
    let session_id = response.path(&settings.session_id_claim).map(str::to_owned);
    let mut user = UserData::builder(id)
        .name(name.unwrap_or_default())
        .email(response.str_claim("email").unwrap_or_default())
        .email_verified(verified.unwrap_or(false))
        .updated_at(response.time("updated_at").unwrap_or_default())
        .tier((settings.tier)(&response));
    for (name, value) in retained_claims(response.0, token) {
        user = user.attribute(name, value);
    }
    if let Some(begin) = begin {
        user = user.attribute(NBF, begin.timestamp());
    }
    if settings.user_id_claim != SUB {
        user = user.attribute(USER_ID_CLAIM, settings.user_id_claim.as_str());
    }
    let mut session = ValidatedSession::new(user.build()).with_expires_at(expires_at);
    session.session_id = session_id.filter(|id| id != token.expose_secret());
    Ok(session)
}

/// Creates an error for a rejection that the server does not know of. The reason is therefore only
/// in the log of this service.
fn rejected(reason: &'static str) -> ValidationError {
    tracing::debug!(target: VALIDATION, reason, "active token rejected");
    ValidationError::invalid()
}

/// Returns the claims that are stored with the user.
fn retained_claims(mut claims: Map<String, Value>, token: &SessionToken) -> Map<String, Value> {
    let mut kept = Map::new();
    let mut left = MAX_ATTRIBUTES;
    // The presence of a key matters and must not be lost.
    if claims.remove(CNF).is_some_and(|key| !key.is_null()) {
        kept.insert(CNF.to_owned(), true.into());
    }
    let first = RETAINED_FIRST.map(|name| (name.to_owned(), claims.remove(name)));
    let first = first
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    for (name, value) in first.chain(claims) {
        // Skips claims that have been processed already, and a claim with the name of this
        // validator's own attribute.
        let is_spent = matches!(name.as_str(), "active" | "exp" | NBF);
        let is_taken = name == USER_ID_CLAIM;
        if is_spent || is_taken || value.is_null() || contains_token(&value, token) {
            continue;
        }
        let size = name.len() + value.to_string().len();
        match left.checked_sub(size) {
            Some(rest) => {
                left = rest;
                kept.insert(name, value);
            }
            None => {
                tracing::debug!(target: VALIDATION, size, "claim too long, not stored");
            }
        }
    }
    kept
}

/// Returns `true` if the value contains the token, which a record must not contain.
fn contains_token(value: &Value, token: &SessionToken) -> bool {
    match value {
        Value::String(text) => text == token.expose_secret(),
        Value::Array(values) => values.iter().any(|value| contains_token(value, token)),
        Value::Object(claims) => claims.values().any(|value| contains_token(value, token)),
        _ => false,
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("scopes", &self.scopes)
            .field("allows_bound_tokens", &self.allows_bound_tokens)
            .field("user_id_claim", &self.user_id_claim)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::validator::error::ValidationErrorKind;

    fn settings(scopes: &[&str]) -> Settings {
        Settings {
            issuer: None,
            audience: None,
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            allows_bound_tokens: false,
            user_id_claim: SUB.to_owned(),
            session_id_claim: "sid".to_owned(),
            leeway: TimeDelta::zero(),
            tier: Box::new(|token| token.str_claim("plan").unwrap_or("free").to_owned()),
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| (f64::from(n) / 2.0).into()),
            "read write|t0ken|u1|\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("sub|scope|\\PC{0,4}", inner), 0..4)
                    .prop_map(|claims| Value::Object(claims.into_iter().collect())),
            ]
        })
    }

    const NAMES: &str = "active|exp|nbf|sub|username|name|email|email_verified|updated_at|scope|\
        aud|iss|plan|user_id|tier|fence|seen_mark|run|validator|user_id_member|[a-z]{1,4}";

    proptest! {
        #[test]
        fn validated_session_is_accepted_and_shadows_no_claim(
            claims in proptest::collection::vec((NAMES, value()), 0..8),
            is_scoped: bool, end in proptest::option::of(any::<i64>()),
        ) {
            let mut response: Map<String, Value> = claims.into_iter().collect();
            response.insert("active".to_owned(), true.into());
            response.entry(SUB).or_insert_with(|| "u1".into());
            if let Some(end) = end {
                response.insert("exp".to_owned(), end.into());
            }
            let settings = settings(if is_scoped { &["read"] } else { &[] });
            let token = SessionToken::parse("t0ken").unwrap();
            let body = Value::Object(response.clone()).to_string();
            let now = DateTime::UNIX_EPOCH;
            let Ok(session) = session(&settings, &token, body.as_bytes(), now) else {
                return Ok(());
            };
            prop_assert!(session.expires_at.is_none_or(|end| end > now));
            // A scope that repeats the token is not stored, so it is not accepted later.
            let repeats = response.get("scope").is_some_and(|scope| contains_token(scope, &token));
            prop_assert!(settings.accepts(&session.user) || is_scoped && repeats);
            for (name, value) in session.user.attributes() {
                prop_assert!(name != USER_ID_CLAIM);
                prop_assert_eq!(Some(value), response.get(name));
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..60_usize) {
            let token = SessionToken::parse("t0ken").unwrap();
            let good = json!({ "active": true, "sub": "u1", "exp": 1e300, "scope": ["a", 7] });
            let good = good.to_string();
            for body in [&bytes, &good.as_bytes()[..cut.min(good.len() - 1)]] {
                let unread = session(&settings(&[]), &token, body, DateTime::UNIX_EPOCH);
                prop_assert_eq!(unread.unwrap_err().kind(), ValidationErrorKind::Unavailable);
            }
        }
    }
}
