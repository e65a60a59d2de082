//! The layer in a tonic server, with tonic's client, and the HTTP messages between them.

use std::net::SocketAddr;

use futures_util::{StreamExt, stream};
use http::{Method, Version as HttpVersion, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use tower_session_cache::{SessionCacheLayer, UserData};

use crate::support::{
    greeter::{Greeter, GreeterClient, GreeterServer, Replies},
    probe::Probe,
    soon,
    wire::{self, Version, layer},
};

/// Responds with the caller's ID, `-` without a user.
struct Who;

fn caller<T>(request: &Request<T>) -> String {
    let user = request.extensions().get::<UserData>();
    let session = request
        .extensions()
        .get::<UserData>()
        .and_then(UserData::session);
    assert_eq!(user.is_some(), session.is_some());
    user.map_or("-", UserData::id).to_owned()
}

impl Greeter for Who {
    async fn hello(&self, request: Request<String>) -> Result<Response<String>, Status> {
        let answer = format!("{} for {}", request.get_ref(), caller(&request));
        Ok(Response::new(answer))
    }

    async fn letters(&self, request: Request<String>) -> Result<Response<Replies>, Status> {
        let letters: Vec<_> = caller(&request)
            .chars()
            .map(|c| Ok(c.to_string()))
            .collect();
        Ok(Response::new(Box::pin(stream::iter(letters))))
    }

    async fn chat(&self, request: Request<Streaming<String>>) -> Result<Response<Replies>, Status> {
        let caller = caller(&request);
        let replies = request
            .into_inner()
            .map(move |message| Ok(format!("{} for {caller}", message?)));
        Ok(Response::new(Box::pin(replies)))
    }
}

async fn serve(layer: SessionCacheLayer<Probe>) -> SocketAddr {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder()
        .layer(layer)
        .add_service(GreeterServer::new(Who));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

async fn connect(address: SocketAddr) -> GreeterClient {
    let client = GreeterClient::connect(address);
    soon("a connection", client).await.unwrap()
}

fn with_token<T>(message: T, credential: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(credential) = credential {
        let value = format!("Bearer {credential}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

const REFUSALS: [(Option<&str>, Code, &str); 5] = [
    (None, Code::Unauthenticated, "a session token is required"),
    (
        Some("invalid"),
        Code::Unauthenticated,
        "the session is invalid or has expired",
    ),
    (Some("blocked"), Code::PermissionDenied, "access denied"),
    (
        Some("a,b"),
        Code::InvalidArgument,
        "the header contains a list of credentials",
    ),
    (
        Some("down"),
        Code::Unavailable,
        "the session could not be validated, try again later",
    ),
];

#[tokio::test]
async fn unary_call_receives_the_user_or_a_rejection_status() {
    let mut client = connect(serve(layer()).await).await;
    for _ in 0..2 {
        let call = client.hello(with_token("good day".to_owned(), Some("good")));
        let answer = soon("a response", call).await.unwrap();
        assert_eq!(answer.get_ref(), "good day for ada");
    }
    for (credential, code, message) in REFUSALS {
        let call = client.hello(with_token("good day".to_owned(), credential));
        let status = soon("a status", call).await.unwrap_err();
        assert_eq!(status.code(), code, "{credential:?}");
        assert_eq!(status.message(), message, "{credential:?}");
    }
}

#[tokio::test]
async fn server_stream_receives_the_user_or_a_rejection_status() {
    let mut client = connect(serve(layer()).await).await;
    let call = client.letters(with_token(String::new(), Some("good")));
    let mut letters = soon("a response", call).await.unwrap().into_inner();
    for letter in ["a", "d", "a"] {
        assert_eq!(letters.message().await.unwrap().unwrap(), letter);
    }
    assert_eq!(letters.message().await.unwrap(), None);
    for (credential, code, message) in REFUSALS {
        let call = client.letters(with_token(String::new(), credential));
        let status = soon("a status", call).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (code, message),
            "before the first item"
        );
    }
}

#[tokio::test]
async fn bidirectional_stream_receives_the_user_or_a_rejection() {
    let mut client = connect(serve(layer()).await).await;
    let messages = || {
        let (sender, mut receiver) = mpsc::channel::<String>(1);
        (sender, stream::poll_fn(move |cx| receiver.poll_recv(cx)))
    };
    let (sender, outgoing) = messages();
    let call = client.chat(with_token(outgoing, Some("good")));
    let mut replies = soon("a response", call).await.unwrap().into_inner();
    for word in ["one", "two"] {
        sender.send(word.to_owned()).await.unwrap();
        let reply = soon("a reply", replies.message()).await.unwrap();
        assert_eq!(reply.unwrap(), format!("{word} for ada"));
    }
    drop(sender);
    assert_eq!(soon("the end", replies.message()).await.unwrap(), None);
    for (credential, code, message) in REFUSALS {
        // The call is rejected immediately, although the client has sent no message and has not
        // closed its stream.
        let (_sender, outgoing) = messages();
        let call = client.chat(with_token(outgoing, credential));
        let status = soon("a status", call).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, message));
    }
}

#[tokio::test]
async fn optional_layer_passes_calls_without_a_user() {
    let mut client = connect(serve(layer().optional()).await).await;
    for (credential, caller) in [
        (Some("good"), "ada"),
        (None, "-"),
        (Some("invalid"), "-"),
        (Some("blocked"), "-"),
    ] {
        let call = client.hello(with_token("hi".to_owned(), credential));
        let answer = soon("a response", call).await.unwrap();
        assert_eq!(*answer.get_ref(), format!("hi for {caller}"));
    }
    for (credential, code) in [("a,b", Code::InvalidArgument), ("down", Code::Unavailable)] {
        let call = client.hello(with_token("hi".to_owned(), Some(credential)));
        assert_eq!(soon("a status", call).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn rejection_is_a_headers_only_response() {
    let address = serve(layer()).await;
    let content_types = [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc"),
        ("application/grpc;charset=utf-8", "application/grpc"),
        ("application/grpc-web-text", "application/grpc-web-text"),
    ];
    for (asked, answered) in content_types {
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}/demo.Greeter/Hello"))
            .header(header::CONTENT_TYPE, asked)
            .header(header::TE, "trailers")
            .header(header::AUTHORIZATION, "Bearer invalid")
            .body(Full::from(&b"\0\0\0\0\x02hi"[..]))
            .unwrap();
        let answer = wire::send(address, Version::Http2, request).await;
        assert_eq!(answer.version(), HttpVersion::HTTP_2);
        assert_eq!(answer.status(), 200);
        assert!(answer.body().is_end_stream(), "END_STREAM on the headers");
        let headers = answer.headers();
        assert_eq!(headers[header::CONTENT_TYPE], answered);
        assert_eq!(headers["grpc-status"], "16");
        assert_eq!(
            headers["grpc-message"],
            "the session is invalid or has expired"
        );
        assert!(!headers.contains_key(header::CONTENT_LENGTH));
        let rest = answer.into_body().collect().await.unwrap();
        assert!(rest.trailers().is_none() && rest.to_bytes().is_empty());
    }

    // Other requests to the same port get a plain HTTP response.
    for content_type in ["application/grpcurl", "application/json"] {
        let request = http::Request::post(format!("http://{address}/"))
            .header(header::CONTENT_TYPE, content_type)
            .body(Full::default())
            .unwrap();
        let answer = wire::send(address, Version::Http2, request).await;
        assert_eq!(answer.status(), 401);
        assert!(!answer.headers().contains_key("grpc-status"));
    }
}
