//! Plain hyper server behind the layer, and requests to it over HTTP/1.1 and HTTP/2.
//!
//! `cargo run --example hyper`

use std::{convert::Infallible, error::Error};

use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};
use tower_session_cache::{SessionCache, SessionCacheLayer, UserData, testing::TestValidator};

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let user = request.extensions().get::<UserData>();
    let name = user.map_or("nobody", UserData::name);
    Ok(Response::new(Full::from(format!("Hello, {name}!"))))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Replace with your identity provider: `AppwriteValidator`, or your own `SessionValidator`.
    let ada = UserData::builder("u1").name("Ada").build();
    let provider = TestValidator::new().with_session("tok", ada);
    let service = ServiceBuilder::new()
        .layer(SessionCacheLayer::new(
            SessionCache::builder().build()?,
            provider,
        ))
        .service(service_fn(hello));

    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // The connection uses the HTTP version that the client starts with.
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service).await
            });
        }
    });

    for http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http();
        for token in ["tok", "other"] {
            let request = Request::get(&url)
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .body(Empty::<Bytes>::new())?;
            let answer = client.request(request).await?;
            let (version, status) = (answer.version(), answer.status());
            let body = answer.into_body().collect().await?.to_bytes();
            let body = String::from_utf8_lossy(&body);
            println!("{version:?} {token}: {status} {body:?}");
        }
    }
    Ok(())
}
