//! Connection pool of one provider, which is replaced after a call that timed out.

use std::{sync::Mutex, time::Duration};

use reqwest::Client;

use super::settings::ClientFactory;
use crate::sync::lock;

/// The kept-alive connections to one provider.
///
/// A connection stays open if its server no longer responds and only the kernel acknowledges. HTTP/2
/// sends every call over it, and HTTP/1.1 may keep several to one host that hangs. Therefore a call
/// that times out replaces the pool: later calls open new connections, and resolve the name of the
/// host again. Calls in flight keep their connections.
pub(super) struct Pool {
    factory: ClientFactory,
    current: Mutex<Generation>,
}

struct Generation {
    client: Client,
    number: u64,
}

impl Pool {
    pub(super) fn new(factory: ClientFactory) -> reqwest::Result<Self> {
        let client = factory.pooled()?;
        Ok(Self {
            factory,
            current: Mutex::new(Generation { client, number: 0 }),
        })
    }

    /// Returns the timeout of a call.
    pub(super) fn timeout(&self) -> Duration {
        self.factory.timeout()
    }

    /// Returns the client of the current pool, and the pool's number.
    pub(super) fn current(&self) -> (Client, u64) {
        let current = lock(&self.current);
        (current.client.clone(), current.number)
    }

    /// Replaces the pool with this number, unless that has happened. A call must time out on a
    /// pool to replace it, so a slow provider causes at most one replacement per timeout.
    pub(super) fn retire(&self, number: u64) {
        let mut current = lock(&self.current);
        if current.number != number {
            return;
        }
        // The same settings were valid before. If the proxy settings of the process have become
        // invalid since, the old pool stays.
        if let Ok(client) = self.factory.pooled() {
            current.client = client;
            current.number += 1;
        }
    }
}
