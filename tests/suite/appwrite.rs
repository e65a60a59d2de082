//! The Appwrite validator against a server that responds as Appwrite does, over real HTTP.

use std::{
    error::Error as StdError,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};
use tower_session_cache::{
    AppwriteConfigError, AppwriteErrorKind, AppwriteValidator, AppwriteValidatorBuilder,
    ForbiddenReason, SessionToken, SessionValidator, ValidatedSession, ValidationError,
    ValidationErrorKind,
};

use crate::support::appwrite::{Appwrite, Endpoint, Fault, User};

const ID: &str = "u1";
const EMAIL: &str = "ada@example.com";
const PASSWORD: &str = "correct horse";

/// A server with one user, who has one session.
struct World {
    appwrite: Appwrite,
    validator: AppwriteValidator,
    token: String,
}

impl World {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(set: impl FnOnce(AppwriteValidatorBuilder) -> AppwriteValidatorBuilder) -> Self {
        let appwrite = Appwrite::start().await;
        appwrite.add_user(ID, EMAIL, PASSWORD);
        let token = appwrite.issue(ID);
        let builder = AppwriteValidator::builder(appwrite.endpoint(), appwrite.project_id());
        let validator = set(builder).build().expect("the mock's settings are valid");
        Self {
            appwrite,
            validator,
            token,
        }
    }

    async fn validate(&self) -> Result<ValidatedSession, ValidationError> {
        self.validator.validate(session_token(&self.token)).await
    }

    /// Validates while a fault is set, and checks that the error contains no secrets.
    async fn failure(&self) -> ValidationError {
        let error = self.validate().await.expect_err("a fault");
        self.assert_discreet(&error);
        error
    }

    fn assert_discreet(&self, error: &(dyn StdError + 'static)) {
        let mut text = format!("{error:?} {error:#?}");
        let mut next = Some(error);
        while let Some(error) = next {
            text = format!("{text} {error}");
            next = error.source();
        }
        let secrets = [&self.token, EMAIL, PASSWORD, "http://"];
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} appears in {text}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let violations = self.appwrite.violations();
            assert!(violations.is_empty(), "{violations:?}");
        }
    }
}

/// Appwrite writes the names of its cookies in lower case.
#[tokio::test]
async fn login_finds_the_session_of_a_project_with_capitals() {
    for project in ["MyProject", "myproject"] {
        let appwrite = Appwrite::start_project(project).await;
        appwrite.add_user(ID, EMAIL, PASSWORD);
        let validator = AppwriteValidator::new(appwrite.endpoint(), project).unwrap();
        let login = validator.login(EMAIL, PASSWORD).await.unwrap();
        let validated = validator.validate(login.token).await.unwrap();
        assert_eq!(validated.user.id(), ID);
    }
}

fn session_token(text: &str) -> SessionToken {
    SessionToken::parse(text.to_owned()).expect("a token")
}

const BOTH: [Endpoint; 2] = [Endpoint::Account, Endpoint::Session];

const UNAVAILABLE: ValidationErrorKind = ValidationErrorKind::Unavailable;
const MISCONFIGURED: ValidationErrorKind = ValidationErrorKind::Misconfigured;
const INVALID: ValidationErrorKind = ValidationErrorKind::Invalid;

fn forbidden(reason: ForbiddenReason) -> ValidationErrorKind {
    ValidationErrorKind::Forbidden(reason)
}

fn typed(status: u16, kind: &'static str) -> Fault {
    Fault::Typed { status, kind }
}

fn raw(status: u16, body: &Value) -> Fault {
    Fault::Raw {
        status,
        body: body.to_string(),
    }
}

