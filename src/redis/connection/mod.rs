//! Connections to one server: shared connections, a circuit breaker and the server's run ID.

mod breaker;
mod info;
mod manager;
mod options;
mod pool;
mod server_registry;
mod shared_connection;

pub(crate) use self::{
    breaker::Access,
    info::{field, identity},
    manager::Manager,
    options::{CallOptions, CommandError, Reply, Timeouts, Unavailable},
    pool::ServerPool,
    server_registry::ServerRegistry,
    shared_connection::SharedConnection,
};
