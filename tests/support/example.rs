//! The examples as processes, built by cargo.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Stdio,
};

use super::{
    process::{Running, command},
    soon,
};

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        built.exists(),
        "run `cargo build --all-features --example {name}` first"
    );
    built
}

/// Starts a server on a free port, with these settings and no others.
pub fn start(settings: &[(&str, &str)]) -> Running {
    start_program(built("server"), settings)
}

/// Returns the server of the previous version, or `None` if it was not built.
pub fn previous_server() -> Option<PathBuf> {
    let server = std::env::var_os("SESSION_CACHE_PREVIOUS_SERVER");
    if server.is_none() {
        eprintln!("SKIPPED: `tests/run --full` builds the previous version");
    }
    server.map(PathBuf::from)
}

/// Does the same as [`start`] with the server of another version.
pub fn start_program(server: PathBuf, settings: &[(&str, &str)]) -> Running {
    let mut server = command(server);
    for name in [
        "APPWRITE_ENDPOINT",
        "APPWRITE_PROJECT_ID",
        "APPWRITE_WEBHOOK_SECRET",
        "APPWRITE_WEBHOOK_URL",
        "INTROSPECTION_AUDIENCE",
        "INTROSPECTION_CLIENT_ID",
        "INTROSPECTION_CLIENT_SECRET",
        "INTROSPECTION_ENDPOINT",
        "INTROSPECTION_ISSUER",
        "INTROSPECTION_SCOPE",
        "INTROSPECTION_SESSION_ID_CLAIM",
        "OIDC_CLIENT_IDS",
        "OIDC_ISSUER",
        "OIDC_JWKS_URL",
        "REDIS_CA_FILE",
        "REDIS_CERT_FILE",
        "REDIS_CLUSTER_URLS",
        "REDIS_KEY_FILE",
        "REDIS_SENTINEL_MASTER",
        "REDIS_SENTINEL_URLS",
        "REDIS_URL",
        "REDIS_WAIT_REPLICAS",
        "SESSION_CACHE_ENABLED",
        "SESSION_CACHE_REDIS_DB",
        "SESSION_CACHE_TTL_SECONDS",
        "RUST_LOG",
        "WEBHOOK_SECRET",
    ] {
        server.env_remove(name);
    }
    server.env("LISTEN_ADDR", "127.0.0.1:0");
    server.envs(settings.iter().copied());
    let child = server.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    Running(child.unwrap())
}

/// Reads the first line of the output, which contains the address of the server.
pub fn url(server: &mut Running) -> String {
    let mut line = String::new();
    let stdout = server.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ");
    url.unwrap_or_else(|| panic!("{line:?}")).to_owned()
}

/// Returns the output lines of an example that exits without being stopped.
pub async fn said_by(name: &str) -> Vec<String> {
    let mut example = tokio::process::Command::from(command(built(name)));
    let output = soon("its end", example.kill_on_drop(true).output());
    let output = output.await.unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{name}: {complaint}");
    assert_eq!(complaint, "", "{name}");
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().map(str::to_owned).collect()
}
