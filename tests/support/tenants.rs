//! Identity providers with several clients and projects, in one mock over real HTTP.
//!
//! A token contains its own properties, so the mock stores no sessions:
//! `o<server>~<user>~<audiences>~<scope>` is an OAuth token, `w<server>~<user>~<project>` an
//! Appwrite session. An OAuth token is active only for the clients in its audience, as with
//! Keycloak 26.7. With a scope of `planted` the response has claims that look like the cache's own
//! members. With `typed` it has a `token_type`, with `refresh` it is that of a refresh token. With
//! `client` and `nameless` the token belongs to a client with the name of the user.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use axum::{
    Form, Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

/// User of Appwrite whose sessions are anonymous.
pub const GUEST: &str = "guest";

/// Running mock. It stops when this value is dropped.
pub struct Tenants {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Shared {
    is_down: AtomicBool,
}

type World = State<Arc<Shared>>;

impl Tenants {
    pub async fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let app = Router::new()
            .route("/{server}/introspect", post(introspect))
            .route("/{server}/v1/account", get(account))
            .route("/{server}/v1/account/sessions/current", get(session))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            address,
            shared,
            serving: serving.abort_handle(),
        }
    }

    pub fn introspection(&self, server: usize) -> String {
        format!("http://{}/{server}/introspect", self.address)
    }

    pub fn appwrite(&self, server: usize) -> String {
        format!("http://{}/{server}/v1", self.address)
    }

    /// Sets whether the response to every call is 500 from now on.
    pub fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, SeqCst);
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

type Refusal = (StatusCode, Json<Value>);

/// Returns a response of status 500 as the error if the mock is set down.
fn arrive(shared: &Shared) -> Result<(), Refusal> {
    if shared.is_down.load(SeqCst) {
        let problem = Json(json!({ "error": "server_error" }));
        return Err((StatusCode::INTERNAL_SERVER_ERROR, problem));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Question {
    token: String,
}

async fn introspect(
    State(shared): World,
    Path(server): Path<usize>,
    headers: HeaderMap,
    Form(question): Form<Question>,
) -> Result<Json<Value>, Refusal> {
    arrive(&shared)?;
    let basic = headers
        .get(header::AUTHORIZATION)
        .unwrap()
        .to_str()
        .unwrap();
    let pair = BASE64
        .decode(basic.strip_prefix("Basic ").unwrap())
        .unwrap();
    let pair = String::from_utf8(pair).unwrap();
    let (client, _) = pair.split_once(':').unwrap();
    let inactive = || Ok(Json(json!({ "active": false })));
    let parts: Vec<_> = question.token.split('~').collect();
    let [kind, user, audiences, scope] = parts[..] else {
        return inactive();
    };
    if kind != format!("o{server}") || !audiences.contains(client) {
        return inactive();
    }
    let audiences: Vec<_> = audiences.chars().map(String::from).collect();
    let mut answer = json!({
        "active": true, "sub": user, "aud": audiences, "scope": scope,
        "email": format!("{user}@o{server}"), "email_verified": scope != "unverified",
    });
    if scope == "planted" {
        answer["validator"] = "second".into();
        answer["session_cache"] = json!({ "version": 3, "namespace": "unnamed" });
        answer["scope"] = "planted admin".into();
    }
    match scope {
        "typed" => {
            answer["scope"] = "admin".into();
            answer["token_type"] = "Bearer".into();
        }
        "refresh" => {
            answer["scope"] = "admin".into();
            answer["token_use"] = "refresh_token".into();
            answer["token_type"] = "Bearer".into();
        }
        "client" => answer["client_id"] = user.into(),
        "nameless" => {
            answer = json!({
                "active": true, "client_id": user, "aud": answer["aud"], "scope": "admin",
            });
        }
        _ => {}
    }
    Ok(Json(answer))
}

fn unauthorized() -> Refusal {
    let problem = json!({
        "message": "User (role: guests) missing scopes", "code": 401,
        "type": "general_unauthorized_scope", "version": "1.8.0",
    });
    (StatusCode::UNAUTHORIZED, Json(problem))
}

/// Returns the user of the session, if the session belongs to the project of the request.
fn session_user(server: usize, headers: &HeaderMap) -> Result<String, Refusal> {
    let text = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let token = text("x-appwrite-session");
    let parts: Vec<_> = token.split('~').collect();
    let [kind, user, project] = parts[..] else {
        return Err(unauthorized());
    };
    if kind != format!("w{server}") || project != text("x-appwrite-project") {
        return Err(unauthorized());
    }
    Ok(user.to_owned())
}

async fn account(
    State(shared): World,
    Path(server): Path<usize>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    arrive(&shared)?;
    let user = session_user(server, &headers)?;
    let project = headers["x-appwrite-project"].to_str().unwrap();
    Ok(Json(json!({
        "$id": user, "status": true, "emailVerification": true,
        "$createdAt": "2025-04-28T09:31:48.342+00:00",
        "$updatedAt": "2025-05-03T16:44:35.206+00:00",
        "email": if user == GUEST {
            String::new()
        } else {
            format!("{user}@w{server}{project}")
        },
    })))
}

async fn session(
    State(shared): World,
    Path(server): Path<usize>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    arrive(&shared)?;
    let user = session_user(server, &headers)?;
    Ok(Json(json!({
        "$id": format!("session-of-{user}"), "userId": user, "current": true,
        "expire": "2999-01-01T00:00:00.000+00:00",
        "provider": if user == GUEST { "anonymous" } else { "email" },
    })))
}
