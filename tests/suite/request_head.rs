//! What a layer decides by a request's head: exemptions, sources outside of the usual headers, and
//! the response to a rejected request.

use std::convert::Infallible;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{self, SEC_WEBSOCKET_PROTOCOL},
};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_session_cache::{
    Challenge, ForbiddenReason, Rejection, SessionCache, SessionCacheLayer, TokenSource, UserData,
    ValidationError,
};

use crate::support::{
    probe::{Probe, session},
    soon,
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The request as it reached the inner service, without its body.
#[derive(Clone, Debug)]
struct Seen {
    uri: Uri,
    protocols: Option<HeaderValue>,
    is_sensitive: bool,
    user: Option<UserData>,
    session: bool,
    rejection: Option<Rejection>,
}

async fn inner(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let extensions = request.extensions();
    let seen = Seen {
        uri: request.uri().clone(),
        protocols: request.headers().get(SEC_WEBSOCKET_PROTOCOL).cloned(),
        is_sensitive: request.headers().values().any(HeaderValue::is_sensitive),
        user: extensions.get().cloned(),
        session: extensions.get().and_then(UserData::session).is_some(),
        rejection: extensions.get().cloned(),
    };
    let mut response = Response::new(Full::default());
    response.extensions_mut().insert(seen);
    Ok(response)
}

/// Rejects `stale…`, forbids `blocked…`, and accepts other tokens as those of Ada.
fn probe() -> Probe {
    Probe::answering(|token| match token {
        token if token.starts_with("stale") => Err(ValidationError::invalid()),
        token if token.starts_with("blocked") => {
            Err(ValidationError::forbidden(ForbiddenReason::Blocked))
        }
        _ => Ok(session("ada")),
    })
}

fn layer(source: TokenSource) -> (SessionCacheLayer<Probe>, Probe) {
    let probe = probe();
    let cache = SessionCache::builder().build().unwrap();
    let layer = SessionCacheLayer::new(cache, probe.clone()).with_token_source(source);
    (layer, probe)
}

struct Answer {
    status: StatusCode,
    challenges: Vec<String>,
    rejection: Option<&'static str>,
    seen: Option<Seen>,
    response: Response<Bytes>,
}

impl Answer {
    fn user(&self) -> Option<&str> {
        self.seen.as_ref()?.user.as_ref().map(UserData::id)
    }
}

async fn send<S, B>(service: S, request: Request<()>) -> Answer
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes, Error = Infallible>,
{
    let response = soon("a response", service.oneshot(request)).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let challenges = parts.headers.get_all(header::WWW_AUTHENTICATE).iter();
    Answer {
        status: parts.status,
        challenges: challenges
            .map(|value| value.to_str().unwrap().to_owned())
            .collect(),
        rejection: parts.extensions.get().map(Rejection::reason),
        seen: parts.extensions.get().cloned(),
        response: Response::from_parts(parts, body),
    }
}

async fn get(
    layer: &SessionCacheLayer<Probe>,
    uri: &str,
    headers: &[(HeaderName, &str)],
) -> Answer {
    send(layer.layer(service_fn(inner)), request(uri, headers)).await
}

fn request(uri: &str, headers: &[(HeaderName, &str)]) -> Request<()> {
    let mut request = Request::get(uri).body(()).unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(name, value);
    }
    request
}

#[tokio::test]
async fn exempt_request_is_untouched_whatever_it_carries() {
    let source = TokenSource::bearer().or(TokenSource::query("t"));
    let (layer, probe) = layer(source);
    let layer = layer
        .exempt(|head| head.uri().path() == "/livez")
        .exempt(|head| head.headers().contains_key("x-probe"));
    for token in ["good", "stale", "a, b", ""] {
        let credential = format!("Bearer {token}");
        let headers = [(header::AUTHORIZATION, &*credential)];
        let mut request = request("/livez?t=x", &headers);
        request.extensions_mut().insert(UserData::new("outer"));
        let answer = send(layer.layer(service_fn(inner)), request).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.user(), Some("outer"));
        let seen = answer.seen.unwrap();
        assert_eq!(seen.uri, "/livez?t=x");
        assert!(!seen.is_sensitive && !seen.session && seen.rejection.is_none());
    }
    let probed = get(&layer, "/", &[(HeaderName::from_static("x-probe"), "1")]).await;
    assert_eq!(probed.status, 200);
    assert_eq!(probe.calls(), 0);
    assert_eq!(get(&layer, "/livez/", &[]).await.status, 401);
    assert_eq!(get(&layer, "/", &[]).await.status, 401);
}

