//! Tonic server behind the layer, and a client that prints each of its calls.
//!
//! `cargo run --example grpc`

use std::error::Error;

use futures_util::{StreamExt, TryStreamExt, stream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use tower_session_cache::{
    SessionCache, SessionCacheLayer, SessionToken, UserData, testing::TestValidator,
};

// The code that tonic's build script generates from a `.proto` file.
#[path = "../tests/support/greeter.rs"]
mod greeter;
use greeter::{Greeter, GreeterClient, GreeterServer, Replies};

struct Polite;

/// Returns the name of the user. Behind the layer, every call has a user.
fn name<T>(request: &Request<T>) -> Result<String, Status> {
    let user = request.extensions().get::<UserData>();
    let user = user.ok_or_else(|| Status::internal("the SessionCacheLayer is missing"))?;
    Ok(user.name().to_owned())
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
    let ada = UserData::builder("u1").name("Ada").build();
    let provider = TestValidator::new().with_session("tok", ada);
    let cache = SessionCache::builder().build()?;

    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
    let address = incoming.local_addr()?;
    let server = Server::builder()
        .layer(SessionCacheLayer::new(cache.clone(), provider))
        .add_service(GreeterServer::new(Polite))
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

    let letters = client.letters(with_token(String::new(), "tok")?).await?;
    let letters: Vec<_> = letters.into_inner().try_collect().await?;
    println!("a stream from the server: {}", letters.join(" "));

    let words = stream::iter(["Hello", "Good bye"].map(String::from));
    let replies = client.chat(with_token(words, "tok")?).await?;
    let replies: Vec<_> = replies.into_inner().try_collect().await?;
    println!("in both directions: {}", replies.join(" "));

    let _ = cache.revoke_token(&SessionToken::parse("tok")?).await?;
    let answer = client.hello(with_token(hello(), "tok")?).await;
    println!("after the logout: {}", told(answer));
    Ok(())
}
