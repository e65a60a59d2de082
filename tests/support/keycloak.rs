//! Real Keycloak servers. Tests share one, or start more of them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
};

use http::Method;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    idp::{Response, START_TIMEOUT, Server, Tokens, distribution, http, post_form, send},
    process::command,
};

/// Folder of the distribution, with the same name as in `tests/idp/fetch`.
const DISTRIBUTION: &str = "keycloak-26.7.3-3";
const ADMIN: &str = "admin";
/// Permits for concurrent servers. Each takes 0.5 GB of memory, and a processor while it starts.
/// One test needs two.
static PLACES: Semaphore = Semaphore::const_new(3);

/// Server with its own database. The process ends when this value is dropped.
pub struct Keycloak {
    url: String,
    keystore: PathBuf,
    admin_token: Mutex<String>,
    _server: Server,
    home: TempDir,
    _place: SemaphorePermit<'static>,
}

/// Confidential client that may use the password grant.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub secret: String,
    audiences: Vec<String>,
    has_service_account: bool,
    is_lightweight: bool,
    optional_scopes: Vec<&'static str>,
    attributes: Map<String, Value>,
}

/// Stream of security events of one client.
#[derive(Debug)]
pub struct Stream {
    pub audience: String,
    /// Where the client polls, if it does.
    pub endpoint: String,
}

impl Client {
    pub fn new(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            audiences: Vec::new(),
            has_service_account: false,
            is_lightweight: false,
            optional_scopes: Vec::new(),
            attributes: Map::new(),
        }
    }

    /// Adds a client to `aud` of the access tokens. To a client that is not in `aud`, Keycloak reports
    /// every token as inactive.
    pub fn audience(mut self, client_id: &str) -> Self {
        self.audiences.push(client_id.to_owned());
        self
    }

    /// Allows the client-credentials grant.
    pub fn service_account(mut self) -> Self {
        self.has_service_account = true;
        self
    }

    /// Issues access tokens without most claims. Introspection still returns the claims.
    pub fn lightweight(mut self) -> Self {
        self.is_lightweight = true;
        self
    }

    /// Allows a stream of security events, by push to this URL or by poll.
    pub fn signals(mut self, push_url: &str) -> Self {
        self.optional_scopes = vec!["ssf.read", "ssf.manage"];
        self.service_account()
            .attribute("ssf.enabled", "true")
            .attribute("ssf.validPushUrls", push_url)
    }

    /// Sets an attribute, such as `backchannel.logout.url`.
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.to_owned(), json!(value));
        self
    }

    fn representation(&self) -> Value {
        let mapper = |audience: &String| {
            json!({
                "name": format!("audience {audience}"),
                "protocol": "openid-connect",
                "protocolMapper": "oidc-audience-mapper",
                "config": {
                    "included.custom.audience": audience,
                    "access.token.claim": "true",
                    "introspection.token.claim": "true",
                    "lightweight.claim": "true",
                },
            })
        };
        let mut attributes = self.attributes.clone();
        attributes.insert(
            "client.use.lightweight.access.token.enabled".to_owned(),
            json!(self.is_lightweight.to_string()),
        );
        let mut client = json!({
            "clientId": self.id,
            "secret": self.secret,
            "publicClient": false,
            "directAccessGrantsEnabled": true,
            "standardFlowEnabled": true,
            "redirectUris": ["http://127.0.0.1/callback"],
            "serviceAccountsEnabled": self.has_service_account,
            "attributes": attributes,
            "protocolMappers": self.audiences.iter().map(mapper).collect::<Vec<_>>(),
        });
        // Otherwise Keycloak would add its usual scopes.
        if !self.optional_scopes.is_empty() {
            client["optionalClientScopes"] = json!(self.optional_scopes);
        }
        client
    }
}

/// User with a password and everything else that a login requires.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    pub name: &'a str,
    pub password: &'a str,
    pub email: &'a str,
    pub is_email_verified: bool,
}

