//! Real Ory Hydra servers, one for each test that needs one.

use std::{collections::HashMap, fs, sync::Mutex};

use http::Method;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{
    idp::{
        Browser, PAUSE, REDIRECT_URI, Response, START_TIMEOUT, Server, Tokens, distribution,
        encode, http, parameter, post_form, send,
    },
    process::command,
    redis::free_port,
};

/// Folder of the distribution, with the same name as in `tests/idp/fetch`.
const DISTRIBUTION: &str = "hydra-2.3.0-1";

/// Server with an in-memory database. The process ends when this value is dropped.
pub struct Hydra {
    public: String,
    admin: String,
    /// Logged-in browsers by session ID.
    browsers: Mutex<HashMap<String, Browser>>,
    server: Server,
    _folder: TempDir,
}

/// Client that may use every grant that the tests need.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub secret: String,
    scope: String,
    settings: Map<String, Value>,
}

impl Client {
    pub fn new(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            scope: "openid offline email profile".to_owned(),
            settings: Map::new(),
        }
    }

    /// Adds scopes that the client may request.
    pub fn scope(mut self, scope: &str) -> Self {
        self.scope = format!("{} {scope}", self.scope);
        self
    }

    /// Sets a member of the client's registration, such as `backchannel_logout_uri`.
    pub fn setting(mut self, name: &str, value: Value) -> Self {
        self.settings.insert(name.to_owned(), value);
        self
    }

    fn registration(&self) -> Value {
        let mut registration = json!({
            "client_id": self.id,
            "client_secret": self.secret,
            "scope": self.scope,
            "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
            "response_types": ["code"],
            "redirect_uris": [REDIRECT_URI],
            "token_endpoint_auth_method": "client_secret_post",
        });
        let members = registration.as_object_mut().unwrap();
        members.extend(self.settings.clone());
        registration
    }
}

impl Hydra {
    /// Returns `None` if Hydra has not been fetched.
    pub async fn start() -> Option<Self> {
        let program = distribution(DISTRIBUTION)?.join("hydra");
        tokio::time::timeout(START_TIMEOUT, async {
            // Another process may take a free port before the server binds it.
            for _ in 0..20 {
                let folder = tempfile::tempdir().unwrap();
                let (public, admin) = (free_port(), free_port());
                let configuration = folder.path().join("hydra.json");
                // Shown by the discovery document. It identifies this server, since another test's server
                // may have taken the port.
                let mark = format!("http://127.0.0.1{}", folder.path().display());
                let settings = settings(public, admin, &mark);
                fs::write(&configuration, settings.to_string()).unwrap();
                let mut hydra = command(&program);
                hydra
                    .args(["serve", "all", "--dev", "--sqa-opt-out", "--config"])
                    .arg(&configuration);
                let mut server = Server::spawn(hydra);
                // Hydra logs this line before it binds the port.
                let announced = format!("http server on 127.0.0.1:{public}");
                let announced = server.line_with(&announced).await;
                assert!(announced.is_some(), "{}", server.log());
                let mut hydra = Self {
                    public: format!("http://127.0.0.1:{public}"),
                    admin: format!("http://127.0.0.1:{admin}"),
                    browsers: Mutex::default(),
                    server,
                    _folder: folder,
                };
                if hydra.is_ready(&mark).await {
                    return hydra;
                }
            }
            panic!("Hydra gets no free port");
        })
        .await
        .map(Some)
        .expect("Hydra to start")
    }