#[tokio::test]
async fn query_token_is_read_and_removed_from_the_uri() {
    let (layer, probe) = layer(TokenSource::query("access_token"));
    for (uri, user, passed_on) in [
        ("/e?access_token=t-1", Some("ada"), "/e"),
        ("/e?a=1&access_token=t-1&b=%20", Some("ada"), "/e?a=1&b=%20"),
        ("/e?access%5ftoken=t%2D1", Some("ada"), "/e"),
        ("/e?access_token=t+/=", Some("ada"), "/e"),
        (
            "http://a.example/e?x&access_token=t-1",
            Some("ada"),
            "http://a.example/e?x",
        ),
        ("/e?access_token=&a=1", None, "/e?a=1"),
        ("/e?access_token=stale&a=1", None, "/e?a=1"),
        ("/e?Access_Token=t-1", None, "/e?Access_Token=t-1"),
    ] {
        let optional = layer.clone().optional();
        // The second request finds the session in memory.
        for _ in 0..2 {
            let answer = get(&optional, uri, &[]).await;
            assert_eq!(answer.user(), user, "{uri}");
            assert_eq!(answer.seen.unwrap().uri, passed_on, "{uri}");
        }
    }
    assert_eq!(probe.calls(), 3, "t-1, t+/= and stale");
    for (uri, status, challenge) in [
        ("/e", 401, "Bearer"),
        (
            "/e?access_token=stale",
            401,
            r#"Bearer error="invalid_token""#,
        ),
        (
            "/e?access_token=t&access_token=t",
            400,
            r#"Bearer error="invalid_request""#,
        ),
        (
            "/e?access_token=t%20u",
            400,
            r#"Bearer error="invalid_request""#,
        ),
        (
            "/e?access_token=t%0A",
            400,
            r#"Bearer error="invalid_request""#,
        ),
    ] {
        let answer = get(&layer, uri, &[]).await;
        assert_eq!(answer.status, status, "{uri}");
        assert_eq!(answer.challenges, [challenge], "{uri}");
    }
}

#[tokio::test]
async fn query_token_is_removed_even_if_a_header_decides() {
    let source = TokenSource::bearer()
        .or(TokenSource::query("t"))
        .or(TokenSource::cookie("s"));
    let (layer, probe) = layer(source);
    let bearer = (header::AUTHORIZATION, "Bearer good");
    let answer = get(&layer, "/?t=other", &[bearer]).await;
    assert_eq!(answer.seen.unwrap().uri, "/");
    // A rejected token of the query is not replaced by a cookie, not even by the second of two.
    let cookies = (header::COOKIE, "s=good; s=better");
    let answer = get(&layer, "/?t=stale", &[cookies]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.rejection),
        (401, Some("invalid_token"))
    );
    assert_eq!(probe.calls(), 2);
}

#[tokio::test]
async fn source_with_a_condition_is_absent_elsewhere() {
    let in_query = TokenSource::query("t")
        .only_if(|head| head.uri().path().starts_with("/e"))
        .only_if(|head| head.method() == http::Method::GET);
    let (layer, _) = layer(TokenSource::bearer().or(in_query));
    assert_eq!(get(&layer, "/e?t=good", &[]).await.user(), Some("ada"));
    let layer = layer.optional();
    let elsewhere = get(&layer, "/x?t=good", &[]).await.seen.unwrap();
    assert!(elsewhere.user.is_none());
    assert_eq!(elsewhere.uri, "/x?t=good");
    let mut post = request("/e?t=good", &[]);
    *post.method_mut() = http::Method::POST;
    let answer = send(layer.layer(service_fn(inner)), post).await;
    assert_eq!(answer.user(), None);
}

#[tokio::test]
async fn websocket_protocol_carries_the_token_and_loses_it() {
    let (layer, _) = layer(TokenSource::websocket_protocol("session."));
    let offer = |value| [(SEC_WEBSOCKET_PROTOCOL, value)];
    for (offered, passed_on) in [
        ("chat, session.t-1", Some("chat")),
        ("session.t%2D1,chat , chat.v2", Some("chat, chat.v2")),
        ("session.t-1", None),
    ] {
        let answer = get(&layer, "/", &offer(offered)).await;
        assert_eq!(answer.user(), Some("ada"), "{offered}");
        let protocols = answer.seen.unwrap().protocols;
        let protocols = protocols.as_ref().map(|value| value.to_str().unwrap());
        assert_eq!(protocols, passed_on);
    }
    let twice = [
        (SEC_WEBSOCKET_PROTOCOL, "session.a"),
        (SEC_WEBSOCKET_PROTOCOL, "chat, session.b"),
    ];
    let answer = get(&layer, "/", &twice).await;
    assert_eq!(
        (answer.status.as_u16(), answer.rejection),
        (400, Some("malformed_token"))
    );
    let answer = get(&layer, "/", &offer("chat, session.")).await;
    assert_eq!(answer.rejection, Some("missing_token"));
    let answer = get(&layer, "/", &offer("session.stale")).await;
    assert_eq!(
        (answer.rejection, answer.challenges.len()),
        (Some("invalid_token"), 0)
    );
}

