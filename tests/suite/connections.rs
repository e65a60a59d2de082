//! Connections to identity providers that close, or stop forwarding, while they are used.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{StatusCode, Version};
use rustls::crypto::{CryptoProvider, ring};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};
use tower_session_cache::{
    AppwriteConfigError, AppwriteValidator, IntrospectionAuth, IntrospectionConfigError,
    IntrospectionValidator, SessionCache, SessionCacheLayer, SessionValidator,
};

use crate::support::{
    appwrite::{Appwrite, Endpoint, Fault},
    client::{ask, token},
    https::{Https, acceptor},
    introspection::{Demands, Introspection, jdoe},
    relay::Relay,
    soon,
    tls::{Authority, Pair},
    until,
};

const VALIDATIONS: usize = 12;

fn port(url: &str) -> u16 {
    let url = reqwest::Url::parse(url).unwrap();
    url.port_or_known_default().unwrap()
}

fn names() -> Vec<String> {
    (0..VALIDATIONS).map(|n| format!("token-{n}")).collect()
}

/// An introspection endpoint behind a relay, and its layer.
async fn introspection() -> (
    Introspection,
    Relay,
    SessionCacheLayer<IntrospectionValidator>,
) {
    let server = Introspection::start(Demands::Nothing).await;
    for name in names() {
        server.issue(&name, jdoe());
    }
    let relay = Relay::start(port(&server.endpoint())).await;
    let endpoint = relay.in_front_of(&server.endpoint());
    let validator = IntrospectionValidator::builder(endpoint, IntrospectionAuth::none())
        .build()
        .unwrap();
    let cache = SessionCache::builder().build().unwrap();
    (server, relay, SessionCacheLayer::new(cache, validator))
}

/// Returns the number of requests that were rejected with 503.
async fn count_unavailable<V: SessionValidator>(
    layer: &SessionCacheLayer<V>,
    tokens: &[String],
) -> usize {
    let mut unavailable = 0;
    for token in tokens {
        match ask(layer, token).await {
            Ok(_) => {}
            Err(StatusCode::SERVICE_UNAVAILABLE) => unavailable += 1,
            Err(other) => panic!("{other}"),
        }
    }
    unavailable
}

#[tokio::test]
async fn introspection_is_repeated_if_its_kept_alive_connection_closes() {
    let (server, relay, layer) = introspection().await;
    relay.close_reused();
    let unavailable = count_unavailable(&layer, &names()).await;
    let requests = relay.requests();
    println!("503: {unavailable} of {VALIDATIONS}, requests at the provider: {requests}");
    assert_eq!(unavailable, 0);
    assert!(requests <= 2 * VALIDATIONS, "{requests}");
    assert_eq!(server.calls(), VALIDATIONS);
}

