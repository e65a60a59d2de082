//! Certificate authority for one test, and a Redis server with TLS.

use std::{cell::Cell, fs, path::Path, process::Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::{
    process::command,
    redis::{Redis, free_port},
};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Certificate and its key, as PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn issue(&self, host: &str) -> Pair {
        self.issue_until(host, 2_100)
    }

    pub fn issue_until(&self, host: &str, year: i32) -> Pair {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2_000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Server on two ports: a plain one for the test, and one with TLS for the crate.
pub struct TlsRedis {
    pub plain: Redis,
    pub port: u16,
}

impl TlsRedis {
    /// Starts a server with additional lines of configuration. If `asks` is set, it requires client
    /// certificates of its own authority.
    pub fn start(authority: &Authority, own: &Pair, asks: bool, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), authority, own, asks);
        let port = Cell::new(0);
        // The folder may be removed afterwards: a server that responds has read its files.
        let plain = Redis::on_free_ports(|| {
            port.set(free_port());
            let port = port.get().to_string();
            let options = ["--tls-port", &port]
                .into_iter()
                .chain(options.iter().map(String::as_str))
                .chain(more.iter().copied());
            Redis::try_start(&options.collect::<Vec<_>>())
        });
        let port = port.get();
        Self { plain, port }
    }

    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}/2", self.port)
    }
}

/// Returns the TLS options of a server of any kind and writes their files into the folder.
pub fn options(folder: &Path, authority: &Authority, own: &Pair, asks: bool) -> Vec<String> {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let asks = if asks { "yes" } else { "no" }.to_owned();
    [
        ("--tls-ca-cert-file", file("ca.pem", authority.pem())),
        ("--tls-cert-file", file("own.pem", &own.certificate)),
        ("--tls-key-file", file("own.key", &own.key)),
        ("--tls-auth-clients", asks),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

/// Returns whether the server used by the tests supports TLS. Prints a message if it does not.
pub fn is_spoken() -> bool {
    let server = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    // A server with TLS support reports that it has no certificate.
    let output = command(server)
        .args(["--port", "0", "--tls-port", "1"])
        .stdin(Stdio::null())
        .output()
        .expect("redis-server is not installed; tests/run installs it");
    let text = [output.stdout, output.stderr].concat();
    let is_spoken = String::from_utf8_lossy(&text).contains("Failed to configure TLS");
    if !is_spoken {
        eprintln!("SKIPPED: this redis-server is built without TLS");
    }
    is_spoken
}