impl Keycloak {
    /// Returns the server of all tests that run now, since a start takes seconds. Each test uses a
    /// separate realm. Returns `None` if Keycloak has not been fetched.
    pub async fn shared() -> Option<Arc<Self>> {
        static SHARED: tokio::sync::Mutex<Weak<Keycloak>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    /// Starts another server. Returns `None` if Keycloak has not been fetched.
    pub async fn start() -> Option<Self> {
        let distribution = distribution(DISTRIBUTION)?;
        let place = PLACES.acquire().await.unwrap();
        // A server writes into its home folder. The links keep the distribution unchanged.
        let home = tempfile::tempdir().unwrap();
        for part in ["conf", "lib", "providers", "themes"] {
            symlink(distribution.join(part), home.path().join(part)).unwrap();
        }
        let database = "data/h2/keycloakdb.mv.db";
        fs::create_dir_all(home.path().join("data/h2")).unwrap();
        fs::copy(distribution.join(database), home.path().join(database)).unwrap();
        // Starts Java directly. If `bin/kc.sh` were killed, its Java process would keep running.
        let mut java = command("java");
        java.current_dir(home.path())
            .arg("-XX:SharedArchiveFile=lib/classes.jsa")
            .arg(format!("-Djava.io.tmpdir={}", home.path().display()))
            .arg(format!("@{}", distribution.join("java.options").display()))
            .arg("io.quarkus.bootstrap.runner.QuarkusEntryPoint")
            // `start-dev` rejects `--optimized`. Without a local cache, `start` would look for
            // other nodes of a cluster in the network.
            .args(["start", "--optimized", "--cache=local"])
            // Keycloak picks a free port and logs it. The issuer follows the address of a request.
            .args(["--http-host=127.0.0.1", "--http-port=0"])
            .args(["--http-enabled=true", "--hostname-strict=false"])
            // Pushes security events to a test, and every 250 ms instead of every 30 s.
            .args([
                "--spi-ssf-transmitter--default--allow-insecure-push-targets=true",
                "--spi-ssf-transmitter--default--outbox-drainer-interval=250ms",
            ]);
        let mut server = Server::spawn(java);
        let ready = "Listening on: ";
        let line = tokio::time::timeout(START_TIMEOUT, server.line_with(ready)).await;
        let Ok(Some(line)) = line else {
            panic!("Keycloak does not start:\n{}", server.log());
        };
        let (_, url) = line.split_once(ready).unwrap();
        Some(Self {
            url: url.trim_end_matches('.').to_owned(),
            keystore: distribution.join("data/realm.p12"),
            admin_token: Mutex::default(),
            _server: server,
            home,
            _place: place,
        })
    }

    pub fn issuer(&self, realm: &str) -> String {
        format!("{}/realms/{realm}", self.url)
    }

    pub fn introspection_endpoint(&self, realm: &str) -> String {
        self.endpoint(realm, "token/introspect")
    }

    fn endpoint(&self, realm: &str, name: &str) -> String {
        format!("{}/protocol/openid-connect/{name}", self.issuer(realm))
    }

    /// Creates a realm that signs tokens with RS256. All realms have the same key.
    pub async fn create_realm(&self, realm: &str) {
        // Keycloak reads keys of a realm from this folder only, and compares the path as it is given.
        let folder = format!("data/{realm}");
        let keystore = format!("{folder}/realm.p12");
        fs::create_dir(self.home.path().join(folder)).unwrap();
        fs::copy(&self.keystore, self.home.path().join(&keystore)).unwrap();
        // Without a key provider, Keycloak would generate two RSA keys, which takes seconds.
        let key = json!({
            "name": "rsa",
            "providerId": "java-keystore",
            "config": {
                "keystore": [keystore],
                "keystoreType": ["PKCS12"],
                "keystorePassword": ["password"],
                "keyAlias": ["realm"],
                "keyPassword": ["password"],
                "algorithm": ["RS256"],
            },
        });
        let generated = |provider: &str, algorithm: &str| {
            json!({
                "name": provider,
                "providerId": provider,
                "config": { "algorithm": [algorithm] },
            })
        };
        // A realm with one key provider gets no others. Refresh tokens take HS512.
        let providers = [
            key,
            generated("hmac-generated", "HS512"),
            generated("aes-generated", "AES"),
        ];
        let realm = json!({
            "realm": realm,
            "enabled": true,
            "components": { "org.keycloak.keys.KeyProvider": providers },
        });
        self.admin(Method::POST, "", Some(realm)).await;
    }

    pub async fn create_client(&self, realm: &str, client: &Client) {
        let path = format!("/{realm}/clients");
        self.admin(Method::POST, &path, Some(client.representation()))
            .await;
    }

    /// Returns the ID, which is `sub` of the user's tokens.
    pub async fn create_user(&self, realm: &str, user: User<'_>) -> String {
        let representation = json!({
            "username": user.name,
            "email": user.email,
            "emailVerified": user.is_email_verified,
            // A user without a full name would have to complete it before the first login.
            "firstName": user.name,
            "lastName": "Test",
            "enabled": true,
            "credentials": [{ "type": "password", "value": user.password, "temporary": false }],
        });
        let path = format!("/{realm}/users");
        let created = self.admin(Method::POST, &path, Some(representation)).await;
        let (_, id) = created.location().rsplit_once('/').unwrap();
        id.to_owned()
    }

    /// Logs in with the password grant. Each login creates a separate session.
    pub async fn login(&self, realm: &str, client: &Client, user: &str, password: &str) -> Tokens {
        let response = self.try_login(realm, client, user, password).await;
        Tokens::from_response(&response.expect_success().json)
    }

    /// Like [`login`](Self::login), with an offline token as the refresh token.
    pub async fn login_offline(
        &self,
        realm: &str,
        client: &Client,
        user: &str,
        password: &str,
    ) -> Tokens {
        let scope = "openid offline_access";
        let response = self.password_grant(realm, client, user, password, scope);
        Tokens::from_response(&response.await.expect_success().json)
    }

    /// Returns the response unchanged, for users that must be rejected.
    pub async fn try_login(
        &self,
        realm: &str,
        client: &Client,
        user: &str,
        password: &str,
    ) -> Response {
        self.password_grant(realm, client, user, password, "openid")
            .await
    }

    async fn password_grant(
        &self,
        realm: &str,
        client: &Client,
        user: &str,
        password: &str,
        scope: &str,
    ) -> Response {
        let fields = [
            ("grant_type", "password"),
            ("scope", scope),
            ("username", user),
            ("password", password),
        ];
        self.post_as(realm, client, "token", &fields).await
    }

    /// Returns the access token of the client's service account.
    pub async fn client_credentials(&self, realm: &str, client: &Client) -> String {
        let fields = [("grant_type", "client_credentials")];
        let response = self.post_as(realm, client, "token", &fields).await;
        let token = &response.expect_success().json["access_token"];
        token.as_str().unwrap().to_owned()
    }

    pub async fn refresh(&self, realm: &str, client: &Client, refresh_token: &str) -> Tokens {
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ];
        let response = self.post_as(realm, client, "token", &fields).await;
        Tokens::from_response(&response.expect_success().json)
    }

