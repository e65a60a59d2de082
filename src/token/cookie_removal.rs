//! `Set-Cookie` lines that delete all cookies of one name ([RFC 6265, section 5.3]).
//!
//! [RFC 6265, section 5.3]: https://www.rfc-editor.org/rfc/rfc6265#section-5.3

use http::HeaderValue;

/// Proxies limit the headers of a response, nginx to 4 KiB on some platforms. A line takes about 70
/// bytes.
const MAX_LINES: usize = 32;

/// Maximum number of parents of a host, from the shortest, that may have set the cookie.
const MAX_PARENTS: usize = 4;

/// Deletes the cookies of one name that a browser may have from other paths and domains.
///
/// A browser deletes a cookie only if path and domain are those with which it was set, and it sends
/// neither to the server. [`set_cookie_lines`](Self::set_cookie_lines) therefore returns one line
/// for each path and domain whose cookie the browser would send with the request.
///
/// Use it if [`SessionInfo::rejected_tokens`](crate::SessionInfo::rejected_tokens) is not 0, and at
/// each login and logout.
///
/// ```
/// use http::{HeaderMap, header};
/// use tower_session_cache::{CookieRemoval, SessionInfo};
///
/// fn remove_stale_cookies(session: &SessionInfo, path: &str, response: &mut HeaderMap) {
///     if session.rejected_tokens() > 0 {
///         // The service sets its own cookie with `Path=/` and without `Domain`.
///         let removal = CookieRemoval::new("session").keep(None, "/");
///         for line in removal.set_cookie_lines("app.example.com", path) {
///             response.append(header::SET_COOKIE, line);
///         }
///     }
/// }
///
/// let removal = CookieRemoval::new("session").keep(None, "/");
/// assert_eq!(removal.set_cookie_lines("example.com", "/api"), [
///     "session=; Max-Age=0; Path=/; Domain=example.com",
///     "session=; Max-Age=0; Path=/api",
///     "session=; Max-Age=0; Path=/api; Domain=example.com",
/// ]);
/// # let _ = remove_stale_cookies;
/// ```
///
/// # Limitations
///
/// Partitioned cookies (the attribute `Partitioned`) are not deleted.
#[derive(Clone, Debug)]
pub struct CookieRemoval {
    name: String,
    kept: Option<Place>,
}

/// Where a cookie belongs. Without a domain only the host that set it receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    domain: Option<String>,
    path: String,
}

impl CookieRemoval {
    /// Creates a value for the cookies with this case-sensitive name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kept: None,
        }
    }

    /// Keeps the cookie with this `Domain`, or without one, and this `Path`. These are the
    /// attributes with which the service itself sets the cookie. Defaults to deleting all.
    #[must_use]
    pub fn keep(mut self, domain: Option<&str>, path: &str) -> Self {
        self.kept = Some(Place {
            domain: domain.map(|name| name.trim_start_matches('.').to_ascii_lowercase()),
            path: path.to_owned(),
        });
        self
    }

    /// Returns the values of the `Set-Cookie` headers that delete the cookies which a browser sends
    /// with a request for this host and path, the shortest paths first.
    ///
    /// `host` and `path` are those that the browser sees, so with a proxy in between they may
    /// differ from those of the request. A port and a query are ignored. A value that the client
    /// has chosen is safe: lines for other domains have no effect, and characters that are no part
    /// of a domain or a path are left out of the lines.
    ///
    /// There are at most 32 lines. Those for the longest paths are left out if there are more than 5
    /// path segments for a host with one parent domain, or than 4 with two.
    #[must_use]
    pub fn set_cookie_lines(&self, host: &str, path: &str) -> Vec<HeaderValue> {
        let (is_host_only, is_secure) = (self.has_prefix("__Host-"), self.has_prefix("__Secure-"));
        // A browser accepts `__Host-` only with this path and without a domain.
        let (domains, paths) = match is_host_only {
            true => (vec![None], vec!["/"]),
            false => (domains(host), paths(path)),
        };
        let secure = match is_host_only || is_secure {
            true => "; Secure",
            false => "",
        };
        let places = paths.into_iter().flat_map(|path| {
            let domains = domains.iter().cloned();
            domains.map(move |domain| Place {
                domain,
                path: path.to_owned(),
            })
        });
        let places = places.filter(|place| self.kept.as_ref() != Some(place));
        let lines = places.take(MAX_LINES).map(|Place { domain, path }| {
            let domain = domain.map_or_else(String::new, |name| format!("; Domain={name}"));
            format!("{}=; Max-Age=0; Path={path}{domain}{secure}", self.name)
        });
        // A name that is not the name of a cookie has no lines.
        lines.filter_map(|line| line.try_into().ok()).collect()
    }

    /// Browsers ignore the case of a prefix.
    fn has_prefix(&self, prefix: &str) -> bool {
        let start = self.name.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    }
}

/// Returns no domain, the host, and its parents, apart from those with one label. A browser ignores
/// lines for a public suffix such as `co.uk`.
fn domains(host: &str) -> Vec<Option<String>> {
    let name = host.split(':').next().unwrap_or_default();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_domain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // An address has no domain, and no top-level domain is a number.
    let is_address = name.ends_with(|last: char| last.is_ascii_digit());
    if name.is_empty() || is_address || !name.bytes().all(is_domain) {
        return vec![None];
    }
    let dots = name.rmatch_indices('.').map(|(at, _)| at);
    let parents = dots.skip(1).take(MAX_PARENTS).map(|at| &name[at + 1..]);
    let mut found = vec![None, Some(name.clone())];
    found.extend(parents.map(|parent| Some(parent.to_owned())));
    found
}

/// Returns the paths whose cookies are sent with a request for this path ([RFC 6265, section
/// 5.1.4]): each of its directories with and without a slash at the end, and the path itself.
///
/// [RFC 6265, section 5.1.4]: https://www.rfc-editor.org/rfc/rfc6265#section-5.1.4
fn paths(path: &str) -> Vec<&str> {
    // An attribute's value ends at a semicolon, and a query is no part of the path.
    let is_end = |letter: char| !letter.is_ascii_graphic() || ";?#".contains(letter);
    let end = path.find(is_end).unwrap_or(path.len());
    let path = &path[..end];
    let mut found = vec!["/"];
    for (at, _) in path.match_indices('/').skip(1).take(MAX_LINES) {
        found.extend([&path[..at], &path[..=at]]);
    }
    if path.starts_with('/') && !path.ends_with('/') {
        found.push(path);
    }
    if !path.starts_with('/') {
        found.truncate(1);
    }
    found
}
