//! Requests with several credentials, or with an empty one: which of them the layer takes, and when
//! it refuses to choose.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use tower::{Layer, ServiceExt, service_fn};
use tower_session_cache::{
    ForbiddenReason, Rejection, RejectionKind, SessionCache, SessionCacheLayer, SessionToken,
    SessionValidator, TokenError, TokenSource, UserData, ValidationError, validator_fn,
};

use crate::support::{
    log,
    probe::{Probe, session},
    soon,
};

const X_SESSION: HeaderName = HeaderName::from_static("x-session");

/// What the inner service has seen, or how the layer responded.
#[derive(Debug, PartialEq)]
enum Outcome {
    User(String),
    Anonymous(&'static str),
    Refused(StatusCode, &'static str),
}

use Outcome::{Anonymous, Refused};

fn user(id: &str) -> Outcome {
    Outcome::User(id.to_owned())
}

/// Knows the tokens that begin with a user's name and a dash, such as `ada-1`. Rejects `stale…`,
/// forbids `blocked…`, and is unavailable for any other token.
fn probe() -> Probe {
    Probe::answering(|token| match token.split_once('-') {
        Some(("stale", _)) => Err(ValidationError::invalid()),
        Some(("blocked", _)) => Err(ValidationError::forbidden(ForbiddenReason::Blocked)),
        Some(("down", _)) => Err(ValidationError::unavailable("down")),
        Some((user, _)) => Ok(session(user)),
        None => Err(ValidationError::invalid()),
    })
}

fn layer(source: TokenSource) -> (SessionCacheLayer<Probe>, Probe) {
    let (probe, cache) = (probe(), SessionCache::builder().build().unwrap());
    let layer = SessionCacheLayer::new(cache, probe.clone()).with_token_source(source);
    (layer, probe)
}

type Headers<'a> = &'a [(HeaderName, &'a str)];

async fn send<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    headers: Headers<'_>,
) -> Response<Bytes> {
    let mut request = Request::new(());
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(name, value);
    }
    let inner = service_fn(async |request: Request<()>| {
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.extensions_mut() = request.extensions().clone();
        Ok::<_, Infallible>(response)
    });
    let answer = layer.layer(inner).oneshot(request);
    let (parts, body) = soon("a response", answer).await.unwrap().into_parts();
    let body = soon("the body", body.collect()).await.unwrap();
    Response::from_parts(parts, body.to_bytes())
}

async fn outcome<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    headers: Headers<'_>,
) -> Outcome {
    let answer = send(layer, headers).await;
    let extensions = answer.extensions();
    if let Some(rejection) = extensions.get::<Rejection>() {
        return match answer.status() {
            StatusCode::OK => Anonymous(rejection.reason()),
            status => Refused(status, rejection.reason()),
        };
    }
    let session = extensions
        .get::<UserData>()
        .and_then(UserData::session)
        .expect("a session");
    let token = session.token().expose_secret();
    let found = extensions.get::<UserData>().expect("a user");
    assert!(token.starts_with(found.id()), "{token} of {found:?}");
    user(found.id())
}

#[tokio::test]
async fn first_valid_cookie_of_a_name_decides() {
    let unauthorized = |reason| Refused(StatusCode::UNAUTHORIZED, reason);
    let unavailable = || Refused(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
    let table = [
        (&["s=ada-1; s=bob-1"][..], user("ada"), 1),
        (&["s=stale-1; s=ada-1"], user("ada"), 2),
        (&["s=stale-1", "theme=dark", "s=ada-1"], user("ada"), 2),
        (&["s=stale-1; s=stale-2; s=ada-1"], user("ada"), 3),
        (&["s=blocked-1; s=ada-1"], user("ada"), 2),
        (&["s=revoked-1; s=ada-1"], user("ada"), 1),
        // Values that are no token, empty ones and repetitions are passed over.
        (&["s=a b; s=ada-1"], user("ada"), 1),
        (&["s=; s=\"\"; s=ada-1"], user("ada"), 1),
        (
            &["s=stale-1; s=\"stale-1\"; s=stale-1; s=stale-2; s=ada-1"],
            user("ada"),
            3,
        ),
        // At most three are tried.
        (
            &["s=stale-1; s=stale-2; s=stale-3; s=ada-1"],
            unauthorized("invalid_token"),
            3,
        ),
        // Without a valid one the first rejection counts, unless one names a user.
        (
            &["s=stale-1; s=revoked-1"],
            unauthorized("invalid_token"),
            1,
        ),
        (
            &["s=revoked-1; s=stale-1"],
            unauthorized("revoked_token"),
            1,
        ),
        (
            &["s=stale-1; s=blocked-1"],
            Refused(StatusCode::FORBIDDEN, "user_blocked"),
            2,
        ),
        // An unavailable one may be valid, so no later one is taken in its place.
        (&["s=down-1; s=ada-1"], unavailable(), 1),
        (&["s=stale-1; s=down-1; s=ada-1"], unavailable(), 2),
    ];
    for (cookies, expected, calls) in table {
        let (probe, cache) = (probe(), SessionCache::builder().build().unwrap());
        let revoked = SessionToken::parse("revoked-1").unwrap();
        let _ = cache.revoke_token(&revoked).await.unwrap();
        let required = SessionCacheLayer::new(cache, probe.clone())
            .with_token_source(TokenSource::cookie("s"));
        let headers: Vec<_> = cookies
            .iter()
            .map(|value| (header::COOKIE, *value))
            .collect();
        assert_eq!(outcome(&required, &headers).await, expected, "{cookies:?}");
        assert_eq!(probe.calls(), calls, "{cookies:?}");
        // The same from the cache, and without a user in `optional` mode.
        assert_eq!(outcome(&required, &headers).await, expected, "{cookies:?}");
        let expected = match expected {
            Refused(status, reason) if status.is_client_error() => Anonymous(reason),
            expected => expected,
        };
        let optional = required.optional();
        assert_eq!(outcome(&optional, &headers).await, expected, "{cookies:?}");
    }
}

#[tokio::test]
async fn handler_sees_how_many_cookies_were_rejected() {
    let (required, probe) = layer(TokenSource::cookie("s"));
    for (cookie, rejected) in [
        ("s=ada-1", 0),
        ("s=ada-1; s=stale-1", 0),
        ("s=stale-1; s=ada-1", 1),
        ("s=a b; s=stale-1; s=stale-2; s=ada-1", 2),
    ] {
        for _ in 0..2 {
            let answer = send(&required, &[(header::COOKIE, cookie)]).await;
            let session = answer
                .extensions()
                .get::<UserData>()
                .and_then(UserData::session)
                .unwrap();
            assert_eq!(session.rejected_tokens(), rejected, "{cookie}");
            assert_eq!(session.token().expose_secret(), "ada-1");
        }
    }
    assert_eq!(probe.calls(), 3, "`ada-1`, `stale-1` and `stale-2`");
}

#[tokio::test]
async fn logout_of_all_candidates_leaves_no_session() {
    let source = TokenSource::cookie("s");
    let cache = SessionCache::builder().build().unwrap();
    let required = SessionCacheLayer::new(cache.clone(), probe()).with_token_source(source.clone());
    let headers = [(header::COOKIE, "s=ada-1; s=ada-2; s=bob-1")];
    assert_eq!(outcome(&required, &headers).await, user("ada"));
    let map = headers.iter().map(|(name, value)| {
        let value = HeaderValue::from_static(value);
        (name.clone(), value)
    });
    for token in source.candidates(&map.collect::<HeaderMap>()).unwrap() {
        let _ = cache.revoke_token(&token).await.unwrap();
    }
    let revoked = Refused(StatusCode::UNAUTHORIZED, "revoked_token");
    assert_eq!(outcome(&required, &headers).await, revoked);
}

#[tokio::test(start_paused = true)]
async fn request_timeout_applies_to_all_cookies_together() {
    let slow = validator_fn("slow", async |_| {
        tokio::time::sleep(Duration::from_secs(4)).await;
        Err::<UserData, _>(ValidationError::invalid())
    });
    let limit = Duration::from_secs(10);
    let cache = SessionCache::builder().request_timeout(limit);
    let layer = SessionCacheLayer::new(cache.build().unwrap(), slow)
        .with_token_source(TokenSource::cookie("s"));
    let start = tokio::time::Instant::now();
    let unavailable = Refused(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
    let headers = [(header::COOKIE, "s=a; s=b; s=c")];
    assert_eq!(outcome(&layer, &headers).await, unavailable);
    let waited = start.elapsed();
    assert!(waited > limit / 2 && waited <= limit, "{waited:?}");
}

#[tokio::test]
async fn strict_source_rejects_repeated_cookies_in_both_modes() {
    let (required, probe) = layer(TokenSource::cookie("s").reject_repeated_cookies());
    let headers = [(header::COOKIE, "s=stale-1; s=ada-1")];
    let refused = Refused(StatusCode::BAD_REQUEST, "malformed_token");
    assert_eq!(outcome(&required, &headers).await, refused);
    assert_eq!(outcome(&required.optional(), &headers).await, refused);
    assert_eq!(probe.calls(), 0);
}

#[tokio::test]
async fn empty_credential_yields_to_the_next_source() {
    let source = TokenSource::bearer()
        .or(TokenSource::header(X_SESSION))
        .or(TokenSource::cookie("s"));
    let (required, _) = layer(source);
    let optional = required.clone().optional();
    for empty in [
        (header::AUTHORIZATION, ""),
        (header::AUTHORIZATION, "Bearer"),
        (header::AUTHORIZATION, "bearer  "),
        (X_SESSION, " "),
        (header::COOKIE, "s="),
        (header::COOKIE, "t=1; s=\"\""),
    ] {
        let alone = [empty.clone()];
        let missing = Refused(StatusCode::UNAUTHORIZED, "missing_token");
        assert_eq!(outcome(&required, &alone).await, missing, "{empty:?}");
        assert_eq!(
            outcome(&optional, &alone).await,
            Anonymous("missing_token"),
            "{empty:?}"
        );
        let with_cookie = [empty.clone(), (header::COOKIE, "s=ada-1")];
        assert_eq!(
            outcome(&required, &with_cookie).await,
            user("ada"),
            "{empty:?}"
        );
    }
}

#[tokio::test]
async fn joined_credentials_are_malformed_next_to_a_cookie() {
    let (required, probe) = layer(TokenSource::bearer().or(TokenSource::cookie("s")));
    for joined in [
        "Basic dTpw, Bearer ada-1",
        "Basic dTpw,bearer ada-1",
        "Bearer ada-1, Basic dTpw",
        "bEARER ada-1,Basic dTpw",
        "Basic dTpw, DPoP ada-1",
        "DPoP ada-1, Basic dTpw",
        "Digest a=\"b, c\", BEARER ada-1",
        "Digest a=\"b, Bearer ada-1",
        "Basic dTpw,\tBearer\tada-1",
        ", Bearer ada-1",
    ] {
        for layer in [required.clone(), required.clone().optional()] {
            let headers = [(header::AUTHORIZATION, joined), (header::COOKIE, "s=bob-1")];
            let answer = send(&layer, &headers).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{joined}");
            let rejection = answer.extensions().get::<Rejection>().unwrap();
            assert_eq!(
                rejection.kind(),
                RejectionKind::Malformed(TokenError::List),
                "{joined}"
            );
        }
    }
    assert_eq!(probe.calls(), 0);
    for other in [
        "Basic dTpw",
        "Digest username=\"Bearer x, Bearer y\", realm=\"a, Bearer b\"",
        "Digest a=\"\\\", Bearer x\", bearer=1",
        "Negotiate, Basic dTpw",
        "Bearerx y, z",
    ] {
        let headers = [(header::AUTHORIZATION, other), (header::COOKIE, "s=bob-1")];
        assert_eq!(outcome(&required, &headers).await, user("bob"), "{other}");
    }
}

fn challenges(answer: &Response<impl Sized>) -> Vec<&str> {
    let values = answer.headers().get_all(header::WWW_AUTHENTICATE).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn unread_scheme_is_refused_and_not_replaced_by_a_cookie() {
    let source = TokenSource::bearer().or(TokenSource::cookie("s"));
    let (required, probe) = layer(source);
    let optional = required.clone().optional();
    for scheme in ["DPoP", "dpop"] {
        let dpop = format!("{scheme} ada-1");
        let headers = [(header::AUTHORIZATION, &*dpop), (header::COOKIE, "s=bob-1")];
        let answer = send(&required, &headers).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let rejection = answer.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.kind(), RejectionKind::UnsupportedScheme);
        assert_eq!(
            challenges(&answer),
            ["Bearer"],
            "no error code, as RFC 6750 says"
        );
        assert_eq!(
            outcome(&optional, &headers).await,
            Anonymous("unsupported_scheme")
        );
    }
    let empty = [(header::AUTHORIZATION, "DPoP"), (header::COOKIE, "s=bob-1")];
    assert_eq!(outcome(&required, &empty).await, user("bob"));
    assert_eq!(probe.calls(), 1);
    let problem = required.with_rejection_response(Rejection::problem_json);
    let answer = send(&problem, &[(header::AUTHORIZATION, "DPoP ada-1")]).await;
    let problem: serde_json::Value = serde_json::from_slice(&answer.into_body()).unwrap();
    assert_eq!(
        problem["detail"],
        "the authorization scheme is not accepted"
    );
    assert_eq!(problem["reason"], "unsupported_scheme");
}

#[tokio::test]
async fn challenge_names_the_schemes_that_are_read() {
    let (bearer, dpop) = (TokenSource::bearer(), TokenSource::dpop());
    for (source, scheme, schemes) in [
        (bearer.clone(), "Bearer", &["Bearer"][..]),
        (dpop.clone(), "DPoP", &["DPoP"]),
        (dpop.clone().or(TokenSource::cookie("s")), "DPoP", &["DPoP"]),
        (dpop.or(bearer), "Bearer", &["Bearer", "DPoP"]),
    ] {
        let (required, _) = layer(source.or(TokenSource::header(X_SESSION)));
        for (token, error) in [
            ("", ""),
            ("stale-1", r#" error="invalid_token""#),
            ("a b", r#" error="invalid_request""#),
        ] {
            let credential = format!("{scheme} {token}");
            let answer = send(&required, &[(header::AUTHORIZATION, &credential)]).await;
            let expected: Vec<_> = schemes
                .iter()
                .map(|scheme| format!("{scheme}{error}"))
                .collect();
            assert_eq!(challenges(&answer), expected, "{token}");
            // The challenge is for another credential than the one that was sent.
            if !token.is_empty() {
                let answer = send(&required, &[(X_SESSION, token)]).await;
                assert!(challenges(&answer).is_empty(), "{token}");
            }
        }
    }
    let (required, _) = layer(TokenSource::cookie("s"));
    for cookie in ["", "s=stale-1", "s=a b"] {
        let answer = send(&required, &[(header::COOKIE, cookie)]).await;
        assert!(challenges(&answer).is_empty(), "{cookie}");
    }
}

#[tokio::test]
async fn dpop_source_reads_tokens_of_that_scheme() {
    let (dpop, _) = layer(TokenSource::dpop());
    let bearer = [(header::AUTHORIZATION, "Bearer ada-1")];
    let unsupported = Refused(StatusCode::UNAUTHORIZED, "unsupported_scheme");
    assert_eq!(outcome(&dpop, &bearer).await, unsupported);
    let (both, _) = layer(TokenSource::dpop().or(TokenSource::bearer()));
    assert_eq!(outcome(&both, &bearer).await, user("ada"));
    for layer in [dpop, both] {
        let headers = [(header::AUTHORIZATION, "DPoP ada-1")];
        assert_eq!(outcome(&layer, &headers).await, user("ada"));
    }
}

#[tokio::test]
async fn token_that_is_too_long_is_logged_without_the_token() {
    let log = log::record();
    let (required, _) = layer(TokenSource::bearer().with_max_len(8));
    let optional = required.clone().optional();
    for layer in [&required, &required, &optional, &required] {
        let headers = [(header::AUTHORIZATION, "Bearer s3cr3t-t0ken")];
        let refused = Refused(StatusCode::BAD_REQUEST, "malformed_token");
        assert_eq!(outcome(layer, &headers).await, refused);
    }
    let text = log.text();
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    let [first, second, fourth] = warnings[..] else {
        panic!("the first, the second and the fourth: {text}");
    };
    for line in [first, second, fourth] {
        assert!(
            line.contains("session token too long, request rejected max=8"),
            "{line}"
        );
        assert!(line.contains("TokenSource::with_max_len"), "{line}");
    }
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[tokio::test]
async fn bearer_token_of_16_kilobytes_is_read() {
    let (required, _) = layer(TokenSource::bearer());
    for (length, expected) in [
        (6_000, user("ada")),
        (16_384, user("ada")),
        (16_385, Refused(StatusCode::BAD_REQUEST, "malformed_token")),
    ] {
        let token = format!("ada-{}", "x".repeat(length - 4));
        let bearer = format!("Bearer {token}");
        assert_eq!(
            outcome(&required, &[(header::AUTHORIZATION, &bearer)]).await,
            expected
        );
    }
}
