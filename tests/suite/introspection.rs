//! Token introspection against a server that responds as in RFC 7662, over real HTTP.

use std::{
    error::Error as StdError,
    time::{Duration, Instant},
};

use axum::{Extension, Router, routing::get};
use chrono::Utc;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_session_cache::{
    ForbiddenReason, IntrospectionAuth, IntrospectionConfigError, IntrospectionValidator,
    IntrospectionValidatorBuilder, Origin, RedisConfig, Rejection, SessionCache,
    SessionCacheBuilder, SessionCacheLayer, SessionValidator, UserData, ValidatedSession,
    ValidationError, ValidationErrorKind, validator_fn,
};

use crate::support::{
    client::{ask, ask_for_all, token},
    hydra::{self, Hydra},
    introspection::{
        BEARER, CLIENT_ID, CLIENT_SECRET, Demands, Fault, Introspection, jdoe, jdoe_with,
    },
    keycloak::{self, Keycloak},
    log::record as record_log,
    peer::Peer,
    redis::Redis,
    soon,
};

/// The token of RFC 7662, section 2.1, with characters that must be encoded in a form.
const TOKEN: &str = "mF_9.B5f-4.1JqM/+%25&token=x~";
const SUB: &str = "Z5O3upPC88QrAjx00dis";

const INVALID: ValidationErrorKind = ValidationErrorKind::Invalid;
const UNAVAILABLE: ValidationErrorKind = ValidationErrorKind::Unavailable;
const MISCONFIGURED: ValidationErrorKind = ValidationErrorKind::Misconfigured;
const NO_USER: ValidationErrorKind = ValidationErrorKind::Forbidden(ForbiddenReason::NoUser);
const OUT_OF_SCOPE: ValidationErrorKind =
    ValidationErrorKind::Forbidden(ForbiddenReason::InsufficientScope);

type Builder = IntrospectionValidatorBuilder;
type Set = fn(Builder) -> Builder;

/// A server that knows one token.
struct World {
    server: Introspection,
    validator: IntrospectionValidator,
}

impl World {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(set: impl FnOnce(Builder) -> Builder) -> Self {
        let server = Introspection::start(Demands::Basic).await;
        server.issue(TOKEN, jdoe());
        let validator = validator(&server, set);
        Self { server, validator }
    }

    async fn validate(&self) -> Result<ValidatedSession, ValidationError> {
        let answer = soon("a result", self.validator.validate(token(TOKEN))).await;
        if let Err(error) = &answer {
            assert_discreet(error);
        }
        answer
    }

    async fn kind(&self) -> Option<ValidationErrorKind> {
        self.validate().await.err().map(|error| error.kind())
    }

    /// The error kind, if any, when the server responds with this.
    async fn kind_of(&self, answer: Value) -> Option<ValidationErrorKind> {
        self.server.issue(TOKEN, answer);
        self.kind().await
    }

    async fn user_of(&self, answer: Value) -> UserData {
        self.server.issue(TOKEN, answer);
        self.validate().await.unwrap().user
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.server.violations(), Vec::<String>::new());
        }
    }
}

fn basic() -> IntrospectionAuth {
    IntrospectionAuth::basic(CLIENT_ID, CLIENT_SECRET)
}

fn validator(
    server: &Introspection,
    set: impl FnOnce(Builder) -> Builder,
) -> IntrospectionValidator {
    let builder = IntrospectionValidator::builder(server.endpoint(), basic());
    set(builder).build().unwrap()
}

