//! What the tests are made of: real servers, and parts that can be held and counted.

pub mod appwrite;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod example;
pub mod greeter;
pub mod hostile;
pub mod hydra;
pub mod idp;
pub mod introspection;
pub mod keycloak;
pub mod log;
/// As the crate's documentation shows it.
pub mod may_stay;
pub mod peer;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod rules;
pub mod sentinel;
pub mod tenants;
pub mod tls;
pub mod wire;
pub mod world;

use std::{future::Future, time::Duration};

/// Awaits what must happen, under a deadline that only a hang exceeds.
pub async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), event)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Lets other tasks run, and then other processes. A test waits for servers and runs next to other
/// tests; a loop that only yields to its own tasks takes a processor from all of them. The thread
/// sleeps, not the task, so that no step of a task goes unseen and a paused clock does not move.
pub async fn pass() {
    tokio::task::yield_now().await;
    std::thread::sleep(Duration::from_micros(100));
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
