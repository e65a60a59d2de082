//! Deletion of cookies, by a model of a browser's cookie jar and by a real browser.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::net::TcpListener;
use tower_session_cache::CookieRemoval;

use crate::support::browser::Browser;

/// Cookies by name, domain, whether the domain was given, and path, as in RFC 6265bis, section 5.7.
#[derive(Clone, Default)]
struct Jar(BTreeMap<(String, String, bool, String), String>);

impl Jar {
    fn set(&mut self, host: &str, line: &str) {
        let mut parts = line.split("; ");
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let (mut domain, mut path, mut is_expired) = (None, "/", false);
        for attribute in parts {
            match attribute.split_once('=') {
                Some(("Domain", value)) => domain = Some(value),
                Some(("Path", value)) => path = value,
                Some(("Max-Age", value)) => is_expired = value == "0",
                _ => {}
            }
        }
        if !matches(host, domain.unwrap_or(host), domain.is_some()) {
            return;
        }
        let is_domain = domain.is_some();
        let domain = domain.unwrap_or(host).to_owned();
        let key = (name.to_owned(), domain, is_domain, path.to_owned());
        if is_expired {
            self.0.remove(&key);
        } else {
            self.0.insert(key, value.to_owned());
        }
    }

    fn sent(&self, host: &str, path: &str) -> Vec<&str> {
        let cookies = self.0.iter().filter(|((_, domain, is_domain, prefix), _)| {
            let rest = path.strip_prefix(prefix.as_str());
            let is_below = rest.is_some_and(|rest| {
                rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')
            });
            matches(host, domain, *is_domain) && is_below
        });
        cookies.map(|(_, value)| value.as_str()).collect()
    }
}

fn matches(host: &str, domain: &str, is_domain: bool) -> bool {
    let parent = host.strip_suffix(domain);
    host == domain || is_domain && parent.is_some_and(|rest| rest.ends_with('.'))
}

fn lines(removal: &CookieRemoval, host: &str, path: &str) -> Vec<String> {
    let lines = removal.set_cookie_lines(host, path).into_iter();
    lines
        .map(|line| line.to_str().unwrap().to_owned())
        .collect()
}

proptest! {
    #[test]
    fn removal_deletes_every_cookie_that_would_be_sent_but_the_kept_one(
        path in "(/[a-c]{1,2}){0,4}/?",
        cookies in prop::collection::vec(
            ("(|app[.]example[.]com|example[.]com)", "(/[a-c]{1,2}){0,4}/?"), 0..20,
        ),
        depths in prop::collection::vec(0usize..9, 0..20),
    ) {
        const HOST: &str = "app.example.com";
        let path = if path.is_empty() { "/" } else { &path };
        let mut jar = Jar::default();
        let ends: Vec<_> = (1..=path.len()).filter(|end| path.is_char_boundary(*end)).collect();
        let prefixes = depths.iter().map(|depth| path[..ends[depth % ends.len()]].to_owned());
        let places = cookies.into_iter();
        let places = places.chain(prefixes.map(|prefix| ("example.com".to_owned(), prefix)));
        for (domain, prefix) in places.filter(|(_, prefix)| !prefix.is_empty()) {
            let domain = if domain.is_empty() { String::new() } else { format!("; Domain={domain}") };
            jar.set(HOST, &format!("s=stale; Path={prefix}{domain}"));
        }
        let others = jar.0.len() - jar.sent(HOST, path).len();
        jar.set(HOST, "s=own; Path=/");
        jar.set(HOST, "t=other; Path=/");
        let removal = CookieRemoval::new("s").keep(None, "/");
        for line in lines(&removal, "App.Example.com:8443", path) {
            jar.set(HOST, &line);
        }
        prop_assert_eq!(jar.sent(HOST, path), ["own", "other"]);
        prop_assert_eq!(jar.0.len(), others + 2, "cookies that are not sent stay");
    }

    #[test]
    fn removal_lines_are_bounded_and_well_formed(host in ".{0,300}", path in "/?.{0,300}") {
        let found = CookieRemoval::new("s").set_cookie_lines(&host, &path);
        prop_assert!((1..=32).contains(&found.len()));
        for line in found {
            let line = line.to_str().unwrap();
            let attributes: Vec<_> = line.split("; ").map(|part| part.split('=').next().unwrap()).collect();
            let wanted = ["s", "Max-Age", "Path", "Domain"];
            prop_assert!(attributes == wanted[..3] || attributes == wanted, "{}", line);
            prop_assert_eq!(line.matches(';').count(), attributes.len() - 1);
        }
    }
}

