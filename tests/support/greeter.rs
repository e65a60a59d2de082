//! A small gRPC service. A build script would generate these types from a `.proto` file; they are
//! written by hand so that no test and no example needs `protoc`. Messages are plain text.

#![allow(
    unreachable_pub,
    reason = "the example is a crate of its own, and takes this as a part"
)]

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::{Buf, BufMut};
use futures_util::{Stream, future::BoxFuture};
use http::uri::PathAndQuery;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{self, NamedService},
    transport::{Channel, Endpoint},
};
use tower::{Service, service_fn};

pub type Replies = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

pub trait Greeter: Send + Sync + 'static {
    /// Unary.
    fn hello(
        &self,
        request: Request<String>,
    ) -> impl Future<Output = Result<Response<String>, Status>> + Send;

    /// Server streaming.
    fn letters(
        &self,
        request: Request<String>,
    ) -> impl Future<Output = Result<Response<Replies>, Status>> + Send;

    /// Bidirectional streaming.
    fn chat(
        &self,
        request: Request<Streaming<String>>,
    ) -> impl Future<Output = Result<Response<Replies>, Status>> + Send;

    /// Unary.
    fn log_out(
        &self,
        _: Request<String>,
    ) -> impl Future<Output = Result<Response<String>, Status>> + Send {
        std::future::ready(Err(Status::unimplemented("this service has no logout")))
    }
}

pub struct GreeterServer<T>(Arc<T>);

impl<T: Greeter> GreeterServer<T> {
    pub fn new(greeter: T) -> Self {
        Self(Arc::new(greeter))
    }
}

impl<T> Clone for GreeterServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> NamedService for GreeterServer<T> {
    const NAME: &'static str = "demo.Greeter";
}

impl<T: Greeter> Service<http::Request<Body>> for GreeterServer<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let greeter = &self.0;
        let mut grpc = server::Grpc::new(Text);
        macro_rules! method {
            ($kind:ident, $name:ident) => {{
                let greeter = Arc::clone(greeter);
                let method = service_fn(move |request| {
                    let greeter = Arc::clone(&greeter);
                    async move { greeter.$name(request).await }
                });
                Box::pin(async move { Ok(grpc.$kind(method, request).await) })
            }};
        }
        match request.uri().path() {
            "/demo.Greeter/Hello" => method!(unary, hello),
            "/demo.Greeter/Letters" => method!(server_streaming, letters),
            "/demo.Greeter/Chat" => method!(streaming, chat),
            "/demo.Greeter/LogOut" => method!(unary, log_out),
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}

/// Health service, as the probes of Kubernetes call it.
#[derive(Clone)]
pub struct HealthServer;

impl NamedService for HealthServer {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl Service<http::Request<Body>> for HealthServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let check = service_fn(async |_: Request<String>| Ok(Response::new("SERVING".to_owned())));
        Box::pin(async move { Ok(server::Grpc::new(Text).unary(check, request).await) })
    }
}

pub struct GreeterClient(client::Grpc<Channel>);

impl GreeterClient {
    pub async fn connect(address: SocketAddr) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        Ok(Self(client::Grpc::new(endpoint.connect().await?)))
    }

    pub async fn hello(&mut self, request: Request<String>) -> Result<Response<String>, Status> {
        self.unary(request, "/demo.Greeter/Hello").await
    }

    pub async fn log_out(&mut self, request: Request<String>) -> Result<Response<String>, Status> {
        self.unary(request, "/demo.Greeter/LogOut").await
    }

    /// Calls the health service of the same server.
    pub async fn health(&mut self) -> Result<Response<String>, Status> {
        let request = Request::new(String::new());
        self.unary(request, "/grpc.health.v1.Health/Check").await
    }

    async fn unary(
        &mut self,
        request: Request<String>,
        path: &'static str,
    ) -> Result<Response<String>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(path);
        self.0.unary(request, path, Text).await
    }

    pub async fn letters(
        &mut self,
        request: Request<String>,
    ) -> Result<Response<Streaming<String>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/demo.Greeter/Letters");
        self.0.server_streaming(request, path, Text).await
    }

    pub async fn chat<S>(
        &mut self,
        request: Request<S>,
    ) -> Result<Response<Streaming<String>>, Status>
    where
        S: Stream<Item = String> + Send + 'static,
    {
        self.ready().await?;
        let path = PathAndQuery::from_static("/demo.Greeter/Chat");
        self.0.streaming(request, path, Text).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unknown(error.to_string()))
    }
}

/// Codec that sends messages as plain text instead of Protocol Buffers.
#[derive(Clone, Copy)]
pub struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let text = String::from_utf8(bytes.to_vec());
        text.map(Some)
            .map_err(|_| Status::invalid_argument("the message is not UTF-8"))
    }
}