#[tokio::test]
async fn valid_session_yields_user_and_expiry() {
    let world = World::new().await;
    world.appwrite.edit_user(ID, |user| {
        user.name = "Ada".to_owned();
        user.email_verified = true;
        user.labels = vec!["pro".to_owned(), "beta".to_owned()];
    });
    let expires = DateTime::from_timestamp_millis((Utc::now().timestamp() + 3_600) * 1_000 + 250)
        .expect("a time");
    let token = session_token(&world.appwrite.issue_until(ID, expires));

    // The first response has a date in a different format than the second.
    for _ in 0..2 {
        let session = world
            .validator
            .validate(token.clone())
            .await
            .expect("valid");
        let user = &session.user;
        assert_eq!((user.id(), user.email(), user.name()), (ID, EMAIL, "Ada"));
        assert_eq!((user.email_verified(), user.tier()), (true, "pro"));
        assert!(user.created_at().is_some() && user.updated_at().is_some());
        assert_eq!(session.expires_at, Some(expires));
    }
    assert_eq!(world.appwrite.calls(Endpoint::Account), 2);
    assert_eq!(world.appwrite.calls(Endpoint::Session), 2);
}

#[tokio::test]
async fn account_and_session_state_determine_the_error_kind() {
    let world = World::new().await;
    let user = |change: fn(&mut User)| world.appwrite.edit_user(ID, change);

    user(|user| user.blocked = true);
    let kind = world.failure().await.kind();
    assert_eq!(kind, forbidden(ForbiddenReason::Blocked));
    user(|user| user.blocked = false);

    user(|user| user.password_reset = true);
    let kind = world.failure().await.kind();
    assert_eq!(kind, forbidden(ForbiddenReason::PasswordResetRequired));
    user(|user| user.password_reset = false);

    world.appwrite.require_more_factors(&world.token, true);
    let kind = world.failure().await.kind();
    assert_eq!(kind, forbidden(ForbiddenReason::MfaRequired));
    world.appwrite.require_more_factors(&world.token, false);

    assert!(world.validate().await.is_ok());
    world.appwrite.expire(&world.token);
    assert_eq!(world.failure().await.kind(), INVALID);
    world.appwrite.revoke(&world.token);
    assert_eq!(world.failure().await.kind(), INVALID);

    for unknown in [
        "nonsense",
        "%25%00",
        &BASE64.encode(r#"{"id":"u1","secret":"0"}"#),
    ] {
        let unknown = session_token(unknown);
        let error = world
            .validator
            .validate(unknown)
            .await
            .expect_err("unknown");
        assert_eq!(error.kind(), INVALID);
    }
}

#[tokio::test]
async fn unknown_project_is_a_misconfiguration() {
    let world = World::new().await;
    let stranger = AppwriteValidator::new(world.appwrite.endpoint(), "another").expect("valid");
    let token = session_token(&world.token);
    let error = stranger.validate(token).await.expect_err("no such project");
    assert_eq!(error.kind(), MISCONFIGURED);
    let source = error.source().expect("a source").to_string();
    assert!(source.contains("APPWRITE_PROJECT_ID"), "{source}");
    // The mock reports the wrong project twice, once for each call.
    let violations = world.appwrite.violations();
    assert_eq!(violations.len(), 2, "{violations:?}");
    std::mem::forget(world);
}

#[tokio::test]
async fn each_response_maps_to_its_error_kind() {
    let blocked = forbidden(ForbiddenReason::Blocked);
    let reset = forbidden(ForbiddenReason::PasswordResetRequired);
    let factors = forbidden(ForbiddenReason::MfaRequired);
    let table = [
        (typed(401, "general_unauthorized_scope"), INVALID),
        (typed(401, "user_jwt_invalid"), INVALID),
        (typed(401, "user_unauthorized"), INVALID),
        (typed(404, "user_session_not_found"), INVALID),
        (typed(404, "user_not_found"), INVALID),
        (typed(401, "user_blocked"), blocked),
        (typed(403, "user_blocked"), blocked),
        (typed(412, "user_password_reset_required"), reset),
        (typed(401, "user_more_factors_required"), factors),
        (typed(404, "project_not_found"), MISCONFIGURED),
        (typed(404, "general_route_not_found"), MISCONFIGURED),
        (typed(403, "general_service_disabled"), MISCONFIGURED),
        (typed(403, "general_api_disabled"), MISCONFIGURED),
        (typed(403, "general_unknown_origin"), MISCONFIGURED),
        (typed(403, "user_jwt_and_cookie_set"), MISCONFIGURED),
        (typed(400, "general_argument_invalid"), MISCONFIGURED),
        (typed(400, "general_bad_request"), MISCONFIGURED),
        (Fault::Redirect("/elsewhere".to_owned()), UNAVAILABLE),
        (Fault::Html(301), UNAVAILABLE),
        (typed(429, "general_rate_limit_exceeded"), UNAVAILABLE),
        (Fault::Html(429), UNAVAILABLE),
        (typed(401, "general_access_forbidden"), UNAVAILABLE),
        (typed(500, "user_unauthorized"), UNAVAILABLE),
        (Fault::Status(500), UNAVAILABLE),
        (Fault::Status(503), UNAVAILABLE),
        (Fault::Status(401), UNAVAILABLE),
        (Fault::Html(200), UNAVAILABLE),
        (Fault::Html(400), UNAVAILABLE),
        (Fault::Html(401), UNAVAILABLE),
        (Fault::Html(403), UNAVAILABLE),
        (Fault::Html(404), UNAVAILABLE),
        (Fault::Html(502), UNAVAILABLE),
        (raw(401, &json!({ "error": "unauthorized" })), UNAVAILABLE),
        (
            raw(401, &json!({ "code": 401, "message": "?" })),
            UNAVAILABLE,
        ),
        (raw(200, &json!({})), UNAVAILABLE),
        (raw(200, &json!([])), UNAVAILABLE),
        (raw(204, &json!("")), UNAVAILABLE),
        (raw(200, &json!({ "$id": ID })), UNAVAILABLE),
        (raw(200, &json!({ "status": true })), UNAVAILABLE),
        (raw(200, &json!({ "$id": "", "status": true })), UNAVAILABLE),
        (Fault::Oversized, UNAVAILABLE),
        (Fault::Cut, UNAVAILABLE),
        (Fault::HalfBody, UNAVAILABLE),
    ];
    let world = World::new().await;
    for (fault, kind) in table {
        for places in [&BOTH[..], &BOTH[..1], &BOTH[1..]] {
            for place in places {
                world.appwrite.fault(*place, fault.clone());
            }
            let error = world.failure().await;
            assert_eq!(error.kind(), kind, "{fault:?} on {places:?}: {error:?}");
            if !error.is_rejection() {
                let source = error.source().expect("a source").to_string();
                assert!(source.starts_with("Appwrite, GET /account"), "{source}");
                let names_a_setting = source.contains("APPWRITE_");
                assert!(names_a_setting || kind == UNAVAILABLE, "{source}");
            }
            world.appwrite.clear_faults();
        }
    }
    assert!(
        world.validate().await.is_ok(),
        "a fault must not affect later validations"
    );
}

#[tokio::test]
async fn account_status_false_means_blocked() {
    let world = World::new().await;
    let body = json!({ "$id": ID, "status": false });
    world.appwrite.fault(Endpoint::Account, raw(200, &body));
    let kind = world.failure().await.kind();
    assert_eq!(kind, forbidden(ForbiddenReason::Blocked));
}

#[tokio::test]
async fn most_definite_error_of_the_two_calls_wins() {
    let invalid = || typed(401, "general_unauthorized_scope");
    let blocked = || typed(403, "user_blocked");
    let project = || typed(404, "project_not_found");
    let world = World::new().await;
    let table = [
        (invalid(), Fault::Status(503), INVALID),
        (invalid(), Fault::Cut, INVALID),
        (invalid(), Fault::Html(401), INVALID),
        (invalid(), project(), INVALID),
        (invalid(), blocked(), forbidden(ForbiddenReason::Blocked)),
        (
            blocked(),
            Fault::Oversized,
            forbidden(ForbiddenReason::Blocked),
        ),
        (project(), Fault::Status(503), MISCONFIGURED),
        (Fault::Status(503), Fault::Html(401), UNAVAILABLE),
    ];
    for (one, other, kind) in table {
        for (on_account, on_session) in [(&one, &other), (&other, &one)] {
            world.appwrite.fault(Endpoint::Account, on_account.clone());
            world.appwrite.fault(Endpoint::Session, on_session.clone());
            let error = world.failure().await;
            assert_eq!(error.kind(), kind, "{on_account:?}, {on_session:?}");
        }
    }
}

#[tokio::test]
async fn throttling_response_sets_retry_after() {
    let world = World::new().await;
    let epoch = || u64::try_from(Utc::now().timestamp()).expect("after 1970");
    let throttled = |reset_epoch, retry_after| Fault::Throttled {
        reset_epoch,
        retry_after,
    };
    let table = [
        (throttled(None, None), 1..=1),
        (throttled(None, Some(0)), 1..=1),
        (throttled(None, Some(20)), 20..=20),
        (throttled(None, Some(3_600)), 60..=60),
        (throttled(Some(epoch() - 100), None), 1..=1),
        (throttled(Some(epoch() + 3_600), None), 60..=60),
        (throttled(Some(epoch() + 50), None), 30..=50),
        (throttled(Some(0), Some(9)), 9..=9),
    ];
    for (fault, wait) in table {
        for place in BOTH {
            world.appwrite.fault(place, fault.clone());
            let error = world.failure().await;
            assert_eq!(error.kind(), UNAVAILABLE);
            let after = error.retry_after().expect("a wait").as_secs();
            assert!(wait.contains(&after), "{fault:?} {after:?}");
            world.appwrite.clear_faults();
        }
    }
}

#[tokio::test]
async fn call_to_a_hanging_server_times_out() {
    let world = World::with(|builder| builder.timeout(Duration::from_millis(200))).await;
    for place in BOTH {
        world.appwrite.fault(place, Fault::Hang);
        let began = Instant::now();
        let error = world.failure().await;
        assert_eq!(error.kind(), UNAVAILABLE);
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        let source = error.source().expect("a source").to_string();
        assert!(source.contains("timeout"), "{source}");
        world.appwrite.clear_faults();
    }
    let error = {
        world.appwrite.fault(Endpoint::Login, Fault::Hang);
        world
            .validator
            .login(EMAIL, PASSWORD)
            .await
            .expect_err("it hangs")
    };
    assert_eq!(error.kind(), AppwriteErrorKind::Timeout);
}

#[tokio::test]
async fn refused_connection_is_unavailable() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let validator = AppwriteValidator::new(format!("http://{address}/v1"), "demo").expect("valid");
    let error = validator
        .validate(session_token("s3cr3t"))
        .await
        .expect_err("connection refused");
    assert_eq!(error.kind(), UNAVAILABLE);
    let error = validator
        .login(EMAIL, PASSWORD)
        .await
        .expect_err("connection refused");
    assert_eq!(error.kind(), AppwriteErrorKind::Transport);
    assert!(error.source().is_some());
}