/// The pool has more idle connections that close as they are used, and the second attempt must
/// take none of them.
#[tokio::test]
async fn repeated_introspection_takes_no_idle_connection() {
    let (_server, relay, layer) = introspection().await;
    let names = names();
    let (first, rest) = names.split_at(VALIDATIONS / 2);
    // Concurrent validations leave one idle connection each.
    let answers = join_all(first.iter().map(|token| ask(&layer, token))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(relay.connections() >= 2, "{}", relay.connections());
    relay.close_reused();
    let before = relay.requests();
    let unavailable = count_unavailable(&layer, rest).await;
    let requests = relay.requests() - before;
    println!(
        "503: {unavailable} of {}, requests at the provider: {requests}",
        rest.len()
    );
    assert_eq!(unavailable, 0);
    assert!(requests <= 2 * rest.len(), "{requests}");
}

#[tokio::test]
async fn appwrite_calls_are_repeated_if_their_kept_alive_connections_close() {
    let appwrite = Appwrite::start().await;
    appwrite.add_user("ada", "ada@example.com", "correct horse");
    let tokens: Vec<_> = (0..VALIDATIONS).map(|_| appwrite.issue("ada")).collect();
    let relay = Relay::start(port(&appwrite.endpoint())).await;
    relay.close_reused();
    let endpoint = relay.in_front_of(&appwrite.endpoint());
    let validator = AppwriteValidator::new(endpoint, appwrite.project_id()).unwrap();
    let cache = SessionCache::builder().build().unwrap();
    let layer = SessionCacheLayer::new(cache, validator.clone());
    let unavailable = count_unavailable(&layer, &tokens).await;
    let requests = relay.requests();
    println!("503: {unavailable} of {VALIDATIONS}, requests at the provider: {requests}");
    assert_eq!(unavailable, 0);
    // A validation makes two calls.
    assert!(requests <= 2 * 2 * VALIDATIONS, "{requests}");

    // A login cannot be repeated, so it uses a connection of its own.
    let before = relay.requests();
    let mut failures = 0;
    for _ in 0..VALIDATIONS {
        let login = validator.login("ada@example.com", "correct horse").await;
        failures += usize::from(login.is_err());
    }
    println!("failed logins: {failures} of {VALIDATIONS}");
    assert_eq!(failures, 0);
    assert_eq!(relay.requests() - before, VALIDATIONS);
    assert_eq!(appwrite.calls(Endpoint::Login), VALIDATIONS);

    for token in &tokens {
        validator.logout(&self::token(token)).await.unwrap();
    }
}

#[tokio::test]
async fn only_calls_that_may_be_repeated_are_sent_twice() {
    use Endpoint::{Account, Login, Logout, Recovery, Session};

    let appwrite = Appwrite::start().await;
    appwrite.add_user("ada", "ada@example.com", "correct horse");
    let token = token(&appwrite.issue("ada"));
    for endpoint in [Account, Session, Login, Logout, Recovery] {
        appwrite.fault(endpoint, Fault::Cut);
    }
    let validator = AppwriteValidator::new(appwrite.endpoint(), appwrite.project_id()).unwrap();
    soon("all calls", async {
        validator.validate(token.clone()).await.unwrap_err();
        validator.logout(&token).await.unwrap_err();
        let login = validator.login("ada@example.com", "correct horse");
        login.await.unwrap_err();
        let recovery = validator.recover("ada", "secret", "correct horse");
        recovery.await.unwrap_err();
    })
    .await;
    let calls = [Account, Session, Logout, Login, Recovery].map(|it| appwrite.calls(it));
    assert_eq!(calls, [2, 2, 2, 1, 1]);
}

/// A call that timed out may still be carried out, and costs the provider time.
#[tokio::test]
async fn call_that_times_out_is_not_repeated() {
    let appwrite = Appwrite::start().await;
    appwrite.add_user("ada", "ada@example.com", "correct horse");
    let token = token(&appwrite.issue("ada"));
    appwrite.fault(Endpoint::Session, Fault::Hang);
    let validator = AppwriteValidator::builder(appwrite.endpoint(), appwrite.project_id())
        .timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    soon("a timeout", validator.validate(token))
        .await
        .unwrap_err();
    assert_eq!(appwrite.calls(Endpoint::Session), 1);
}

/// Validates until it succeeds, and returns the number of failures.
async fn failures_until_success(validator: &IntrospectionValidator) -> usize {
    let mut failures = 0;
    while validator.validate(token("token-0")).await.is_err() {
        failures += 1;
        assert!(failures < 10, "still unavailable");
    }
    failures
}

/// Timeout of the calls in tests that wait for it. A slow machine must be able to open a TLS connection
/// in this time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An introspection endpoint over HTTP/2 behind a relay, and a validator with a connection to it.
async fn http2() -> (Https, Relay, IntrospectionValidator) {
    let authority = Authority::new();
    let server = Https::start(&authority.issue("127.0.0.1")).await;
    let relay = Relay::start(server.port()).await;
    let endpoint = relay.in_front_of(&server.endpoint());
    let validator = IntrospectionValidator::builder(endpoint, IntrospectionAuth::none())
        .root_certificates(authority.pem())
        .timeout(TIMEOUT)
        .build()
        .unwrap();
    for _ in 0..3 {
        validator.validate(token("token-0")).await.unwrap();
    }
    assert_eq!(server.versions(), [Version::HTTP_2; 3]);
    assert_eq!(relay.connections(), 1);
    (server, relay, validator)
}

/// Nothing else retires a connection whose peer only acknowledges.
#[tokio::test]
async fn http2_connection_that_stalls_costs_one_timeout() {
    let (_server, relay, validator) = http2().await;
    relay.stall();
    let failures = soon("a success", failures_until_success(&validator)).await;
    println!("time-outs: {failures}");
    assert_eq!(failures, 1);
    assert_eq!(relay.connections(), 2);
}

/// The caller gives up before the timeout of the call, so that no call times out.
#[tokio::test]
async fn http2_connection_that_stalls_is_detected_without_a_timeout() {
    let (_server, relay, validator) = http2().await;
    relay.stall();
    soon("a success", async {
        let patience = TIMEOUT / 2;
        let call = || tokio::time::timeout(patience, validator.validate(token("token-0")));
        while !matches!(call().await, Ok(Ok(_))) {}
    })
    .await;
}

#[tokio::test]
async fn http1_connections_that_stall_cost_one_timeout() {
    let server = Introspection::start(Demands::Nothing).await;
    server.issue("token-0", jdoe());
    let relay = Relay::start(port(&server.endpoint())).await;
    let endpoint = relay.in_front_of(&server.endpoint());
    let validator = IntrospectionValidator::builder(endpoint, IntrospectionAuth::none())
        .timeout(TIMEOUT)
        .build()
        .unwrap();
    let concurrent = (0..6).map(|_| validator.validate(token("token-0")));
    assert!(join_all(concurrent).await.iter().all(Result::is_ok));
    assert!(relay.connections() >= 3, "{}", relay.connections());
    relay.stall();
    let failures = soon("a success", failures_until_success(&validator)).await;
    println!("time-outs: {failures}");
    assert_eq!(failures, 1);
}

/// A slow provider must not cause new connections for each of its slow responses.
#[tokio::test]
async fn calls_that_time_out_together_replace_the_connections_once() {
    let (_server, relay, validator) = http2().await;
    relay.stall();
    let concurrent = (0..20).map(|_| validator.validate(token("token-0")));
    let failed = join_all(concurrent).await;
    assert!(failed.iter().all(Result::is_err));
    for _ in 0..20 {
        validator.validate(token("token-0")).await.unwrap();
    }
    assert_eq!(relay.connections(), 2);
}

#[tokio::test]
async fn idle_connection_is_closed_before_the_server_closes_it() {
    let server = Introspection::start(Demands::Nothing).await;
    server.issue("token-0", jdoe());
    let relay = Relay::start(port(&server.endpoint())).await;
    let endpoint = relay.in_front_of(&server.endpoint());
    let builder = || IntrospectionValidator::builder(&endpoint, IntrospectionAuth::none());
    let shown = format!("{:?}", builder());
    assert!(shown.contains("pool_idle_timeout: 4s"), "{shown}");
    let validator = builder().pool_idle_timeout(Duration::from_millis(50));
    let validator = validator.build().unwrap();
    validator.validate(token("token-0")).await.unwrap();
    until("the connection to be closed", || relay.closed() == 1).await;
    validator.validate(token("token-0")).await.unwrap();
    assert_eq!(relay.connections(), 2);
}

#[tokio::test]
async fn validator_uses_the_provider_that_is_passed_to_it() {
    let authority = Authority::new();
    let server = Https::start(&authority.issue("127.0.0.1")).await;
    let suite = ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..ring::default_provider()
    };
    let validator = IntrospectionValidator::builder(server.endpoint(), IntrospectionAuth::none())
        .root_certificates(authority.pem())
        .crypto_provider(provider)
        .build()
        .unwrap();
    validator.validate(token("token-0")).await.unwrap();
    assert_eq!(server.suites(), [suite.suite()]);
}

