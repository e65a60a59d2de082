//! Conversion of a response to a session, and the check whether a cached session meets this
//! validator's requirements.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::{
    response::{IntrospectionResponse, LAST, audiences, scopes},
    token_kind::{KIND_CLAIMS, TokenKinds},
    user_id::{ID_CLAIMS, USER_ID_ATTRIBUTES, UserIdClaims},
};
use crate::{
    model::{Authority, UserData},
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

/// Claims that are compared on every hit, and are therefore stored first if not all claims fit. The
/// short ones come first.
const RETAINED_FIRST: [&[&str]; 3] = [&KIND_CLAIMS, &ID_CLAIMS, &["iss", "aud", "scope"]];

/// The claim for the key that a token is bound to, by DPoP ([RFC 9449]) or by a client's
/// certificate ([RFC 8705]).
///
/// [RFC 9449]: https://www.rfc-editor.org/rfc/rfc9449#section-6.2
/// [RFC 8705]: https://www.rfc-editor.org/rfc/rfc8705#section-3.2
const CNF: &str = "cnf";

const NBF: &str = "nbf";
const EXP: &str = "exp";

pub(crate) type Tier = dyn Fn(&IntrospectionResponse) -> String + Send + Sync;

pub(crate) struct Settings {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) allows_bound_tokens: bool,
    pub(crate) kinds: TokenKinds,
    pub(crate) authority: Authority,
    pub(crate) user_id_claims: UserIdClaims,
    pub(crate) session_id_claim: String,
    pub(crate) leeway: TimeDelta,
    pub(crate) tier: Box<Tier>,
}

/// A requirement that an active token does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnmetRequirement {
    /// The token is not an access token, for this reason.
    Kind(&'static str),
    Issuer,
    Audience,
    Scope,
    Proof,
}