#[tokio::test]
async fn redirect_target_does_not_receive_the_token() {
    let world = World::new().await;
    let elsewhere = Appwrite::start().await;
    for place in BOTH {
        let target = format!("{}/account", elsewhere.endpoint());
        world.appwrite.fault(place, Fault::Redirect(target));
    }
    assert_eq!(world.failure().await.kind(), UNAVAILABLE);
    assert_eq!(elsewhere.calls(Endpoint::Account), 0);
    assert!(elsewhere.violations().is_empty());
}

#[tokio::test]
async fn responses_with_mismatched_users_are_not_a_session() {
    let world = World::new().await;
    world.appwrite.add_user("u2", "eve@example.com", PASSWORD);
    let end = (Utc::now() + TimeDelta::days(1)).to_rfc3339();
    let account = |id: &str| raw(200, &json!({ "$id": id, "status": true }));
    let session = |id: &str| {
        let body = json!({ "userId": id, "expire": end, "current": true });
        raw(200, &body)
    };
    let table = [
        // Only one of the two responses is about another user.
        (account("u2"), session(ID)),
        (account(ID), session("u2")),
        // Both are about another user than the one that the token names.
        (account("u2"), session("u2")),
    ];
    for (on_account, on_session) in table {
        world.appwrite.fault(Endpoint::Account, on_account);
        world.appwrite.fault(Endpoint::Session, on_session);
        assert_eq!(world.failure().await.kind(), UNAVAILABLE);
    }

    // A token that names no user is accepted with any user if both responses agree.
    let opaque = session_token("opaque");
    let found = world
        .validator
        .validate(opaque.clone())
        .await
        .expect("valid");
    assert_eq!(found.user.id(), "u2");
    world.appwrite.fault(Endpoint::Session, session(ID));
    let error = world
        .validator
        .validate(opaque)
        .await
        .expect_err("two users");
    assert_eq!(error.kind(), UNAVAILABLE);
}