#[test]
fn invalid_root_certificates_are_rejected() {
    let builder =
        IntrospectionValidator::builder("https://idp/introspect", IntrospectionAuth::none());
    let error = builder
        .root_certificates("/etc/ca.pem")
        .build()
        .unwrap_err();
    assert!(matches!(
        error,
        IntrospectionConfigError::InvalidRootCertificates
    ));
    assert!(error.to_string().contains("the CA as PEM"), "{error}");
    let builder = AppwriteValidator::builder("https://idp/v1", "demo");
    let error = builder
        .root_certificates("/etc/ca.pem")
        .build()
        .unwrap_err();
    assert!(matches!(
        error,
        AppwriteConfigError::InvalidRootCertificates
    ));
    assert!(error.to_string().contains("the CA as PEM"), "{error}");
}

/// How a server ends the second request on a connection of HTTP/2.
#[derive(Clone, Copy, Debug)]
enum End {
    RefusedStream,
    GoAway,
    Close,
}

/// Serves introspection over HTTP/2. Returns the port, and the number of requests so far.
async fn http2_that_ends(pair: &Pair, end: End) -> (u16, Arc<AtomicUsize>, AbortHandle) {
    let acceptor = acceptor(pair, &["h2"]);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            connections.spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut is_reused = false;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    count.fetch_add(1, SeqCst);
                    match end {
                        _ if !is_reused => {
                            let response = http::Response::new(());
                            let mut body = respond.send_response(response, false).unwrap();
                            let user = r#"{"active":true,"sub":"ada"}"#;
                            body.send_data(user.into(), true).unwrap();
                        }
                        End::RefusedStream => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        End::GoAway => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
                        End::Close => break,
                    }
                    is_reused = true;
                }
            });
        }
    });
    (port, requests, serving.abort_handle())
}

#[tokio::test]
async fn introspection_is_repeated_if_http2_ends_it() {
    let authority = Authority::new();
    let pair = authority.issue("127.0.0.1");
    for end in [End::RefusedStream, End::GoAway, End::Close] {
        let (port, requests, serving) = http2_that_ends(&pair, end).await;
        let endpoint = format!("https://127.0.0.1:{port}/introspect");
        let validator = IntrospectionValidator::builder(endpoint, IntrospectionAuth::none())
            .root_certificates(authority.pem())
            .build()
            .unwrap();
        let mut failures = 0;
        for _ in 0..VALIDATIONS {
            let answer = validator.validate(token("t"));
            failures += usize::from(soon("a result", answer).await.is_err());
        }
        let requests = requests.load(SeqCst);
        println!("{end:?}: {failures} of {VALIDATIONS} failed, requests: {requests}");
        assert_eq!(failures, 0, "{end:?}");
        assert!(requests <= 2 * VALIDATIONS, "{end:?}: {requests}");
        serving.abort();
    }
}
