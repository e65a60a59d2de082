//! The library has no effect on the process's cryptography provider. This is a separate binary,
//! because other tests install one.
#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "made of the suite's parts, of which it takes some"
)]

mod support;

use rustls::{CipherSuite, SupportedCipherSuite, crypto::CryptoProvider, crypto::ring};
use tokio::net::TcpListener;
use tower_session_cache::{
    AppwriteValidator, IntrospectionAuth, IntrospectionValidator, IntrospectionValidatorBuilder,
    RedisConfig, RedisTls, SessionCache, SessionValidator,
};

use support::{
    client::token,
    https::{Https, acceptor},
    soon,
    tls::{Authority, Pair},
};

/// Returns a provider with one cipher suite, by which the server recognizes it.
fn provider(suite: SupportedCipherSuite) -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![suite],
        ..ring::default_provider()
    }
}

fn builder(server: &Https, authority: &Authority) -> IntrospectionValidatorBuilder {
    IntrospectionValidator::builder(server.endpoint(), IntrospectionAuth::none())
        .root_certificates(authority.pem())
}

fn assert_nothing_is_installed(after: &str) {
    assert!(CryptoProvider::get_default().is_none(), "{after}");
}

/// Looks up a session, and returns the cipher suite of the connection to Redis.
async fn suite_of_redis(pair: &Pair, tls: RedisTls) -> CipherSuite {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let redis = RedisConfig::single(format!("rediss://127.0.0.1:{port}")).tls(tls);
    let cache = SessionCache::builder().redis(redis).unwrap();
    let cache = cache.build().unwrap();
    let acceptor = acceptor(pair, &[]);
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap();
        suite.suite()
    };
    let (suite, _) = soon("a handshake", async {
        tokio::join!(accept, cache.health_check())
    })
    .await;
    suite
}

#[tokio::test]
async fn application_may_install_a_provider_after_cache_and_validators_are_built() {
    let authority = Authority::new();
    let pair = authority.issue("127.0.0.1");
    let server = Https::start(&pair).await;
    let tls = || RedisTls::new().root_certificates(authority.pem());
    assert_nothing_is_installed("at the start");

    let plain = SessionCache::builder()
        .redis("redis://127.0.0.1:1")
        .unwrap();
    let plain = plain.build().unwrap();
    plain.health_check().await;
    assert_nothing_is_installed("a cache without TLS");
    suite_of_redis(&pair, tls()).await;
    assert_nothing_is_installed("a cache with TLS");
    AppwriteValidator::new("https://127.0.0.1:1/v1", "demo").unwrap();
    AppwriteValidator::new("http://127.0.0.1:1/v1", "demo").unwrap();
    let before = builder(&server, &authority).build().unwrap();
    before.validate(token("t")).await.unwrap();
    assert_nothing_is_installed("validators");

    // A provider that is passed in is used.
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    let explicit = builder(&server, &authority).crypto_provider(provider(CHACHA));
    let explicit = explicit.build().unwrap();
    explicit.validate(token("t")).await.unwrap();
    assert_eq!(server.suites().last(), Some(&CHACHA.suite()));
    let suite = suite_of_redis(&pair, tls().crypto_provider(provider(CHACHA))).await;
    assert_eq!(suite, CHACHA.suite());
    assert_nothing_is_installed("explicit providers");

    // The application installs its own, as it may at any time.
    provider(AES_128).install_default().unwrap();
    before.validate(token("t")).await.unwrap();
    let after = builder(&server, &authority).build().unwrap();
    after.validate(token("t")).await.unwrap();
    assert_eq!(server.suites().last(), Some(&AES_128.suite()));
    assert_eq!(suite_of_redis(&pair, tls()).await, AES_128.suite());
}