#[test]
fn removal_depends_on_prefix_host_and_kept_cookie() {
    let of = |name: &str, host: &str, path: &str| lines(&CookieRemoval::new(name), host, path);
    assert_eq!(
        of("__Host-s", "a.example.com", "/a"),
        ["__Host-s=; Max-Age=0; Path=/; Secure"]
    );
    assert_eq!(
        of("__secure-s", "[::1]:80", "/"),
        ["__secure-s=; Max-Age=0; Path=/; Secure"]
    );
    assert_eq!(of("s", "127.0.0.1:3000", "*"), ["s=; Max-Age=0; Path=/"]);
    assert_eq!(
        of("s", "localhost:3000", "/?a=/b"),
        [
            "s=; Max-Age=0; Path=/",
            "s=; Max-Age=0; Path=/; Domain=localhost"
        ]
    );
    assert!(of("two\nlines", "localhost", "/").is_empty());
    let removal = CookieRemoval::new("s").keep(Some(".Example.com"), "/a");
    assert_eq!(
        lines(&removal, "example.com.", "/a/;b"),
        [
            "s=; Max-Age=0; Path=/",
            "s=; Max-Age=0; Path=/; Domain=example.com",
            "s=; Max-Age=0; Path=/a",
            "s=; Max-Age=0; Path=/a/",
            "s=; Max-Age=0; Path=/a/; Domain=example.com",
        ]
    );
}

/// Returns the cookies of each request, and sets the lines of `set` if the query is `set`.
async fn serve(set: Arc<Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let set = Arc::clone(&set);
            let service = service_fn(move |request: Request<Incoming>| {
                let cookies = request.headers().get_all(header::COOKIE).iter();
                let cookies: Vec<_> = cookies.map(HeaderValue::as_bytes).collect();
                let mut response = Response::new(Full::<Bytes>::from(cookies.join(&b';')));
                if request.uri().query() == Some("set") {
                    for line in &*set.lock().unwrap() {
                        let line = HeaderValue::try_from(line).unwrap();
                        response.headers_mut().append(header::SET_COOKIE, line);
                    }
                }
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let server = http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

#[tokio::test]
async fn browser_sends_longer_paths_first_and_deletes_stale_cookies() {
    let Some(browser) = Browser::start().await else {
        eprintln!("SKIPPED: no cookie is deleted because chromium or chromedriver is missing");
        return;
    };
    const HOST: &str = "app.example.localhost";
    let set = Arc::new(Mutex::new(Vec::new()));
    let port = serve(Arc::clone(&set)).await;
    let url = format!("http://{HOST}:{port}/api/v1/me");
    let cookies = async || {
        browser.open(&url).await;
        browser.run("return document.body.textContent").await
    };
    let change = async |lines: Vec<String>| {
        *set.lock().unwrap() = lines;
        browser.open(&format!("{url}?set")).await;
    };
    let lines_of = |places: &[(&str, &str)]| -> Vec<String> {
        let lines = places.iter();
        let lines = lines.map(|(value, rest)| format!("s={value}; HttpOnly; {rest}"));
        lines.collect()
    };
    change(lines_of(&[
        ("own", "Path=/"),
        ("parent", "Path=/; Domain=example.localhost"),
        ("default", "SameSite=Lax"),
        ("slash", "Path=/api/; SameSite=Strict"),
        ("domain", "Path=/api; Domain=app.example.localhost"),
        ("whole", "Path=/api/v1/me"),
    ]))
    .await;
    assert_eq!(
        cookies().await,
        "s=whole; s=default; s=slash; s=domain; s=own; s=parent"
    );
    let removal = CookieRemoval::new("s").keep(None, "/");
    change(lines(&removal, HOST, "/api/v1/me")).await;
    assert_eq!(cookies().await, "s=own");
    change(lines(&CookieRemoval::new("s"), HOST, "/api/v1/me")).await;
    assert_eq!(cookies().await, "");
}
