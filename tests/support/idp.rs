//! Code shared by the tests with real identity providers: cache folder, processes, HTTP and tokens.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, redirect};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{process::Running, soon};

/// A start takes 5 seconds on an idle machine. Several servers may start at the same time while the
/// machine compiles.
pub const START_TIMEOUT: Duration = Duration::from_secs(240);

/// Pause between two requests to a server that is starting or whose token is about to expire.
pub const PAUSE: Duration = Duration::from_millis(10);

/// Where the servers send a browser after a login. The tests read the address and never open it.
pub const REDIRECT_URI: &str = "http://127.0.0.1/callback";

/// Returns where `tests/idp/fetch` has put a server, or `None` after a line that says what is skipped.
/// Panics in the hosted workflow, where no test may be skipped.
pub fn distribution(name: &str) -> Option<PathBuf> {
    let cache = env::var_os("SESSION_CACHE_IDP").map_or_else(
        || {
            let base = env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
                PathBuf::from,
            );
            base.join("tower-session-cache-idp")
        },
        PathBuf::from,
    );
    let folder = cache.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    let missing = format!(
        "{name} is not in {}; tests/idp/fetch puts it there",
        cache.display()
    );
    assert!(env::var_os("CI").is_none(), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

/// Server process and the lines that it logs. The process ends when this value is dropped.
pub struct Server {
    process: Running,
    lines: mpsc::UnboundedReceiver<String>,
    log: String,
}

impl Server {
    /// Starts a server without the settings of the environment, which might change its behavior.
    pub fn spawn(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        command
            .env_clear()
            .envs(["HOME", "PATH"].map(|name| (name, env::var_os(name).unwrap_or_default())))
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer);
        let (started, child) = std::sync::mpsc::channel();
        let (sender, lines) = mpsc::unbounded_channel();
        // Reads until the server ends. A full pipe would make the server wait. This thread also starts
        // the server, which ends with it: the thread of a test may end before other users of the server.
        std::thread::spawn(move || {
            started.send(command.spawn()).unwrap();
            // The command holds the pipe open until it is dropped.
            drop(command);
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            process: Running(child.recv().unwrap().unwrap()),
            lines,
            log: String::new(),
        }
    }

    /// Waits for a line that contains the text. Returns `None` if the server ends without it.
    pub async fn line_with(&mut self, text: &str) -> Option<String> {
        loop {
            let line = self.lines.recv().await?;
            self.log.push_str(&line);
            self.log.push('\n');
            if line.contains(text) {
                return Some(line);
            }
        }
    }

    /// Returns the lines that [`line_with`](Self::line_with) has read, for failure messages.
    pub fn log(&self) -> &str {
        &self.log
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_some()
    }
}

/// Prints the end of the log if the test fails: a response of status 500 gives no reason.
impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        while let Ok(line) = self.lines.try_recv() {
            self.log.push_str(&line);
            self.log.push('\n');
        }
        let lines = self.log.lines().collect::<Vec<_>>();
        let end = lines.len().saturating_sub(60);
        eprintln!("The last lines of the server:\n{}", lines[end..].join("\n"));
    }
}

/// The client of all tests, since each new one reads the certificates of the system. It follows no
/// redirect, so that tests can read them.
pub fn http() -> &'static Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        // An error means that another test has installed one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            // An idle connection would end with the runtime of the test that opened it.
            .pool_max_idle_per_host(0)
            .build()
            .unwrap()
    });
    &CLIENT
}

/// Response with its body as JSON, which is `null` if the body is empty or not JSON.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Response {
    /// Panics unless the status is 2xx.
    pub fn expect_success(self) -> Self {
        assert!(self.status.is_success(), "{self:?}");
        self
    }

    pub fn location(&self) -> &str {
        let location = self.headers.get(header::LOCATION);
        let location = location.unwrap_or_else(|| panic!("no redirect: {self:?}"));
        location.to_str().unwrap()
    }
}

pub async fn send(request: RequestBuilder) -> Response {
    soon("a response of an identity provider", async {
        let response = request.send().await.unwrap();
        Response {
            status: response.status(),
            headers: response.headers().clone(),
            json: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default(),
        }
    })
    .await
}

/// Browser with the cookies of one server.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    cookies: BTreeMap<String, String>,
}

impl Browser {
    /// Opens a page that sends the browser elsewhere, and returns that address.
    pub async fn get(&mut self, url: &str) -> String {
        let response = self.send(http().get(url)).await;
        let location = response.location();
        assert!(!location.contains("error="), "{location}");
        location.to_owned()
    }

    pub async fn send(&mut self, request: RequestBuilder) -> Response {
        let cookies = self.cookies.iter();
        let cookies = cookies.map(|(name, value)| format!("{name}={value}"));
        let cookies = cookies.collect::<Vec<_>>().join("; ");
        let response = send(request.header(header::COOKIE, cookies)).await;
        for cookie in response.headers.get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').unwrap();
            if value.is_empty() || attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        response
    }
}

/// Returns a query parameter of a URL, percent-decoded.
pub fn parameter(url: &str, name: &str) -> String {
    let (_, query) = url.split_once('?').unwrap();
    let mut parameters = query.split('&').map(|pair| pair.split_once('=').unwrap());
    let value = parameters.find(|(parameter, _)| *parameter == name);
    let (_, value) = value.unwrap_or_else(|| panic!("no {name} in {url}"));
    percent_decode_str(value)
        .decode_utf8()
        .unwrap()
        .into_owned()
}

/// Sends an HTML form.
pub async fn post_form(url: &str, fields: &[(&str, &str)]) -> Response {
    send(form(url, fields)).await
}

/// Returns the request of an HTML form.
pub fn form(url: &str, fields: &[(&str, &str)]) -> RequestBuilder {
    http()
        .post(url)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(encode(fields))
}

/// Encodes the fields for a form or a query.
pub fn encode(fields: &[(&str, &str)]) -> String {
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    fields.collect::<Vec<_>>().join("&")
}

/// Introspects a token until the server calls it inactive.
pub async fn until_inactive(introspect: impl AsyncFn() -> Value) {
    soon("the end of a token", async {
        while introspect().await["active"] != false {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

/// Tokens that a login returns.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub id: String,
}

impl Tokens {
    pub fn from_response(json: &Value) -> Self {
        let token = |name| {
            let token = json[name].as_str();
            token.unwrap_or_else(|| panic!("no {name}")).to_owned()
        };
        Self {
            access: token("access_token"),
            refresh: token("refresh_token"),
            id: token("id_token"),
        }
    }

    /// Returns the session ID from the ID token.
    pub fn sid(&self) -> String {
        claims(&self.id)["sid"].as_str().unwrap().to_owned()
    }

    /// Returns the subject from the ID token.
    pub fn sub(&self) -> String {
        claims(&self.id)["sub"].as_str().unwrap().to_owned()
    }
}

/// Returns the claims of a JWT without verifying its signature.
pub fn claims(jwt: &str) -> Value {
    let payload = jwt.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}
