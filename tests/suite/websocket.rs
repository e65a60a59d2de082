//! A WebSocket is authenticated by the layer, and checked again as the documentation shows.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    routing::any,
};
use futures_util::{SinkExt, StreamExt};
use http::{StatusCode, header};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, client::IntoClientRequest},
};
use tower_session_cache::{
    SessionCache, SessionCacheLayer, SessionInfo, UserData, ValidationError,
};

use crate::support::{client::token, may_stay::may_stay, probe::Probe, soon};

struct Server {
    address: SocketAddr,
    cache: SessionCache,
    provider: Probe,
    checks: watch::Receiver<usize>,
}

impl Server {
    async fn start() -> Self {
        // These tests count validations, and must not depend on the time that they take.
        let builder = SessionCache::builder().provider_lag(Duration::ZERO);
        let cache = builder.build().unwrap();
        let provider = Probe::new();
        let (counter, checks) = watch::channel(0);
        let parts = (cache.clone(), provider.clone(), counter);
        let connect = async move |upgrade: WebSocketUpgrade, user: UserData, info: SessionInfo| {
            upgrade.on_upgrade(move |socket| echo(socket, user, info, parts))
        };
        let app = Router::new()
            .route("/", any(connect))
            .layer(SessionCacheLayer::new(cache.clone(), provider.clone()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            cache,
            provider,
            checks,
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

    /// Returns after at least one check that began after the call.
    async fn checked(&self) {
        let mut checks = self.checks.clone();
        let now = *checks.borrow();
        let later = checks.wait_for(|checks| *checks >= now + 2);
        soon("two checks", later).await.unwrap();
    }
}

/// Replies to each message with the user's ID, for as long as the session lasts.
async fn echo(
    mut socket: WebSocket,
    user: UserData,
    info: SessionInfo,
    (cache, provider, checks): (SessionCache, Probe, watch::Sender<usize>),
) {
    let mut again = interval(Duration::from_millis(1));
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = again.tick() => {
                if !may_stay(&cache, &provider, &info).await {
                    let reason = CloseFrame { code: close_code::POLICY, reason: "session".into() };
                    let _ = socket.send(Message::Close(Some(reason))).await;
                    return;
                }
                checks.send_modify(|checks| *checks += 1);
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    let answer = format!("{text} for {}", user.id());
                    if socket.send(answer.into()).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn is_open(&mut self) -> bool {
        self.0.send("hello".into()).await.unwrap();
        let answer = soon("an answer", self.0.next()).await.unwrap().unwrap();
        answer.into_text().unwrap() == "hello for ada"
    }

    async fn is_closed(&mut self) -> bool {
        match soon("the end", self.0.next()).await {
            Some(Ok(tungstenite::Message::Close(Some(frame)))) => {
                u16::from(frame.code) == close_code::POLICY
            }
            _ => false,
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
async fn socket_is_closed_after_a_logout() {
    let server = Server::start().await;
    let mut socket = server.connect(Some("t")).await.unwrap();
    server.checked().await;
    assert!(socket.is_open().await);
    assert_eq!(
        server.provider.calls(),
        1,
        "checks of a cached session call no validator"
    );
    let _ = server.cache.revoke_token(&token("t")).await.unwrap();
    assert!(socket.is_closed().await);
}

#[tokio::test]
async fn socket_follows_the_provider_after_an_invalidation() {
    let server = Server::start().await;
    let mut socket = server.connect(Some("t")).await.unwrap();
    // The provider still accepts: one more validation, and the session is cached again.
    let _ = server.cache.invalidate_user("ada").await.unwrap();
    server.checked().await;
    assert!(socket.is_open().await);
    assert_eq!(server.provider.calls(), 2);
    // The provider is unavailable: the socket stays open.
    server
        .provider
        .answer(|_| Err(ValidationError::unavailable("down")));
    let _ = server.cache.invalidate_token(&token("t")).await.unwrap();
    server.checked().await;
    assert!(server.provider.calls() > 2);
    assert!(socket.is_open().await);
    // The provider rejects the token: the socket is closed.
    server.provider.answer(|_| Err(ValidationError::invalid()));
    assert!(socket.is_closed().await);
}
