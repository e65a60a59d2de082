use std::time::Duration;

use http::HeaderValue;

use super::*;
use crate::validator::{
    error::{ValidationError, ValidationErrorKind},
    http::HttpError,
};

const UNAVAILABLE: ValidationErrorKind = ValidationErrorKind::Unavailable;
const MISCONFIGURED: ValidationErrorKind = ValidationErrorKind::Misconfigured;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(784_111_747, 0).unwrap()
}

fn classified(status: u16, headers: &[(&'static str, &str)], body: &str) -> ValidationError {
    let headers = headers.iter().map(|(name, value)| {
        let name = http::HeaderName::from_static(name);
        (name, HeaderValue::from_str(value).unwrap())
    });
    let response = HttpResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.collect(),
        body: Ok(body.into()),
    };
    classify(response, false, now()).unwrap_err()
}

fn source(error: &ValidationError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

#[test]
fn status_without_error_code_is_an_outage() {
    for status in [
        100, 201, 202, 204, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 408, 409, 410,
        418, 429, 500, 502, 503, 504,
    ] {
        for body in [
            "",
            "<h1>No</h1>",
            r#"{"active":false}"#,
            r#"{"error":"Not Found"}"#,
            r#"{"error":{"code":"invalid_token"}}"#,
        ] {
            let error = classified(status, &[], body);
            assert_eq!(error.kind(), UNAVAILABLE, "{status} {body}");
            assert!(!error.blames_token() && !error.is_for_all_tokens());
            assert!(source(&error).contains(&status.to_string()));
        }
    }
}

#[test]
fn error_code_says_whether_the_token_or_the_client_is_rejected() {
    let scope = |status, code: &str| {
        let error = classified(status, &[], &format!(r#"{{"error":"{code}"}}"#));
        assert_eq!(error.kind(), MISCONFIGURED, "{status} {code}");
        (error.blames_token(), error.is_for_all_tokens())
    };
    for status in [400, 401, 403, 404] {
        for code in [
            "access_denied",
            "invalid_request",
            "invalid_token",
            "unsupported_token_type",
        ] {
            assert_eq!(scope(status, code), (true, false), "{code}");
        }
        assert_eq!(scope(status, "invalid_client"), (false, true));
        for code in ["unauthorized_client", "insufficient_scope", "not_found"] {
            assert_eq!(scope(status, code), (false, false), "{code}");
        }
    }
    let response = HttpResponse {
        status: StatusCode::UNAUTHORIZED,
        headers: HeaderMap::new(),
        body: Ok(br#"{"error":"invalid_token"}"#.to_vec()),
    };
    let error = classify(response, true, now()).unwrap_err();
    assert!(!error.blames_token(), "it may be the token of this service");
    for status in [302, 429, 500, 503] {
        let error = classified(status, &[], r#"{"error":"invalid_token"}"#);
        assert_eq!(error.kind(), UNAVAILABLE, "{status}");
    }
}

#[test]
fn response_whose_body_was_not_read_is_an_outage() {
    for status in [200, 401, 404, 502] {
        let response = HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Err(HttpError::TooLong),
        };
        let error = classify(response, false, now()).unwrap_err();
        assert_eq!(error.kind(), UNAVAILABLE, "{status}");
    }
}

#[test]
fn error_contains_only_the_code_of_the_server() {
    let cause_of = |body: &str| source(&classified(401, &[], body));
    let known = r#"{"error":"invalid_client","error_description":"no such client: ada"}"#;
    let text = cause_of(known);
    assert!(text.ends_with("(401 invalid_client)"), "{text}");
    let long = "a".repeat(65);
    for code in ["Ada", "a b", "ada@example.com", "", &long] {
        let text = cause_of(&format!(r#"{{"error":"{code}"}}"#));
        assert!(
            text.trim_end().ends_with("(401)") || code.is_empty(),
            "{text}"
        );
        assert!(!text.contains("ada") && !text.contains(&long), "{text}");
    }
}

#[test]
fn signed_response_is_reported_as_misconfiguration() {
    for kind in [
        "application/token-introspection+jwt",
        "Application/Token-Introspection+JWT; charset=utf-8",
        "application/jwt",
    ] {
        let error = classified(200, &[("content-type", kind)], "eyJ0.eyJp.c2ln");
        assert_eq!(error.kind(), MISCONFIGURED);
        assert!(source(&error).contains("RFC 9701"));
    }
}

#[test]
fn retry_after_is_between_a_second_and_a_minute() {
    let epoch = now().timestamp();
    let at = |offset: i64| (epoch + offset).to_string();
    type Headers<'a> = &'a [(&'static str, &'a str)];
    let table: [(u16, Headers<'_>, Option<u64>); 11] = [
        (429, &[], Some(1)),
        (429, &[("retry-after", "7")], Some(7)),
        (429, &[("retry-after", "0")], Some(1)),
        (429, &[("retry-after", "86400")], Some(60)),
        (
            429,
            &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")],
            Some(30),
        ),
        (429, &[("x-ratelimit-reset", &at(30))], Some(30)),
        (429, &[("x-ratelimit-reset", &at(-30))], Some(1)),
        (429, &[("x-ratelimit-reset", "30")], Some(30)),
        (
            429,
            &[("x-ratelimit-reset", "9223372036854775807")],
            Some(60),
        ),
        (503, &[("retry-after", "7")], Some(7)),
        (401, &[("retry-after", "7")], None),
    ];
    for (status, headers, wait) in table {
        let after = classified(status, headers, "").retry_after();
        assert_eq!(after, wait.map(Duration::from_secs), "{status} {headers:?}");
    }
}

#[test]
fn active_must_be_a_boolean_of_an_object() {
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "true",
        r#"{"active":"true"}"#,
        r#"{"active":1}"#,
        r#"{"active":null}"#,
        r#"{"Active":true}"#,
        r#"{"active":true"#,
        r#"{"active":true} x"#,
        r#"{"active":true,"exp":1e999}"#,
        "<html>",
        "eyJ0.eyJp.c2ln",
    ] {
        let error = IntrospectionResponse::parse(body.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), UNAVAILABLE, "{body}");
    }
    let parse = |body: &str| IntrospectionResponse::parse(body.as_bytes()).unwrap();
    assert!(parse(r#"{"active":false,"sub":"u1"}"#).is_none());
    assert!(parse(r#"{"active":true}"#).is_some());
}

#[test]
fn any_number_is_accepted_as_a_time() {
    let time = |json: &str| {
        let body = format!(r#"{{"active":true,"exp":{json}}}"#);
        let response = IntrospectionResponse::parse(body.as_bytes())
            .unwrap()
            .unwrap();
        let time = response.time("exp");
        time.map(|time| time.map(|time| time.timestamp())).ok()
    };
    for (json, seconds) in [
        ("1419356238", 1_419_356_238),
        ("1419356238.9", 1_419_356_238),
        ("1.4193562e9", 1_419_356_200),
        (r#""1419356238""#, 1_419_356_238),
        ("-1", -1),
        ("-0.5", -1),
        ("0", 0),
        ("253402300800", LAST),
        ("999999999999", LAST),
        ("1419356238000", 1_419_356_238),
        ("1419356238999.5", 1_419_356_238),
        ("9223372036854775807", LAST),
        ("18446744073709551615", LAST),
        ("1e300", LAST),
        ("-1e300", FIRST),
        ("-9223372036854775808", FIRST),
    ] {
        assert_eq!(time(json), Some(Some(seconds)), "{json}");
    }
    assert_eq!(time("null"), Some(None));
    for json in [r#""""#, r#""2026-11-28""#, r#""1e9""#, "true", "[1]", "{}"] {
        assert_eq!(time(json), None, "{json}");
    }
}
