use std::time::Duration;

use axum::{
    Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    routing::any,
};
use tower_session_cache::{SessionCacheLayer, SessionInfo, SessionValidator, UserData};

/// How long a session may have ended unnoticed: at the provider, without an event.
const CHECK_EVERY: Duration = Duration::from_secs(30);

pub fn app<V: SessionValidator>(sessions: SessionCacheLayer<V>) -> Router {
    let layer = sessions.clone();
    let connect = async move |upgrade: WebSocketUpgrade, session: SessionInfo| {
        upgrade.on_upgrade(move |socket| serve(socket, session, sessions))
    };
    Router::new().route("/", any(connect)).layer(layer)
}

/// Serves a connection until it is closed or its session has ended.
async fn serve<V: SessionValidator>(
    mut socket: WebSocket,
    session: SessionInfo,
    sessions: SessionCacheLayer<V>,
) {
    let end = tokio::select! {
        end = sessions.session_ended(&session, CHECK_EVERY) => end,
        () = converse(&mut socket, session.user()) => return,
    };
    let reason = CloseFrame {
        code: close_code::POLICY,
        reason: end.as_str().into(),
    };
    // A client that reads nothing must not keep the connection open.
    let close = socket.send(Message::Close(Some(reason)));
    let _ = tokio::time::timeout(Duration::from_secs(5), close).await;
}

/// Replies to each message with the user's ID.
async fn converse(socket: &mut WebSocket, user: UserData) {
    while let Some(Ok(message)) = socket.recv().await {
        if let Message::Text(text) = message {
            let answer = format!("{text} for {}", user.id());
            if socket.send(answer.into()).await.is_err() {
                return;
            }
        }
    }
}
