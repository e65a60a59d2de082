//! Shared test support: real servers, and test doubles whose calls can be held and counted.

pub mod appwrite;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod example;
pub mod gateway;
pub mod greeter;
pub mod history;
pub mod hook;
pub mod hostile;
pub mod https;
pub mod hydra;
pub mod idp;
pub mod introspection;
pub mod keycloak;
pub mod log;
pub mod node;
pub mod oidc_provider;
/// Service that the crate's documentation shows.
pub mod open_socket;
pub mod peer;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod relay;
pub mod rules;
pub mod sentinel;
pub mod tenants;
pub mod tls;
pub mod wire;
pub mod world;

use std::{future::Future, time::Duration};

/// Awaits an event that must happen, with a timeout of 60 seconds that only a hang exceeds.
pub async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), event)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Lets other tasks run, and then other processes. A test waits for servers and runs next to other
/// tests; a loop that only yields to its own tasks takes a processor from all of them. The thread
/// sleeps, not the task, so that a test misses no step of a task and a paused clock does not move.
pub async fn pass() {
    tokio::task::yield_now().await;
    std::thread::sleep(Duration::from_micros(100));
}

/// Moves the clock of a test with one thread, so that connections have been idle for this long.
pub async fn pass_time(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Lets other tasks run until the condition holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            pass().await;
        }
    })
    .await;
}