#[tokio::test]
async fn session_response_with_invalid_fields_is_unavailable() {
    let world = World::new().await;
    let bodies = [
        json!({ "userId": ID, "current": true }),
        json!({ "userId": ID, "expire": "", "current": true }),
        json!({ "userId": ID, "expire": "tomorrow", "current": true }),
        json!({ "userId": "", "expire": "2999-01-01T00:00:00.000+00:00", "current": true }),
        json!({ "userId": ID, "expire": "2999-01-01T00:00:00.000+00:00", "current": false }),
    ];
    for body in bodies {
        world.appwrite.fault(Endpoint::Session, raw(200, &body));
        assert_eq!(world.failure().await.kind(), UNAVAILABLE, "{body}");
    }
}

#[tokio::test]
async fn account_and_session_calls_run_concurrently() {
    let world = World::new().await;
    let gates = BOTH.map(|place| world.appwrite.hold(place));
    let token = session_token(&world.token);
    let validator = world.validator.clone();
    let validating = tokio::spawn(async move { validator.validate(token).await });
    for place in BOTH {
        world.appwrite.wait_for_calls(place, 1).await;
    }
    assert!(!validating.is_finished());
    drop(gates);
    assert!(validating.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn dropped_validation_leaves_the_validator_usable() {
    let world = World::new().await;
    let gates = BOTH.map(|place| world.appwrite.hold(place));
    let token = session_token(&world.token);
    let validator = world.validator.clone();
    let validating = tokio::spawn(async move { validator.validate(token).await });
    for place in BOTH {
        world.appwrite.wait_for_calls(place, 1).await;
    }
    validating.abort();
    assert!(validating.await.expect_err("aborted").is_cancelled());
    drop(gates);
    assert!(world.validate().await.is_ok());
}

#[tokio::test]
async fn concurrent_validations_keep_their_users_apart() {
    let world = World::new().await;
    let mut validations = Vec::new();
    for n in 0..40 {
        let id = format!("user{n}");
        world
            .appwrite
            .add_user(&id, &format!("{id}@example.com"), PASSWORD);
        let token = session_token(&world.appwrite.issue(&id));
        let validator = world.validator.clone();
        validations.push(tokio::spawn(async move {
            let session = validator.validate(token).await.expect("valid");
            assert_eq!(session.user.id(), id);
        }));
    }
    for validation in validations {
        validation.await.expect("the right user");
    }
}

#[tokio::test]
async fn tier_comes_from_labels_and_not_from_preferences() {
    let world = World::new().await;
    let tier = async || {
        world
            .validate()
            .await
            .expect("valid")
            .user
            .tier()
            .to_owned()
    };

    assert_eq!(tier().await, "free");
    world.appwrite.edit_user(ID, |user| {
        user.prefs = json!({ "tier": "pro", "labels": ["pro"], "plan": "pro" });
    });
    assert_eq!(tier().await, "free");
    world
        .appwrite
        .edit_user(ID, |user| user.labels = vec!["pro".to_owned()]);
    assert_eq!(tier().await, "pro");
    world.appwrite.edit_user(ID, |user| user.prefs = json!([]));
    assert_eq!(tier().await, "pro");
}

#[tokio::test]
async fn tier_function_receives_labels_and_preferences() {
    let seen = Arc::new(Mutex::new(String::new()));
    let sees = Arc::clone(&seen);
    let world = World::with(|builder| {
        builder.tier(move |user| {
            *sees.lock().expect("not poisoned") = user.id().to_owned();
            let theme = user.prefs().get("theme").and_then(Value::as_str);
            format!("{}-{}", user.labels().join("+"), theme.unwrap_or("none"))
        })
    })
    .await;
    world.appwrite.edit_user(ID, |user| {
        user.labels = vec!["a".to_owned(), "b".to_owned()];
        user.prefs = json!({ "theme": "pink" });
    });
    let session = world.validate().await.expect("valid");
    assert_eq!(session.user.tier(), "a+b-pink");
    assert_eq!(*seen.lock().expect("not poisoned"), ID);
}

#[tokio::test]
async fn login_creates_a_session_that_logout_ends() {
    let world = World::new().await;
    let login = world
        .validator
        .login(EMAIL, PASSWORD)
        .await
        .expect("logged in");
    assert_eq!(login.user_id, ID);
    assert!(login.expires_at.expect("an end") > Utc::now());
    let shown = format!("{login:?}");
    assert!(!shown.contains(login.token.expose_secret()), "{shown}");

    let validate = || world.validator.validate(login.token.clone());
    assert_eq!(validate().await.expect("valid").user.id(), ID);
    world
        .validator
        .logout(&login.token)
        .await
        .expect("logged out");
    assert_eq!(validate().await.expect_err("ended").kind(), INVALID);
    world
        .validator
        .logout(&login.token)
        .await
        .expect("a second logout succeeds");
    assert!(
        world.validate().await.is_ok(),
        "the other session is still valid"
    );
    let login = world.validator.login(EMAIL, PASSWORD).await;
    let token = login.expect("logged in").token;
    for _ in 0..2 {
        let ended = world.validator.logout_everywhere(&token).await;
        ended.expect("logged out, and a second time");
    }
    let error = world.validate().await.expect_err("all sessions are over");
    assert_eq!(error.kind(), INVALID);
}

#[tokio::test]
async fn login_without_a_cookie_uses_the_secret_of_the_body() {
    let world = World::new().await;
    let session = |secret: &str| {
        let end = "2999-01-01T00:00:00.000+00:00";
        raw(
            201,
            &json!({ "userId": ID, "expire": end, "secret": secret }),
        )
    };
    world.appwrite.fault(Endpoint::Login, session(&world.token));
    let login = world
        .validator
        .login(EMAIL, PASSWORD)
        .await
        .expect("logged in");
    assert_eq!(login.token.expose_secret(), world.token);

    world.appwrite.add_user("u2", "eve@example.com", PASSWORD);
    let foreign = world.appwrite.issue("u2");
    for secret in ["", "two words", &foreign] {
        world.appwrite.fault(Endpoint::Login, session(secret));
        let error = world
            .validator
            .login(EMAIL, PASSWORD)
            .await
            .expect_err("no token");
        assert_eq!(error.kind(), AppwriteErrorKind::UnexpectedResponse);
        world.assert_discreet(&error);
    }
}

#[tokio::test]
async fn failed_login_reports_the_error_kind() {
    let world = World::new().await;
    let kind = async |email: &str, password: &str| {
        let error = world
            .validator
            .login(email, password)
            .await
            .expect_err("refused");
        world.assert_discreet(&error);
        error.kind()
    };
    assert_eq!(
        kind(EMAIL, "wrong password").await,
        AppwriteErrorKind::Unauthorized
    );
    assert_eq!(
        kind("bob@example.com", PASSWORD).await,
        AppwriteErrorKind::Unauthorized
    );
    assert_eq!(
        kind("not an address", PASSWORD).await,
        AppwriteErrorKind::InvalidArgument
    );

    let table = [
        (
            typed(401, "user_blocked"),
            AppwriteErrorKind::Forbidden(ForbiddenReason::Blocked),
        ),
        (
            typed(404, "project_not_found"),
            AppwriteErrorKind::Misconfigured,
        ),
        (
            typed(429, "general_rate_limit_exceeded"),
            AppwriteErrorKind::RateLimited,
        ),
        (Fault::Status(500), AppwriteErrorKind::ServerError),
        (Fault::Html(401), AppwriteErrorKind::UnexpectedResponse),
        (Fault::Html(201), AppwriteErrorKind::UnexpectedResponse),
        (Fault::Cut, AppwriteErrorKind::Transport),
        (Fault::HalfBody, AppwriteErrorKind::Transport),
        (Fault::Oversized, AppwriteErrorKind::BodyTooLarge),
    ];
    for (fault, expected) in table {
        world.appwrite.fault(Endpoint::Login, fault.clone());
        assert_eq!(kind(EMAIL, PASSWORD).await, expected, "{fault:?}");
    }
}

#[tokio::test]
async fn failed_logout_reports_the_error_kind() {
    let world = World::new().await;
    let token = session_token(&world.token);
    let gone = [
        typed(401, "general_unauthorized_scope"),
        typed(401, "user_unauthorized"),
        typed(404, "user_session_not_found"),
    ];
    for fault in gone {
        world.appwrite.fault(Endpoint::Logout, fault);
        world
            .validator
            .logout(&token)
            .await
            .expect("the session has ended already");
    }
    let table = [
        (Fault::Html(401), AppwriteErrorKind::UnexpectedResponse),
        (Fault::Html(200), AppwriteErrorKind::UnexpectedResponse),
        (Fault::Html(404), AppwriteErrorKind::UnexpectedResponse),
        (
            typed(404, "general_route_not_found"),
            AppwriteErrorKind::Misconfigured,
        ),
        (
            typed(403, "user_blocked"),
            AppwriteErrorKind::Forbidden(ForbiddenReason::Blocked),
        ),
        (Fault::Status(500), AppwriteErrorKind::ServerError),
        (Fault::Cut, AppwriteErrorKind::Transport),
    ];
    for (fault, kind) in table {
        world.appwrite.fault(Endpoint::Logout, fault.clone());
        let error = world.validator.logout(&token).await.expect_err("it failed");
        assert_eq!(error.kind(), kind, "{fault:?}");
        world.assert_discreet(&error);
    }
    let fault = Fault::Throttled {
        reset_epoch: None,
        retry_after: Some(5),
    };
    world.appwrite.fault(Endpoint::Logout, fault);
    let error = world.validator.logout(&token).await.expect_err("throttled");
    assert_eq!(error.kind(), AppwriteErrorKind::RateLimited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(5)));
}

#[tokio::test]
async fn recovery_secret_sets_the_password_once() {
    let world = World::new().await;
    let new = "battery staple";
    let recover = async |secret: &str, password: &str| {
        let outcome = world.validator.recover(ID, secret, password).await;
        outcome.map_err(|error| {
            world.assert_discreet(&error);
            error.kind()
        })
    };
    let secret = world.appwrite.recovery_secret(ID);

    let refused = Err(AppwriteErrorKind::Unauthorized);
    assert_eq!(recover("wrong", new).await, refused);
    assert_eq!(
        recover(&secret, "short").await,
        Err(AppwriteErrorKind::InvalidArgument)
    );
    assert_eq!(recover(&secret, new).await.as_deref(), Ok(ID));
    assert_eq!(recover(&secret, new).await, refused);

    assert_eq!(world.failure().await.kind(), INVALID);
    let error = world
        .validator
        .login(EMAIL, PASSWORD)
        .await
        .expect_err("the old password");
    assert_eq!(error.kind(), AppwriteErrorKind::Unauthorized);
    assert!(world.validator.login(EMAIL, new).await.is_ok());

    world
        .appwrite
        .fault(Endpoint::Recovery, raw(200, &json!({})));
    let unexpected = Err(AppwriteErrorKind::UnexpectedResponse);
    assert_eq!(recover(&secret, new).await, unexpected);
}

#[test]
fn token_source_reads_the_appwrite_session_cookie() {
    let validator = AppwriteValidator::new("https://appwrite.example.com/v1", "demo");
    let source = validator.expect("valid").token_source();
    let cookie = HeaderValue::from_static("a=b; a_session_demo=abc%3D");
    let headers = HeaderMap::from_iter([(header::COOKIE, cookie)]);
    let token = source
        .extract(&headers)
        .expect("well-formed")
        .expect("there");
    assert_eq!(token.expose_secret(), "abc=");
}

#[test]
fn build_rejects_invalid_settings() {
    use AppwriteConfigError as E;

    let good = [
        "https://cloud.appwrite.io/v1",
        "https://cloud.appwrite.io/v1/",
        "http://localhost:8080/v1",
        "http://[::1]:8080/v1",
        "https://example.com/behind/a/proxy/v1",
    ];
    for endpoint in good {
        let validator = AppwriteValidator::new(endpoint, "demo").expect(endpoint);
        let shown = format!("{validator:?}");
        assert!(shown.contains(endpoint.trim_end_matches('/')), "{shown}");
    }

    type IsRight = fn(&E) -> bool;
    let bad: [(&str, IsRight); 12] = [
        ("", |e| matches!(e, E::EndpointNotUrl)),
        ("appwrite/v1", |e| matches!(e, E::EndpointNotUrl)),
        ("appwrite:8080/v1", |e| matches!(e, E::EndpointScheme)),
        ("ftp://s3cr3t/v1", |e| matches!(e, E::EndpointScheme)),
        ("https://s3cr3t@host/v1", |e| {
            matches!(e, E::EndpointCredentials)
        }),
        ("https://me:s3cr3t@host/v1", |e| {
            matches!(e, E::EndpointCredentials)
        }),
        ("https://host/v1?key=s3cr3t", |e| {
            matches!(e, E::EndpointQuery)
        }),
        ("https://host/v1#s3cr3t", |e| matches!(e, E::EndpointQuery)),
        ("https://host", |e| matches!(e, E::EndpointPath)),
        ("https://host/v2", |e| matches!(e, E::EndpointPath)),
        ("https://host/notv1", |e| matches!(e, E::EndpointPath)),
        ("https://host/v1//", |e| matches!(e, E::EndpointPath)),
    ];
    for (endpoint, is_right) in bad {
        let builder = AppwriteValidator::builder(endpoint, "demo");
        assert!(!format!("{builder:?}").contains("s3cr3t"));
        let error = builder.build().expect_err(endpoint);
        assert!(is_right(&error), "{endpoint}: {error:?}");
        let text = error.to_string();
        assert!(
            text.contains("APPWRITE_ENDPOINT") && !text.contains("s3cr3t"),
            "{text}"
        );
    }

    for project in ["", " ", "de mo", "demo\n", "dém"] {
        let error = AppwriteValidator::new("https://host/v1", project).expect_err(project);
        assert!(matches!(error, E::InvalidProjectId), "{error:?}");
        assert!(error.to_string().contains("APPWRITE_PROJECT_ID"));
    }
    for zero in [
        AppwriteValidatorBuilder::timeout as fn(_, _) -> _,
        AppwriteValidatorBuilder::connect_timeout,
    ] {
        let builder = AppwriteValidator::builder("https://host/v1", "demo");
        let error = zero(builder, Duration::ZERO).build().expect_err("zero");
        assert!(matches!(error, E::ZeroTimeout), "{error:?}");
    }
}

#[test]
fn validator_is_clone_send_and_sync() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    is_shareable::<AppwriteValidator>();

    fn is_send(_: &(impl Send + 'static)) {}
    let validator = AppwriteValidator::new("https://host/v1", "demo").expect("valid");
    is_send(&async move {
        let _ = validator.login("", "").await;
        let _ = validator.logout(&session_token("t")).await;
        let _ = validator.recover("", "", "").await;
    });
}
