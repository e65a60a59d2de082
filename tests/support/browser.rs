//! A headless Chromium, driven by the WebDriver protocol: a few JSON calls.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    client::http,
    process::{Running, command},
    soon,
};

pub struct Browser {
    session: String,
    port: u16,
    client: reqwest::Client,
    _profile: TempDir,
    _driver: Running,
}

/// Returns the path of the first program with one of these names, which differ between Debian,
/// Fedora, Alpine, Arch and Homebrew.
fn installed(names: &[&'static str]) -> Option<String> {
    let folders = std::env::var_os("PATH")?;
    let mut paths = std::env::split_paths(&folders)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    Some(paths.find(|path| path.is_file())?.to_str()?.to_owned())
}

impl Browser {
    /// Returns `None` if Chromium or its driver is not installed. In the hosted
    /// workflow, which must install both, it panics instead.
    pub async fn start() -> Option<Self> {
        let driver = installed(&["chromedriver"]);
        let chromium = installed(&["chromium", "chromium-browser", "google-chrome"]);
        let (Some(driver), Some(chromium)) = (driver, chromium) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "no chromium and chromedriver, which the workflow has to install"
            );
            return None;
        };
        let mut driver = command(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map(Running)
            .unwrap();
        let lines = BufReader::new(driver.0.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.rsplit_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            session: String::new(),
            port: port.expect("chromedriver to say where it listens"),
            client: http(),
            _driver: driver,
            _profile: profile,
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let options = json!({ "binary": chromium, "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--window-size=900,640", profile,
        ]});
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let session = browser.call("", wanted).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        let base = format!("http://127.0.0.1:{}/session", self.port);
        let url = if path.is_empty() {
            base
        } else {
            format!("{base}/{}/{path}", self.session)
        };
        let call = self.client.post(url).json(&body).send();
        let answer = soon("the browser", call).await.unwrap();
        let status = answer.status();
        let mut answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path} {body}: {answer}");
        answer["value"].take()
    }

    pub async fn open(&self, url: &str) {
        self.call("url", json!({ "url": url })).await;
    }

    /// Opens a tab and makes it the current one.
    pub async fn open_tab(&self, url: &str) -> String {
        let tab = self.call("window/new", json!({ "type": "tab" })).await;
        let tab = tab["handle"].as_str().unwrap().to_owned();
        self.look_at(&tab).await;
        self.open(url).await;
        tab
    }

    pub async fn look_at(&self, tab: &str) {
        self.call("window", json!({ "handle": tab })).await;
    }

    pub async fn run(&self, script: &str) -> Value {
        self.call("execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// Clicks like a user, so that the call fails if the element is covered or disabled.
    pub async fn click(&self, id: &str) {
        let found = json!({ "using": "css selector", "value": format!("#{id}") });
        let element = self.call("element", found).await;
        let element = element.as_object().unwrap().values().next().unwrap();
        let element = element.as_str().unwrap();
        self.call(&format!("element/{element}/click"), json!({}))
            .await;
    }

    /// Waits until the script returns `true`.
    pub async fn until(&self, what: &str, script: &str) {
        soon(what, async {
            while self.run(&format!("return {script}")).await != json!(true) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Returns the messages of the page's console, such as violations of its policy.
    pub async fn complaints(&self) -> Value {
        self.call("se/log", json!({ "type": "browser" })).await
    }

    /// Returns a screenshot as a PNG in base64.
    pub async fn screenshot(&self) -> String {
        let base = format!("http://127.0.0.1:{}/session/{}", self.port, self.session);
        let call = self.client.get(format!("{base}/screenshot")).send();
        let answer = soon("a picture", call).await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["value"].as_str().unwrap().to_owned()
    }
}

/// Ends the session, because Chromium is a child of the driver and only the driver can end it.
impl Drop for Browser {
    fn drop(&mut self) {
        let Ok(mut driver) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return;
        };
        let _ = driver.set_read_timeout(Some(Duration::from_secs(10)));
        let request = format!(
            "DELETE /session/{} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n",
            self.session, self.port
        );
        let _ = driver.write_all(request.as_bytes());
        let _ = driver.read(&mut [0; 64]);
    }
}
