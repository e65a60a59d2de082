//! How one server is talked to: shared connections, a circuit breaker, and the server's run ID.

mod breaker;
mod info;
mod link;
mod manager;
mod options;
mod pool;
mod server_registry;

pub(crate) use self::{
    breaker::Access,
    info::{field, identity},
    link::SharedConnection,
    manager::Manager,
    options::{CallOptions, CommandError, Reply, Timeouts, Unavailable},
    pool::ServerPool,
    server_registry::ServerRegistry,
};