    /// Introspects a token as the client. A wrong secret is a failure of the test.
    pub async fn introspect(&self, realm: &str, client: &Client, token: &str) -> Value {
        let response = self.try_introspect(realm, client, token).await;
        response.expect_success().json
    }

    /// Returns the response unchanged, for clients that must be rejected.
    pub async fn try_introspect(&self, realm: &str, client: &Client, token: &str) -> Response {
        let fields = [("token", token)];
        self.post_as(realm, client, "token/introspect", &fields)
            .await
    }

    /// Revokes a token according to RFC 7009. A refresh token ends its session.
    pub async fn revoke(&self, realm: &str, client: &Client, token: &str) {
        let fields = [("token", token)];
        let response = self.post_as(realm, client, "revoke", &fields).await;
        response.expect_success();
    }

    /// Ends the session of a refresh token, as an application does when its user logs out.
    pub async fn logout(&self, realm: &str, client: &Client, refresh_token: &str) {
        let fields = [("refresh_token", refresh_token)];
        let response = self.post_as(realm, client, "logout", &fields).await;
        response.expect_success();
    }

    /// Ends all sessions of a user, as an administrator.
    pub async fn log_out_user(&self, realm: &str, user_id: &str) {
        let path = format!("/{realm}/users/{user_id}/logout");
        self.admin(Method::POST, &path, None).await;
    }

    /// Ends one session, as an administrator.
    pub async fn end_session(&self, realm: &str, sid: &str) {
        let path = format!("/{realm}/sessions/{sid}");
        self.admin(Method::DELETE, &path, None).await;
    }

    /// Ends all sessions of the realm, as an administrator.
    pub async fn end_all_sessions(&self, realm: &str) {
        let path = format!("/{realm}/logout-all");
        self.admin(Method::POST, &path, None).await;
    }

    pub async fn disable_user(&self, realm: &str, user_id: &str) {
        self.set_enabled(realm, user_id, false).await;
    }