    /// Waits until both ports answer. Returns `false` if one of them belongs to another server.
    async fn is_ready(&mut self, mark: &str) -> bool {
        let health = format!("{}/health/ready", self.admin);
        loop {
            if self.server.has_ended() {
                return false;
            }
            match http().get(&health).send().await {
                Ok(response) if response.status().is_success() => break,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        let discovery = format!("{}/.well-known/openid-configuration", self.public);
        loop {
            if self.server.has_ended() {
                return false;
            }
            match http().get(&discovery).send().await {
                Ok(response) => {
                    let discovery: Value = response.json().await.unwrap_or_default();
                    if discovery["registration_endpoint"] != mark {
                        return false;
                    }
                    break;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        // A client that is created at the admin port is known at the public port only if both belong to
        // the same server.
        let probe = Client::new(mark, "the secret of a probe");
        let created = self.try_admin(Method::POST, "/clients", Some(probe.registration()));
        if !created.await.status.is_success() {
            return false;
        }
        let fields = [("grant_type", "client_credentials")];
        let answer = self.post_as(&probe, "token", &fields).await;
        answer.status.is_success()
    }

    pub fn issuer(&self) -> String {
        format!("{}/", self.public)
    }

    /// Returns the endpoint on the admin port, which requires no credentials.
    pub fn introspection_endpoint(&self) -> String {
        format!("{}/admin/oauth2/introspect", self.admin)
    }

    pub async fn create_client(&self, client: &Client) {
        self.admin(Method::POST, "/clients", Some(client.registration()))
            .await;
    }

    /// Logs a user in by the authorization code flow in a new browser. `openid` and `offline` are added
    /// to the scope.
    pub async fn login(&self, client: &Client, subject: &str, scope: &str) -> Tokens {
        self.authorize(client, subject, scope, false).await
    }

    /// Like [`login`](Self::login), with the session ID as `ext.sid` of the access token.
    pub async fn login_with_sid(&self, client: &Client, subject: &str, scope: &str) -> Tokens {
        self.authorize(client, subject, scope, true).await
    }

    async fn authorize(
        &self,
        client: &Client,
        subject: &str,
        scope: &str,
        with_sid: bool,
    ) -> Tokens {
        let mut browser = Browser::default();
        let query = encode(&[
            ("response_type", "code"),
            ("client_id", &client.id),
            ("redirect_uri", REDIRECT_URI),
            ("scope", format!("openid offline {scope}").trim_end()),
            ("state", "a state of the test"),
        ]);
        let page = browser
            .get(&format!("{}/oauth2/auth?{query}", self.public))
            .await;
        let accepted = json!({ "subject": subject, "remember": true, "remember_for": 3600 });
        let back = self.accept("login", &page, accepted).await;

        let page = browser.get(&back).await;
        let query = encode(&[("consent_challenge", &parameter(&page, "consent_challenge"))]);
        let path = format!("/oauth2/auth/requests/consent?{query}");
        let request = self.admin(Method::GET, &path, None).await.json;
        let mut access_token = json!({});
        if with_sid {
            access_token["sid"] = request["login_session_id"].clone();
        }
        let accepted = json!({
            "grant_scope": request["requested_scope"],
            "grant_access_token_audience": request["requested_access_token_audience"],
            "session": { "access_token": access_token },
        });
        let back = self.accept("consent", &page, accepted).await;

        let callback = browser.get(&back).await;
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &parameter(&callback, "code")),
            ("redirect_uri", REDIRECT_URI),
        ];
        let response = self.post_as(client, "token", &fields).await;
        let tokens = Tokens::from_response(&response.expect_success().json);
        let mut browsers = self.browsers.lock().unwrap();
        browsers.insert(tokens.sid(), browser);
        tokens
    }

    /// Logs the browser of these tokens out. Hydra ends the login session and keeps the tokens active.
    pub async fn logout(&self, tokens: &Tokens) {
        let browser = self.browsers.lock().unwrap().remove(&tokens.sid());
        let mut browser = browser.expect("a browser that is logged in");
        let query = encode(&[("id_token_hint", &tokens.id)]);
        let page = browser
            .get(&format!("{}/oauth2/sessions/logout?{query}", self.public))
            .await;
        let back = self.accept("logout", &page, json!({})).await;
        let end = browser.get(&back).await;
        assert!(end.ends_with("/pages/logged-out"), "{end}");
    }

    /// Accepts a request of Hydra whose challenge is in the address of a page. Returns the address to
    /// which Hydra sends the browser.
    async fn accept(&self, request: &str, page: &str, accepted: Value) -> String {
        let challenge = format!("{request}_challenge");
        let query = encode(&[(&challenge, &parameter(page, &challenge))]);
        let path = format!("/oauth2/auth/requests/{request}/accept?{query}");
        let answer = self.admin(Method::PUT, &path, Some(accepted)).await;
        answer.json["redirect_to"].as_str().unwrap().to_owned()
    }

    /// Returns an access token of the client itself.
    pub async fn client_credentials(&self, client: &Client, scope: &str) -> String {
        let fields = [("grant_type", "client_credentials"), ("scope", scope)];
        let response = self.post_as(client, "token", &fields).await;
        let token = &response.expect_success().json["access_token"];
        token.as_str().unwrap().to_owned()
    }

    pub async fn refresh(&self, client: &Client, refresh_token: &str) -> Tokens {
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ];
        let response = self.post_as(client, "token", &fields).await;
        Tokens::from_response(&response.expect_success().json)
    }

    pub async fn introspect(&self, token: &str) -> Value {
        let response = post_form(&self.introspection_endpoint(), &[("token", token)]).await;
        response.expect_success().json
    }

    /// Revokes a token according to RFC 7009.
    pub async fn revoke(&self, client: &Client, token: &str) {
        let response = self.post_as(client, "revoke", &[("token", token)]).await;
        response.expect_success();
    }

    /// Ends all login sessions of a subject, as an administrator. The tokens stay active.
    pub async fn end_login_sessions(&self, subject: &str) {
        let query = encode(&[("subject", subject)]);
        let path = format!("/oauth2/auth/sessions/login?{query}");
        self.admin(Method::DELETE, &path, None).await;
    }

    /// Revokes each consent of a subject and, with it, the tokens.
    pub async fn revoke_consents(&self, subject: &str) {
        let query = encode(&[("subject", subject), ("all", "true")]);
        let path = format!("/oauth2/auth/sessions/consent?{query}");
        self.admin(Method::DELETE, &path, None).await;
    }

    /// Calls the admin API below `/admin`. Any other status than 2xx is a failure of the test.
    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        self.try_admin(method, path, body).await.expect_success()
    }

    async fn try_admin(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let request = http().request(method, format!("{}/admin{path}", self.admin));
        send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    async fn post_as(&self, client: &Client, endpoint: &str, fields: &[(&str, &str)]) -> Response {
        let mut fields = fields.to_vec();
        fields.extend([
            ("client_id", client.id.as_str()),
            ("client_secret", client.secret.as_str()),
        ]);
        post_form(&format!("{}/oauth2/{endpoint}", self.public), &fields).await
    }
}

fn settings(public: u16, admin: u16, mark: &str) -> Value {
    // The test never opens these pages: it reads the challenge in their address.
    let page = |name: &str| format!("http://127.0.0.1:{public}/pages/{name}");
    json!({
        "dsn": "memory",
        "serve": {
            "public": { "host": "127.0.0.1", "port": public },
            "admin": { "host": "127.0.0.1", "port": admin },
        },
        "urls": {
            "self": {
                "issuer": format!("http://127.0.0.1:{public}/"),
                "public": format!("http://127.0.0.1:{public}/"),
                "admin": format!("http://127.0.0.1:{admin}/"),
            },
            "login": page("login"),
            "consent": page("consent"),
            "logout": page("logout"),
            "error": page("error"),
            "post_logout_redirect": page("logged-out"),
        },
        "webfinger": { "oidc_discovery": { "client_registration_url": mark } },
        "secrets": { "system": ["a secret of the tests"] },
    })
}
