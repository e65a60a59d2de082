//! The examples as a newcomer meets them: started with no settings, the server's printed lines
//! pasted.

use std::{
    io::{BufRead, BufReader, Read},
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    client::http,
    cluster::Cluster,
    example::{said_by, start, url},
    process::Running,
    redis::Redis,
    sentinel::{NAME, Sentinel},
    soon,
    tls::{Authority, TlsRedis, is_spoken},
};

/// The statuses and the whole text of the printed lines, pasted into a shell.
fn paste(server: &mut Running) -> (Vec<String>, String) {
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(
        first.starts_with("listening on http://127.0.0.1:"),
        "{first}"
    );
    let mut script = String::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        if line.starts_with("TOKEN=") || line.starts_with("curl ") {
            script += &line;
            // An end of line of its own: not every body has one.
            script += "; echo\n";
        }
        if line.contains("/health") {
            break;
        }
    }
    let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let statuses = text
        .lines()
        .filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    (
        statuses.map(|status| status[..3].to_owned()).collect(),
        text,
    )
}

#[test]
fn the_printed_lines_work_as_printed() {
    let (statuses, text) = paste(&mut start(&[]));
    assert_eq!(statuses, ["200", "204", "401", "204", "200"], "{text}");
    assert!(text.contains(r#""email":"demo@example.com""#), "{text}");
    assert!(
        text.contains(r#"{"redis":"disabled","status":"ok"}"#),
        "{text}"
    );
}

#[test]
fn with_redis_they_work_as_well_and_a_frozen_one_queues_the_logout() {
    let redis = Redis::start();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("SESSION_CACHE_REDIS_DB", "2"),
        ("SESSION_CACHE_LOCAL_CAPACITY", "1000"),
    ];
    let mut server = start(&settings);
    let (statuses, text) = paste(&mut server);
    assert_eq!(statuses, ["200", "204", "401", "204", "200"], "{text}");
    assert!(text.contains(r#"{"redis":"up","status":"ok"}"#), "{text}");
    assert_eq!(redis.listeners().len(), 1, "of the local cache");
    drop(server);
    let keys = redis.keys();
    assert!(
        keys.iter().any(|key| key.starts_with("session_tomb:")),
        "{keys:?}"
    );
    assert!(
        keys.contains(&"user_invalidated:demo-user".to_owned()),
        "{keys:?}"
    );

    redis.pause();
    let (statuses, text) = paste(&mut start(&settings));
    assert_eq!(statuses, ["200", "503", "401", "503", "200"], "{text}");
    assert!(text.contains(r#"{"redis":"down","status":"ok"}"#), "{text}");
}

#[tokio::test]
async fn sentinels_and_certificates_are_settings_as_well() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, &authority.issue("127.0.0.1"), true, &[]);
    let monitor = format!("sentinel monitor {NAME} 127.0.0.1 {} 1", redis.port);
    let sentinel = Sentinel::start(&[monitor]);
    let sentinels = format!("redis://127.0.0.1:1, redis://127.0.0.1:{}", sentinel.port());
    let folder = tempfile::tempdir().unwrap();
    let own = authority.issue("a client");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut server = start(&[
        ("REDIS_URL", "rediss://the-primary"),
        ("REDIS_SENTINEL_URLS", &sentinels),
        ("REDIS_SENTINEL_MASTER", NAME),
        ("REDIS_CA_FILE", &file("ca.pem", authority.pem())),
        ("REDIS_CERT_FILE", &file("own.pem", &own.certificate)),
        ("REDIS_KEY_FILE", &file("own.key", &own.key)),
        ("REDIS_WAIT_REPLICAS", "1"),
    ]);
    let health = format!("{}/health", url(&mut server));
    soon("Redis to be reached", async {
        let up = r#""redis":"up""#;
        while !http()
            .get(&health)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains(up)
        {}
    })
    .await;
}

#[test]
fn with_a_redis_cluster_they_work_as_well() {
    let cluster = Cluster::start();
    let urls = cluster.urls()[..2].join(", ");
    let settings = [("REDIS_CLUSTER_URLS", urls.as_str())];
    // A slow machine may need longer to find all primaries than the deadline of a revocation.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (statuses, text) = paste(&mut start(&settings));
        let is_up = text.contains(r#"{"redis":"up","status":"ok"}"#);
        if is_up && statuses == ["200", "204", "401", "204", "200"] {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
    assert!(cluster.get("user_invalidated:demo-user").is_some());
}

#[test]
fn a_setting_that_makes_no_sense_is_named() {
    for (name, value) in [
        ("LISTEN_ADDR", "everywhere"),
        ("SESSION_CACHE_ENABLED", "perhaps"),
        ("SESSION_CACHE_TTL_SECONDS", "0"),
        ("SESSION_CACHE_REDIS_DB", "two"),
        ("SESSION_CACHE_LOCAL_CAPACITY", "many"),
        ("REDIS_URL", "localhost"),
        ("REDIS_SENTINEL_URLS", "redis://localhost"),
        ("REDIS_SENTINEL_MASTER", "mymaster"),
        ("REDIS_CA_FILE", "/nowhere"),
        ("REDIS_CERT_FILE", "/nowhere"),
        ("REDIS_WAIT_REPLICAS", "-1"),
        ("REDIS_CLUSTER_URLS", "redis://localhost:6379,localhost"),
        ("APPWRITE_ENDPOINT", "http://127.0.0.1/v1"),
        ("RUST_LOG", "a=b=c"),
    ] {
        let mut server = start(&[(name, value)]);
        let mut text = String::new();
        server
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(!server.0.wait().unwrap().success());
        let named = text
            .to_uppercase()
            .contains(name.trim_start_matches("SESSION_CACHE_"));
        assert!(text.starts_with("error: ") && named, "{name}: {text}");
    }
}

#[tokio::test]
async fn the_grpc_example_tells_of_each_kind_of_call() {
    let expected = [
        "with a session: Good day, Ada!",
        "without one: Unauthenticated, a session is required",
        "a stream from the server: A d a",
        "in both directions: Hello, Ada! Good bye, Ada!",
        "after the logout: Unauthenticated, the session has ended or never was",
    ];
    assert_eq!(said_by("grpc").await, expected);
}

#[tokio::test]
async fn the_hyper_example_speaks_both_versions() {
    let expected = [
        r#"HTTP/1.1 tok: 200 OK "Hello, Ada!""#,
        r#"HTTP/1.1 other: 401 Unauthorized """#,
        r#"HTTP/2.0 tok: 200 OK "Hello, Ada!""#,
        r#"HTTP/2.0 other: 401 Unauthorized """#,
    ];
    assert_eq!(said_by("hyper").await, expected);
}

#[tokio::test]
async fn the_compose_example_knows_machines_people_and_strangers() {
    let expected = [
        r#"a machine: GET /: 200 OK "Hello, machine-7!""#,
        r#"a person: GET /: 200 OK "Hello, ada!""#,
        r#"an expired one: GET /: 200 OK "Hello, stranger!""#,
        r#"a machine: GET /me: 200 OK "machine-7""#,
        r#"a person: GET /me: 200 OK "ada""#,
        r#"an expired one: GET /me: 401 Unauthorized """#,
        r#"a preflight: OPTIONS /me: 200 OK """#,
    ];
    assert_eq!(said_by("compose").await, expected);
}

#[tokio::test]
async fn the_testing_example_shows_an_outage() {
    let expected = [
        "one session: 200 OK and 401 Unauthorized",
        "before: 200 OK",
        "while it is down: 200 OK and 503 Service Unavailable",
        "it was asked 2 times",
    ];
    assert_eq!(said_by("testing").await, expected);
}
