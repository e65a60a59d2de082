//! A WebSocket is authenticated by the layer, and closed at the end of its session as the
//! documentation shows.

use std::{net::SocketAddr, pin::pin, time::Duration};

use axum::{
    Router,
    extract::ws::{WebSocketUpgrade, close_code},
    routing::any,
};
use chrono::{TimeDelta, Utc};
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::{HeaderValue, StatusCode, header};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, client::IntoClientRequest},
};
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, SessionCache, SessionCacheBuilder, SessionCacheLayer,
    SessionEnd, TokenSource, UserData, ValidationError, testing::ManualClock,
};

use crate::support::{
    client::{ask, ask_for_all, token},
    open_socket, pass,
    probe::{Probe, session},
    redis::Redis,
    soon,
};

struct Server {
    address: SocketAddr,
    cache: SessionCache,
    provider: Probe,
}

impl Server {
    async fn start() -> Self {
        Self::on(SessionCache::builder()).await
    }

    async fn on(builder: SessionCacheBuilder) -> Self {
        // These tests count validations, and must not depend on the time that they take.
        let cache = builder.provider_lag(Duration::ZERO).build().unwrap();
        let provider = Probe::new();
        let app = open_socket::app(SessionCacheLayer::new(cache.clone(), provider.clone()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            cache,
            provider,
        }
    }

    async fn connect(&self, token: Option<&str>) -> Result<Client, tungstenite::Error> {
        let mut request = format!("ws://{}/", self.address).into_client_request()?;
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (socket, _) = soon("the handshake", client_async(request, stream)).await?;
        Ok(Client(socket))
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn is_open(&mut self) -> bool {
        self.0.send("hello".into()).await.unwrap();
        let answer = soon("an answer", self.0.next()).await.unwrap().unwrap();
        answer.into_text().unwrap() == "hello for ada"
    }

    /// Returns the reason of the server for closing the connection.
    async fn closed(&mut self) -> String {
        match soon("the end", self.0.next()).await {
            Some(Ok(tungstenite::Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), close_code::POLICY);
                frame.reason.to_string()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn upgrade_requires_a_session() {
    let server = Server::start().await;
    let refused = server.connect(None).await.err();
    let Some(tungstenite::Error::Http(response)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    // Accepted after a validation, and then from memory.
    for _ in 0..2 {
        assert!(server.connect(Some("t")).await.unwrap().is_open().await);
    }
    assert_eq!(server.provider.calls(), 1);
}

#[tokio::test]
async fn socket_is_closed_by_a_logout_and_not_at_the_next_check() {
    let server = Server::start().await;
    let mut socket = server.connect(Some("t")).await.unwrap();
    let mut other = server.connect(Some("other")).await.unwrap();
    assert!(socket.is_open().await && other.is_open().await);
    let _ = server.cache.revoke_token(&token("t")).await.unwrap();
    // Much less than the time between two checks.
    assert_eq!(socket.closed().await, "revoked");
    assert!(other.is_open().await);
    assert_eq!(server.provider.calls(), 2);
}

#[tokio::test]
async fn socket_is_closed_by_a_logout_on_another_node() {
    let redis = Redis::start();
    let on = || {
        let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
        let local = LocalCacheConfig::new(10).lease(Duration::from_secs(60));
        SessionCache::builder()
            .redis(redis)
            .unwrap()
            .local_cache(local)
    };
    let server = Server::on(on()).await;
    let elsewhere = on().build().unwrap();
    let layer = SessionCacheLayer::new(server.cache.clone(), server.provider.clone());
    soon("a local hit", async {
        while ask(&layer, "t").await.unwrap().1 != Origin::Local {
            pass().await;
        }
    })
    .await;
    let mut socket = server.connect(Some("t")).await.unwrap();
    assert!(socket.is_open().await);
    let _ = elsewhere.revoke_token(&token("t")).await.unwrap();
    assert_eq!(socket.closed().await, "revoked");
}

#[tokio::test]
async fn socket_follows_the_provider_after_an_invalidation() {
    let server = Server::start().await;
    let mut socket = server.connect(Some("t")).await.unwrap();
    assert!(socket.is_open().await);
    // The provider still accepts: one more validation, and the session is cached again.
    let _ = server.cache.invalidate_user("ada").await.unwrap();
    server.provider.wait_for_calls(2).await;
    assert!(socket.is_open().await);
    // The provider is unavailable: the socket stays open.
    server
        .provider
        .answer(|_| Err(ValidationError::unavailable("down")));
    let _ = server.cache.invalidate_token(&token("t")).await.unwrap();
    server.provider.wait_for_calls(3).await;
    assert!(socket.is_open().await);
    // The provider rejects the token: the socket is closed.
    server.provider.answer(|_| Err(ValidationError::invalid()));
    let _ = server.cache.invalidate_token(&token("t")).await.unwrap();
    assert_eq!(socket.closed().await, "rejected");
}

fn layer(builder: SessionCacheBuilder) -> (SessionCache, Probe, SessionCacheLayer<Probe>) {
    let cache = builder.build().unwrap();
    let probe = Probe::new();
    (
        cache.clone(),
        probe.clone(),
        SessionCacheLayer::new(cache, probe),
    )
}

#[tokio::test(start_paused = true)]
async fn session_ends_at_its_expiry_unless_the_provider_prolongs_it() {
    let clock = ManualClock::new();
    let (_, probe, layer) = layer(SessionCache::builder().clock(clock.clone()));
    let ends = Utc::now() + TimeDelta::minutes(10);
    probe.answer(move |_| Ok(session("ada").with_expires_at(ends)));
    let info = ask_for_all(&layer, "t").await.unwrap().1;
    let hour = Duration::from_secs(3_600);
    let mut ended = pin!(layer.session_ended(&info, hour));
    assert!(ended.as_mut().now_or_never().is_none());
    let later = ends + TimeDelta::minutes(10);
    probe.answer(move |_| Ok(session("ada").with_expires_at(later)));
    clock.advance(Duration::from_secs(601));
    // By the clock of Tokio, which runs on while nothing else does.
    tokio::select! {
        end = &mut ended => panic!("{end:?}"),
        () = tokio::time::sleep(Duration::from_secs(700)) => {}
    }
    assert_eq!(probe.calls(), 2);
    probe.answer(|_| Err(ValidationError::unavailable("down")));
    clock.advance(Duration::from_secs(601));
    assert_eq!(
        ended.await,
        SessionEnd::Expired,
        "even if the provider is unavailable"
    );
}

#[tokio::test(start_paused = true)]
async fn session_that_ends_at_the_provider_is_noticed_by_a_check() {
    let clock = ManualClock::new();
    let (_, probe, layer) = layer(SessionCache::builder().clock(clock.clone()));
    let info = ask_for_all(&layer, "t").await.unwrap().1;
    let ended = layer.session_ended(&info, Duration::from_secs(30));
    probe.answer(|_| Ok(session("bob")));
    clock.advance(Duration::from_secs(301));
    assert_eq!(
        ended.await,
        SessionEnd::Rejected,
        "the token of another user"
    );
    probe.answer(|_| Err(ValidationError::invalid()));
    let ended = layer.session_ended(&info, Duration::from_secs(30));
    clock.advance(Duration::from_secs(301));
    assert_eq!(ended.await, SessionEnd::Rejected);
}

#[tokio::test]
async fn every_way_to_end_a_session_completes_the_future() {
    let (cache, probe, layer) = layer(SessionCache::builder());
    probe.answer(|token| Ok(session("ada").with_session_id(token)));
    let hour = Duration::from_secs(3_600);
    for (n, expected) in ["revoked", "revoked", "revoked", "rejected"]
        .into_iter()
        .enumerate()
    {
        let text = format!("t{n}");
        let info = ask_for_all(&layer, &text).await.unwrap().1;
        let ended = layer.session_ended(&info, hour);
        let ended = tokio::spawn(ended);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!ended.is_finished());
        let authority = info.authority().unwrap().clone();
        let _ = match n {
            0 => cache.log_out(&info).await,
            1 => cache.end_session(&authority, &text).await,
            2 => cache.revoke_token(info.token()).await,
            _ => cache.ban_user(&authority, "ada", hour).await,
        }
        .unwrap();
        let end = soon("the end", ended).await.unwrap();
        assert_eq!(end.as_str(), expected, "{n}");
    }
}

#[tokio::test]
async fn sub_protocol_with_the_token_is_never_selected() {
    let connect = async |upgrade: WebSocketUpgrade, _: UserData| {
        let upgrade = upgrade.protocols(["session.t", "chat.v1"]);
        upgrade.on_upgrade(async |_| {})
    };
    let cache = SessionCache::builder().build().unwrap();
    let source = TokenSource::websocket_protocol("session.");
    let layer = SessionCacheLayer::new(cache, Probe::new()).with_token_source(source);
    let app = Router::new().route("/", any(connect)).layer(layer);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    let offered = HeaderValue::from_static("session.t, chat.v1");
    request
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = client_async(request, stream);
    let (_socket, response) = soon("the handshake", handshake).await.unwrap();
    assert_eq!(
        response.headers()[header::SEC_WEBSOCKET_PROTOCOL],
        "chat.v1"
    );
}
