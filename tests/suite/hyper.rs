//! The layer in a plain hyper server, through hyper-util's service adapter.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::JoinSet};
use tower::{Layer, service_fn};
use tower_session_cache::{SessionCacheLayer, UserData};

use crate::support::{
    probe::Probe,
    soon,
    wire::{Version, layer, send, the_cases},
};

async fn who(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let user = request.extensions().get::<UserData>();
    let id = user.map_or("-", UserData::id).to_owned();
    Ok(Response::new(Full::from(id)))
}

async fn serve(version: Version, layer: SessionCacheLayer<Probe>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TowerToHyperService::new(layer.layer(service_fn(who)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (io, service) = (TokioIo::new(stream), service.clone());
            tokio::spawn(async move {
                match version {
                    Version::Http1 => {
                        let server = http1::Builder::new();
                        server.serve_connection(io, service).await
                    }
                    Version::Http2 => {
                        let server = http2::Builder::new(TokioExecutor::new());
                        server.serve_connection(io, service).await
                    }
                }
            });
        }
    });
    address
}

async fn passes_the_shared_cases(version: Version) {
    let required = serve(version, layer()).await;
    let optional = serve(version, layer().optional()).await;
    the_cases(required, optional, version).await;
}

#[tokio::test]
async fn http1_server_passes_the_shared_http_cases() {
    passes_the_shared_cases(Version::Http1).await;
}

#[tokio::test]
async fn http2_server_passes_the_shared_http_cases() {
    passes_the_shared_cases(Version::Http2).await;
}

/// A client that is still sending a large body when the layer rejects the request.
#[tokio::test]
async fn client_reads_the_rejection_of_a_large_upload() {
    const CLIENTS: usize = 20;
    let address = serve(Version::Http1, layer()).await;
    // More than the buffers of the two sockets hold.
    let upload = Bytes::from(vec![b'x'; 16 << 20]);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let upload = upload.clone();
        clients.spawn(async move {
            let request = Request::post(format!("http://{address}/"))
                .header(header::AUTHORIZATION, "Bearer invalid")
                .body(Full::from(upload))
                .unwrap();
            send(address, Version::Http1, request).await.status()
        });
    }
    let statuses = soon("all responses", clients.join_all()).await;
    assert_eq!(statuses, [StatusCode::UNAUTHORIZED; CLIENTS]);
}
