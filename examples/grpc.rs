//! Tonic server behind the layer, and a client that prints each of its calls: an exempt health
//! check, a method for one role, and a logout.
//!
//! `cargo run --example grpc`

use std::error::Error;

use futures_util::{StreamExt, TryStreamExt, stream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use tower::ServiceBuilder;
use tower_session_cache::{
    Guard, Rejection, RevokeErrorKind, SessionCache, SessionCacheLayer, UserData,
    testing::TestValidator,
};

// The code that tonic's build script generates from a `.proto` file.
#[path = "../tests/support/greeter.rs"]
mod greeter;
use greeter::{Greeter, GreeterClient, GreeterServer, HealthServer, Replies};

struct Polite {
    cache: SessionCache,
}

fn status(rejection: Rejection) -> Status {
    Status::new(rejection.grpc_code().into(), rejection.to_string())
}

/// Returns the name of the user.
fn name<T>(request: &Request<T>) -> Result<String, Status> {
    let user = Guard::signed_in().authorize(request.extensions());
    Ok(user.map_err(status)?.name().to_owned())
}

impl Greeter for Polite {
    async fn hello(&self, request: Request<String>) -> Result<Response<String>, Status> {
        let name = name(&request)?;
        Ok(Response::new(format!("{}, {name}!", request.get_ref())))
    }

    async fn letters(&self, request: Request<String>) -> Result<Response<Replies>, Status> {
        let letters: Vec<_> = name(&request)?.chars().map(String::from).map(Ok).collect();
        Ok(Response::new(Box::pin(stream::iter(letters))))
    }

    async fn chat(&self, request: Request<Streaming<String>>) -> Result<Response<Replies>, Status> {
        let name = name(&request)?;
        let replies = request
            .into_inner()
            .map(move |message| Ok(format!("{}, {name}!", message?)));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn log_out(&self, request: Request<String>) -> Result<Response<String>, Status> {
        let user = request.extensions().get::<UserData>();
        let session = user.and_then(UserData::session);
        let session = session.ok_or_else(|| Status::unauthenticated("there is no session"))?;
        let goodbye = Ok(Response::new("Good bye".to_owned()));
        let Err(error) = self.cache.log_out(session).await else {
            return goodbye;
        };
        match error.kind() {
            // A queued logout applies here, and is delivered to the other nodes.
            RevokeErrorKind::Queued => goodbye,
            RevokeErrorKind::NotASession => Err(Status::permission_denied(error.to_string())),
            _ => Err(Status::unavailable(error.to_string())),
        }
    }
}

/// Wraps a message in a request with a session token in its metadata.
fn with_token<T>(message: T, token: &str) -> Result<Request<T>, Box<dyn Error>> {
    let mut request = Request::new(message);
    let credential = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", credential);
    Ok(request)
}

fn told(answer: Result<Response<String>, Status>) -> String {
    match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => format!("{:?}, {}", status.code(), status.message()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Replace with your identity provider: `AppwriteValidator`, or your own `SessionValidator`.
    let ada = UserData::builder("u1").name("Ada").tier("admin").build();
    let bob = UserData::builder("u2").name("Bob").build();
    let provider = TestValidator::new()
        .with_session("tok", ada)
        .with_session("other", bob);
    let cache = SessionCache::builder().build()?;
    let sessions = SessionCacheLayer::new(cache.clone(), provider)
        // The layer covers all services, and a probe has no token.
        .exempt(|head| head.uri().path().starts_with("/grpc.health.v1.Health/"));
    let admins = Guard::role("admin").only_if(|head| head.uri().path().ends_with("/Letters"));

    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
    let address = incoming.local_addr()?;
    let server = Server::builder()
        .layer(ServiceBuilder::new().layer(sessions).layer(admins))
        .add_service(GreeterServer::new(Polite { cache }))
        .add_service(HealthServer)
        .serve_with_incoming(incoming);
    tokio::spawn(server);

    let mut client = GreeterClient::connect(address).await?;
    let hello = || "Good day".to_owned();
    let answer = client.hello(with_token(hello(), "tok")?).await;
    println!("with a session: {}", told(answer));
    println!(
        "without one: {}",
        told(client.hello(Request::new(hello())).await)
    );

    println!("a probe: {}", told(client.health().await));

    let letters = client.letters(with_token(String::new(), "other")?).await;
    let refused = letters.err().map(|status| told(Err(status)));
    println!("without the role: {}", refused.unwrap_or_default());
    let letters = client.letters(with_token(String::new(), "tok")?).await?;
    let letters: Vec<_> = letters.into_inner().try_collect().await?;
    println!("a stream from the server: {}", letters.join(" "));

    let words = stream::iter(["Hello", "Good bye"].map(String::from));
    let replies = client.chat(with_token(words, "tok")?).await?;
    let replies: Vec<_> = replies.into_inner().try_collect().await?;
    println!("in both directions: {}", replies.join(" "));

    let answer = client.log_out(with_token(String::new(), "tok")?).await;
    println!("a logout: {}", told(answer));
    let answer = client.hello(with_token(hello(), "tok")?).await;
    println!("after the logout: {}", told(answer));
    Ok(())
}
