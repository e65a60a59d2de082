//! Client for the introspection endpoint. Its only call sends a form with the token, and sends the
//! credential in one place.

use std::fmt;

use chrono::Utc;
use http::{HeaderMap, HeaderValue, Method, header};
use zeroize::Zeroizing;

use super::{
    auth::{Credentials, form_encode},
    error::unanswered,
    response::classify,
};
use crate::{
    token::SessionToken,
    validator::{
        error::ValidationError,
        http::{ClientFault, HttpClient, HttpSettings, Repeat, Url},
    },
};

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) struct IntrospectionClient {
    http: HttpClient,
    endpoint: Url,
    /// The part of the body that follows the token.
    credentials: Zeroizing<String>,
    sends_bearer: bool,
}

impl IntrospectionClient {
    pub(super) fn new(
        endpoint: Url,
        Credentials { header, body }: Credentials,
        settings: &HttpSettings,
    ) -> Result<Self, ClientFault> {
        let mut headers =
            HeaderMap::from_iter([(header::ACCEPT, JSON), (header::CONTENT_TYPE, FORM)]);
        let sends_bearer = header
            .as_ref()
            .is_some_and(|credential| credential.as_bytes().starts_with(b"Bearer "));
        if let Some(credential) = header {
            headers.insert(header::AUTHORIZATION, credential);
        }
        Ok(Self {
            http: HttpClient::new(&endpoint, headers, settings)?,
            endpoint,
            credentials: body,
            sends_bearer,
        })
    }

    /// Sends the request and returns the body of a successful response.
    pub(super) async fn introspect(
        &self,
        token: &SessionToken,
    ) -> Result<Vec<u8>, ValidationError> {
        let form = format!(
            "token={}&token_type_hint=access_token{}",
            &*form_encode(token.expose_secret()),
            &*self.credentials
        );
        let url = self.endpoint.as_str();
        // Introspection only reads, although it is a POST.
        let call = self.http.call(
            Repeat::Once,
            Method::POST,
            url,
            HeaderMap::new(),
            Some(form.into_bytes()),
        );
        let response = call.await.map_err(|error| unanswered(error, None))?;
        classify(response, self.sends_bearer, Utc::now())
    }
}

impl fmt::Debug for IntrospectionClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may contain values that must not be logged.
        let mut endpoint = self.endpoint.clone();
        endpoint.set_query(None);
        f.debug_struct("IntrospectionClient")
            .field("endpoint", &endpoint.as_str())
            .finish_non_exhaustive()
    }
}
