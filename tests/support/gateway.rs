//! HTTP proxy in front of a real identity provider. It limits the rate of single tokens, and closes
//! connections.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::idp::http;

pub struct Gateway {
    url: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    /// Address of the provider, without a path.
    provider: String,
    /// Tokens whose calls are rejected with 429.
    limited: Mutex<HashSet<String>>,
    closes_second_request: AtomicBool,
    calls: AtomicUsize,
    forwarded: AtomicUsize,
}

impl Shared {
    fn is_limited(&self, form: &[u8]) -> bool {
        let form = std::str::from_utf8(form).unwrap();
        let token = form
            .split('&')
            .find_map(|field| field.strip_prefix("token="));
        let token = percent_decode_str(token.unwrap()).decode_utf8().unwrap();
        self.limited.lock().unwrap().contains(&*token)
    }
}

impl Gateway {
    /// Starts a proxy in front of a provider, which is given by its address without a path.
    pub async fn start(provider: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            provider: provider.to_owned(),
            limited: Mutex::default(),
            closes_second_request: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            forwarded: AtomicUsize::new(0),
        });
        let now = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, Arc::clone(&now)));
            }
        });
        Self {
            url,
            shared,
            accepting: accepting.abort_handle(),
        }
    }

    /// Returns the address of an endpoint of the provider, by way of this proxy.
    pub fn endpoint(&self, endpoint: &str) -> String {
        let path = endpoint.strip_prefix(&self.shared.provider).unwrap();
        format!("{}{path}", self.url)
    }

    /// Rejects calls with this token by 429 and `Retry-After: 60`.
    pub fn limit(&self, token: &str) {
        let mut limited = self.shared.limited.lock().unwrap();
        limited.insert(token.to_owned());
    }

    /// Closes each connection when its second request arrives, without a response.
    pub fn close_second_request(&self) {
        self.shared.closes_second_request.store(true, SeqCst);
    }

    /// Returns the number of requests that have arrived.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(SeqCst)
    }

    /// Returns the number of requests that have reached the provider.
    pub fn forwarded(&self) -> usize {
        self.shared.forwarded.load(SeqCst)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let requests = AtomicUsize::new(0);
    let service = service_fn(async |request| {
        shared.calls.fetch_add(1, SeqCst);
        let is_first = requests.fetch_add(1, SeqCst) == 0;
        if !is_first && shared.closes_second_request.load(SeqCst) {
            // An error of the service closes the connection.
            return Err(io::Error::other("closed"));
        }
        Ok(answer(&shared, request).await)
    });
    // A client may close the connection at any time.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(client), service)
        .await;
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if shared.is_limited(&body) {
        return Response::builder()
            .status(StatusCode::TOO_MANY_REQUESTS)
            .header(header::RETRY_AFTER, "60")
            .body(Full::default())
            .unwrap();
    }
    let mut headers = head.headers;
    // The forwarded request has its own.
    for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION] {
        headers.remove(name);
    }
    let call = http()
        .request(head.method, format!("{}{}", shared.provider, head.uri))
        .headers(headers)
        .body(body);
    let from = call.send().await.unwrap();
    let mut response = Response::builder().status(from.status());
    if let Some(kind) = from.headers().get(header::CONTENT_TYPE) {
        response = response.header(header::CONTENT_TYPE, kind);
    }
    let body = from.bytes().await.unwrap();
    shared.forwarded.fetch_add(1, SeqCst);
    response.body(Full::new(body)).unwrap()
}
