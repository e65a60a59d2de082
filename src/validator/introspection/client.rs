//! The one call: a form with the token, and our credential in one place.

use std::{fmt, time::Duration};

use chrono::Utc;
use http::{HeaderMap, HeaderValue, Method, header};
use zeroize::Zeroizing;

use super::{
    auth::{Prepared, encoded},
    error::IntrospectionError,
    response,
};
use crate::{
    token::SessionToken,
    validator::{
        error::BoxError,
        http::{self as provider, Url},
    },
};

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) struct Client {
    http: provider::Client,
    endpoint: Url,
    /// What follows the token in the body.
    credentials: Zeroizing<String>,
}

impl Client {
    pub(super) fn new(
        endpoint: Url,
        Prepared { header, body }: Prepared,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, BoxError> {
        let mut headers =
            HeaderMap::from_iter([(header::ACCEPT, JSON), (header::CONTENT_TYPE, FORM)]);
        if let Some(credential) = header {
            headers.insert(header::AUTHORIZATION, credential);
        }
        Ok(Self {
            http: provider::Client::new(&endpoint, &headers, connect_timeout, timeout)?,
            endpoint,
            credentials: body,
        })
    }

    /// The body of an answer to the question.
    pub(super) async fn ask(&self, token: &SessionToken) -> Result<Vec<u8>, IntrospectionError> {
        let form = format!(
            "token={}&token_type_hint=access_token{}",
            &*encoded(token.expose_secret()),
            &*self.credentials
        );
        let url = self.endpoint.as_str();
        let call = self
            .http
            .call(Method::POST, url, HeaderMap::new(), Some(form.into_bytes()));
        response::judge(call.await?, Utc::now())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold what is not for a log.
        let mut endpoint = self.endpoint.clone();
        endpoint.set_query(None);
        f.debug_struct("Client")
            .field("endpoint", &endpoint.as_str())
            .finish_non_exhaustive()
    }
}