impl Settings {
    /// Compares the requirements with the claims of a response, or with the claims stored with a
    /// user.
    fn check(&self, claims: &Map<String, Value>) -> Result<(), UnmetRequirement> {
        let bound = self.allows_bound_tokens;
        self.kinds
            .check(claims, bound)
            .map_err(UnmetRequirement::Kind)?;
        let is_bound = claims.get(CNF).is_some_and(|key| !key.is_null());
        if is_bound && !bound {
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
        self.user_id_claims.accepts(user) && self.is_valid_now(kept) && self.check(kept).is_ok()
    }

    /// Returns `false` if `nbf` is still too far ahead, or `exp` has passed for too long. Another
    /// validator with a longer leeway may have accepted the token.
    fn is_valid_now(&self, kept: &Map<String, Value>) -> bool {
        let time = |name| match kept.get(name) {
            None => Some(None),
            Some(time) => DateTime::from_timestamp(time.as_i64()?, 0).map(Some),
        };
        let (Some(begin), Some(end)) = (time(NBF), time(EXP)) else {
            return false;
        };
        begin.is_none_or(|begin| begin - Utc::now() <= self.leeway)
            && end.is_none_or(|end| Utc::now() - end < self.leeway)
    }
}

/// Returns the session of an active token.
pub(crate) fn session(
    settings: &Settings,
    token: &SessionToken,
    response: IntrospectionResponse,
    now: DateTime<Utc>,
) -> Result<ValidatedSession, ValidationError> {
    let end = response.time(EXP)?;
    let passed = end.filter(|end| *end <= now);
    if passed.is_some_and(|end| now - end >= settings.leeway) {
        let reason = "it has expired by `exp`; compare the clocks";
        return Err(rejected(reason).by_own_rule());
    }
    // The server called the token active, so its clock is behind. The cache may serve the session
    // until the leeway ends.
    let last = DateTime::from_timestamp(LAST, 0);
    let expires_at = passed.map_or(end, |end| {
        end.checked_add_signed(settings.leeway).or(last).min(last)
    });
    let begin = response.time(NBF)?.filter(|begin| *begin > now);
    if begin.is_some_and(|begin| begin - now > settings.leeway) {
        let reason = "it is not yet valid by `nbf`; compare the clocks";
        return Err(rejected(reason).by_own_rule());
    }
    if let Err(unmet) = settings.check(&response.0) {
        let error = match unmet {
            UnmetRequirement::Kind(reason) => rejected(reason),
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
    // A text that is no time tells nothing, as if the claim were absent (RFC 9470, section 6.2).
    let authenticated_at = response.time("auth_time").ok().flatten();
    let acr = response.str_claim("acr").map(str::to_owned);
    let session_id = response.path(&settings.session_id_claim).map(str::to_owned);
    let Some(found) = settings
        .user_id_claims
        .find(&response, session_id.is_some())
    else {
        let reason = "no claim of `user_id_claim` identifies a user; if it is a client's own token, \
                      see `or_user_id_claim`";
        return Err(forbidden(ForbiddenReason::NoUser, reason));
    };
    let name = response
        .str_claim("name")
        .or_else(|| response.str_claim("username"));
    let email_verified = response.is_email_verified();
    if !found.is_verified(email_verified) {
        let reason = "the user ID is an e-mail address that is not verified";
        return Err(forbidden(ForbiddenReason::Other, reason));
    }
    let mut user = UserData::builder(found.id.as_str())
        .name(name.unwrap_or_default())
        .email(response.str_claim("email").unwrap_or_default())
        .email_verified(email_verified)
        .updated_at(response.time("updated_at").unwrap_or_default())
        .tier((settings.tier)(&response));
    for (name, value) in retained_claims(response.0, token) {
        user = user.attribute(name, value);
    }
    if let Some(begin) = begin {
        user = user.attribute(NBF, begin.timestamp());
    }
    if let Some(end) = passed {
        user = user.attribute(EXP, end.timestamp());
    }
    let user = found.mark(user).build();
    let mut session = ValidatedSession::new(user).with_token_expires_at(expires_at);
    session.authority = found.authority(&settings.authority);
    session.session_id = session_id.filter(|id| id != token.expose_secret());
    session.authenticated_at = authenticated_at;
    session.acr = acr.filter(|acr| acr != token.expose_secret());
    Ok(session)
}

/// Creates an error for a rejection that the server does not know of. The reason is therefore only
/// in the log of this service.
fn rejected(reason: &'static str) -> ValidationError {
    tracing::debug!(target: VALIDATION, reason, "active token rejected");
    ValidationError::invalid().with_source(reason)
}

/// Creates an error for a token that this validator does not accept as a user's.
fn forbidden(kind: ForbiddenReason, reason: &'static str) -> ValidationError {
    tracing::debug!(target: VALIDATION, reason, "active token rejected");
    ValidationError::forbidden(kind)
        .with_source(reason)
        .by_own_rule()
}

/// Returns the claims that are stored with the user.
fn retained_claims(mut claims: Map<String, Value>, token: &SessionToken) -> Map<String, Value> {
    let mut kept = Map::new();
    let mut left = MAX_ATTRIBUTES;
    // The presence of a key matters and must not be lost.
    if claims.remove(CNF).is_some_and(|key| !key.is_null()) {
        kept.insert(CNF.to_owned(), true.into());
    }
    let first = RETAINED_FIRST.concat();
    let first: Vec<_> = first
        .into_iter()
        .filter_map(|name| claims.remove_entry(name))
        .collect();
    for (name, value) in first.into_iter().chain(claims) {
        // Skips claims that have been processed already, and a claim with the name of an
        // attribute of this validator.
        let is_spent = matches!(name.as_str(), "active" | EXP | NBF);
        let is_taken = USER_ID_ATTRIBUTES.contains(&name.as_str());
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
            .field("kinds", &self.kinds)
            .field("user_id_claims", &self.user_id_claims)
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
            kinds: TokenKinds::default(),
            authority: Authority::new("a"),
            user_id_claims: UserIdClaims::default(),
            session_id_claim: "sid".to_owned(),
            leeway: TimeDelta::zero(),
            tier: Box::new(|token| token.str_claim("plan").unwrap_or("free").to_owned()),
        }
    }

    fn session_of(
        settings: &Settings,
        token: &SessionToken,
        body: &[u8],
    ) -> Result<ValidatedSession, ValidationError> {
        let response = IntrospectionResponse::parse(body)?.ok_or_else(ValidationError::invalid)?;
        session(settings, token, response, DateTime::UNIX_EPOCH)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| (f64::from(n) / 2.0).into()),
            "read write|t0ken|u1|c1|Bearer|access_token|refresh_token|ID|\\PC{0,8}"
                .prop_map(Value::from),
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
        aud|iss|plan|user_id|tier|fence|seen_mark|run|validator|user_id_member|\
        user_id_members_missing|token_use|typ|token_type|client_id|azp|sid|[a-z]{1,4}";

    #[test]
    fn time_and_method_of_the_authentication_are_taken_from_the_claims() {
        let token = SessionToken::parse("t0ken").unwrap();
        let settings = settings(&[]);
        for (auth_time, acr, expected) in [
            (json!(7), json!("phr"), (Some(7), Some("phr"))),
            (json!("7"), json!(1), (Some(7), None)),
            (json!("today"), json!(""), (None, None)),
            (json!(null), json!("t0ken"), (None, None)),
        ] {
            let body = json!({ "active": true, "sub": "u1", "auth_time": auth_time, "acr": acr });
            let session = session_of(&settings, &token, body.to_string().as_bytes()).unwrap();
            let at = session.authenticated_at.map(|at| at.timestamp());
            assert_eq!((at, session.acr.as_deref()), expected);
        }
    }

    #[test]
    fn passed_expiry_is_accepted_within_the_leeway() {
        let token = SessionToken::parse("t0ken").unwrap();
        let mut settings = settings(&[]);
        settings.leeway = TimeDelta::seconds(5);
        let expiry = |exp: Value| {
            let body = json!({ "active": true, "sub": "u1", "exp": exp });
            let session = session_of(&settings, &token, body.to_string().as_bytes());
            session
                .ok()
                .map(|session| session.expires_at.unwrap().timestamp())
        };
        for (exp, expected) in [
            (json!(7), Some(7)),
            (json!(1), Some(1)),
            (json!(0.5), Some(5)),
            (json!(0), Some(5)),
            (json!(-2), Some(3)),
            (json!(-4), Some(1)),
            (json!(-5), None),
            (json!(-6), None),
        ] {
            assert_eq!(expiry(exp.clone()), expected, "{exp}");
        }
    }

    proptest! {
        #[test]
        fn validated_session_is_accepted_and_shadows_no_claim(
            claims in proptest::collection::vec((NAMES, value()), 0..8),
            is_scoped: bool, end in proptest::option::of(any::<i64>()),
            has_sub: bool, is_typed: bool, allows_machines: bool,
        ) {
            let mut response: Map<String, Value> = claims.into_iter().collect();
            response.insert("active".to_owned(), true.into());
            if has_sub {
                response.entry("sub").or_insert_with(|| "u1".into());
            }
            if let Some(end) = end {
                response.insert("exp".to_owned(), end.into());
            }
            let mut settings = settings(if is_scoped { &["read"] } else { &[] });
            settings.kinds.requires_token_type = is_typed;
            if allows_machines {
                settings.user_id_claims.others = vec!["client_id".to_owned()];
            }
            let token = SessionToken::parse("t0ken").unwrap();
            let body = Value::Object(response.clone()).to_string();
            let now = DateTime::UNIX_EPOCH;
            let Ok(session) = session_of(&settings, &token, body.as_bytes()) else {
                return Ok(());
            };
            prop_assert!(session.expires_at.is_none_or(|end| end > now));
            // A scope that repeats the token is not stored, so it is not accepted later.
            let repeats = response.get("scope").is_some_and(|scope| contains_token(scope, &token));
            prop_assert!(settings.accepts(&session.user) || is_scoped && repeats);
            for (name, value) in session.user.attributes() {
                if USER_ID_ATTRIBUTES.contains(&name.as_str()) {
                    prop_assert!(session.authority.is_some());
                } else {
                    prop_assert_eq!(Some(value), response.get(name));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..60_usize) {
            let token = SessionToken::parse("t0ken").unwrap();
            let good = json!({ "active": true, "sub": "u1", "exp": 1e300, "scope": ["a", 7] });
            let good = good.to_string();
            for body in [&bytes, &good.as_bytes()[..cut.min(good.len() - 1)]] {
                let unread = session_of(&settings(&[]), &token, body);
                prop_assert_eq!(unread.unwrap_err().kind(), ValidationErrorKind::Unavailable);
            }
        }
    }
}
