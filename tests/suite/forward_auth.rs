//! The page on forward auth, over real HTTP: the responses to a proxy that allows a request on any
//! 2xx.

use std::net::SocketAddr;

use axum::{Router, routing::any};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower_session_cache::{
    Rejection, SessionCache, SessionCacheLayer, TokenSource, UserData, testing::TestValidator,
};

use crate::support::soon;

// The code that the page shows.
#[path = "../support/forward_auth.rs"]
mod page;
use page::forward_auth;

/// Values of `content-type` with which a client may claim to send gRPC, and `application/json`.
const CONTENT_TYPES: [&str; 9] = [
    "application/grpc",
    "application/grpc+proto",
    "application/grpc; charset=utf-8",
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
    "Application/gRPC",
    "application/json",
];

fn layer() -> SessionCacheLayer<TestValidator> {
    let users = TestValidator::new()
        .with_session("good", UserData::new("ada"))
        .with_session("odd", UserData::new("ad\u{e1}\n"));
    let source = TokenSource::appwrite("demo");
    SessionCacheLayer::new(SessionCache::default(), users).with_token_source(source)
}

/// Serves HTTP/1.1 and HTTP/2, whichever the client uses.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
    address
}

/// A proxy that forwards a client's headers.
struct Proxy {
    address: SocketAddr,
    clients: [(Version, Client<HttpConnector, Empty<Bytes>>); 2],
}

/// A request that a client may cause, and its response.
struct Case {
    method: Method,
    version: Version,
    content_type: &'static str,
    response: Response<Incoming>,
}

impl Proxy {
    async fn to(app: Router) -> Self {
        let client = |http2| {
            Client::builder(TokioExecutor::new())
                .http2_only(http2)
                .build_http()
        };
        Self {
            address: serve(app).await,
            clients: [
                (Version::HTTP_11, client(false)),
                (Version::HTTP_2, client(true)),
            ],
        }
    }

    async fn ask(&self, which: usize, method: &Method, headers: HeaderMap) -> Response<Incoming> {
        let (version, client) = &self.clients[which];
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}/auth", self.address))
            .body(Empty::new())
            .unwrap();
        *request.headers_mut() = headers;
        let response = soon("a response", client.request(request)).await.unwrap();
        assert_eq!(response.version(), *version);
        response
    }

    async fn every_case(&self, token: Option<&str>) -> Vec<Case> {
        let mut cases = Vec::new();
        for which in 0..self.clients.len() {
            for method in [Method::GET, Method::POST, Method::HEAD, Method::PUT] {
                for content_type in CONTENT_TYPES {
                    let mut headers = HeaderMap::new();
                    headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
                    headers.insert(header::TE, "trailers".parse().unwrap());
                    headers.insert("x-grpc-web", "1".parse().unwrap());
                    if let Some(token) = token {
                        let bearer = format!("Bearer {token}");
                        headers.insert(header::AUTHORIZATION, bearer.parse().unwrap());
                    }
                    cases.push(Case {
                        response: self.ask(which, &method, headers).await,
                        version: self.clients[which].0,
                        method: method.clone(),
                        content_type,
                    });
                }
            }
        }
        cases
    }
}

impl Case {
    fn status(&self) -> StatusCode {
        self.response.status()
    }

    fn is_grpc_web_post(&self) -> bool {
        self.method == Method::POST && self.content_type.starts_with("application/grpc-web")
    }

    fn name(&self) -> String {
        format!("{} {:?} {}", self.method, self.version, self.content_type)
    }
}

#[tokio::test]
async fn documented_setup_never_returns_2xx_without_a_session() {
    let proxy = Proxy::to(forward_auth(layer())).await;
    for token in [None, Some("stolen")] {
        for case in proxy.every_case(token).await {
            let headers = case.response.headers();
            assert_eq!(case.status(), StatusCode::UNAUTHORIZED, "{}", case.name());
            assert_eq!(headers[header::CACHE_CONTROL], "no-store");
            assert!(headers.contains_key(header::WWW_AUTHENTICATE));
            assert!(!headers.contains_key("grpc-status"), "{}", case.name());
            assert!(!headers.contains_key("x-user-id"));
        }
    }
}

#[tokio::test]
async fn only_grpc_calls_get_a_2xx_rejection_without_http_only() {
    let handler = any(async || StatusCode::NO_CONTENT);
    let proxy = Proxy::to(Router::new().route("/auth", handler).layer(layer())).await;
    let mut calls = 0;
    for case in proxy.every_case(None).await {
        let is_call = case.is_grpc_web_post()
            || case.method == Method::POST
                && case.version == Version::HTTP_2
                && case.content_type.starts_with("application/grpc");
        let expected = if is_call {
            StatusCode::OK
        } else {
            StatusCode::UNAUTHORIZED
        };
        assert_eq!(case.status(), expected, "{}", case.name());
        assert_eq!(
            case.response.headers().contains_key("grpc-status"),
            is_call,
            "{}",
            case.name()
        );
        calls += usize::from(is_call);
    }
    // Three content types of gRPC over HTTP/2, and four of gRPC-Web over both versions.
    assert_eq!(calls, 11);
}

#[tokio::test]
async fn response_of_the_rejection_hook_obeys_http_only() {
    let handler = any(async || StatusCode::NO_CONTENT);
    let layer = layer()
        .with_rejection_response(Rejection::problem_json)
        .http_only();
    let proxy = Proxy::to(Router::new().route("/auth", handler).layer(layer)).await;
    for case in proxy.every_case(None).await {
        assert_eq!(case.status(), StatusCode::UNAUTHORIZED, "{}", case.name());
        assert_eq!(
            case.response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
    }
}

#[tokio::test]
async fn valid_session_is_allowed_and_its_user_id_returned() {
    let proxy = Proxy::to(forward_auth(layer())).await;
    for case in proxy.every_case(Some("good")).await {
        let headers = case.response.headers();
        match case.method {
            Method::GET | Method::HEAD => {
                assert_eq!(case.status(), StatusCode::NO_CONTENT, "{}", case.name());
                assert_eq!(headers["x-user-id"], "ada");
                let vary = "authorization, cookie, x-appwrite-session";
                assert_eq!(headers[header::VARY], vary);
                assert_eq!(headers[header::CACHE_CONTROL], "no-store");
            }
            // The route takes no other method.
            _ => assert_eq!(case.status(), StatusCode::METHOD_NOT_ALLOWED),
        }
    }
    for (name, value) in [
        (header::COOKIE, "a_session_demo=good"),
        ("x-appwrite-session".parse().unwrap(), "good"),
    ] {
        let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
        let response = proxy.ask(0, &Method::GET, headers).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()["x-user-id"], "ada");
    }
}

#[tokio::test]
async fn user_id_that_no_header_can_carry_is_not_allowed() {
    let proxy = Proxy::to(forward_auth(layer())).await;
    let bearer = [(header::AUTHORIZATION, "Bearer odd".parse().unwrap())];
    let response = proxy
        .ask(0, &Method::GET, HeaderMap::from_iter(bearer))
        .await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!response.headers().contains_key("x-user-id"));
}

#[tokio::test]
async fn malformed_token_is_rejected_with_400() {
    let proxy = Proxy::to(forward_auth(layer())).await;
    let bearer = [(header::AUTHORIZATION, "Bearer a, b".parse().unwrap())];
    let response = proxy
        .ask(0, &Method::GET, HeaderMap::from_iter(bearer))
        .await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body = response.into_body().collect().await.unwrap();
    assert!(body.to_bytes().is_empty());
}