#[tokio::test]
async fn rejection_hook_sees_the_head_without_the_token() {
    let (layer, _) = layer(TokenSource::bearer().or(TokenSource::query("t")));
    let layer = layer.with_rejection_response(|rejection, head| {
        let target = format!("/login?from={}&why={}", head.uri(), rejection.reason());
        let response = Response::builder()
            .status(StatusCode::SEE_OTHER)
            .header(header::LOCATION, target)
            .header(header::CACHE_CONTROL, "private");
        response.body(Bytes::new()).unwrap()
    });
    for (uri, headers, location) in [
        (
            "/e?a=1&t=stale",
            &[][..],
            "/login?from=/e?a=1&why=invalid_token",
        ),
        ("/e", &[], "/login?from=/e&why=missing_token"),
        (
            "/e",
            &[(header::AUTHORIZATION, "Bearer a, b")],
            "/login?from=/e&why=malformed_token",
        ),
    ] {
        let answer = get(&layer, uri, headers).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
        assert_eq!(answer.response.headers()[header::LOCATION], location);
        assert_eq!(answer.response.headers()[header::CACHE_CONTROL], "private");
        assert!(answer.rejection.is_some());
    }
}

#[tokio::test]
async fn challenge_carries_its_parameters() {
    let source = TokenSource::bearer().or(TokenSource::header(API_KEY));
    let (layer, _) = layer(source);
    let layer = layer.with_challenge(
        Challenge::new()
            .realm("a \"b\" \\ é\n")
            .scope("read write")
            .resource_metadata("https://a.example/.well-known/oauth-protected-resource"),
    );
    let rest = "scope=\"read write\", \
                resource_metadata=\"https://a.example/.well-known/oauth-protected-resource\"";
    let realm = r#"Bearer realm="a \"b\" \\ %C3%A9%0A""#;
    for (headers, expected) in [
        (&[][..], format!("{realm}, {rest}")),
        (
            &[(header::AUTHORIZATION, "Bearer stale")],
            format!("{realm}, error=\"invalid_token\", {rest}"),
        ),
    ] {
        let answer = get(&layer, "/", headers).await;
        assert_eq!(answer.challenges, [expected]);
    }
    let answer = get(&layer, "/", &[(API_KEY, "stale")]).await;
    assert_eq!((answer.status.as_u16(), answer.challenges.len()), (401, 0));
}

#[tokio::test]
async fn more_telling_reason_of_two_layers_wins() {
    let cache = SessionCache::builder().build().unwrap();
    let machines = SessionCacheLayer::new(cache.clone(), probe())
        .with_token_source(TokenSource::header(API_KEY))
        .with_namespace("machines")
        .optional();
    let people = SessionCacheLayer::new(cache, probe())
        .with_namespace("people")
        .trust_outer_user();
    let bearer = |token| (header::AUTHORIZATION, token);
    for (headers, status, reason) in [
        (vec![], 401, Some("missing_token")),
        (vec![(API_KEY, "stale")], 401, Some("invalid_token")),
        (vec![(API_KEY, "blocked")], 403, Some("user_blocked")),
        (
            vec![(API_KEY, "stale"), bearer("Bearer blocked")],
            403,
            Some("user_blocked"),
        ),
        (
            vec![(API_KEY, "blocked"), bearer("Bearer stale")],
            403,
            Some("user_blocked"),
        ),
        (
            vec![(API_KEY, "blocked"), bearer("Bearer a, b")],
            400,
            Some("malformed_token"),
        ),
        (vec![(API_KEY, "stale"), bearer("Bearer good")], 200, None),
        (vec![(API_KEY, "good")], 200, None),
    ] {
        let both = ServiceBuilder::new()
            .layer(machines.clone())
            .layer(people.clone());
        let answer = send(both.service(service_fn(inner)), request("/", &headers)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.rejection),
            (status, reason),
            "{headers:?}"
        );
        // Nothing is known about the bearer token that the client did not send.
        if headers == [(API_KEY, "stale")] {
            assert!(answer.challenges.is_empty());
        }

        // Without a required layer the reason reaches the inner service.
        if status == 401 || status == 403 {
            let both = ServiceBuilder::new()
                .layer(machines.clone())
                .layer(people.clone().optional());
            let answer = send(both.service(service_fn(inner)), request("/", &headers)).await;
            let rejection = answer.seen.unwrap().rejection.unwrap();
            assert_eq!(Some(rejection.reason()), reason, "{headers:?}");
        }
    }
}
