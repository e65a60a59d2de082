//! URL of a Redis server, parsed and checked once.

use std::{fmt, sync::Arc, time::Duration};

use bb8_redis::redis::{
    ConnectionAddr, IntoConnectionInfo,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
    parse_redis_url,
};

use super::connect::Server;

/// Default port of sentinels.
const SENTINEL_PORT: u16 = 26379;

/// Time without traffic after which the kernel probes a connection, the interval of the probes, and
/// the number of unanswered ones that end it. Load balancers drop connections that have been idle
/// for minutes.
const PROBED_AFTER: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// Why the URL of a Redis server is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UrlFault {
    NotUnderstood,
    /// The URL asks for TLS, which is not built in.
    NoTls,
    /// The URL asks for TLS without verification of the certificate.
    Insecure,
}

/// Parsed URL of a Redis server.
#[derive(Clone)]
pub(crate) struct ServerUrl {
    server: Server,
    names_database: bool,
    names_port: bool,
}

impl ServerUrl {
    /// Parses a URL. Neither the value nor the error shows it.
    pub(crate) fn parse(url: &str) -> Result<Self, UrlFault> {
        let mut parsed = parse_redis_url(url).ok_or(UrlFault::NotUnderstood)?;
        let is_unix = matches!(parsed.scheme(), "unix" | "redis+unix" | "valkey+unix");
        let has_tls = matches!(parsed.scheme(), "rediss" | "valkeys");
        if has_tls {
            if cfg!(not(feature = "tls")) {
                return Err(UrlFault::NoTls);
            }
            if parsed.fragment().is_some() {
                return Err(UrlFault::Insecure);
            }
            // redis-rs parses the URL without its own TLS feature.
            let plain = parsed.set_scheme("redis");
            plain.map_err(|()| UrlFault::NotUnderstood)?;
        }
        let names_database = if is_unix {
            parsed.query_pairs().any(|(name, _)| name == "db")
        } else {
            !matches!(parsed.path(), "" | "/")
        };
        let names_port = parsed.port().is_some();
        let info = parsed.into_connection_info();
        let info = info.map_err(|_| UrlFault::NotUnderstood)?;
        // redis-rs would set its name for `CLIENT LIST`, which requires one more permission.
        let redis = info.redis_settings().clone().set_skip_set_lib_name();
        let tcp = tcp(info.tcp_settings().clone());
        let info = info.set_redis_settings(redis).set_tcp_settings(tcp);
        let info = match info.addr().clone() {
            ConnectionAddr::Tcp(host, port) if has_tls => info.set_addr(ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }),
            _ => info,
        };
        Ok(Self {
            server: Server::new(info),
            names_database,
            names_port,
        })
    }

    /// Returns a server without user, password and TLS. Its address is replaced by a reported one.
    pub(crate) fn plain() -> Result<Self, UrlFault> {
        Self::parse("redis://primary")
    }

    /// Returns the settings of a connection to a server. `database` is used if the URL names none.
    pub(crate) fn server(&self, database: u16) -> Server {
        let server = self.server.clone();
        if self.names_database {
            return server;
        }
        let redis = server.redis_settings().clone().set_db(database.into());
        server.map(|info| info.set_redis_settings(redis))
    }

    /// Returns the settings of a connection to a sentinel, which has another default port.
    pub(crate) fn sentinel(&self) -> Server {
        match self.server.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }
                if !self.names_port =>
            {
                at(&self.server, &AddressMap::default(), host, SENTINEL_PORT)
            }
            _ => self.server.clone(),
        }
    }

    /// Returns the settings of a connection to a node of a cluster, which has one database and a
    /// port.
    pub(crate) fn node(&self) -> Result<Server, NodeFault> {
        match self.server.addr() {
            ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } => {}
            _ => return Err(NodeFault::Url(UrlFault::NotUnderstood)),
        }
        if self.server.redis_settings().db() != 0 {
            return Err(NodeFault::NamesDatabase);
        }
        Ok(self.server.clone())
    }

    #[cfg(feature = "tls")]
    pub(crate) fn server_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// Shows the address only.
impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

/// Returns the options of a socket: no delay, and an end for a connection whose peer is gone.
fn tcp(settings: TcpSettings) -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(PROBED_AFTER);
    #[cfg(any(
        target_os = "android",
        target_os = "freebsd",
        target_os = "ios",
        target_os = "linux",
        target_os = "macos",
        target_os = "netbsd",
    ))]
    let keepalive = keepalive.with_interval(PROBE_INTERVAL).with_retries(PROBES);
    let settings = settings.set_nodelay(true).set_keepalive(keepalive);
    // The same for data that is not acknowledged, for which the kernel sends no probes.
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(PROBED_AFTER + PROBE_INTERVAL * PROBES);
    settings
}

