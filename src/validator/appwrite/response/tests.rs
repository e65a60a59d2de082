use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use proptest::prelude::*;
use serde_json::json;

use super::{super::user::first_label, *};

const USER: &str = include_str!("../../../../tests/fixtures/appwrite/user.json");
const SESSION: &str = include_str!("../../../../tests/fixtures/appwrite/session.json");
const RECOVERY: &str = include_str!("../../../../tests/fixtures/appwrite/recovery.json");

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(784_111_747, 0).unwrap()
}

fn classified(operation: Operation, status: u16, body: &str) -> AppwriteError {
    classified_with(operation, status, &[], body)
}

fn classified_with(
    operation: Operation,
    status: u16,
    headers: &[(&'static str, &str)],
    body: &str,
) -> AppwriteError {
    let headers = headers
        .iter()
        .map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    let status = StatusCode::from_u16(status).unwrap();
    classify(operation, status, &headers, Ok(body.into()), now()).unwrap_err()
}

fn problem(status: u16, named: &str) -> String {
    json!({ "message": "ada@example.com", "code": status, "type": named, "version": "1.8.1" })
        .to_string()
}

fn user(change: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
    changed(USER, change)
}

fn changed(fixture: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
    let mut body = serde_json::from_str(fixture).unwrap();
    change(&mut body);
    Value::Object(body).to_string().into_bytes()
}

#[test]
fn error_type_in_the_body_decides() {
    use AppwriteErrorKind::{
        Forbidden, InvalidArgument, Misconfigured, RateLimited, ServerError, Unauthorized,
        UnexpectedResponse,
    };
    use Operation::{Account, Login, Logout, Recovery, Session};

    let table = [
        (Account, 401, "general_unauthorized_scope", Unauthorized),
        (Account, 401, "user_jwt_invalid", Unauthorized),
        (Account, 401, "user_unauthorized", Unauthorized),
        (Session, 404, "user_session_not_found", Unauthorized),
        (Account, 404, "user_not_found", Unauthorized),
        (Login, 401, "user_invalid_credentials", Unauthorized),
        (Recovery, 401, "user_invalid_token", Unauthorized),
        (
            Account,
            401,
            "user_blocked",
            Forbidden(ForbiddenReason::Blocked),
        ),
        (
            Account,
            403,
            "user_blocked",
            Forbidden(ForbiddenReason::Blocked),
        ),
        (
            Login,
            401,
            "user_blocked",
            Forbidden(ForbiddenReason::Blocked),
        ),
        (
            Account,
            412,
            "user_password_reset_required",
            Forbidden(ForbiddenReason::PasswordResetRequired),
        ),
        (
            Account,
            401,
            "user_more_factors_required",
            Forbidden(ForbiddenReason::MfaRequired),
        ),
        (Account, 404, "project_not_found", Misconfigured),
        (Account, 404, "general_route_not_found", Misconfigured),
        (Account, 403, "general_service_disabled", Misconfigured),
        (Account, 403, "general_api_disabled", Misconfigured),
        (Account, 403, "general_unknown_origin", Misconfigured),
        (Account, 403, "user_jwt_and_cookie_set", Misconfigured),
        (Account, 400, "general_argument_invalid", Misconfigured),
        (Account, 400, "project_unknown", Misconfigured),
        (Login, 400, "general_argument_invalid", InvalidArgument),
        (Recovery, 400, "general_argument_invalid", InvalidArgument),
        (Recovery, 400, "password_recently_used", InvalidArgument),
        (Login, 404, "project_not_found", Misconfigured),
        (Account, 429, "general_rate_limit_exceeded", RateLimited),
        (Account, 500, "general_unknown", ServerError),
        // A rejection counts only for the operations that it applies to.
        (Account, 401, "user_invalid_credentials", UnexpectedResponse),
        (Account, 401, "user_invalid_token", UnexpectedResponse),
        (Account, 401, "about:blank", UnexpectedResponse),
        (Account, 401, "general_unknown", UnexpectedResponse),
        (Account, 201, "user_unauthorized", UnexpectedResponse),
        (Account, 502, "user_unauthorized", ServerError),
        (Logout, 200, "user_unauthorized", UnexpectedResponse),
    ];
    for (operation, status, named, kind) in table {
        let error = classified(operation, status, &problem(status, named));
        assert_eq!(error.kind(), kind, "{operation} {status} {named}");
        assert!(!format!("{error} {error:?}").contains("ada@"), "{error:?}");
    }
}

#[test]
fn status_alone_does_not_reject_a_token() {
    let bodies = [
        "",
        "null",
        "<h1>Unauthorized</h1>",
        r#"{"error":"unauthorized"}"#,
        r#"{"type":"user_unauthorized"}"#,
        r#"{"type":"user_unauthorized","code":"401"}"#,
        r#"["user_unauthorized",401]"#,
        r#"{"message":"user_unauthorized","code":401}"#,
    ];
    for status in [400, 401, 403, 404, 412] {
        for body in bodies {
            let kind = classified(Operation::Account, status, body).kind();
            assert_eq!(
                kind,
                AppwriteErrorKind::UnexpectedResponse,
                "{status} {body}"
            );
        }
    }
    for status in [301, 302, 307, 308] {
        let kind = classified(Operation::Account, status, "").kind();
        assert_eq!(kind, AppwriteErrorKind::UnexpectedResponse, "{status}");
    }
}

#[test]
fn malformed_error_type_is_not_repeated() {
    let long = "a".repeat(65);
    for named in ["abc123", "a b", "ada@example.com", long.as_str()] {
        let text = classified(Operation::Account, 401, &problem(401, named)).to_string();
        assert!(!text.contains(named), "{text}");
    }
    let text = classified(Operation::Account, 401, &problem(401, "brand_new")).to_string();
    assert!(text.ends_with("(401 brand_new)"), "{text}");
}

#[test]
fn retry_after_is_between_a_second_and_a_minute() {
    let epoch = now().timestamp();
    let at = |offset: i64| (epoch + offset).to_string();
    type Headers<'a> = &'a [(&'static str, &'a str)];
    let table: [(u16, Headers<'_>, Option<u64>); 13] = [
        (429, &[], Some(1)),
        (429, &[("x-ratelimit-reset", &at(30))], Some(30)),
        (429, &[("x-ratelimit-reset", &at(-30))], Some(1)),
        (429, &[("x-ratelimit-reset", &at(3_600))], Some(60)),
        (429, &[("x-ratelimit-reset", "soon")], Some(1)),
        (429, &[("retry-after", "7")], Some(7)),
        (429, &[("retry-after", "0")], Some(1)),
        (429, &[("retry-after", "86400")], Some(60)),
        (
            429,
            &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")],
            Some(30),
        ),
        (
            429,
            &[("retry-after", "5"), ("x-ratelimit-reset", &at(9))],
            Some(9),
        ),
        (503, &[("retry-after", "7")], Some(7)),
        // Appwrite sends its limits with any response. Only a 429 shows that a limit was reached.
        (503, &[("x-ratelimit-reset", &at(30))], None),
        (401, &[("retry-after", "7")], None),
    ];
    for (status, headers, wait) in table {
        let error = classified_with(Operation::Account, status, headers, "");
        let wait = wait.map(Duration::from_secs);
        assert_eq!(error.retry_after(), wait, "{status} {headers:?}");
    }
}

#[test]
fn status_decides_even_if_the_body_was_not_read() {
    let unread = |status: u16| {
        let body = Err(AppwriteError::new(
            AppwriteErrorKind::BodyTooLarge,
            Operation::Account,
            "",
        ));
        let status = StatusCode::from_u16(status).unwrap();
        let classified = classify(Operation::Account, status, &HeaderMap::new(), body, now());
        classified.unwrap_err().kind()
    };
    assert_eq!(unread(200), AppwriteErrorKind::BodyTooLarge);
    assert_eq!(unread(401), AppwriteErrorKind::BodyTooLarge);
    assert_eq!(unread(302), AppwriteErrorKind::UnexpectedResponse);
    assert_eq!(unread(429), AppwriteErrorKind::RateLimited);
    assert_eq!(unread(502), AppwriteErrorKind::ServerError);
}

#[test]
fn user_requires_an_id_and_a_status() {
    let broken = [
        user(|user| drop(user.remove("$id"))),
        user(|user| drop(user.insert("$id".into(), "".into()))),
        user(|user| drop(user.insert("$id".into(), 7.into()))),
        user(|user| drop(user.remove("status"))),
        user(|user| drop(user.insert("status".into(), "true".into()))),
        b"[]".to_vec(),
        b"<html>".to_vec(),
        Vec::new(),
    ];
    for body in broken {
        let error = account(&body, None, &first_label).unwrap_err();
        let shown = String::from_utf8_lossy(&body);
        assert_eq!(
            error.kind(),
            AppwriteErrorKind::UnexpectedResponse,
            "{shown}"
        );
    }
    let blocked = user(|user| drop(user.insert("status".into(), false.into())));
    assert_eq!(
        account(&blocked, None, &first_label).unwrap_err().kind(),
        AppwriteErrorKind::Forbidden(ForbiddenReason::Blocked)
    );
    assert_eq!(
        account(&blocked, Some("other"), &first_label)
            .unwrap_err()
            .kind(),
        AppwriteErrorKind::UnexpectedResponse,
        "the blocked user is not the one of this token"
    );
}

#[test]
fn unneeded_members_are_ignored() {
    let body = user(|user| {
        user.insert("$id".into(), "u1".into());
        user.insert("$createdAt".into(), "2025-08-14 20:03:55.554".into());
        user.insert("$updatedAt".into(), "2025-05-03T16:44:35.206+00:00".into());
        user.insert("accessedAt".into(), Value::Null);
        user.insert("prefs".into(), json!([]));
        user.insert("labels".into(), json!([7, "", "vip", "pro"]));
        user.remove("email");
        user.remove("targets");
    });
    let user = account(&body, Some("u1"), &first_label).unwrap().user;
    assert_eq!((user.id(), user.email(), user.tier()), ("u1", "", "vip"));
    assert_eq!(user.created_at(), None);
    assert_eq!(
        user.updated_at().unwrap().to_rfc3339(),
        "2025-05-03T16:44:35.206+00:00"
    );

    let plain = account(br#"{"$id":"u1","status":true}"#, None, &first_label);
    let plain = plain.unwrap().user;
    assert_eq!((plain.name(), plain.tier()), ("", "free"));
    assert!(!plain.email_verified());
}

#[test]
fn session_requires_a_user_and_an_end() {
    let read = |change: fn(&mut Map<String, Value>)| {
        session(Operation::Session, &changed(SESSION, change)).map_err(|error| error.kind())
    };
    let good = read(|_| ()).ok().unwrap();
    assert!(!good.user_id.is_empty());
    assert!(
        read(|session| drop(session.remove("current"))).is_ok(),
        "not every version may send this member"
    );

    let broken: [fn(&mut Map<String, Value>); 5] = [
        |session| drop(session.remove("userId")),
        |session| drop(session.insert("userId".into(), "".into())),
        |session| drop(session.remove("expire")),
        |session| drop(session.insert("expire".into(), "2025-08-14 20:03:55.554".into())),
        |session| drop(session.insert("current".into(), false.into())),
    ];
    for change in broken {
        assert_eq!(
            read(change).err(),
            Some(AppwriteErrorKind::UnexpectedResponse)
        );
    }
}

#[test]
fn recovery_returns_its_user_id() {
    let id = recovered(&changed(RECOVERY, |token| {
        token.insert("userId".into(), "u1".into());
    }));
    assert_eq!(id.unwrap(), "u1");
    assert!(recovered(b"{}").is_err());
}

#[test]
fn token_may_contain_a_user_id() {
    let named = |text: &str| user_id_hint(&SessionToken::parse(text.to_owned()).unwrap());
    let padded = STANDARD.encode(r#"{"id":"u1","secret":"0f"}"#);

    assert_eq!(named(&padded).as_deref(), Some("u1"));
    assert_eq!(named(padded.trim_end_matches('=')).as_deref(), Some("u1"));
    assert_eq!(named("not-base64"), None);
    assert_eq!(named(&STANDARD.encode("not JSON")), None);
    assert_eq!(named(&STANDARD.encode(r#"{"id":7}"#)), None);
}

#[test]
fn more_severe_of_two_failures_decides() {
    let error =
        |status, named: &str| classified(Operation::Account, status, &problem(status, named));
    // From the most to the least severe.
    let order = [
        (401, "user_blocked"),
        (401, "user_unauthorized"),
        (404, "project_not_found"),
        (500, "general_unknown"),
    ];
    for (rank, (status, named)) in order.into_iter().enumerate() {
        for (other_status, other) in &order[rank..] {
            let kind = error(status, named).kind();
            let one = error(status, named).or_more_severe(error(*other_status, other));
            let two = error(*other_status, other).or_more_severe(error(status, named));
            assert_eq!((one.kind(), two.kind()), (kind, kind), "{named} {other}");
        }
    }
    let short = classified_with(Operation::Account, 429, &[("retry-after", "2")], "");
    let long = classified_with(Operation::Account, 429, &[("retry-after", "9")], "");
    let wait = short.or_more_severe(long).retry_after();
    assert_eq!(wait, Some(Duration::from_secs(9)));
}

proptest! {
    #[test]
    fn every_spelling_of_a_token_has_one_canonical_form(
        id in "[a-z0-9]{1,8}", secret in "[a-f0-9]{0,9}",
        junk in proptest::collection::vec((any::<prop::sample::Index>(), "[!$*.~_-]"), 0..4),
        cut: bool,
    ) {
        let issued = BASE64.encode(json!({ "id": id, "secret": secret }).to_string());
        let token = |text: &str| SessionToken::parse(text.to_owned()).unwrap();
        prop_assert!(canonical(&token(&issued)).is_none(), "it is as it was issued");
        let mut spelled = issued.clone();
        if cut {
            spelled = spelled.trim_end_matches('=').to_owned();
        }
        for (place, byte) in &junk {
            spelled.insert_str(place.index(spelled.len()), byte);
        }
        if spelled != issued {
            let found = canonical(&token(&spelled)).unwrap();
            prop_assert_eq!(found.expose_secret(), issued);
        }
    }

    #[test]
    fn canonical_form_is_what_an_encoder_writes(bytes in proptest::collection::vec(any::<u8>(), 1..40)) {
        let encoded = BASE64.encode(&bytes);
        prop_assert!(is_canonical(encoded.as_bytes()));
        let digits = encoded.trim_end_matches('=');
        let (rest, last) = digits.split_at(digits.len() - 1);
        for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".chars() {
            let text = format!("{rest}{other}{}", &encoded[digits.len()..]);
            let decoded = BASE64.decode(&text).unwrap();
            let is_same = BASE64.encode(decoded) == text;
            prop_assert_eq!(is_canonical(text.as_bytes()), is_same, "{} {}", text, last);
        }
    }

    #[test]
    fn other_tokens_are_not_changed(text in "[!-~]{1,80}") {
        let token = SessionToken::parse(text).unwrap();
        if let Some(spelled) = canonical(&token) {
            prop_assert!(user_id_hint(&spelled).is_some());
        }
    }
}