    pub async fn enable_user(&self, realm: &str, user_id: &str) {
        self.set_enabled(realm, user_id, true).await;
    }

    async fn set_enabled(&self, realm: &str, user_id: &str, is_enabled: bool) {
        let path = format!("/{realm}/users/{user_id}");
        let mut user = self.admin(Method::GET, &path, None).await.json;
        user["enabled"] = json!(is_enabled);
        self.admin(Method::PUT, &path, Some(user)).await;
    }

    /// Sets another password, as an administrator. It ends no session.
    pub async fn reset_password(&self, realm: &str, user_id: &str, password: &str) {
        let path = format!("/{realm}/users/{user_id}/reset-password");
        let password = json!({ "type": "password", "value": password, "temporary": false });
        self.admin(Method::PUT, &path, Some(password)).await;
    }

    /// Makes the realm a transmitter of security events.
    pub async fn enable_signals(&self, realm: &str) {
        let path = format!("/{realm}");
        let mut settings = self.admin(Method::GET, &path, None).await.json;
        settings["attributes"]["ssf.transmitterEnabled"] = json!("true");
        self.admin(Method::PUT, &path, Some(settings)).await;
    }

    /// Returns an access token for the streams of the client.
    pub async fn signals_token(&self, realm: &str, client: &Client) -> String {
        let fields = [
            ("grant_type", "client_credentials"),
            ("scope", "ssf.read ssf.manage"),
        ];
        let response = self.post_as(realm, client, "token", &fields).await;
        let token = &response.expect_success().json["access_token"];
        token.as_str().unwrap().to_owned()
    }

    /// Creates the stream of a client, with events about this user. The method and its settings are
    /// those of the Shared Signals Framework.
    pub async fn create_stream(
        &self,
        realm: &str,
        client: &Client,
        delivery: Value,
        user_id: &str,
    ) -> Stream {
        let token = self.signals_token(realm, client).await;
        let post = async |url: &Value, body: Value| {
            let request = http().post(url.as_str().unwrap()).bearer_auth(&token);
            send(request.json(&body)).await.expect_success().json
        };
        let metadata = format!("{}/.well-known/ssf-configuration", self.issuer(realm));
        let metadata = send(http().get(metadata)).await.expect_success().json;
        let prefix = "https://schemas.openid.net/secevent/caep/event-type";
        let events = ["session-revoked", "credential-change"];
        let stream = json!({
            "delivery": delivery,
            "events_requested": events.map(|event| format!("{prefix}/{event}")),
        });
        let stream = post(&metadata["configuration_endpoint"], stream).await;
        let user = json!({ "format": "iss_sub", "iss": self.issuer(realm), "sub": user_id });
        let subject = json!({ "stream_id": stream["stream_id"], "subject": user });
        post(&metadata["add_subject_endpoint"], subject).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Stream {
            audience: text(&stream["aud"][0]),
            endpoint: text(&stream["delivery"]["endpoint_url"]),
        }
    }

    pub async fn delete_user(&self, realm: &str, user_id: &str) {
        let path = format!("/{realm}/users/{user_id}");
        self.admin(Method::DELETE, &path, None).await;
    }

    /// Calls the admin REST API below `/admin/realms`. Any other status than 2xx is a failure of the
    /// test.
    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let url = format!("{}/admin/realms{path}", self.url);
        let call = async |token: &str| {
            let request = http().request(method.clone(), &url).bearer_auth(token);
            send(match &body {
                Some(body) => request.json(body),
                None => request,
            })
            .await
        };
        let token = self.admin_token.lock().unwrap().clone();
        let response = call(&token).await;
        // The token of an administrator expires after a minute.
        if response.status != 401 {
            return response.expect_success();
        }
        let fields = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", ADMIN),
            ("password", ADMIN),
        ];
        let login = post_form(&self.endpoint("master", "token"), &fields).await;
        let login = login.expect_success().json;
        let token = login["access_token"].as_str().unwrap();
        token.clone_into(&mut self.admin_token.lock().unwrap());
        call(token).await.expect_success()
    }

    async fn post_as(
        &self,
        realm: &str,
        client: &Client,
        endpoint: &str,
        fields: &[(&str, &str)],
    ) -> Response {
        let mut fields = fields.to_vec();
        fields.extend([
            ("client_id", client.id.as_str()),
            ("client_secret", client.secret.as_str()),
        ]);
        post_form(&self.endpoint(realm, endpoint), &fields).await
    }
}
