//! Real node-oidc-provider servers, one for each test that needs one.

use std::{collections::HashMap, sync::Mutex};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{
    idp::{
        Browser, REDIRECT_URI, Response, START_TIMEOUT, Server, Tokens, distribution, encode, form,
        http, parameter, send,
    },
    process::command,
};

/// Folder of the installed packages, with the same name as in `tests/idp/fetch`.
const DISTRIBUTION: &str = "oidc-provider-9.13.3-1";
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/support/oidc_provider.mjs"
);

/// Server with an in-memory adapter. The process ends when this value is dropped.
pub struct OidcProvider {
    url: String,
    /// Logged-in browsers by ID token.
    browsers: Mutex<HashMap<String, Browser>>,
    _server: Server,
}

/// Client that may use every grant that the tests need.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub secret: String,
    logout_uri: Option<String>,
}

impl Client {
    pub fn new(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            logout_uri: None,
        }
    }

    /// Sets the URL that receives logout tokens.
    pub fn logout_uri(mut self, url: &str) -> Self {
        self.logout_uri = Some(url.to_owned());
        self
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({
            "client_id": self.id,
            "client_secret": self.secret,
            "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
            "response_types": ["code"],
            "redirect_uris": [REDIRECT_URI],
            "token_endpoint_auth_method": "client_secret_basic",
        });
        if let Some(url) = &self.logout_uri {
            metadata["backchannel_logout_uri"] = json!(url);
            metadata["backchannel_logout_session_required"] = json!(true);
        }
        metadata
    }
}

impl OidcProvider {
    /// Returns `None` if node-oidc-provider has not been fetched.
    pub async fn start(clients: &[&Client]) -> Option<Self> {
        let distribution = distribution(DISTRIBUTION)?;
        let clients = clients.iter().map(|client| client.metadata());
        let mut node = command("node");
        node.current_dir(distribution)
            .arg(SCRIPT)
            .arg(Value::from_iter(clients).to_string());
        let mut server = Server::spawn(node);
        // The script picks a free port and logs it.
        let ready = "Listening on: ";
        let line = tokio::time::timeout(START_TIMEOUT, server.line_with(ready)).await;
        let Ok(Some(line)) = line else {
            panic!("node-oidc-provider does not start:\n{}", server.log());
        };
        let (_, url) = line.split_once(ready).unwrap();
        Some(Self {
            url: url.to_owned(),
            browsers: Mutex::default(),
            _server: server,
        })
    }

    pub fn issuer(&self) -> &str {
        &self.url
    }

    pub fn introspection_endpoint(&self) -> String {
        self.endpoint("token/introspection")
    }

    fn endpoint(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    /// Logs a user in by the authorization code flow in a new browser. `openid` is added to the scope.
    pub async fn login(&self, client: &Client, subject: &str, scope: &str) -> Tokens {
        let mut browser = Browser::default();
        let query = encode(&[
            ("response_type", "code"),
            ("client_id", &client.id),
            ("redirect_uri", REDIRECT_URI),
            ("scope", format!("openid {scope}").trim_end()),
            // Without it, the server ignores the scope `offline_access`.
            ("prompt", "consent"),
            ("login_hint", subject),
        ]);
        let mut page = self.endpoint(&format!("auth?{query}"));
        while !page.starts_with(REDIRECT_URI) {
            page = browser.get(&page).await;
        }
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &parameter(&page, "code")),
            ("redirect_uri", REDIRECT_URI),
        ];
        let response = self.post_as(client, "token", &fields).await;
        let tokens = Tokens::from_response(&response.expect_success().json);
        let mut browsers = self.browsers.lock().unwrap();
        browsers.insert(tokens.id.clone(), browser);
        tokens
    }

    /// Logs the browser of these tokens out. The server revokes the grant, unless it is of the scope
    /// `offline_access`.
    pub async fn logout(&self, tokens: &Tokens) {
        let browser = self.browsers.lock().unwrap().remove(&tokens.id);
        let mut browser = browser.expect("a browser that is logged in");
        let query = encode(&[("id_token_hint", &tokens.id)]);
        let page = http().get(self.endpoint(&format!("session/end?{query}")));
        let page = browser.send(page).await.expect_success().json;
        let fields = [("xsrf", page["xsrf"].as_str().unwrap()), ("logout", "yes")];
        let confirmation = form(&self.endpoint("session/end/confirm"), &fields);
        let response = browser.send(confirmation).await;
        assert!(response.location().ends_with("/session/end/success"));
    }

    /// Issues an access token without a login, with the model's properties, such as `aud` or
    /// `expiresIn` in seconds.
    pub async fn access_token(&self, client: &Client, subject: &str, properties: Value) -> String {
        let mut token = properties;
        token["clientId"] = json!(client.id);
        token["sub"] = json!(subject);
        let answer = self.control("access-token", &token).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    pub async fn disable_account(&self, subject: &str) {
        self.control("disable", &json!({ "sub": subject })).await;
    }

    pub async fn enable_account(&self, subject: &str) {
        self.control("enable", &json!({ "sub": subject })).await;
    }

    /// Returns an access token of the client itself.
    pub async fn client_credentials(&self, client: &Client) -> String {
        let fields = [("grant_type", "client_credentials")];
        let response = self.post_as(client, "token", &fields).await;
        let token = &response.expect_success().json["access_token"];
        token.as_str().unwrap().to_owned()
    }

    pub async fn refresh(&self, client: &Client, refresh_token: &str) -> Tokens {
        let response = self.try_refresh(client, refresh_token).await;
        Tokens::from_response(&response.expect_success().json)
    }

    /// Returns the response unchanged, for accounts that must be rejected.
    pub async fn try_refresh(&self, client: &Client, refresh_token: &str) -> Response {
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ];
        self.post_as(client, "token", &fields).await
    }

    /// Introspects a token as the client. Returns the response unchanged, because the server rejects
    /// some tokens with an error.
    pub async fn introspect(&self, client: &Client, token: &str) -> Response {
        let fields = [("token", token)];
        self.post_as(client, "token/introspection", &fields).await
    }

    /// Revokes a token according to RFC 7009. Its grant ends with it.
    pub async fn revoke(&self, client: &Client, token: &str) {
        let fields = [("token", token)];
        let response = self.post_as(client, "token/revocation", &fields).await;
        response.expect_success();
    }

    async fn post_as(&self, client: &Client, endpoint: &str, fields: &[(&str, &str)]) -> Response {
        // Basic authentication requires both to be form-encoded (RFC 6749, section 2.3.1).
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let request = form(&self.endpoint(endpoint), fields);
        send(request.basic_auth(encode(&client.id), Some(encode(&client.secret)))).await
    }

    /// Calls a control of the script, which is no endpoint of a provider.
    async fn control(&self, name: &str, body: &Value) -> Value {
        let request = http().post(self.endpoint(&format!("test/{name}")));
        send(request.json(body)).await.expect_success().json
    }
}