fn assert_discreet(error: &(dyn StdError + 'static)) {
    let mut text = format!("{error:?} {error:#?}");
    let mut next = Some(error);
    while let Some(error) = next {
        text = format!("{text} {error}");
        next = error.source();
    }
    for secret in ["mF_9", "Fjfp0", "23410913", "jdoe"] {
        assert!(!text.contains(secret), "{secret} appears in {text}");
    }
    // The source of a rejection is logged only if the server rejects all tokens.
    if !text.contains("Inactive") {
        assert!(
            !text.contains(CLIENT_ID) && !text.contains("http://"),
            "{text}"
        );
    }
}

fn advice(error: &ValidationError) -> String {
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn active_token_yields_user_and_expiry() {
    let world = World::new().await;
    let session = world.validate().await.unwrap();
    let user = &session.user;
    assert_eq!((user.id(), user.name(), user.tier()), (SUB, "jdoe", "free"));
    assert_eq!((user.email(), user.email_verified()), ("", false));
    assert_eq!(session.expires_at.unwrap().timestamp(), 32_503_680_000);
    assert_eq!(
        Value::Object(user.attributes().clone()),
        json!({
            "client_id": "l238j323ds-23ij4",
            "username": "jdoe",
            "scope": "read write dolphin",
            "sub": SUB,
            "aud": "https://protected.example.net/resource",
            "iss": "https://server.example.com/",
            "iat": 1_419_350_238,
            "extension_field": "twenty-seven",
        })
    );

    let user = world.user_of(json!({
        "active": true, "sub": "u1", "username": "ada", "name": "Ada L", "email": "ada@example.com",
        "email_verified": true, "updated_at": 1_700_000_000,
    }));
    let user = user.await;
    assert_eq!((user.name(), user.email()), ("Ada L", "ada@example.com"));
    assert!(user.email_verified());
    assert_eq!(user.updated_at().unwrap().timestamp(), 1_700_000_000);
    let session = world.validate().await.unwrap();
    assert_eq!(session.expires_at, None);

    assert_eq!(world.server.calls(), 3);
}

#[tokio::test]
async fn email_counts_as_verified_by_true_and_its_text() {
    let world = World::new().await;
    for (verified, is_verified) in [
        (json!(true), true),
        (json!("true"), true),
        (json!("True"), true),
        (json!("TRUE"), true),
        (json!(" true"), false),
        (json!("yes"), false),
        (json!("1"), false),
        (json!(1), false),
        (json!([true]), false),
        (json!(false), false),
        (json!("false"), false),
        (Value::Null, false),
    ] {
        let user = world.user_of(jdoe_with("email_verified", verified.clone()));
        assert_eq!(user.await.email_verified(), is_verified, "{verified}");
    }
    let by_email = World::with(|builder| builder.user_id_claim("email")).await;
    let mut answer = jdoe_with("email", "jdoe@example.com");
    answer["email_verified"] = "true".into();
    let user = by_email.user_of(answer).await;
    assert_eq!(user.id(), "jdoe@example.com");
    assert!(by_email.validator.accepts(&user));
}

#[tokio::test]
async fn inactive_token_is_invalid() {
    let world = World::new().await;
    assert_eq!(
        world.kind_of(json!({ "active": false })).await,
        Some(INVALID)
    );
    let inactive_with_claims = jdoe_with("active", false);
    assert_eq!(world.kind_of(inactive_with_claims).await, Some(INVALID));
    world.server.revoke(TOKEN);
    assert_eq!(world.kind().await, Some(INVALID));
}

#[tokio::test]
async fn active_token_outside_its_validity_period_is_invalid() {
    let world = World::new().await;
    let now = || Utc::now().timestamp();
    let table = [
        ("exp", json!(now() - 600), Some(INVALID)),
        ("exp", json!(0), Some(INVALID)),
        ("exp", json!(-1e300), Some(INVALID)),
        ("exp", json!(now() + 600), None),
        ("exp", json!(1e300), None),
        ("exp", json!(u64::MAX), None),
        ("exp", json!("tomorrow"), Some(UNAVAILABLE)),
        ("exp", json!([now() + 600]), Some(UNAVAILABLE)),
        ("nbf", json!(now() - 1), None),
        ("nbf", json!(0), None),
        ("nbf", json!(now() + 600), Some(INVALID)),
        ("nbf", json!(1e300), Some(INVALID)),
        ("nbf", json!(true), Some(UNAVAILABLE)),
    ];
    for (name, value, kind) in table {
        let shown = format!("{name} {value}");
        assert_eq!(world.kind_of(jdoe_with(name, value)).await, kind, "{shown}");
    }
    for (leeway, kind) in [
        (Duration::from_secs(900), None),
        (Duration::MAX, None),
        (Duration::ZERO, Some(INVALID)),
    ] {
        let world = World::with(|builder| builder.leeway(leeway)).await;
        for (name, at) in [("nbf", now() + 600), ("exp", now() - 600)] {
            let answer = jdoe_with(name, at);
            assert_eq!(world.kind_of(answer).await, kind, "{name} {leeway:?}");
        }
    }
}

#[tokio::test]
async fn only_access_tokens_are_valid() {
    let world = World::new().await;
    let (text, odd) = ("x".repeat(20_000), json!(["Bearer", "access_token"]));
    for (name, value, is_valid) in [
        ("token_use", json!("access_token"), true),
        ("token_use", json!("Access_Token"), true),
        ("token_use", json!("refresh_token"), false),
        ("token_use", json!("id"), false),
        ("token_use", json!(""), false),
        ("token_use", json!(true), false),
        ("token_use", odd.clone(), false),
        ("token_usage", json!("access_token"), true),
        ("token_usage", json!("refresh_token"), false),
        ("typ", json!("Bearer"), true),
        ("typ", json!("at+jwt"), true),
        ("typ", json!("JWT"), true),
        ("typ", json!(text), true),
        ("typ", json!("Refresh"), false),
        ("typ", json!("REFRESH"), false),
        ("typ", json!("Offline"), false),
        ("typ", json!("ID"), false),
        ("typ", json!("id"), false),
        ("typ", json!("Logout"), false),
        ("typ", json!("logout+jwt"), false),
        ("typ", json!(["Bearer", "Refresh"]), false),
        ("typ", json!(7), false),
        ("token_type", json!("Bearer"), true),
        ("token_type", json!("bearer"), true),
        ("token_type", json!("access_token"), true),
        ("token_type", json!("DPoP"), false),
        ("token_type", json!("N_A"), false),
        ("token_type", json!("ID"), false),
        ("token_type", json!("refresh_token"), false),
        ("token_type", json!("JWT"), false),
        ("token_type", json!("Bearer "), false),
        ("token_type", json!(""), false),
        ("token_type", json!(0), false),
        ("token_type", odd, false),
    ] {
        let shown = format!("{name} {value}");
        let expected = (!is_valid).then_some(INVALID);
        assert_eq!(
            world.kind_of(jdoe_with(name, value)).await,
            expected,
            "{shown}"
        );
    }
    // Null counts as absent.
    for name in ["token_use", "typ", "token_type"] {
        let mut answer = jdoe();
        answer[name] = Value::Null;
        assert_eq!(world.kind_of(answer).await, None, "{name}");
    }
}

#[tokio::test]
async fn active_token_without_a_user_is_forbidden_and_not_an_outage() {
    let log = record_log();
    let server = Introspection::start(Demands::Basic).await;
    server.issue("user", jdoe());
    server.issue("machine", jdoe_with("sub", Value::Null));
    // The answer of Ory Hydra to a token of a client's own.
    server.issue("hydra", jdoe_with("sub", "l238j323ds-23ij4"));
    let cache = SessionCache::builder().build().unwrap();
    let layer = SessionCacheLayer::new(cache, validator(&server, |builder| builder));
    for _ in 0..3 {
        for text in ["machine", "hydra"] {
            let (status, challenge) = answer(&layer, text).await;
            assert_eq!((status, &*challenge), (StatusCode::FORBIDDEN, ""), "{text}");
        }
        assert_eq!(answer(&layer, "user").await.0, StatusCode::OK);
    }
    let log = log.text();
    assert!(!log.contains("ERROR"), "{log}");
    assert!(!log.contains("identity provider available again"), "{log}");
}

#[tokio::test]
async fn clock_skew_of_several_tokens_is_one_warning() {
    const WARNING: &str = "clock differs from that of the identity provider";
    let count = |text: &str| text.matches(WARNING).count();
    let now = || Utc::now().timestamp();
    for (name, skew) in [("exp", -1_000), ("iat", 1_000), ("nbf", 1_000)] {
        let log = record_log();
        let world = World::with(|builder| builder.leeway(Duration::from_secs(3_600))).await;
        let ask = async |text: &str, name: &str, skew: i64| {
            world.server.issue(text, jdoe_with(name, now() + skew));
            assert!(world.validator.validate(token(text)).await.is_ok());
        };
        for _ in 0..5 {
            ask("a", name, skew).await;
            ask("b", name, skew).await;
            ask("c", "exp", 600).await;
        }
        assert_eq!(count(&log.text()), 0, "{name}: two tokens are too few");
        for text in ["c", "d", "e", "f", "g", "h"] {
            ask(text, name, skew).await;
        }
        let text = log.text();
        assert_eq!(count(&text), 1, "{name}: {text}");
        let line = text.lines().find(|line| line.contains(WARNING)).unwrap();
        assert!(line.contains("WARN"), "{line}");
        let named = line.split("skew_seconds=").nth(1).unwrap();
        let named: i64 = named.split(' ').next().unwrap().parse().unwrap();
        // This host's clock is ahead if a token's end has passed.
        assert!(named.abs_diff(-skew) <= 100, "{line}");
    }
}

#[tokio::test]
async fn client_authentication_must_match_the_server() {
    let post = || IntrospectionAuth::post(CLIENT_ID, CLIENT_SECRET);
    let bearer = || IntrospectionAuth::bearer(BEARER);
    for demands in [
        Demands::Basic,
        Demands::Post,
        Demands::Bearer,
        Demands::Nothing,
    ] {
        let server = Introspection::start(demands).await;
        server.issue(TOKEN, jdoe());
        let right = |proves| demands == Demands::Nothing || demands == proves;
        for (auth, is_right) in [
            (basic(), right(Demands::Basic)),
            (post(), right(Demands::Post)),
            (bearer(), right(Demands::Bearer)),
            (IntrospectionAuth::none(), demands == Demands::Nothing),
            (
                IntrospectionAuth::basic(CLIENT_ID, "wrong"),
                demands == Demands::Nothing,
            ),
            (
                IntrospectionAuth::post("another", CLIENT_SECRET),
                demands == Demands::Nothing,
            ),
            (
                IntrospectionAuth::bearer("expired"),
                demands == Demands::Nothing,
            ),
        ] {
            let shown = format!("{demands:?} {auth:?}");
            assert!(
                !shown.contains("Fjfp0") && !shown.contains(BEARER),
                "{shown}"
            );
            let validator = IntrospectionValidator::new(server.endpoint(), auth).unwrap();
            match validator.validate(token(TOKEN)).await {
                Ok(session) => assert!(is_right && session.user.id() == SUB, "{shown}"),
                Err(error) => {
                    assert!(
                        !is_right && error.kind() == MISCONFIGURED,
                        "{shown}: {error:?}"
                    );
                    assert!(advice(&error).contains("client ID and secret"));
                    assert_discreet(&error);
                }
            }
        }
        assert_eq!(server.violations(), Vec::<String>::new(), "{demands:?}");
    }
}

#[tokio::test]
async fn configured_issuer_audience_and_scopes_are_enforced() {
    let resource = "https://protected.example.net/resource";
    let world = World::with(|builder| {
        builder
            .issuer("https://server.example.com/")
            .audience(resource)
            .require_scope("read")
            .require_scope("dolphin")
    })
    .await;
    let long = "x".repeat(40_000);
    let table = [
        (jdoe(), None),
        (jdoe_with("aud", json!(["other", resource])), None),
        (jdoe_with("scope", json!(["dolphin", "read"])), None),
        (jdoe_with("scope", " dolphin  read "), None),
        (jdoe_with("iss", Value::Null), Some(INVALID)),
        (
            jdoe_with("iss", "https://server.example.com"),
            Some(INVALID),
        ),
        (
            jdoe_with("iss", "https://SERVER.example.com/"),
            Some(INVALID),
        ),
        (
            jdoe_with("iss", json!(["https://server.example.com/"])),
            Some(INVALID),
        ),
        (jdoe_with("aud", Value::Null), Some(INVALID)),
        (jdoe_with("aud", json!([])), Some(INVALID)),
        (
            jdoe_with("aud", "https://protected.example.net/"),
            Some(INVALID),
        ),
        (
            jdoe_with("aud", json!([format!("{resource} x"), 7])),
            Some(INVALID),
        ),
        (jdoe_with("aud", json!({ resource: true })), Some(INVALID)),
        (jdoe_with("scope", Value::Null), Some(OUT_OF_SCOPE)),
        (jdoe_with("scope", ""), Some(OUT_OF_SCOPE)),
        (jdoe_with("scope", "read dolphins"), Some(OUT_OF_SCOPE)),
        (jdoe_with("scope", "read,dolphin"), Some(OUT_OF_SCOPE)),
        (jdoe_with("scope", "READ DOLPHIN"), Some(OUT_OF_SCOPE)),
        (jdoe_with("padding", long.as_str()), None),
    ];
    for (answer, kind) in table {
        let shown = answer.to_string();
        assert_eq!(world.kind_of(answer.clone()).await, kind, "{shown}");
        if kind.is_none() {
            let user = world.user_of(answer).await;
            assert!(world.validator.accepts(&user), "{shown}");
        }
    }
}

#[tokio::test]
async fn key_bound_token_is_rejected_unless_allowed() {
    let strict = World::new().await;
    let lax = World::with(Builder::allow_bound_tokens).await;
    // The example of RFC 9449, section 6.2, and values that are not kept unchanged.
    let thumbprint = json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" });
    for key in [
        thumbprint,
        json!({ "x5t#S256": "y".repeat(20_000) }),
        json!({ "jkt": TOKEN }),
        json!(false),
    ] {
        let answer = jdoe_with("cnf", key);
        assert_eq!(strict.kind_of(answer.clone()).await, Some(INVALID));
        let user = lax.user_of(answer).await;
        assert!(lax.validator.accepts(&user) && !strict.validator.accepts(&user));
    }
    let mut free = jdoe();
    free["cnf"] = Value::Null;
    let user = strict.user_of(free).await;
    assert!(strict.validator.accepts(&user) && lax.validator.accepts(&user));
}

#[tokio::test]
async fn token_without_the_user_id_claim_is_forbidden() {
    let world = World::new().await;
    for sub in [
        Value::Null,
        json!(""),
        json!(true),
        json!(-7),
        json!(["u1"]),
    ] {
        let kind = world.kind_of(jdoe_with("sub", sub.clone())).await;
        assert_eq!(kind, Some(NO_USER), "{sub}");
    }

    let named = World::with(|builder| builder.user_id_claim("user_id")).await;
    let user = named.user_of(jdoe_with("user_id", 42)).await;
    assert_eq!(user.id(), "42");
    let user = named.user_of(jdoe_with("user_id", "u-42")).await;
    assert_eq!(user.id(), "u-42");
    assert_eq!(named.kind_of(jdoe()).await, Some(NO_USER));

    // A validator that reads the user ID from another claim does not accept the session.
    assert!(named.validator.accepts(&user) && !world.validator.accepts(&user));
    let other = validator(&named.server, |builder| builder.user_id_claim("username"));
    assert!(!other.accepts(&user));
    let foreign = UserData::builder("u")
        .attribute("user_id_member", 7)
        .build();
    assert!(!world.validator.accepts(&foreign));
}

#[tokio::test]
async fn tier_comes_only_from_the_tier_function() {
    let world = World::with(|builder| {
        builder.tier(|token| {
            let plan = token.str_claim("plan").unwrap_or("none");
            let roles = token.claims()["realm_access"]["roles"].as_array();
            let scopes: Vec<&str> = token.scopes().collect();
            format!("{plan} {} {}", roles.map_or(0, Vec::len), scopes.join("+"))
        })
    })
    .await;
    let mut answer = jdoe_with("plan", "pro");
    answer["realm_access"] = json!({ "roles": ["admin", "staff"] });
    let user = world.user_of(answer).await;
    assert_eq!(user.tier(), "pro 2 read+write+dolphin");
    // A claim `tier` of the identity provider is ignored without the function.
    let plain = World::new().await;
    assert_eq!(
        plain.user_of(jdoe_with("tier", "root")).await.tier(),
        "free"
    );
}

#[tokio::test]
async fn claims_do_not_override_members_of_the_record() {
    let world = World::new().await;
    let mut answer = jdoe();
    let taken = [
        "user_id",
        "tier",
        "created_at",
        "session_expire",
        "cached_at",
        "session_cache",
        "namespace",
        "fence",
        "run",
        "validator",
    ];
    for name in taken {
        answer[name] = "claimed".into();
    }
    answer["user_id_member"] = "forged".into();
    answer["nothing"] = Value::Null;
    answer["access_token"] = TOKEN.into();
    answer["deep"] = json!({ "echo": [{ "token": TOKEN }] });
    let user = world.user_of(answer).await;
    let text = Value::Object(user.attributes().clone()).to_string();
    assert!(!text.contains("forged") && !text.contains("mF_9"), "{text}");
    let names = ["nothing", "access_token", "deep", "active", "exp"];
    assert!(
        names
            .iter()
            .all(|name| !user.attributes().contains_key(*name))
    );
    assert_eq!((user.id(), user.tier()), (SUB, "free"));
    assert_eq!(user.created_at(), None);
    assert!(world.validator.accepts(&user));
    // Claims are stored separately, so none of them is lost either.
    for name in taken {
        assert_eq!(user.attributes()[name], "claimed", "{name}");
    }
}

#[tokio::test]
async fn kept_claims_are_bounded_and_checked_claims_have_priority() {
    let world = World::with(|builder| builder.require_scope("read")).await;
    let mut answer = jdoe();
    // Short claims, so that they use all the space before the claims that come after them.
    for n in 0..2_000 {
        answer[format!("a{n:04}")] = "x".repeat(8).into();
    }
    let user = world.user_of(answer).await;
    let kept = Value::Object(user.attributes().clone()).to_string();
    assert!((16_000..22_000).contains(&kept.len()), "{}", kept.len());
    assert!(world.validator.accepts(&user));
    for name in ["iss", "aud", "scope"] {
        assert!(user.attributes().contains_key(name), "{name}");
    }
    // Scopes that exceed the whole space are not kept, so the session is not served from a cache.
    let scopes = format!("read {}", "y".repeat(20_000));
    let user = world.user_of(jdoe_with("scope", scopes)).await;
    assert!(!world.validator.accepts(&user));
}

#[tokio::test]
async fn each_response_maps_to_its_error_kind() {
    let signed = "application/token-introspection+jwt";
    let not_json = |body: &str| Fault::Raw {
        status: 200,
        headers: Vec::new(),
        body: body.to_owned(),
    };
    let client = json!({ "error": "invalid_client", "error_description": CLIENT_ID });
    let moved = Fault::status(307).with("location", "/elsewhere");
    let table = [
        (Fault::json(401, &client), MISCONFIGURED),
        (Fault::html(401), UNAVAILABLE),
        (Fault::status(403), MISCONFIGURED),
        (Fault::status(400), MISCONFIGURED),
        (Fault::status(404), MISCONFIGURED),
        (Fault::html(404), UNAVAILABLE),
        (Fault::status(405), MISCONFIGURED),
        (moved, UNAVAILABLE),
        (
            not_json("eyJ0.eyJp.c2ln").with("content-type", signed),
            MISCONFIGURED,
        ),
        (Fault::status(408), UNAVAILABLE),
        (Fault::status(429), UNAVAILABLE),
        (Fault::status(500), UNAVAILABLE),
        (Fault::html(502), UNAVAILABLE),
        (Fault::status(503), UNAVAILABLE),
        (Fault::html(200), UNAVAILABLE),
        (Fault::json(200, &json!({})), UNAVAILABLE),
        (Fault::json(200, &json!([true])), UNAVAILABLE),
        (Fault::json(200, &jdoe_with("active", "true")), UNAVAILABLE),
        (Fault::json(201, &jdoe()), UNAVAILABLE),
        (not_json(""), UNAVAILABLE),
        (not_json(r#"{"active":true"#), UNAVAILABLE),
        (
            not_json(r#"{"active":true,"sub":"u","exp":1e999}"#),
            UNAVAILABLE,
        ),
        (Fault::Oversized, UNAVAILABLE),
        (Fault::HalfBody, UNAVAILABLE),
    ];
    let world = World::new().await;
    for (fault, kind) in table {
        world.server.fault(fault.clone());
        let error = world.validate().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
        assert!(advice(&error).starts_with("token introspection: "));
        world.server.mend();
    }
    assert!(
        world.validate().await.is_ok(),
        "a fault must not affect later validations"
    );
}

/// A server that writes milliseconds would otherwise issue tokens that never end by `exp`, or that
/// are never valid by `nbf`. A text would be an outage for every token.
#[tokio::test]
async fn times_in_milliseconds_or_as_text_are_recognized() {
    let world = World::new().await;
    let now = Utc::now().timestamp();
    let mut answer = jdoe_with("exp", (now + 600) * 1_000);
    answer["nbf"] = ((now - 60) * 1_000).into();
    world.server.issue(TOKEN, answer);
    let session = world.validate().await.unwrap();
    assert_eq!(session.expires_at.unwrap().timestamp(), now + 600);
    world
        .server
        .issue(TOKEN, jdoe_with("exp", (now + 600).to_string()));
    let session = world.validate().await.unwrap();
    assert_eq!(session.expires_at.unwrap().timestamp(), now + 600);
    let passed = jdoe_with("exp", (now - 600) * 1_000);
    assert_eq!(world.kind_of(passed).await, Some(INVALID));
}

#[tokio::test]
async fn byte_order_mark_of_a_response_is_ignored() {
    let world = World::new().await;
    world.server.fault(Fault::Raw {
        status: 200,
        headers: vec![("content-type", "application/json; charset=utf-8".to_owned())],
        body: format!("\u{feff}{}", jdoe()),
    });
    assert_eq!(world.validate().await.unwrap().user.id(), SUB);
    world.server.fault(Fault::Raw {
        status: 401,
        headers: Vec::new(),
        body: "\u{feff}{\"error\":\"invalid_client\"}".to_owned(),
    });
    assert_eq!(world.kind().await, Some(MISCONFIGURED));
}

#[tokio::test]
async fn throttling_response_sets_retry_after() {
    let world = World::new().await;
    let in_a_while = (Utc::now() + Duration::from_secs(50)).to_rfc2822();
    let soon = (Utc::now().timestamp() + 50).to_string();
    for (name, value, wait) in [
        ("retry-after", "7", 7..=7),
        ("retry-after", "0", 1..=1),
        ("retry-after", "9999999999", 60..=60),
        ("retry-after", in_a_while.as_str(), 20..=50),
        ("x-ratelimit-reset", "9", 9..=9),
        ("x-ratelimit-reset", soon.as_str(), 20..=50),
    ] {
        world.server.fault(Fault::status(429).with(name, value));
        let after = world.validate().await.unwrap_err().retry_after();
        let after = after.unwrap().as_secs();
        assert!(wait.contains(&after), "{name}: {value} gives {after}");
    }
    for (name, value) in [
        ("retry-after", "soon"),
        ("retry-after", ""),
        ("x-other", "9"),
    ] {
        world.server.fault(Fault::status(429).with(name, value));
        let after = world.validate().await.unwrap_err().retry_after();
        assert_eq!(after, Some(Duration::from_secs(1)), "{name}: {value}");
    }
}

#[tokio::test]
async fn hanging_or_unreachable_server_is_unavailable() {
    let world = World::with(|builder| builder.timeout(Duration::from_millis(200))).await;
    world.server.fault(Fault::Hang);
    let began = Instant::now();
    let error = world.validate().await.unwrap_err();
    assert_eq!(error.kind(), UNAVAILABLE);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(advice(&error).contains("timeout"), "{error:?}");

    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let unreachable = IntrospectionValidator::new(format!("http://{address}/"), basic()).unwrap();
    let error = unreachable.validate(token(TOKEN)).await.unwrap_err();
    assert_eq!(error.kind(), UNAVAILABLE);
    assert_discreet(&error);
}

#[tokio::test]
async fn dropped_validation_leaves_the_validator_usable() {
    let world = World::new().await;
    world.server.fault(Fault::Hang);
    let validator = world.validator.clone();
    let validating = tokio::spawn(async move { validator.validate(token(TOKEN)).await });
    world.server.wait_for_calls(1).await;
    validating.abort();
    assert!(validating.await.unwrap_err().is_cancelled());
    world.server.mend();
    assert!(world.validate().await.is_ok());
}

#[tokio::test]
async fn redirect_target_does_not_receive_the_token() {
    let world = World::new().await;
    let elsewhere = Introspection::start(Demands::Nothing).await;
    elsewhere.issue(TOKEN, jdoe());
    for status in [301, 302, 303, 307, 308] {
        let away = Fault::status(status).with("location", &elsewhere.endpoint());
        world.server.fault(away);
        assert_eq!(world.kind().await, Some(UNAVAILABLE), "{status}");
    }
    assert_eq!(elsewhere.calls(), 0);
}

/// The status and the challenge that a client receives.
async fn answer(
    layer: &SessionCacheLayer<IntrospectionValidator>,
    text: &str,
) -> (StatusCode, String) {
    async fn me(Extension(user): Extension<UserData>) -> String {
        user.id().to_owned()
    }
    let app = Router::new().route("/", get(me)).layer(layer.clone());
    let request = Request::builder().header(header::AUTHORIZATION, format!("Bearer {text}"));
    let request = request.body(axum::body::Body::empty()).unwrap();
    let answer = soon("a response", app.oneshot(request)).await.unwrap();
    let challenge = answer.headers().get(header::WWW_AUTHENTICATE);
    let challenge = challenge.map_or("", |value| value.to_str().unwrap());
    if let Some(rejection) = answer.extensions().get::<Rejection>() {
        assert_eq!(rejection.status(), answer.status());
    }
    (answer.status(), challenge.to_owned())
}

fn with_redis(redis: &Redis) -> SessionCacheBuilder {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    SessionCache::builder().redis(redis).unwrap()
}

#[tokio::test]
async fn client_receives_status_and_challenge() {
    let server = Introspection::start(Demands::Basic).await;
    server.issue("good", jdoe());
    server.issue("narrow", jdoe_with("scope", "read"));
    let validator = validator(&server, |builder| builder.require_scope("write"));
    let layer = SessionCacheLayer::new(SessionCache::builder().build().unwrap(), validator);
    for _ in 0..2 {
        assert_eq!(
            answer(&layer, "good").await,
            (StatusCode::OK, String::new())
        );
        let invalid = r#"Bearer error="invalid_token""#.to_owned();
        assert_eq!(
            answer(&layer, "gone").await,
            (StatusCode::UNAUTHORIZED, invalid)
        );
        let narrow = r#"Bearer error="insufficient_scope""#.to_owned();
        assert_eq!(
            answer(&layer, "narrow").await,
            (StatusCode::FORBIDDEN, narrow)
        );
    }
    // One validation each for `good` and `gone`, and one per request for `narrow`: its scope may be
    // granted at any time, so the rejection is not cached.
    assert_eq!(server.calls(), 4);
    server.fault(Fault::status(500));
    assert_eq!(answer(&layer, "good").await.0, StatusCode::OK);
    assert_eq!(
        answer(&layer, "new").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn cached_session_is_checked_against_the_serving_validator() {
    let redis = Redis::start();
    let server = Introspection::start(Demands::Basic).await;
    server.issue(TOKEN, jdoe());
    let layer = |set: Set| {
        let cache = with_redis(&redis).build().unwrap();
        // All use one authority, whatever issuer they require; otherwise they would share nothing.
        let set = |builder: Builder| set(builder.authority("jdoe's"));
        SessionCacheLayer::new(cache, validator(&server, set))
    };
    let any = layer(|builder| builder);
    for (origin, calls) in [(Origin::Validator, 1), (Origin::Redis, 1)] {
        let (user, found) = ask(&any, TOKEN).await.unwrap();
        assert_eq!((user.id(), found, server.calls()), (SUB, origin, calls));
        assert_eq!(user.attributes()["extension_field"], "twenty-seven");
    }

    // A validator whose requirements the token meets serves the session that another one cached.
    let same = layer(|builder| {
        builder
            .issuer("https://server.example.com/")
            .audience("https://protected.example.net/resource")
            .require_scope("write")
    });
    assert_eq!(ask(&same, TOKEN).await.unwrap().1, Origin::Redis);
    assert_eq!(server.calls(), 1);

    let strict: [(Set, u16); 5] = [
        (|builder| builder.issuer("https://other.example.com/"), 401),
        (|builder| builder.audience("another-api"), 401),
        (|builder| builder.require_scope("admin"), 403),
        (|builder| builder.user_id_claim("uid"), 403),
        (
            |builder| builder.user_id_claim("uid").namespace("jdoe"),
            403,
        ),
    ];
    for (n, (set, status)) in strict.into_iter().enumerate() {
        assert_eq!(ask(&layer(set), TOKEN).await.unwrap_err(), status, "{n}");
        assert_eq!(server.calls(), 2 + n, "the cached session was not accepted");
    }
    assert_eq!(ask(&any, TOKEN).await.unwrap().1, Origin::Redis);

    // After the token gets more scopes it is validated again, and that session is cached.
    server.issue(TOKEN, jdoe_with("scope", "admin read write"));
    let admin = layer(|builder| builder.require_scope("admin"));
    assert_eq!(ask(&admin, TOKEN).await.unwrap().1, Origin::Validator);
    assert_eq!(ask(&admin, TOKEN).await.unwrap().1, Origin::Redis);
    assert_eq!(ask(&any, TOKEN).await.unwrap().1, Origin::Redis);
    assert_eq!(server.calls(), 7);
    let keys = redis.keys();
    let [record] = &keys[..] else {
        panic!("one record for all of them: {keys:?}");
    };
    let ttl = redis.ttl(record);
    assert!((1..=300).contains(&ttl), "{ttl}");
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn leeway_applies_only_to_its_own_validator() {
    let redis = Redis::start();
    let server = Introspection::start(Demands::Basic).await;
    server.issue(TOKEN, jdoe_with("nbf", Utc::now().timestamp() + 1_800));
    let layer = |set: Set| {
        let cache = with_redis(&redis).build().unwrap();
        SessionCacheLayer::new(cache, validator(&server, set))
    };
    let strict = layer(|builder| builder);
    assert_eq!(
        ask(&strict, TOKEN).await.unwrap_err(),
        401,
        "before it is cached"
    );
    let early = layer(|builder| builder.leeway(Duration::from_secs(3_600)));
    for origin in [Origin::Validator, Origin::Redis] {
        assert_eq!(ask(&early, TOKEN).await.unwrap().1, origin);
    }
    let strict = layer(|builder| builder);
    assert_eq!(ask(&strict, TOKEN).await.unwrap_err(), 401);
    assert_eq!(ask(&early, TOKEN).await.unwrap().1, Origin::Redis);
}

/// The answer of a server to a client's own token, with its `sub`.
fn machine(sub: Option<&str>) -> Value {
    let mut answer = json!({
        "active": true, "client_id": "shop", "scope": "read", "token_type": "Bearer",
        "exp": 32_503_680_000_i64,
    });
    if let Some(sub) = sub {
        answer["sub"] = sub.into();
    }
    answer
}

#[tokio::test]
async fn allowed_values_add_to_the_accepted_kinds() {
    let world = World::with(|builder| {
        builder
            .allow_token_use("refresh_token")
            .allow_typ("Offline")
            .allow_token_type("JWT")
    })
    .await;
    for (name, value, kind) in [
        ("token_use", "Refresh_Token", None),
        ("token_use", "access_token", None),
        ("token_use", "id_token", Some(INVALID)),
        ("token_usage", "refresh_token", None),
        ("typ", "offline", None),
        ("typ", "Bearer", None),
        ("typ", "Refresh", Some(INVALID)),
        ("token_type", "jwt", None),
        ("token_type", "Bearer", None),
        ("token_type", "DPoP", Some(INVALID)),
    ] {
        let answer = jdoe_with(name, value);
        assert_eq!(world.kind_of(answer.clone()).await, kind, "{name} {value}");
        if kind.is_none() {
            let user = world.user_of(answer).await;
            assert!(world.validator.accepts(&user), "{name} {value}");
        }
    }
    let bound = World::with(Builder::allow_bound_tokens).await;
    assert_eq!(bound.kind_of(jdoe_with("token_type", "dpop")).await, None);

    let typed = World::with(Builder::require_token_type).await;
    assert_eq!(typed.kind_of(jdoe()).await, Some(INVALID));
    let mut null = jdoe();
    null["token_type"] = Value::Null;
    assert_eq!(typed.kind_of(null).await, Some(INVALID));
    assert_eq!(typed.kind_of(jdoe_with("token_type", "Bearer")).await, None);
    let refresh = jdoe_with("token_type", "N_A");
    assert_eq!(typed.kind_of(refresh).await, Some(INVALID));
}

#[tokio::test]
async fn kind_of_token_is_checked_on_every_hit() {
    let redis = Redis::start();
    let server = Introspection::start(Demands::Basic).await;
    let layer = |set: Set| {
        let cache = with_redis(&redis).build().unwrap();
        SessionCacheLayer::new(cache, validator(&server, set))
    };
    let lax: Set = |builder| {
        builder
            .allow_token_use("refresh_token")
            .allow_typ("Refresh")
            .allow_token_type("N_A")
    };
    let typed: Set = Builder::require_token_type;
    let plain: Set = |builder| builder;
    for (n, (name, value, strict)) in [
        ("token_use", json!("refresh_token"), plain),
        ("typ", json!("Refresh"), plain),
        ("token_type", json!("N_A"), plain),
        ("token_type", Value::Null, typed),
    ]
    .into_iter()
    .enumerate()
    {
        let text = format!("token-{n}");
        let mut answer = jdoe_with(name, value);
        // Claims that would use all the space if they were stored in the order of their names.
        for n in 0..2_000 {
            answer[format!("a{n:04}")] = "x".repeat(8).into();
        }
        server.issue(&text, answer);
        let (lax, strict) = (layer(lax), layer(strict));
        let calls = server.calls();
        assert_eq!(ask(&lax, &text).await.unwrap().1, Origin::Validator);
        assert_eq!(ask(&lax, &text).await.unwrap().1, Origin::Redis, "{name}");
        assert_eq!(server.calls(), calls + 1);
        assert_eq!(ask(&strict, &text).await.unwrap_err(), 401, "{name}");
        assert_eq!(server.calls(), calls + 2, "it is validated again");
        // The rejection is by the rule of one service.
        assert_eq!(ask(&lax, &text).await.unwrap().1, Origin::Redis, "{name}");
    }
    // A session of an access token is shared.
    server.issue(TOKEN, jdoe_with("token_type", "Bearer"));
    assert!(ask(&layer(plain), TOKEN).await.is_ok());
    assert_eq!(ask(&layer(typed), TOKEN).await.unwrap().1, Origin::Redis);
}

#[tokio::test]
async fn token_of_a_client_is_no_user_unless_allowed() {
    let plain = World::new().await;
    let lenient = World::with(|builder| builder.or_user_id_claim("client_id")).await;
    let user_of_shop = |name: &str, value: Value| {
        let mut answer = machine(None);
        answer[name] = value;
        answer
    };
    let mut numeric = machine(Some("42"));
    numeric["client_id"] = 42.into();
    let mut azp = machine(Some("robot"));
    azp["azp"] = "robot".into();
    let mut owner = machine(Some("shop"));
    owner["username"] = "ada".into();
    for (answer, id) in [
        (machine(None), "shop"),
        (machine(Some("")), "shop"),
        (machine(Some("shop")), "shop"),
        (user_of_shop("username", json!("shop")), "shop"),
        (user_of_shop("username", json!("")), "shop"),
        (numeric, "42"),
        (azp, "shop"),
        (owner, "shop"),
    ] {
        let shown = answer.to_string();
        assert_eq!(
            plain.kind_of(answer.clone()).await,
            Some(NO_USER),
            "{shown}"
        );
        let user = lenient.user_of(answer).await;
        assert_eq!(user.id(), id, "{shown}");
        assert_eq!(user.attributes()["user_id_member"], "client_id");
        assert!(lenient.validator.accepts(&user), "{shown}");
        assert!(!plain.validator.accepts(&user), "{shown}");
    }
    // A user's token does not become its client's.
    for answer in [
        user_of_shop("sid", json!("s1")),
        user_of_shop("username", json!("ada")),
        user_of_shop("preferred_username", json!("ada")),
        user_of_shop("email", json!("ada@example.com")),
        user_of_shop("sub", json!(["ada"])),
        user_of_shop("sub", json!(-7)),
    ] {
        let shown = answer.to_string();
        assert_eq!(lenient.kind_of(answer).await, Some(NO_USER), "{shown}");
    }
    let nested = World::with(|builder| {
        builder
            .or_user_id_claim("client_id")
            .session_id_claim("ext.sid")
    })
    .await;
    let session = user_of_shop("ext", json!({ "sid": "s1" }));
    assert_eq!(nested.kind_of(session).await, Some(NO_USER));

    // Nor does a client act as the user whose name is its ID.
    let by_name = World::with(|builder| builder.user_id_claim("username")).await;
    let mut answer = machine(Some("shop"));
    answer["username"] = "ada".into();
    assert_eq!(by_name.kind_of(answer).await, Some(NO_USER));
    let answer = user_of_shop("username", json!("shop"));
    assert_eq!(by_name.kind_of(answer).await, Some(NO_USER));

    // As the first claim, it is the ID of every token.
    let by_client = World::with(|builder| builder.user_id_claim("client_id")).await;
    for answer in [machine(Some("shop")), machine(None), machine(Some("ada"))] {
        let user = by_client.user_of(answer).await;
        assert_eq!(user.id(), "shop");
        assert!(by_client.validator.accepts(&user));
        assert!(!lenient.validator.accepts(&user) && !plain.validator.accepts(&user));
    }
}

#[tokio::test]
async fn client_and_user_with_the_same_id_are_different_identities() {
    let redis = Redis::start();
    let server = Introspection::start(Demands::Basic).await;
    server.issue("of-the-client", machine(Some("shop")));
    let mut user = machine(Some("shop"));
    user["client_id"] = "app".into();
    server.issue("of-the-user", user);
    let cache = || with_redis(&redis).build().unwrap();
    let issuer = |builder: Builder| builder.authority("https://id.example.com");
    let lenient = |cache| {
        let set = |builder: Builder| issuer(builder).or_user_id_claim("client_id");
        SessionCacheLayer::new(cache, validator(&server, set))
    };
    let here = cache();
    for layer in [lenient(here.clone()), lenient(cache())] {
        for (text, authority) in [
            ("of-the-client", "https://id.example.com#client_id"),
            ("of-the-user", "https://id.example.com"),
        ] {
            let (user, _) = ask(&layer, text).await.unwrap();
            let found = user.authority().unwrap().as_str().to_owned();
            assert_eq!((user.id(), &*found), ("shop", authority));
        }
    }
    assert_eq!(server.calls(), 2, "the second node found both in Redis");

    // A validator without the setting has records of its own.
    let plain = SessionCacheLayer::new(cache(), validator(&server, issuer));
    assert_eq!(ask(&plain, "of-the-client").await.unwrap_err(), 403);
    assert_eq!(ask(&plain, "of-the-user").await.unwrap().0.id(), "shop");
    let calls = server.calls();
    let _ = here.invalidate_user("shop").await.unwrap();
    for text in ["of-the-client", "of-the-user"] {
        let (_, origin) = ask(&lenient(cache()), text).await.unwrap();
        assert_eq!(origin, Origin::Validator, "{text}");
    }
    assert_eq!(server.calls(), calls + 2);
}

#[tokio::test]
async fn cached_id_is_used_only_with_the_same_claims_before_it() {
    // One name for all, so that only the rules separate them.
    let world = World::with(|builder| builder.or_user_id_claim("uid")).await;
    let mut answer = jdoe_with("uid", "u1");
    answer["sub"] = Value::Null;
    let user = world.user_of(answer.clone()).await;
    assert_eq!(user.id(), "u1");
    assert!(world.validator.accepts(&user));
    for (set, is_accepted) in [
        (
            (|b| b.or_user_id_claim("uid").or_user_id_claim("client_id")) as Set,
            true,
        ),
        (|b| b.or_user_id_claim("client_id"), false),
        (
            |b| b.or_user_id_claim("email").or_user_id_claim("uid"),
            false,
        ),
        (|b| b.user_id_claim("uid"), false),
        (|b| b.user_id_claim("uid").or_user_id_claim("sub"), false),
        (|b| b.user_id_claim("id").or_user_id_claim("uid"), false),
        (|b| b, false),
    ] {
        let other = validator(&world.server, set);
        assert_eq!(other.accepts(&user), is_accepted, "{other:?}");
    }
    // A server cannot set where the ID comes from.
    answer["user_id_members_missing"] = json!([]);
    answer["user_id_member"] = "sub".into();
    let user = world.user_of(answer).await;
    assert_eq!(user.attributes()["user_id_members_missing"], json!(["sub"]));
    assert_eq!(user.attributes()["user_id_member"], "uid");
    for earlier in [json!("sub"), json!([7]), json!({}), json!(["sub", "sub"])] {
        let foreign = UserData::builder("u1")
            .attribute("user_id_member", "uid")
            .attribute("user_id_members_missing", earlier.clone())
            .build();
        assert!(!world.validator.accepts(&foreign), "{earlier}");
    }
    // A record of another version may contain a client's own token.
    let old = UserData::builder("shop").attribute("client_id", "shop");
    assert!(!world.validator.accepts(&old.build()));
}

#[tokio::test]
async fn hydra_tokens_are_distinguished() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    let shop = hydra::Client::new("shop", "the secret of shop").scope("orders:read");
    hydra.create_client(&shop).await;
    let tokens = hydra.login(&shop, "ada", "orders:read").await;
    let own = hydra.client_credentials(&shop, "orders:read").await;
    let layer = |set: Set| {
        let auth = IntrospectionAuth::none();
        let builder = IntrospectionValidator::builder(hydra.introspection_endpoint(), auth);
        let validator = set(builder).build().unwrap();
        SessionCacheLayer::new(SessionCache::builder().build().unwrap(), validator)
    };
    let sets: [(Set, u16); 2] = [
        (|builder| builder, 403),
        (|builder| builder.or_user_id_claim("client_id"), 200),
    ];
    for (set, status) in sets {
        let layer = layer(set);
        let (user, _) = ask(&layer, &tokens.access).await.unwrap();
        assert_eq!(user.id(), "ada");
        assert_eq!(ask(&layer, &tokens.refresh).await.unwrap_err(), 401);
        assert_eq!(ask(&layer, &tokens.id).await.unwrap_err(), 401);
        match ask(&layer, &own).await {
            Ok((client, _)) => {
                assert_eq!((client.id(), status), ("shop", 200));
                assert_ne!(client.authority(), user.authority());
            }
            Err(rejected) => assert_eq!(rejected, status),
        }
    }
}

#[tokio::test]
async fn keycloak_tokens_are_distinguished() {
    let Some(keycloak) = Keycloak::start().await else {
        return;
    };
    // Keycloak calls an ID token active for the client that it was issued to.
    let shop = keycloak::Client::new("shop", "the secret of shop")
        .audience("shop")
        .service_account();
    keycloak.create_realm("test").await;
    keycloak.create_client("test", &shop).await;
    let ada = keycloak::User {
        name: "ada",
        password: "the password of ada",
        email: "ada@example.com",
        is_email_verified: true,
    };
    let id = keycloak.create_user("test", ada).await;
    let tokens = keycloak
        .login("test", &shop, "ada", "the password of ada")
        .await;
    let own = keycloak.client_credentials("test", &shop).await;
    let shown = keycloak.introspect("test", &shop, &tokens.id).await;
    assert_eq!(
        (&shown["active"], &shown["typ"]),
        (&json!(true), &json!("ID"))
    );

    let layer = |set: Set| {
        let auth = IntrospectionAuth::basic(shop.id.as_str(), shop.secret.as_str());
        let endpoint = keycloak.introspection_endpoint("test");
        let builder = IntrospectionValidator::builder(endpoint, auth);
        let validator = set(builder.require_token_type()).build().unwrap();
        SessionCacheLayer::new(SessionCache::builder().build().unwrap(), validator)
    };
    let plain = layer(|builder| builder);
    assert_eq!(ask(&plain, &tokens.access).await.unwrap().0.id(), id);
    assert_eq!(ask(&plain, &tokens.id).await.unwrap_err(), 401);
    assert_eq!(ask(&plain, &tokens.refresh).await.unwrap_err(), 401);
    // A service account is a user.
    let (service, _) = ask(&plain, &own).await.unwrap();
    assert_eq!(service.name(), "service-account-shop");
    let lax = layer(|builder| builder.allow_typ("ID").allow_token_type("ID"));
    assert_eq!(ask(&lax, &tokens.id).await.unwrap().0.id(), id);
}

#[tokio::test]
async fn session_within_the_leeway_ends_with_the_leeway() {
    let redis = Redis::start();
    let server = Introspection::start(Demands::Basic).await;
    let end = Utc::now().timestamp() - 1_000;
    server.issue(TOKEN, jdoe_with("exp", end));
    let layer = |seconds| {
        let cache = with_redis(&redis).build().unwrap();
        let set = |builder: Builder| builder.leeway(Duration::from_secs(seconds));
        SessionCacheLayer::new(cache, validator(&server, set))
    };
    let lenient = layer(1_200);
    for origin in [Origin::Validator, Origin::Redis] {
        let (_, info) = ask_for_all(&lenient, TOKEN).await.unwrap();
        assert_eq!(info.origin(), origin);
        assert_eq!(info.expires_at().unwrap().timestamp(), end + 1_200);
    }
    let ttl = redis.ttl(&redis.keys()[0]);
    assert!((1..=200).contains(&ttl), "{ttl}");
    assert_eq!(server.calls(), 1);
    // A validator with a shorter leeway does not use the record, and does not remove it.
    assert_eq!(ask(&layer(900), TOKEN).await.unwrap_err(), 401);
    assert_eq!(server.calls(), 2);
    assert_eq!(ask(&lenient, TOKEN).await.unwrap().1, Origin::Redis);

    // Without a limit it ends with the last date that a record can contain.
    let unlimited = World::with(|builder| builder.leeway(Duration::MAX)).await;
    unlimited.server.issue(TOKEN, jdoe_with("exp", end));
    let session = unlimited.validate().await.unwrap();
    assert_eq!(session.expires_at.unwrap().timestamp(), 253_402_300_799);
    assert!(unlimited.validator.accepts(&session.user));
}

#[tokio::test]
async fn record_of_the_python_service_is_not_used() {
    let redis = Redis::start();
    let server = Introspection::start(Demands::Basic).await;
    server.issue(TOKEN, jdoe());
    let sets: [Set; 2] = [|builder| builder, |builder| builder.namespace("orders")];
    for (n, set) in sets.into_iter().enumerate() {
        Peer(&redis).store(TOKEN, "peers-ada");
        let cache = with_redis(&redis).build().unwrap();
        let layer = SessionCacheLayer::new(cache, validator(&server, set));
        let (user, origin) = ask(&layer, TOKEN).await.unwrap();
        assert_eq!((user.id(), origin), (SUB, Origin::Validator));
        assert_eq!(server.calls(), n + 1);
        assert_eq!(ask(&layer, TOKEN).await.unwrap().1, Origin::Redis);
        // The record is not overwritten either.
        assert_eq!(
            Peer(&redis).lookup(TOKEN).as_deref(),
            Some("peers-ada"),
            "{n}"
        );
    }
}

#[tokio::test]
async fn session_expires_with_its_token() {
    let redis = Redis::start();
    let server = Introspection::start(Demands::Basic).await;
    let end = Utc::now().timestamp() + 100;
    server.issue(TOKEN, jdoe_with("exp", end));
    let cache = with_redis(&redis).build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), validator(&server, |builder| builder));
    ask(&layer, TOKEN).await.unwrap();
    let ttl = redis.ttl(&redis.keys()[0]);
    assert!((1..=100).contains(&ttl), "{ttl}");

    server.revoke(TOKEN);
    assert!(ask(&layer, TOKEN).await.is_ok(), "cached");
    let _ = cache.invalidate_user(SUB).await.unwrap();
    assert_eq!(ask(&layer, TOKEN).await.unwrap_err(), 401);
}

#[tokio::test]
async fn combined_validators_accept_only_their_own_sessions() {
    let server = Introspection::start(Demands::Basic).await;
    server.issue("oauth", jdoe_with("validator", "people"));
    let people = validator_fn("people", |_| async { Ok(UserData::new("ada")) });
    let machines = validator(&server, |builder| builder.require_scope("read"));
    let either = machines.or("people", people);
    let layer = SessionCacheLayer::new(SessionCache::builder().build().unwrap(), either);
    for (text, id) in [("oauth", SUB), ("session", "ada")] {
        for _ in 0..2 {
            assert_eq!(ask(&layer, text).await.unwrap().0.id(), id);
        }
    }
    assert_eq!(server.calls(), 2);
    let user = ask(&layer, "oauth").await.unwrap().0;
    assert_eq!(user.attributes()["validator"], "people", "only a claim");
    // Unavailable is not rejected, so the other validator is not called.
    server.fault(Fault::status(500));
    assert_eq!(ask(&layer, "new").await.unwrap_err(), 503);
}

#[tokio::test]
async fn no_token_or_secret_is_logged_even_at_trace() {
    let log = record_log();
    let text = "the-token-itself-of-the-session";
    let mut shown = String::new();
    for (demands, auth) in [
        (Demands::Basic, basic()),
        (
            Demands::Post,
            IntrospectionAuth::post(CLIENT_ID, CLIENT_SECRET),
        ),
        (Demands::Bearer, IntrospectionAuth::bearer(BEARER)),
        (
            Demands::Basic,
            IntrospectionAuth::basic(CLIENT_ID, "wrong-Fjfp0-secret"),
        ),
    ] {
        let server = Introspection::start(demands).await;
        let mut mail = jdoe_with("email", "ada@example.com");
        mail["echo"] = text.into();
        server.issue(text, mail);
        server.issue("narrow-token-itself", jdoe_with("aud", "another"));
        let endpoint = format!("{}?realm=hidden-realm", server.endpoint());
        let builder = IntrospectionValidator::builder(endpoint, auth);
        let builder = builder.audience("https://protected.example.net/resource");
        shown += &format!("{builder:?}");
        let validator = builder.timeout(Duration::from_millis(500)).build().unwrap();
        shown += &format!("{validator:?}");
        let cache = SessionCache::builder().build().unwrap();
        let layer = SessionCacheLayer::new(cache, validator);
        for text in [text, text, "narrow-token-itself", "unknown-token-itself"] {
            let _ = ask(&layer, text).await;
        }
        for (n, fault) in [
            Fault::json(401, &json!({ "error": text, "error_description": text })),
            Fault::html(200),
            Fault::status(500),
            Fault::HalfBody,
            Fault::Oversized,
            Fault::Hang,
        ]
        .into_iter()
        .enumerate()
        {
            server.fault(fault);
            let rejected = ask(&layer, &format!("{n}-token-itself")).await;
            assert_eq!(rejected.unwrap_err(), 503);
        }
    }
    let log = log.text() + &shown;
    assert!(log.contains("TRACE") && log.contains("no session can be validated"));
    assert!(
        log.contains("active token rejected"),
        "the reason is not logged"
    );
    let basic_pair = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        "orders+api%3A1:",
    );
    for kept in [
        "token-itself",
        "Fjfp0",
        "G%C3%A9",
        BEARER,
        &basic_pair[..16],
        "ada@example.com",
        "jdoe",
        "hidden-realm",
    ] {
        assert!(!log.contains(kept), "{kept} is in {log}");
    }
}

#[test]
fn build_rejects_invalid_settings() {
    use IntrospectionConfigError as E;

    let build = |endpoint: &str, set: Set| {
        let builder = IntrospectionValidator::builder(endpoint, basic());
        assert!(!format!("{builder:?}").contains("s3cr3t"));
        set(builder).build()
    };
    for endpoint in [
        "https://id.example.com/realms/shop/protocol/openid-connect/token/introspect",
        "https://id.example.com/introspect?realm=/alpha",
        "http://localhost:4445/admin/oauth2/introspect",
        "http://[::1]/",
    ] {
        assert!(build(endpoint, |builder| builder).is_ok(), "{endpoint}");
    }
    let hydra = "http://hydra:4445/admin/oauth2/introspect";
    assert!(build(hydra, Builder::allow_http).is_ok());

    type IsRight = fn(&E) -> bool;
    let bad: [(&str, IsRight); 7] = [
        ("", |e| matches!(e, E::EndpointNotUrl)),
        ("id.example.com/s3cr3t", |e| matches!(e, E::EndpointNotUrl)),
        ("ftp://s3cr3t/", |e| matches!(e, E::EndpointScheme)),
        ("https://s3cr3t@host/", |e| {
            matches!(e, E::EndpointCredentials)
        }),
        ("https://me:s3cr3t@host/", |e| {
            matches!(e, E::EndpointCredentials)
        }),
        ("https://host/#s3cr3t", |e| matches!(e, E::EndpointFragment)),
        (hydra, |e| matches!(e, E::EndpointPlain)),
    ];
    for (endpoint, is_right) in bad {
        let error = build(endpoint, |builder| builder).expect_err(endpoint);
        assert!(is_right(&error), "{endpoint}: {error:?}");
        let text = error.to_string();
        assert!(
            text.contains("endpoint") && !text.contains("s3cr3t"),
            "{text}"
        );
    }

    let bad: [(Set, IsRight); 11] = [
        (|b| b.issuer(""), |e| matches!(e, E::EmptySetting)),
        (|b| b.audience(""), |e| matches!(e, E::EmptySetting)),
        (|b| b.user_id_claim(""), |e| matches!(e, E::EmptySetting)),
        (|b| b.or_user_id_claim(""), |e| matches!(e, E::EmptySetting)),
        (|b| b.session_id_claim(""), |e| matches!(e, E::EmptySetting)),
        (|b| b.require_scope(""), |e| matches!(e, E::InvalidScope)),
        (|b| b.require_scope("a b"), |e| matches!(e, E::InvalidScope)),
        (
            |b| b.require_scope("a\"b"),
            |e| matches!(e, E::InvalidScope),
        ),
        (|b| b.require_scope("é"), |e| matches!(e, E::InvalidScope)),
        (
            |b| b.timeout(Duration::ZERO),
            |e| matches!(e, E::ZeroTimeout),
        ),
        (
            |b| b.connect_timeout(Duration::ZERO),
            |e| matches!(e, E::ZeroTimeout),
        ),
    ];
    for (n, (set, is_right)) in bad.into_iter().enumerate() {
        let error = build("https://host/", set).expect_err("bad");
        assert!(is_right(&error), "{n}: {error:?}");
    }
    let empty = IntrospectionAuth::post("orders", std::env::var("NO_SUCH").unwrap_or_default());
    let error = IntrospectionValidator::new("https://host/", empty).unwrap_err();
    assert!(matches!(error, E::InvalidCredentials), "{error:?}");
}

#[test]
fn validator_is_clone_send_and_sync() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    is_shareable::<IntrospectionValidator>();
}
