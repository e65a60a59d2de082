//! HTTP client for calls to identity providers.
//!
//! A call carries a token and perhaps a secret of this service, so it is sent to the configured
//! host only: no redirects, no cookies, and nothing from the client's own request. Its duration and
//! the length of its response are limited. Only this folder depends on reqwest.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Client, RequestBuilder, Response, Url};
use tokio::time::Instant;

use super::{
    pool::Pool,
    settings::{ClientFault, HttpSettings},
};
use crate::validator::error::BoxError;

/// Real responses are far smaller, even with everything that a provider lets its users store.
const MAX_BODY: usize = 256 * 1024;

/// Client for one provider.
pub(crate) struct HttpClient {
    pool: Pool,
    /// Opens a connection for each call.
    unpooled: Client,
}

/// Whether a call may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The call is safe to repeat. If its connection ends before a response, it is sent once more,
    /// on a new connection and within the same timeout.
    Once,
    /// The call must not be carried out twice. It uses a new connection, because the provider may
    /// close an idle one at any moment.
    Never,
}

pub(crate) struct HttpResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body, or the error from reading it. The status may determine the meaning of the response
    /// even if the body could not be read.
    pub(crate) body: Result<Vec<u8>, HttpError>,
}

/// Why there is no response, or no body of it.
#[derive(Debug)]
pub(crate) enum HttpError {
    /// The response was not complete before the timeout.
    Timeout(BoxError),
    /// No connection could be opened. A call that may be repeated has tried twice.
    Connect(BoxError),
    /// The connection ended early. A call that may be repeated has failed on two connections, unless
    /// there is a response without its body.
    Transport(BoxError),
    /// The body is longer than 256 KiB.
    TooLong,
}

impl HttpClient {
    /// Creates a client, which opens no connection yet. The headers are sent with every call.
    pub(crate) fn new(
        endpoint: &Url,
        headers: HeaderMap,
        settings: &HttpSettings,
    ) -> Result<Self, ClientFault> {
        let factory = settings.factory(endpoint, headers)?;
        Ok(Self {
            unpooled: factory.unpooled()?,
            pool: Pool::new(factory)?,
        })
    }

    pub(crate) async fn call(
        &self,
        repeat: Repeat,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<HttpResponse, HttpError> {
        let body = body.map(Bytes::from);
        let request = |client: &Client| {
            let request = client.request(method.clone(), url).headers(headers.clone());
            match &body {
                Some(body) => request.body(body.clone()),
                None => request,
            }
        };
        if repeat == Repeat::Never {
            return exchange(request(&self.unpooled)).await;
        }
        let deadline = Instant::now() + self.pool.timeout();
        let (client, generation) = self.pool.current();
        let result = exchange(request(&client)).await;
        if let Err(HttpError::Connect(_) | HttpError::Transport(_)) = result {
            let left = deadline.saturating_duration_since(Instant::now());
            return exchange(request(&self.unpooled).timeout(left)).await;
        }
        let error = match &result {
            Ok(response) => response.body.as_ref().err(),
            Err(error) => Some(error),
        };
        if error.is_some_and(HttpError::is_unresponsive) {
            self.pool.retire(generation);
        }
        result
    }
}

impl HttpError {
    /// Returns `true` if a connection that was open delivered no response before the timeout.
    fn is_unresponsive(&self) -> bool {
        let Self::Timeout(source) = self else {
            return false;
        };
        let error = source.downcast_ref::<reqwest::Error>();
        !error.is_some_and(reqwest::Error::is_connect)
    }
}

async fn exchange(request: RequestBuilder) -> Result<HttpResponse, HttpError> {
    let mut response = request.send().await?;
    let body = read(&mut response).await;
    Ok(HttpResponse {
        status: response.status(),
        headers: std::mem::take(response.headers_mut()),
        body,
    })
}

async fn read(response: &mut Response) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(HttpError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        let (is_timeout, is_connect) = (error.is_timeout(), error.is_connect());
        // The operator chose the URL, but may have put secrets into it.
        let source = error.without_url().into();
        if is_timeout {
            Self::Timeout(source)
        } else if is_connect {
            Self::Connect(source)
        } else {
            Self::Transport(source)
        }
    }
}
