//! Fetches the keys of an issuer, after discovery if its JWKS URL is not configured ([OpenID Connect
//! Discovery, section 4]).
//!
//! [OpenID Connect Discovery, section 4]: https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use crate::{
    crypto::{KeySet, strict_object},
    validator::http::{
        ClientFault, Failure, HttpClient, HttpError, HttpSettings, Repeat, Url, is_loopback,
        parse_endpoint,
    },
};

/// Where the keys of an issuer are.
#[derive(Clone, Debug)]
pub(crate) enum KeyLocation {
    /// In the metadata of the issuer, whose URL is this text.
    Discovery { issuer: String },
    /// At this URL.
    Url(Url),
}

/// Fetches keys. It keeps no state except for connections.
pub(crate) struct KeyFetcher {
    http: HttpClient,
    location: KeyLocation,
    allows_http: bool,
}

impl KeyFetcher {
    /// Creates a fetcher, which opens no connection yet. `first` is the URL that is called first.
    pub(crate) fn new(
        first: &Url,
        location: KeyLocation,
        allows_http: bool,
        settings: &HttpSettings,
    ) -> Result<Self, ClientFault> {
        let accept = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept)]);
        Ok(Self {
            http: HttpClient::new(first, headers, settings)?,
            location,
            allows_http,
        })
    }

    /// Fetches the keys.
    pub(super) async fn fetch(&self) -> Result<KeySet, Failure> {
        let url = match &self.location {
            KeyLocation::Url(url) => url.clone(),
            KeyLocation::Discovery { issuer } => self.discover(issuer).await?,
        };
        let body = self.get(url.as_str()).await?;
        KeySet::parse(&body)
            .filter(|keys| !keys.is_empty())
            .ok_or_else(|| {
                failure(
                    "the response contains no key for signatures that this crate supports; check \
                     the JWKS URL and the issuer's signature algorithm",
                )
            })
    }

    /// Reads the JWKS URL in the metadata of the issuer.
    async fn discover(&self, issuer: &str) -> Result<Url, Failure> {
        let base = issuer.trim_end_matches('/');
        let metadata = self
            .get(&format!("{base}/.well-known/openid-configuration"))
            .await?;
        let metadata = strict_object(&metadata).ok_or_else(|| {
            failure("the metadata of the issuer is not a JSON object; check the issuer's URL")
        })?;
        // Without this comparison, the keys of another tenant of the server could be used.
        if metadata.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err(failure(
                "the metadata names another issuer; configure the value of `issuer` in it, \
                 including a trailing slash",
            ));
        }
        let url = metadata.get("jwks_uri").and_then(Value::as_str);
        let url = url
            .and_then(|url| parse_endpoint(url).ok())
            .ok_or_else(|| {
                failure("the metadata of the issuer has no valid `jwks_uri`; configure `jwks_uri`")
            })?;
        if url.scheme() == "http" && !is_loopback(&url) && !self.allows_http {
            return Err(failure(
                "the `jwks_uri` in the metadata of the issuer begins with http://; correct the \
                 metadata, or call `allow_http` if no other party can read the network",
            ));
        }
        Ok(url)
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, Failure> {
        let call = self
            .http
            .call(Repeat::Once, Method::GET, url, HeaderMap::new(), None);
        let response = call.await.map_err(|error| unanswered(error, None))?;
        let status = response.status;
        if status != StatusCode::OK {
            let advice = "unexpected status; check the URL of the issuer or its keys";
            return Err(failure(advice).with_response(status, None));
        }
        response
            .body
            .map_err(|error| unanswered(error, Some(status)))
    }
}

fn failure(advice: &'static str) -> Failure {
    Failure::new("fetching the keys of the issuer", advice)
}

fn unanswered(error: HttpError, status: Option<StatusCode>) -> Failure {
    let advice = match error {
        HttpError::Timeout(_) => {
            "no complete response within the timeout; check that the issuer is reachable from this \
             host and not overloaded, or increase `timeout`"
        }
        HttpError::Connect(_) | HttpError::Transport(_) => {
            "could not connect, or the connection was closed early; check that the issuer is \
             running, its URL, and the proxy settings"
        }
        HttpError::TooLong => "the response is longer than 256 KiB; check the URL",
    };
    failure(advice).with_error(error, status)
}