/// Why a URL is rejected as that of a cluster node.
pub(crate) enum NodeFault {
    Url(UrlFault),
    NamesDatabase,
}

type MapAddress = dyn Fn(&str, u16) -> Option<(String, u16)> + Send + Sync;

/// Maps an address that sentinels or cluster nodes announce to the one to connect to.
#[derive(Clone, Default)]
pub(crate) struct AddressMap(Option<Arc<MapAddress>>);

impl AddressMap {
    pub(crate) fn new(
        map: impl Fn(&str, u16) -> Option<(String, u16)> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(map)))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for AddressMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AddressMap").field(&self.is_set()).finish()
    }
}

/// Returns the same user, password, database and TLS configuration with the address that was
/// announced, or with the one that it is mapped to.
pub(crate) fn at(how: &Server, map: &AddressMap, host: &str, port: u16) -> Server {
    let mapped = map.0.as_ref().and_then(|map| map(host, port));
    let (host, port) = mapped.unwrap_or_else(|| (host.to_owned(), port));
    let addr = match how.addr() {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    how.clone().map(|info| info.set_addr(addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, database: u16) -> Result<Server, UrlFault> {
        ServerUrl::parse(url).map(|url| url.server(database))
    }

    #[test]
    fn every_url_scheme_is_parsed() {
        for (url, addr, db) in [
            (
                "redis://host",
                ConnectionAddr::Tcp("host".to_owned(), 6379),
                7,
            ),
            (
                "valkey://host:1/",
                ConnectionAddr::Tcp("host".to_owned(), 1),
                7,
            ),
            (
                "valkey://host/3",
                ConnectionAddr::Tcp("host".to_owned(), 6379),
                3,
            ),
            (
                "redis://[::1]:1/0",
                ConnectionAddr::Tcp("::1".to_owned(), 1),
                0,
            ),
            (
                "unix:///run/redis",
                ConnectionAddr::Unix("/run/redis".into()),
                7,
            ),
            (
                "redis+unix:///run/r?db=3",
                ConnectionAddr::Unix("/run/r".into()),
                3,
            ),
            (
                "valkey+unix:///run/r?db=0",
                ConnectionAddr::Unix("/run/r".into()),
                0,
            ),
        ] {
            let server = server(url, 7).unwrap();
            assert_eq!(server.addr(), &addr, "{url}");
            assert_eq!(server.redis_settings().db(), db, "{url}");
        }
    }

    #[test]
    fn sentinel_urls_have_their_own_default_port() {
        for (url, port) in [("redis://host", 26379), ("redis://host:6379", 6379)] {
            let server = ServerUrl::parse(url).unwrap().sentinel();
            let expected = ConnectionAddr::Tcp("host".to_owned(), port);
            assert_eq!(server.addr(), &expected, "{url}");
        }
    }

    #[test]
    fn user_and_password_may_contain_any_character() {
        for url in [
            "redis://us%3Aer:p%40ss%2F%23@host",
            "unix:///run/redis?user=us%3Aer&pass=p%40ss%2F%23",
        ] {
            let server = server(url, 0).unwrap();
            let settings = server.redis_settings();
            assert_eq!(settings.username(), Some("us:er"), "{url}");
            assert_eq!(settings.password(), Some("p@ss/#"), "{url}");
        }
    }

    #[test]
    fn tls_is_rejected_without_the_feature_or_verification() {
        for scheme in ["rediss", "valkeys"] {
            let plain = server(&format!("{scheme}://host"), 0);
            let insecure = server(&format!("{scheme}://host/2#insecure"), 0);
            if cfg!(feature = "tls") {
                let addr = plain.unwrap().addr().clone();
                assert!(matches!(addr, ConnectionAddr::TcpTls { .. }), "{addr:?}");
                assert_eq!(insecure.unwrap_err(), UrlFault::Insecure);
            } else {
                assert_eq!(plain.unwrap_err(), UrlFault::NoTls);
                assert_eq!(insecure.unwrap_err(), UrlFault::NoTls);
            }
        }
    }

    #[test]
    fn invalid_redis_url_is_rejected() {
        for url in [
            "",
            "localhost",
            "http://host",
            "redis://host/two",
            "redis://0.0.0.0",
        ] {
            assert_eq!(
                server(url, 0).unwrap_err(),
                UrlFault::NotUnderstood,
                "{url}"
            );
        }
    }
}
